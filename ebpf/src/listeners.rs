//! Listening sockets' queues and drops: the program of `bpf/listeners.bpf.c`, which is attached to nothing.
//!
//! In: the map of listening sockets that the programs of a capture mode keep. Out: a [`ListenerEvent`] for each socket that listens, in
//! every network namespace. `BPF_PROG_TEST_RUN` runs the program on this CPU, in time proportional to the listeners.

use std::io;

use aya::maps::{MapData, RingBuf};
use aya::programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun};
use aya::{Ebpf, EbpfLoader};

use crate::abi::ListenerEvent;
use crate::error::LoadError;
use crate::heap;
use crate::kernel_btf;
use crate::object::{Compressed, compressed};
use crate::sharing::SharedMaps;

/// The compiled program.
pub(crate) const OBJECT: Compressed = compressed!("listeners");

pub(crate) const SCAN: &str = "scan_listeners";

/// The map that is another object's.
const OWNERS: &str = "owners";

/// The program, loaded. Dropping it takes it out of the kernel.
pub struct Listeners {
    ring: RingBuf<MapData>,
    ebpf: Ebpf,
}

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listeners").finish_non_exhaustive()
    }
}

impl Listeners {
    /// Loads the program over the map of listening sockets among `maps`.
    pub(crate) fn load(maps: &SharedMaps) -> Result<Self, LoadError> {
        let loaded = Self::load_over(maps);
        heap::trim();
        loaded
    }

    fn load_over(maps: &SharedMaps) -> Result<Self, LoadError> {
        let btf = kernel_btf::parsed()?;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .load(OBJECT.unpack()?.bytes())
            .map_err(LoadError::Object)?;
        maps.put_one_into(OWNERS, &ebpf)
            .map_err(|source| LoadError::System {
                what: "sharing the map of listening sockets",
                source,
            })?;
        let failed = |source| LoadError::program(SCAN, source);
        let program: &mut RawTracePoint = ebpf
            .program_mut(SCAN)
            .ok_or(LoadError::Absent(SCAN))?
            .try_into()
            .map_err(failed)?;
        program.load().map_err(failed)?;
        let ring = ebpf.take_map("found").ok_or(LoadError::Absent("found"))?;
        Ok(Self {
            ring: RingBuf::try_from(ring).map_err(|source| LoadError::Map { map: "found", source })?,
            ebpf,
        })
    }

    /// Shows every listening socket. One that begins or ceases to listen meanwhile may be shown, not at all, or twice.
    ///
    /// # Errors
    /// The error of the system call; [`io::ErrorKind::InvalidData`] for bytes that are not a record.
    pub fn scan(&mut self, mut each: impl FnMut(ListenerEvent)) -> io::Result<()> {
        let mut skip = 0;
        loop {
            let next = self.run(skip)?;
            while let Some(item) = self.ring.next() {
                let event = bytemuck::try_pod_read_unaligned(&item)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                each(event);
            }
            // The ring had room for as many more.
            if next <= skip {
                return Ok(());
            }
            skip = next;
        }
    }

    fn run(&self, skip: u32) -> io::Result<u32> {
        let Some(aya::programs::Program::RawTracePoint(program)) = self.ebpf.program(SCAN) else {
            return Err(io::Error::other(format!("the BPF object has no {SCAN}")));
        };
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = u64::from(skip);
        let ran = program.test_run(options).map_err(|error| match error {
            ProgramError::SyscallError(error) => error.io_error,
            error => io::Error::other(error),
        });
        ran.map(|result| result.return_value)
    }
}
