//! Findings in words, and the outbox that keeps them from being repeated.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::{FindingKind, FindingRecord, Findings, Flow, FlowBatch, Timestamp};

use serde::{Deserialize, Serialize};

use super::attempts::Largest;
use super::counted::Counted;
use super::ends::{ContactKey, Object, server_port};
use super::history::{Regular, Surge, UsualCount};
use super::memory::Memory;
use super::numbers::Number;
use super::seen::Seen;

/// Findings whose repetition is watched for. With more, the oldest of the kind that has the most may be repeated.
const MAX_SAID: usize = 16_384;

/// Part of the findings of a kind that is forgotten at once, to make room.
const FORGOTTEN_PART: usize = 8;

/// Findings that are made between two watermarks. A flood of them says no more than its beginning.
pub(super) const MAX_WAITING: usize = 1000;

/// Those of each kind beyond [`MAX_WAITING`]: a flood of one kind leaves room for the others.
const RESERVED: usize = 100;

/// Those of [`RESERVED`] that are of one subject: its flood leaves room for others.
const RESERVED_OF_SUBJECT: usize = 10;

/// Multiple of the amount that was reported from which on a finding is another one, also within `repeat`: a small one would hide it.
const FAR_MORE: f64 = 4.0;

/// Amount of a finding about a connect that reached nothing. A connection with the same peer is far more: it is another finding.
const CONNECT: f64 = 1.0;

/// A finding without its time.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) kind: FindingKind,
    flow: Flow,
    subject: Arc<str>,
    object: Arc<str>,
    text: String,
    numbers: Vec<(Number, f64)>,
    /// Its bytes, addresses, ports or failed connects; 0 for a kind without an amount.
    amount: f64,
}

fn port(key: &ContactKey) -> String {
    match (key.port, key.is_udp) {
        (0, false) => ", an ephemeral port".to_owned(),
        (0, true) => ", an ephemeral port of UDP".to_owned(),
        (port, false) => format!(", port {port}"),
        (port, true) => format!(", port {port}/udp"),
    }
}

