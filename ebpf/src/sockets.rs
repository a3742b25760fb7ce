//! Capture mode `sockets`: loads the programs of `bpf/sockets.bpf.c`, attaches them, and gives out their records.
//!
//! In: state changes of sockets, the window's tick. Out: [`Event`]s. The order of calls is
//! [`Sockets::load`], [`Sockets::adopt`] once, then [`Sockets::drain`] and [`Sockets::scan`] per tick.

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::thread;

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, Iter, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use crate::abi::{Event, Losses};
use crate::capability;
use crate::error::LoadError;
use crate::heap;
use crate::iter::IterLink;
use crate::kfunc::{self, Object};
use crate::ring::{Positions, RingWatch, drain};

/// The compiled programs.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockets.bpf.o"));

/// The kernel gives no more at one read of an iterator (`PAGE_SIZE << 3`). Of what is adopted: scans write to the ring.
const READ_BYTES: usize = 32 * 1024;

/// Programs that scan: the first where the kernel has the function that it calls.
const SCAN_BY_CAST: &str = "scan_by_cast";
const SCAN: &str = "scan_sockets";
const SCAN_TARGET: &str = "bpf_sk_storage_map";

/// What can be chosen.
#[derive(Clone, Copy, Debug)]
pub struct SocketsOptions {
    /// Size of the ring for closed connections and for what scans find: a power of two, at least a page.
    pub ring_buffer_bytes: u32,
}

/// How the sockets were found that had been open before.
#[derive(Debug, Default)]
pub struct Adoption {
    /// Records shown by the walk over every process' files, or why there was none.
    pub files: Option<Result<u64, LoadError>>,
    /// Records shown by the walk over this network namespace's sockets, or why there was none.
    pub sockets: Option<Result<u64, LoadError>>,
}

/// The programs, loaded and attached. Dropping it takes them out of the kernel.
pub struct Sockets {
    lifecycle: RingBuf<MapData>,
    positions: Positions,
    losses: PerCpuArray<MapData, Losses>,
    scan: IterLink,
    scan_program: &'static str,
    adopt_files: Result<IterLink, Option<LoadError>>,
    adopt_own_netns: Result<IterLink, Option<LoadError>>,
    buffer: Vec<u8>,
    /// Whether what was open before has been taken up.
    adopted: bool,
    /// Keeps the state-change program attached, and the maps.
    _ebpf: Ebpf,
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets")
            .field("scan", &self.scan)
            .finish_non_exhaustive()
    }
}

impl Sockets {
    /// Loads the programs and attaches to state changes: from here on every connection that opens is counted.
    ///
    /// # Errors
    /// [`LoadError`] with what is missing. The programs that only adopt sockets may be refused: [`Sockets::adopt`] tells.
    pub fn load(options: &SocketsOptions) -> Result<Self, LoadError> {
        heap::keep_little();
        let loaded = Self::attach(*options);
        heap::give_back();
        loaded
    }

    fn attach(options: SocketsOptions) -> Result<Self, LoadError> {
        capability::check().map_err(|missing| LoadError::Capability(missing.0))?;
        capability::raise_memlock();
        let btf = Btf::from_sys_fs()?;
        let wakeup_bytes = u64::from(options.ring_buffer_bytes / 4);
        let scan_bytes = u64::from(options.ring_buffer_bytes / 2);
        let linked = kfunc::link(OBJECT, kfunc::RDONLY_CAST, &btf);
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .map_max_entries("lifecycle", options.ring_buffer_bytes)
            .override_global("wakeup_bytes", &wakeup_bytes, true)
            .override_global("scan_bytes", &scan_bytes, true)
            .load(linked.as_ref().map_or(OBJECT, Object::bytes))
            .map_err(LoadError::Object)?;

        let by_cast = linked
            .ok()
            .and_then(|_| load_iter(&mut ebpf, &btf, SCAN_BY_CAST, SCAN_TARGET).ok());
        let (scan, scan_program) = match by_cast {
            Some(scan) => (scan, SCAN_BY_CAST),
            None => (load_iter(&mut ebpf, &btf, SCAN, SCAN_TARGET)?, SCAN),
        };
        let storage = match ebpf.map("sockets") {
            Some(Map::SkStorage(map)) => map.fd().as_fd().try_clone_to_owned(),
            _ => return Err(LoadError::Absent("map sockets")),
        };
        let storage = storage.map_err(|source| LoadError::System {
            what: "duplicating a descriptor",
            source,
        })?;
        let scan = IterLink::over_map(scan.as_fd(), storage.as_fd()).map_err(|source| LoadError::System {
            what: "linking the scan to its map",
            source,
        })?;

        let adopt_files = link_iter(&mut ebpf, &btf, "adopt_files", "task_file");
        let adopt_own_netns = link_iter(&mut ebpf, &btf, "adopt_sockets", "tcp");
        // In this order: the second program does what the first was not run for.
        attach_state_change(&mut ebpf, &btf, "on_state_change")?;
        attach_state_change(&mut ebpf, &btf, "on_state_nested")?;

        let lifecycle = ebpf
            .take_map("lifecycle")
            .ok_or(LoadError::Absent("map lifecycle"))?;
        let losses = ebpf.take_map("losses").ok_or(LoadError::Absent("map losses"))?;
        let lifecycle = RingBuf::try_from(lifecycle).map_err(|source| LoadError::Map {
            map: "lifecycle",
            source,
        })?;
        let positions = Positions::new(lifecycle.as_fd()).map_err(|source| LoadError::System {
            what: "mapping a ring's positions",
            source,
        })?;
        Ok(Self {
            lifecycle,
            positions,
            losses: PerCpuArray::try_from(losses).map_err(|source| LoadError::Map {
                map: "losses",
                source,
            })?,
            scan,
            scan_program,
            adopt_files: adopt_files.map_err(Some),
            adopt_own_netns: adopt_own_netns.map_err(Some),
            buffer: vec![0; READ_BYTES],
            adopted: false,
            _ebpf: ebpf,
        })
    }

