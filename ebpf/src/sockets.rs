//! Capture mode `sockets`: loads the programs of `bpf/sockets.bpf.c`, attaches them, and gives out their records.
//!
//! In: state changes of sockets, the window's tick. Out: [`Event`]s. The order of calls is
//! [`Sockets::load`], [`Sockets::adopt`] once, then [`Sockets::drain`] and [`Sockets::scan`] per tick.
//!
//! With [`SocketsOptions::per_segment`] the same object captures for mode `events`: there are no scans but for a census. Both remember
//! the same of a connection in the same maps, so [`Sockets::reload`] changes from one to the other without a gap.

mod programs;
mod scans;
mod walks;

use std::io;
use std::mem;

use aya::{Btf, Ebpf, EbpfLoader};

use self::programs::{DESTROYED, attach_accept, attach_state_changes, attach_tracepoint, load_tracepoint};
use self::scans::{BEGIN_SCAN, Scans, StorageScans};
pub use self::walks::Adoption;
use self::walks::Walks;
use crate::abi::{Event, Losses};
use crate::capability;
use crate::control::Control;
use crate::error::LoadError;
use crate::heap;
use crate::jiffies;
use crate::kernel_btf;
use crate::kfunc::{self, Linked};
use crate::listeners::Listeners;
use crate::losses::LossCounters;
use crate::misses::{MissCounters, ProgramMisses};
use crate::object::{Compressed, Object, compressed};
use crate::preemption;
use crate::replace::{Known, RingsInUse, await_detached, load_meanwhile};
use crate::ring::{Ring, RingWatch, Rings, least_ring_bytes};
use crate::sharing::{SharedMaps, not_shared};
use crate::table::{self, TableScan};
use crate::table_names::TableNames;
use crate::tables::Tables;

/// The compiled programs.
pub(crate) const OBJECT: Compressed = compressed!("sockets");

/// The kernel gives no more at one read of an iterator (`PAGE_SIZE << 3`). Of what is adopted: scans write to the ring.
const READ_BYTES: usize = 32 * 1024;

/// The least part of a ring that is kept free for scans: room for some records.
const LEAST_SCAN_SHARE: u32 = 1024;

/// The program at received segments.
const SEGMENT: &str = "on_tcp_probe";

/// Places in the table where socket storage is the rule: for those to which a namespace's `net.core.optmem_max` refuses it.
const FEW_WITHOUT_STORAGE: u32 = 16_384;

/// The tables of connections.
const TABLES: TableNames = TableNames {
    newest: "table",
    older: [
        "table_older1",
        "table_older2",
        "table_older3",
        "table_older4",
        "table_older5",
        "table_older6",
    ],
};

/// Options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketsOptions {
    /// Size of the ring for closed connections and for what scans find, and of that of segments: a power of two, at least a
    /// page.
    pub ring_buffer_bytes: u32,
    /// Connections that can be followed at a time on a kernel that refuses the scan over socket storage; those beyond are
    /// counted and not measured.
    pub max_sockets: u32,
    /// Whether each received segment makes a record, and each connection that opens: mode `events`.
    pub per_segment: bool,
    /// Whether the addresses that packets have on the wire are read from the headers of what connections have in flight.
    pub translation: bool,
}

/// Where the kernel side keeps what is known of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// In the storage of their sockets, scanned by this program.
    SocketStorage(&'static str),
    /// In a table: the kernel refuses iterators over the elements of maps.
    Table,
}

/// The programs, loaded and attached. Dropping it takes them out of the kernel.
pub struct Sockets {
    rings: RingsInUse,
    losses: LossCounters,
    scans: Scans,
    store: Store,
    walks: Walks,
    /// Why accepts are not seen, if they are not.
    accept: Result<(), LoadError>,
    /// Why destroyed sockets are not looked at, if they are not and have to be.
    destroyed: Result<(), LoadError>,
    buffer: Vec<u8>,
    misses: MissCounters,
    /// The state that other programs continue with.
    known: Known,
    options: SocketsOptions,
    /// Keeps the programs attached, and the maps.
    ebpf: Ebpf,
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// The ring of segments is there in either mode, as small as it can be where nothing comes into it.
fn segment_ring_bytes(options: &SocketsOptions) -> u32 {
    if options.per_segment {
        options.ring_buffer_bytes
    } else {
        least_ring_bytes()
    }
}

/// Bytes of the ring of connections that changes of these leave to scans.
fn scan_share(options: &SocketsOptions) -> u32 {
    (options.ring_buffer_bytes / 16).max(LEAST_SCAN_SHARE)
}

/// The inputs of loading the programs, which may be done twice.
struct Source<'a> {
    options: &'a SocketsOptions,
    btf: &'a Btf,
    object: &'a Object,
    generation: u32,
    guarded: bool,
    known: Option<&'a Known>,
}

