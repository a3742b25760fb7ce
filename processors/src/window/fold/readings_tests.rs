//! Readings in a window.

use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::{Census, Naming, ReadingLabels, ReadingRecord, ReadingValue};

use super::tests::{at, shown, window, window_of};
use super::*;
use crate::window::config::FamilyConfig;
use crate::window::readings::Rejection;

fn reading(family: FamilyId, labels: &[(Label, &str)], value: ReadingValue) -> ReadingRecord {
    ReadingRecord::new(family, ReadingLabels::new(labels.iter().copied()), value)
}

fn fold(window: &mut Window, receiver: u16, readings: Vec<ReadingRecord>) {
    window.fold(&FlowBatch {
        readings,
        receiver,
        ..FlowBatch::default()
    });
}

const PORT: [(Label, &str); 2] = [(Label::Device, "mlx5_0"), (Label::Port, "1")];

fn bytes(direction: &'static str, count: u64) -> ReadingRecord {
    let labels = [PORT[0], PORT[1], (Label::Direction, direction)];
    reading(FamilyId::RdmaBytes, &labels, ReadingValue::Increase(count))
}

fn queue_pairs(state: &'static str, pid: &'static str, value: ReadingValue) -> ReadingRecord {
    let labels = [
        PORT[0],
        (Label::QpType, "RC"),
        (Label::QpState, state),
        (Label::Comm, "nccl"),
        (Label::Pid, pid),
    ];
    reading(FamilyId::RdmaQueuePairs, &labels, value)
}

