use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::cluster::KubernetesNames;
use crate::dns::{DnsOutcome, DnsRecord};
use crate::endpoint::Endpoint;
use crate::finding::{FindingKind, FindingRecord};
use crate::flow::{Flow, FlowKind, Transport};
use crate::plain_text;
use crate::udp::UdpApp;

fn record(kind: FlowKind) -> LogRecord {
    let end = |last, port| Endpoint::new([192, 0, 2, last].into(), port);
    let mut flow = Flow::new(end(1, 50_000), end(7, 443));
    flow.kind = Some(kind);
    let delta = Counts {
        sent_bytes: 81,
        received_bytes: 3_000,
        ..Counts::default()
    };
    LogRecord {
        at: Timestamp::from_nanos(5_000_000_000),
        flow,
        body: LogBody::Connection(ConnectionLog {
            outcome: Outcome::Closed,
            error: None,
            sequence: 0,
            adopted: false,
            duration: Duration::from_secs(2),
            interval: Duration::from_secs(1),
            delta,
            total: delta,
            rtt: Duration::ZERO,
            min_rtt: Duration::ZERO,
            handshake: Duration::ZERO,
            probability: 1.0,
        }),
    }
}

#[test]
fn the_source_is_the_end_that_connected() {
    let client = record(FlowKind::Egress);
    assert_eq!(
        LogField::SourcePort.value(&client),
        Some(LogValue::Integer(50_000))
    );
    assert_eq!(LogField::SourceBytes.value(&client), Some(LogValue::Integer(81)));
    let server = record(FlowKind::Ingress);
    assert_eq!(LogField::SourcePort.value(&server), Some(LogValue::Integer(443)));
    assert_eq!(
        LogField::SourceBytes.value(&server),
        Some(LogValue::Integer(3_000))
    );
    assert_eq!(
        LogField::DestinationBytes.value(&server),
        Some(LogValue::Integer(81))
    );
}

#[test]
fn names_and_columns_are_unique_and_values_are_of_their_type() {
    let names: BTreeSet<_> = LogField::ALL.iter().map(|field| field.name()).collect();
    let columns: BTreeSet<_> = LogField::ALL.iter().map(|field| field.column()).collect();
    assert_eq!(
        (names.len(), columns.len()),
        (LogField::ALL.len(), LogField::ALL.len())
    );
    record(FlowKind::Egress).visit(|field, value| {
        let found = match value {
            LogValue::Text(_) | LogValue::Address(_) => LogFieldType::Text,
            LogValue::Integer(_) => LogFieldType::Integer,
            LogValue::Number(_) => LogFieldType::Number,
            LogValue::Flag(_) => LogFieldType::Flag,
        };
        assert_eq!(found, field.value_type(), "{field:?}");
    });
}

#[test]
fn the_network_of_the_peer_is_a_field_if_it_has_one() {
    let mut record = record(FlowKind::Egress);
    assert_eq!(LogField::PeerNetwork.value(&record), None);
    record.flow.peer_network = Some("office".into());
    assert_eq!(
        LogField::PeerNetwork.value(&record),
        Some(LogValue::Text("office".into()))
    );
}

#[test]
fn a_finding_has_its_flow_a_severity_by_its_kind_and_nothing_of_a_connection() {
    let finding = |kind| {
        LogRecord::from(&FindingRecord {
            flow: record(FlowKind::Egress).flow,
            kind,
            at: Timestamp::from_nanos(1),
            subject: "curl".into(),
            object: "".into(),
            text: "curl tried 120 addresses in 60 s; usually 3".into(),
            numbers: vec![("destinations", 120.0), ("usual", 3.0)],
        })
    };
    let log = finding(FindingKind::FanOut);
    assert_eq!(
        (log.event_name(), log.severity()),
        ("flowtap.finding", Severity::Warn)
    );
    assert_eq!(log.message(), Some("curl tried 120 addresses in 60 s; usually 3"));
    let mut seen = Vec::new();
    log.visit(|field, value| seen.push((field.column(), value.to_string())));
    for pair in [
        ("destination_address", "192.0.2.7"),
        ("finding", "fan_out"),
        ("finding_numbers", "destinations=120 usual=3"),
    ] {
        assert!(
            seen.contains(&(pair.0, pair.1.to_owned())),
            "{pair:?} of {seen:?}"
        );
    }
    for column in [
        "outcome",
        "source_bytes",
        "finding_object",
        "sampling_probability",
    ] {
        assert!(seen.iter().all(|(name, _)| *name != column), "{column}");
    }
    assert_eq!(finding(FindingKind::FirstContact).severity(), Severity::Info);
    assert_eq!(log.clone(), log);
}

