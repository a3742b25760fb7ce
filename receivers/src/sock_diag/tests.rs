//! The rules for counters, dumps and closes, without a kernel.

use std::time::{Duration, Instant};

use flowtap_pipeline::node::EphemeralPorts;
use flowtap_pipeline::{Census, Endpoint, Events, Role, RoleSource, TcpRecord, Timestamp};
use netlink_packet_sock_diag::constants::{
    TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_SYN_RECV,
};

use super::closes::Close;
use super::counters::{Before, Counters, Payload};
use super::dump::{Dump, Socket};
use super::roles::Roles;
use super::table::{Look, Table};
use super::telemetry::LossReason;

/// A client that sent and received so many bytes, all of which were acknowledged.
fn client(sent: u64, received: u64) -> Counters {
    Counters {
        state: TCP_ESTABLISHED,
        acked: 1 + sent,
        transmitted: sent,
        received,
        data_segments_received: u32::from(received > 0),
        delivered: 1,
        ..Counters::default()
    }
}

fn server(sent: u64, received: u64) -> Counters {
    Counters {
        acked: sent,
        ..client(sent, received)
    }
}

const fn payload(sent: u64, received: u64) -> Payload {
    Payload { sent, received }
}

#[test]
fn the_syn_shows_the_role_as_long_as_nothing_was_dropped_locally() {
    assert_eq!(client(0, 0).role(), Some(Role::Client));
    assert_eq!(server(0, 0).role(), Some(Role::Server));
    let in_flight = Counters {
        acked: 1,
        queued: 5_000,
        unsent: 2_000,
        in_flight: 3,
        ..client(3_000, 0)
    };
    assert_eq!(in_flight.role(), Some(Role::Client));
    // The FIN has the last sequence number; here it is still unsent, and there it is not.
    let fin_unsent = Counters {
        state: TCP_FIN_WAIT1,
        queued: 1,
        unsent: 1,
        ..server(100, 0)
    };
    let fin_acked = Counters {
        state: TCP_FIN_WAIT2,
        acked: 101,
        ..server(100, 0)
    };
    for counters in [fin_unsent, fin_acked] {
        assert_eq!(counters.role(), Some(Role::Server), "{counters:?}");
        assert_eq!(counters.payload(Role::Server).sent, 100, "{counters:?}");
    }
    let dropped = Counters {
        transmitted: 1_448,
        ..client(0, 0)
    };
    assert_eq!(dropped.role(), None);
}

#[test]
fn a_segment_that_this_machine_dropped_counts_once() {
    let dropped = Counters {
        transmitted: 4_448,
        ..client(3_000, 0)
    };
    assert_eq!(dropped.payload(Role::Client).sent, 3_000);
    let (closed, _) = Counters {
        state: TCP_CLOSE,
        acked: 3_002,
        ..dropped
    }
    .at_close(Role::Client, None, true);
    assert_eq!(closed.sent, 3_000);
}

#[test]
fn what_is_in_flight_counts_only_where_two_counts_of_it_agree() {
    let sending = Counters {
        acked: 1_001,
        queued: 4_000,
        unsent: 1_000,
        in_flight: 3,
        transmitted: 4_000,
        ..client(0, 0)
    };
    assert_eq!(sending.payload(Role::Client).sent, 4_000);
    let dropped = Counters {
        transmitted: 5_448,
        ..sending
    };
    assert_eq!(dropped.payload(Role::Client).sent, 1_000);
    let acked_between_the_reads = Counters {
        acked: 2_001,
        ..sending
    };
    assert_eq!(acked_between_the_reads.payload(Role::Client).sent, 2_000);
}

#[test]
fn the_fin_of_the_peer_is_no_byte() {
    let fin = Counters {
        state: TCP_CLOSE_WAIT,
        ..server(0, 501)
    };
    assert_eq!(fin.payload(Role::Server).received, 500);
}

/// Short connections: 100 bytes sent and 50 received.
#[test]
fn a_socket_that_closed_is_exact_in_each_order_of_closing() {
    let closed = |acked, received, unread| Counters {
        state: TCP_CLOSE,
        acked,
        unread,
        transmitted: 100,
        ..client(100, received)
    };
    let cases = [
        // A client that closed first, before and after the peer's FIN; one that closed last.
        (closed(102, 51, 1), true, Some(Role::Client)),
        (closed(102, 50, 0), true, Some(Role::Client)),
        (closed(102, 51, 0), false, Some(Role::Client)),
        // The same for a server.
        (closed(101, 51, 1), true, Some(Role::Server)),
        (closed(101, 50, 0), true, Some(Role::Server)),
        // Reset: no FIN of this end. A client's SYN and a server's FIN look alike.
        (closed(100, 50, 0), false, Some(Role::Server)),
        (closed(101, 50, 0), false, None),
    ];
    for (counters, time_wait, role) in cases {
        let guess = if role.is_none() {
            Role::Client
        } else {
            Role::Unknown
        };
        assert_eq!(
            counters.at_close(guess, None, time_wait),
            (payload(100, 50), role),
            "{counters:?} {time_wait}"
        );
    }
    let last = closed(101, 51, 0).at_close(Role::Server, None, false);
    assert_eq!(last, (payload(100, 50), None), "a server that closed last");
}

