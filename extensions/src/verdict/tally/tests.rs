use flowtap_pipeline::testing::{flow, record};
use flowtap_pipeline::{Endpoint, Exchanges, SendTime};

use super::super::evidence::ListeningSocket;
use super::super::{Cause, judge};
use super::*;

fn slow(cookie: u64, remote: &str, unread: u32) -> TcpRecord {
    TcpRecord {
        time: SendTime {
            receiver_us: 4_000_000,
            application_us: 1_000_000,
            ..SendTime::default()
        },
        sent_bytes: 100,
        queues: Queues {
            unread,
            ..Queues::EMPTY
        },
        ..record("10.0.0.1:40000", remote).with_flow(|flow| Flow { cookie, ..flow })
    }
}

fn only(sums: &Sums) -> Evidence {
    assert_eq!(sums.peers.len(), 1, "{sums:?}");
    sums.peers.values().next().unwrap().evidence.clone()
}

#[test]
fn sums_grow_over_periods_and_queues_are_those_of_now() {
    let mut tally = Tally::default();
    tally.add_tcp(0, &slow(9, "192.0.2.7:443", 500));
    let before = tally.take();
    tally.add_tcp(0, &slow(9, "192.0.2.7:443", 7));
    // The same cookie at another receiver is another connection.
    tally.add_tcp(1, &slow(9, "192.0.2.7:443", 3));
    let of_now = only(&tally.sums(None, |_, _| true));
    assert_eq!((of_now.sent_bytes, of_now.unread), (200, 10));
    let sums = tally.sums(Some(&before), |_, _| true);
    let evidence = only(&sums);
    assert_eq!((evidence.sent_bytes, evidence.unread), (300, 10));
    assert_eq!(evidence, sums.all);
    assert_eq!(judge(&evidence).cause, Cause::Receiver);
}

#[test]
fn bytes_between_two_ends_on_this_machine_are_known() {
    for (remote, received_here) in [
        ("10.0.0.1:5432", 1000),
        ("127.0.0.1:443", 1000),
        ("192.0.2.7:443", 0),
    ] {
        let received = TcpRecord {
            received_bytes: 500,
            ..record("10.0.0.1:40000", remote)
        };
        let mut before = Evidence::default();
        before.add(&received, 0);
        let mut evidence = before.clone();
        evidence.merge(&before);
        assert_eq!(evidence.received_here, received_here, "{remote}");
    }
}

#[test]
fn connects_that_wait_for_an_answer_to_a_second_syn_count_until_they_end() {
    let waits = |cookie, syn_retransmits| {
        TcpRecord {
            events: Events::CONNECTING,
            state: 2,
            syn_retransmits,
            ..record("10.0.0.1:40000", "192.0.2.7:443")
        }
        .with_flow(|flow| Flow { cookie, ..flow })
    };
    let ended = |cookie, events, state| TcpRecord {
        events,
        state,
        syn_retransmits: 0,
        ..waits(cookie, 0)
    };
    let mut tally = Tally::default();
    for record in [
        waits(1, 1),
        waits(2, 1),
        waits(3, 1),
        waits(4, 0),
        waits(1, 3),
        ended(2, Events::OPENED, 1),
        ended(3, Events::CONNECTING, 7),
    ] {
        tally.add_tcp(0, &record);
    }
    let sums = tally.sums(None, |_, _| true);
    assert_eq!((sums.all.waiting, sums.all.syn_retransmits), (1, 3));
    // It can't be retransmitted as long as its neighbour has no address.
    let stuck = TcpRecord {
        age_us: 1_000_000,
        ..waits(5, 0)
    };
    tally.add_tcp(0, &stuck);
    assert_eq!(tally.sums(None, |_, _| true).all.waiting, 2);
    assert_eq!(sums.all.failed.total(), 0);
    assert_eq!(only(&sums).waiting, 1);
    let mut silent = Tally::default();
    silent.add_tcp(0, &waits(1, 2));
    assert_eq!(judge(&silent.sums(None, |_, _| true).all).cause, Cause::NoAnswer);
}

#[test]
fn a_connection_that_closed_has_no_queue() {
    let mut tally = Tally::default();
    tally.add_tcp(0, &slow(9, "192.0.2.7:443", 500));
    tally.add_tcp(
        0,
        &TcpRecord {
            events: Events::CLOSED,
            ..slow(9, "192.0.2.7:443", 500)
        },
    );
    assert_eq!(only(&tally.sums(None, |_, _| true)).unread, 0);
}

