//! Looks at RDMA devices: each source of values is read on a separate thread, so one that hangs delays no other.
//!
//! In: the time of a round. Out: readings, as they come. The rules, in order:
//!
//! 1. The sources are the sysfs of each device, the list of devices over netlink, and the queue pairs of each device on it.
//! 2. A round begins a look at every source that is idle. A source whose look of an earlier round goes on is late: that is counted
//!    per interval, and logged when it begins and when it ends.
//! 3. A source has at most one thread, whatever the number of rounds and reloads.
//! 4. A device that is gone has no levels; its counters are remembered for when it comes back, as long as there is room.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use flowtap_pipeline::{ReadingRecord, Timestamp, plain};
use tokio::sync::Notify;
use wildmatch::WildMatch;

use super::config::Config;
use super::pairs::{Failing, Pairs};
use super::queue_pairs::{self, Listed};
use super::reader::{Broken, Reader, Room};
use super::telemetry::{Telemetry, Unread};
use super::tree::{self, Fault, Value};

/// Devices that are read at most.
const MAX_DEVICES: usize = 256;

/// Sources that are known at most, and so threads. More than devices have, as some may be gone.
const MAX_SOURCES: usize = 4 * MAX_DEVICES;

/// A source of values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// The sysfs of a device.
    Device(String),
    /// The list of devices over netlink.
    List,
    /// The queue pairs of a device.
    QueuePairs(String),
}

impl Source {
    /// For the log.
    fn name(&self) -> String {
        match self {
            Self::Device(name) => plain::plain(name).into_owned(),
            Self::List => "the list of devices over netlink".to_owned(),
            Self::QueuePairs(name) => format!("queue pairs of {}", plain::plain(name)),
        }
    }
}

/// State of a source over time.
#[derive(Debug)]
enum State {
    Device(Box<Reader>),
    List,
    QueuePairs(Pairs),
}

/// Idle, or read on a thread that has the state.
#[derive(Debug)]
enum Slot {
    Idle(State),
    Busy {
        /// When it was due.
        due: Timestamp,
        began: Instant,
        /// Whether a later round has found it so, which is logged.
        is_late: bool,
    },
}

/// The result of a look. `None`: it panicked, which is logged.
type Ended = (Source, Option<(State, Read)>);

/// Readings of a look.
#[derive(Debug, Default)]
struct Read {
    readings: Vec<ReadingRecord>,
    list: Option<io::Result<Vec<Listed>>>,
}

/// The sources, and the looks that go on.
#[derive(Debug)]
pub(super) struct Looks {
    sysfs_root: PathBuf,
    devices: Vec<WildMatch>,
    queue_pairs: bool,
    telemetry: Telemetry,
    room: Room,
    sources: BTreeMap<Source, Slot>,
    /// Of the newest round.
    due: Timestamp,
    readings: Vec<ReadingRecord>,
    broken: Broken,
    failing: Failing,
    sender: mpsc::SyncSender<Ended>,
    results: mpsc::Receiver<Ended>,
    ended: Arc<Notify>,
}

/// Most looks at a time: one at each of at most 256 devices and at its queue pairs, and one at the list of devices.
const MAX_LOOKS: usize = 1024;

impl Looks {
    pub(super) fn new(config: &Config, telemetry: Telemetry) -> Self {
        let (sender, results) = mpsc::sync_channel(MAX_LOOKS);
        Self {
            sysfs_root: config.sysfs_root.clone(),
            devices: patterns(config),
            queue_pairs: config.queue_pairs,
            telemetry,
            room: Room::default(),
            sources: BTreeMap::new(),
            due: Timestamp::default(),
            readings: Vec::new(),
            broken: Broken::default(),
            failing: Failing::default(),
            sender,
            results,
            ended: Arc::default(),
        }
    }

    /// Continues under another config, if that is about the same devices.
    pub(super) fn with_config(mut self, config: &Config, telemetry: Telemetry) -> Result<Self, Box<Self>> {
        if self.sysfs_root != config.sysfs_root {
            return Err(Box::new(self));
        }
        self.devices = patterns(config);
        self.queue_pairs = config.queue_pairs;
        self.telemetry = telemetry;
        Ok(self)
    }

    /// Notified when a look has ended; [`collect`](Self::collect) has its result then.
    pub(super) fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    /// When the newest round was due.
    pub(super) const fn due(&self) -> Timestamp {
        self.due
    }

