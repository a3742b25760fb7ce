//! The table of UDP flows: a socket and one of its peers each.
//!
//! In: records of UDP, watermarks. Out: a log record per `active_timeout` and one at the end of each flow. The rules:
//!
//! 1. A flow ends when the receiver says so: its socket closed, or it was idle for the receiver's `udp.idle`. One of which the
//!    receiver reports nothing for `idle_timeout` has ended as well, as the report of its end may be lost.
//! 2. UDP has no age: a flow begins at the watermark before its first record, and moves up to the watermark after its last one. The
//!    record of one that was idle ends there, not when that was noticed (RFC 7011, `flowEndMilliseconds`).
//! 3. A flow that ended and moves again is another one.

use std::net::IpAddr;
use std::time::Duration;

use flowtap_pipeline::log::{Datagrams, Outcome, UdpLog};
use flowtap_pipeline::{Endpoint, Flow, LogBody, LogRecord, Timestamp, Transport, UdpApp, UdpEnd, UdpRecord};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::config::{Always, Sample};
use super::loss::LossReason;
use super::sampling::{self, splitmix};
use super::tracker::{SMALL, learn};
use crate::window::udp_error;

/// Identity of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    receiver: u16,
    /// Socket cookie; where the kernel gives none, the network namespace.
    socket: u64,
    transport: Transport,
    /// Without the address: a socket that is bound to none has one from its first datagram on.
    local_port: u16,
    remote: Endpoint,
}

impl Key {
    fn of(receiver: u16, flow: &Flow) -> Self {
        Self {
            receiver,
            socket: if flow.cookie == 0 {
                flow.netns.into()
            } else {
                flow.cookie
            },
            transport: flow.transport,
            local_port: flow.local.port,
            remote: flow.remote,
        }
    }
}

/// A flow from its first record to the last.
#[derive(Clone, Debug)]
pub(super) struct UdpFlow {
    flow: Flow,
    adopted: bool,
    app: UdpApp,
    /// Number of records before, those that sampling left out included.
    sequence: u32,
    /// The newest error.
    error: Option<&'static str>,
    /// Whether it is from after the record before.
    has_new_error: bool,
    /// Sum of the differences in these records.
    reported: Datagrams,
    total: Datagrams,
    /// Whether it has moved since the newest watermark.
    has_news: bool,
    began: Timestamp,
    /// The watermark after it moved last.
    moved_at: Timestamp,
    /// End of its record before, or its beginning.
    reported_at: Timestamp,
}

impl UdpFlow {
    /// The flow of its first record, which came after the watermark `seen`.
    pub(super) fn first(record: &UdpRecord, seen: Timestamp) -> Self {
        let mut flow = Self {
            flow: record.flow.clone(),
            adopted: !record.opened,
            app: record.app,
            sequence: 0,
            error: None,
            has_new_error: false,
            reported: Datagrams::default(),
            total: Datagrams::default(),
            has_news: true,
            began: seen,
            moved_at: seen,
            reported_at: seen,
        };
        flow.add(record);
        flow
    }

    fn add(&mut self, record: &UdpRecord) {
        let counts = Datagrams::from(record);
        self.has_news |= counts != Datagrams::default();
        self.total = self.total.plus(counts);
        if let Some(error) = udp_error(record) {
            (self.error, self.has_new_error) = (Some(error), true);
        }
        if record.app != UdpApp::Unknown {
            self.app = record.app;
        }
    }

    /// The watermark `to` follows what has been added.
    fn settle(&mut self, to: Timestamp) {
        if std::mem::take(&mut self.has_news) {
            self.moved_at = to;
        }
    }

    pub(super) const fn unreported(&self) -> Datagrams {
        self.total.minus(self.reported)
    }

    /// The probability with which flows like this one have records; `None` if this one has none.
    pub(super) fn chance(&self, sample: &Sample) -> Option<f64> {
        let is = |kind| match kind {
            Always::Failed => self.total.errors > 0 || self.error.is_some(),
            Always::Dropping => self.total.drops > 0,
            Always::Reset | Always::Retransmitting => false,
        };
        if sample.always.iter().any(|kind| is(*kind)) {
            return Some(1.0);
        }
        sampling::chance(self.identity(), sample.ratio)
    }

    /// A server's socket has many flows: each is kept or left out by itself.
    fn identity(&self) -> u64 {
        let address = match self.flow.remote.addr {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                // Networks differ in the upper half, hosts in the lower one.
                let [upper, lower] =
                    [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
                splitmix(upper) ^ lower
            }
        };
        let ports = u64::from(self.flow.local.port) << 16 | u64::from(self.flow.remote.port);
        let socket = if self.flow.cookie == 0 {
            self.flow.netns.into()
        } else {
            self.flow.cookie
        };
        splitmix(splitmix(socket) ^ address) ^ ports
    }

    /// Its record up to the watermark `to`, which the next one continues.
    pub(super) fn report(&mut self, outcome: Outcome, probability: f64, to: Timestamp) -> LogRecord {
        let at = match outcome {
            Outcome::Idle => self.moved_at.max(self.reported_at),
            _ => to,
        };
        // The last record says whether the flow failed, so that flows can be counted by it.
        let error = self.error.filter(|_| self.has_new_error || outcome.is_final());
        let (sequence, interval) = (self.sequence, at.since(self.reported_at));
        let delta = self.pass_over(outcome, at);
        let log = UdpLog {
            outcome,
            error,
            sequence,
            adopted: self.adopted,
            duration: at.since(self.began),
            interval,
            delta,
            total: self.total,
            app: self.app,
            probability,
        };
        LogRecord {
            at,
            flow: self.flow.clone(),
            body: LogBody::Udp(log),
        }
    }