#[test]
fn an_idle_connection_that_closes_has_received_nothing_more_whatever_its_fin() {
    let open = client(100, 50);
    let before = Before {
        counters: &open,
        payload: payload(100, 50),
    };
    for received in [50, 51] {
        let closed = Counters {
            state: TCP_CLOSE,
            acked: 102,
            received,
            ..open
        };
        for time_wait in [false, true] {
            let (closed, _) = closed.at_close(Role::Client, Some(before), time_wait);
            assert_eq!(closed, payload(100, 50));
        }
    }
}

fn end(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(address.ip(), address.port())
}

fn socket(cookie: u64, counters: Counters) -> Socket {
    Socket {
        local: end("192.0.2.1:40000"),
        remote: end("198.51.100.1:443"),
        cookie,
        counters,
    }
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_nanos(second * 1_000_000_000)
}

/// A table that is fed by hand.
struct Fed {
    table: Table,
    start: Instant,
    second: u64,
    listening: Vec<u16>,
}

impl Fed {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            table: Table::new(7, start),
            start,
            second: 0,
            listening: Vec::new(),
        }
    }

    /// Bytes sent and events that a dump with these sockets adds.
    fn dump(&mut self, sockets: &[Socket]) -> Vec<(i64, Events)> {
        self.look(sockets, false)
    }

    fn look(&mut self, sockets: &[Socket], census: bool) -> Vec<(i64, Events)> {
        self.second += 1;
        let found = Dump {
            sockets: sockets.to_vec(),
            listening: self.listening.clone(),
            ..Dump::default()
        };
        let look = Look {
            roles: Roles::new(&found, EphemeralPorts::default()),
            at: at(self.second),
            awaits_closes: true,
            census,
        };
        self.table.compare(found, look);
        self.seen()
    }

    fn close(&mut self, socket: Socket, last_active: Instant) -> (Option<LossReason>, Vec<TcpRecord>) {
        let close = Close {
            socket,
            time_wait: true,
            last_active,
        };
        let refused = self.table.close(close, at(self.second));
        (refused, std::mem::take(&mut self.table.batch.tcp))
    }

    fn seen(&mut self) -> Vec<(i64, Events)> {
        let records = std::mem::take(&mut self.table.batch.tcp);
        records
            .iter()
            .map(|record| (record.sent_bytes, record.events))
            .collect()
    }

    fn later(&self) -> Instant {
        self.start + Duration::from_secs(1)
    }
}

fn closed(counters: Counters) -> Counters {
    Counters {
        state: TCP_CLOSE,
        acked: counters.acked + 1,
        ..counters
    }
}

#[test]
fn a_connection_shorter_than_an_interval_is_one_record() {
    let mut fed = Fed::new();
    fed.dump(&[]);
    let (refused, records) = fed.close(socket(1, closed(server(300, 0))), fed.later());
    assert_eq!(refused, None);
    let [record] = &records[..] else {
        panic!("{records:?}")
    };
    assert_eq!(
        (record.sent_bytes, record.events),
        (300, Events::OPENED | Events::CLOSED)
    );
    assert_eq!(
        (record.flow.role, record.flow.role_source),
        (Role::Server, RoleSource::Counters)
    );
}

#[test]
fn sockets_that_never_were_a_connection_or_were_one_before_flowtap_are_no_records() {
    let mut fed = Fed::new();
    fed.dump(&[]);
    let never = Counters {
        state: TCP_CLOSE,
        ..Counters::default()
    };
    let before = fed.start.checked_sub(Duration::from_secs(60)).unwrap();
    let listener = Socket {
        remote: end("0.0.0.0:0"),
        ..socket(1, never)
    };
    for (socket, last_active) in [
        (listener, fed.later()),
        (socket(2, never), fed.later()),
        (socket(3, closed(client(5, 0))), before),
    ] {
        assert_eq!(fed.close(socket, last_active), (None, Vec::new()));
    }
}

/// A server with TCP Fast Open has received data, and answered, before the handshake ends.
fn early_server() -> Counters {
    Counters {
        state: TCP_SYN_RECV,
        transmitted: 333,
        queued: 333,
        in_flight: 1,
        received: 777,
        data_segments_received: 1,
        ..Counters::default()
    }
}

