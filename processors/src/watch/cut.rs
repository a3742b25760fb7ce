//! Activity that the end of an interval cuts: the time of an interval that begins in the middle of the one before.
//!
//! An attack that takes half of an interval at most lies in an interval, or in such a time. Its part before the end of an interval is
//! not taken for usual when the rest of it is judged.

use std::collections::HashMap;
use std::net::IpAddr;

use flowtap_pipeline::{Flow, Transport};

use super::counted::{Counted, Port};
use super::history::{Counts, Mean, Peak};

/// Usual numbers before an interval, of the counts of a subject.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usual {
    pub(super) destinations: Counts,
    pub(super) ports: Counts,
    /// Whether addresses were reported in the interval: then they count in it only.
    pub(super) has_reported_destinations: bool,
    /// The same of ports.
    pub(super) has_reported_ports: bool,
}

/// Addresses and ports that a subject tried in the second half of the interval before and in the first half of the open one.
#[derive(Debug, Default)]
pub(super) struct CutTried {
    /// Usual numbers before the interval before, if the subject tried any in that.
    pub(super) usual: Option<Usual>,
    /// Those of the interval before, sorted.
    late: Box<[(IpAddr, u16, u8)]>,
    /// Addresses in `late`.
    late_addresses: usize,
    /// Further addresses.
    addresses: usize,
    /// Further ports of the addresses in `late`.
    ports: HashMap<IpAddr, usize>,
    /// The ports of the address of `late` of which the most were tried, and the newest flow to it.
    pub(super) most: Option<(Counted, Flow)>,
}

const fn protocol(transport: Transport) -> u8 {
    transport as u8
}

impl CutTried {
    pub(super) fn after(late: Vec<(IpAddr, Port)>, usual: Usual) -> Self {
        let late = late.into_iter();
        let mut late: Box<[_]> = late
            .map(|(addr, (port, transport))| (addr, port, protocol(transport)))
            .collect();
        late.sort_unstable();
        Self {
            late_addresses: late.chunk_by(|one, next| one.0 == next.0).count(),
            late,
            usual: Some(usual),
            ..Self::default()
        }
    }

    /// Counts what was not tried before in the first half of the open interval.
    pub(super) fn push(&mut self, flow: &Flow, is_new_address: bool) {
        let addr = flow.remote.addr;
        let begin = self.late.partition_point(|(of, ..)| *of < addr);
        let known = self.late.get(begin..).unwrap_or_default();
        let known = &known[..known.partition_point(|(of, ..)| *of == addr)];
        if known.is_empty() {
            self.addresses += usize::from(is_new_address);
            return;
        }
        let port = (addr, flow.remote.port, protocol(flow.transport));
        let ports = self.ports.entry(addr).or_default();
        *ports += usize::from(known.binary_search(&port).is_err());
        let count = known.len() + *ports;
        if self.usual.is_none_or(|usual| usual.has_reported_ports) {
            return;
        }
        if self.most.as_ref().is_none_or(|(most, _)| count > most.count) {
            self.most = Some((Counted::exactly(count), flow.clone()));
        }
    }

    pub(super) fn destinations(&self) -> Counted {
        let has_reported = self.usual.is_none_or(|usual| usual.has_reported_destinations);
        Counted::exactly(if has_reported {
            0
        } else {
            self.late_addresses + self.addresses
        })
    }
}

/// Activity of a contact in a part of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Part {
    pub(super) bytes: u64,
    pub(super) opened: u32,
    pub(super) failed: u32,
}

impl Part {
    pub(super) const fn tried(self) -> u32 {
        self.opened + self.failed
    }

    pub(super) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.opened += other.opened;
        self.failed += other.failed;
    }

    /// The rest, without `part`.
    pub(super) const fn without(self, part: Self) -> Self {
        Self {
            bytes: self.bytes - part.bytes,
            opened: self.opened - part.opened,
            failed: self.failed - part.failed,
        }
    }
}

/// An interval of a contact that has ended, for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Before {
    /// Its second half, without what was reported.
    pub(super) late: Part,
    /// Usual values before it.
    pub(super) failures: Mean,
    pub(super) usual: Peak,
    /// The number of the interval after it; 0 if there was none.
    pub(super) next: u32,
    /// Whether bytes moved in it.
    pub(super) has_bytes: bool,
}

impl Before {
    /// It, if the interval with this number is the one after it.
    pub(super) fn of(self, interval: u32) -> Option<Self> {
        (self.next > 0 && self.next == interval).then_some(self)
    }
}