#[test]
fn clients_of_a_port_have_what_its_listening_socket_dropped_once_per_period() {
    let listener = |drops, closed| {
        let local = Endpoint::new([10, 0, 0, 1].into(), 80);
        ListeningRecord {
            drops,
            backlog: if closed { 0 } else { 5 },
            limit: if closed { 0 } else { 4 },
            closed,
            ..ListeningRecord::new(local)
        }
    };
    let served = || {
        record("10.0.0.1:80", "192.0.2.7:40000").with_flow(|flow| Flow {
            kind: Some(FlowKind::Ingress),
            ..flow
        })
    };
    let mut tally = Tally::default();
    tally.add_tcp(0, &served());
    tally.add_listening(0, &listener(40, false));
    let before = tally.take();
    tally.add_listening(0, &listener(5, false));
    let evidence = only(&tally.sums(Some(&before), |_, _| true));
    assert_eq!((evidence.listening.drops, evidence.listening.limit), (45, 4));
    assert_eq!(judge(&evidence).cause, Cause::AcceptQueue);
    // The next period begins without drops, but with the queue.
    tally.take();
    let sums = tally.sums(None, |_, _| true);
    assert_eq!((sums.all.listening.drops, sums.all.listening.backlog), (0, 5));
    // One that has gone has no queue.
    tally.add_listening(0, &listener(0, true));
    assert_eq!(tally.sums(None, |_, _| true).all.listening, Listening::default());
}

#[test]
fn sockets_that_dropped_connections_are_named_once_per_process_and_those_with_the_most_alone() {
    let listener = |cookie, port, pid, comm: &[u8], drops| {
        let record = ListeningRecord::new(Endpoint::new([10, 0, 0, 1].into(), port));
        let mut flow = Flow {
            cookie,
            pid,
            ..record.flow.clone()
        };
        flow.comm[..comm.len()].copy_from_slice(comm);
        ListeningRecord {
            flow,
            drops,
            backlog: 5,
            limit: 4,
            ..record
        }
    };
    let mut tally = Tally::default();
    // Two sockets of a process on a port (SO_REUSEPORT), the second without its process in the last record.
    tally.add_listening(0, &listener(1, 80, 7, b"web\x1b[2J", 3));
    tally.add_listening(0, &listener(2, 80, 7, b"web\x1b[2J", 4));
    tally.add_listening(0, &listener(2, 80, 0, b"", 5));
    tally.add_listening(0, &listener(3, 81, 8, b"idle", 0));
    let named = |tally: &Tally| tally.sums(None, |_, _| true).all.listening;
    let found = named(&tally);
    let web = ListeningSocket {
        port: 80,
        pid: Some(7),
        comm: Some("web\\x1b[2J".to_owned()),
        backlog: 10,
        limit: 8,
        drops: 12,
        closed: false,
    };
    assert_eq!(found.sockets, [web]);
    assert_eq!((found.limit, found.drops), (12, 12));
    let before = tally.take();
    assert_eq!(named(&tally).sockets, [], "of the next period");
    assert_eq!(
        tally.sums(Some(&before), |_, _| true).all.listening.sockets,
        found.sockets
    );
    for port in 0..100 {
        tally.add_listening(
            0,
            &listener(1000 + u64::from(port), port, 9, b"many", u64::from(port)),
        );
    }
    let found = named(&tally);
    let drops: Vec<_> = found.sockets.iter().map(|socket| socket.drops).collect();
    assert_eq!((drops, found.drops), (vec![99, 98, 97, 96, 95], 4950));
}

