//! From what devices show to readings: increases of counters, levels of gauges.
//!
//! In: devices, as sysfs has them at one look ([`tree`]), and their queue pairs. Out: records. The rules, in order:
//!
//! 1. A counter counts from its first reading on: what it has counted before is not of the time that flowtap measures. That reading
//!    is an increase of 0, which opens the series.
//! 2. A counter that falls has wrapped, if it has 32 bits and was near their end, else it was reset; of that what it shows has come
//!    since ([`increase`]).
//! 3. A device that left and comes back with the same GUID continues; with another one it is new.
//! 4. Bytes and packets come from `counters/`; where a port has none, from `hw_counters/`. A name that is in both is read from
//!    `counters/`. Each counter is in one family.
//! 5. A value that can't be read is counted and left out, and logged when that begins. The others are read.
//! 6. A level that is not read any more ends, unless its file is only broken.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use flowtap_pipeline::catalog::{FamilyId, Label};
use flowtap_pipeline::{ReadingLabels, ReadingRecord, ReadingValue, plain};
use wildmatch::WildMatch;

use super::config::Config;
use super::counters::{Folder, Meaning, has_32_bits, increase, meaning};
use super::queue_pairs::{self, Dump, QueuePair};
use super::telemetry::{Telemetry, Unread};
use super::tree::{self, Device, Fault, Origin, RawCounter, Value};

/// Counters that are followed at most.
const MAX_COUNTERS: usize = 1 << 14;

/// Files that are remembered as broken at most; of further ones each look logs.
const MAX_BROKEN: usize = 1 << 12;

/// Sets of labels that queue pairs have at most; further processes are counted together.
const MAX_QUEUE_PAIR_GROUPS: usize = 1 << 12;

/// A level that is shown: its family and labels.
type Shown = (FamilyId, ReadingLabels);

/// A counter of which the last value is known.
#[derive(Debug)]
struct Counter {
    guid: String,
    last: u64,
    scale: u64,
    has_32_bits: bool,
    family: FamilyId,
    labels: ReadingLabels,
    /// Number of the look that read it last.
    look: u64,
}

/// Devices over time.
#[derive(Debug)]
pub(super) struct Reader {
    sysfs_root: PathBuf,
    devices: Vec<WildMatch>,
    queue_pairs: bool,
    telemetry: Telemetry,
    /// By path.
    counters: HashMap<PathBuf, Counter>,
    links: HashSet<Shown>,
    pairs: HashSet<Shown>,
    broken: HashSet<PathBuf>,
    /// Devices whose queue pairs could not be listed the last time; an empty name stands for all.
    undumped: HashSet<String>,
    looks: u64,
}

impl Reader {
    pub(super) fn new(config: &Config, telemetry: Telemetry) -> Self {
        Self {
            sysfs_root: config.sysfs_root.clone(),
            devices: patterns(config),
            queue_pairs: config.queue_pairs,
            telemetry,
            counters: HashMap::new(),
            links: HashSet::new(),
            pairs: HashSet::new(),
            broken: HashSet::new(),
            undumped: HashSet::new(),
            looks: 0,
        }
    }

    /// Continues under another config, if that is about the same devices.
    pub(super) fn with_config(mut self, config: &Config, telemetry: Telemetry) -> Result<Self, Self> {
        if self.sysfs_root != config.sysfs_root {
            return Err(self);
        }
        self.devices = patterns(config);
        self.queue_pairs = config.queue_pairs;
        self.telemetry = telemetry;
        Ok(self)
    }

    /// Reads all devices.
    pub(super) fn look(&mut self) -> Vec<ReadingRecord> {
        self.looks += 1;
        let mut readings = Vec::new();
        let names = self.taken(&tree::class_folder(&self.sysfs_root), |reader| {
            tree::device_names(&reader.sysfs_root)
        });
        let names = names.unwrap_or_default();
        let names: Vec<_> = names.into_iter().filter(|name| self.is_wanted(name)).collect();
        let mut links = HashSet::new();
        for name in &names {
            let folder = tree::class_folder(&self.sysfs_root).join(name);
            let device = self.taken(&folder, |reader| tree::read_device(&reader.sysfs_root, name));
            if let Some(device) = device {
                self.read_device(device, &mut links, &mut readings);
            }
        }
        end(&self.links, &links, &mut readings);
        self.links = links;
        self.read_queue_pairs(|| queue_pairs::dump(Path::new("/proc")), &mut readings);
        readings
    }

    fn is_wanted(&self, device: &str) -> bool {
        self.devices.iter().any(|pattern| pattern.matches(device))
    }

