//! Tests of the table.

use std::net::Ipv4Addr;

use flowtap_ebpf::abi::UNKNOWN_TURN;
use flowtap_pipeline::{AppProtocol, Census, Endpoint, Flow};

use super::*;
use crate::dns::Names;

const SECOND: u64 = 1_000_000_000;

fn table() -> Table {
    Table::new(&InspectConfig {
        protocols: true,
        server_names: Names::Full,
        exchanges: true,
        max_names: 2,
        ..InspectConfig::default()
    })
}

fn first(cookie: u64, role: u8, is_sent: bool, offset: u32, payload: &[u8]) -> FirstBytes<'_> {
    FirstBytes {
        cookie,
        role,
        is_sent,
        offset,
        payload,
    }
}

/// A record of the connection, completed.
fn complete(table: &mut Table, cookie: u64, events: Events, now_ns: u64) -> TcpRecord {
    let end = |port| Endpoint::new(Ipv4Addr::LOCALHOST.into(), port);
    let mut record = TcpRecord::new(Flow {
        cookie,
        ..Flow::new(end(50_000), end(80))
    });
    record.events = events;
    let mut batch = FlowBatch {
        tcp: vec![record],
        ..FlowBatch::default()
    };
    table.complete(&mut batch, now_ns);
    batch.tcp.remove(0)
}

fn protocol(record: &TcpRecord) -> Option<AppProtocol> {
    record.flow.inspection.as_ref()?.protocol
}

#[test]
fn what_a_server_receives_and_what_a_client_sends_is_the_clients() {
    let mut table = table();
    let request = b"GET / HTTP/1.1\r\n\r\n";
    table.add_first_bytes(&first(1, 1, true, 0, request), 1);
    table.add_first_bytes(&first(2, 2, false, 0, request), 1);
    table.add_first_bytes(&first(3, 2, true, 0, b"SSH-2.0-x\r\n"), 1);
    assert_eq!(
        protocol(&complete(&mut table, 3, Events::NONE, 2)),
        None,
        "the client's bytes may be on their way"
    );
    table.add_first_bytes(&first(3, 2, false, 0, b"SSH-2.0-y\r\n"), 2);
    for (cookie, expected) in [
        (1, AppProtocol::Http),
        (2, AppProtocol::Http),
        (3, AppProtocol::Ssh),
    ] {
        assert_eq!(
            protocol(&complete(&mut table, cookie, Events::NONE, 2)),
            Some(expected)
        );
        assert_eq!(
            protocol(&complete(&mut table, cookie, Events::CLOSED, 3)),
            Some(expected)
        );
    }
    assert_eq!((table.len(), table.unsettled), (0, 0));
    assert_eq!(table.closed().recognized, 3);
}

#[test]
fn a_name_that_is_read_after_the_answer_is_not_missed() {
    let mut table = table();
    let answer = b"\x16\x03\x03\x00\x50\x02\x00\x00\x4c\x03\x03";
    table.add_first_bytes(&first(1, 1, false, 0, answer), 1);
    assert_eq!(protocol(&complete(&mut table, 1, Events::NONE, 2)), None);
    let hello = crate::inspect::tests::hello(&[crate::inspect::tests::server_name(b"a.test")], 1 << 14);
    table.add_first_bytes(&first(1, 1, true, 0, &hello), 3);
    let record = complete(&mut table, 1, Events::CLOSED, 4);
    assert_eq!(protocol(&record), Some(AppProtocol::Tls));
    let name = record.flow.inspection.as_ref().unwrap().server_name.clone();
    assert_eq!(name.as_deref(), Some("a.test"));
}

#[test]
fn a_protocol_is_unknown_only_once_its_bytes_are_there() {
    let mut table = table();
    table.add_first_bytes(&first(1, 2, false, 0, b"\x07\x07\x07"), SECOND);
    assert_eq!(
        protocol(&complete(&mut table, 1, Events::NONE, 2 * SECOND)),
        None,
        "more may come"
    );
    assert_eq!(
        protocol(&complete(&mut table, 1, Events::NONE, 4 * SECOND)),
        Some(AppProtocol::Unknown)
    );
    table.add_first_bytes(&first(1, 2, false, 3, b"GET / HTTP/1.1\r\n"), 5 * SECOND);
    assert_eq!(
        protocol(&complete(&mut table, 1, Events::CLOSED, 6 * SECOND)),
        Some(AppProtocol::Unknown)
    );
    assert_eq!(
        protocol(&complete(&mut table, 9, Events::CLOSED, 6 * SECOND)),
        None
    );
    let closed = table.closed();
    assert_eq!((closed.recognized, closed.unrecognized, closed.unseen), (0, 1, 1));
}

