//! Knowledge of subjects and contacts: the part that survives a restart.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use flowtap_pipeline::{Flow, Timestamp};
use serde::{Deserialize, Serialize};

use super::cut::{Before, Part};
use super::ends::{ContactKey, Object};
use super::history::{Counts, Mean, Rhythm, Volume};

/// A contact, as remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Contact {
    /// Seconds of the clock of `watch` when it was seen last.
    pub(super) last: u32,
    /// Bytes per interval in which any moved.
    pub(super) volume: Volume,
    /// Part of the connects that failed, per interval in which any was tried.
    pub(super) failures: Mean,
    pub(super) rhythm: Rhythm,
    /// Whether it was regular while nothing was reported, or was reported: then it is usual.
    pub(super) is_regular: bool,
    /// The pause of most activities while `watch` learned, in seconds, which is usual; 0 if there is none. A pause of hours comes too seldom
    /// in that time to be regular.
    pub(super) period: f32,
    /// Of the open interval.
    #[serde(skip)]
    pub(super) now: Activity,
    /// Of the newest one in which it was active.
    #[serde(skip)]
    pub(super) before: Before,
    /// A flow of the open interval: of the address that moved most of the bytes, if one moved more than half of them.
    #[serde(skip)]
    pub(super) flow: Option<Box<Flow>>,
}

impl Contact {
    /// Adds what is known of a part of the same end. The usual amount of both together is not known, and learned anew.
    fn merge(&mut self, part: &Self) {
        *self = Self {
            last: self.last.max(part.last),
            is_regular: self.is_regular || part.is_regular,
            period: self.period.max(part.period),
            ..Self::default()
        };
    }

    /// Adds a record to the open interval. Returns whether it is the first one.
    ///
    /// The flow that is kept is that of a majority vote (Boyer and Moore), which needs one place, however many addresses the other
    /// end has.
    pub(super) fn vote(&mut self, flow: &Flow, bytes: u64) -> bool {
        match &mut self.flow {
            None => {
                self.flow = Some(Box::new(flow.clone()));
                self.now.lead = bytes;
                return true;
            }
            Some(leads) if leads.remote.addr == flow.remote.addr => {
                self.now.lead = self.now.lead.saturating_add(bytes);
            }
            Some(leads) if bytes > self.now.lead => {
                (**leads).clone_from(flow);
                self.now.lead = bytes - self.now.lead;
            }
            Some(_) => self.now.lead -= bytes,
        }
        false
    }
}

/// Activity of a contact in the open interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Activity {
    pub(super) whole: Part,
    /// Of its second half.
    pub(super) late: Part,
    /// Bytes that the address of the contact's flow is ahead of all others.
    lead: u64,
}

impl Activity {
    /// Adds a record; `is_late`: of the second half.
    pub(super) fn push(&mut self, part: Part, is_late: bool) {
        self.whole.add(part);
        if is_late {
            self.late.add(part);
        }
    }
}

/// A subject, as remembered, without its contacts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) name: String,
    /// Seconds of the clock of `watch` when it was seen first, and last.
    first: u32,
    pub(super) last: u32,
    /// Bytes sent to external peers, per interval in which any were.
    pub(super) sent: Volume,
    /// Addresses tried per interval in which any was.
    pub(super) destinations: Counts,
    /// Ports tried of the address of which the most were, likewise.
    pub(super) ports: Counts,
    /// Countries that it was in contact with.
    pub(super) countries: BTreeSet<Country>,
}

impl Subject {
    /// It is active at `now`, in seconds.
    pub(super) fn see(&mut self, now: u32) {
        if self.first == 0 {
            self.first = now;
        }
        self.last = now;
    }

    /// Seconds for which it is known.
    const fn age(&self) -> u32 {
        self.last.saturating_sub(self.first)
    }
}

/// The subject of all traffic whose own subject has no room. As elsewhere: `other`.
const OTHER: &str = "other";

