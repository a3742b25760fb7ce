//! Findings in words, and the outbox that keeps them from being repeated.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::{FindingKind, FindingRecord, Findings, Flow, FlowBatch, Timestamp};

use super::ends::{ContactKey, Object, server_port};
use super::history::{Regular, Surge, UsualCount};
use super::memory::Memory;

/// Findings whose repetition is watched for. With more, all of them may be repeated.
const MAX_SAID: usize = 16_384;

/// Findings that are made between two watermarks. A flood of them says no more than its beginning.
pub(super) const MAX_WAITING: usize = 1000;

/// A finding without its time.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) kind: FindingKind,
    flow: Flow,
    subject: Arc<str>,
    object: Arc<str>,
    text: String,
    numbers: Vec<(&'static str, f64)>,
}

fn port(key: &ContactKey) -> String {
    match (key.port, key.is_udp) {
        (0, false) => ", an ephemeral port".to_owned(),
        (0, true) => ", an ephemeral port of UDP".to_owned(),
        (port, false) => format!(", port {port}"),
        (port, true) => format!(", port {port}/udp"),
    }
}

/// Words for the first traffic with another end. A connect that failed reached nothing.
const fn reached(has_failed: bool) -> &'static str {
    if has_failed { "tried to reach" } else { "talks to" }
}

/// The address of the peer, and which of the ephemeral ports it is, if that is known.
fn address(key: &ContactKey, flow: &Flow) -> String {
    let addr = flow.remote.addr;
    match server_port(flow) {
        port if key.port == 0 && port != 0 => format!("{addr}, port {port}"),
        _ => addr.to_string(),
    }
}

/// The other end with its port, and the address in it, unless that is all of it.
fn end(key: &ContactKey, flow: &Flow) -> String {
    let (object, address) = (key.object.to_string(), address(key, flow));
    if object == address {
        return object + &port(key);
    }
    format!("{object}{} (address {address})", port(key))
}