#[test]
fn a_fast_open_connection_counts_before_its_handshake_ends() {
    let mut fed = Fed::new();
    fed.dump(&[]);
    assert_eq!(fed.dump(&[socket(1, early_server())]), [(333, Events::OPENED)]);
    let established = Counters {
        state: TCP_ESTABLISHED,
        acked: 333,
        queued: 0,
        in_flight: 0,
        delivered: 1,
        segments_received: 1,
        ..early_server()
    };
    assert_eq!(fed.dump(&[socket(1, established)]), [(0, Events::NONE)]);
}

#[test]
fn a_fast_open_connection_that_no_dump_has_seen_and_that_resets_is_not_measured_and_counted() {
    let mut fed = Fed::new();
    fed.dump(&[]);
    // Without an acknowledgment. An abortive close clears the counters and takes the peer away.
    let cleared = |last_sent_ms| Socket {
        remote: end("0.0.0.0:0"),
        ..socket(
            1,
            Counters {
                state: TCP_CLOSE,
                last_ack_ms: 900_000,
                last_data_ms: 900_000,
                last_sent_ms,
                ..Counters::default()
            },
        )
    };
    let later = fed.later();
    let refused = Some(LossReason::CountersCleared);
    assert_eq!(fed.close(cleared(40), later), (refused, Vec::new()));
    assert_eq!(
        fed.close(cleared(900_000), later),
        (None, Vec::new()),
        "never connected"
    );
}

#[test]
fn the_last_difference_comes_with_the_close() {
    let mut fed = Fed::new();
    assert_eq!(fed.dump(&[socket(1, client(1_000, 0))]), [(0, Events::ADOPTED)]);
    assert_eq!(fed.dump(&[socket(1, client(1_500, 0))]), [(500, Events::NONE)]);
    // It is gone, and its close is still under way.
    assert_eq!(fed.dump(&[]), []);
    let (refused, records) = fed.close(socket(1, closed(client(1_700, 0))), fed.later());
    assert_eq!((refused, records.len()), (None, 1));
    assert_eq!((records[0].sent_bytes, records[0].events), (200, Events::CLOSED));
    assert_eq!(fed.dump(&[]), []);
}

#[test]
fn a_socket_that_its_process_holds_after_the_end_is_closed_after_two_dumps() {
    let mut fed = Fed::new();
    fed.dump(&[]);
    assert_eq!(fed.dump(&[socket(1, client(10, 0))]), [(10, Events::OPENED)]);
    assert_eq!(fed.dump(&[]), []);
    assert_eq!(fed.dump(&[]), [(0, Events::CLOSED)]);
    assert_eq!(fed.dump(&[]), []);
    // Freed at last, with what it sent after the last dump that had it.
    let (refused, records) = fed.close(socket(1, closed(client(15, 0))), fed.later());
    assert_eq!((refused, records.len()), (None, 1));
    assert_eq!((records[0].sent_bytes, records[0].events), (5, Events::NONE));
}

/// The cookie is the socket's, and a process may connect one socket twice (`AF_UNSPEC`, then `connect`).
#[test]
fn a_socket_that_connects_again_is_a_second_connection() {
    let again = Socket {
        remote: end("198.51.100.2:443"),
        ..socket(1, client(3, 0))
    };
    let mut fed = Fed::new();
    fed.dump(&[]);
    assert_eq!(fed.dump(&[socket(1, client(10, 0))]), [(10, Events::OPENED)]);
    let events: Vec<Events> = fed.dump(&[again]).into_iter().map(|(_, events)| events).collect();
    assert_eq!(events, [Events::CLOSED, Events::OPENED]);
    assert_eq!(fed.table.take_replaced(), 1);
}

#[test]
fn a_held_socket_that_connects_again_closes_its_first_connection_once() {
    let again = Socket {
        remote: end("198.51.100.2:443"),
        ..socket(1, client(3, 0))
    };
    let mut fed = Fed::new();
    fed.dump(&[socket(1, client(10, 0))]);
    assert_eq!(fed.dump(&[]), []);
    assert_eq!(fed.dump(&[]), [(0, Events::CLOSED)]);
    assert_eq!(fed.dump(&[again]), [(3, Events::OPENED)]);
    assert_eq!(fed.table.take_replaced(), 0);
}

#[test]
fn a_socket_that_one_dump_passed_over_has_not_closed() {
    let mut fed = Fed::new();
    fed.dump(&[socket(1, client(10, 0))]);
    assert_eq!(fed.dump(&[]), []);
    assert_eq!(fed.dump(&[socket(1, client(12, 0))]), [(2, Events::NONE)]);
}

