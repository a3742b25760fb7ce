//! Capture mode `sockets`: loads the programs of `bpf/sockets.bpf.c`, attaches them, and gives out their records.
//!
//! In: state changes of sockets, the window's tick. Out: [`Event`]s. The order of calls is
//! [`Sockets::load`], [`Sockets::adopt`] once, then [`Sockets::drain`] and [`Sockets::scan`] per tick.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, Iter, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use crate::abi::{Event, Losses};
use crate::capability;
use crate::error::LoadError;
use crate::heap;
use crate::iter::IterLink;
use crate::kfunc::{self, Linked};
use crate::misses::{MissCounters, ProgramMisses};
use crate::preemption;
use crate::ring::{Positions, RingWatch, drain};
use crate::sharing::SharedMaps;
use crate::table::TableScan;

/// The compiled programs.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockets.bpf.o"));

/// The kernel gives no more at one read of an iterator (`PAGE_SIZE << 3`). Of what is adopted: scans write to the ring.
const READ_BYTES: usize = 32 * 1024;

/// Programs that scan: the first where the kernel has the function that it calls.
const SCAN_BY_CAST: &str = "scan_by_cast";
const SCAN: &str = "scan_sockets";
const SCAN_ALL: &str = "scan_all";
const SCAN_TARGET: &str = "bpf_sk_storage_map";

/// Programs at state changes, in the order in which they are attached: each does what those before it were not run for.
const STATE_CHANGE: [&str; 2] = ["on_state_change", "on_state_nested"];

/// The same where tracepoints are preemptible: they disable preemption, and it takes a preemption within a few instructions
/// of each to miss a change.
const STATE_CHANGE_GUARDED: [&str; 4] = [
    "on_state_guarded",
    "on_state_missed1",
    "on_state_missed2",
    "on_state_missed3",
];

/// Places in the table where socket storage is the rule: for those to which a namespace's `net.core.optmem_max` refuses it.
const FEW_WITHOUT_STORAGE: u32 = 16_384;

/// Time for which a ring is drained after its programs were detached: one of them may still be
/// running on another CPU, with its record not reserved yet. The kernel waits for such by grace
/// periods, which take some hundredths of a second.
const RETIREMENT: Duration = Duration::from_secs(1);

/// The interval at which a ring is drained while other programs are being loaded.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

/// Options.
#[derive(Clone, Copy, Debug)]
pub struct SocketsOptions {
    /// Size of the ring for closed connections and for what scans find: a power of two, at least a page.
    pub ring_buffer_bytes: u32,
    /// Connections that can be followed at a time on a kernel that refuses the scan over socket storage; those beyond are
    /// counted and not measured.
    pub max_sockets: u32,
}

/// Where the kernel side keeps what is known of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// In the storage of their sockets, scanned by this program.
    SocketStorage(&'static str),
    /// In a table: the kernel refuses iterators over the elements of maps.
    Table,
}

/// The way in which sockets that were already open were found.
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
    scans: Scans,
    store: Store,
    walks: Walks,
    buffer: Vec<u8>,
    misses: MissCounters,
    /// The state that programs with another ring continue with.
    shared: SharedMaps,
    /// Rings before this one, the oldest first.
    retired: Vec<RetiredRing>,
    /// Keeps the programs attached, and the maps.
    ebpf: Ebpf,
}

