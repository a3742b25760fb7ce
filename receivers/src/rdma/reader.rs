//! From what a device shows to readings: increases of counters, levels of gauges.
//!
//! In: a device, as sysfs has it at one look ([`tree`]). Out: records. The rules, in order:
//!
//! 1. A counter counts from its first reading on: what it has counted before is not of the time that flowtap measures. That reading
//!    is an increase of 0, which opens the series.
//! 2. A counter that falls has wrapped, if it has 32 bits and was near their end, else it was reset; of that what it shows has come
//!    since. A value that is more than a device can have counted is left out as one that can't be read, so that a broken file
//!    adds nothing that would stay in the total ([`Progress`]).
//! 3. A device that left and comes back with the same GUID continues; with another one it is new.
//! 4. Bytes and packets come from `counters/`; where a port has none, from `hw_counters/`. A name that is in both is read from
//!    `counters/`. Each counter is in one family.
//! 5. A value that can't be read is counted and left out, and logged when that begins. The others are read.
//! 6. A level that is not read any more ends, unless its file is only broken.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use flowtap_pipeline::catalog::{FamilyId, Label};
use flowtap_pipeline::plain_text::escape;
use flowtap_pipeline::{ReadingLabels, ReadingRecord, ReadingValue, plain};

use super::counters::{Folder, Meaning, Progress, Step, has_32_bits, meaning};
use super::telemetry::{Telemetry, Unread};
use super::tree::{self, Device, Fault, Origin, RawCounter, Value};

/// Counters that are followed at most, of all devices.
const MAX_COUNTERS: usize = 1 << 14;

/// Files of a device that are remembered as broken at most; of further ones each look logs.
const MAX_BROKEN: usize = 1 << 12;

/// A level that is shown: its family and labels.
pub(super) type Shown = (FamilyId, ReadingLabels);

/// Room for counters, which all devices share. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Room(Arc<AtomicUsize>);

impl Room {
    fn take(&self) -> Option<Place> {
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < MAX_COUNTERS).then_some(taken + 1)
            });
        taken.ok().map(|_| Place(self.clone()))
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= MAX_COUNTERS
    }
}

/// A counter's part of the room, until it is dropped.
#[derive(Debug)]
struct Place(Room);

