//! Tests of the aggregator, with an oracle that adds up what was folded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::log::{ConnectionLog, Counts};
use flowtap_pipeline::testing::{batch, context, record};
use flowtap_pipeline::{DnsOutcome, DnsRecord, DropReason, DropRecord, NodeInfo};
use proptest::prelude::*;

use super::*;
use crate::testing::counted_context;

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * SECOND)
}

fn config(yaml: &str) -> Config {
    let config = flowtap_pipeline::testing::config(FACTORY, yaml).unwrap();
    flowtap_pipeline::component::downcast::<Config>(&*config)
        .unwrap()
        .clone()
}

fn aggregator(yaml: &str) -> Connections {
    let mut aggregator = Connections::new(&config(yaml), &context("connections"));
    aggregator.begin(at(100));
    aggregator
}

/// A record of the connection with this cookie.
fn of(cookie: u64, events: Events, sent: i64, age_seconds: u64) -> TcpRecord {
    let mut record = record("192.0.2.1:50000", "192.0.2.7:443");
    record.flow.cookie = cookie;
    record.events = events;
    record.sent_bytes = sent;
    record.sent_segments = i64::from(sent != 0);
    record.age_us = age_seconds * 1_000_000;
    record
}

fn logs(output: Option<Output>) -> Vec<LogRecord> {
    let batch = output.and_then(Output::into_logs);
    batch.map_or_else(Vec::new, |batch| Arc::unwrap_or_clone(batch).records)
}

fn connection(record: &LogRecord) -> &ConnectionLog {
    record.connection().unwrap()
}

#[test]
fn a_connection_has_one_record_at_its_end_with_everything_that_it_moved() {
    let mut aggregator = aggregator("");
    aggregator.fold(&batch([of(1, Events::OPENED, 10, 0)]));
    assert_eq!(logs(aggregator.advance(at(105))), []);
    aggregator.fold(&batch([of(1, Events::NONE, 20, 4)]));
    aggregator.fold(&batch([of(1, Events::CLOSED, 1, 7)]));
    let records = logs(aggregator.advance(at(110)));
    assert_eq!(records.len(), 1, "{records:#?}");
    let log = connection(&records[0]);
    assert_eq!(
        (log.outcome, log.sequence, log.adopted),
        (Outcome::Closed, 0, false)
    );
    assert_eq!((log.delta.sent_bytes, log.delta.sent_segments), (31, 3));
    assert_eq!(log.delta, log.total);
    assert_eq!(
        (log.duration, log.interval),
        (Duration::from_secs(7), Duration::from_secs(7))
    );
    assert_eq!(records[0].at, at(110));
    assert_eq!(logs(aggregator.advance(at(115))), []);
}

#[test]
fn what_is_found_at_a_socket_after_its_end_is_no_second_connection() {
    let mut aggregator = aggregator("");
    aggregator.fold(&batch([of(1, Events::OPENED, 10, 0)]));
    aggregator.fold(&batch([of(1, Events::CLOSED, 5, 4)]));
    let late = TcpRecord {
        state: 7,
        ..of(1, Events::NONE, 3, 9)
    };
    aggregator.fold(&batch([late]));
    aggregator.fold(&FlowBatch {
        census: Census {
            begins: true,
            ends: false,
        },
        ..FlowBatch::default()
    });
    aggregator.fold(&FlowBatch {
        census: Census {
            begins: false,
            ends: true,
        },
        ..FlowBatch::default()
    });
    let records = logs(aggregator.advance(at(110)));
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(connection(&records[0]).outcome, Outcome::Closed);
    assert_eq!(connection(&records[0]).total.sent_bytes, 15);
}

#[test]
fn the_record_of_an_opening_may_follow_one_of_its_bytes() {
    let mut aggregator = aggregator("");
    aggregator.fold(&batch([of(1, Events::NONE, 10, 0)]));
    aggregator.fold(&batch([of(1, Events::OPENED, 0, 0)]));
    aggregator.fold(&batch([of(1, Events::CLOSED, 1, 1)]));
    let records = logs(aggregator.advance(at(110)));
    assert!(!connection(&records[0]).adopted);
}