/// Part of the subjects that are forgotten at once, to make room.
const EVICTED_PART: usize = 8;

/// Code of a country, two letters of ISO 3166-1.
pub(super) type Country = [u8; 2];

/// The code as a text; empty if it is none.
pub(super) fn country_code(country: &Country) -> &str {
    str::from_utf8(country).unwrap_or("")
}

/// Whole seconds.
pub(super) fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX)
}

/// Name servers of a subject that are contacts of their own. One that asks more resolves names itself, and would have a first contact
/// with each server of the world.
const NAME_SERVERS: usize = 8;

/// Settings that what is learned depends on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Basis {
    /// Zero before anything was learned.
    pub(super) interval: Duration,
    pub(super) ipv4: Prefixes,
    pub(super) ipv6: Prefixes,
}

/// Prefix lengths of the ranges that other ends are in, of one family.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Prefixes {
    pub(super) length: u8,
    /// Shorter ones that were set earlier. The ranges of that time can't be divided: what is in one is known.
    pub(super) shorter: BTreeSet<u8>,
}

impl Prefixes {
    fn replace(&mut self, length: u8) {
        self.shorter.insert(self.length);
        self.length = length;
        self.shorter.retain(|shorter| *shorter < length);
    }
}

/// Everything that was learned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// When learning began, in nanoseconds of the clock of `watch`; 0 before the first watermark.
    pub(super) since: u64,
    /// The newest watermark by that clock, and the latest one by the system's, which may have been set back since.
    pub(super) now: u64,
    pub(super) system: u64,
    pub(super) basis: Basis,
    pub(super) subjects: Vec<Option<Subject>>,
    pub(super) contacts: HashMap<ContactKey, Contact>,
    /// When a country was seen first, by the same clock; 0 for never. Countries are learned from then on.
    pub(super) countries_since: u64,
    /// When learning ended, in nanoseconds of the system's clock of that time; 0 before. A later jump of that clock does not move it. The
    /// state file has it after all else, as older ones have none.
    #[serde(skip)]
    pub(super) learned_until: u64,
    #[serde(skip)]
    numbers: HashMap<String, u32>,
    /// Places of subjects that were forgotten.
    #[serde(skip)]
    free: Vec<u32>,
    /// Name servers by subject.
    #[serde(skip)]
    name_servers: HashMap<u32, usize>,
}

impl Memory {
    /// The time at the start, when the system's clock shows `at`. Of the time since it was saved, half of `forget` counts at most, as the
    /// clock may be ahead: what is used is still known then. As learning it does not count.
    pub(super) fn resume(&mut self, at: Timestamp, learn: Duration, forget: Duration) -> Timestamp {
        // 0 stands for never.
        let at = at.max(Timestamp::from_nanos(1_000_000_000));
        if self.since == 0 {
            (self.since, self.now, self.system) = (at.as_nanos(), at.as_nanos(), at.as_nanos());
            return at;
        }
        let stopped = at.since(Timestamp::from_nanos(self.system)).min(forget / 2);
        let saved = Timestamp::from_nanos(self.now);
        let now = saved.plus(stopped);
        self.tick(now, at);
        for since in [&mut self.since, &mut self.countries_since] {
            let began = Timestamp::from_nanos(*since);
            if *since > 0 && saved.since(began) < learn {
                *since = began.plus(stopped).as_nanos();
            }
        }
        now
    }

    /// The time for which it had learned when it was saved.
    pub(super) fn learned(&self) -> Duration {
        Timestamp::from_nanos(self.now).since(Timestamp::from_nanos(self.since))
    }

    /// The newest watermark: `now` by the clock of `watch`, `system` by the system's. A clock without a battery begins anew with each boot; a
    /// stop in which it is set counts from the latest time that it had, not from that of the boot.
    pub(super) fn tick(&mut self, now: Timestamp, system: Timestamp) {
        self.now = now.as_nanos();
        self.system = self.system.max(system.as_nanos());
    }

