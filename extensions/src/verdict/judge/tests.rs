use super::*;
use crate::verdict::evidence::{Connects, Listening, ListeningSocket};

/// Shares of ten seconds: network, answer, receiver, buffer; the rest is the application's.
fn shares(network: f64, answer: f64, receiver: f64, buffer: f64) -> Evidence {
    let application = 1.0 - network - answer - receiver - buffer;
    Evidence {
        shares: Shares {
            network: network * 10.0,
            answer: answer * 10.0,
            receiver: receiver * 10.0,
            buffer: buffer * 10.0,
            application: application * 10.0,
        },
        sent_segments: 10_000,
        opened: 1,
        ..Evidence::default()
    }
}

/// The shares that were measured for links, readers and servers that were built to be slow.
#[test]
fn each_experiment_has_its_cause() {
    let lossy = |retransmits| Evidence {
        retransmits,
        ..shares(0.72, 0.18, 0.0, 0.0)
    };
    let black_hole = Evidence {
        rto: 9.6,
        unacknowledged: 9.6,
        retransmits: 7,
        sent_segments: 20,
        ..shares(1.0, 0.0, 0.0, 0.0)
    };
    let behind_a_window = Evidence {
        rto: 9.7,
        unacknowledged: 9.7,
        ..shares(0.0, 0.0, 1.0, 0.0)
    };
    let brief = Evidence {
        shares: Shares {
            network: 0.004,
            application: 0.004,
            ..Shares::default()
        },
        opened: 1,
        ..Evidence::default()
    };
    let unread = Evidence {
        unread: 4_000_000,
        ..shares(0.0, 0.0, 0.0, 0.0)
    };
    let cases = [
        ("a link of 20 Mbit/s", shares(1.0, 0.0, 0.0, 0.0), Cause::Network),
        (
            "the same, half the time idle",
            shares(0.7, 0.0, 0.0, 0.0),
            Cause::Network,
        ),
        (
            "the same, idle nearly always",
            shares(0.06, 0.0, 0.0, 0.0),
            Cause::Network,
        ),
        ("one segment of a hundred is dropped", lossy(100), Cause::Loss),
        ("a segment is dropped now and then", lossy(10), Cause::Network),
        ("a black hole", black_hole, Cause::BlackHole),
        (
            "the same, behind a small window",
            behind_a_window,
            Cause::BlackHole,
        ),
        (
            "a reader that takes 1 MB/s",
            shares(0.11, 0.0, 0.89, 0.0),
            Cause::Receiver,
        ),
        (
            "a reader that never reads",
            shares(0.01, 0.0, 0.99, 0.0),
            Cause::Receiver,
        ),
        (
            "a slow reader and a slow link",
            shares(0.17, 0.0, 0.83, 0.0),
            Cause::Receiver,
        ),
        (
            "a server that thinks for 5 ms",
            shares(0.0, 0.98, 0.0, 0.0),
            Cause::Answer,
        ),
        (
            "requests back to back",
            shares(0.06, 0.62, 0.0, 0.0),
            Cause::Answer,
        ),
        ("a small send buffer", shares(0.2, 0.0, 0.0, 0.7), Cause::Buffer),
        (
            "1 KB every 100 ms",
            shares(0.0, 0.0, 0.0, 0.0),
            Cause::Application,
        ),
        ("a process that does not read", unread, Cause::Reader),
        ("one request within a tick", brief, Cause::Idle),
        ("nothing", Evidence::default(), Cause::Idle),
    ];
    assert_causes(&cases);
}

