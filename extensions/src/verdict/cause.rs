//! The causes that limit traffic, with their names and ranks.

use serde::{Deserialize, Serialize};

/// The cause that limits the traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No connection was open, and none was tried.
    #[default]
    Idle,
    /// The peer refuses connections.
    Refused,
    /// The peer does not answer connects.
    NoAnswer,
    /// The peer can't be reached: no route, no answer to ARP or neighbour discovery, or a router says so.
    Unreachable,
    /// This machine has no local port left.
    NoLocalPort,
    /// Connects fail for another reason.
    ConnectFailed,
    /// The queue of a listening socket of this machine is full: its process accepts too slowly.
    AcceptQueue,
    /// Nothing that was sent is acknowledged.
    BlackHole,
    /// The network loses segments.
    Loss,
    /// The network's capacity: the congestion window, or a queue on the way.
    Network,
    /// The peer's answer: its process takes its time.
    Answer,
    /// The peer's process does not read fast enough: its receive window is full.
    Receiver,
    /// This side's send buffer is too small.
    Buffer,
    /// This side's process does not read what has arrived.
    Reader,
    /// The peer sends: only its side measures what limits it.
    Inbound,
    /// This side's process: it had nothing to send.
    Application,
}

impl Cause {
    /// Its name, as in JSON and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Refused => "refused",
            Self::NoAnswer => "no_answer",
            Self::Unreachable => "unreachable",
            Self::NoLocalPort => "no_local_port",
            Self::ConnectFailed => "connect_failed",
            Self::AcceptQueue => "accept_queue",
            Self::BlackHole => "black_hole",
            Self::Loss => "loss",
            Self::Network => "network",
            Self::Answer => "answer",
            Self::Receiver => "receiver",
            Self::Buffer => "buffer",
            Self::Reader => "reader",
            Self::Inbound => "inbound",
            Self::Application => "application",
        }
    }

    /// Whether this side measures no limit but its own process: nothing moves, or the peer sends.
    pub const fn is_unlimited(self) -> bool {
        matches!(self, Self::Idle | Self::Application | Self::Inbound)
    }

    /// Rank by severity: connections that can't be opened before slow ones, and those before idle ones.
    pub const fn severity(self) -> u8 {
        match self {
            Self::Idle => 0,
            Self::Application | Self::Inbound => 1,
            Self::Answer | Self::Reader | Self::Buffer => 2,
            Self::Receiver | Self::Network => 3,
            Self::Loss => 4,
            Self::BlackHole | Self::AcceptQueue => 5,
            Self::Refused | Self::NoAnswer | Self::Unreachable | Self::NoLocalPort | Self::ConnectFailed => 6,
        }
    }
}