    /// Brings what was learned with other settings to these. Returns what differs, as words.
    ///
    /// Amounts of a longer interval are larger, at most by as much as it is longer: that is taken for usual until it is learned anew, so
    /// that nothing is found which is only another setting. Those of a shorter one are at most as large as before.
    pub(super) fn adapt(&mut self, interval: Duration, ipv4_prefix: u8, ipv6_prefix: u8) -> Vec<String> {
        let mut changes = Vec::new();
        let before = std::mem::replace(&mut self.basis.interval, interval);
        if before.is_zero() {
            (self.basis.ipv4.length, self.basis.ipv6.length) = (ipv4_prefix, ipv6_prefix);
            return changes;
        }
        if before != interval {
            let factor = (interval.as_secs_f32() / before.as_secs_f32()).max(1.0);
            for subject in self.subjects.iter_mut().flatten() {
                subject.sent.scale(factor);
                subject.destinations.scale(factor);
                subject.ports.scale(factor);
            }
            for contact in self.contacts.values_mut() {
                contact.volume.scale(factor);
            }
            let [before, now] = [before, interval].map(|interval| interval.as_secs_f64());
            changes.push(format!("interval {now} s instead of {before} s"));
        }
        let [before, before_ipv6] = [self.basis.ipv4.length, self.basis.ipv6.length];
        if (before, before_ipv6) != (ipv4_prefix, ipv6_prefix) {
            self.basis.ipv4.replace(ipv4_prefix);
            self.basis.ipv6.replace(ipv6_prefix);
            for (mut key, contact) in std::mem::take(&mut self.contacts) {
                key.object = key.object.within(ipv4_prefix, ipv6_prefix);
                match self.contacts.entry(key) {
                    Entry::Occupied(mut known) => known.get_mut().merge(&contact),
                    Entry::Vacant(new) => {
                        new.insert(contact);
                    }
                }
            }
            self.find_places();
            changes.push(format!(
                "prefixes /{ipv4_prefix} and /{ipv6_prefix} instead of /{before} and /{before_ipv6}"
            ));
        }
        changes
    }

    /// Whether the other end of `key` is in a range that was a contact when prefixes were shorter.
    pub(super) fn knows_wider(&self, key: &ContactKey) -> bool {
        let Object::Range(range) = &key.object else {
            return false;
        };
        let prefixes = match range.addr() {
            IpAddr::V4(_) => &self.basis.ipv4,
            IpAddr::V6(_) => &self.basis.ipv6,
        };
        prefixes.shorter.iter().any(|length| {
            let object = key.object.within(*length, *length);
            self.contacts.contains_key(&ContactKey {
                object,
                ..key.clone()
            })
        })
    }

    /// The number of the subject of this name; a new one if there is room.
    pub(super) fn number(&mut self, name: String, max: usize) -> Option<u32> {
        if let Some(number) = self.numbers.get(&name) {
            return Some(*number);
        }
        if self.numbers.len() >= max {
            return None;
        }
        let number = if let Some(free) = self.free.pop() {
            free
        } else {
            let next = u32::try_from(self.subjects.len()).ok()?;
            self.subjects.push(None);
            next
        };
        *self.subjects.get_mut(number as usize)? = Some(Subject {
            name: name.clone(),
            ..Subject::default()
        });
        self.numbers.insert(name, number);
        Some(number)
    }

    /// The number of the subject `other`, which always has room.
    pub(super) fn other(&mut self) -> Option<u32> {
        self.number(OTHER.to_owned(), usize::MAX)
    }