/// A ring whose programs were detached.
struct RetiredRing {
    ring: RingBuf<MapData>,
    positions: Positions,
    since: Instant,
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Sockets {
    /// Loads the programs and attaches to state changes: from here on every connection that opens is counted.
    ///
    /// # Errors
    /// [`LoadError`] with the missing requirement. The programs that only adopt sockets may be
    /// refused: [`Sockets::adopt`] reports it.
    pub fn load(options: &SocketsOptions) -> Result<Self, LoadError> {
        heap::keep_little();
        let loaded = Self::attach(*options, None);
        heap::give_back();
        loaded
    }

    /// Exchanges the ring for one of another size, without a gap: programs with the new one are
    /// attached beside those with the old one, which are detached after that, and both share the
    /// state of every socket. The contents of the old ring are read first.
    ///
    /// A state change that both see is reported by the first and found done by the second, but for the duration of a handshake
    /// that ends just then, which is lost.
    ///
    /// Loading takes longer than a small ring can wait for its reader, so what comes meanwhile is shown.
    ///
    /// # Errors
    /// [`LoadError`]; then everything is as before.
    pub fn resize_ring(
        &mut self,
        options: &SocketsOptions,
        mut each: impl FnMut(Event),
    ) -> Result<(), LoadError> {
        heap::keep_little();
        let (options, shared, lifecycle) = (*options, &self.shared, &mut self.lifecycle);
        let loaded = thread::scope(|scope| {
            let loading = scope.spawn(|| Self::attach(options, Some(shared)));
            while !loading.is_finished() {
                // Bytes that are no record are an error of the next scan.
                if drain(lifecycle, &mut each).is_err() {
                    break;
                }
                thread::sleep(DRAIN_INTERVAL);
            }
            loading
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        heap::give_back();
        let mut new = loaded?;
        new.walks.adopted = self.walks.adopted;
        // Entries of the table remember the number of the scan that looked at them last.
        mem::swap(&mut new.scans.table, &mut self.scans.table);
        let old = mem::replace(self, new);
        let Self {
            lifecycle,
            positions,
            retired,
            ..
        } = old;
        // With the rest the old programs have gone.
        self.retired = retired;
        self.retired.push(RetiredRing {
            ring: lifecycle,
            positions,
            since: Instant::now(),
        });
        Ok(())
    }

    fn attach(options: SocketsOptions, known: Option<&SharedMaps>) -> Result<Self, LoadError> {
        capability::check().map_err(|missing| LoadError::Capability(missing.0))?;
        capability::raise_memlock();
        let btf = Btf::from_sys_fs()?;
        let wakeup_bytes = u64::from(options.ring_buffer_bytes / 4);
        let scan_bytes = u64::from(options.ring_buffer_bytes / 2);
        let Linked {
            object,
            has_cast,
            has_preempt,
        } = kfunc::link(OBJECT, &btf);
        let not_shared = |source| LoadError::System {
            what: "sharing maps",
            source,
        };
        let load = |has_storage: bool, table_entries: u32| -> Result<Ebpf, LoadError> {
            let ebpf = EbpfLoader::new()
                .btf(Some(&btf))
                .map_max_entries("lifecycle", options.ring_buffer_bytes)
                .map_max_entries("table", table_entries)
                .override_global("wakeup_bytes", &wakeup_bytes, true)
                .override_global("scan_bytes", &scan_bytes, true)
                .override_global("has_storage", &u8::from(has_storage), true)
                .load(object.bytes())
                .map_err(LoadError::Object)?;
            if let Some(known) = known {
                known.put_into(&ebpf).map_err(not_shared)?;
            }
            Ok(ebpf)
        };
        // Whether there is a scan over storage shows only when it is loaded, and the other programs must know.
        let mut ebpf = load(true, FEW_WITHOUT_STORAGE)?;
        let (scans, store) = match StorageScans::load(&mut ebpf, &btf, has_cast) {
            Ok((storage, program)) => {
                let table = has_cast.then(|| TableScan::load(&mut ebpf).ok()).flatten();
                let storage = Some(storage);
                (Scans { storage, table }, Store::SocketStorage(program))
            }
            Err(refused) if has_cast => {
                drop(ebpf);
                ebpf = load(false, options.max_sockets)?;
                // If the table can't be scanned either, the first reason is the one to report.
                let table = Some(TableScan::load(&mut ebpf).map_err(|_| refused)?);
                let scans = Scans { storage: None, table };
                (scans, Store::Table)
            }
            Err(refused) => return Err(refused),
        };

        let walks = Walks::load(&mut ebpf, &btf);
        let guarded = has_preempt && preemption::tracepoints_are_preemptible();
        let names = attach_state_changes(&mut ebpf, &btf, guarded)?;
        let misses = MissCounters::new(&ebpf, names.iter().copied());
        let shared = SharedMaps::of(&ebpf, &["lifecycle"]).map_err(not_shared)?;

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
            scans,
            store,
            walks,
            buffer: vec![0; READ_BYTES],
            misses,
            shared,
            retired: Vec::new(),
            ebpf,
        })
    }

    /// Picks up the sockets that are open already, counted from now on, and shows the listening ones. Called again, it
    /// finds the processes of connections that were accepted meanwhile, and looks only at files if it can.
    pub fn adopt(&mut self, each: impl FnMut(Event)) -> Adoption {
        self.walks.run(&mut self.buffer, each)
    }

    /// Where the kernel side keeps what is known of connections.
    pub const fn store(&self) -> Store {
        self.store
    }

    /// Shows each socket whose totals moved since the last scan, and what else waits in the ring; returns how many records.
    ///
    /// # Errors
    /// The error of the system call; the next scan reports what this one did not. [`io::ErrorKind::InvalidData`] for bytes that
    /// are no record.
    pub fn scan(&mut self, each: impl FnMut(Event)) -> io::Result<u64> {
        self.walk(false, each)
    }

    /// Shows every open connection, moved or not, with the event `FLOW_OPEN`; as [`Sockets::scan`] else. A connection that
    /// closes meanwhile is shown closed, after it was shown open or without.
    ///
    /// # Errors
    /// As [`Sockets::scan`]; then some connections were not shown.
    pub fn scan_census(&mut self, each: impl FnMut(Event)) -> io::Result<u64> {
        self.walk(true, each)
    }

    /// Shows what waits in the ring: closed and failed connections, changed listeners. Returns how many.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are no record.
    pub fn drain(&mut self, mut each: impl FnMut(Event)) -> io::Result<u64> {
        self.drain_retired(&mut each)?;
        drain(&mut self.lifecycle, each)
    }

    /// Shows what is left in the rings before this one.
    fn drain_retired(&mut self, mut each: impl FnMut(Event)) -> io::Result<()> {
        let now = Instant::now();
        for RetiredRing { ring, positions, .. } in &mut self.retired {
            drain(ring, &mut each)?;
            // One that is being written on another CPU takes a moment.
            while positions.consumed() < positions.produced() {
                thread::yield_now();
                drain(ring, &mut each)?;
            }
        }
        self.retired
            .retain(|retired| now.duration_since(retired.since) < RETIREMENT);
        Ok(())
    }

    /// Watches for the moment when a quarter of the ring is full: drain it then, and at every tick. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn watch(&self) -> io::Result<RingWatch> {
        RingWatch::new(self.lifecycle.as_fd())
    }

