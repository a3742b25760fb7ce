//! Dropped packets and listening sockets in a window.

use std::net::Ipv4Addr;

use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::{
    Census, DropReason, DropRecord, Endpoint, Flow, ListeningRecord, PeerClass, Points, Snapshot,
};

use super::tests::{at, shown, window, window_of};
use super::*;
use crate::testing::record;
use crate::window::config::FamilyConfig;

fn batch_of_drops(drops: Vec<DropRecord>) -> FlowBatch {
    FlowBatch {
        drops,
        ..FlowBatch::default()
    }
}

fn dropped(reason: &str, packets: u64) -> DropRecord {
    DropRecord {
        packets,
        ..DropRecord::new(DropReason::new(reason), 7)
    }
}

#[test]
fn drops_with_and_without_a_flow_add_up_by_reason() {
    let mut window = window(100, 60);
    let flow = record("192.0.2.1:53", "198.51.100.7:4000").with_flow(|flow| Flow {
        class: Some(PeerClass::Dns),
        ..flow
    });
    window.fold(&batch_of_drops(vec![
        DropRecord {
            flow: Some(flow.flow),
            ..dropped("NO_SOCKET", 3)
        },
        DropRecord {
            is_unattributed: true,
            ..dropped("NO_SOCKET", 4)
        },
        dropped("QUEUE_PURGE", 5),
        dropped("QUEUE_PURGE", 1),
    ]));
    let shown = shown(&window.finish(at(5)));
    let of = |labels: &str| shown.get(&format!("network_drops{{{labels}}}")).copied();
    assert_eq!(of(r#"reason="NO_SOCKET",type="dns",kind="nobody""#), Some(3));
    assert_eq!(of(r#"reason="NO_SOCKET",type="other",kind="nobody""#), Some(4));
    assert_eq!(of(r#"reason="QUEUE_PURGE",type="",kind="end""#), Some(6));
}

#[test]
fn drops_by_kind_alone_and_by_peer_keep_their_sum() {
    for (labels, expected) in [
        (vec![Label::Kind], vec![(r#"kind="full""#, 7)]),
        (
            vec![Label::Raddr, Label::Netns],
            vec![(r#"raddr="",netns="7""#, 2), (r#"raddr="other",netns="7""#, 5)],
        ),
    ] {
        let mut config = Config::default();
        let own = FamilyConfig {
            labels: Some(labels),
            ..FamilyConfig::default()
        };
        config.families.insert("network_drops".to_owned(), own);
        let mut window = window_of(config, 100, 60);
        window.fold(&batch_of_drops(vec![
            dropped("QDISC_DROP", 2),
            DropRecord {
                is_unattributed: true,
                ..dropped("SOCKET_RCVBUFF", 5)
            },
        ]));
        let shown = shown(&window.finish(at(5)));
        for (labels, packets) in expected {
            assert_eq!(
                shown.get(&format!("network_drops{{{labels}}}")),
                Some(&packets),
                "{labels}: {shown:?}"
            );
        }
    }
}

fn listening(cookie: u64, port: u16, [backlog, limit, wait_us]: [u32; 3]) -> ListeningRecord {
    let mut record = ListeningRecord::new(Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), port));
    record.flow.cookie = cookie;
    record.backlog = backlog;
    record.limit = limit;
    record.wait_us = Some(wait_us);
    record
}

/// Backlog, limit, drops and wait of a port.
fn queue_of(snapshot: &Snapshot, port: u16) -> [Option<f64>; 4] {
    [
        FamilyId::ListenBacklog,
        FamilyId::ListenLimit,
        FamilyId::ListenDrops,
        FamilyId::AcceptWait,
    ]
    .map(|id| match &snapshot.families[id as usize].points {
        Points::Sums(points) => {
            let found = points
                .iter()
                .find(|point| point.series.joined_labels() == format!("lport=\"{port}\""));
            found.map(|point| point.total as f64)
        }
        Points::Values(points) => {
            let found = points
                .iter()
                .find(|point| point.series.joined_labels() == format!("lport=\"{port}\""));
            found.map(|point| point.value)
        }
        Points::Histograms(_) => None,
    })
}

#[test]
fn queues_of_a_port_are_added_up_and_the_longest_wait_counts() {
    let mut window = window(100, 60);
    let show = |window: &mut Window, listening: Vec<ListeningRecord>, end: u64| {
        window.fold(&FlowBatch {
            listening,
            ..FlowBatch::default()
        });
        window.advance(at(end)).unwrap()
    };
    let first = show(
        &mut window,
        vec![
            // Two sockets of SO_REUSEPORT, looked at twice.
            listening(1, 80, [9, 9, 9]),
            listening(1, 80, [3, 128, 250_000]),
            listening(2, 80, [1, 128, 1_500_000]),
            ListeningRecord {
                drops: 4,
                ..listening(3, 81, [0, 5, 0])
            },
        ],
        5,
    );
    assert_eq!(queue_of(&first, 80), [Some(4.0), Some(256.0), None, Some(1.5)]);
    assert_eq!(queue_of(&first, 81), [Some(0.0), Some(5.0), Some(4.0), Some(0.0)]);
    let second = show(
        &mut window,
        vec![
            ListeningRecord {
                closed: true,
                drops: 2,
                ..listening(2, 80, [0, 0, 0])
            },
            ListeningRecord {
                wait_us: None,
                ..listening(1, 80, [0, 128, 0])
            },
        ],
        10,
    );
    assert_eq!(
        queue_of(&second, 80),
        [Some(0.0), Some(128.0), Some(2.0), Some(0.0)]
    );
    assert_eq!(
        queue_of(&second, 81),
        [Some(0.0), Some(5.0), Some(4.0), Some(0.0)],
        "it still listens"
    );
}

#[test]
fn the_queues_of_a_receiver_that_is_detached_are_empty() {
    let mut window = window(100, 60);
    window.fold(&FlowBatch {
        listening: vec![listening(1, 80, [3, 128, 1])],
        receiver: 2,
        ..FlowBatch::default()
    });
    for (receiver, backlog) in [(1, 3.0), (2, 0.0)] {
        window.fold(&FlowBatch {
            census: Census::WHOLE,
            receiver,
            ..FlowBatch::default()
        });
        let snapshot = window.advance(at(5 * u64::from(receiver))).unwrap();
        assert_eq!(queue_of(&snapshot, 80)[0], Some(backlog));
    }
}
