//! The oracle is the arithmetic of the module's doc.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use flowtap_pipeline::{ComponentConfig, Endpoint, Events, Role};

use super::config::MAX_PEERS;
use super::*;
use flowtap_pipeline::{DnsOutcome, DropKind, UdpRecord};

/// The records of the start and of `intervals` intervals.
fn generated(config: &Config, intervals: u64) -> Vec<TcpRecord> {
    assert_eq!(config.validate(), []);
    let flows = Flows::new(config);
    let opening = flows.opening();
    opening
        .chain((0..intervals).flat_map(|number| flows.interval(number)))
        .collect()
}

fn sums(records: &[TcpRecord]) -> (i64, i64) {
    records.iter().fold((0, 0), |(sent, received), record| {
        (sent + record.sent_bytes, received + record.received_bytes)
    })
}

fn count(records: &[TcpRecord], event: Events) -> usize {
    let with = records.iter().filter(|record| record.events.contains(event));
    with.count()
}

/// The peer of a record: its address and the service's port.
fn peer(record: &TcpRecord) -> (IpAddr, u16) {
    let end = match record.flow.role {
        Role::Server => record.flow.local,
        Role::Client | Role::Unknown => record.flow.remote,
    };
    (record.flow.remote.addr, end.port)
}

/// Number of intervals in which each peer moved bytes.
fn moved(records: &[TcpRecord]) -> BTreeMap<(IpAddr, u16), u64> {
    let mut peers = BTreeMap::new();
    for record in records.iter().filter(|record| record.sent_bytes > 0) {
        *peers.entry(peer(record)).or_default() += 1;
    }
    peers
}

#[test]
fn a_census_has_the_connections_that_are_open_and_moves_nothing() {
    let config = Config {
        flows: 50,
        churn_per_interval: 7,
        ..Config::default()
    };
    let intervals = 9;
    let records = generated(&config, intervals);
    let mut open = HashSet::new();
    for record in &records {
        if record.events.contains(Events::OPENED) {
            open.insert(record.flow.cookie);
        }
        if record.events.contains(Events::CLOSED) {
            open.remove(&record.flow.cookie);
        }
    }
    let census: Vec<_> = Flows::new(&config).census(intervals).collect();
    let found: HashSet<_> = census.iter().map(|record| record.flow.cookie).collect();
    assert_eq!((census.len(), found), (50, open));
    assert_eq!((sums(&census), count(&census, Events::OPEN)), ((0, 0), 50));
}

#[test]
fn the_defaults_are_valid() {
    assert_eq!(Config::default().validate(), []);
}

#[test]
fn every_bound_that_is_broken_is_reported_at_once_with_its_key() {
    let config = Config {
        flows: MAX_PEERS + 1,
        peers: Some(5),
        interval: Duration::from_millis(99),
        max_intervals: Some(0),
        active_per_interval: Some(MAX_PEERS + 2),
        churn_per_interval: MAX_PEERS + 2,
        addresses: 0,
        udp_flows: MAX_PEERS + 1,
        udp_churn_per_interval: MAX_PEERS + 2,
        udp_datagram_bytes: 65_508,
        ipv6_share: -0.1,
        server_share: f64::NAN,
        ..Config::default()
    };
    let faults = config.validate();
    let keys: Vec<_> = faults.iter().map(|fault| fault.path.join(".")).collect();
    let expected = [
        "flows",
        "peers",
        "interval",
        "max_intervals",
        "active_per_interval",
        "churn_per_interval",
        "addresses",
        "udp_flows",
        "udp_churn_per_interval",
        "udp_datagram_bytes",
        "ipv6_share",
        "server_share",
    ];
    assert_eq!(keys, expected);
    assert!(faults[0].message.contains("10000000"), "{}", faults[0].message);
}