    /// Losses since the programs were loaded, over all CPUs.
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

    /// Runs of each program that the kernel skipped at state changes. A change is missed only if all of them were skipped, so the
    /// last one's count is an upper bound of the changes missed.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn program_misses(&self) -> io::Result<Vec<ProgramMisses>> {
        self.misses.read()
    }

    /// Runs the scans to their end: shows what they find, and what else waits in the ring, in order.
    fn walk(&mut self, census: bool, mut each: impl FnMut(Event)) -> io::Result<u64> {
        self.drain_retired(&mut each)?;
        let Self {
            scans,
            lifecycle,
            positions,
            ebpf,
            ..
        } = self;
        let mut records = 0;
        let mut make_room = || drain(lifecycle, &mut each).map(|drained| records += drained);
        make_room()?;
        let scanned = scans.walk(ebpf, census, &mut make_room);
        // A close that another CPU is about to write may stand before what the scan found. It takes a moment.
        let end = positions.produced();
        make_room()?;
        while positions.consumed() < end {
            thread::yield_now();
            make_room()?;
        }
        scanned.map(|()| records)
    }
}

/// The scans of both places where connections are kept.
#[derive(Debug)]
struct Scans {
    storage: Option<StorageScans>,
    table: Option<TableScan>,
}

impl Scans {
    fn walk(
        &mut self,
        ebpf: &Ebpf,
        census: bool,
        mut make_room: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(storage) = &self.storage {
            let link = if census { &storage.census } else { &storage.scan };
            link.walk(&mut make_room)?;
        }
        match &mut self.table {
            Some(table) => table.walk(ebpf, census, make_room),
            None => Ok(()),
        }
    }
}

/// Iterators over socket storage.
#[derive(Debug)]
struct StorageScans {
    scan: IterLink,
    /// Shows every open connection.
    census: IterLink,
}

