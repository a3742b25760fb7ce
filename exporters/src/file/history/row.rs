//! A row, whatever file it is from.

use flowtap_pipeline::LogField;

/// The event of connections ([`LogRecord::event_name`](flowtap_pipeline::LogRecord::event_name)).
const CONNECTION: &str = "flowtap.tcp.connection";

/// The event of UDP flows.
const UDP_FLOW: &str = "flowtap.udp.flow";

/// A record of a connection or a UDP flow. Fields that were not asked for, and those without a value, are empty or zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row<'a> {
    /// The event's name: rows that match are of connections or UDP flows.
    pub event: &'a str,
    /// End of the time that the record covers, in microseconds since 1970.
    pub at: i64,
    /// The node's name.
    pub host: &'a str,
    /// The pipeline that wrote it.
    pub pipeline: &'a str,
    /// The end on this node.
    pub local_address: &'a str,
    /// The same.
    pub local_port: i64,
    /// The other end.
    pub peer_address: &'a str,
    /// The same.
    pub peer_port: i64,
    /// Whether the end on this node opened the connection.
    pub is_client: bool,
    /// State at the end of the record.
    pub outcome: &'a str,
    /// Why the connect failed.
    pub error: &'a str,
    /// Payload bytes that this node sent.
    pub sent: i64,
    /// Payload bytes that this node received.
    pub received: i64,
    /// Segments that this node retransmitted.
    pub retransmits: i64,
    /// Seconds since the connection was established; 0 if unknown.
    pub duration: f64,
    /// Smallest round-trip time in seconds; 0 if unknown.
    pub min_rtt: f64,
    /// The process's name.
    pub comm: &'a str,
    /// The namespace of this end's pod.
    pub local_namespace: &'a str,
    /// The owner of this end's pod.
    pub local_workload: &'a str,
    /// The peer's class.
    pub peer_class: &'a str,
    /// The peer's name.
    pub peer_name: &'a str,
    /// The owner of the peer's pod.
    pub peer_workload: &'a str,
}

impl Row<'_> {
    /// Turns a row that was filled as if this node's end were the source.
    pub(super) fn orient(&mut self) {
        if !self.is_client {
            std::mem::swap(&mut self.local_address, &mut self.peer_address);
            std::mem::swap(&mut self.local_port, &mut self.peer_port);
            std::mem::swap(&mut self.sent, &mut self.received);
        }
    }

    /// Whether it is of a connection or a UDP flow.
    pub(super) fn is_flow(&self) -> bool {
        matches!(self.event, CONNECTION | UDP_FLOW)
    }

    /// Whether it is of a UDP flow.
    pub fn is_udp(&self) -> bool {
        self.event == UDP_FLOW
    }

    /// The port of the end that accepted the connection.
    pub const fn server_port(&self) -> i64 {
        if self.is_client {
            self.peer_port
        } else {
            self.local_port
        }
    }

    /// Whether the connection was never established, or it or the UDP flow has an error.
    pub fn has_failed(&self) -> bool {
        self.outcome == "failed" || !self.error.is_empty()
    }

    /// Whether it is the last record of a connection or UDP flow that ended: one that flowtap stopped following goes on.
    pub fn is_last(&self) -> bool {
        !matches!(self.outcome, "" | "active" | "detached")
    }
}

/// Fields that every query reads.
pub const ALWAYS: [LogField; 10] = [
    LogField::SourceAddress,
    LogField::DestinationAddress,
    LogField::Role,
    LogField::Outcome,
    LogField::Error,
    LogField::SourceBytes,
    LogField::DestinationBytes,
    LogField::Retransmits,
    LogField::SourcePort,
    LogField::DestinationPort,
];