#[test]
fn a_udp_flow_has_the_fields_of_a_connection_but_for_those_of_tcp() {
    let counts = Datagrams {
        sent_bytes: 40,
        received_bytes: 120,
        sent_datagrams: 1,
        received_datagrams: 2,
        drops: 3,
        errors: 0,
    };
    let mut log = LogRecord {
        body: LogBody::Udp(UdpLog {
            outcome: Outcome::Idle,
            delta: counts,
            total: counts,
            app: UdpApp::Quic,
            ..UdpLog::default()
        }),
        ..record(FlowKind::Egress)
    };
    log.flow.transport = Transport::Udp;
    assert_eq!(
        (log.event_name(), log.severity()),
        ("flowtap.udp.flow", Severity::Warn)
    );
    let mut seen = Vec::new();
    log.visit(|field, value| seen.push((field.name(), value.to_string())));
    for (name, value) in [
        ("network.transport", "udp"),
        ("flowtap.connection.outcome", "idle"),
        ("flowtap.source.bytes", "40"),
        ("flowtap.destination.packets", "2"),
        ("flowtap.udp.drops", "3"),
        ("network.protocol.name", "quic"),
        ("flowtap.sampling.probability", "1"),
    ] {
        assert!(seen.contains(&(name, value.to_owned())), "{name} in {seen:?}");
    }
    for name in [
        "flowtap.retransmits",
        "flowtap.udp.errors",
        "flowtap.rtt.min",
        "error.type",
    ] {
        assert!(seen.iter().all(|(seen, _)| *seen != name), "{name}");
    }
    log.body = LogBody::Udp(UdpLog::default());
    assert_eq!(log.severity(), Severity::Info);
}

#[test]
fn a_dns_transaction_has_no_id_of_a_connection() {
    let known = record(FlowKind::Egress).flow;
    let flow = Flow { cookie: 7, ..known };
    let connection = LogRecord {
        flow: flow.clone(),
        ..record(FlowKind::Egress)
    };
    assert_eq!(
        LogField::ConnectionId.value(&connection),
        Some(LogValue::Integer(7))
    );
    let dns = LogRecord::from(&DnsRecord::new(flow, 1, DnsOutcome::TimedOut));
    assert_eq!(LogField::ConnectionId.value(&dns), None);
}

#[test]
fn unknown_values_are_left_out() {
    let mut seen = Vec::new();
    record(FlowKind::Egress).visit(|field, _| seen.push(field));
    for field in [
        LogField::Pid,
        LogField::Comm,
        LogField::PeerPod,
        LogField::Error,
        LogField::Rtt,
    ] {
        assert!(!seen.contains(&field), "{field:?}");
    }
}

#[test]
fn names_of_others_are_escaped_as_the_labels_of_metrics_are() {
    let hostile = "\u{1b}[2J\u{202e}x";
    let shown = "\\x1b[2J\\xe2\\x80\\xaex";
    let mut log = record(FlowKind::Egress);
    log.flow.comm[..hostile.len()].copy_from_slice(hostile.as_bytes());
    assert_eq!(plain_text::process_name(&log.flow.comm), shown);
    let names = KubernetesNames {
        namespace: hostile.to_owned(),
        pod: "größe 名 café".to_owned(),
        ..KubernetesNames::default()
    };
    log.flow.local_names = Some(names.into());
    log.flow.container_id = Some(hostile.into());
    log.flow.policy_rule = Some("a\nb".into());
    let of = |field: LogField| field.value(&log).unwrap().to_string();
    for field in [LogField::Comm, LogField::LocalNamespace, LogField::ContainerId] {
        assert_eq!(of(field), shown, "{field:?}");
    }
    assert_eq!(of(LogField::PolicyRule), "a\\x0ab");
    assert_eq!(of(LogField::LocalPod), "größe 名 café");
    log.visit(|field, value| assert!(!value.to_string().contains(plain_text::is_hostile), "{field:?}"));
}