impl StorageScans {
    /// Returns them with the name of the program that scans.
    fn load(ebpf: &mut Ebpf, btf: &Btf, has_cast: bool) -> Result<(Self, &'static str), LoadError> {
        let by_cast = has_cast
            .then(|| load_iter(ebpf, btf, SCAN_BY_CAST, SCAN_TARGET).ok())
            .flatten();
        let (scan, name) = match by_cast {
            Some(scan) => (scan, SCAN_BY_CAST),
            None => (load_iter(ebpf, btf, SCAN, SCAN_TARGET)?, SCAN),
        };
        let census = load_iter(ebpf, btf, SCAN_ALL, SCAN_TARGET)?;
        let [scan, census] = [scan, census].map(|program| link_to_storage(ebpf, program.as_fd()));
        Ok((
            Self {
                scan: scan?,
                census: census?,
            },
            name,
        ))
    }
}

/// Walks over all sockets that exist; which of them were not loaded, and why, is reported once.
#[derive(Debug)]
struct Walks {
    adopt_files: Result<IterLink, Option<LoadError>>,
    adopt_sockets: Result<IterLink, Option<LoadError>>,
    revisit_files: Result<IterLink, Option<LoadError>>,
    revisit_sockets: Result<IterLink, Option<LoadError>>,
    /// Whether what was open before has been picked up.
    adopted: bool,
}

impl Walks {
    fn load(ebpf: &mut Ebpf, btf: &Btf) -> Self {
        let mut link = |name, target| link_iter(ebpf, btf, name, target).map_err(Some);
        Self {
            adopt_files: link("adopt_files", "task_file"),
            adopt_sockets: link("adopt_sockets", "tcp"),
            revisit_files: link("revisit_files", "task_file"),
            revisit_sockets: link("revisit_sockets", "tcp"),
            adopted: false,
        }
    }

    fn run(&mut self, buffer: &mut [u8], mut each: impl FnMut(Event)) -> Adoption {
        if !mem::replace(&mut self.adopted, true) {
            // Files first: they show the process. The second walk finds what has none: orphans, sockets not accepted yet.
            return Adoption {
                files: run_iter(&mut self.adopt_files, buffer, "adopt_files", &mut each),
                sockets: run_iter(&mut self.adopt_sockets, buffer, "adopt_sockets", &mut each),
            };
        }
        let files = run_iter(&mut self.revisit_files, buffer, "revisit_files", &mut each);
        // The walk over sockets goes through the kernel's table of all connections, with those in TIME_WAIT.
        let sockets = if matches!(files, Some(Ok(_))) {
            None
        } else {
            run_iter(&mut self.revisit_sockets, buffer, "revisit_sockets", &mut each)
        };
        Adoption { files, sockets }
    }
}

fn link_to_storage(ebpf: &Ebpf, program: BorrowedFd<'_>) -> Result<IterLink, LoadError> {
    let Some(Map::SkStorage(storage)) = ebpf.map("sockets") else {
        return Err(LoadError::Absent("map sockets"));
    };
    IterLink::over_map(program, storage.fd().as_fd()).map_err(|source| LoadError::System {
        what: "linking the scan to its map",
        source,
    })
}

/// Attaches the programs at state changes; returns their names. Those that disable preemption are optional: a kernel that
/// refuses them has the plain ones.
fn attach_state_changes(
    ebpf: &mut Ebpf,
    btf: &Btf,
    guarded: bool,
) -> Result<&'static [&'static str], LoadError> {
    let mut load = |names: &'static [&'static str]| {
        names
            .iter()
            .try_for_each(|name| load_state_change(ebpf, btf, name))
            .map(|()| names)
    };
    let loaded = if guarded {
        load(&STATE_CHANGE_GUARDED).or_else(|_| load(&STATE_CHANGE))
    } else {
        load(&STATE_CHANGE)
    }?;
    for name in loaded {
        attach_state_change(ebpf, name)?;
    }
    Ok(loaded)
}

fn load_state_change(ebpf: &mut Ebpf, btf: &Btf, name: &'static str) -> Result<(), LoadError> {
    let failed = |source| LoadError::program(name, source);
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    let program: &mut BtfTracePoint = program.try_into().map_err(failed)?;
    program.load("inet_sock_set_state", btf).map_err(failed)
}

fn attach_state_change(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let failed = |source| LoadError::program(name, source);
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    let program: &mut BtfTracePoint = program.try_into().map_err(failed)?;
    program.attach().map(drop).map_err(failed)
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

/// Runs an iterator that may not have been loaded; the reason is logged once.
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
