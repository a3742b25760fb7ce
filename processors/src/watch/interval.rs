//! State of the open interval, which is judged at its end.

use std::collections::HashMap;
use std::time::Duration;

use super::Watch;
use super::attempts::{Sent, Tried};
use super::cut::{Before, Part, Usual};
use super::ends::{ContactKey, Object, is_external};
use super::findings::Draft;
use super::history::{Rhythm, is_like};
use super::memory::{Activity, Contact, seconds};

/// Part of the ratio that is asked for which is the most that may be usual.
const USUAL_FAILURES: f64 = 0.2;

/// Contacts of a subject with one range, at most, whose rhythm together is judged: those of a scan are more.
const MOST_PORTS: usize = 64;

/// Time after which a subject is settled if `learn` is shorter: such a subject makes no room for others.
const LEAST_SETTLED: Duration = Duration::from_secs(3600);

impl Watch {
    /// Compares the interval with what was usual, then makes it a part of that.
    pub(super) fn close_interval(&mut self) {
        let learning = self.is_learning();
        self.names.clear();
        let active = std::mem::take(&mut self.active);
        self.close_ranges(&active, learning);
        for key in active {
            self.close_contact(&key, learning);
        }
        for (subject, tried) in std::mem::take(&mut self.tried) {
            if let Some(next) = self.close_tried(subject, &tried, learning) {
                self.tried.insert(subject, next);
            }
        }
        for (subject, sent) in std::mem::take(&mut self.sent) {
            if let Some(next) = self.close_sent(subject, sent, learning) {
                self.sent.insert(subject, next);
            }
        }
        self.failing.clear();
        let limit = self
            .seconds()
            .saturating_sub(u32::try_from(self.config.forget.as_secs()).unwrap_or(u32::MAX));
        self.make_room_for_subjects();
        self.memory.forget(limit);
        // Their numbers will be those of others.
        self.outbox.forget_subjects(&self.memory);
        self.report_contacts();
    }

    /// Once in an interval, as a flood of names would have it done for each of them.
    fn make_room_for_subjects(&mut self) {
        if !self.is_short_of_subjects {
            return;
        }
        let idle_since = seconds(self.opened);
        let settled = u32::try_from(self.config.learn.max(LEAST_SETTLED).as_secs()).unwrap_or(u32::MAX);
        let max = self.config.max_subjects.get();
        self.is_short_of_subjects = !self.memory.evict_subjects(max, idle_since, settled);
    }

    /// Length of the interval that ends: that which is set, or the pause between two looks at sockets, if that is longer. In whole seconds,
    /// or tenths of a short one: two pipelines see their looks some milliseconds apart, and their findings are the same.
    fn interval_seconds(&self) -> f64 {
        let seconds = self.now().since(self.opened).as_secs_f64();
        if seconds < 1.0 {
            (seconds * 10.0).round() / 10.0
        } else {
            seconds.round()
        }
    }

