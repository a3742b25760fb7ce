//! The identity and the end of the socket of a record.

use flowtap_pipeline::{Events, TcpRecord};

/// TCP's state CLOSE (`include/net/tcp_states.h`).
const CLOSE: u8 = 7;

/// Identity of a socket; `None` if the receiver does not know its cookie.
pub(super) fn socket_of(record: &TcpRecord) -> Option<(u32, u64)> {
    (record.flow.cookie != 0).then_some((record.flow.netns, record.flow.cookie))
}

/// Whether the connection of `record` has closed. A receiver may have a difference to report after that.
pub(super) const fn is_last(record: &TcpRecord) -> bool {
    record.events.contains(Events::CLOSED) || record.state == CLOSE
}
