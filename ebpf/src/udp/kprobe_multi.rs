//! Kprobes through fprobe (`BPF_TRACE_KPROBE_MULTI`, Linux 5.18), which aya 0.14 can neither load nor attach.
//!
//! In: the object, whose maps aya has made. Out: a link per program. The object is read once more, for its
//! instructions, and these are linked with the maps that are there.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use aya::maps::Map;
use aya::{Btf, Ebpf};
use aya_obj::Object;

use crate::bpf_call::{bpf_descriptor, raw};
use crate::error::LoadError;

/// `enum bpf_cmd`, `enum bpf_prog_type` and `enum bpf_attach_type`: include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_TRACE_KPROBE_MULTI: u32 = 42;

/// Bytes of the verifier's log.
const LOG_BYTES: usize = 1 << 16;

/// The beginning of `bpf_attr` of `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `bpf_attr.link_create` for functions of the kernel, by name.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    multi_flags: u32,
    count: u32,
    symbols: u64,
    addresses: u64,
    cookies: u64,
}

/// The object's programs, linked with the maps of an [`Ebpf`].
pub(super) struct Probes {
    object: Object,
}

impl Probes {
    /// Of `object`, which `ebpf` was made from.
    ///
    /// # Errors
    /// [`LoadError`] if it can't be linked.
    pub(super) fn link(object: &[u8], ebpf: &Ebpf, btf: &Btf) -> Result<Self, LoadError> {
        let unlinked = |error: String| LoadError::System {
            what: "linking the programs of kprobes",
            source: io::Error::other(error),
        };
        let mut object = Object::parse(object).map_err(|error| unlinked(error.to_string()))?;
        object
            .relocate_btf(btf)
            .map_err(|error| unlinked(error.to_string()))?;
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps = object.maps.clone();
        let with_fd = maps.iter().filter_map(|(name, map)| {
            let fd = descriptor(ebpf.map(name)?)?;
            Some((name.as_str(), fd, map))
        });
        object
            .relocate_maps(with_fd, &text)
            .map_err(|error| unlinked(error.to_string()))?;
        object
            .relocate_calls(&text)
            .map_err(|error| unlinked(error.to_string()))?;
        Ok(Self { object })
    }

    /// Loads the program `name` and attaches it to `function`. It is detached when both descriptors are closed.
    ///
    /// # Errors
    /// [`LoadError`] of the kernel.
    pub(super) fn attach(&self, name: &'static str, function: &str) -> Result<[OwnedFd; 2], LoadError> {
        let program = self.load(name)?;
        let symbol = CString::new(function).map_err(|_| LoadError::Absent(name))?;
        let symbols = [symbol.as_ptr() as u64];
        let attributes = LinkCreate {
            prog_fd: raw(program.as_fd()),
            target_fd: 0,
            attach_type: BPF_TRACE_KPROBE_MULTI,
            flags: 0,
            multi_flags: 0,
            count: 1,
            symbols: symbols.as_ptr() as u64,
            addresses: 0,
            cookies: 0,
        };
        // SAFETY: `attributes` has the layout of `bpf_attr.link_create`; the names that it points to live on this stack.
        let link = unsafe { bpf_descriptor(BPF_LINK_CREATE, &attributes) };
        let link = link.map_err(|source| LoadError::System {
            what: "attaching a program through fprobe",
            source,
        })?;
        Ok([program, link])
    }

    fn load(&self, name: &'static str) -> Result<OwnedFd, LoadError> {
        let program = self.object.programs.get(name).ok_or(LoadError::Absent(name))?;
        let function = self.object.functions.get(&program.function_key());
        let instructions = &function.ok_or(LoadError::Absent(name))?.instructions;
        let mut log = vec![0_u8; LOG_BYTES];
        let mut short_name = [0; 16];
        for (to, from) in short_name[..15].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let mut attributes = ProgLoad {
            prog_type: BPF_PROG_TYPE_KPROBE,
            insn_cnt: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
            insns: instructions.as_ptr() as u64,
            license: program.license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
            prog_name: short_name,
            prog_ifindex: 0,
            expected_attach_type: BPF_TRACE_KPROBE_MULTI,
        };
        // SAFETY: `attributes` has the layout of the beginning of `bpf_attr`; the instructions and the license live as long as
        // `self`.
        let loaded = unsafe { bpf_descriptor(BPF_PROG_LOAD, &attributes) };
        let Err(source) = loaded else {
            return loaded.map_err(|source| LoadError::System {
                what: "loading a program",
                source,
            });
        };
        attributes.log_level = 1;
        attributes.log_size = u32::try_from(LOG_BYTES).unwrap_or(0);
        attributes.log_buf = log.as_mut_ptr() as u64;
        // SAFETY: as above; the log lives on this stack.
        let _ = unsafe { bpf_descriptor(BPF_PROG_LOAD, &attributes) };
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(LOG_BYTES);
        Err(LoadError::Verifier {
            program: name,
            source,
            log: String::from_utf8_lossy(&log[..end]).trim_end().to_owned(),
        })
    }
}

fn descriptor(map: &Map) -> Option<RawFd> {
    let (Map::Array(map) | Map::HashMap(map) | Map::PerCpuArray(map) | Map::RingBuf(map)) = map else {
        return None;
    };
    Some(map.fd().as_fd().as_raw_fd())
}