    /// Whether every look of the newest round has ended.
    pub(super) fn is_round_over(&self) -> bool {
        let of_round = |slot: &Slot| matches!(slot, Slot::Busy { due, .. } if *due == self.due);
        !self.sources.values().any(of_round)
    }

    /// The readings since the last call.
    pub(super) fn take_readings(&mut self) -> Vec<ReadingRecord> {
        std::mem::take(&mut self.readings)
    }

    /// The sources whose looks go on; `None` if there are none.
    pub(super) fn waiting(&self) -> Option<String> {
        self.busy(|_| true)
    }

    /// The sources whose looks of earlier rounds go on, for the status; `None` if there are none.
    pub(super) fn late(&self) -> Option<String> {
        let late = self.busy(|due| due != self.due)?;
        Some(format!("no answer since an earlier interval: {late}"))
    }

    fn busy(&self, wanted: impl Fn(Timestamp) -> bool) -> Option<String> {
        let busy = self.sources.iter().filter_map(|(source, slot)| match slot {
            Slot::Busy { due, .. } if wanted(*due) => Some(source.name()),
            _ => None,
        });
        let busy: Vec<_> = busy.collect();
        (!busy.is_empty()).then(|| busy.join(", "))
    }

    /// Begins a round.
    pub(super) fn begin(&mut self, due: Timestamp) {
        self.collect();
        self.due = due;
        let names = tree::device_names(&self.sysfs_root).map(Some);
        let names = self.broken.value(
            Value {
                path: tree::class_folder(&self.sysfs_root),
                value: names.map_err(Fault::Unreadable),
            },
            &self.telemetry,
        );
        // Of devices that can't be listed it is not known which are gone.
        if let Some(names) = names {
            let mut names: BTreeSet<_> = names.into_iter().filter(|name| self.is_wanted(name)).collect();
            let beyond = names.len().saturating_sub(MAX_DEVICES);
            self.telemetry.unread(Unread::TooMany, beyond as u64);
            while names.len() > MAX_DEVICES {
                names.pop_last();
            }
            self.forget(|source| matches!(source, Source::Device(name) if !names.contains(name)));
            for name in names {
                let new = Reader::new(self.room.clone(), self.telemetry.clone());
                self.begin_look(Source::Device(name), State::Device(Box::new(new)), None);
            }
        }
        if self.queue_pairs {
            self.begin_look(Source::List, State::List, None);
        } else {
            self.forget(|source| matches!(source, Source::QueuePairs(_)));
        }
    }

    /// Begins looks at the queue pairs of the devices on the list.
    fn begin_queue_pairs(&mut self, list: io::Result<Vec<Listed>>) {
        let Some(list) = self.failing.listed("", list, &self.telemetry) else {
            return;
        };
        let wanted = list.into_iter().filter(|device| self.is_wanted(&device.name));
        let list: Vec<_> = wanted.take(MAX_DEVICES).collect();
        self.forget(|source| {
            matches!(source, Source::QueuePairs(name) if !list.iter().any(|device| device.name == *name))
        });
        for device in list {
            let source = Source::QueuePairs(device.name.clone());
            self.begin_look(source, State::QueuePairs(Pairs::default()), Some(device));
        }
    }

    fn is_wanted(&self, device: &str) -> bool {
        self.devices.iter().any(|pattern| pattern.matches(device))
    }

    /// Ends the levels of idle sources that are `gone`, and forgets their counters if there is no room for them.
    fn forget(&mut self, gone: impl Fn(&Source) -> bool) {
        let is_full = self.room.is_full() || self.sources.len() >= MAX_SOURCES;
        let readings = &mut self.readings;
        self.sources.retain(|source, slot| {
            let Slot::Idle(state) = slot else { return true };
            if !gone(source) {
                return true;
            }
            match state {
                State::Device(reader) => reader.end_levels(readings),
                State::QueuePairs(pairs) => pairs.end_levels(readings),
                State::List => {}
            }
            !is_full
        });
    }