    /// Takes up the sockets that are open already, counted from now on, and shows the listening ones. Called again, it
    /// finds the processes of connections that were accepted meanwhile, and looks at files alone if it can.
    pub fn adopt(&mut self, mut each: impl FnMut(Event)) -> Adoption {
        // Files first: they tell the process. What has none (orphans, sockets not accepted yet) is found by the second.
        let files = run_iter(&mut self.adopt_files, &mut self.buffer, "adopt_files", &mut each);
        // That walks the kernel's table of all connections, with those that wait for their time to end.
        let all = !mem::replace(&mut self.adopted, true) || !matches!(files, Some(Ok(_)));
        let mut own_netns = || {
            let iter = &mut self.adopt_own_netns;
            run_iter(iter, &mut self.buffer, "adopt_sockets", &mut each)
        };
        let sockets = if all { own_netns() } else { None };
        Adoption { files, sockets }
    }

    /// Name of the program that scans: kernels from 6.2 on take a quicker one.
    pub fn scan_program(&self) -> &'static str {
        self.scan_program
    }

    /// Shows each socket whose totals moved since the last scan, and what else waits in the ring; returns how many records.
    ///
    /// # Errors
    /// What the kernel says; whatever was not shown is shown by the next scan. [`io::ErrorKind::InvalidData`] for bytes that
    /// are no record.
    pub fn scan(&mut self, mut each: impl FnMut(Event)) -> io::Result<u64> {
        let Self {
            scan,
            lifecycle,
            positions,
            ..
        } = self;
        let mut records = 0;
        let mut make_room = || drain(lifecycle, &mut each).map(|drained| records += drained);
        make_room()?;
        let scanned = scan.walk(&mut make_room);
        // A close that another CPU is about to write may stand before what the scan found. It takes a moment.
        let end = positions.produced();
        make_room()?;
        while positions.consumed() < end {
            thread::yield_now();
            make_room()?;
        }
        scanned.map(|()| records)
    }

    /// Shows what waits in the ring: closed and failed connections, changed listeners. Returns how many.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are no record.
    pub fn drain(&mut self, each: impl FnMut(Event)) -> io::Result<u64> {
        drain(&mut self.lifecycle, each)
    }

    /// Tells when a quarter of the ring is full: drain it then, and at every tick besides. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// What the system says.
    pub fn watch(&self) -> io::Result<RingWatch> {
        RingWatch::new(self.lifecycle.as_fd())
    }

    /// What could not be handed on since the programs were loaded, over all CPUs.
    ///
    /// # Errors
    /// [`LoadError::Map`] if the map can't be read.
    pub fn losses(&self) -> Result<Losses, LoadError> {
        let per_cpu = self.losses.get(&0, 0).map_err(|source| LoadError::Map {
            map: "losses",
            source,
        })?;
        Ok(Losses::sum(&per_cpu))
    }
}

fn attach_state_change(ebpf: &mut Ebpf, btf: &Btf, name: &'static str) -> Result<(), LoadError> {
    let failed = |source| LoadError::program(name, source);
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    let program: &mut BtfTracePoint = program.try_into().map_err(failed)?;
    program.load("inet_sock_set_state", btf).map_err(failed)?;
    program.attach().map_err(failed)?;
    Ok(())
}

fn load_iter(
    ebpf: &mut Ebpf,
    btf: &Btf,
    name: &'static str,
    target: &str,
) -> Result<aya::programs::ProgramFd, LoadError> {
    let failed = |source| LoadError::program(name, source);
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    let program: &mut Iter = program.try_into().map_err(failed)?;
    program.load(target, btf).map_err(failed)?;
    let fd = program
        .fd()
        .and_then(|fd| fd.try_clone().map_err(ProgramError::IOError));
    fd.map_err(failed)
}

fn link_iter(ebpf: &mut Ebpf, btf: &Btf, name: &'static str, target: &str) -> Result<IterLink, LoadError> {
    let program = load_iter(ebpf, btf, name, target)?;
    IterLink::new(program.as_fd()).map_err(|source| LoadError::System {
        what: "linking an iterator",
        source,
    })
}

/// Runs an iterator that may not have been loaded; the reason why not is told once.
fn run_iter(
    link: &mut Result<IterLink, Option<LoadError>>,
    buffer: &mut [u8],
    name: &'static str,
    each: impl FnMut(Event),
) -> Option<Result<u64, LoadError>> {
    match link {
        Ok(link) => Some(
            link.run(buffer, each)
                .map_err(|source| LoadError::System { what: name, source }),
        ),
        Err(reason) => reason.take().map(Err),
    }
}
