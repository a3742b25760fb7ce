//! Cgroups as they come and go: loads the programs of `bpf/cgroups.bpf.c`, attaches them, and gives out their records.
//!
//! In: creations and removals of cgroups of v2, from the kernel's tracepoints. Out: [`CgroupEvent`]s in order. A cgroup's creation
//! is in the ring before any connection of a process in it can be.

use std::io;
use std::os::fd::AsFd;

use aya::maps::{Array, MapData, RingBuf};
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfLoader};

use crate::abi::CgroupEvent;
use crate::capability;
use crate::error::LoadError;
use crate::heap;
use crate::kernel_btf;
use crate::object::{Compressed, compressed};
use crate::ring::RingWatch;

/// The compiled programs.
pub(crate) const OBJECT: Compressed = compressed!("cgroups");

/// Programs, each with its tracepoint.
const PROGRAMS: [(&str, &str); 2] = [
    ("cgroup_created", "cgroup_mkdir"),
    ("cgroup_removed", "cgroup_rmdir"),
];

/// The programs, loaded and attached. Dropping it takes them out of the kernel.
pub struct Cgroups {
    ring: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    /// Keeps the programs attached, and the maps.
    _ebpf: Ebpf,
}

impl std::fmt::Debug for Cgroups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cgroups").finish_non_exhaustive()
    }
}

impl Cgroups {
    /// Loads and attaches.
    ///
    /// # Errors
    /// [`LoadError`] with what is missing.
    pub fn load() -> Result<Self, LoadError> {
        let loaded = Self::attach();
        heap::trim();
        loaded
    }

    fn attach() -> Result<Self, LoadError> {
        capability::check().map_err(|missing| LoadError::Capability(missing.0))?;
        capability::raise_memlock();
        let btf = kernel_btf::parsed()?;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .load(OBJECT.unpack()?.bytes())
            .map_err(LoadError::Object)?;
        for (name, tracepoint) in PROGRAMS {
            let failed = |source| LoadError::program(name, source);
            let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
            let program: &mut RawTracePoint = program.try_into().map_err(failed)?;
            program.load().map_err(failed)?;
            program.attach(tracepoint).map_err(failed)?;
        }
        let mut take = |map| ebpf.take_map(map).ok_or(LoadError::Absent(map));
        let (ring, lost) = (take("cgroups")?, take("lost_cgroups")?);
        let in_map = |map| move |source| LoadError::Map { map, source };
        Ok(Self {
            ring: RingBuf::try_from(ring).map_err(in_map("cgroups"))?,
            lost: Array::try_from(lost).map_err(in_map("lost_cgroups"))?,
            _ebpf: ebpf,
        })
    }

    /// Shows what has happened since the last call.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are not a record.
    pub fn drain(&mut self, mut each: impl FnMut(CgroupEvent<'_>)) -> io::Result<()> {
        while let Some(item) = self.ring.next() {
            let event = CgroupEvent::read(&item);
            each(event.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?);
        }
        Ok(())
    }

    /// Waits for the moment when a quarter of the ring is full: drain it then. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn watch(&self) -> io::Result<RingWatch> {
        RingWatch::new(self.ring.as_fd())
    }

    /// Events for which the ring had no room since the programs were loaded.
    ///
    /// # Errors
    /// [`LoadError::Map`] if the map can't be read.
    pub fn lost(&self) -> Result<u64, LoadError> {
        self.lost.get(&0, 0).map_err(|source| LoadError::Map {
            map: "lost_cgroups",
            source,
        })
    }
}