#[test]
fn the_same_seed_makes_the_same_records_and_another_one_the_same_sums() {
    let with_seed = |seed| Config {
        active_per_interval: Some(300),
        churn_per_interval: 7,
        ipv6_share: 0.3,
        seed,
        ..Config::default()
    };
    let first = generated(&with_seed(1), 5);
    assert_eq!(first, generated(&with_seed(1), 5));
    let other = generated(&with_seed(2), 5);
    assert_ne!(first, other);
    assert_eq!(
        (first.len(), sums(&first)),
        (1000 + 5 * (300 + 2 * 7), (5 * 300 * 1000, 5 * 300 * 10_000))
    );
    assert_eq!((first.len(), sums(&first)), (other.len(), sums(&other)));
}

#[test]
fn every_flow_has_a_peer_of_its_own_with_the_shares_that_are_set() {
    // More than there are IPv4 addresses, and no round number.
    let config = Config {
        flows: 300_007,
        ipv6_share: 0.25,
        server_share: 0.4,
        ..Config::default()
    };
    let records = generated(&config, 1);
    let peers = moved(&records);
    assert_eq!(peers.len(), 300_007);
    assert!(peers.values().all(|times| *times == 1));
    let in_range = |(addr, port): &(IpAddr, u16)| match addr {
        IpAddr::V4(addr) => matches!(addr.octets(), [198, 18 | 19, ..]) && (443..=444).contains(port),
        IpAddr::V6(addr) => addr.segments()[..3] == [0x2001, 2, 0] && *port == 443,
    };
    assert!(peers.keys().all(in_range));
    assert_eq!(peers.keys().filter(|(addr, _)| addr.is_ipv6()).count(), 75_002);
    let opened = &records[..300_007];
    let served = opened.iter().filter(|record| record.flow.role == Role::Server);
    assert_eq!(served.count(), 120_003);
}

#[test]
fn peers_share_the_addresses_that_there_are_and_differ_by_port() {
    let config = Config {
        flows: 1000,
        addresses: 30,
        ..Config::default()
    };
    let peers = moved(&generated(&config, 1));
    assert_eq!(peers.len(), 1000);
    let addresses: HashSet<_> = peers.keys().map(|(addr, _)| addr).collect();
    assert_eq!(addresses.len(), 30);
    // 34 for each, at most.
    assert_eq!(peers.keys().map(|(_, port)| port).max(), Some(&(443 + 33)));
    let config = Config {
        flows: 65_094,
        addresses: 1,
        ..Config::default()
    };
    let message = &config.validate()[0].message;
    assert!(message.contains("from 2"), "{message}");
}

#[test]
fn two_generators_report_both_ends_of_the_same_connections() {
    let [client, server] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
    let at_the_client = Config {
        flows: 20,
        addresses: 1,
        local_address: client,
        first_peer_address: server,
        server_share: 0.0,
        sent_bytes: 100,
        received_bytes: 2000,
        ..Config::default()
    };
    let at_the_server = Config {
        local_address: server,
        first_peer_address: client,
        server_share: 1.0,
        sent_bytes: 2000,
        received_bytes: 100,
        ..at_the_client.clone()
    };
    let ends = |flow: &flowtap_pipeline::Flow| match flow.role {
        Role::Server => [flow.remote, flow.local].map(|end| (end.addr, end.port)),
        Role::Client | Role::Unknown => [flow.local, flow.remote].map(|end| (end.addr, end.port)),
    };
    let connections = |config: &Config| -> BTreeMap<_, _> {
        let records = generated(config, 3).into_iter();
        records.fold(BTreeMap::new(), |mut sums, record| {
            let forth = record.flow.role == Role::Client;
            let (sent, received) = (record.sent_bytes, record.received_bytes);
            let moved = if forth { (sent, received) } else { (received, sent) };
            let sum: &mut (i64, i64) = sums.entry(ends(&record.flow)).or_default();
            *sum = (sum.0 + moved.0, sum.1 + moved.1);
            sums
        })
    };
    let seen = connections(&at_the_client);
    assert_eq!(seen.len(), 20);
    assert!(seen.values().all(|sums| *sums == (300, 6000)), "{seen:?}");
    assert_eq!(seen, connections(&at_the_server));
}

