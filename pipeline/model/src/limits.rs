//! Limits of a TCP sender: the time that it waited for each, and the bytes that are queued.

use serde::{Deserialize, Serialize};

/// Reason that a connection waits, from its sender's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// The network: data waits to be sent or acknowledged, or was lost.
    Network,
    /// The peer's answer: all data is sent, and the acknowledgement of the last of it comes with the answer.
    Answer,
    /// The peer's window: its process does not read.
    Receiver,
    /// The send buffer is too small for what is in flight.
    Buffer,
    /// This side's process: nothing to send.
    Application,
}

impl Limit {
    /// Every one, in the order of [`SendTime`]'s fields.
    pub const ALL: [Self; 5] = [
        Self::Network,
        Self::Answer,
        Self::Receiver,
        Self::Buffer,
        Self::Application,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Answer => "answer",
            Self::Receiver => "receiver",
            Self::Buffer => "buffer",
            Self::Application => "application",
        }
    }
}

/// Microseconds of a connection's life since its last record, by what they went to. Signed differences, as bytes are.
///
/// Their sum is the time that has gone by. The kernel keeps the sum of network and answer; which of the two it went to is decided
/// at each look, for all of it.
///
/// ```
/// use flowtap_model::{Limit, SendTime};
///
/// let time = SendTime { network_us: 600_000, application_us: 400_000, ..SendTime::default() };
/// assert_eq!(time.total_us(), 1_000_000);
/// assert_eq!(time.of(Limit::Network), 600_000);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendTime {
    /// [`Limit::Network`].
    pub network_us: i64,
    /// [`Limit::Answer`].
    pub answer_us: i64,
    /// [`Limit::Receiver`].
    pub receiver_us: i64,
    /// [`Limit::Buffer`].
    pub buffer_us: i64,
    /// [`Limit::Application`].
    pub application_us: i64,
}

impl SendTime {
    /// No time.
    pub const ZERO: Self = Self {
        network_us: 0,
        answer_us: 0,
        receiver_us: 0,
        buffer_us: 0,
        application_us: 0,
    };

    /// The time that went to `limit`.
    pub const fn of(&self, limit: Limit) -> i64 {
        match limit {
            Limit::Network => self.network_us,
            Limit::Answer => self.answer_us,
            Limit::Receiver => self.receiver_us,
            Limit::Buffer => self.buffer_us,
            Limit::Application => self.application_us,
        }
    }

    /// The time that has gone by.
    pub const fn total_us(&self) -> i64 {
        self.network_us + self.answer_us + self.receiver_us + self.buffer_us + self.application_us
    }
}

/// The state of a sender at a look, which decides what its busy time went to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderState {
    /// Bytes wait to be sent.
    pub has_unsent: bool,
    /// TCP reacts to loss or congestion.
    pub is_recovering: bool,
    /// The last rate sample is of an application that had no more to send.
    pub is_application_limited: bool,
}

impl SenderState {
    /// Returns the limit that the busy time counts for: data in flight with nothing after it waits for the answer that brings its acknowledgement.
    pub const fn busy_limit(self) -> Limit {
        if self.has_unsent || self.is_recovering || !self.is_application_limited {
            Limit::Network
        } else {
            Limit::Answer
        }
    }
}

/// The kernel's clocks of a sender, in microseconds since the last record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chronograph {
    /// Time that has gone by.
    pub elapsed_us: i64,
    /// Data was in flight, and neither of the next two held.
    pub busy_us: i64,
    /// The peer's window was full.
    pub rwnd_limited_us: i64,
    /// The send buffer was full.
    pub sndbuf_limited_us: i64,
}

impl Chronograph {
    /// The time by what it went to.
    ///
    /// ```
    /// use flowtap_model::{Chronograph, SenderState};
    ///
    /// let clocks = Chronograph { elapsed_us: 1_000, busy_us: 900, ..Chronograph::default() };
    /// let rests = SenderState { is_application_limited: true, ..SenderState::default() };
    /// assert_eq!(clocks.send_time(rests).answer_us, 900);
    /// assert_eq!(clocks.send_time(SenderState::default()).network_us, 900);
    /// assert_eq!(clocks.send_time(rests).application_us, 100);
    /// ```
    pub const fn send_time(self, state: SenderState) -> SendTime {
        let (network_us, answer_us) = match state.busy_limit() {
            Limit::Answer => (0, self.busy_us),
            _ => (self.busy_us, 0),
        };
        SendTime {
            network_us,
            answer_us,
            receiver_us: self.rwnd_limited_us,
            buffer_us: self.sndbuf_limited_us,
            application_us: self.elapsed_us - self.busy_us - self.rwnd_limited_us - self.sndbuf_limited_us,
        }
    }
}

/// A queue of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Written by the process, not sent yet.
    Unsent,
    /// Sent, not acknowledged yet.
    Unacked,
    /// Received, not read by the process yet.
    Unread,
}

impl Queue {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Unsent, Self::Unacked, Self::Unread];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::Unacked => "unacked",
            Self::Unread => "unread",
        }
    }
}

/// Bytes in a socket's queues when it was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    /// [`Queue::Unsent`].
    pub unsent: u32,
    /// [`Queue::Unacked`].
    pub unacked: u32,
    /// [`Queue::Unread`].
    pub unread: u32,
}

impl Queues {
    /// Nothing queued.
    pub const EMPTY: Self = Self {
        unsent: 0,
        unacked: 0,
        unread: 0,
    };

    /// Bytes in `queue`.
    pub const fn of(&self, queue: Queue) -> u32 {
        match queue {
            Queue::Unsent => self.unsent,
            Queue::Unacked => self.unacked,
            Queue::Unread => self.unread,
        }
    }

    /// Whether nothing is queued.
    pub const fn is_empty(&self) -> bool {
        self.unsent == 0 && self.unacked == 0 && self.unread == 0
    }
}

/// The side that reset a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ResetBy {
    /// Not known, or it was not reset.
    #[default]
    Unknown,
    /// This side: its process closed with data unread or asked for it, or the kernel gave the connection up.
    Local,
    /// The peer, or something on the way.
    Remote,
}

impl ResetBy {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_the_networks_unless_the_sender_has_sent_all_it_had() {
        let rests = SenderState {
            is_application_limited: true,
            ..SenderState::default()
        };
        assert_eq!(rests.busy_limit(), Limit::Answer);
        let cases = [
            SenderState {
                has_unsent: true,
                ..rests
            },
            SenderState {
                is_recovering: true,
                ..rests
            },
            SenderState {
                is_application_limited: false,
                ..rests
            },
        ];
        for state in cases {
            assert_eq!(state.busy_limit(), Limit::Network, "{state:?}");
        }
    }

    #[test]
    fn every_moment_goes_to_one_limit() {
        let clocks = Chronograph {
            elapsed_us: 1_000,
            busy_us: 100,
            rwnd_limited_us: 200,
            sndbuf_limited_us: 300,
        };
        let time = clocks.send_time(SenderState::default());
        assert_eq!(Limit::ALL.map(|limit| time.of(limit)), [100, 0, 200, 300, 400]);
        assert_eq!(time.total_us(), clocks.elapsed_us);
    }
}
