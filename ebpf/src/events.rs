//! Capture mode `events`: loads the programs of `bpf/events.bpf.c`, attaches them as well as the kernel lets, and gives out
//! their records.
//!
//! In: received segments, state changes. Out: [`Event`]s from two rings, segments and connections apart. Each program is
//! tried in the best way first: `tp_btf` before `raw_tp`; kprobes where the kernel has them.

mod programs;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem;

use aya::maps::{HashMap, MapData};
use aya::{Btf, Ebpf, EbpfLoader};

use self::programs::{
    PROBES, SEGMENT, STATE_NAMES, attach_accept, attach_kprobe, attach_state_changes, attach_tracepoint,
    link_walk,
};
use crate::abi::{Event, Losses, TrackedSocket};
use crate::capability;
use crate::control::Control;
use crate::error::LoadError;
use crate::heap;
use crate::iter::IterLink;
use crate::jiffies;
use crate::kernel_btf;
use crate::kfunc::{self, Linked};
use crate::losses::LossCounters;
use crate::misses::{MissCounters, ProgramMisses};
use crate::object::{Compressed, Object, compressed};
use crate::preemption;
use crate::replace::{Known, RingsInUse, await_detached, load_meanwhile};
use crate::ring::{Ring, RingWatch, Rings};
use crate::sharing::{SharedMaps, not_shared};
use crate::table_names::TableNames;
use crate::tables::Tables;

/// The compiled programs.
pub(crate) const OBJECT: Compressed = compressed!("events");

/// The tables of connections.
const TABLES: TableNames = TableNames {
    newest: "tracked",
    older: [
        "tracked_older1",
        "tracked_older2",
        "tracked_older3",
        "tracked_older4",
        "tracked_older5",
        "tracked_older6",
    ],
};

/// The rings: of segments, of connections.
const RINGS: [&str; 2] = ["tcpflow", "tcpconn"];

/// Options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsOptions {
    /// Size of each of the two rings: a power of two, at least a page.
    pub ring_buffer_bytes: u32,
    /// Connections that can be followed at a time; those beyond are counted and not measured.
    pub max_sockets: u32,
    /// Whether the addresses that packets have on the wire are read from the headers of what connections have in flight.
    pub translation: bool,
}

/// The hooks in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Segments and state changes: `tp_btf` or `raw_tp`.
    pub tracepoints: &'static str,
    /// Whether connects and closes are seen by kprobes.
    pub kprobes: bool,
    /// The hook at accepts: `fentry` or `kprobe`; `None` if there is none.
    pub accept: Option<&'static str>,
}

/// The programs, loaded and attached. Dropping it takes them out of the kernel.
pub struct Events {
    rings: RingsInUse,
    losses: LossCounters,
    /// The newest table, then the older ones.
    tracked: Vec<HashMap<MapData, u64, TrackedSocket>>,
    attachment: Attachment,
    /// The walk over every process' files, or why there is none.
    listeners: Result<IterLink, Option<LoadError>>,
    misses: MissCounters,
    /// The state that other programs continue with.
    known: Known,
    /// Mixed into cookies.
    cookie_key: u64,
    options: EventsOptions,
    /// Keeps the programs attached, and the maps.
    ebpf: Ebpf,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("attachment", &self.attachment)
            .finish_non_exhaustive()
    }
}

/// Constants of the programs that do not follow from the options alone.
#[derive(Clone, Copy)]
struct Globals {
    kprobes: bool,
    cookie_key: u64,
    generation: u32,
}

/// Loads `object`, which continues with the maps of `known`.
fn load(
    options: EventsOptions,
    btf: &Btf,
    object: &Object,
    globals: Globals,
    known: Option<&Known>,
) -> Result<(Ebpf, Tables), LoadError> {
    let wakeup_bytes = u64::from(options.ring_buffer_bytes / 4);
    let tables = match known {
        Some(known) => known.tables.next(&TABLES, &known.maps, options.max_sockets)?,
        None => Tables::first(options.max_sockets),
    };
    let ebpf = EbpfLoader::new()
        .btf(Some(btf))
        .map_max_entries(RINGS[0], options.ring_buffer_bytes)
        .map_max_entries(RINGS[1], options.ring_buffer_bytes)
        .map_max_entries(TABLES.newest, tables.capacity())
        .override_global("reads_translation", &u8::from(options.translation), true)
        .override_global("wakeup_bytes", &wakeup_bytes, true)
        .override_global("has_kprobes", &u8::from(globals.kprobes), true)
        .override_global("cookie_key", &globals.cookie_key, true)
        .override_global("generation", &globals.generation, true)
        .override_global("older_tables", &tables.older(), true)
        .override_global("is_table_new", &u8::from(tables.is_added(known.is_some())), true)
        .load(object.bytes())
        .map_err(LoadError::Object)?;
    if let Some(known) = known {
        let put = known.maps.put_into(&ebpf, &TABLES, &tables.shared(&TABLES));
        put.map_err(not_shared)?;
    }
    Ok((ebpf, tables))
}