    /// Beacons over several ports, or over TCP and UDP, of one range: none of these contacts is regular, all of them together are.
    fn close_ranges(&mut self, active: &[ContactKey], learning: bool) {
        let looks = self.clock.pace.interval();
        let (variation, bytes) = (self.config.beacon.variation, self.config.beacon.bytes);
        let is_one = |key: &ContactKey| {
            !key.serves && !key.is_regular_by_nature() && matches!(key.object, Object::Range(_))
        };
        let contacts = &self.memory.contacts;
        let is_irregular = |contact: &Contact| {
            !contact.is_regular && contact.rhythm.regular(variation, bytes, looks).is_none()
        };
        let is_of_external = |contact: &Contact| {
            let flow = contact.flow.as_deref();
            flow.is_some_and(|flow| is_external(flow.class))
        };
        let newest = active.iter().filter(|key| is_one(key));
        let newest = newest.filter_map(|key| Some((key, contacts.get(key)?)));
        let newest = newest.filter(|(_, contact)| is_of_external(contact) && is_irregular(contact));
        let mut ranges: HashMap<_, (&ContactKey, usize)> = newest
            .map(|(key, _)| ((key.subject, &key.object), (key, 0)))
            .collect();
        if ranges.is_empty() {
            return;
        }
        let all = || contacts.keys().filter(|key| is_one(key));
        for key in all() {
            if let Some((_, ports)) = ranges.get_mut(&(key.subject, &key.object)) {
                *ports += 1;
            }
        }
        // Most have one: places for the ports of all of them would be much memory.
        ranges.retain(|_, (_, ports)| (2..=MOST_PORTS).contains(ports));
        let mut keys_of: HashMap<_, Vec<&ContactKey>> = HashMap::new();
        for key in all().filter(|_| !ranges.is_empty()) {
            let range = (key.subject, &key.object);
            if ranges.contains_key(&range) {
                keys_of.entry(range).or_default().push(key);
            }
        }
        let mut found = Vec::new();
        for (range, (newest, _)) in ranges {
            let keys = keys_of.remove(&range).unwrap_or_default();
            let parts = keys.iter().filter_map(|key| contacts.get(key));
            let all = Rhythm::of_all(parts.clone().map(|contact| &contact.rhythm), looks);
            let Some(regular) = all.regular(variation, bytes, looks) else {
                continue;
            };
            let is_like = |contact: &Contact| is_like(regular.period, f64::from(contact.period));
            let is_usual = parts
                .clone()
                .any(|contact| contact.is_regular || is_like(contact));
            let flow = contacts.get(newest).and_then(|contact| contact.flow.as_deref());
            if let Some(flow) = flow.filter(|_| learning || !is_usual) {
                let mut keys: Vec<_> = keys.into_iter().cloned().collect();
                keys.sort_unstable();
                let subject = self.memory.name(newest.subject);
                let draft = Draft::beacon_over(subject, newest, &keys, flow, regular);
                found.push((newest, keys, draft));
            }
        }
        // In an order that does not depend on that of a map: further ones may find no room.
        found.sort_unstable_by_key(|(newest, ..)| *newest);
        for (newest, keys, draft) in found {
            // Once, as each further activity would say the same. Rhythms of the time of learning are usual.
            if learning || self.config.beacon.enabled && self.outbox.put(newest, draft, self.now()) {
                for key in keys {
                    if let Some(contact) = self.memory.contacts.get_mut(&key) {
                        contact.is_regular = true;
                    }
                }
            }
        }
    }

    fn close_contact(&mut self, key: &ContactKey, learning: bool) {
        let (now, seconds) = (self.seconds(), self.interval_seconds());
        let Some(contact) = self.memory.contacts.get_mut(key) else {
            return;
        };
        let Activity { whole, late, .. } = std::mem::take(&mut contact.now);
        let before = contact.before.of(self.intervals);
        // The time of an interval that begins in the middle of the one before.
        let mut cut = whole.without(late);
        cut.add(before.map_or(Part::default(), |before| before.late));
        let flow = contact.flow.take();
        let (mut drafts, mut beacon) = (Vec::new(), None);
        let usual = before.and_then(|before| before.failures.get());
        let usual = usual.or_else(|| contact.failures.get());
        let most_bytes = whole.bytes.max(cut.bytes);
        let usual_bytes = before.filter(|before| before.has_bytes);
        let surge = contact
            .volume
            .compare(most_bytes, now, usual_bytes.map(|before| before.usual));
        let volume = &self.config.volume_surge;
        let surge = surge.filter(|surge| {
            volume.enabled
                && !learning
                && most_bytes >= volume.bytes
                && surge.is_one(most_bytes, volume.score)
        });
        let failure = &self.config.failure_surge;
        let failing = [cut, whole].into_iter().filter(|part| {
            let ratio = f64::from(part.failed) / f64::from(part.tried().max(1));
            part.failed as usize >= failure.failures.get() && ratio >= failure.ratio
        });
        let failing = failing.max_by_key(|part| part.failed).zip(usual);
        let failing = failing
            .filter(|(_, usual)| failure.enabled && !learning && *usual <= failure.ratio * USUAL_FAILURES);
        contact.before = Before {
            late,
            failures: contact.failures,
            usual: contact.volume.usual(),
            next: self.intervals.wrapping_add(1),
            has_bytes: whole.bytes > 0,
        };
        if surge.is_some() {
            contact.before.late.bytes = 0;
        }
        if failing.is_some() {
            (contact.before.late.opened, contact.before.late.failed) = (0, 0);
        }
        let regular = contact.rhythm.regular(
            self.config.beacon.variation,
            self.config.beacon.bytes,
            self.clock.pace.interval(),
        );
        let is_usual = contact.is_regular
            || regular.is_some_and(|regular| is_like(regular.period, f64::from(contact.period)));
        if whole.tried() > 0 {
            let ratio = f64::from(whole.failed) / f64::from(whole.tried());
            contact.failures.push(ratio);
        }
        if whole.bytes > 0 {
            contact.volume.push(whole.bytes, most_bytes, now, learning);
        }
        if learning {
            contact.is_regular |= regular.is_some();
            contact.period = contact.rhythm.period().unwrap_or(contact.period);
        }
        let Some(flow) = flow.filter(|_| !learning) else {
            return;
        };
        let subject = self.memory.name(key.subject);
        if let Some((part, usual)) = failing {
            let failing = self.failing.get(key).unwrap_or(&flow);
            let (failed, tried) = (part.failed, part.tried());
            drafts.push(Draft::failure_surge(
                subject, key, failing, failed, tried, usual, seconds,
            ));
        }
        if let Some(surge) = surge {
            drafts.push(Draft::volume_surge(
                subject, key, &flow, most_bytes, surge, seconds,
            ));
        }
        if let Some(regular) = regular
            && self.config.beacon.enabled
            && !is_usual
            && !key.serves
            && !key.is_regular_by_nature()
            && matches!(key.object, Object::Range(_))
            && is_external(flow.class)
        {
            beacon = Some(Draft::beacon(subject, key, &flow, regular));
        }
        for draft in drafts {
            self.outbox.put(key, draft, self.now());
        }
        // Once: each further activity would say the same.
        if let Some(beacon) = beacon
            && self.outbox.put(key, beacon, self.now())
            && let Some(contact) = self.memory.contacts.get_mut(key)
        {
            contact.is_regular = true;
        }
    }