    /// The result of listing `path`; `None` after a fault, which is counted.
    fn taken<T>(&mut self, path: &Path, list: impl Fn(&Self) -> io::Result<T>) -> Option<T> {
        let value = list(self).map(Some).map_err(Fault::Unreadable);
        self.value(Value {
            path: path.to_owned(),
            value,
        })
    }

    /// The value of a file; `None` if it has gone, or after a fault, which is counted, and logged when it is new.
    fn value<T>(&mut self, file: Value<T>) -> Option<T> {
        let path = file.path;
        let fault = match file.value {
            Ok(value) => {
                if self.broken.remove(&path) {
                    tracing::info!(path = %plain::plain(&path.to_string_lossy()), "the value can be read again");
                }
                return value;
            }
            Err(fault) => fault,
        };
        let reason = match fault {
            Fault::Unreadable(_) => Unread::Unreadable,
            Fault::NotAvailable => Unread::NotAvailable,
            Fault::Malformed(_) => Unread::Malformed,
        };
        self.telemetry.unread(reason, 1);
        if !self.broken.contains(&path) {
            tracing::warn!(
                path = %plain::plain(&path.to_string_lossy()), error = %fault,
                "a value of an RDMA device can't be read and is left out; hint: the log has no further message on it until it can \
                 be read; the metric `receiver_unread_values` counts on"
            );
            if self.broken.len() < MAX_BROKEN {
                self.broken.insert(path);
            }
        }
        None
    }

    fn read_device(&mut self, device: Device, links: &mut HashSet<Shown>, readings: &mut Vec<ReadingRecord>) {
        let Device { origin, parts } = device;
        let has_counters = parts
            .iter()
            .any(|part| !part.port.is_empty() && !part.counters.is_empty());
        for part in parts {
            let standard = part.counters.iter();
            let standard = standard.filter(|counter| counter.folder == Folder::Standard);
            let standard: HashSet<_> = standard.map(|counter| counter.name.clone()).collect();
            // Of a device as a whole bytes and packets would be those of its ports once more.
            let of_device = part.port.is_empty() && has_counters;
            let (has_bytes, has_packets) = (
                of_device || standard.contains("port_rcv_data"),
                of_device || standard.contains("port_rcv_packets"),
            );
            let labels = [
                (Label::Device, plain::plain(&origin.name).into_owned()),
                (Label::Port, plain::plain(&part.port).into_owned()),
            ];
            for counter in part.counters {
                // It would be the same series: rxe has `link_downed` in both folders.
                if counter.folder == Folder::Hardware && standard.contains(&counter.name) {
                    continue;
                }
                let meaning = match meaning(counter.folder, &counter.name) {
                    Meaning::Bytes(..) if counter.folder == Folder::Hardware && has_bytes => Meaning::Other,
                    Meaning::Packets(_) if counter.folder == Folder::Hardware && has_packets => {
                        Meaning::Other
                    }
                    meaning => meaning,
                };
                self.read_counter(&origin, &labels, counter, meaning, readings);
            }
            let labels = ReadingLabels::new(labels);
            for (family, file) in [
                (FamilyId::RdmaLinkUp, part.is_active),
                (FamilyId::RdmaLinkRate, part.rate),
            ] {
                if let Some(file) = file {
                    self.read_link(family, &labels, file, links, readings);
                }
            }
        }
    }

    fn read_link(
        &mut self,
        family: FamilyId,
        labels: &ReadingLabels,
        file: Value<u64>,
        links: &mut HashSet<Shown>,
        readings: &mut Vec<ReadingRecord>,
    ) {
        let shown = (family, labels.clone());
        let is_broken = file.value.is_err();
        if let Some(level) = self.value(file) {
            readings.push(ReadingRecord::new(
                family,
                labels.clone(),
                ReadingValue::Level(level),
            ));
        } else if !is_broken || !self.links.contains(&shown) {
            return;
        }
        links.insert(shown);
    }