#[test]
fn peers_have_room_for_their_addresses() {
    let config = Config {
        addresses: 2,
        flows: 2,
        first_peer_address: Ipv4Addr::BROADCAST,
        ..Config::default()
    };
    let faults = config.validate();
    let keys: Vec<_> = faults.iter().map(|fault| fault.path.join(".")).collect();
    assert_eq!(keys, ["first_peer_address"]);
}

#[test]
fn active_flows_take_turns_so_that_each_peer_moves_as_much() {
    let config = Config {
        flows: 10,
        active_per_interval: Some(4),
        churn_per_interval: 3,
        ..Config::default()
    };
    assert_eq!(moved(&generated(&config, 1)).len(), 4);
    assert_eq!(moved(&generated(&config, 3)).len(), 10);
    let peers = moved(&generated(&config, 5));
    assert!(peers.values().all(|times| *times == 2), "{peers:?}");
}

#[test]
fn under_churn_each_close_ends_a_connection_that_was_opened_and_as_many_stay_open() {
    let config = Config {
        flows: 50,
        churn_per_interval: 20,
        peers: Some(125),
        ..Config::default()
    };
    let records = generated(&config, 9);
    assert_eq!(count(&records, Events::OPENED), 50 + 9 * 20);
    assert_eq!(count(&records, Events::CLOSED), 9 * 20);
    let mut open: HashSet<(u64, Endpoint, Endpoint)> = HashSet::new();
    for record in &records {
        let connection = (record.flow.cookie, record.flow.local, record.flow.remote);
        if record.events.contains(Events::OPENED) {
            assert!(open.insert(connection), "opened twice: {record:?}");
            assert_eq!(record.age_us, 0);
        } else {
            assert!(open.contains(&connection), "not open: {record:?}");
            assert!(record.age_us > 0, "{record:?}");
        }
        if record.events.contains(Events::CLOSED) {
            open.remove(&connection);
        }
    }
    assert_eq!(open.len(), 50);
}

#[test]
fn peers_beyond_the_flows_come_with_churn_until_all_have_had_their_turn() {
    let config = Config {
        flows: 50,
        churn_per_interval: 20,
        peers: Some(125),
        ..Config::default()
    };
    for intervals in 1..8 {
        let expected = (50 + (intervals - 1) * 20).min(125);
        assert_eq!(moved(&generated(&config, intervals)).len() as u64, expected);
    }
}

#[tokio::test]
async fn batches_are_bounded_and_hold_every_record() {
    let config = Config {
        flows: 2500,
        ..Config::default()
    };
    let (mut batch, mut sizes) = (FlowBatch::default(), Vec::new());
    let all = hand_on(
        Flows::new(&config).opening(),
        |batch, record| batch.tcp.push(record),
        &mut batch,
        &CancellationToken::new(),
        |batch| {
            sizes.push(batch.tcp.len());
            batch.clear();
        },
    )
    .await;
    assert!(all);
    assert_eq!(sizes, [1024, 1024, 452]);
}

#[tokio::test]
async fn a_stop_in_the_middle_of_ten_million_records_is_heard_after_the_batch() {
    let config = Config {
        flows: MAX_PEERS,
        ..Config::default()
    };
    let (stop, mut batch, mut batches) = (CancellationToken::new(), FlowBatch::default(), 0);
    let put = |batch: &mut FlowBatch, record| batch.tcp.push(record);
    let all = hand_on(Flows::new(&config).interval(0), put, &mut batch, &stop, |batch| {
        batches += 1;
        if batches == 3 {
            stop.cancel();
        }
        batch.clear();
    })
    .await;
    assert!(!all);
    assert_eq!(batches, 3);
}

#[test]
fn intervals_that_no_tick_came_for_are_counted_and_a_clock_that_is_set_back_misses_none() {
    let second = Duration::from_secs(1);
    let at = |seconds: u64| Timestamp::from_nanos(seconds * 1_000_000_000);
    let missed = |before, now| intervals_between(at(before), at(now), second);
    assert_eq!(
        [missed(5, 5), missed(5, 6), missed(5, 9), missed(5, 2)],
        [0, 0, 3, 0]
    );
}

