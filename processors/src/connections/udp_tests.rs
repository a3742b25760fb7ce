//! Tests of records of UDP flows, with an oracle that adds up what was folded.

use std::collections::HashMap;
use std::sync::Arc;

use flowtap_pipeline::log::{Datagrams, UdpLog};
use flowtap_pipeline::testing::{config, context, flow};
use flowtap_pipeline::{Flow, NodeInfo, Transport, UdpEnd};
use proptest::prelude::*;

use super::*;
use crate::testing::counted_context;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

fn aggregator_of(yaml: &str) -> Connections {
    let config = config(FACTORY, yaml).unwrap();
    let config = flowtap_pipeline::component::downcast::<Config>(&*config).unwrap();
    Connections::new(config, &context("connections"))
}

fn aggregator(more: &str) -> Connections {
    let mut aggregator = aggregator_of(&format!("{{udp: true, {more}}}"));
    aggregator.begin(at(100));
    aggregator
}

/// A record of the socket with this cookie and a peer's port: 100 bytes in each datagram that it sends.
fn of(cookie: u64, port: u16, sent: i64) -> UdpRecord {
    let flow = Flow {
        transport: Transport::Udp,
        cookie,
        ..flow("192.0.2.1:40000", &format!("198.51.100.7:{port}"))
    };
    UdpRecord {
        sent_bytes: 100 * sent,
        sent_datagrams: sent,
        ..UdpRecord::new(flow)
    }
}

fn opened(record: UdpRecord) -> UdpRecord {
    UdpRecord {
        opened: true,
        ..record
    }
}

fn ended(end: UdpEnd, record: UdpRecord) -> UdpRecord {
    UdpRecord { end, ..record }
}

fn fold(aggregator: &mut Connections, records: impl Into<Vec<UdpRecord>>) {
    aggregator.fold(&FlowBatch {
        udp: records.into(),
        ..FlowBatch::default()
    });
}

fn logs(output: Option<Output>) -> Vec<LogRecord> {
    let batch = output.and_then(Output::into_logs);
    batch.map_or_else(Vec::new, |batch| Arc::unwrap_or_clone(batch).records)
}

fn udp(record: &LogRecord) -> &UdpLog {
    record.udp().unwrap()
}

/// Outcome, sequence, datagrams sent in the interval and in all, end, interval and duration in seconds.
type Line = (Outcome, u32, i64, i64, u64, u64, u64);

fn lines(records: &[LogRecord]) -> Vec<Line> {
    let line = |record: &LogRecord| {
        let log = udp(record);
        (
            log.outcome,
            log.sequence,
            log.delta.sent_datagrams,
            log.total.sent_datagrams,
            record.at.as_nanos() / 1_000_000_000,
            log.interval.as_secs(),
            log.duration.as_secs(),
        )
    };
    records.iter().map(line).collect()
}

#[test]
fn without_udp_in_the_config_a_flow_has_no_record() {
    let mut aggregator = aggregator_of("");
    aggregator.begin(at(100));
    fold(&mut aggregator, [ended(UdpEnd::Closed, opened(of(1, 53, 1)))]);
    assert_eq!(logs(aggregator.advance(at(105))), []);
}

#[test]
fn a_flow_has_a_record_per_active_timeout_and_one_when_its_socket_closes() {
    let mut aggregator = aggregator("active_timeout: 10s");
    let mut seen = Vec::new();
    for second in (105..=120).step_by(5) {
        let record = of(1, 443, 2);
        let record = if second == 105 { opened(record) } else { record };
        fold(&mut aggregator, [record]);
        seen.extend(logs(aggregator.advance(at(second))));
    }
    fold(&mut aggregator, [ended(UdpEnd::Closed, of(1, 443, 1))]);
    seen.extend(logs(aggregator.advance(at(125))));
    assert_eq!(
        lines(&seen),
        [
            (Outcome::Active, 0, 4, 4, 110, 10, 10),
            (Outcome::Active, 1, 4, 8, 120, 10, 20),
            (Outcome::Closed, 2, 1, 9, 125, 5, 25),
        ]
    );
    assert!(!udp(&seen[0]).adopted);
    assert_eq!(aggregator.udp.len(), 0);
}