#[test]
fn a_finding_is_a_record_also_without_records_of_connections() {
    use flowtap_pipeline::{FindingKind, FindingRecord};

    let mut aggregator = aggregator("{sample: {ratio: 0, always: []}, max_records: 2}");
    let finding = FindingRecord {
        flow: of(1, Events::NONE, 0, 0).flow,
        kind: FindingKind::Beacon,
        at: at(103),
        subject: "curl".into(),
        object: "192.0.2.0/24".into(),
        text: "curl is in touch with 192.0.2.0/24".into(),
        numbers: vec![("period_seconds", 60.0)],
    };
    aggregator.fold(&batch([of(1, Events::CLOSED, 10, 1)]));
    aggregator.fold(&FlowBatch {
        findings: vec![finding.clone(), finding.clone(), finding.clone()],
        receiver: FlowBatch::DETACHED,
        ..FlowBatch::default()
    });
    let records = logs(aggregator.advance(at(105)));
    // As many as the bound allows, and no connection.
    assert_eq!(records, [LogRecord::from(&finding), LogRecord::from(&finding)]);
    assert_eq!(
        (records[0].at, records[0].event_name()),
        (at(103), "flowtap.finding")
    );
    // One that comes with the end of the pipeline is not cut short.
    aggregator.fold(&FlowBatch {
        findings: vec![finding.clone()],
        ..FlowBatch::default()
    });
    let last = aggregator.finish(at(106)).replaced();
    assert_eq!(logs(Some(last)), [LogRecord::from(&finding)]);
}

#[test]
fn a_long_connection_has_a_record_per_active_timeout_if_it_moves() {
    let mut aggregator = aggregator("{active_timeout: 10s}");
    aggregator.fold(&batch([of(1, Events::OPENED, 10, 0)]));
    let mut reported = Vec::new();
    for second in (105..=160).step_by(5) {
        // It rests from second 125 on.
        if second < 125 {
            aggregator.fold(&batch([of(1, Events::NONE, 1, second - 100)]));
        }
        for record in logs(aggregator.advance(at(second))) {
            let log = connection(&record);
            reported.push((
                second,
                log.sequence,
                log.outcome,
                log.delta.sent_bytes,
                log.total.sent_bytes,
            ));
        }
    }
    aggregator.fold(&batch([of(1, Events::CLOSED | Events::RESET, 2, 61)]));
    for record in logs(aggregator.advance(at(165))) {
        let log = connection(&record);
        reported.push((
            165,
            log.sequence,
            log.outcome,
            log.delta.sent_bytes,
            log.total.sent_bytes,
        ));
    }
    // Its beginning is the watermark that follows its first record, which was 5 s old in the second of them.
    assert_eq!(
        reported,
        [
            (110, 0, Outcome::Active, 12, 12),
            (120, 1, Outcome::Active, 2, 14),
            (165, 2, Outcome::Reset, 2, 16),
        ]
    );
}