#[test]
fn a_census_reports_every_connection_that_is_open() {
    let mut fed = Fed::new();
    let [idle, passed_over] = [1, 2].map(|cookie| socket(cookie, client(10, 0)));
    fed.dump(&[idle.clone(), passed_over]);
    assert_eq!(fed.look(&[idle], true), [(0, Events::OPEN), (0, Events::OPEN)]);
    assert_eq!(fed.table.batch.census, Census::WHOLE);
}

#[test]
fn after_closes_were_lost_nothing_is_counted_twice() {
    let mut fed = Fed::new();
    fed.dump(&[socket(1, client(10, 0)), socket(2, client(20, 0))]);
    assert_eq!(fed.dump(&[socket(2, client(20, 0))]), []);
    fed.table.forget(at(9));
    assert_eq!(fed.seen(), [(0, Events::CLOSED)]);
    // Its close was not lost after all.
    let (refused, records) = fed.close(socket(1, closed(client(10, 0))), fed.start);
    assert_eq!((refused, records), (Some(LossReason::Ambiguous), Vec::new()));
    assert_eq!(fed.dump(&[socket(2, client(25, 0))]), [(5, Events::NONE)]);
}

#[test]
fn an_aborted_connection_whose_counters_the_kernel_cleared_is_counted_as_not_measured() {
    let mut fed = Fed::new();
    fed.dump(&[socket(1, client(10, 0))]);
    let cleared = |cookie| Socket {
        remote: end("0.0.0.0:0"),
        ..socket(
            cookie,
            Counters {
                state: TCP_CLOSE,
                last_ack_ms: 3,
                last_data_ms: 900_000,
                ..Counters::default()
            },
        )
    };
    let (refused, records) = fed.close(cleared(1), fed.later());
    assert_eq!(refused, Some(LossReason::CountersCleared));
    assert_eq!((records[0].sent_bytes, records[0].events), (0, Events::CLOSED));
    let short = fed.close(cleared(2), fed.later());
    assert_eq!(short, (Some(LossReason::CountersCleared), Vec::new()));
}

#[test]
fn a_fin_between_the_state_and_the_counters_makes_no_client_of_a_server() {
    let mut fed = Fed::new();
    fed.listening = vec![40_000];
    fed.dump(&[]);
    // The state is older than the acknowledged FIN.
    let raced = Counters {
        state: TCP_CLOSE_WAIT,
        acked: 301,
        ..server(300, 20)
    };
    assert_eq!(raced.role(), Some(Role::Client), "as it looks");
    assert_eq!(fed.dump(&[socket(1, raced), socket(2, raced)]), []);
    // One has closed, the other is found once more.
    let (_, records) = fed.close(socket(1, closed(server(300, 20))), fed.later());
    assert_eq!((records[0].flow.role, records[0].sent_bytes), (Role::Server, 300));
    let now = Counters {
        state: TCP_FIN_WAIT2,
        ..raced
    };
    assert_eq!(fed.dump(&[socket(2, now)]), [(300, Events::OPENED)]);
}

#[test]
fn a_program_that_connects_from_the_port_that_it_listens_on_is_a_client() {
    let mut fed = Fed::new();
    fed.listening = vec![40_000];
    fed.dump(&[]);
    assert_eq!(fed.dump(&[socket(1, client(10, 0))]), []);
    fed.table.compare(
        Dump {
            sockets: vec![socket(1, client(25, 0))],
            listening: vec![40_000],
            ..Dump::default()
        },
        Look {
            roles: Roles::default(),
            at: at(9),
            awaits_closes: true,
            census: false,
        },
    );
    let [record] = &fed.table.batch.tcp[..] else {
        panic!("{:?}", fed.table.batch.tcp)
    };
    assert_eq!(
        (record.flow.role, record.flow.role_source, record.sent_bytes),
        (Role::Client, RoleSource::Counters, 25)
    );
}

#[test]
fn ports_decide_where_the_counters_do_not_and_nobody_listens() {
    let ambiguous = Counters {
        transmitted: 5_000,
        ..client(1_000, 0)
    };
    let found = Dump {
        sockets: vec![socket(1, ambiguous)],
        ..Dump::default()
    };
    let ephemeral = EphemeralPorts::default();
    assert_eq!(
        Roles::new(&found, ephemeral).of(&found.sockets[0]),
        (Role::Client, RoleSource::Ports)
    );
    let listened = Dump {
        listening: vec![40_000],
        ..found
    };
    assert_eq!(
        Roles::new(&listened, ephemeral).of(&listened.sockets[0]),
        (Role::Server, RoleSource::Listener)
    );
}