impl Source<'_> {
    /// Loads the object, with a table of `entries`. `has_storage`: state is in sockets, and in the table only where it can't be there.
    fn load(&self, has_storage: bool, entries: u32) -> Result<(Ebpf, Tables), LoadError> {
        let Self { options, known, .. } = *self;
        let wakeup_bytes = u64::from(options.ring_buffer_bytes / 4);
        let scan_bytes = u64::from(options.ring_buffer_bytes / 2);
        let scan_share = scan_share(options);
        let change_bytes = u64::from(options.ring_buffer_bytes.saturating_sub(scan_share));
        let tables = match known {
            Some(known) => known.tables.next(&TABLES, &known.maps, entries)?,
            None => Tables::first(entries),
        };
        let ebpf = EbpfLoader::new()
            .btf(Some(self.btf))
            .map_max_entries("lifecycle", options.ring_buffer_bytes)
            .map_max_entries("segments", segment_ring_bytes(options))
            .map_max_entries(TABLES.newest, tables.capacity())
            .override_global("generation", &self.generation, true)
            .override_global("per_segment", &u8::from(options.per_segment), true)
            .override_global("reads_translation", &u8::from(options.translation), true)
            .override_global("wakeup_bytes", &wakeup_bytes, true)
            .override_global("scan_bytes", &scan_bytes, true)
            .override_global("scan_share", &u64::from(scan_share), true)
            .override_global("change_bytes", &change_bytes, true)
            .override_global("has_storage", &u8::from(has_storage), true)
            .override_global("may_be_preempted", &u8::from(self.guarded), true)
            .override_global("older_tables", &tables.older(), true)
            .override_global("is_table_new", &u8::from(tables.is_added(known.is_some())), true)
            .load(self.object.bytes())
            .map_err(LoadError::Object)?;
        if let Some(known) = known {
            let shared = tables.shared(&TABLES);
            let put = known.maps.put_into(&ebpf, &TABLES, &shared);
            put.map_err(not_shared)?;
        }
        Ok((ebpf, tables))
    }
}

impl Sockets {
    /// Loads the programs and attaches to state changes: from here on every connection that opens is counted.
    ///
    /// # Errors
    /// [`LoadError`] with the missing requirement. The programs that only adopt sockets may be
    /// refused: [`Sockets::adopt`] reports it.
    pub fn load(options: &SocketsOptions) -> Result<Self, LoadError> {
        jiffies::prepare();
        let loaded = Self::attach(*options, None);
        heap::trim();
        loaded
    }

    /// Whether each received segment makes a record.
    pub const fn is_per_segment(&self) -> bool {
        self.options.per_segment
    }

    /// Changes the options without a gap. Where that needs other programs and rings, programs with
    /// the new options are attached beside the old ones, and both share the state of every socket.
    /// The new ones are called after them at each event and do the remaining work; then the old
    /// ones are detached. The contents of the old rings are read first.
    ///
    /// `max_sockets` beyond the size of a table adds a larger one, in which the connections that open from then on are.
    ///
    /// # Errors
    /// [`LoadError`]; then everything is as before, or [as asked for](Sockets::is_per_segment).
    pub fn reload(
        &mut self,
        options: &SocketsOptions,
        mut each: impl FnMut(Event, Ring),
    ) -> Result<(), LoadError> {
        let programs_stay = SocketsOptions {
            max_sockets: self.options.max_sockets,
            ..*options
        } == self.options;
        let limit = table_limit(self.store, options);
        if programs_stay && limit <= self.known.tables.capacity() {
            self.known.control.set_sole(self.known.generation, limit)?;
            self.options = *options;
            return Ok(());
        }
        let (options, known) = (*options, &self.known);
        let loaded = load_meanwhile(&mut self.rings, &mut each, || Self::attach(options, Some(known)));
        heap::trim();
        let mut new = loaded?;
        new.walks.adopted = self.walks.adopted;
        // Entries of the table remember the number of the scan that looked at them last.
        if let (Some(scan), Some(before)) = (&mut new.scans.table, &self.scans.table) {
            scan.continue_after(before);
        }
        // Not before: while they were loaded the older rings were drained alone, and a close in these must not be shown before the
        // segments that the new programs report.
        new.known.control.set_following(new.known.generation, limit)?;
        let Self {
            rings,
            ebpf: old_programs,
            ..
        } = mem::replace(self, new);
        self.rings.follow(rings);
        drop(old_programs);
        await_detached();
        self.known.control.set_sole(self.known.generation, limit)
    }