    /// Makes room: of the eighth of `max` subjects that have been known for the shortest time, which have learned least, forgets those that
    /// were not seen since `idle_since` and have been known for less than `settled` (in seconds). Older ones stay even if all of the
    /// youngest are active, as in the interval of a flood. Their contacts go with the next [`forget`](Self::forget). Returns whether there
    /// were any.
    pub(super) fn evict_subjects(&mut self, max: usize, idle_since: u32, settled: u32) -> bool {
        let known = self.subjects.iter().zip(0_usize..);
        let mut youngest: Vec<_> = known
            .filter_map(|(subject, place)| Some((subject.as_ref()?, place)))
            .filter(|(subject, _)| subject.age() < settled && subject.name != OTHER)
            .map(|(subject, place)| (subject.age(), subject.last, place))
            .collect();
        youngest.sort_unstable();
        youngest.truncate((max / EVICTED_PART).max(1));
        youngest.retain(|(_, last, _)| *last < idle_since);
        for (_, _, place) in &youngest {
            self.remove_subject_if(*place, |_| true);
        }
        !youngest.is_empty()
    }

    fn remove_subject_if(&mut self, place: usize, is_due: impl FnOnce(&Subject) -> bool) {
        let place = self.subjects.get_mut(place);
        if let Some(subject) = place.and_then(|place| place.take_if(|subject| is_due(subject))) {
            self.numbers.remove(&subject.name);
        }
    }

    /// Whether there is a subject with this number.
    pub(super) fn has_subject(&self, number: u32) -> bool {
        self.subjects.get(number as usize).is_some_and(Option::is_some)
    }

    pub(super) fn subject_mut(&mut self, number: u32) -> Option<&mut Subject> {
        self.subjects.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn name(&self, number: u32) -> &str {
        let subject = self.subjects.get(number as usize);
        subject
            .and_then(Option::as_ref)
            .map_or("unknown", |subject| &subject.name)
    }

    /// The contact with this key, a new one if there is none.
    pub(super) fn contact(&mut self, key: ContactKey) -> &mut Contact {
        match self.contacts.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                if new.key().is_dns() {
                    *self.name_servers.entry(new.key().subject).or_default() += 1;
                }
                new.insert(Contact::default())
            }
        }
    }

    /// Whether the name server of `key` is a further one of a subject that asks many.
    pub(super) fn asks_beyond_its_servers(&self, key: &ContactKey) -> bool {
        let known = self.name_servers.get(&key.subject);
        known.is_some_and(|known| *known >= NAME_SERVERS) && !self.contacts.contains_key(key)
    }

    /// Adds a country to those of a subject. Returns whether it is a new one, and not one of those that are learned.
    pub(super) fn visit(&mut self, subject: u32, country: Country, now: Timestamp, learn: Duration) -> bool {
        if self.countries_since == 0 {
            self.countries_since = now.as_nanos();
        }
        let since = Timestamp::from_nanos(self.countries_since);
        let Some(subject) = self.subject_mut(subject) else {
            return false;
        };
        subject.countries.insert(country) && now.since(since) >= learn
    }

    /// Forgets what was seen before `limit`, in seconds of the clock of `watch`.
    pub(super) fn forget(&mut self, limit: u32) {
        self.contacts.retain(|_, contact| contact.last >= limit);
        for place in 0..self.subjects.len() {
            self.remove_subject_if(place, |subject| subject.last < limit);
        }
        let subjects = &self.subjects;
        self.contacts
            .retain(|key, _| subjects.get(key.subject as usize).is_some_and(Option::is_some));
        self.find_places();
    }

    /// Finds the numbers and name servers again after it was read from a file.
    pub(super) fn index(&mut self) {
        let named = self.subjects.iter().zip(0_u32..);
        self.numbers = named
            .filter_map(|(subject, number)| Some((subject.as_ref()?.name.clone(), number)))
            .collect();
        self.find_places();
    }

    /// Finds free places, and name servers.
    fn find_places(&mut self) {
        let places = self.subjects.iter().zip(0_u32..);
        self.free = places
            .filter_map(|(subject, number)| subject.is_none().then_some(number))
            .collect();
        self.name_servers.clear();
        for key in self.contacts.keys().filter(|key| key.is_dns()) {
            *self.name_servers.entry(key.subject).or_default() += 1;
        }
    }
}