#[test]
fn no_byte_of_an_open_connection_or_flow_is_passed_on_later_than_active_timeout_whatever_the_intervals() {
    let nanos = |millis: u64| Timestamp::from_nanos(millis * 1_000_000);
    // Watermarks, batches, and the beginning of the connection after a watermark, in ms.
    for (step, interval, begins) in [
        (5000, 5000, 300),
        (5000, 5000, 5000),
        (1000, 5000, 700),
        (1000, 1000, 1000),
        (3000, 5000, 100),
        (7000, 5000, 6900),
        (500, 10_000, 1),
    ] {
        let case = format!("a watermark per {step} ms, a batch per {interval} ms, begun at {begins} ms");
        let mut aggregator = aggregator(&format!(
            "{{udp: true, idle_timeout: 60s, interval: {interval}ms}}"
        ));
        let start = 100_000;
        aggregator.begin(nanos(start));
        let begun = start + begins;
        // The sum of what was passed on, and the end of what it covers, by kind.
        let mut passed = [begun, start];
        let mut shortest = u64::MAX;
        for now in (start + step..start + 300_000).step_by(usize::try_from(step).unwrap()) {
            let events = if now < begun + step {
                Events::OPENED
            } else {
                Events::NONE
            };
            let mut tcp = of(1, events, 1, 0);
            tcp.age_us = now.saturating_sub(begun) * 1000;
            let mut udp = UdpRecord::new(of(2, Events::NONE, 0, 0).flow);
            (udp.sent_bytes, udp.opened) = (1, now == start + step);
            let mut records = batch(if now >= begun { vec![tcp] } else { Vec::new() });
            records.udp.push(udp);
            aggregator.fold(&records);
            for record in logs(aggregator.advance(nanos(now))) {
                let kind = usize::from(matches!(record.body, LogBody::Udp(_)));
                let at = record.at.as_nanos() / 1_000_000;
                shortest = shortest.min(at - passed[kind]);
                passed[kind] = at;
            }
            for to in passed {
                let next = now + step;
                assert!(
                    next.saturating_sub(to) <= 60_000,
                    "{case}: until {next} what is after {to} waits"
                );
            }
        }
        // As late as that allows: records are of no less than a batch's interval and a watermark's.
        assert!(
            shortest + step.max(interval) + step > 60_000,
            "{case}: {shortest}"
        );
    }
}

#[test]
fn a_failed_connect_has_a_record_with_its_reason() {
    let mut aggregator = aggregator("");
    let mut failed = of(1, Events::FAILED, 0, 0);
    failed.failure = 111;
    aggregator.fold(&batch([failed]));
    let records = logs(aggregator.advance(at(105)));
    let log = connection(&records[0]);
    assert_eq!((log.outcome, log.error), (Outcome::Failed, Some("refused")));
    assert_eq!(records[0].severity().as_str(), "WARN");
}

#[test]
fn a_connection_beyond_the_bound_has_a_record_at_its_end_without_what_was_dropped() {
    let mut aggregator = aggregator("{max_connections: 1}");
    aggregator.fold(&batch([
        of(1, Events::OPENED, 10, 0),
        of(2, Events::OPENED, 20, 0),
    ]));
    aggregator.fold(&batch([of(2, Events::CLOSED, 5, 1)]));
    let records = logs(aggregator.advance(at(105)));
    assert_eq!(records.len(), 1);
    let log = connection(&records[0]);
    assert_eq!((log.adopted, log.total.sent_bytes), (true, 5));
    assert_eq!(aggregator.tracker.len(), 1);
    assert!(aggregator.wants_census(0), "no census has been made");
}

#[test]
fn a_correction_at_the_end_makes_the_last_difference_negative_so_that_the_sum_is_the_total() {
    let mut aggregator = aggregator("{active_timeout: 5s}");
    aggregator.fold(&batch([of(1, Events::OPENED, 100, 5)]));
    let first = logs(aggregator.advance(at(105)));
    assert_eq!(connection(&first[0]).delta.sent_bytes, 100);
    aggregator.fold(&batch([of(1, Events::CLOSED, -3, 6)]));
    let last = logs(aggregator.advance(at(110)));
    let log = connection(&last[0]);
    assert_eq!((log.delta.sent_bytes, log.total.sent_bytes), (-3, 97));
}

#[test]
fn a_census_ends_what_it_does_not_find_and_a_receiver_that_is_gone_all() {
    let mut aggregator = aggregator("");
    aggregator.fold(&batch([of(1, Events::OPENED, 1, 0), of(2, Events::OPENED, 2, 0)]));
    assert!(aggregator.wants_census(0));
    let mut census = batch([of(2, Events::OPEN, 0, 1)]);
    census.census = Census::WHOLE;
    aggregator.fold(&census);
    assert!(!aggregator.wants_census(0));
    let records = logs(aggregator.advance(at(105)));
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].flow.cookie, connection(&records[0]).outcome),
        (1, Outcome::Lost)
    );
    aggregator.fold(&FlowBatch {
        census: Census::WHOLE,
        ..FlowBatch::default()
    });
    let records = logs(aggregator.advance(at(110)));
    assert_eq!(
        (records[0].flow.cookie, connection(&records[0]).outcome),
        (2, Outcome::Detached)
    );
    assert!(
        aggregator.wants_census(0),
        "its successor reports its connections anew"
    );
}