#[test]
fn dns_transactions_are_as_many_of_each_outcome_as_the_table_says() {
    let config = Config {
        dns_queries_per_interval: 250,
        dns_names: 30,
        ..Config::default()
    };
    let queries = Queries::new(&config);
    let records: Vec<_> = (0..4)
        .flat_map(|index| queries.interval(index, Timestamp::from_nanos(index)))
        .collect();
    let with = |outcome| records.iter().filter(|record| record.outcome == outcome).count();
    assert_eq!(records.len(), 1000);
    assert_eq!(with(DnsOutcome::TimedOut), 10);
    assert_eq!(with(DnsOutcome::Answered(3)), 40);
    assert_eq!(with(DnsOutcome::Answered(0)), 950);
    let names: HashSet<_> = records.iter().filter_map(|record| record.qname.clone()).collect();
    assert_eq!(names.len(), 30);
    let nameless = Queries::new(&Config {
        dns_names: 0,
        ..config
    });
    let mut nameless = nameless.interval(0, Timestamp::from_nanos(0));
    assert!(nameless.all(|record| record.qname.is_none() && record.answer.is_none()));
}

#[test]
fn udp_flows_move_close_and_fail_as_the_table_says() {
    let config = Config {
        udp_flows: 250,
        udp_churn_per_interval: 30,
        udp_datagrams: 3,
        udp_datagram_bytes: 1200,
        ipv6_share: 0.2,
        ..Config::default()
    };
    assert_eq!(config.validate(), []);
    let datagrams = Datagrams::new(&config);
    let records: Vec<_> = (0..4).flat_map(|index| datagrams.interval(index)).collect();
    assert_eq!(records.len(), 4 * 250);
    let sum = |of: fn(&UdpRecord) -> i64| records.iter().map(of).sum::<i64>();
    assert_eq!(sum(|record| record.sent_datagrams), 4 * 250 * 3);
    assert_eq!(sum(|record| record.received_datagrams), 4 * 250 * 3);
    assert_eq!(sum(|record| record.sent_bytes), 4 * 250 * 3 * 1200);
    assert_eq!(sum(|record| record.received_bytes), 4 * 250 * 3 * 1200);
    assert_eq!(
        (sum(|record| record.drops), sum(|record| record.errors)),
        (4 * 2, 4 * 2)
    );
    assert_eq!(datagrams.messages().map(|message| message.count), Some(2));
    let mut open = HashSet::new();
    for record in &records {
        if record.opened {
            assert!(open.insert(record.flow.cookie), "opened twice: {record:?}");
        }
        assert!(open.contains(&record.flow.cookie), "not open: {record:?}");
        if record.end.is_last() {
            open.remove(&record.flow.cookie);
        }
    }
    let opened = records.iter().filter(|record| record.opened).count();
    let closed = records.iter().filter(|record| record.end.is_last()).count();
    assert_eq!((opened, closed), (250 + 3 * 30, 4 * 30));
    let peers: HashSet<_> = records
        .iter()
        .map(|record| (record.flow.remote.addr, record.flow.role == Role::Server))
        .collect();
    assert_eq!(
        peers.len(),
        250,
        "as many peers as flows: new ones are to the peers of the closed ones"
    );
    // None unless it is asked for.
    assert_eq!(Datagrams::new(&Config::default()).interval(0).count(), 0);
    assert_eq!(Datagrams::new(&Config::default()).messages(), None);
}

#[test]
fn dropped_packets_have_each_reason_equally_often_and_a_kind_each() {
    let config = Config {
        dropped_packets_per_interval: 7,
        ..Config::default()
    };
    let drops = Drops::new(&config);
    let records: Vec<_> = (0..5).flat_map(|index| drops.interval(index)).collect();
    let mut packets = BTreeMap::new();
    for record in &records {
        *packets.entry(record.reason.as_str()).or_insert(0) += record.packets;
    }
    assert_eq!(packets.len(), 5);
    assert!(packets.values().all(|count| *count == 7), "{packets:?}");
    let kinds: HashSet<_> = records.iter().map(|record| record.reason.kind()).collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    assert!(!kinds.contains(&DropKind::Other));
}