    /// Goes past the record up to `at` as if it had been made, and returns its differences: the next one continues it, as with
    /// connections.
    pub(super) fn pass_over(&mut self, outcome: Outcome, at: Timestamp) -> Datagrams {
        let delta = if outcome.is_final() {
            self.unreported()
        } else {
            self.unreported().positive()
        };
        self.has_new_error = false;
        self.reported = self.reported.plus(delta);
        self.reported_at = at;
        self.sequence = self.sequence.saturating_add(1);
        delta
    }

    fn is_due(&self, oldest: Timestamp) -> bool {
        self.reported_at < oldest && self.unreported().positive() != Datagrams::default()
    }
}

/// The table, and the flows that have ended since the newest watermark.
#[derive(Debug)]
pub(super) struct UdpTable {
    table: HashMap<Key, UdpFlow, RandomState>,
    ended: Vec<(UdpFlow, Outcome)>,
    max: usize,
}

impl UdpTable {
    /// An empty table with room for `max` flows.
    pub(super) fn new(max: usize) -> Self {
        Self {
            table: HashMap::with_hasher(RandomState::default()),
            ended: Vec::new(),
            max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Adds `record`, which came after the watermark `seen`. A flow that is new and stays open needs room, and `may_grow`.
    ///
    /// # Errors
    /// The reason why the record is of no flow in the table.
    pub(super) fn update(
        &mut self,
        receiver: u16,
        record: &UdpRecord,
        seen: Timestamp,
        may_grow: bool,
    ) -> Result<(), LossReason> {
        let has_room = self.table.len() < self.max;
        match self.table.entry(Key::of(receiver, &record.flow)) {
            Entry::Occupied(mut known) => {
                known.get_mut().add(record);
                learn(&mut known.get_mut().flow, &record.flow);
                if let Some(outcome) = outcome_of(record.end) {
                    self.ended.push((known.remove(), outcome));
                }
                Ok(())
            }
            Entry::Vacant(place) => match outcome_of(record.end) {
                // The end of a flow that has had its last record.
                Some(_) if !record.opened && Datagrams::from(record) == Datagrams::default() => Ok(()),
                Some(outcome) => {
                    self.ended.push((UdpFlow::first(record, seen), outcome));
                    Ok(())
                }
                None if has_room && may_grow => {
                    place.insert(UdpFlow::first(record, seen));
                    Ok(())
                }
                None if may_grow => Err(LossReason::MaxUdpFlows),
                None => Err(LossReason::MemoryLimit),
            },
        }
    }

    /// Ends a flow that nothing will follow.
    pub(super) fn detach(&mut self, record: &UdpRecord, seen: Timestamp) {
        let flow = UdpFlow::first(record, seen);
        self.ended.push((flow, Outcome::Detached));
    }

    /// Brings the table up to the watermark `to`, and takes out what has ended by then.
    pub(super) fn settle(&mut self, to: Timestamp, idle_timeout: Duration) -> Vec<(UdpFlow, Outcome)> {
        for (flow, _) in &mut self.ended {
            flow.settle(to);
        }
        let idle = self.table.extract_if(|_, flow| {
            flow.settle(to);
            to.since(flow.moved_at) >= idle_timeout
        });
        self.ended.extend(idle.map(|(_, flow)| (flow, Outcome::Idle)));
        std::mem::take(&mut self.ended)
    }

    /// The open flows with something to report, whose last record is from before `oldest`.
    pub(super) fn due(&mut self, oldest: Timestamp) -> impl Iterator<Item = &mut UdpFlow> {
        self.table.values_mut().filter(move |flow| flow.is_due(oldest))
    }

    /// Every open flow.
    pub(super) fn flows_mut(&mut self) -> impl Iterator<Item = &mut UdpFlow> {
        self.table.values_mut()
    }

    /// The clock was set back to `now`: times of the one before mean nothing.
    pub(super) fn restart_clock(&mut self, now: Timestamp) {
        let ended = self.ended.iter_mut().map(|(flow, _)| flow);
        for flow in self.table.values_mut().chain(ended) {
            for time in [&mut flow.began, &mut flow.moved_at, &mut flow.reported_at] {
                *time = (*time).min(now);
            }
        }
    }

    /// Continues with the flows of `before`, also with more than it has room for, as the bound is on new ones: a flow that was let
    /// go of would come back with its next record, and count its records from 0 once more. Without any room, flows have no
    /// records any more, and end.
    pub(super) fn continue_with(&mut self, before: Self) {
        self.table = before.table;
        self.ended = before.ended;
        if self.max == 0 {
            let flows = self.table.drain();
            self.ended
                .extend(flows.map(|(_, flow)| (flow, Outcome::Detached)));
        }
    }

    /// Gives back memory that flows took which have ended.
    pub(super) fn shrink(&mut self) {
        let needed = self.table.len();
        if self.table.capacity() > (4 * needed).max(SMALL) {
            self.table.shrink_to((2 * needed).max(SMALL / 2));
        }
    }
}

const fn outcome_of(end: UdpEnd) -> Option<Outcome> {
    match end {
        UdpEnd::Open => None,
        UdpEnd::Closed => Some(Outcome::Closed),
        UdpEnd::Idle => Some(Outcome::Idle),
    }
}

const _: () = assert!(
    size_of::<(Key, UdpFlow)>() <= 512,
    "an entry takes more memory than is documented"
);