#[test]
fn increases_add_up_by_the_labels_of_the_family_and_one_of_0_opens_its_series() {
    let mut window = window(100, 60);
    let errors = [PORT[0], PORT[1], (Label::Counter, "symbol_error")];
    fold(
        &mut window,
        0,
        vec![
            bytes("receive", 400),
            bytes("transmit", 8),
            bytes("receive", 1),
            reading(FamilyId::RdmaErrors, &errors, ReadingValue::Increase(0)),
        ],
    );
    let first = shown(&window.advance(at(5)).unwrap());
    let of = |labels: &str| first.get(labels).copied();
    let both = r#"network_rdma_bytes{device="mlx5_0",port="1",direction="#;
    assert_eq!(of(&format!(r#"{both}"inbound"}}"#)), Some(401));
    assert_eq!(of(&format!(r#"{both}"outbound"}}"#)), Some(8));
    assert_eq!(
        of(r#"network_rdma_errors{device="mlx5_0",port="1",counter="symbol_error"}"#),
        Some(0)
    );
    assert_eq!(first.len(), 3, "{first:?}");
}

#[test]
fn directions_have_opentelemetrys_words_in_its_naming() {
    let config = Config {
        naming: Naming::Otel,
        ..Config::default()
    };
    let mut window = window_of(config, 100, 60);
    fold(&mut window, 0, vec![bytes("receive", 4)]);
    let shown = shown(&window.advance(at(5)).unwrap());
    let series = r#"flowtap.rdma.io{flowtap_rdma_device="mlx5_0",flowtap_rdma_port="1",network_io_direction="receive"}"#;
    assert_eq!(shown.get(series), Some(&4), "{shown:?}");
}

#[test]
fn levels_are_summed_over_labels_that_are_left_out_and_stay_until_they_end() {
    let mut window = window(100, 60);
    let series = |state: &str| {
        format!(r#"network_rdma_queue_pairs{{device="mlx5_0",qp_type="RC",qp_state="{state}",comm="nccl"}}"#)
    };
    let close = |window: &mut Window, end: u64| shown(&window.advance(at(end)).unwrap());
    fold(
        &mut window,
        0,
        vec![
            queue_pairs("RTS", "7", ReadingValue::Level(3)),
            queue_pairs("RTS", "8", ReadingValue::Level(5)),
            queue_pairs("INIT", "8", ReadingValue::Level(1)),
        ],
    );
    let first = close(&mut window, 5);
    assert_eq!((first[&series("RTS")], first[&series("INIT")]), (8, 1));
    // The last level of a window counts; what is not read again stays.
    fold(
        &mut window,
        0,
        vec![
            queue_pairs("RTS", "7", ReadingValue::Level(9)),
            queue_pairs("RTS", "7", ReadingValue::Level(2)),
            queue_pairs("INIT", "8", ReadingValue::Ended),
        ],
    );
    let second = close(&mut window, 10);
    assert_eq!((second[&series("RTS")], second[&series("INIT")]), (7, 0));
    // A level that is not read for as long as series live is gone.
    fold(
        &mut window,
        0,
        vec![queue_pairs("RTS", "8", ReadingValue::Level(5))],
    );
    for end in [15, 60] {
        fold(
            &mut window,
            0,
            vec![queue_pairs("RTS", "8", ReadingValue::Level(5))],
        );
        close(&mut window, end);
    }
    let last = close(&mut window, 70);
    assert_eq!(last.get(&series("RTS")), Some(&5), "{last:?}");
    assert_eq!(last.get(&series("INIT")), None, "it has expired");
}

#[test]
fn levels_of_a_receiver_that_starts_anew_or_is_detached_are_gone() {
    let mut window = window(100, 60);
    let up = |value| reading(FamilyId::RdmaLinkUp, &PORT, value);
    let series = r#"network_rdma_link_up{device="mlx5_0",port="1"}"#;
    fold(&mut window, 1, vec![up(ReadingValue::Level(1))]);
    fold(&mut window, 2, vec![up(ReadingValue::Level(1))]);
    fold(&mut window, FlowBatch::DETACHED, vec![up(ReadingValue::Level(1))]);
    assert_eq!(shown(&window.advance(at(5)).unwrap())[series], 2);
    window.fold(&FlowBatch {
        census: Census::WHOLE,
        receiver: 1,
        ..FlowBatch::default()
    });
    assert_eq!(shown(&window.advance(at(10)).unwrap())[series], 1);
}

#[test]
fn a_window_that_replaces_another_continues_counters_and_gauges_of_readings() {
    let mut before = window(100, 60);
    let up = reading(FamilyId::RdmaLinkUp, &PORT, ReadingValue::Level(1));
    fold(&mut before, 0, vec![bytes("receive", 400), up.clone()]);
    before.finish(at(4));
    let mut after = window(50, 60);
    Aggregator::take_over(&mut after, Box::new(before));
    fold(&mut after, 0, vec![bytes("receive", 2), up]);
    let shown = shown(&after.advance(at(5)).unwrap());
    let series = r#"network_rdma_bytes{device="mlx5_0",port="1",direction="inbound"}"#;
    assert_eq!(shown[series], 402);
    assert_eq!(shown[r#"network_rdma_link_up{device="mlx5_0",port="1"}"#], 1);
}

#[test]
fn readings_that_no_series_can_take_are_rejected_each_with_its_reason() {
    let mut window = window(100, 60);
    let up = |value| reading(FamilyId::RdmaLinkUp, &PORT, value);
    let rejected = |window: &mut Window, record: &ReadingRecord| window.try_fold_reading(0, record);
    let unknown = ReadingRecord {
        family: "network_rdma_of_tomorrow".into(),
        ..bytes("receive", 1)
    };
    // Its series are of flows.
    let of_flows = reading(FamilyId::ListenBacklog, &PORT, ReadingValue::Level(1));
    for record in [unknown, of_flows] {
        assert_eq!(rejected(&mut window, &record), Err(Rejection::UnknownFamily));
    }
    let level = reading(FamilyId::RdmaBytes, &PORT, ReadingValue::Level(1));
    for record in [level, up(ReadingValue::Increase(1))] {
        assert_eq!(rejected(&mut window, &record), Err(Rejection::WrongKind));
    }
    for port in 0..(1 << 14) {
        let port = port.to_string();
        let labels = [PORT[0], (Label::Port, &*port)];
        let record = reading(FamilyId::RdmaLinkUp, &labels, ReadingValue::Level(1));
        assert_eq!(rejected(&mut window, &record), Ok(()));
    }
    let one_more = reading(FamilyId::RdmaLinkUp, &[PORT[0]], ReadingValue::Level(1));
    assert_eq!(rejected(&mut window, &one_more), Err(Rejection::TooManyLevels));
    assert_eq!(
        rejected(&mut window, &up(ReadingValue::Level(0))),
        Ok(()),
        "it is known"
    );
}

#[test]
fn a_family_of_readings_shares_no_series_with_a_flow_that_has_the_same_labels() {
    let mut config = Config::default();
    for family in ["network_rdma_queue_pairs", "network_tcp_flow_egress"] {
        let own = FamilyConfig {
            labels: Some(vec![Label::Pid]),
            ..FamilyConfig::default()
        };
        config.families.insert(family.to_owned(), own);
    }
    let mut window = window_of(config, 100, 60);
    let mut record = crate::testing::record("192.0.2.1:40000", "198.51.100.7:443");
    record.flow.pid = 7;
    record.sent_bytes = 5;
    window.fold(&FlowBatch {
        tcp: vec![record],
        readings: vec![
            queue_pairs("RTS", "7", ReadingValue::Level(3)),
            queue_pairs("RTS", "", ReadingValue::Level(2)),
        ],
        ..FlowBatch::default()
    });
    let shown = shown(&window.advance(at(5)).unwrap());
    assert_eq!(shown[r#"network_rdma_queue_pairs{pid="7"}"#], 3);
    assert_eq!(shown[r#"network_rdma_queue_pairs{pid=""}"#], 2);
    assert_eq!(shown[r#"network_tcp_flow_egress{pid="7"}"#], 5);
}

#[test]
fn a_gauge_at_the_budget_of_its_family_keeps_its_sum_whatever_comes_and_goes() {
    // Series of groups that are gone expire, which makes room.
    let mut window = window(2, 12);
    let total = |window: &mut Window, end: u64| {
        let shown = shown(&window.advance(at(end)).unwrap());
        let queue_pairs = shown.iter().filter(|(series, _)| series.contains("queue_pairs"));
        queue_pairs.map(|(_, level)| *level).sum::<u64>()
    };
    let group = |group: u64, value| {
        let name = group.to_string();
        let labels = [PORT[0], (Label::QpState, &*name)];
        reading(FamilyId::RdmaQueuePairs, &labels, value)
    };
    // One of five groups goes in each window, another comes, and all change: rows of the table of labels change hands.
    for round in 0..40 {
        let level = |group: u64| 100 + group + 7 * (round % 3);
        let now = round..round + 5;
        let levels = now
            .clone()
            .map(|number| group(number, ReadingValue::Level(level(number))));
        let ended = round
            .checked_sub(1)
            .map(|number| group(number, ReadingValue::Ended));
        fold(&mut window, 0, levels.chain(ended).collect());
        let expected = now.map(level).sum::<u64>();
        assert_eq!(total(&mut window, 5 * (round + 1)), expected, "window {round}");
    }
}