    fn attach(options: SocketsOptions, known: Option<&Known>) -> Result<Self, LoadError> {
        capability::check().map_err(|missing| LoadError::Capability(missing.0))?;
        capability::raise_memlock();
        let btf = kernel_btf::parsed()?;
        let generation = Known::next_generation(known);
        let Linked {
            object,
            has_cast,
            has_preempt,
        } = kfunc::link(OBJECT.unpack()?, &btf);
        let guarded = has_preempt && preemption::tracepoints_are_preemptible();
        let source = Source {
            options: &options,
            btf: &btf,
            object: &object,
            generation,
            guarded,
            known,
        };
        // Whether there is a scan over storage shows only when it is loaded, and the other programs must know.
        let (mut ebpf, mut tables) = source.load(true, FEW_WITHOUT_STORAGE)?;
        let (scans, store) = match StorageScans::load(&mut ebpf, &btf, has_cast) {
            Ok((storage, program)) => {
                let table = has_cast
                    .then(|| TableScan::load(&mut ebpf, tables.older()).ok())
                    .flatten();
                let storage = Some(storage);
                (Scans { storage, table }, Store::SocketStorage(program))
            }
            Err(refused) if has_cast => {
                drop(ebpf);
                (ebpf, tables) = source.load(false, options.max_sockets)?;
                // If the table can't be scanned either, the first reason is the one to report.
                let table = Some(TableScan::load(&mut ebpf, tables.older()).map_err(|_| refused)?);
                let scans = Scans { storage: None, table };
                (scans, Store::Table)
            }
            Err(refused) => return Err(refused),
        };

        table::load(&mut ebpf, BEGIN_SCAN)?;
        let maps = SharedMaps::of(&ebpf, &["lifecycle", "segments"]).map_err(not_shared)?;
        let mut control = Control::take(&mut ebpf)?;
        if known.is_none() {
            control.set_sole(generation, table_limit(store, &options))?;
        }
        let walks = Walks::load(&mut ebpf, &btf);
        let (names, destroyed) = attach_state_changes(&mut ebpf, &btf, guarded)?;
        if options.per_segment {
            load_tracepoint(&mut ebpf, &btf, SEGMENT, "tcp_probe")?;
            attach_tracepoint(&mut ebpf, SEGMENT)?;
        }
        let misses = MissCounters::new(&ebpf, names.iter().copied().chain(DESTROYED).chain([SEGMENT]));
        let rings = RingsInUse::new(Rings::take(&mut ebpf, ["segments", "lifecycle"])?);
        Ok(Self {
            rings,
            losses: LossCounters::take(&mut ebpf)?,
            scans,
            store,
            walks,
            accept: attach_accept(&mut ebpf, &btf),
            destroyed,
            buffer: vec![0; READ_BYTES],
            misses,
            known: Known {
                maps,
                control,
                generation,
                tables,
            },
            options,
            ebpf,
        })
    }

    /// Picks up the sockets that are open already, counted from now on, and shows the listening ones. Called again, it
    /// finds the processes of connections that were accepted meanwhile, and looks only at files if it can.
    pub fn adopt(&mut self, each: impl FnMut(Event)) -> Adoption {
        self.walks.run(&mut self.buffer, each)
    }

    /// To be called after the first [`Sockets::adopt`]: a connection that is not known from now on was opened meanwhile, and its opening
    /// was missed, unless others have not been adopted. `others_are_known`: each open connection of other network namespaces belongs
    /// to a process.
    ///
    /// # Errors
    /// The error of the system call; then openings that are missed are not found.
    pub fn end_adoption(&self, others_are_known: bool) -> io::Result<()> {
        self.walks.end_adoption(&self.ebpf, others_are_known)
    }