/// Words for the first traffic with another end. A connect that failed reached nothing, and datagrams without an answer may not have.
fn reached(seen: &Seen<'_>) -> &'static str {
    if seen.failed {
        "tried to reach"
    } else if seen.is_udp() && seen.received == 0 {
        "sends to"
    } else {
        "talks to"
    }
}

/// Words for what was seen with a peer on a list, whichever side began.
fn met(seen: &Seen<'_>) -> &'static str {
    if !seen.is_udp() {
        return match (seen.is_connect_alone(), seen.serves()) {
            (true, false) => "tried to connect to",
            (true, true) => "saw a connect fail of",
            (false, _) => "has a connection with",
        };
    }
    match (seen.opened || seen.sent > 0, seen.received > 0) {
        (true, true) => "exchanged datagrams with",
        (true, false) => "sent datagrams to",
        (false, _) => "received datagrams from",
    }
}

/// The address of the peer, and which of the ephemeral ports it is, if that is known.
fn address(key: &ContactKey, flow: &Flow) -> String {
    let addr = flow.remote.addr;
    match server_port(flow) {
        port if key.port == 0 && port != 0 => format!("{addr}, port {port}"),
        _ => addr.to_string(),
    }
}

/// The address and the port of a contact, with its protocol.
fn newest_end(key: &ContactKey, flow: &Flow) -> String {
    let protocol = if key.is_udp { "/udp" } else { "" };
    format!("{}, port {}{protocol}", flow.remote.addr, server_port(flow))
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
    /// Its numbers as a record has them.
    fn record_numbers(&self) -> Vec<(&'static str, f64)> {
        let is_of_kind = |(number, _): &(Number, f64)| number.kinds().contains(&self.kind);
        debug_assert!(
            self.numbers.iter().all(is_of_kind),
            "{self:?} has a number of another kind"
        );
        let numbers = self.numbers.iter();
        numbers.map(|(number, value)| number.of(*value)).collect()
    }

    fn of_contact(
        kind: FindingKind,
        subject: &str,
        key: &ContactKey,
        flow: &Flow,
        text: String,
        numbers: Vec<(Number, f64)>,
    ) -> Self {
        Self {
            kind,
            flow: flow.clone(),
            subject: subject.into(),
            object: key.object.to_string().into(),
            text,
            numbers,
            amount: 0.0,
        }
    }

    /// `country`: its code, or nothing.
    pub(super) fn first_contact(
        subject: &str,
        key: &ContactKey,
        seen: &Seen<'_>,
        country: &str,
        is_new_country: bool,
    ) -> Self {
        let flow = seen.flow;
        let country = match country {
            "" => String::new(),
            country if is_new_country => format!(", its first in {country}"),
            country => format!(" in {country}"),
        };
        let text = format!(
            "{subject} {} {}{} for the first time (address {}{country})",
            reached(seen),
            key.object,
            port(key),
            address(key, flow)
        );
        let numbers = Vec::from_iter(is_new_country.then_some((Number::NewCountry, 1.0)));
        Self::of_contact(FindingKind::FirstContact, subject, key, flow, text, numbers)
    }

    pub(super) fn first_in_country(subject: &str, seen: &Seen<'_>, country: &str) -> Self {
        Self {
            kind: FindingKind::FirstContact,
            flow: seen.flow.clone(),
            subject: subject.into(),
            object: country.into(),
            text: format!(
                "{subject} {} an address in {country} for the first time ({})",
                reached(seen),
                seen.flow.remote.addr
            ),
            numbers: vec![(Number::NewCountry, 1.0)],
            amount: 0.0,
        }
    }

    pub(super) fn on_list(kind: FindingKind, subject: &str, key: &ContactKey, seen: &Seen<'_>) -> Self {
        let which = if kind == FindingKind::BlackList {
            "which is on the black list"
        } else {
            "which is not on the white list"
        };
        let (flow, addr) = (seen.flow, seen.flow.remote.addr);
        let port = port(&ContactKey {
            port: server_port(flow),
            ..key.clone()
        });
        let text = format!("{subject} {} {addr}{port}, {which}", met(seen));
        Self {
            amount: if key.is_udp {
                0.0
            } else if seen.is_connect_alone() {
                CONNECT
            } else {
                CONNECT * FAR_MORE
            },
            ..Self::of_contact(kind, subject, key, flow, text, Vec::new())
        }
    }

    pub(super) fn fan_out(
        subject: &str,
        flow: &Flow,
        destinations: Counted,
        usual: UsualCount,
        seconds: f64,
    ) -> Self {
        Self {
            kind: FindingKind::FanOut,
            flow: flow.clone(),
            subject: subject.into(),
            object: "".into(),
            text: format!(
                "{subject} tried {} in {seconds} s; usually {}",
                many(destinations, "address", "addresses"),
                Number::Usual.round(usual.mean)
            ),
            numbers: count(Number::Destinations, destinations, usual, seconds),
            amount: destinations.count as f64,
        }
    }

    pub(super) fn port_scan(
        subject: &str,
        flow: &Flow,
        ports: Counted,
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
                "{subject} tried {} of {addr} in {seconds} s; usually {}",
                many(ports, "port", "ports"),
                Number::Usual.round(usual.mean)
            ),
            numbers: count(Number::Ports, ports, usual, seconds),
            amount: ports.count as f64,
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
            "{failed} of {tried} connects of {subject} to {} failed in {seconds} s; usually {:.0} %",
            end(key, flow),
            usual * 100.0
        );
        let numbers = vec![
            (Number::Failed, f64::from(failed)),
            (Number::Tried, f64::from(tried)),
            (Number::Ratio, ratio),
            (Number::UsualRatio, usual),
            (Number::Seconds, seconds),
        ];
        Self {
            amount: f64::from(failed),
            ..Self::of_contact(FindingKind::FailureSurge, subject, key, flow, text, numbers)
        }
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
            "{subject} moved {bytes} bytes with {} in {seconds} s; usually {}",
            end(key, flow),
            Number::UsualBytes.round(surge.median)
        );
        let numbers = volume(bytes, surge, seconds);
        Self {
            amount: bytes as f64,
            ..Self::of_contact(FindingKind::VolumeSurge, subject, key, flow, text, numbers)
        }
    }

    /// With a flow to the peer that got the most. `object` is the end that this peer is of, if it is known to be that: a surge to another
    /// end is another finding, however soon.
    pub(super) fn sent_surge(
        subject: &str,
        object: Option<&Object>,
        largest: &Largest,
        bytes: u64,
        surge: Surge,
        seconds: f64,
    ) -> Self {
        let (addr, to_peer) = (largest.flow.remote.addr, largest.bytes);
        let mut numbers = volume(bytes, surge, seconds);
        numbers.push((Number::PeerBytes, to_peer as f64));
        numbers.extend(largest.is_least.then_some(AT_LEAST));
        let at_least = if largest.is_least { "at least " } else { "" };
        let part = if largest.is_known {
            format!("the largest part ({at_least}{to_peer} bytes) to {addr}")
        } else {
            format!("to too many to know which one got the most, {at_least}{to_peer} bytes to {addr}")
        };
        Self {
            kind: FindingKind::VolumeSurge,
            flow: largest.flow.clone(),
            subject: subject.into(),
            object: object.map(ToString::to_string).unwrap_or_default().into(),
            text: format!(
                "{subject} sent {bytes} bytes to external peers in {seconds} s, {part}; usually {}",
                Number::UsualBytes.round(surge.median)
            ),
            numbers,
            amount: bytes as f64,
        }
    }

    pub(super) fn beacon(subject: &str, key: &ContactKey, flow: &Flow, regular: Regular) -> Self {
        Self::beacon_to(&end(key, flow), subject, key, flow, regular)
    }

    /// A beacon over several contacts with one range, the newest of which is `key`.
    pub(super) fn beacon_over(
        subject: &str,
        key: &ContactKey,
        all: &[ContactKey],
        flow: &Flow,
        regular: Regular,
    ) -> Self {
        let end = format!(
            "{} over {} ports (the newest: {})",
            key.object,
            all.len(),
            newest_end(key, flow)
        );
        let mut draft = Self::beacon_to(&end, subject, key, flow, regular);
        draft.numbers.push((Number::Ports, all.len() as f64));
        draft
    }

    fn beacon_to(end: &str, subject: &str, key: &ContactKey, flow: &Flow, regular: Regular) -> Self {
        // A connect that fails moves nothing.
        let (reaches, bytes) = match regular.bytes {
            0 => ("tries to reach", ", and no bytes move".to_owned()),
            bytes => ("is in touch with", format!(", with at most {bytes} bytes")),
        };
        let text = format!(
            "{subject} {reaches} {end} every {:.0} s (varying by {:.0} %), {} times{bytes}",
            regular.period,
            regular.variation * 100.0,
            regular.times,
        );
        let numbers = vec![
            (Number::PeriodSeconds, regular.period),
            (Number::Variation, regular.variation),
            (Number::Times, regular.times as f64),
            (Number::Bytes, regular.bytes as f64),
        ];
        Self::of_contact(FindingKind::Beacon, subject, key, flow, text, numbers)
    }
}