#[test]
fn a_reload_continues_sequences_and_differences() {
    let mut first = aggregator("");
    first.fold(&batch([of(1, Events::OPENED, 10, 3)]));
    first.advance(at(105));
    let finished = logs(Some(first.finish(at(107)).replaced()));
    let log = connection(&finished[0]);
    assert_eq!(
        (log.outcome, log.sequence, log.delta.sent_bytes),
        (Outcome::Active, 0, 10)
    );
    let mut second = Connections::new(&config("{active_timeout: 10s}"), &context("connections"));
    second.take_over((Box::new(first) as Box<dyn Aggregator>).hand_over().unwrap());
    second.begin(at(107));
    second.fold(&batch([of(1, Events::CLOSED, 7, 9)]));
    let records = logs(second.advance(at(110)));
    let log = connection(&records[0]);
    assert_eq!(
        (log.outcome, log.sequence, log.adopted),
        (Outcome::Closed, 1, false)
    );
    assert_eq!((log.delta.sent_bytes, log.total.sent_bytes), (7, 17));
    assert_eq!(log.interval, Duration::from_secs(3));
}

#[test]
fn a_reload_with_less_room_continues_every_connection_that_was_followed() {
    let mut first = aggregator("");
    first.fold(&batch((1..=8).map(|cookie| of(cookie, Events::OPENED, 10, 3))));
    first.advance(at(105));
    assert_eq!(logs(Some(first.finish(at(107)).replaced())).len(), 8);
    let mut second = Connections::new(
        &config("{active_timeout: 10s, max_connections: 2}"),
        &context("connections"),
    );
    second.take_over((Box::new(first) as Box<dyn Aggregator>).hand_over().unwrap());
    second.begin(at(107));
    // Those of before move and end; there is no room for a new one until fewer than two are open.
    second.fold(&batch((1..=9).map(|cookie| of(cookie, Events::NONE, 1, 5))));
    second.fold(&batch((1..=8).map(|cookie| of(cookie, Events::CLOSED, 7, 9))));
    let records = logs(second.advance(at(110)));
    let shown = records.iter().map(|record| {
        let log = connection(record);
        (log.outcome, log.sequence, log.total.sent_bytes)
    });
    assert_eq!(shown.collect::<Vec<_>>(), [(Outcome::Closed, 1, 18); 8]);
    second.fold(&batch([of(9, Events::NONE, 1, 5)]));
    assert_eq!(second.tracker.len(), 1);
}

#[test]
fn a_stop_ends_every_open_connection() {
    let mut aggregator = aggregator("");
    aggregator.fold(&batch([of(1, Events::ADOPTED, 10, 0)]));
    let output = aggregator.finish(at(103));
    assert!(output.is_last());
    let records = logs(Some(output));
    let log = connection(&records[0]);
    assert_eq!(
        (log.outcome, log.adopted, log.delta.sent_bytes),
        (Outcome::Detached, true, 10)
    );
}

#[test]
fn a_connection_that_an_error_ended_is_broken_and_always_kept_as_failed() {
    let mut aggregator = aggregator("sample: {ratio: 0, always: [failed]}");
    let broken = |cookie, failure, events| TcpRecord {
        failure,
        ..of(cookie, events, 1, 1)
    };
    aggregator.fold(&batch([
        broken(1, 110, Events::OPENED | Events::CLOSED),
        broken(2, 0, Events::OPENED | Events::CLOSED),
        broken(3, 104, Events::OPENED | Events::CLOSED | Events::RESET),
    ]));
    let records = logs(aggregator.advance(at(105)));
    let shown = records.iter().map(|record| {
        let log = record.connection().unwrap();
        (log.outcome.as_str(), log.error, record.severity().as_str())
    });
    let shown: Vec<_> = shown.collect();
    assert_eq!(
        shown,
        [
            ("broken", Some("timed_out"), "WARN"),
            ("reset", Some("reset"), "WARN")
        ]
    );
}

