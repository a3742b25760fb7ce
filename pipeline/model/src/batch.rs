//! The batch: what a receiver hands to its pipelines in one call, in place, and fills again.
//!
//! Listener changes travel with the records, not beside them, so that a replay sees them at the same point. All of
//! them apply before the first record of the batch.

use serde::{Deserialize, Serialize};

use crate::dns::DnsRecord;
use crate::drops::DropRecord;
use crate::finding::FindingRecord;
use crate::flow::Flow;
use crate::listening::ListeningRecord;
use crate::reading::ReadingRecord;
use crate::tcp::TcpRecord;
use crate::udp::{IcmpCount, UdpRecord};

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listener {
    /// Inode number of its network namespace; 0 if unknown.
    pub netns: u32,
    /// The port it listens on.
    pub port: u16,
    /// The kernel's socket cookie, which distinguishes several listeners on one port.
    pub cookie: u64,
}

/// A change of the listening-port table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenChange {
    /// A socket listens, or was found listening. Idempotent by cookie.
    Opened(Listener),
    /// A socket listens no more.
    Closed(Listener),
    /// The listeners that a rescan found in one namespace: replaces those of the rescan before, and
    /// leaves those known from `Opened` and `Closed` unchanged.
    Rescanned {
        /// Inode number of the namespace that was scanned.
        netns: u32,
        /// Every listening port in it.
        ports: Vec<u16>,
    },
}

/// Where an event was counted on its way out of the kernel, in capture modes that have a record per event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventHop {
    /// Read from a ring buffer.
    Received,
    /// Turned away at the receiver's full channel.
    Dropped,
}

/// Type of an event, named as in the Go exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventType {
    /// A received segment.
    TcpFlow,
    /// A connection that opened, closed or failed.
    TcpConn,
}

impl EventType {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TcpFlow => "tcpflow",
            Self::TcpConn => "tcpconn",
        }
    }
}

/// Number of events that passed, or did not pass, a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCount {
    /// Which hop.
    pub hop: EventHop,
    /// Which events.
    pub event_type: EventType,
    /// Events since the batch before.
    pub count: u64,
}

/// Bounds of a census: between them a receiver reports every connection that is open, each with [`Events::OPEN`], among its
/// other records.
///
/// A connection of this receiver that was open before, and of which no record came in between, is open no longer: the
/// record of its close was lost. A census that fails is not ended; the next one begins anew.
///
/// [`Events::OPEN`]: crate::tcp::Events::OPEN
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// It begins before the first record of the batch.
    pub begins: bool,
    /// It ends after the last record of the batch.
    pub ends: bool,
}

impl Census {
    /// Not a bound.
    pub const NONE: Self = Self {
        begins: false,
        ends: false,
    };

    /// A whole census: nothing is open but what the batch itself reports.
    pub const WHOLE: Self = Self {
        begins: true,
        ends: true,
    };
}

/// Records and listener changes, in the order they were seen.
///
/// ```
/// use std::net::Ipv4Addr;
/// use flowtap_model::{Endpoint, Flow, FlowBatch, TcpRecord};
///
/// let end = |port| Endpoint::new(Ipv4Addr::LOCALHOST.into(), port);
/// let mut batch = FlowBatch::default();
/// batch.tcp.push(TcpRecord::new(Flow::new(end(50_000), end(443))));
/// assert!(!batch.is_empty());
/// // A receiver clears a batch and fills it again, which keeps its memory.
/// batch.clear();
/// assert!(batch.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowBatch {
    /// Changes of the listening-port table; they apply before every record.
    pub listeners: Vec<ListenChange>,
    /// Differences measured on TCP sockets.
    pub tcp: Vec<TcpRecord>,
    /// Findings. Processors make them, so a recording has none.
    #[serde(skip)]
    pub findings: Vec<FindingRecord>,
    /// Event counts of the receiver; empty in modes without events.
    pub counts: Vec<EventCount>,
    /// Whether a census begins or ends here.
    pub census: Census,
    /// Listening sockets.
    pub listening: Vec<ListeningRecord>,
    /// Dropped packets.
    pub drops: Vec<DropRecord>,
    /// DNS transactions that ended.
    pub dns: Vec<DnsRecord>,
    /// Index of the receiver among those of the pipeline; the sink fills it in. Cookies are unique per receiver only.
    #[serde(skip)]
    pub receiver: u16,
    /// Differences measured on UDP sockets, by peer.
    pub udp: Vec<UdpRecord>,
    /// Counts of ICMP messages.
    pub icmp: Vec<IcmpCount>,
    /// Readings of counters and gauges that belong to no flow.
    pub readings: Vec<ReadingRecord>,
}