impl Draft {
    fn of_contact(
        kind: FindingKind,
        subject: &str,
        key: &ContactKey,
        flow: &Flow,
        text: String,
        numbers: Vec<(&'static str, f64)>,
    ) -> Self {
        Self {
            kind,
            flow: flow.clone(),
            subject: subject.into(),
            object: key.object.to_string().into(),
            text,
            numbers,
        }
    }

    /// `country`: its code, or nothing.
    pub(super) fn first_contact(
        subject: &str,
        key: &ContactKey,
        (flow, has_failed): (&Flow, bool),
        country: &str,
        is_new_country: bool,
    ) -> Self {
        let country = match country {
            "" => String::new(),
            country if is_new_country => format!(", its first in {country}"),
            country => format!(" in {country}"),
        };
        let text = format!(
            "{subject} {} {}{} for the first time (address {}{country})",
            reached(has_failed),
            key.object,
            port(key),
            address(key, flow)
        );
        let numbers = Vec::from_iter(is_new_country.then_some(("new_country", 1.0)));
        Self::of_contact(FindingKind::FirstContact, subject, key, flow, text, numbers)
    }

    pub(super) fn first_in_country(subject: &str, (flow, has_failed): (&Flow, bool), country: &str) -> Self {
        Self {
            kind: FindingKind::FirstContact,
            flow: flow.clone(),
            subject: subject.into(),
            object: country.into(),
            text: format!(
                "{subject} {} an address in {country} for the first time ({})",
                reached(has_failed),
                flow.remote.addr
            ),
            numbers: vec![("new_country", 1.0)],
        }
    }

    pub(super) fn on_list(kind: FindingKind, subject: &str, key: &ContactKey, flow: &Flow) -> Self {
        let which = if kind == FindingKind::BlackList {
            "which is on the black list"
        } else {
            "which is not on the white list"
        };
        let what = if key.is_udp { "datagrams" } else { "a connection" };
        let text = format!(
            "{subject} has {what} with {}{}, {which}",
            flow.remote.addr,
            port(&ContactKey {
                port: server_port(flow),
                ..key.clone()
            })
        );
        Self::of_contact(kind, subject, key, flow, text, Vec::new())
    }

    pub(super) fn fan_out(
        subject: &str,
        flow: &Flow,
        destinations: usize,
        usual: UsualCount,
        seconds: f64,
    ) -> Self {
        Self {
            kind: FindingKind::FanOut,
            flow: flow.clone(),
            subject: subject.into(),
            object: "".into(),
            text: format!(
                "{subject} tried {destinations} addresses in {seconds:.0} s; {:.0} are usual",
                usual.mean
            ),
            numbers: count("destinations", destinations, usual, seconds),
        }
    }

    pub(super) fn port_scan(
        subject: &str,
        flow: &Flow,
        ports: usize,
        usual: UsualCount,
        seconds: f64,
    ) -> Self {
        let addr = flow.remote.addr;
        Self {
            kind: FindingKind::FanOut,
            flow: flow.clone(),
            subject: subject.into(),
            object: addr.to_string().into(),
            text: format!(
                "{subject} tried {ports} ports of {addr} in {seconds:.0} s; {:.0} are usual",
                usual.mean
            ),
            numbers: count("ports", ports, usual, seconds),
        }
    }

    pub(super) fn failure_surge(
        subject: &str,
        key: &ContactKey,
        flow: &Flow,
        failed: u32,
        tried: u32,
        usual: f64,
        seconds: f64,
    ) -> Self {
        let ratio = f64::from(failed) / f64::from(tried.max(1));
        let text = format!(
            "{failed} of {tried} connects of {subject} to {} failed in {seconds:.0} s; {:.0} % are usual",
            end(key, flow),
            usual * 100.0
        );
        let numbers = vec![
            ("failed", f64::from(failed)),
            ("tried", f64::from(tried)),
            ("ratio", ratio),
            ("usual_ratio", usual),
            ("seconds", seconds),
        ];
        Self::of_contact(FindingKind::FailureSurge, subject, key, flow, text, numbers)
    }

    pub(super) fn volume_surge(
        subject: &str,
        key: &ContactKey,
        flow: &Flow,
        bytes: u64,
        surge: Surge,
        seconds: f64,
    ) -> Self {
        let text = format!(
            "{subject} moved {bytes} bytes with {} in {seconds:.0} s; {:.0} are usual",
            end(key, flow),
            surge.median
        );
        Self::of_contact(
            FindingKind::VolumeSurge,
            subject,
            key,
            flow,
            text,
            volume(bytes, surge, seconds),
        )
    }

    /// With a flow to the peer that got the most, and how many bytes that is at least. `object` is the end that this peer is of: a surge to
    /// another end is another finding, however soon.
    pub(super) fn sent_surge(
        subject: &str,
        object: &Object,
        (flow, to_peer): (&Flow, u64),
        bytes: u64,
        surge: Surge,
        seconds: f64,
    ) -> Self {
        let mut numbers = volume(bytes, surge, seconds);
        numbers.push(("peer_bytes", to_peer as f64));
        Self {
            kind: FindingKind::VolumeSurge,
            flow: flow.clone(),
            subject: subject.into(),
            object: object.to_string().into(),
            text: format!(
                "{subject} sent {bytes} bytes to external peers in {seconds:.0} s, the largest part ({to_peer} bytes) to {}; {:.0} are usual",
                flow.remote.addr, surge.median
            ),
            numbers,
        }
    }

    pub(super) fn beacon(subject: &str, key: &ContactKey, flow: &Flow, regular: Regular) -> Self {
        let text = format!(
            "{subject} is in touch with {} every {:.0} s (varying by {:.0} %), {} times, with at most {} bytes",
            end(key, flow),
            regular.period,
            regular.variation * 100.0,
            regular.times,
            regular.bytes
        );
        let numbers = vec![
            ("period_seconds", regular.period),
            ("variation", regular.variation),
            ("times", regular.times as f64),
            ("bytes", regular.bytes as f64),
        ];
        Self::of_contact(FindingKind::Beacon, subject, key, flow, text, numbers)
    }
}

fn count(name: &'static str, count: usize, usual: UsualCount, seconds: f64) -> Vec<(&'static str, f64)> {
    vec![
        (name, count as f64),
        ("usual", usual.mean),
        ("largest_usual", usual.largest),
        ("seconds", seconds),
    ]
}

fn volume(bytes: u64, surge: Surge, seconds: f64) -> Vec<(&'static str, f64)> {
    vec![
        ("bytes", bytes as f64),
        ("usual_bytes", surge.median),
        ("largest_usual_bytes", surge.largest),
        ("score", surge.score),
        ("seconds", seconds),
    ]
}

/// When a finding was last made, by its kind and ends.
pub(super) type Said = HashMap<(FindingKind, Option<ContactKey>, Arc<str>), Timestamp>;

/// Findings that wait for the next watermark.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Vec<FindingRecord>,
    /// Findings beyond [`MAX_WAITING`] since they were counted.
    pub(super) left_out: u64,
    said: Said,
    repeat: Duration,
    newest: Arc<Findings>,
}