#[test]
fn sampling_keeps_its_part_and_all_that_failed_were_reset_or_retransmitted() {
    let mut aggregator = aggregator("{sample: {ratio: 0.25}, max_records: 100000}");
    for cookie in 1..=20_000 {
        let mut record = of(cookie, Events::OPENED | Events::CLOSED, 10, 1);
        match cookie % 10 {
            0 => record.retransmits = 1,
            1 => record.events = Events::CLOSED | Events::RESET,
            2 => record.events = Events::FAILED,
            _ => {}
        }
        aggregator.fold(&batch([record]));
    }
    let records = logs(aggregator.advance(at(105)));
    let (always, sampled): (Vec<_>, Vec<_>) = records
        .iter()
        .partition(|record| connection(record).probability >= 1.0);
    assert_eq!(always.len(), 6_000);
    assert!(
        (3_300..3_700).contains(&sampled.len()),
        "{} of 14,000",
        sampled.len()
    );
    assert!(always.iter().all(|record| record.flow.cookie % 10 < 3));
}

#[test]
fn a_connection_that_begins_to_retransmit_is_reported_from_then_on() {
    let mut aggregator = aggregator("{sample: {ratio: 0}, active_timeout: 5s}");
    aggregator.fold(&batch([of(1, Events::OPENED, 10, 5)]));
    assert_eq!(logs(aggregator.advance(at(105))), []);
    let mut record = of(1, Events::NONE, 20, 8);
    record.retransmits = 2;
    aggregator.fold(&batch([record]));
    let records = logs(aggregator.advance(at(110)));
    let log = connection(&records[0]);
    assert_eq!(
        (log.sequence, log.delta.sent_bytes, log.delta.retransmits),
        (1, 20, 2)
    );
    assert_eq!((log.total.sent_bytes, log.probability), (30, 1.0));
    assert_eq!(
        (log.interval, log.duration),
        (Duration::from_secs(5), Duration::from_secs(10))
    );
}

/// The records of 10,000 connections that each send a byte before each of four watermarks, and what sampling has left out: bytes and
/// records. At the end those are reset whose cookie is even, or all retransmit before the third watermark.
fn connections_that_join(yaml: &str, retransmitting: bool) -> (Vec<LogRecord>, u64, u64) {
    let (context, counters) = counted_context(NodeInfo::default());
    let yaml = format!("{{active_timeout: 5s, {yaml}}}");
    let mut aggregator = Connections::new(&config(&yaml), &context);
    aggregator.begin(at(100));
    let mut records = Vec::new();
    for second in [5, 10, 15, 20] {
        let batch = (1..=10_000).map(|cookie| {
            let events = match second {
                5 => Events::OPENED,
                20 if !retransmitting && cookie % 2 == 0 => Events::CLOSED | Events::RESET,
                20 => Events::CLOSED,
                _ => Events::NONE,
            };
            let mut record = of(cookie, events, 1, second);
            record.retransmits = i64::from(retransmitting && second == 15);
            record
        });
        aggregator.fold(&flowtap_pipeline::testing::batch(batch));
        records.extend(logs(aggregator.advance(at(100 + second))));
    }
    (
        records,
        counters.dropped_bytes("sample"),
        counters.dropped_records("sample"),
    )
}

