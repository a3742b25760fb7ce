//! The measurements that a verdict rests on.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;

use flowtap_pipeline::plain_text;
use serde::{Deserialize, Serialize};

/// Maximum number of listening sockets that evidence names.
const MAX_SOCKETS: usize = 5;

/// Seconds of connections, by what sending waited for. They add up to the time that connections were open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// The network: data was in flight or waited for the congestion window, and there was more to send.
    pub network: f64,
    /// The peer's answer: everything was sent, and not yet acknowledged.
    pub answer: f64,
    /// The receiver: its window was full.
    pub receiver: f64,
    /// This side's send buffer was too small.
    pub buffer: f64,
    /// The application: it had nothing to send.
    pub application: f64,
}

impl Shares {
    /// All the time that connections were open, in seconds.
    pub fn total(&self) -> f64 {
        self.network + self.answer + self.receiver + self.buffer + self.application
    }

    /// Adds the time of other connections.
    pub fn add(&mut self, other: &Self) {
        self.network += other.network;
        self.answer += other.answer;
        self.receiver += other.receiver;
        self.buffer += other.buffer;
        self.application += other.application;
    }
}

/// Connects that failed, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connects {
    /// The peer answered with a reset.
    pub refused: u64,
    /// Timed out, or given up by the application after the SYN was retransmitted.
    pub no_answer: u64,
    /// A router, this machine's routes, or its neighbour table without an answer of the next hop said that there is no way.
    pub unreachable: u64,
    /// No local port was left to connect from.
    pub no_local_port: u64,
    /// Any other reason; not those that the application gave up at once.
    pub other: u64,
}

impl Connects {
    /// All that failed.
    pub const fn total(&self) -> u64 {
        self.refused + self.no_answer + self.unreachable + self.no_local_port + self.other
    }
}

/// Answers of peers to requests of this machine, where `receivers.ebpf.inspect.exchanges` measures them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// Number of answers.
    pub count: u64,
    /// The sum of their times, from the last segment of a request to the first one of its answer, in seconds.
    pub seconds: f64,
}

impl Answers {
    /// Adds others.
    pub(super) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.seconds += other.seconds;
    }
}

/// Connections that listening sockets had to refuse, or kept waiting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Listening {
    /// Connections that wait to be accepted.
    pub backlog: u64,
    /// Maximum number that may wait.
    pub limit: u64,
    /// Connections that were dropped in the period.
    pub drops: u64,
    /// Age of the oldest connection that waits, in seconds.
    pub oldest_wait: f64,
    /// The sockets that dropped connections, those with the most first: at most five.
    #[serde(default)]
    pub sockets: Vec<ListeningSocket>,
}

impl Listening {
    /// Adds other sockets. [`Listening::rank`] has to follow.
    pub(super) fn add(&mut self, other: &Self) {
        self.backlog += other.backlog;
        self.limit += other.limit;
        self.oldest_wait = self.oldest_wait.max(other.oldest_wait);
        self.add_drops(other);
    }

    /// Adds what other sockets dropped, and not their queues.
    pub(super) fn add_drops(&mut self, other: &Self) {
        self.drops += other.drops;
        self.sockets.extend_from_slice(&other.sockets);
    }

    /// Makes one of the sockets that a process has on a port, and leaves those that dropped the most.
    pub(super) fn rank(&mut self) {
        let owner = |socket: &ListeningSocket| (socket.port, socket.pid, socket.comm.clone());
        self.sockets.sort_by_cached_key(owner);
        self.sockets.dedup_by(|socket, kept| {
            let is_same = owner(socket) == owner(kept);
            if is_same {
                kept.backlog += socket.backlog;
                kept.limit += socket.limit;
                kept.drops += socket.drops;
                kept.closed &= socket.closed;
            }
            is_same
        });
        // Stable, so that of equal numbers the lowest port is the first.
        self.sockets.sort_by_key(|socket| Reverse(socket.drops));
        self.sockets.truncate(MAX_SOCKETS);
    }
}

/// A listening socket that dropped connections, or all those of a process on a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListeningSocket {
    /// Its port.
    pub port: u16,
    /// Id of its process, in the initial pid namespace, if it is known.
    pub pid: Option<u32>,
    /// Name of its process, as labels have it, if it is known.
    pub comm: Option<String>,
    /// Connections that wait to be accepted.
    pub backlog: u64,
    /// Maximum number that may wait.
    pub limit: u64,
    /// Connections that were dropped in the period.
    pub drops: u64,
    /// Whether it has been closed.
    #[serde(default)]
    pub closed: bool,
}

impl fmt::Display for ListeningSocket {
    /// `port 8080, nginx (pid 1234)`. A process chooses its name: one that could be taken for more than a name is in quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}", self.port)?;
        match (self.comm.as_deref().map(quoted), self.pid) {
            (Some(comm), Some(pid)) => write!(f, ", {comm} (pid {pid})"),
            (Some(comm), None) => write!(f, ", {comm}"),
            (None, Some(pid)) => write!(f, ", pid {pid}"),
            (None, None) => Ok(()),
        }
    }
}

/// `name`, in quotes if it has other characters than those of common names.
fn quoted(name: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.:/@+".contains(c);
    if name.chars().all(is_plain) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(format!("\"{}\"", name.replace('"', "\\\"")))
}

/// The name of a process, as labels have it; `None` if it is not known.
pub(crate) fn process_name(comm: &[u8; 16]) -> Option<String> {
    let name = plain_text::process_name(comm);
    (!name.is_empty()).then(|| name.into_owned())
}

/// Measurements of a peer, a process or a service over a period. Numbers are increases in that period, unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The time that connections were open, by what sending waited for.
    pub shares: Shares,
    /// Seconds from a retransmission time-out until all that was in flight was acknowledged. Linux 6.7 and later.
    pub rto: f64,
    /// Seconds in retransmission time-outs of connections of which nothing has been acknowledged since.
    #[serde(default)]
    pub unacknowledged: f64,
    /// Seconds in which data waited to be sent, nothing was in flight and nothing left: this machine drops what TCP sends.
    #[serde(default)]
    pub held_back: f64,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Those of them that this machine sent: both ends are in one network namespace.
    #[serde(skip)]
    pub received_here: u64,
    /// Segments sent, retransmissions included.
    pub sent_segments: u64,
    /// Segments retransmitted.
    pub retransmits: u64,
    /// SYN and SYN-ACK segments retransmitted.
    pub syn_retransmits: u64,
    /// The smallest round-trip time, in µs; 0 if unknown.
    pub min_rtt_us: u32,
    /// Bytes that wait in this side's send queue, at the end.
    pub unsent: u64,
    /// Bytes that this side's process has not read, at the end.
    pub unread: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connects that failed.
    pub failed: Connects,
    /// Connects that wait for an answer, and whose SYN was retransmitted, at the end.
    #[serde(default)]
    pub waiting: u64,
    /// Those of `failed.no_answer` and `waiting` that a listening socket of this machine dropped, as its queue was full.
    #[serde(default)]
    pub dropped_connects: u64,
    /// Connections that this side reset.
    pub reset_by_local: u64,
    /// Connections that the peer reset.
    pub reset_by_peer: u64,
    /// The listening sockets, if this side serves.
    pub listening: Listening,
    /// The answers of peers that serve.
    #[serde(default)]
    pub answers: Answers,
}

impl Evidence {
    /// Retransmitted segments of all segments sent, from 0 to 1.
    pub fn retransmit_ratio(&self) -> f64 {
        if self.sent_segments == 0 {
            return 0.0;
        }
        self.retransmits as f64 / self.sent_segments as f64
    }
}