#[test]
fn hostile_names_never_become_labels_and_further_ones_are_other() {
    let mut table = table();
    let names: [&[u8]; 6] = [
        b"a.test",
        b"B.test",
        b"c.test",
        b"a\n.test",
        b"192.0.2.7",
        b"\xff\xfe",
    ];
    let full_names = ["a.test", "b.test", "c.test"];
    let expected = ["a.test", "b.test", "other", "invalid", "invalid", "invalid"];
    for (cookie, (name, expected)) in (1..).zip(names.into_iter().zip(expected)) {
        let hello = crate::inspect::tests::hello(&[crate::inspect::tests::server_name(name)], 1 << 14);
        table.add_first_bytes(&first(cookie, 2, false, 0, &hello), 1);
        let record = complete(&mut table, cookie, Events::NONE, 2);
        let inspection = record.flow.inspection.unwrap();
        assert_eq!(inspection.protocol, Some(AppProtocol::Tls));
        assert_eq!(inspection.server_name.as_deref(), Some(expected));
        let full = inspection.server_name_full.as_deref();
        assert_eq!(
            full,
            (expected != "invalid").then(|| full_names[usize::try_from(cookie).unwrap() - 1])
        );
    }
    let rejected = table.rejected();
    assert_eq!((rejected.invalid_names, rejected.folded_names), (3, 1));
}

#[test]
fn exchanges_go_with_the_next_record_once() {
    let mut table = table();
    let exchange = |cookie, duration_us| ExchangeEvent {
        cookie,
        duration_us,
        role: 1,
        turn: UNKNOWN_TURN,
        pad: [0; 2],
    };
    table.add_exchange(&exchange(1, 100), 1);
    table.add_exchange(&exchange(1, 300), 1);
    let record = complete(&mut table, 1, Events::NONE, 2);
    let exchanges = record.exchanges.unwrap();
    assert_eq!((exchanges.count(), exchanges.sum_us()), (2, 400));
    assert_eq!(complete(&mut table, 1, Events::NONE, 3).exchanges, None);
    table.add_exchange(&exchange(1, 5), 4);
    assert_eq!(
        complete(&mut table, 1, Events::CLOSED, 5)
            .exchanges
            .unwrap()
            .count(),
        1
    );
    assert_eq!((table.len(), table.pending), (0, 0));
}

/// The packets of the connection come from 10.0.0.1 and go to 10.0.0.`peer`.
fn sent_to(cookie: u64, peer: u8) -> TranslationEvent {
    let mut bytes = [0_u8; 56];
    bytes[0] = 4;
    bytes[8..16].copy_from_slice(&cookie.to_ne_bytes());
    bytes[16..20].copy_from_slice(&[10, 0, 0, 1]);
    bytes[32..36].copy_from_slice(&[10, 0, 0, peer]);
    bytes[52..54].copy_from_slice(&2_u16.to_ne_bytes());
    match flowtap_ebpf::Event::read(&bytes) {
        Ok((flowtap_ebpf::Event::Translation(event), [])) => event,
        other => panic!("{other:?}"),
    }
}

#[test]
fn addresses_on_the_wire_are_in_each_record_until_the_close_unless_a_scan_has_found_them() {
    let mut table = table();
    table.add_translation(&sent_to(1, 70), 1);
    let peer = |record: &TcpRecord| {
        let translation = record.flow.translation.as_ref()?;
        Some(translation.remote.addr.to_string())
    };
    let peer_of = |table: &mut Table, cookie, events| peer(&complete(table, cookie, events, 2));
    assert_eq!(peer_of(&mut table, 2, Events::NONE), None, "another connection");
    for events in [Events::NONE, Events::CLOSED] {
        assert_eq!(peer_of(&mut table, 1, events).as_deref(), Some("10.0.0.70"));
    }
    assert_eq!(peer_of(&mut table, 1, Events::NONE), None);
    assert_eq!(table.len(), 0);

    table.add_translation(&sent_to(3, 70), 3);
    let end = |port| Endpoint::new(Ipv4Addr::LOCALHOST.into(), port);
    let mut record = TcpRecord::new(Flow {
        cookie: 3,
        ..Flow::new(end(50_000), end(80))
    });
    record.flow.translation = Some(Arc::new(translation(&sent_to(3, 71))));
    let mut batch = FlowBatch {
        tcp: vec![record],
        ..FlowBatch::default()
    };
    table.complete(&mut batch, 4);
    assert_eq!(peer(&batch.tcp[0]).as_deref(), Some("10.0.0.71"));
}