#[test]
fn sums_divided_by_the_probability_have_no_bias_of_connections_that_join_those_that_are_always_kept() {
    for retransmitting in [false, true] {
        let (all, ..) = connections_that_join("sample: {ratio: 1}", retransmitting);
        let (kept, bytes, records) = connections_that_join("sample: {ratio: 0.2}", retransmitting);
        let sum = |each: &dyn Fn(&ConnectionLog) -> f64| kept.iter().map(connection).map(each).sum::<f64>();
        let is_near = |estimate: f64, truth: f64| (estimate / truth - 1.0).abs() < 0.04;
        let estimate = sum(&|log| log.delta.sent_bytes as f64 / log.probability);
        assert!(is_near(estimate, 40_000.0), "{estimate} bytes of 40000");
        let ends = sum(&|log| f64::from(u8::from(log.outcome.is_final())) / log.probability);
        assert!(is_near(ends, 10_000.0), "{ends} ends of 10000");
        let begins = sum(&|log| f64::from(u8::from(log.sequence == 0)) / log.probability);
        assert!(is_near(begins, 10_000.0), "{begins} beginnings of 10000");
        // Whatever has no record is counted.
        let sent: i64 = kept.iter().map(connection).map(|log| log.delta.sent_bytes).sum();
        assert_eq!(sent.unsigned_abs() + bytes, 40_000);
        assert_eq!(kept.len() as u64 + records, all.len() as u64);
        // A failure has its record, with its totals, as without sampling.
        let failures = |records: &[LogRecord]| {
            let failed = records.iter().filter(|record| {
                let log = connection(record);
                log.outcome == Outcome::Reset || log.delta.retransmits > 0
            });
            let mut failed: Vec<_> = failed.cloned().collect();
            failed.sort_by_key(|record| record.flow.cookie);
            failed
        };
        assert_eq!(failures(&kept), failures(&all));
    }
}

proptest! {
    #[test]
    fn the_records_with_sampling_are_those_of_the_sample_and_of_what_is_always_kept_without(steps in steps()) {
        let run = |yaml: &str| {
            let mut aggregator = aggregator(yaml);
            let (mut second, mut records) = (100, Vec::new());
            for step in &steps {
                if let Some((cookie, bytes, closes)) = *step {
                    let events = if closes { Events::CLOSED } else { Events::NONE };
                    let mut record = of(cookie, events, bytes, 1);
                    record.retransmits = i64::from(bytes % 10 == 0);
                    if closes && bytes % 3 == 0 {
                        record.events = events | Events::RESET;
                    }
                    aggregator.fold(&batch([record]));
                } else {
                    second += 5;
                    records.extend(logs(aggregator.advance(at(second))));
                }
            }
            records.extend(logs(Some(aggregator.finish(at(second + 1)))));
            // Of one moment they are in no order; a cookie may be used again.
            records.sort_by_key(|record| (record.flow.cookie, record.at, connection(record).total.sent_bytes));
            records
        };
        let kept = run("{active_timeout: 5s, sample: {ratio: 0.5}}");
        let all = run("{active_timeout: 5s}").into_iter().filter_map(|mut record| {
            let LogBody::Connection(log) = &mut record.body else { return None };
            let always = log.outcome == Outcome::Reset || log.total.retransmits > 0;
            log.probability = if always { 1.0 } else { sampling::chance(record.flow.cookie, 0.5)? };
            Some(record)
        });
        prop_assert_eq!(kept, all.collect::<Vec<_>>());
    }
}

#[test]
fn records_beyond_the_batch_are_not_made_and_open_connections_wait_for_the_next() {
    let mut aggregator = aggregator("{max_records: 2, active_timeout: 5s}");
    aggregator.fold(&batch([of(9, Events::OPENED, 1, 5)]));
    let closed = |cookie| of(cookie, Events::OPENED | Events::CLOSED, 1, 1);
    aggregator.fold(&batch([closed(1), closed(2), closed(3)]));
    assert_eq!(logs(aggregator.advance(at(105))).len(), 2);
    let records = logs(aggregator.advance(at(110)));
    assert_eq!((records.len(), records[0].flow.cookie), (1, 9));
}

#[test]
fn a_clock_that_was_set_back_stops_no_records() {
    let mut aggregator = aggregator("{active_timeout: 5s}");
    aggregator.fold(&batch([of(1, Events::OPENED, 1, 0)]));
    aggregator.advance(at(105));
    aggregator.advance(at(50));
    aggregator.fold(&batch([of(1, Events::NONE, 4, 0)]));
    let records = logs(aggregator.advance(at(56)));
    assert_eq!(connection(&records[0]).delta.sent_bytes, 5);
}

/// A step of the test below: which connection, how much, and whether it closes; or a watermark.
fn steps() -> impl Strategy<Value = Vec<Option<(u64, i64, bool)>>> {
    let record = (1_u64..12, 0_i64..1000, prop::bool::weighted(0.2)).prop_map(Some);
    prop::collection::vec(prop_oneof![4 => record, 1 => Just(None)], 1..200)
}