/// The number of a finding whose count, or `peer_bytes`, was not counted to the end.
const AT_LEAST: (Number, f64) = (Number::AtLeast, 1.0);

/// A count with its noun.
fn many(Counted { count, is_least }: Counted, one: &str, several: &str) -> String {
    let noun = if count == 1 { one } else { several };
    let at_least = if is_least { "at least " } else { "" };
    format!("{at_least}{count} {noun}")
}

fn count(number: Number, counted: Counted, usual: UsualCount, seconds: f64) -> Vec<(Number, f64)> {
    let mut numbers = vec![
        (number, counted.count as f64),
        (Number::Usual, usual.mean),
        (Number::LargestUsual, usual.largest),
        (Number::Seconds, seconds),
    ];
    numbers.extend(counted.is_least.then_some(AT_LEAST));
    numbers
}

fn volume(bytes: u64, surge: Surge, seconds: f64) -> Vec<(Number, f64)> {
    vec![
        (Number::Bytes, bytes as f64),
        (Number::UsualBytes, surge.median),
        (Number::LargestUsualBytes, surge.largest),
        (Number::Score, surge.score),
        (Number::Seconds, seconds),
    ]
}

/// When a finding was last made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Made {
    at: Timestamp,
    /// That of its draft; 0 if there is none, and after a restart, as it is not saved.
    #[serde(skip)]
    amount: f64,
}

impl From<Timestamp> for Made {
    fn from(at: Timestamp) -> Self {
        Self { at, amount: 0.0 }
    }
}

/// Kind and ends of a finding.
type Id = (FindingKind, Option<ContactKey>, Arc<str>);

/// The findings that were made.
pub(super) type Said = HashMap<Id, Made>;

/// Places that a kind has taken.
#[derive(Debug, Default)]
struct Reserved {
    taken: usize,
    by_subject: HashMap<u32, usize>,
}

/// Findings that wait for the next watermark.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Vec<FindingRecord>,
    /// Places taken in the room that is reserved for each kind.
    reserved: HashMap<FindingKind, Reserved>,
    /// Findings for which there was no room since they were counted.
    left_out: BTreeMap<FindingKind, u64>,
    said: Said,
    repeat: Duration,
    newest: Arc<Findings>,
}

