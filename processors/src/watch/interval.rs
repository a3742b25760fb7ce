//! State of the open interval, which is judged at its end.

use std::time::Duration;

use super::Watch;
use super::attempts::{Sent, Tried};
use super::ends::{ContactKey, Object, is_external};
use super::findings::Draft;
use super::memory::{Activity, seconds};

/// Multiple of the usual number of destinations from which on it may be a scan.
const FAN_OUT_MULTIPLE: f64 = 4.0;

/// The least multiple of the usual bytes that is a surge.
const VOLUME_MULTIPLE: f64 = 4.0;

/// Part of the ratio that is asked for which is the most that may be usual.
const USUAL_FAILURES: f64 = 0.2;

/// Time after which a subject is settled if `learn` is shorter: such a subject makes no room for others.
const LEAST_SETTLED: Duration = Duration::from_secs(3600);

impl Watch {
    /// Compares the interval with what was usual, then makes it a part of that.
    pub(super) fn close_interval(&mut self) {
        let learning = self.is_learning();
        self.names.clear();
        for key in std::mem::take(&mut self.active) {
            self.close_contact(&key, learning);
        }
        for (subject, tried) in std::mem::take(&mut self.tried) {
            self.close_tried(subject, &tried, learning);
        }
        for (subject, sent) in std::mem::take(&mut self.sent) {
            self.close_sent(subject, &sent, learning);
        }
        self.failing.clear();
        let limit = self
            .seconds()
            .saturating_sub(u32::try_from(self.config.forget.as_secs()).unwrap_or(u32::MAX));
        self.make_room_for_subjects();
        self.memory.forget(limit);
        // Their numbers will be those of others.
        self.outbox.forget_subjects(&self.memory);
        self.telemetry.contacts.record(
            self.memory.contacts.len() as u64,
            std::slice::from_ref(&self.telemetry.processor),
        );
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

    fn close_contact(&mut self, key: &ContactKey, learning: bool) {
        let seconds = self.interval_seconds();
        let Some(contact) = self.memory.contacts.get_mut(key) else {
            return;
        };
        let Activity {
            bytes,
            opened,
            failed,
            ..
        } = std::mem::take(&mut contact.now);
        let flow = contact.flow.take();
        let mut drafts = Vec::new();
        let tried = opened + failed;
        let usual = contact.failures.get();
        let surge = contact.volume.compare(bytes);
        let regular = contact.rhythm.regular(
            self.config.beacon.variation,
            self.config.beacon.bytes,
            self.clock.pace.interval(),
        );
        let was_regular = contact.is_regular;
        if tried > 0 {
            contact.failures.push(f64::from(failed) / f64::from(tried));
        }
        if bytes > 0 {
            contact.volume.push(bytes);
        }
        if learning && regular.is_some() {
            contact.is_regular = true;
        }
        let Some(flow) = flow.filter(|_| !learning) else {
            return;
        };
        let subject = self.memory.name(key.subject);
        let failure = &self.config.failure_surge;
        let ratio = f64::from(failed) / f64::from(tried.max(1));
        if let Some(usual) = usual.filter(|usual| *usual <= failure.ratio * USUAL_FAILURES)
            && failure.enabled
            && failed as usize >= failure.failures.get()
            && ratio >= failure.ratio
        {
            let failing = self.failing.get(key).unwrap_or(&flow);
            drafts.push(Draft::failure_surge(
                subject, key, failing, failed, tried, usual, seconds,
            ));
        }
        let volume = &self.config.volume_surge;
        if let Some(surge) = surge
            && volume.enabled
            && bytes >= volume.bytes
            && surge.score >= volume.score
            && bytes as f64 >= surge.median * VOLUME_MULTIPLE
        {
            drafts.push(Draft::volume_surge(subject, key, &flow, bytes, surge, seconds));
        }
        if let Some(regular) = regular
            && self.config.beacon.enabled
            && !was_regular
            && !key.serves
            && !key.is_regular_by_nature()
            && matches!(key.object, Object::Range(_))
            && is_external(flow.class)
        {
            drafts.push(Draft::beacon(subject, key, &flow, regular));
        }
        for draft in drafts {
            self.outbox.put(key, draft, self.now());
        }
    }

    fn close_tried(&mut self, number: u32, tried: &Tried, learning: bool) {
        let destinations = tried.destinations();
        let Some(subject) = self.memory.subject_mut(number) else {
            return;
        };
        let usual = subject.destinations.get();
        subject.destinations.push(destinations as f64);
        let Some(flow) = tried
            .newest
            .as_ref()
            .filter(|_| !learning && self.config.fan_out.enabled)
        else {
            return;
        };
        let seconds = self.interval_seconds();
        let name = self.memory.name(number);
        let usual = usual.unwrap_or(0.0);
        let mut drafts = Vec::new();
        if destinations >= self.config.fan_out.destinations.get()
            && destinations as f64 >= usual * FAN_OUT_MULTIPLE
        {
            drafts.push(Draft::fan_out(name, flow, destinations, usual, seconds));
        }
        if let Some((ports, flow)) = &tried.most
            && *ports >= self.config.fan_out.ports.get()
        {
            drafts.push(Draft::port_scan(name, flow, *ports, seconds));
        }
        for draft in drafts {
            self.outbox.put_of_subject(draft, self.now());
        }
    }

    fn close_sent(&mut self, number: u32, sent: &Sent, learning: bool) {
        let seconds = self.interval_seconds();
        let Some(subject) = self.memory.subject_mut(number) else {
            return;
        };
        let surge = subject.sent.compare(sent.bytes);
        subject.sent.push(sent.bytes);
        let volume = &self.config.volume_surge;
        if let (Some(largest), Some(surge)) = (sent.largest(), surge)
            && !learning
            && volume.enabled
            && sent.bytes >= volume.bytes
            && surge.score >= volume.score
            && sent.bytes as f64 >= surge.median * VOLUME_MULTIPLE
        {
            let first = &self.config.first_contact;
            let object = self.names.object(largest.0, first.ipv4_prefix, first.ipv6_prefix);
            let subject = self.memory.name(number);
            let draft = Draft::sent_surge(subject, &object, largest, sent.bytes, surge, seconds);
            self.outbox.put_of_subject(draft, self.now());
        }
    }
}