impl FlowBatch {
    /// In place of a receiver's index: it has been detached from the pipeline, whose window no longer follows its connections.
    pub const DETACHED: u16 = u16::MAX;

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
            && self.tcp.is_empty()
            && self.findings.is_empty()
            && self.udp.is_empty()
            && self.icmp.is_empty()
            && self.readings.is_empty()
            && self.counts.is_empty()
            && self.dns.is_empty()
            && self.census == Census::NONE
            && self.listening.is_empty()
            && self.drops.is_empty()
    }

    /// Number of records, of all signals.
    pub const fn records(&self) -> usize {
        self.tcp.len()
            + self.findings.len()
            + self.listening.len()
            + self.drops.len()
            + self.dns.len()
            + self.udp.len()
            + self.readings.len()
    }

    /// The flow of every record that has one, of all signals.
    pub fn flows_mut(&mut self) -> impl Iterator<Item = &mut Flow> {
        let tcp = self.tcp.iter_mut().map(|record| &mut record.flow);
        let findings = self.findings.iter_mut().map(|finding| &mut finding.flow);
        let listening = self.listening.iter_mut().map(|record| &mut record.flow);
        let drops = self.drops.iter_mut().filter_map(|record| record.flow.as_mut());
        let dns = self.dns.iter_mut().map(|record| &mut record.flow);
        let udp = self.udp.iter_mut().map(|record| &mut record.flow);
        tcp.chain(listening)
            .chain(drops)
            .chain(dns)
            .chain(udp)
            .chain(findings)
    }

    /// The flow of every record of traffic between two ends: not of a listener, and not of packets that were dropped.
    pub fn traffic(&self) -> impl Iterator<Item = &Flow> {
        let tcp = self.tcp.iter().map(|record| &record.flow);
        let dns = self.dns.iter().map(|record| &record.flow);
        // Without a peer's port it is of a socket, not of two ends.
        let udp = self.udp.iter().map(|record| &record.flow);
        tcp.chain(dns).chain(udp.filter(|flow| flow.remote.port != 0))
    }

    /// Drops every record, of any signal, whose flow `keep` rejects. Returns how many. A record without a flow stays.
    ///
    /// ```
    /// use std::net::Ipv4Addr;
    /// use flowtap_model::{Endpoint, Flow, FlowBatch, TcpRecord};
    ///
    /// let end = |port| Endpoint::new(Ipv4Addr::LOCALHOST.into(), port);
    /// let mut batch = FlowBatch::default();
    /// for port in [22, 443] {
    ///     batch.tcp.push(TcpRecord::new(Flow::new(end(50_000), end(port))));
    /// }
    /// assert_eq!(batch.retain(|flow| flow.remote.port != 22), 1);
    /// assert_eq!(batch.records(), 1);
    /// ```
    pub fn retain(&mut self, mut keep: impl FnMut(&Flow) -> bool) -> usize {
        let before = self.records();
        self.tcp.retain(|record| keep(&record.flow));
        self.dns.retain(|record| keep(&record.flow));
        self.listening.retain(|record| keep(&record.flow));
        self.drops
            .retain(|record| record.flow.as_ref().is_none_or(&mut keep));
        self.findings.retain(|finding| keep(&finding.flow));
        self.udp.retain(|record| keep(&record.flow));
        before - self.records()
    }

    /// Becomes a copy of `other`, in its own memory. The receiver's index is not copied.
    pub fn copy_from(&mut self, other: &Self) {
        let Self {
            listeners,
            tcp,
            findings,
            counts,
            census,
            listening,
            drops,
            dns,
            receiver: _,
            udp,
            icmp,
            readings,
        } = other;
        self.listeners.clone_from(listeners);
        self.tcp.clone_from(tcp);
        self.findings.clone_from(findings);
        self.udp.clone_from(udp);
        self.icmp.clone_from(icmp);
        self.readings.clone_from(readings);
        self.counts.clone_from(counts);
        self.census = *census;
        self.listening.clone_from(listening);
        self.drops.clone_from(drops);
        self.dns.clone_from(dns);
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.listeners.clear();
        self.tcp.clear();
        self.findings.clear();
        self.udp.clear();
        self.icmp.clear();
        self.readings.clear();
        self.counts.clear();
        self.dns.clear();
        self.census = Census::NONE;
        self.listening.clear();
        self.drops.clear();
    }
}