proptest! {
    #[test]
    fn the_records_of_all_connections_add_up_to_what_was_folded(steps in steps()) {
        let mut aggregator = aggregator("{active_timeout: 5s}");
        let mut second = 100;
        let mut folded: HashMap<u64, Counts> = HashMap::new();
        let mut seen: HashMap<u64, (Counts, Option<u32>)> = HashMap::new();
        let mut take = |records: Vec<LogRecord>| {
            for record in records {
                let log = connection(&record);
                let (sum, sequence) = seen.entry(record.flow.cookie).or_default();
                *sum = sum.plus(log.delta);
                // A cookie may be used again: then its sequence begins anew.
                let expected = sequence.map_or(0, |sequence| sequence + 1);
                assert_eq!(log.sequence, expected);
                *sequence = (!log.outcome.is_final()).then_some(log.sequence);
            }
        };
        for step in steps {
            if let Some((cookie, bytes, closes)) = step {
                let events = if closes { Events::CLOSED } else { Events::NONE };
                let record = of(cookie, events, bytes, 1);
                let sum = folded.entry(cookie).or_default();
                *sum = sum.plus(Counts {
                    sent_bytes: record.sent_bytes,
                    sent_segments: record.sent_segments,
                    ..Counts::default()
                });
                aggregator.fold(&batch([record]));
            } else {
                second += 5;
                take(logs(aggregator.advance(at(second))));
            }
        }
        take(logs(Some(aggregator.finish(at(second + 1)))));
        let seen: HashMap<_, _> = seen.into_iter().map(|(cookie, (sum, _))| (cookie, sum)).collect();
        prop_assert_eq!(seen, folded);
    }
}

#[test]
fn dns_transactions_and_drops_have_records_only_if_they_are_wanted() {
    let flow = record("192.0.2.1:50000", "192.0.2.53:53").flow;
    let reason = DropReason::new("NETFILTER_DROP");
    let flows = || FlowBatch {
        dns: vec![DnsRecord {
            latency_us: 2_500,
            at: at(101),
            ..DnsRecord::new(flow.clone(), 28, DnsOutcome::Answered(3))
        }],
        drops: vec![
            DropRecord {
                flow: Some(flow.clone()),
                packets: 3,
                bytes: 180,
                ..DropRecord::new(reason, 0)
            },
            // Nobody knows whose it was.
            DropRecord::new(reason, 0),
        ],
        ..FlowBatch::default()
    };
    let mut without = aggregator("");
    without.fold(&flows());
    assert_eq!(logs(without.advance(at(105))), []);
    let mut with = aggregator("{dns: true, drops: true}");
    with.fold(&flows());
    let records = logs(with.advance(at(105)));
    let names: Vec<_> = records.iter().map(LogRecord::event_name).collect();
    assert_eq!(names, ["flowtap.dns.transaction", "flowtap.drop"]);
    let [dns, drop] = &records[..] else { panic!() };
    assert_eq!((dns.at, drop.at), (at(101), at(105)));
    let question = dns.dns().unwrap();
    assert_eq!(
        (
            question.question.as_str(),
            question.rcode.as_str(),
            question.duration
        ),
        ("AAAA", "NXDOMAIN", Some(Duration::from_micros(2_500)))
    );
    let dropped = drop.dropped().unwrap();
    assert_eq!((dropped.reason, dropped.packets, dropped.bytes), (reason, 3, 180));
}

#[test]
fn events_beyond_the_bound_have_no_record() {
    let flow = record("192.0.2.1:50000", "192.0.2.53:53").flow;
    let dns = DnsRecord::new(flow, 1, DnsOutcome::TimedOut);
    let mut aggregator = aggregator("{dns: true, max_records: 2}");
    aggregator.fold(&FlowBatch {
        dns: vec![dns; 5],
        ..FlowBatch::default()
    });
    assert_eq!(logs(aggregator.advance(at(105))).len(), 2);
}
