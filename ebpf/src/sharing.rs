//! Maps that the programs of two objects share, so that one set of programs continues with what the other knows.
//!
//! In: an object whose maps have been made and whose programs have not been loaded yet; the maps of another one. aya can share maps
//! through pins only, for which there must be a file system that may be written. So descriptors are exchanged: programs name
//! their maps by descriptor, and the kernel looks at these when a program is loaded (`resolve_pseudo_ldimm64()`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya::Ebpf;
use aya::maps::Map;

use crate::bpf_call::{bpf, raw};
use crate::error::LoadError;
use crate::table_names::TableNames;

/// `enum bpf_cmd`: include/uapi/linux/bpf.h.
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;

/// `bpf_attr` of that command.
#[repr(C)]
struct NextKey {
    map_fd: u32,
    pad: u32,
    key: u64,
    next: u64,
}

/// The error of maps that can't be shared.
pub(crate) fn not_shared(source: io::Error) -> LoadError {
    LoadError::System {
        what: "sharing maps",
        source,
    }
}

/// Maps by name.
#[derive(Debug)]
pub(crate) struct SharedMaps(Vec<(String, OwnedFd)>);

impl SharedMaps {
    /// Those maps of `ebpf` that hold state; not `but`, and not constants, which each object has its own of.
    ///
    /// # Errors
    /// The error of duplicating the descriptor.
    pub(crate) fn of(ebpf: &Ebpf, but: &[&str]) -> io::Result<Self> {
        let holds_state = |name: &str| !name.starts_with(".rodata") && !but.contains(&name);
        let maps = ebpf.maps().filter(|(name, _)| holds_state(name));
        let duplicate = |(name, map): (&str, &Map)| {
            let fd = descriptor(map)?.try_clone_to_owned();
            Some(fd.map(|fd| (name.to_owned(), fd)))
        };
        maps.filter_map(duplicate).collect::<io::Result<_>>().map(Self)
    }

    /// Makes the programs of `ebpf` use these maps in place of its own of the same names, but for `tables`: pairs of a
    /// table's name in `ebpf` and here. Before any of the programs is loaded.
    ///
    /// # Errors
    /// The error of the system call.
    pub(crate) fn put_into(
        &self,
        ebpf: &Ebpf,
        names: &TableNames,
        tables: &[(&'static str, &'static str)],
    ) -> io::Result<()> {
        let is_table = |name: &str| name == names.newest || names.older.contains(&name);
        let others = self.0.iter().map(|(name, _)| &**name);
        let others = others.filter(|name| !is_table(name)).map(|name| (name, name));
        for (name, shared) in others.chain(tables.iter().copied()) {
            if let (Some(own), Some(shared)) = (ebpf.map(name).and_then(descriptor), self.get(shared)) {
                replace(own, shared)?;
            }
        }
        Ok(())
    }

    /// The same with one map.
    ///
    /// # Errors
    /// The error of the system call; [`io::ErrorKind::NotFound`] if either side has no such map.
    pub(crate) fn put_one_into(&self, name: &str, ebpf: &Ebpf) -> io::Result<()> {
        let shared = self.0.iter().find(|(shared, _)| shared == name);
        match (shared, ebpf.map(name).and_then(descriptor)) {
            (Some((_, shared)), Some(own)) => replace(own, shared.as_fd()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Whether a map with keys of 8 bytes has no entry.
    ///
    /// # Errors
    /// The error of the system call.
    pub(crate) fn is_empty(&self, name: &str) -> io::Result<bool> {
        let Some(map) = self.get(name) else {
            return Ok(true);
        };
        let mut next = 0_u64;
        let attributes = NextKey {
            map_fd: raw(map),
            pad: 0,
            key: 0,
            next: (&raw mut next) as u64,
        };
        // SAFETY: the kernel reads the attributes and writes a key of 8 bytes to `next`, both of which live until it returns.
        match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &raw const attributes) } {
            Ok(_) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn get(&self, name: &str) -> Option<BorrowedFd<'_>> {
        let mut maps = self.0.iter();
        maps.find(|(of, _)| of == name).map(|(_, fd)| fd.as_fd())
    }
}

fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(map)
        | Map::HashMap(map)
        | Map::LruHashMap(map)
        | Map::PerCpuArray(map)
        | Map::SkStorage(map) => Some(map.fd().as_fd()),
        // The objects have no others but rings.
        _ => None,
    }
}

/// Lets the descriptor `own` be one of what `shared` is.
fn replace(own: BorrowedFd<'_>, shared: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: both are open. The number of `own` stays open, and its owner's: it stands for another map of the same type.
        let result = unsafe { libc::dup3(shared.as_raw_fd(), own.as_raw_fd(), libc::O_CLOEXEC) };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