    fn read_counter(
        &mut self,
        origin: &Origin,
        labels: &[(Label, String)],
        counter: RawCounter,
        meaning: Meaning,
        readings: &mut Vec<ReadingRecord>,
    ) {
        let Some(family) = meaning.family() else { return };
        let path = counter.file.path.clone();
        let Some(now) = self.value(counter.file) else {
            return;
        };
        let look = self.looks;
        if let Some(known) = self.counters.get_mut(&path)
            && known.guid == origin.guid
            && known.family == family
        {
            let (units, was_reset) = increase(known.last, now, known.has_32_bits);
            (known.last, known.look) = (now, look);
            let value = ReadingValue::Increase(units.saturating_mul(known.scale));
            readings.push(ReadingRecord::new(family, known.labels.clone(), value));
            if was_reset {
                self.telemetry.reset();
            }
            return;
        }
        if !self.has_room(&path) {
            self.telemetry.unread(Unread::TooMany, 1);
            return;
        }
        let counted = match meaning.direction() {
            Some(direction) => (Label::Direction, direction.as_str().to_owned()),
            None => (Label::Counter, plain::plain(&counter.name).into_owned()),
        };
        let labels = ReadingLabels::new(labels.iter().cloned().chain([counted]));
        readings.push(ReadingRecord::new(
            family,
            labels.clone(),
            ReadingValue::Increase(0),
        ));
        let counter = Counter {
            guid: origin.guid.clone(),
            last: now,
            scale: meaning.scale(),
            has_32_bits: has_32_bits(&origin.driver, counter.folder, &counter.name),
            family,
            labels,
            look,
        };
        self.counters.insert(path, counter);
    }

    /// Whether there is room for another counter, if need be in place of those that the last look did not find.
    fn has_room(&mut self, path: &Path) -> bool {
        if self.counters.contains_key(path) {
            return true;
        }
        if self.counters.len() >= MAX_COUNTERS {
            let looks = self.looks;
            self.counters.retain(|_, counter| counter.look + 1 >= looks);
        }
        self.counters.len() < MAX_COUNTERS
    }

    /// Counts queue pairs, from `dump`. The levels of a device whose queue pairs could not be listed stay.
    pub(super) fn read_queue_pairs(
        &mut self,
        dump: impl FnOnce() -> io::Result<Dump>,
        readings: &mut Vec<ReadingRecord>,
    ) {
        let mut shown = HashSet::new();
        if self.queue_pairs {
            let Some(dump) = self.dumped("", dump()) else {
                return;
            };
            let mut failed = HashSet::new();
            for (device, error) in dump.failed {
                if self.is_wanted(&device) {
                    self.dumped::<()>(&device, Err(error));
                    failed.insert(device);
                }
            }
            self.undumped
                .retain(|device| device.is_empty() || failed.contains(device));
            for (labels, count) in self.group(dump.pairs) {
                let family = FamilyId::RdmaQueuePairs;
                readings.push(ReadingRecord::new(
                    family,
                    labels.clone(),
                    ReadingValue::Level(count),
                ));
                shown.insert((family, labels));
            }
            let stay = self.pairs.iter().filter(|(_, labels)| {
                let device = labels.get(Label::Device).unwrap_or_default();
                failed.iter().any(|failed| plain::plain(failed) == device)
            });
            shown.extend(stay.cloned());
        }
        end(&self.pairs, &shown, readings);
        self.pairs = shown;
    }

    /// The result of a dump of a device, or of all if that is empty; a failure is counted, and logged when it is new.
    fn dumped<T>(&mut self, device: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.undumped.remove(device);
                Some(value)
            }
            Err(error) => {
                self.telemetry.failed();
                if self.undumped.insert(device.to_owned()) {
                    tracing::warn!(
                        device = %plain::plain(device), %error,
                        "queue pairs of RDMA devices can't be listed; their counts stay as they are; \
                        hint: `rdma resource show qp` shows whether the kernel lists them"
                    );
                }
                None
            }
        }
    }

    /// Numbers of queue pairs by labels.
    fn group(&self, pairs: Vec<QueuePair>) -> Vec<(ReadingLabels, u64)> {
        let mut groups = BTreeMap::<QueuePair, u64>::new();
        for pair in pairs.into_iter().filter(|pair| self.is_wanted(&pair.device)) {
            let is_full = groups.len() >= MAX_QUEUE_PAIR_GROUPS && !groups.contains_key(&pair);
            let pair = if is_full { pair.of_other() } else { pair };
            *groups.entry(pair).or_default() += 1;
        }
        let groups = groups.into_iter();
        groups.map(|(pair, count)| (pair.labels(), count)).collect()
    }
}

/// Ends the levels that are shown `before` and not `now`.
fn end(before: &HashSet<Shown>, now: &HashSet<Shown>, readings: &mut Vec<ReadingRecord>) {
    for (family, labels) in before.difference(now) {
        readings.push(ReadingRecord::new(*family, labels.clone(), ReadingValue::Ended));
    }
}

fn patterns(config: &Config) -> Vec<WildMatch> {
    let patterns = config.devices.iter();
    patterns.map(|pattern| WildMatch::new(pattern)).collect()
}