    /// Judges what a subject tried. Returns what the next interval begins with; `None` if it tried nothing.
    fn close_tried(&mut self, number: u32, tried: &Tried, learning: bool) -> Option<Tried> {
        let (now, seconds) = (self.seconds(), self.interval_seconds());
        let subject = self.memory.subject_mut(number)?;
        let (whole_ports, _) = tried.most.as_ref()?;
        let newest = tried.newest.as_ref()?;
        let (ports, scanned) = tried.most_ports()?;
        let destinations = tried.most_destinations();
        let least = &self.config.fan_out;
        let before = tried.cut.usual;
        let mut known = before.map(|usual| usual.destinations);
        let mut known_ports = before.map(|usual| usual.ports);
        let counts = [tried.destinations().count, destinations.count];
        let least_destinations = least.destinations.get();
        let usual_destinations =
            subject
                .destinations
                .judge(counts, least_destinations, &mut known, now, learning);
        let counts = [whole_ports.count, ports.count];
        let usual_ports = subject
            .ports
            .judge(counts, least.ports.get(), &mut known_ports, now, learning);
        let usual = Usual {
            destinations: known?,
            ports: known_ports?,
            has_reported_destinations: usual_destinations.is_some(),
            has_reported_ports: usual_ports.is_some(),
        };
        let next = Tried::after(tried, usual);
        if !least.enabled {
            return Some(next);
        }
        let name = self.memory.name(number);
        let of_addresses =
            usual_destinations.map(|usual| Draft::fan_out(name, newest, destinations, usual, seconds));
        let of_ports = usual_ports.map(|usual| Draft::port_scan(name, scanned, *ports, usual, seconds));
        let drafts = [of_addresses, of_ports];
        for draft in drafts.into_iter().flatten() {
            self.outbox.put_of_subject(number, draft, self.now());
        }
        Some(next)
    }

    /// Judges what a subject sent. Returns what the next interval begins with; `None` if it sent nothing.
    fn close_sent(&mut self, number: u32, mut sent: Sent, learning: bool) -> Option<Sent> {
        let (now, seconds) = (self.seconds(), self.interval_seconds());
        let subject = self.memory.subject_mut(number)?;
        let whole = sent.whole.bytes;
        if whole == 0 {
            return None;
        }
        let (bytes, largest) = sent.most();
        let surge = subject.sent.compare(bytes, now, sent.usual);
        let usual = subject.sent.usual();
        subject.sent.push(whole, bytes, now, learning);
        let volume = &self.config.volume_surge;
        let surge = surge.filter(|surge| {
            volume.enabled && !learning && bytes >= volume.bytes && surge.is_one(bytes, volume.score)
        });
        let is_reported = surge.is_some();
        if let (Some(largest), Some(surge)) = (largest, surge) {
            let first = &self.config.first_contact;
            let object = self
                .names
                .object(&largest.flow, first.ipv4_prefix, first.ipv6_prefix);
            let object = largest.is_known.then_some(&object);
            let subject = self.memory.name(number);
            let draft = Draft::sent_surge(subject, object, &largest, bytes, surge, seconds);
            self.outbox.put_of_subject(number, draft, self.now());
        }
        Some(sent.next(usual, is_reported))
    }
}