/// The tables of connections, the newest first.
fn take_tables(
    ebpf: &mut Ebpf,
    tables: &Tables,
) -> Result<Vec<HashMap<MapData, u64, TrackedSocket>>, LoadError> {
    let mut take = |map| ebpf.take_map(map).ok_or(LoadError::Absent(map));
    let in_map = |map| move |source| LoadError::Map { map, source };
    let older = TABLES.older.into_iter().take(tables.older() as usize);
    let tracked = std::iter::once(TABLES.newest).chain(older).map(|name| {
        let table = HashMap::try_from(take(name)?);
        table.map_err(in_map(name))
    });
    tracked.collect()
}

impl Events {
    /// Loads and attaches.
    ///
    /// # Errors
    /// [`LoadError`] with what is missing. Kprobes may be missing.
    pub fn load(options: &EventsOptions) -> Result<Self, LoadError> {
        capability::check().map_err(|missing| LoadError::Capability(missing.0))?;
        capability::raise_memlock();
        jiffies::prepare();
        let btf = kernel_btf::parsed()?;
        // Whether kprobes are available must be known before the state program is loaded, and only
        // attaching shows it: so once with them, and once more without if they are refused.
        let loaded = Self::attach(*options, &btf, true, None).or_else(|error| match error {
            LoadError::Program {
                program: "connect_probe" | "close_probe",
                ..
            }
            | LoadError::Verifier {
                program: "connect_probe" | "close_probe",
                ..
            }
            | LoadError::Refused { .. } => Self::attach(*options, &btf, false, None),
            error => Err(error),
        });
        drop(btf);
        heap::trim();
        loaded
    }

    /// Changes the options without a gap: as [`Sockets::reload`](crate::Sockets::reload).
    ///
    /// # Errors
    /// [`LoadError`]; then everything is as before.
    pub fn reload(
        &mut self,
        options: &EventsOptions,
        mut each: impl FnMut(Event, Ring),
    ) -> Result<(), LoadError> {
        let has_room = options.max_sockets <= self.known.tables.capacity();
        let programs_stay = EventsOptions {
            max_sockets: self.options.max_sockets,
            ..*options
        } == self.options;
        if programs_stay && has_room {
            let (generation, limit) = (self.known.generation, options.max_sockets);
            self.known.control.set_sole(generation, limit)?;
            self.options = *options;
            return Ok(());
        }
        let btf = kernel_btf::parsed()?;
        let (kprobes, before) = (self.attachment.kprobes, (&self.known, self.cookie_key));
        let loaded = load_meanwhile(&mut self.rings, &mut each, || {
            Self::attach(*options, &btf, kprobes, Some(before))
        });
        drop(btf);
        heap::trim();
        let mut new = loaded?;
        let (generation, limit) = (new.known.generation, options.max_sockets);
        // Only now: see `Sockets::reload`.
        new.known.control.set_following(generation, limit)?;
        let Self {
            rings,
            ebpf: old_programs,
            ..
        } = mem::replace(self, new);
        self.rings.follow(rings);
        drop(old_programs);
        await_detached();
        self.known.control.set_sole(generation, limit)
    }