#[test]
fn what_finds_no_room_or_no_record_is_counted() {
    let mut table = table();
    table.capacity = 1;
    table.add_exchange(
        &ExchangeEvent {
            cookie: 1,
            duration_us: 5,
            role: 2,
            turn: UNKNOWN_TURN,
            pad: [0; 2],
        },
        SECOND,
    );
    table.add_first_bytes(&first(2, 2, false, 0, b"x"), SECOND);
    assert_eq!(table.rejected().connections, 1);
    // Its record never came.
    table.add_first_bytes(&first(2, 2, false, 0, b"x"), 400 * SECOND);
    assert_eq!((table.rejected().connections, table.rejected().exchanges), (1, 1));
    assert_eq!((table.len(), table.pending, table.unsettled), (1, 0, 1));
}

#[test]
fn a_census_takes_out_what_it_does_not_see() {
    let mut table = table();
    for cookie in [1, 2] {
        table.add_first_bytes(&first(cookie, 2, false, 0, b"EHLO a.test\r\n"), 1);
        complete(&mut table, cookie, Events::NONE, 2);
    }
    let end = |port| Endpoint::new(Ipv4Addr::LOCALHOST.into(), port);
    let mut batch = FlowBatch {
        census: Census::WHOLE,
        tcp: vec![TcpRecord::new(Flow {
            cookie: 1,
            ..Flow::new(end(1), end(2))
        })],
        ..FlowBatch::default()
    };
    table.complete(&mut batch, 3);
    assert_eq!(protocol(&batch.tcp[0]), Some(AppProtocol::Smtp));
    assert_eq!(
        protocol(&complete(&mut table, 1, Events::NONE, 4)),
        Some(AppProtocol::Smtp)
    );
    assert_eq!(protocol(&complete(&mut table, 2, Events::NONE, 4)), None);
}

/// The durations that a connection's next record has.
fn durations(table: &mut Table, cookie: u64) -> Vec<u32> {
    let record = complete(table, cookie, Events::NONE, 5);
    record
        .exchanges
        .map_or_else(Vec::new, |exchanges| exchanges.durations_us)
}

#[test]
fn turns_of_a_handshake_are_not_exchanges() {
    let mut table = table();
    let server_hello = |random: [u8; 32]| [&[22, 3, 3, 0, 90, 2, 0, 0, 86, 3, 3][..], &random].concat();
    let mut retry = [0; 32];
    retry[..4].copy_from_slice(&[0xcf, 0x21, 0xad, 0x74]);
    let client_hello = [22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];
    table.add_first_bytes(&first(1, 1, true, 0, &client_hello), 1);
    // Only the server's bytes were seen.
    table.add_first_bytes(&first(2, 2, true, 0, &server_hello([7; 32])), 1);
    table.add_first_bytes(&first(3, 1, true, 0, b"GET / HTTP/1.1\r\n\r\n"), 1);
    // Not the whole number of a request for another message.
    table.add_first_bytes(&first(4, 1, true, 0, &client_hello), 1);
    table.add_first_bytes(&first(4, 1, false, 0, &server_hello(retry)), 1);
    table.add_first_bytes(&first(6, 1, false, 0, &server_hello(tls::RETRY)), 1);
    for cookie in 1..=6 {
        for turn in [0, 1, 2, 3, UNKNOWN_TURN] {
            let exchange = ExchangeEvent {
                cookie,
                duration_us: u32::from(turn),
                role: 1,
                turn,
                pad: [0; 2],
            };
            table.add_exchange(&exchange, 2);
        }
    }
    // The first bytes of the fifth were on their way, and those of no other.
    assert!(table.has_early_exchanges());
    table.add_first_bytes(&first(5, 1, true, 0, b"PING\r\n"), 3);
    table.add_early_exchanges(4);
    assert!(!table.has_early_exchanges());
    assert_eq!(durations(&mut table, 1), [2, 3, 255]);
    assert_eq!(durations(&mut table, 2), [2, 3, 255]);
    assert_eq!(durations(&mut table, 3), [0, 1, 2, 3, 255]);
    assert_eq!(durations(&mut table, 4), [2, 3, 255]);
    assert_eq!(durations(&mut table, 5), [3, 255, 0, 1, 2]);
    assert_eq!(durations(&mut table, 6), [3, 255]);
    assert_eq!((table.rejected().handshakes, table.rejected().openings), (9, 0));
}

#[test]
fn early_exchanges_of_unseen_openings_are_rejected() {
    let mut table = table();
    let exchange = |turn| ExchangeEvent {
        cookie: 1,
        duration_us: 9,
        role: 2,
        turn,
        pad: [0; 2],
    };
    for _ in 0..EARLY + 3 {
        table.add_exchange(&exchange(0), 1);
    }
    assert_eq!(table.rejected().openings, 3);
    table.add_early_exchanges(1);
    assert_eq!(table.rejected().openings, EARLY as u64 + 3);
    table.add_exchange(&exchange(3), 1);
    assert_eq!(durations(&mut table, 1), [9]);
}