#[test]
fn connects_that_an_own_full_queue_dropped_are_the_queues_and_others_have_no_answer() {
    let listener = |drops, closed| {
        let record = ListeningRecord::new(Endpoint::new([127, 0, 0, 1].into(), 80));
        ListeningRecord {
            drops,
            closed,
            backlog: if closed { 0 } else { 5 },
            limit: if closed { 0 } else { 4 },
            ..record
        }
    };
    let connect = |remote: &str, waits: bool| {
        let record = TcpRecord {
            events: if waits { Events::CONNECTING } else { Events::FAILED },
            syn_retransmits: 2,
            ..record("127.0.0.1:40000", remote)
        };
        record.with_flow(|flow| Flow {
            cookie: u64::from(waits) + 1,
            ..flow
        })
    };
    let causes = |sums: &Sums| {
        let peers = sums.peers.values().map(|of_peer| judge(&of_peer.evidence).cause);
        (judge(&sums.all).cause, peers.collect::<Vec<_>>())
    };
    let queue = (Cause::AcceptQueue, vec![Cause::AcceptQueue]);
    let silence = (Cause::NoAnswer, vec![Cause::NoAnswer]);
    let cases = [
        ("given up", "127.0.0.1:80", false, 3, queue.clone()),
        ("waits", "127.0.0.1:80", true, 3, queue),
        ("another port", "127.0.0.1:81", true, 3, silence.clone()),
        ("another machine", "192.0.2.7:80", true, 3, silence.clone()),
        (
            "a queue that has dropped nothing",
            "127.0.0.1:80",
            true,
            0,
            silence,
        ),
    ];
    for (name, remote, waits, drops, expected) in cases {
        let mut tally = Tally::default();
        tally.add_tcp(0, &connect(remote, waits));
        tally.add_listening(0, &listener(drops, false));
        assert_eq!(causes(&tally.sums(None, |_, _| true)), expected, "{name}");
        // Also once its process has ended, and in the period after that of the drops.
        tally.add_listening(0, &listener(0, true));
        let before = tally.take();
        assert_eq!(
            causes(&tally.sums(Some(&before), |_, _| true)),
            expected,
            "{name}"
        );
    }
}

#[test]
fn answers_of_the_peer_are_counted_and_not_those_of_this_machine() {
    let exchanging = |kind| {
        TcpRecord {
            exchanges: Some(Box::new(Exchanges {
                durations_us: vec![4_000, 6_000],
            })),
            ..record("10.0.0.1:40000", "192.0.2.7:443")
        }
        .with_flow(|flow| Flow { kind, ..flow })
    };
    let mut tally = Tally::default();
    tally.add_tcp(0, &exchanging(Some(FlowKind::Egress)));
    let before = tally.take();
    tally.add_tcp(0, &exchanging(Some(FlowKind::Egress)));
    tally.add_tcp(0, &exchanging(Some(FlowKind::Ingress)));
    let sums = tally.sums(Some(&before), |_, _| true);
    assert_eq!(sums.all.answers.count, 4);
    let line = "4 answers began 5.00 ms after their request on average, the time in the network included";
    let evidence = judge(&sums.all).evidence;
    assert!(evidence.iter().any(|found| found == line), "{evidence:?}");
}

#[test]
fn time_in_which_nothing_got_through_is_that_without_acknowledgements() {
    // A second each: bytes sent, and bytes in flight and unsent at its end.
    let second = |sent_bytes, unacked, unsent, rto_us| TcpRecord {
        sent_bytes,
        queues: Queues {
            unsent,
            unacked,
            unread: 0,
        },
        rto_us,
        time: SendTime {
            network_us: 1_000_000,
            ..SendTime::default()
        },
        ..record("10.0.0.1:40000", "192.0.2.7:443")
    };
    let reset = TcpRecord {
        events: Events::CLOSED | Events::RESET,
        ..second(0, 0, 0, 1_000_000)
    };
    let cases = [
        (
            "a black hole",
            vec![
                second(14_480, 14_480, 9_000, 800_000),
                second(0, 14_480, 9_000, 1_000_000),
                reset,
            ],
            (2.8, 0.0),
        ),
        (
            "a link that loses most",
            vec![
                second(14_480, 13_000, 9_000, 800_000),
                second(0, 13_000, 9_000, 1_000_000),
                second(0, 11_552, 9_000, 1_000_000),
                second(1_448, 11_552, 7_552, 1_000_000),
                second(0, 11_552, 7_552, 6_000_000),
            ],
            (0.0, 0.0),
        ),
        (
            "a black hole after one loss that was repaired",
            vec![
                second(14_480, 14_480, 9_000, 800_000),
                second(0, 1_448, 9_000, 0),
                second(0, 1_448, 9_000, 25_000_000),
            ],
            (25.0, 0.0),
        ),
        (
            "a firewall of this machine, after a first segment",
            vec![
                second(1_448, 0, 9_000, 0),
                second(0, 0, 9_000, 0),
                second(0, 0, 9_000, 0),
            ],
            (0.0, 2.0),
        ),
        (
            "an acknowledgement that takes longer than a second",
            vec![second(1_448, 1_448, 9_000, 0), second(0, 1_448, 9_000, 0)],
            (0.0, 0.0),
        ),
        ("nothing to send", vec![second(0, 0, 0, 0)], (0.0, 0.0)),
    ];
    for (name, records, (unacknowledged, held_back)) in cases {
        let mut tally = Tally::default();
        for record in &records {
            tally.add_tcp(0, record);
        }
        // Also of two periods.
        let before = tally.take();
        let sums = tally.sums(Some(&before), |_, _| true);
        for evidence in [&sums.all, &only(&sums)] {
            assert!(
                (evidence.unacknowledged - unacknowledged).abs() < 1e-9,
                "{name}: {evidence:?}"
            );
            assert!(
                (evidence.held_back - held_back).abs() < 1e-9,
                "{name}: {evidence:?}"
            );
        }
    }
}