#[test]
fn the_record_of_an_idle_flow_ends_where_it_moved_last() {
    for reported in [true, false] {
        let mut aggregator = aggregator("active_timeout: 60s, idle_timeout: 20s");
        fold(&mut aggregator, [opened(of(1, 53, 3))]);
        let mut seen = logs(aggregator.advance(at(105)));
        for second in (110..=125).step_by(5) {
            if reported && second == 120 {
                fold(&mut aggregator, [ended(UdpEnd::Idle, of(1, 53, 0))]);
            }
            seen.extend(logs(aggregator.advance(at(second))));
        }
        assert_eq!(lines(&seen), [(Outcome::Idle, 0, 3, 3, 105, 5, 5)]);
        // The receiver's report comes after the flow has ended here.
        fold(&mut aggregator, [ended(UdpEnd::Idle, of(1, 53, 0))]);
        assert_eq!(logs(aggregator.advance(at(130))), []);
        // Its next datagram begins another flow.
        fold(&mut aggregator, [ended(UdpEnd::Closed, opened(of(1, 53, 1)))]);
        let next = logs(aggregator.advance(at(135)));
        assert_eq!(lines(&next), [(Outcome::Closed, 0, 1, 1, 135, 5, 5)]);
    }
}

#[test]
fn the_peers_of_a_socket_are_flows_and_both_ends_of_one_flow_too() {
    let mut aggregator = aggregator("");
    let mut back = of(2, 53, 1);
    std::mem::swap(&mut back.flow.local, &mut back.flow.remote);
    fold(
        &mut aggregator,
        [opened(of(1, 53, 1)), opened(of(1, 54, 2)), opened(back)],
    );
    assert_eq!(aggregator.udp.len(), 3);
    // A census of TCP whose connections a filter has dropped.
    aggregator.fold(&FlowBatch {
        census: Census::WHOLE,
        ..FlowBatch::default()
    });
    assert_eq!(logs(aggregator.advance(at(105))), []);
    let mut sent: Vec<_> = logs(Some(aggregator.finish(at(106))))
        .iter()
        .map(|record| (udp(record).outcome, udp(record).delta.sent_datagrams))
        .collect();
    sent.sort_by_key(|(_, sent)| *sent);
    assert_eq!(sent, [1, 1, 2].map(|sent| (Outcome::Detached, sent)));
}

#[test]
fn an_error_is_in_the_record_of_its_interval_and_in_the_last_one() {
    let mut aggregator = aggregator("active_timeout: 5s");
    let refused = UdpRecord {
        errors: 1,
        error: 111,
        ..of(1, 53, 1)
    };
    fold(&mut aggregator, [opened(refused)]);
    let first = logs(aggregator.advance(at(105)));
    assert_eq!(
        (udp(&first[0]).error, first[0].severity().as_str()),
        (Some("refused"), "WARN")
    );
    fold(&mut aggregator, [of(1, 53, 1)]);
    let second = logs(aggregator.advance(at(110)));
    assert_eq!(
        (udp(&second[0]).error, second[0].severity().as_str()),
        (None, "INFO")
    );
    // The last record says it of the flow.
    fold(&mut aggregator, [ended(UdpEnd::Closed, of(1, 53, 1))]);
    let third = logs(aggregator.advance(at(115)));
    assert_eq!(
        (udp(&third[0]).error, third[0].severity().as_str()),
        (Some("refused"), "WARN")
    );
}

#[test]
fn sampling_keeps_its_part_of_one_sockets_peers_and_all_that_failed_or_dropped() {
    let mut aggregator = aggregator("sample: {ratio: 0.25}");
    let records = (1..=20_000).map(|port| {
        let record = opened(of(7, port, 1));
        let record = match port % 10 {
            0 => UdpRecord { drops: 1, ..record },
            1 => UdpRecord {
                errors: 1,
                error: 111,
                ..record
            },
            _ => record,
        };
        ended(UdpEnd::Closed, record)
    });
    fold(&mut aggregator, records.collect::<Vec<_>>());
    let records = logs(aggregator.advance(at(105)));
    let (always, sampled): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| udp(record).probability >= 1.0);
    assert_eq!(always.len(), 4_000);
    assert!(
        (3_800..4_200).contains(&sampled.len()),
        "{} of 16,000",
        sampled.len()
    );
}

