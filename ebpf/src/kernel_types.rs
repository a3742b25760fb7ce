//! Names in the running kernel's type information (BTF) that aya doesn't give out: values of enumerations, and how
//! many arguments a tracepoint has.
//!
//! In: `/sys/kernel/btf/vmlinux`, or bytes of the same format (`include/uapi/linux/btf.h`). Reading it takes some
//! milliseconds and as much memory as the file has, so it is done once and dropped.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The running kernel's types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// `BTF_KIND_*`.
const KIND_PTR: u32 = 2;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC_PROTO: u32 = 13;

/// Bytes of `struct btf_type`, and of one member of an enumeration.
const TYPE_BYTES: usize = 12;
const ENUM_BYTES: usize = 8;

/// Type information.
#[derive(Debug)]
pub(crate) struct KernelTypes {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Offset of each type in `types`; the first has id 1.
    offsets: Vec<usize>,
}

/// One type: its own words, and the offset of what follows them.
#[derive(Clone, Copy, Debug)]
struct Type {
    name: u32,
    info: u32,
    /// `size` or `type`.
    reference: u32,
    rest: usize,
}

impl Type {
    const fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// Number of members.
    const fn members(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Bytes that follow the type itself; `None` for a kind that is not known.
    const fn rest_bytes(self) -> Option<usize> {
        let members = self.members();
        match self.kind() {
            // INT, VAR, DECL_TAG.
            1 | 14 | 17 => Some(4),
            // ARRAY.
            3 => Some(12),
            // STRUCT, UNION, DATASEC, ENUM64.
            4 | 5 | 15 | 19 => Some(members * 12),
            KIND_ENUM => Some(members * ENUM_BYTES),
            KIND_FUNC_PROTO => Some(members * 8),
            // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG.
            KIND_PTR | 7 | KIND_TYPEDEF | 9..=12 | 16 | 18 => Some(0),
            _ => None,
        }
    }
}

impl KernelTypes {
    /// Reads the running kernel's types; `None` if there are none, or they can't be parsed.
    pub(crate) fn load() -> Option<Self> {
        Self::parse(&fs::read(Path::new(VMLINUX)).ok()?)
    }

    /// Parses `bytes`; `None` if they are cut short or have a kind of type that is not known.
    fn parse(bytes: &[u8]) -> Option<Self> {
        // struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len.
        let header = usize::try_from(word(bytes, 4)?).ok()?;
        let part = |at: usize| {
            let offset = header.checked_add(usize::try_from(word(bytes, at)?).ok()?)?;
            let length = usize::try_from(word(bytes, at + 4)?).ok()?;
            bytes.get(offset..offset.checked_add(length)?)
        };
        let mut read = Self {
            types: part(8)?.to_vec(),
            strings: part(16)?.to_vec(),
            offsets: Vec::new(),
        };
        let mut offset = 0;
        while offset < read.types.len() {
            read.offsets.push(offset);
            let found = read.type_at(offset)?;
            offset = found.rest.checked_add(found.rest_bytes()?)?;
        }
        Some(read)
    }

    /// The members of every enumeration called `name`, by value; a value that has two names keeps the first.
    pub(crate) fn enumeration(&self, name: &str) -> BTreeMap<u32, String> {
        let mut values = BTreeMap::new();
        for found in self.named(KIND_ENUM, name) {
            for index in 0..found.members() {
                let at = found.rest + index * ENUM_BYTES;
                let member = word(&self.types, at).and_then(|name| self.string(name));
                if let (Some(member), Some(value)) = (member, word(&self.types, at + 4)) {
                    values.entry(value).or_insert_with(|| member.to_owned());
                }
            }
        }
        values
    }

    /// Number of arguments of a tracepoint; `None` if the kernel has no such tracepoint.
    pub(crate) fn tracepoint_arguments(&self, tracepoint: &str) -> Option<usize> {
        // typedef void (*btf_trace_NAME)(void *data, ...)
        let typedef = self
            .named(KIND_TYPEDEF, &format!("btf_trace_{tracepoint}"))
            .next()?;
        let pointer = self.by_id(typedef.reference)?;
        let function = self.by_id(pointer.reference)?;
        (function.kind() == KIND_FUNC_PROTO).then(|| function.members().saturating_sub(1))
    }

    fn named<'a>(&'a self, kind: u32, name: &'a str) -> impl Iterator<Item = Type> + 'a {
        let types = self.offsets.iter().filter_map(|&offset| self.type_at(offset));
        types.filter(move |found| found.kind() == kind && self.string(found.name) == Some(name))
    }

    fn by_id(&self, id: u32) -> Option<Type> {
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        self.type_at(*self.offsets.get(index)?)
    }

    fn type_at(&self, offset: usize) -> Option<Type> {
        Some(Type {
            name: word(&self.types, offset)?,
            info: word(&self.types, offset + 4)?,
            reference: word(&self.types, offset + 8)?,
            rest: offset + TYPE_BYTES,
        })
    }

    fn string(&self, offset: u32) -> Option<&str> {
        let bytes = self.strings.get(usize::try_from(offset).ok()?..)?;
        std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_names_of_drop_reasons_are_those_that_bpftool_reads() {
        let dump = Command::new("bpftool")
            .args(["btf", "dump", "file", VMLINUX])
            .output();
        let (Some(types), Ok(dump)) = (KernelTypes::load(), dump) else {
            assert!(
                std::env::var_os("FLOWTAP_TEST_REQUIRE_ALL").is_none(),
                "no BTF, or no bpftool"
            );
            eprintln!("SKIPPED: no BTF, or bpftool can't be run");
            return;
        };
        let text = String::from_utf8(dump.stdout).unwrap();
        let mut lines = text
            .lines()
            .skip_while(|line| !line.contains("] ENUM 'skb_drop_reason'"))
            .skip(1);
        let mut expected = BTreeMap::new();
        for line in lines.by_ref().take_while(|line| line.starts_with('\t')) {
            // "	'SKB_DROP_REASON_NO_SOCKET' val=3"
            let (name, value) = line.trim().split_once(" val=").unwrap();
            let value = value.parse::<u32>().unwrap();
            expected
                .entry(value)
                .or_insert_with(|| name.trim_matches('\'').to_owned());
        }
        assert!(!expected.is_empty());
        assert_eq!(types.enumeration("skb_drop_reason"), expected);
        let arguments = types.tracepoint_arguments("kfree_skb");
        assert!(matches!(arguments, Some(2..=4)), "{arguments:?}");
        assert_eq!(types.tracepoint_arguments("no_such_tracepoint"), None);
    }

    #[test]
    fn types_that_are_cut_short_are_not_read() {
        let Some(whole) = fs::read(VMLINUX)
            .ok()
            .filter(|whole| KernelTypes::parse(whole).is_some())
        else {
            return;
        };
        for length in [0, 3, 8, 24, 100, whole.len() / 2, whole.len() - 1] {
            assert!(KernelTypes::parse(&whole[..length]).is_none(), "{length}");
        }
        // Not a crash, whatever the header says.
        let mut huge = whole[..64].to_vec();
        huge[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(KernelTypes::parse(&huge).is_none());
    }
}
