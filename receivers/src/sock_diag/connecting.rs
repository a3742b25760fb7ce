//! Connects that wait for an answer.
//!
//! In: the sockets of a dump that have sent a SYN. Out: a record of each, and one more for each that waits no longer. A connection that it
//! becomes is in the same dump or a later one; a connect that fails is in none.

use std::collections::HashMap;

use flowtap_pipeline::{Events, Flow, Role, RoleSource, TcpRecord, Timestamp};
use netlink_packet_sock_diag::constants::{TCP_CLOSE, TCP_SYN_SENT};

use super::dump::Socket;

/// Those of the last dump, by cookie, each with the time at which it was found. As many as there are sockets.
#[derive(Debug, Default)]
pub(super) struct Connecting {
    known: HashMap<u64, (Flow, Timestamp)>,
}

impl Connecting {
    /// Compares a dump with the one before.
    pub(super) fn compare(
        &mut self,
        netns: u32,
        found: Vec<Socket>,
        at: Timestamp,
        records: &mut Vec<TcpRecord>,
    ) {
        let mut gone = std::mem::take(&mut self.known);
        for socket in found {
            let flow = Flow {
                netns,
                cookie: socket.cookie,
                role: Role::Client,
                role_source: RoleSource::Handshake,
                ..Flow::new(socket.local, socket.remote)
            };
            let since = gone.remove(&socket.cookie).map_or(at, |(_, since)| since);
            let retransmits = socket.counters.retransmits;
            records.push(TcpRecord {
                state: TCP_SYN_SENT,
                syn_retransmits: u8::try_from(retransmits).unwrap_or(u8::MAX),
                ..record(flow.clone(), since, at)
            });
            self.known.insert(socket.cookie, (flow, since));
        }
        let gone = gone.into_values();
        records.extend(gone.map(|(flow, since)| TcpRecord {
            state: TCP_CLOSE,
            ..record(flow, since, at)
        }));
    }
}

fn record(flow: Flow, since: Timestamp, at: Timestamp) -> TcpRecord {
    TcpRecord {
        events: Events::CONNECTING,
        age_us: u64::try_from(at.since(since).as_micros()).unwrap_or(u64::MAX),
        ..TcpRecord::new(flow)
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::Endpoint;

    use super::super::counters::Counters;
    use super::*;

    fn socket(cookie: u64, retransmits: u32) -> Socket {
        Socket {
            local: Endpoint::new([127, 0, 0, 1].into(), 40_000),
            remote: Endpoint::new([192, 0, 2, 7].into(), 443),
            cookie,
            counters: Counters {
                retransmits,
                ..Counters::default()
            },
        }
    }

    #[test]
    fn a_connect_is_reported_by_each_dump_that_has_it_and_once_more_when_it_is_gone() {
        let mut connecting = Connecting::default();
        let mut looked = |found: Vec<Socket>, seconds: u64| {
            let mut records = Vec::new();
            let at = Timestamp::from_nanos(seconds * 1_000_000_000);
            connecting.compare(5, found, at, &mut records);
            let mut records: Vec<_> = records
                .into_iter()
                .map(|record| {
                    assert!(record.is_connecting());
                    let TcpRecord { flow, state, .. } = record;
                    (
                        flow.cookie,
                        state,
                        record.syn_retransmits,
                        record.age_us / 1_000_000,
                    )
                })
                .collect();
            records.sort_unstable();
            records
        };
        assert_eq!(looked(vec![socket(1, 0)], 10), [(1, TCP_SYN_SENT, 0, 0)]);
        assert_eq!(
            looked(vec![socket(1, 2), socket(2, 0)], 13),
            [(1, TCP_SYN_SENT, 2, 3), (2, TCP_SYN_SENT, 0, 0)]
        );
        assert_eq!(
            looked(vec![socket(2, 1)], 14),
            [(1, TCP_CLOSE, 0, 4), (2, TCP_SYN_SENT, 1, 1)]
        );
        assert_eq!(looked(Vec::new(), 15), [(2, TCP_CLOSE, 0, 2)]);
        assert_eq!(looked(Vec::new(), 16), []);
    }
}