#[test]
fn sums_divided_by_the_probability_have_no_bias_of_flows_that_join_those_that_are_always_kept() {
    let (context, counters) = counted_context(NodeInfo::default());
    let config = config(FACTORY, "{udp: true, active_timeout: 5s, sample: {ratio: 0.2}}").unwrap();
    let config = flowtap_pipeline::component::downcast::<Config>(&*config).unwrap();
    let mut aggregator = Connections::new(config, &context);
    aggregator.begin(at(100));
    let mut kept = Vec::new();
    for second in [5, 10, 15, 20] {
        // Before the third watermark a third has an error, a third drops a datagram, and a third goes on.
        let records = (1..=9_000_u16).map(|port| {
            let kind = if second == 15 { port % 3 } else { 2 };
            UdpRecord {
                opened: second == 5,
                end: if second == 20 {
                    UdpEnd::Closed
                } else {
                    UdpEnd::Open
                },
                drops: i64::from(kind == 0),
                errors: i64::from(kind == 1),
                error: 111 * u16::from(kind == 1),
                ..of(7, port, 1)
            }
        });
        fold(&mut aggregator, records.collect::<Vec<_>>());
        kept.extend(logs(aggregator.advance(at(100 + second))));
    }
    let sum = |each: &dyn Fn(&UdpLog) -> f64| kept.iter().map(udp).map(each).sum::<f64>();
    let estimate = sum(&|log| log.delta.sent_datagrams as f64 / log.probability);
    assert!((estimate / 36_000.0 - 1.0).abs() < 0.04, "{estimate} of 36000");
    let ends = sum(&|log| f64::from(u8::from(log.outcome.is_final())) / log.probability);
    assert!((ends / 9_000.0 - 1.0).abs() < 0.04, "{ends} of 9000");
    let sent: i64 = kept.iter().map(udp).map(|log| log.delta.sent_bytes).sum();
    assert_eq!(sent.unsigned_abs() + counters.dropped_bytes("sample"), 3_600_000);
    // One that joins has its totals, and the differences since the record that it would have had before.
    let joined = kept
        .iter()
        .map(udp)
        .filter(|log| log.delta.drops + log.delta.errors > 0);
    let lines: std::collections::BTreeSet<_> = joined
        .map(|log| (log.sequence, log.delta.sent_datagrams, log.total.sent_datagrams))
        .collect();
    assert_eq!(lines.into_iter().collect::<Vec<_>>(), [(2, 1, 3)]);
}

#[test]
fn a_flow_beyond_the_bound_has_a_record_at_its_end_without_what_was_dropped() {
    let mut aggregator = aggregator("max_udp_flows: 1");
    fold(&mut aggregator, [opened(of(1, 53, 1)), opened(of(2, 53, 5))]);
    fold(&mut aggregator, [ended(UdpEnd::Closed, of(2, 53, 3))]);
    let records = logs(aggregator.advance(at(105)));
    assert_eq!(lines(&records), [(Outcome::Closed, 0, 3, 3, 105, 5, 5)]);
    assert!(udp(&records[0]).adopted);
    assert_eq!(aggregator.udp.len(), 1);
}

#[test]
fn a_reload_continues_flows_and_one_without_udp_ends_them() {
    for continues in [true, false] {
        let mut first = aggregator("");
        fold(&mut first, [opened(of(1, 53, 4))]);
        first.advance(at(105));
        let finished = logs(Some(first.finish(at(107)).replaced()));
        assert_eq!(lines(&finished), [(Outcome::Active, 0, 4, 4, 107, 7, 7)]);
        let mut second = aggregator_of(&format!("{{udp: {continues}}}"));
        second.take_over((Box::new(first) as Box<dyn Aggregator>).hand_over().unwrap());
        second.begin(at(107));
        fold(&mut second, [ended(UdpEnd::Closed, of(1, 53, 2))]);
        let records = logs(second.advance(at(110)));
        let expected = if continues {
            (Outcome::Closed, 1, 2, 6, 110, 3, 10)
        } else {
            (Outcome::Detached, 1, 0, 4, 110, 3, 10)
        };
        assert_eq!(lines(&records), [expected]);
    }
}