#[test]
fn nothing_gets_through_only_where_nothing_is_acknowledged() {
    // Measured with BBR: the time counts until all that was in flight is acknowledged, and most of it got through.
    let repaired = Evidence {
        rto: 7.5,
        retransmits: 206,
        sent_segments: 12_346,
        ..shares(1.0, 0.0, 0.0, 0.0)
    };
    // No byte was acknowledged in order meanwhile, and others were.
    let out_of_order = Evidence {
        unacknowledged: 7.5,
        ..repaired.clone()
    };
    // Three segments of five were dropped, and 40 kB acknowledged.
    let lossy_and_slow = Evidence {
        rto: 6.0,
        unacknowledged: 2.1,
        retransmits: 40,
        sent_segments: 80,
        sent_bytes: 40_000,
        ..shares(0.95, 0.05, 0.0, 0.0)
    };
    // The same of a client that asks: all that it had to send was in flight.
    let lossy_requests = Evidence {
        shares: shares(0.0, 0.9, 0.0, 0.0).shares,
        ..lossy_and_slow.clone()
    };
    let late = Evidence {
        rto: 6.0,
        retransmits: 2,
        ..shares(1.0, 0.0, 0.0, 0.0)
    };
    // A rule of this machine's chain `output`: TCP keeps what it could not send, and probes with it.
    let dropped_here = Evidence {
        held_back: 9.0,
        sent_segments: 31,
        unsent: 71_000,
        ..shares(0.99, 0.0, 0.0, 0.0)
    };
    assert_causes(&[
        ("a long repair after a time-out", repaired, Cause::Loss),
        ("the same, from a first gap", out_of_order, Cause::Loss),
        ("three segments of five are dropped", lossy_and_slow, Cause::Loss),
        ("the same, a request at a time", lossy_requests, Cause::Loss),
        ("acknowledgements that are late", late, Cause::Network),
        ("a firewall of this machine", dropped_here, Cause::BlackHole),
    ]);
}

#[test]
fn what_is_received_decides_where_little_is_sent() {
    let download = Evidence {
        received_bytes: 1_500_000,
        ..shares(0.0, 0.01, 0.0, 0.0)
    };
    let slow_reader_of_a_download = Evidence {
        unread: 4_000_000,
        ..download.clone()
    };
    let exchange = Evidence {
        sent_bytes: 500_000,
        ..download.clone()
    };
    assert_causes(&[
        ("a download through a slow link", download, Cause::Inbound),
        (
            "a download that is not read",
            slow_reader_of_a_download,
            Cause::Reader,
        ),
        ("as much sent as received, rarely", exchange, Cause::Application),
    ]);
}

fn assert_causes(cases: &[(&str, Evidence, Cause)]) {
    for (experiment, evidence, cause) in cases {
        let verdict = judge(evidence);
        assert_eq!(verdict.cause, *cause, "{experiment}: {verdict:?}");
        assert!(!verdict.sentence.is_empty());
    }
}

#[test]
fn a_download_is_measured_where_it_is_sent() {
    let download = Evidence {
        received_bytes: 1_500_000,
        ..shares(0.0, 0.0, 0.0, 0.0)
    };
    assert_eq!(
        judge(&download).sentence,
        "the peer sends: 1.50 MB received, 0 B sent; what limits it, the network or its process, is measured on its side: run \
         `flowtap diagnose` there"
    );
    let here = Evidence {
        received_here: download.received_bytes,
        ..download
    };
    assert_eq!(
        judge(&here).sentence,
        "the peer sends: 1.50 MB received, 0 B sent; what limits it, the network or its process, is measured at its end, which is on \
         this machine: run `flowtap diagnose` for the process that sends"
    );
}

#[test]
fn connects_that_fail_come_before_what_open_connections_show() {
    let with = |failed| Evidence {
        failed,
        ..shares(0.0, 0.0, 0.9, 0.0)
    };
    let refused = Connects {
        refused: 3,
        ..Connects::default()
    };
    let no_answer = Connects {
        no_answer: 4,
        ..refused
    };
    assert_eq!(judge(&with(refused)).cause, Cause::Refused);
    let verdict = judge(&with(no_answer));
    assert_eq!(verdict.cause, Cause::NoAnswer);
    assert_eq!(
        verdict.sentence,
        "the peer does not answer: 4 of 8 connects failed so"
    );
    // Those that wait have not failed.
    let waits = Evidence {
        waiting: 1,
        ..with(Connects {
            no_answer: 3,
            ..Connects::default()
        })
    };
    let sentence = judge(&waits).sentence;
    let numbers = "3 of 5 connects failed so, and 1 waits for an answer";
    assert!(sentence.ends_with(numbers), "{sentence}");
    // One failure of two connects is not what is wrong with the other.
    let one = Connects {
        refused: 1,
        ..Connects::default()
    };
    assert_eq!(judge(&with(one)).cause, Cause::Receiver);
}

#[test]
fn a_full_accept_queue_is_said_with_its_numbers() {
    let evidence = Evidence {
        listening: Listening {
            backlog: 5,
            limit: 4,
            drops: 45,
            oldest_wait: 2.9,
            sockets: Vec::new(),
        },
        ..Evidence::default()
    };
    let verdict = judge(&evidence);
    assert_eq!(verdict.cause, Cause::AcceptQueue);
    assert_eq!(
        verdict.sentence,
        "the process that listens on this machine accepts too slowly: 45 connections were dropped because the queue was full \
         (5 of 4 wait)"
    );
    assert_eq!(
        verdict.evidence,
        ["5 of at most 4 connections wait to be accepted, the oldest for 2.9 s; 45 dropped"]
    );
}