impl Outbox {
    pub(super) fn new(newest: Arc<Findings>, repeat: Duration, said: Said) -> Self {
        Self {
            waiting: Vec::new(),
            reserved: HashMap::new(),
            left_out: BTreeMap::new(),
            said,
            repeat,
            newest,
        }
    }

    /// Takes out the numbers of the findings for which there was no room.
    pub(super) fn take_left_out(&mut self) -> BTreeMap<FindingKind, u64> {
        std::mem::take(&mut self.left_out)
    }

    /// Takes a place for a finding of this kind about this subject. Returns whether there was one.
    fn take_place(&mut self, kind: FindingKind, subject: u32) -> bool {
        let reserved: usize = self.reserved.values().map(|reserved| reserved.taken).sum();
        if self.waiting.len() - reserved < MAX_WAITING {
            return true;
        }
        let reserved = self.reserved.entry(kind).or_default();
        let of_subject = reserved.by_subject.get(&subject).copied().unwrap_or(0);
        let has_place = reserved.taken < RESERVED && of_subject < RESERVED_OF_SUBJECT;
        if has_place {
            reserved.taken += 1;
            reserved.by_subject.insert(subject, of_subject + 1);
        } else {
            *self.left_out.entry(kind).or_default() += 1;
        }
        has_place
    }

    /// Forgets what may be repeated at `now`; if that makes no room, a part of the kind that has the most, the oldest first. A flood of one
    /// kind lets no other one be repeated.
    fn make_room(&mut self, now: Timestamp) {
        let repeat = self.repeat;
        self.said.retain(|_, made| now.since(made.at) < repeat);
        if self.said.len() < MAX_SAID {
            return;
        }
        let mut times: HashMap<FindingKind, Vec<Timestamp>> = HashMap::new();
        for ((kind, ..), made) in &self.said {
            times.entry(*kind).or_default().push(made.at);
        }
        let Some((most, mut times)) = times.into_iter().max_by_key(|(_, times)| times.len()) else {
            return;
        };
        let mut left = (times.len() / FORGOTTEN_PART).max(1);
        let (_, newest_of_part, _) = times.select_nth_unstable(left - 1);
        let newest_of_part = *newest_of_part;
        self.said.retain(|(kind, ..), made| {
            let goes = left > 0 && *kind == most && made.at <= newest_of_part;
            left -= usize::from(goes);
            !goes
        });
    }

    /// Drops what may be repeated at `now`, and what a clock that was ahead has left.
    pub(super) fn begin(&mut self, now: Timestamp) {
        let repeat = self.repeat;
        self.said
            .retain(|_, made| made.at <= now && now.since(made.at) < repeat);
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
        self.put_once(key.subject, Some(key.clone()), draft, now)
    }

    /// A finding about the subject with this number, and what its draft has as the other end.
    pub(super) fn put_of_subject(&mut self, subject: u32, draft: Draft, now: Timestamp) {
        self.put_once(subject, None, draft, now);
    }

    fn put_once(&mut self, subject: u32, key: Option<ContactKey>, draft: Draft, now: Timestamp) -> bool {
        let ends = match &key {
            Some(_) => Arc::from(""),
            None => format!("{} {}", draft.subject, draft.object).into(),
        };
        let id = (draft.kind, key, ends);
        let is_repeated = |made: &Made| {
            // Without an amount nothing is far more.
            let is_far_more = made.amount > 0.0 && draft.amount >= made.amount * FAR_MORE;
            now.since(made.at) < self.repeat && !is_far_more
        };
        if self.said.get(&id).is_some_and(is_repeated) {
            return true;
        }
        if !self.take_place(draft.kind, subject) {
            return false;
        }
        if self.said.len() >= MAX_SAID && !self.said.contains_key(&id) {
            self.make_room(now);
        }
        let made = Made {
            at: now,
            amount: draft.amount,
        };
        self.said.insert(id, made);
        let numbers = draft.record_numbers();
        self.waiting.push(FindingRecord {
            flow: draft.flow,
            kind: draft.kind,
            at: now,
            subject: draft.subject,
            object: draft.object,
            text: draft.text.into(),
            numbers,
        });
        true
    }

    /// Moves pending findings into `batch`. They are of `now`, the watermark: another pipeline with the same processor may have begun at
    /// another moment, and has the same watermarks.
    pub(super) fn take(&mut self, batch: &mut FlowBatch, now: Timestamp) {
        self.reserved.clear();
        for mut finding in self.waiting.drain(..) {
            finding.at = now;
            self.newest.push(finding.clone());
            batch.findings.push(finding);
        }
    }
}