    /// Whether the process that accepts a connection is seen.
    ///
    /// # Errors
    /// [`LoadError`] with what is missing: such a connection has the process that listens until a walk or its close.
    pub const fn accept(&self) -> &Result<(), LoadError> {
        &self.accept
    }

    /// Whether connections are found of which the kernel skipped every program at a state change; it never does on a kernel
    /// whose tracepoints are not preemptible.
    ///
    /// # Errors
    /// [`LoadError`] with what is missing: then such a connection is not counted.
    pub const fn finds_missed(&self) -> &Result<(), LoadError> {
        &self.destroyed
    }

    /// The scan of listening sockets, which goes on working after [`Sockets::reload`].
    ///
    /// # Errors
    /// [`LoadError`] with what is missing: Linux 5.13 brought the walk over a map.
    pub fn listeners(&self) -> Result<Listeners, LoadError> {
        Listeners::load(&self.known.maps)
    }

    /// Where the kernel side keeps what is known of connections.
    pub const fn store(&self) -> Store {
        self.store
    }

    /// Shows each socket whose totals moved since the last scan, and what else waits in the ring; returns how many records.
    ///
    /// # Errors
    /// The error of the system call; the next scan reports what this one did not. [`io::ErrorKind::InvalidData`] for bytes that
    /// are not a record.
    pub fn scan(&mut self, each: impl FnMut(Event, Ring)) -> io::Result<u64> {
        self.walk(false, each)
    }

    /// Shows every open connection, moved or not, with the event `FLOW_OPEN`; as [`Sockets::scan`] else. A connection that
    /// closes meanwhile is shown closed, after it was shown open or without.
    ///
    /// # Errors
    /// As [`Sockets::scan`]; then some connections were not shown.
    pub fn scan_census(&mut self, each: impl FnMut(Event, Ring)) -> io::Result<u64> {
        self.walk(true, each)
    }

    /// Takes connections out of the table whose socket has gone although no program was run for its close, and counts them
    /// ([`Losses::missed_closes`]). Every scan does; this is for mode `events`, which has none.
    ///
    /// # Errors
    /// The error of the system call; [`io::ErrorKind::TimedOut`] if closes were under way all the time.
    pub fn sweep(&mut self) -> io::Result<()> {
        self.scans.sweep(&self.ebpf)
    }

    /// Shows what waits in the rings: received segments; closed and failed connections, changed listeners. Returns how many.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are not a record.
    pub fn drain(&mut self, each: impl FnMut(Event, Ring)) -> io::Result<u64> {
        self.rings.drain(each)
    }

    /// Watches for the moment when a quarter of a ring is full, that of segments and that of connections: drain them then, and
    /// at every tick. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn watch(&self) -> io::Result<[RingWatch; 2]> {
        self.rings.watch()
    }

    /// Losses since the programs were loaded, over all CPUs.
    ///
    /// # Errors
    /// [`LoadError::Map`] if the map can't be read.
    pub fn losses(&self) -> Result<Losses, LoadError> {
        self.losses.read()
    }

    /// Runs of each program that the kernel skipped at state changes. If all of them were skipped a change is seen late, when the
    /// socket is destroyed; the last one's count is an upper bound of these changes.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn program_misses(&self) -> io::Result<Vec<ProgramMisses>> {
        self.misses.read()
    }

    /// Runs the scans to their end: shows what they find, and what else waits in the rings, in order.
    fn walk(&mut self, census: bool, mut each: impl FnMut(Event, Ring)) -> io::Result<u64> {
        let Self {
            scans, rings, ebpf, ..
        } = self;
        let mut records = rings.drain(&mut each)?;
        let scanned = scans.walk(ebpf, census, || {
            records += rings.drain(&mut each)?;
            Ok(())
        });
        // A close that another CPU is about to write may stand before what the scan found. It takes a moment.
        records += rings.drain_all(&mut each)?;
        scanned.map(|()| records)
    }
}

/// Entries that the table of connections may have.
const fn table_limit(store: Store, options: &SocketsOptions) -> u32 {
    match store {
        Store::SocketStorage(_) => FEW_WITHOUT_STORAGE,
        Store::Table => options.max_sockets,
    }
}