#[test]
fn the_fullest_accept_queue_is_named_by_its_port_and_process() {
    let socket = |comm: Option<&str>, pid, drops| ListeningSocket {
        port: 8080,
        pid,
        comm: comm.map(str::to_owned),
        backlog: 5,
        limit: 4,
        drops,
        closed: false,
    };
    let verdict = |sockets: Vec<ListeningSocket>| {
        let evidence = Evidence {
            listening: Listening {
                backlog: 9,
                limit: 132,
                drops: 45,
                oldest_wait: 2.9,
                sockets,
            },
            ..Evidence::default()
        };
        judge(&evidence)
    };
    let one = verdict(vec![socket(Some("nginx"), Some(1234), 45)]);
    assert_eq!(
        one.sentence,
        "port 8080, nginx (pid 1234), accepts too slowly: 45 connections were dropped because its queue was full (5 of 4 wait)"
    );
    assert_eq!(
        one.evidence,
        [
            "9 of at most 132 connections wait to be accepted, the oldest for 2.9 s; 45 dropped",
            "port 8080, nginx (pid 1234): 45 dropped, 5 of at most 4 wait",
        ]
    );
    for (comm, pid, begins) in [
        (Some("nginx"), None, "port 8080, nginx, accepts"),
        (None, Some(7), "port 8080, pid 7, accepts"),
        (None, None, "port 8080 accepts"),
    ] {
        let sentence = verdict(vec![socket(comm, pid, 45)]).sentence;
        assert!(sentence.starts_with(begins), "{sentence}");
    }
    // A name is no more than a name.
    let sentence = verdict(vec![socket(Some("a (pid 1), \"b"), Some(7), 45)]).sentence;
    let begins = r#"port 8080, "a (pid 1), \"b" (pid 7), accepts"#;
    assert!(sentence.starts_with(begins), "{sentence}");
    let ended = verdict(vec![ListeningSocket {
        backlog: 0,
        limit: 0,
        closed: true,
        ..socket(Some("nginx"), Some(1234), 45)
    }]);
    assert_eq!(
        ended.sentence,
        "port 8080, nginx (pid 1234), accepted too slowly: 45 connections were dropped because its queue was full (closed since)"
    );
    assert_eq!(
        ended.evidence.last().unwrap(),
        "port 8080, nginx (pid 1234): 45 dropped, closed since"
    );
    let several = verdict(vec![socket(None, None, 40), socket(None, Some(7), 5)]);
    assert_eq!(
        several.sentence,
        "port 8080 accepts too slowly: 40 connections were dropped because its queue was full (5 of 4 wait); other listening \
         sockets dropped 5"
    );
}

#[test]
fn connects_that_a_full_queue_explains_are_not_the_peers() {
    let evidence = Evidence {
        opened: 2,
        failed: Connects {
            refused: 5,
            no_answer: 10,
            ..Connects::default()
        },
        dropped_connects: 10,
        listening: Listening {
            drops: 10,
            ..Listening::default()
        },
        ..Evidence::default()
    };
    let verdict = judge(&evidence);
    assert_eq!(verdict.cause, Cause::Refused);
    assert!(
        verdict.sentence.ends_with(": 5 of 7 connects failed so"),
        "{}",
        verdict.sentence
    );
}

#[test]
fn the_evidence_has_the_numbers_of_the_sentence() {
    let evidence = Evidence {
        sent_bytes: 12_000_000,
        retransmits: 120,
        min_rtt_us: 250,
        ..shares(0.11, 0.0, 0.89, 0.0)
    };
    let verdict = judge(&evidence);
    assert_eq!(
        verdict.sentence,
        "the peer does not read fast enough: its receive window was full 89 % of the time"
    );
    assert_eq!(
        verdict.evidence,
        [
            "of 10.0 s of connections: network 11 %, answer 0 %, receiver 89 %, buffer 0 %, application 0 %",
            "120 of 10000 segments retransmitted (1 %)",
            "smallest round-trip time 0.25 ms",
            "12.0 MB sent, 0 B received",
            "1 connection opened, 0 failed",
        ]
    );
}