#[test]
fn a_reload_with_less_room_continues_every_flow_that_was_followed() {
    let mut first = aggregator("");
    fold(&mut first, [1, 2, 3].map(|cookie| opened(of(cookie, 53, 4))));
    first.advance(at(105));
    assert_eq!(logs(Some(first.finish(at(107)).replaced())).len(), 3);
    let mut second = aggregator_of("{udp: true, max_udp_flows: 1}");
    second.take_over((Box::new(first) as Box<dyn Aggregator>).hand_over().unwrap());
    second.begin(at(107));
    fold(&mut second, [1, 2, 3].map(|cookie| of(cookie, 53, 1)));
    fold(
        &mut second,
        [1, 2, 3].map(|cookie| ended(UdpEnd::Closed, of(cookie, 53, 2))),
    );
    let records = logs(second.advance(at(110)));
    assert_eq!(lines(&records), [(Outcome::Closed, 1, 3, 7, 110, 3, 10); 3]);
}

#[test]
fn records_beyond_the_batch_are_not_made_and_open_flows_wait_for_the_next() {
    let mut aggregator = aggregator("max_records: 2, active_timeout: 5s");
    fold(&mut aggregator, [opened(of(9, 53, 1))]);
    let closed = |cookie| ended(UdpEnd::Closed, opened(of(cookie, 53, 1)));
    fold(&mut aggregator, [closed(1), closed(2), closed(3)]);
    assert_eq!(logs(aggregator.advance(at(105))).len(), 2);
    let records = logs(aggregator.advance(at(110)));
    assert_eq!((records.len(), records[0].flow.cookie), (1, 9));
}

#[test]
fn a_clock_that_was_set_back_ends_no_flow_and_stops_no_record() {
    let mut aggregator = aggregator("active_timeout: 5s, idle_timeout: 10s");
    fold(&mut aggregator, [opened(of(1, 53, 1))]);
    let mut records = logs(aggregator.advance(at(104)));
    records.extend(logs(aggregator.advance(at(50))));
    fold(&mut aggregator, [of(1, 53, 2)]);
    records.extend(logs(aggregator.advance(at(56))));
    assert!(
        records
            .iter()
            .all(|record| udp(record).outcome == Outcome::Active)
    );
    let sent: i64 = records
        .iter()
        .map(|record| udp(record).delta.sent_datagrams)
        .sum();
    assert_eq!(sent, 3);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Moves { port: u16, sent: i64, end: UdpEnd },
    Watermark,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![
        6 => Just(UdpEnd::Open),
        1 => Just(UdpEnd::Closed),
        1 => Just(UdpEnd::Idle),
    ];
    // A receiver takes back what a queue had no room for.
    let moves = (1_u16..12, -3_i64..20, end).prop_map(|(port, sent, end)| Step::Moves { port, sent, end });
    prop::collection::vec(prop_oneof![3 => moves, 2 => Just(Step::Watermark)], 1..200)
}

proptest! {
    #[test]
    fn the_records_of_all_flows_add_up_to_what_was_folded(steps in steps()) {
        let mut aggregator = aggregator("active_timeout: 5s, idle_timeout: 15s");
        let mut second = 100;
        let mut folded: HashMap<u16, Datagrams> = HashMap::new();
        let mut seen: HashMap<u16, (Datagrams, Option<(u32, Timestamp)>)> = HashMap::new();
        let mut take = |records: Vec<LogRecord>| {
            for record in records {
                let log = udp(&record);
                let (sum, before) = seen.entry(record.flow.remote.port).or_default();
                *sum = sum.plus(log.delta);
                // A flow that ended and moves again is another one.
                let (sequence, started) = before.unzip();
                assert_eq!(log.sequence, sequence.map_or(0, |sequence| sequence + 1));
                let start = record.part().unwrap().interval_start(record.at);
                if let Some(end_before) = started {
                    assert_eq!(start, end_before, "records follow one another without a gap");
                }
                *before = (!log.outcome.is_final()).then_some((log.sequence, record.at));
            }
        };
        for step in steps {
            if let Step::Moves { port, sent, end } = step {
                let record = ended(end, of(1, port, sent));
                let sum = folded.entry(port).or_default();
                *sum = sum.plus(Datagrams::from(&record));
                fold(&mut aggregator, [record]);
            } else {
                second += 5;
                take(logs(aggregator.advance(at(second))));
            }
        }
        take(logs(Some(aggregator.finish(at(second + 1)))));
        let zero = |(port, sum): (u16, Datagrams)| (sum != Datagrams::default()).then_some((port, sum));
        let seen: HashMap<_, _> = seen.into_iter().map(|(port, (sum, _))| (port, sum)).filter_map(zero).collect();
        let folded: HashMap<_, _> = folded.into_iter().filter_map(zero).collect();
        prop_assert_eq!(seen, folded);
    }
}