    /// Begins a look at a source, unless one goes on. `new`: its state if it has none yet.
    fn begin_look(&mut self, source: Source, new: State, listed: Option<Listed>) {
        let is_full = self.sources.len() >= MAX_SOURCES;
        match self.sources.get_mut(&source) {
            Some(Slot::Busy { began, is_late, .. }) => {
                self.telemetry.missed();
                if !std::mem::replace(is_late, true) {
                    tracing::warn!(
                        source = source.name(), waited = ?began.elapsed(),
                        "an RDMA device has not answered within an interval; it is read again when it does, the others are \
                         read; hint: check `dmesg` for what its driver waits for"
                    );
                }
                return;
            }
            None if is_full => {
                self.telemetry.unread(Unread::TooMany, 1);
                return;
            }
            _ => {}
        }
        let state = match self.sources.remove(&source) {
            Some(Slot::Idle(state)) => state,
            _ => new,
        };
        // Outside of the closure, which is lost if there is no thread for it.
        let kept = Arc::new(Mutex::new(Some(state)));
        let (taken, of_thread) = (Arc::clone(&kept), source.clone());
        let (root, telemetry) = (self.sysfs_root.clone(), self.telemetry.clone());
        let (sender, ended) = (self.sender.clone(), Arc::clone(&self.ended));
        let spawned = thread::Builder::new().name("rdma".to_owned()).spawn(move || {
            let state = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(mut state) = state else { return };
            let read = catch_unwind(AssertUnwindSafe(|| {
                read(&mut state, &of_thread, &root, listed.as_ref(), telemetry)
            }));
            // The receiver may have been stopped meanwhile.
            let _ = sender.send((of_thread, read.ok().map(|read| (state, read))));
            ended.notify_one();
        });
        let slot = match spawned {
            Ok(_) => Slot::Busy {
                due: self.due,
                began: Instant::now(),
                is_late: false,
            },
            Err(error) => {
                tracing::error!(source = source.name(), %error, "no thread to read an RDMA device with; hint: raise the limit of tasks");
                self.telemetry.failed();
                let state = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(state) = state else { return };
                Slot::Idle(state)
            }
        };
        self.sources.insert(source, slot);
    }

    /// Takes the results of looks that have ended.
    pub(super) fn collect(&mut self) {
        while let Ok(ended) = self.results.try_recv() {
            self.accept(ended);
        }
    }

    /// The same until the round is over, for `timeout` at most.
    pub(super) fn wait(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while !self.is_round_over() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(ended) = self.results.recv_timeout(left) else {
                return;
            };
            self.accept(ended);
        }
    }

    fn accept(&mut self, (source, result): Ended) {
        let slot = self.sources.remove(&source);
        if let Some(Slot::Busy {
            began, is_late: true, ..
        }) = slot
        {
            tracing::info!(source = source.name(), waited = ?began.elapsed(), "an RDMA device answers again");
        }
        let Some((state, read)) = result else {
            // Its counters begin anew.
            self.telemetry.failed();
            return;
        };
        self.sources.insert(source, Slot::Idle(state));
        self.readings.extend(read.readings);
        if let Some(list) = read.list
            && self.queue_pairs
        {
            self.begin_queue_pairs(list);
        }
    }
}

/// A look at a source.
fn read(
    state: &mut State,
    source: &Source,
    sysfs_root: &Path,
    listed: Option<&Listed>,
    telemetry: Telemetry,
) -> Read {
    let mut read = Read::default();
    match (state, source) {
        (State::Device(reader), Source::Device(name)) => {
            reader.set_telemetry(telemetry);
            reader.look(sysfs_root, name, &mut read.readings);
        }
        (State::QueuePairs(pairs), Source::QueuePairs(name)) => {
            if let Some(listed) = listed {
                let dump = queue_pairs::dump(Path::new("/proc"), listed);
                pairs.read(name, dump, &telemetry, &mut read.readings);
            }
        }
        _ => read.list = Some(queue_pairs::devices()),
    }
    read
}

fn patterns(config: &Config) -> Vec<WildMatch> {
    let patterns = config.devices.iter();
    patterns.map(|pattern| WildMatch::new(pattern)).collect()
}

#[cfg(test)]
impl Looks {
    /// Begins a round and waits until all of it has ended.
    pub(super) fn look(&mut self) -> Vec<ReadingRecord> {
        self.next_round();
        self.wait(Duration::from_secs(60));
        assert!(self.is_round_over(), "{:?}", self.waiting());
        self.sorted()
    }

    pub(super) fn next_round(&mut self) {
        self.begin(Timestamp::from_nanos(self.due.as_nanos() + 1));
    }

    /// The readings in the order of the devices.
    pub(super) fn sorted(&mut self) -> Vec<ReadingRecord> {
        let mut readings = self.take_readings();
        let device = |reading: &ReadingRecord| {
            let device = reading.labels.get(flowtap_pipeline::catalog::Label::Device);
            device.unwrap_or_default().to_owned()
        };
        readings.sort_by_key(device);
        readings
    }
}