#[test]
fn silence_of_a_period_before_is_neither_taken_back_nor_counted_again() {
    let second = |sent_bytes, unacked, rto_us| TcpRecord {
        sent_bytes,
        queues: Queues {
            unsent: 9_000,
            unacked,
            unread: 0,
        },
        rto_us,
        ..record("10.0.0.1:40000", "192.0.2.7:443")
    };
    let mut tally = Tally::default();
    tally.add_tcp(0, &second(14_480, 14_480, 600_000_000));
    tally.take();
    // It is acknowledged in the next period, of which nothing was silent.
    tally.add_tcp(0, &second(0, 1_448, 0));
    assert!(only(&tally.sums(None, |_, _| true)).unacknowledged.abs() < 1e-9);
    // From now on a silence counts once it is long: of a period that time which has passed in it.
    tally.add_tcp(0, &second(0, 1_448, 15_000_000));
    tally.take();
    tally.add_tcp(0, &second(0, 1_448, 6_000_000));
    let evidence = only(&tally.sums(None, |_, _| true));
    assert!((evidence.unacknowledged - 6.0).abs() < 1e-9, "{evidence:?}");
}

#[test]
fn a_socket_that_listens_with_a_backlog_of_0_is_not_a_closed_one() {
    let listener = ListeningRecord {
        drops: 3,
        backlog: 1,
        ..ListeningRecord::new(Endpoint::new([10, 0, 0, 1].into(), 80))
    };
    let mut tally = Tally::default();
    tally.add_listening(0, &listener);
    let sentence = judge(&tally.sums(None, |_, _| true).all).sentence;
    assert!(
        sentence.ends_with("its queue was full (1 of 0 wait)"),
        "{sentence}"
    );
    tally.take();
    let listening = tally.sums(None, |_, _| true).all.listening;
    assert_eq!((listening.drops, listening.backlog), (0, 1), "it is known still");
}

#[test]
fn time_before_the_period_does_not_count() {
    let mut tally = Tally::default();
    let mut record = slow(9, "192.0.2.7:443", 0);
    record.time.application_us = 3_600_000_000;
    tally.add_tcp_of(0, &record, 10_000_000);
    let evidence = only(&tally.sums(None, |_, _| true));
    assert!((evidence.shares.total() - 10.0).abs() < 1e-9, "{evidence:?}");
    assert_eq!(judge(&evidence).cause, Cause::Receiver);
}

#[test]
fn peers_beyond_the_bound_are_counted_and_in_the_sum() {
    let mut tally = Tally::default();
    let end = |n: u32| Endpoint::new(std::net::Ipv4Addr::from(n).into(), 443);
    for n in 0..5_000_u32 {
        let mut record = TcpRecord::new(Flow::new(end(1), end(0x0a00_0000 + n)));
        record.sent_bytes = 1;
        tally.add_tcp(0, &record);
    }
    let before = tally.take();
    let sums = tally.sums(Some(&before), |_, _| true);
    assert_eq!((sums.peers.len(), sums.further), (MAX_PEERS, 904));
    assert_eq!(sums.all.sent_bytes, 5_000);
}

#[test]
fn connects_fail_for_the_reason_that_an_operator_looks_for() {
    let failed = |failure, syn_retransmits| TcpRecord {
        events: Events::FAILED,
        failure,
        syn_retransmits,
        ..TcpRecord::new(flow("10.0.0.1:40000", "192.0.2.7:443"))
    };
    let mut tally = Tally::default();
    for record in [failed(111, 0), failed(0, 2), failed(110, 6), failed(0, 0)] {
        tally.add_tcp(0, &record);
    }
    let sums = tally.sums(None, |_, _| true);
    assert_eq!((sums.all.failed.refused, sums.all.failed.no_answer), (1, 2));
    assert_eq!(judge(&sums.all).cause, Cause::NoAnswer);
}