impl Drop for Place {
    fn drop(&mut self) {
        (self.0).0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A counter of which the last value is known.
#[derive(Debug)]
struct Counter {
    guid: String,
    progress: Progress,
    scale: u64,
    family: FamilyId,
    labels: ReadingLabels,
    /// Number of the look that read it last.
    look: u64,
    _place: Place,
}

/// A device over time.
#[derive(Debug)]
pub(super) struct Reader {
    telemetry: Telemetry,
    room: Room,
    /// By path.
    counters: HashMap<PathBuf, Counter>,
    links: HashSet<Shown>,
    broken: Broken,
    looks: u64,
}

/// Files that could not be read the last time.
#[derive(Debug, Default)]
pub(super) struct Broken(HashSet<PathBuf>);

impl Broken {
    /// The value of a file; `None` if it has gone, or after a fault, which is counted, and logged when it is new.
    pub(super) fn value<T>(&mut self, file: Value<T>, telemetry: &Telemetry) -> Option<T> {
        let path = file.path;
        let fault = match file.value {
            Ok(value) => {
                if self.0.remove(&path) {
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
            Fault::Implausible(_) => Unread::Implausible,
        };
        telemetry.unread(reason, 1);
        if !self.0.contains(&path) {
            tracing::warn!(
                path = %plain::plain(&path.to_string_lossy()), error = %fault,
                "a value of an RDMA device can't be read and is left out; hint: check the driver with `dmesg`; further failures are \
                 counted in `flowtap_receiver_unread_values_total`"
            );
            if self.0.len() < MAX_BROKEN {
                self.0.insert(path);
            }
        }
        None
    }
}

impl Reader {
    pub(super) fn new(room: Room, telemetry: Telemetry) -> Self {
        Self {
            telemetry,
            room,
            counters: HashMap::new(),
            links: HashSet::new(),
            broken: Broken::default(),
            looks: 0,
        }
    }

    /// Counts by `telemetry` from now on.
    pub(super) fn set_telemetry(&mut self, telemetry: Telemetry) {
        self.telemetry = telemetry;
    }

    /// Reads the device `name`.
    pub(super) fn look(&mut self, sysfs_root: &Path, name: &str, readings: &mut Vec<ReadingRecord>) {
        self.looks += 1;
        let device = tree::read_device(sysfs_root, name).map(Some);
        let device = self.value(Value {
            path: tree::class_folder(sysfs_root).join(name),
            value: device.map_err(Fault::Unreadable),
        });
        let Some(device) = device else { return };
        let mut links = HashSet::new();
        self.read_device(device, &mut links, readings);
        end(&self.links, &links, readings);
        self.links = links;
    }

    /// Ends the levels of a device that is gone.
    pub(super) fn end_levels(&mut self, readings: &mut Vec<ReadingRecord>) {
        end(&self.links, &HashSet::new(), readings);
        self.links.clear();
    }

    fn value<T>(&mut self, file: Value<T>) -> Option<T> {
        self.broken.value(file, &self.telemetry)
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
                (Label::Device, escape(&origin.name).into_owned()),
                (Label::Port, escape(&part.port).into_owned()),
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
        let mut file = counter.file;
        let (path, read_at, look) = (file.path.clone(), Instant::now(), self.looks);
        let known = self.counters.get_mut(&path);
        let known = known.filter(|known| known.guid == origin.guid && known.family == family);
        if let (Ok(Some(now)), Some(known)) = (&file.value, known) {
            known.look = look;
            let (units, was_reset) = match known.progress.step(*now, read_at) {
                Step::Increase(units) => (units, false),
                Step::Reset(units) => (units, true),
                Step::Implausible => {
                    file.value = Err(Fault::Implausible(*now));
                    self.value(file);
                    return;
                }
            };
            let value = ReadingValue::Increase(units.saturating_mul(known.scale));
            readings.push(ReadingRecord::new(family, known.labels.clone(), value));
            if was_reset {
                self.telemetry.reset();
            }
            self.value(file);
            return;
        }
        let Some(now) = self.value(file) else { return };
        let Some(place) = self.place(&path) else {
            self.telemetry.unread(Unread::TooMany, 1);
            return;
        };
        let counted = match meaning.direction() {
            Some(direction) => (Label::Direction, direction.as_str().to_owned()),
            None => (Label::Counter, escape(&counter.name).into_owned()),
        };
        let labels = ReadingLabels::new(labels.iter().cloned().chain([counted]));
        readings.push(ReadingRecord::new(
            family,
            labels.clone(),
            ReadingValue::Increase(0),
        ));
        let counter = Counter {
            guid: origin.guid.clone(),
            progress: Progress::new(
                now,
                read_at,
                has_32_bits(&origin.driver, counter.folder, &counter.name),
            ),
            scale: meaning.scale(),
            family,
            labels,
            look,
            _place: place,
        };
        self.counters.insert(path, counter);
    }

    /// Room for another counter, if need be in place of those that the last look did not find.
    fn place(&mut self, path: &Path) -> Option<Place> {
        // One of another device, or of another family, that was at this path.
        self.counters.remove(path);
        self.room.take().or_else(|| {
            let looks = self.looks;
            self.counters.retain(|_, counter| counter.look + 1 >= looks);
            self.room.take()
        })
    }
}

/// Ends the levels that are shown `before` and not `now`.
pub(super) fn end(before: &HashSet<Shown>, now: &HashSet<Shown>, readings: &mut Vec<ReadingRecord>) {
    for (family, labels) in before.difference(now) {
        readings.push(ReadingRecord::new(*family, labels.clone(), ReadingValue::Ended));
    }
}