impl Outbox {
    pub(super) fn new(newest: Arc<Findings>, repeat: Duration, said: Said) -> Self {
        Self {
            waiting: Vec::new(),
            left_out: 0,
            said,
            repeat,
            newest,
        }
    }

    /// Drops what may be repeated at `now`, and what a clock that was ahead has left.
    pub(super) fn begin(&mut self, now: Timestamp) {
        let repeat = self.repeat;
        self.said
            .retain(|_, said| *said <= now && now.since(*said) < repeat);
    }

    /// Drops what was found about subjects that are forgotten: their numbers are given to others.
    pub(super) fn forget_subjects(&mut self, memory: &Memory) {
        self.said.retain(|(_, key, _), _| {
            let subject = key.as_ref().map(|key| key.subject);
            subject.is_none_or(|subject| memory.has_subject(subject))
        });
    }

    /// The newest findings, for clients.
    #[cfg(test)]
    pub(super) fn newest(&self) -> &Findings {
        &self.newest
    }

    /// The findings whose repetition is watched for.
    pub(super) const fn said(&self) -> &Said {
        &self.said
    }

    /// A finding about a contact. Returns whether it is made, now or within `repeat`: not if there is no room for it.
    pub(super) fn put(&mut self, key: &ContactKey, draft: Draft, now: Timestamp) -> bool {
        self.put_once(Some(key.clone()), draft, now)
    }

    /// A finding about a subject, and what its draft has as the other end.
    pub(super) fn put_of_subject(&mut self, draft: Draft, now: Timestamp) {
        self.put_once(None, draft, now);
    }

    fn put_once(&mut self, key: Option<ContactKey>, draft: Draft, now: Timestamp) -> bool {
        let ends = match &key {
            Some(_) => Arc::from(""),
            None => format!("{} {}", draft.subject, draft.object).into(),
        };
        let id = (draft.kind, key, ends);
        if self
            .said
            .get(&id)
            .is_some_and(|said| now.since(*said) < self.repeat)
        {
            return true;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.left_out += 1;
            return false;
        }
        if self.said.len() >= MAX_SAID {
            let repeat = self.repeat;
            self.said.retain(|_, said| now.since(*said) < repeat);
            if self.said.len() >= MAX_SAID {
                self.said.clear();
            }
        }
        self.said.insert(id, now);
        self.waiting.push(FindingRecord {
            flow: draft.flow,
            kind: draft.kind,
            at: now,
            subject: draft.subject,
            object: draft.object,
            text: draft.text.into(),
            numbers: draft.numbers,
        });
        true
    }

    /// Moves pending findings into `batch`. They are of `now`, the watermark: another pipeline with the same processor may have begun at
    /// another moment, and has the same watermarks.
    pub(super) fn take(&mut self, batch: &mut FlowBatch, now: Timestamp) {
        for mut finding in self.waiting.drain(..) {
            finding.at = now;
            self.newest.push(finding.clone());
            batch.findings.push(finding);
        }
    }
}