    /// `before`: the state of the programs that these replace, and what these mix into cookies.
    fn attach(
        options: EventsOptions,
        btf: &Btf,
        kprobes: bool,
        before: Option<(&Known, u64)>,
    ) -> Result<Self, LoadError> {
        let cookie_key = before.map_or_else(|| RandomState::new().hash_one(0), |(_, key)| key);
        let known = before.map(|(known, _)| known);
        let generation = Known::next_generation(known);
        let Linked {
            object, has_preempt, ..
        } = kfunc::link(OBJECT.unpack()?, btf);
        let globals = Globals {
            kprobes,
            cookie_key,
            generation,
        };
        let (mut ebpf, tables) = load(options, btf, &object, globals, known)?;
        let maps = SharedMaps::of(&ebpf, &RINGS).map_err(not_shared)?;
        let mut control = Control::take(&mut ebpf)?;
        if known.is_none() {
            control.set_sole(generation, options.max_sockets)?;
        }
        if kprobes {
            attach_kprobe(&mut ebpf, "connect_probe", "tcp_connect")?;
            attach_kprobe(&mut ebpf, "close_probe", "tcp_close")?;
        }
        let accept = attach_accept(&mut ebpf, btf, kprobes);
        let listeners = link_walk(&mut ebpf, btf).map_err(Some);
        // Segments last: a segment of a connection whose opening was not seen makes it an adopted one.
        let guarded = has_preempt && preemption::tracepoints_are_preemptible();
        let state = attach_state_changes(&mut ebpf, btf, guarded)?;
        let segment = attach_tracepoint(&mut ebpf, btf, ["segment", "segment_raw"], "tcp_probe")?;
        let tracepoints = if state == segment {
            state
        } else {
            "tp_btf and raw_tp"
        };

        let names = STATE_NAMES.into_iter().chain(SEGMENT).chain(PROBES);
        let misses = MissCounters::new(&ebpf, names);
        let rings = RingsInUse::new(Rings::take(&mut ebpf, RINGS)?);
        let losses = LossCounters::take(&mut ebpf)?;
        let tracked = take_tables(&mut ebpf, &tables)?;
        Ok(Self {
            rings,
            losses,
            tracked,
            misses,
            attachment: Attachment {
                tracepoints,
                kprobes,
                accept,
            },
            listeners,
            known: Known {
                maps,
                control,
                generation,
                tables,
            },
            cookie_key,
            options,
            ebpf,
        })
    }

    /// The hooks in use.
    pub const fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Finds the processes of listening sockets that were there before the programs, and of those that the service manager has handed
    /// on since.
    ///
    /// # Errors
    /// [`LoadError`] with what is missing: once if the kernel refuses the walk.
    pub fn find_listeners(&mut self) -> Result<(), LoadError> {
        match &mut self.listeners {
            Ok(walk) => walk.walk(|| Ok(())).map_err(|source| LoadError::System {
                what: "find_listeners",
                source,
            }),
            Err(reason) => reason.take().map_or(Ok(()), Err),
        }
    }

    /// Shows what waits of received segments, then of connections: opened, closed and failed ones, changed listeners. A connection
    /// is never shown closed before all of its segments. Returns how many were shown.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are not a record.
    pub fn drain(&mut self, each: impl FnMut(Event, Ring)) -> io::Result<u64> {
        self.rings.drain(each)
    }

    /// Shows what waits of received segments. Returns how many.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are not a record.
    pub fn drain_segments(&mut self, each: impl FnMut(Event)) -> io::Result<u64> {
        self.rings.drain_segments(each)
    }

    /// Returns watches that wake when a quarter of the ring of segments, or of that of connections,
    /// is full. Must be called within a tokio runtime.
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

    /// Runs of each program that the kernel skipped. Of those at state changes see
    /// [`Sockets::program_misses`](crate::Sockets::program_misses).
    ///
    /// # Errors
    /// The error of the system call.
    pub fn program_misses(&self) -> io::Result<Vec<ProgramMisses>> {
        self.misses.read()
    }

    /// Shows every open connection, with the event `FLOW_OPEN` and no difference. Drain both rings
    /// before: a connection that closes meanwhile is then shown closed after it was shown open, or not open at all. Returns
    /// how many were reported.
    ///
    /// # Errors
    /// The error of the system call; then some connections were not reported.
    pub fn open_connections(&self, mut each: impl FnMut(Event)) -> io::Result<u64> {
        let mut records = 0;
        for table in &self.tracked {
            for address in table.keys() {
                let address = address.map_err(io::Error::other)?;
                // One that closes meanwhile is not there any more.
                if let Ok(socket) = table.get(&address, 0)
                    && let Some(record) = socket.census_record()
                {
                    each(Event::Flow(record));
                    records += 1;
                }
            }
        }
        Ok(records)
    }
}
