//! Tests of roles.

use flowtap_pipeline::Events;

use super::*;
use crate::testing::{context, record};
use flowtap_pipeline::node::InterfaceAddress;
use flowtap_pipeline::{DropReason, DropRecord, ListenChange, Listener, UdpRecord};

const NETNS: u32 = 7;

fn direction() -> Direction {
    let address = |text: &str| InterfaceAddress {
        interface: "eth0".to_owned(),
        network: text.parse().unwrap(),
    };
    Direction::new(&context(NodeInfo {
        addresses: vec![address("192.0.2.1/24"), address("192.0.2.2/24")],
        resolvers: Vec::new(),
        ..NodeInfo::default()
    }))
}

fn decided(direction: &mut Direction, record: TcpRecord) -> Option<(FlowKind, Role, RoleSource)> {
    let mut batch = FlowBatch {
        tcp: vec![record],
        ..FlowBatch::default()
    };
    direction.process(&mut batch);
    let record = batch.tcp.first()?;
    Some((record.flow.kind?, record.flow.role, record.flow.role_source))
}

fn seen(role: Role, local: &str, remote: &str) -> TcpRecord {
    let source = if role == Role::Unknown {
        RoleSource::Assumed
    } else {
        RoleSource::Handshake
    };
    record(local, remote).with_flow(|flow| Flow {
        role,
        role_source: source,
        netns: NETNS,
        ..flow
    })
}

fn listen(netns: u32, port: u16, cookie: u64) -> FlowBatch {
    let listeners = vec![ListenChange::Opened(Listener { netns, port, cookie })];
    FlowBatch {
        listeners,
        ..FlowBatch::default()
    }
}

/// The Go exporter's rules, and ours before them.
#[test]
fn each_rule_decides_in_its_turn() {
    use FlowKind::{Egress, Ingress};
    let (handshake, listener, assumed) = (RoleSource::Handshake, RoleSource::Listener, RoleSource::Assumed);
    let mut direction = direction();
    direction.process(&mut listen(NETNS, 80, 1));
    let cases = [
        // The handshake beats the listening port.
        (
            Role::Client,
            "192.0.2.1:80",
            "198.51.100.1:5000",
            Some((Egress, Role::Client, handshake)),
        ),
        (
            Role::Server,
            "192.0.2.1:5000",
            "198.51.100.1:80",
            Some((Ingress, Role::Server, handshake)),
        ),
        // The local port is listened on.
        (
            Role::Unknown,
            "192.0.2.1:80",
            "198.51.100.1:5000",
            Some((Ingress, Role::Server, listener)),
        ),
        // A remote port is only looked up if the remote end is here.
        (
            Role::Unknown,
            "192.0.2.1:5000",
            "192.0.2.2:80",
            Some((Egress, Role::Client, listener)),
        ),
        (
            Role::Unknown,
            "127.0.0.1:5000",
            "127.0.0.1:80",
            Some((Egress, Role::Client, listener)),
        ),
        (
            Role::Unknown,
            "192.0.2.1:5000",
            "198.51.100.1:80",
            Some((Egress, Role::Unknown, assumed)),
        ),
        // Just one of the ports is ephemeral.
        (
            Role::Unknown,
            "192.0.2.1:5000",
            "198.51.100.1:40000",
            Some((Ingress, Role::Server, RoleSource::Ports)),
        ),
        (
            Role::Unknown,
            "127.0.0.1:40000",
            "127.0.0.1:5000",
            Some((Egress, Role::Client, RoleSource::Ports)),
        ),
        // Local to local, and nobody listens: both ends are counted, in different roles.
        (
            Role::Unknown,
            "192.0.2.1:5000",
            "192.0.2.2:6000",
            Some((Ingress, Role::Unknown, assumed)),
        ),
        (
            Role::Unknown,
            "[::1]:6000",
            "[::1]:5000",
            Some((Egress, Role::Unknown, assumed)),
        ),
    ];
    for (role, local, remote, expected) in cases {
        assert_eq!(
            decided(&mut direction, seen(role, local, remote)),
            expected,
            "{role:?} {local} {remote}"
        );
    }
}

#[test]
fn a_listener_counts_in_its_own_namespace_only() {
    let mut direction = direction();
    direction.process(&mut listen(8, 80, 1));
    let assumed = Some((FlowKind::Egress, Role::Unknown, RoleSource::Assumed));
    let record = seen(Role::Unknown, "192.0.2.1:80", "198.51.100.1:5000");
    assert_eq!(decided(&mut direction, record.clone()), assumed);
    let unknown_namespace = record.with_flow(|flow| Flow { netns: 0, ..flow });
    assert_eq!(
        decided(&mut direction, unknown_namespace).map(|d| d.0),
        Some(FlowKind::Ingress)
    );
}

#[test]
fn a_port_is_listened_on_until_its_last_socket_has_closed() {
    let mut direction = direction();
    direction.process(&mut listen(NETNS, 80, 1));
    direction.process(&mut listen(NETNS, 80, 2));
    let record = seen(Role::Unknown, "192.0.2.1:80", "198.51.100.1:5000");
    for (cookie, kind) in [(1, FlowKind::Ingress), (2, FlowKind::Egress)] {
        // A close may not know its port any more.
        let closed = ListenChange::Closed(Listener {
            netns: NETNS,
            port: 0,
            cookie,
        });
        direction.process(&mut FlowBatch {
            listeners: vec![closed],
            ..FlowBatch::default()
        });
        assert_eq!(decided(&mut direction, record.clone()).map(|d| d.0), Some(kind));
    }
}

#[test]
fn a_rescan_replaces_what_the_rescan_before_it_found() {
    let mut direction = direction();
    let record = seen(Role::Unknown, "192.0.2.1:80", "198.51.100.1:5000");
    for (ports, kind) in [(vec![80, 443], FlowKind::Ingress), (vec![443], FlowKind::Egress)] {
        let listeners = vec![ListenChange::Rescanned { netns: NETNS, ports }];
        direction.process(&mut FlowBatch {
            listeners,
            ..FlowBatch::default()
        });
        assert_eq!(decided(&mut direction, record.clone()).map(|d| d.0), Some(kind));
    }
}

fn of_socket(cookie: u64, events: Events, record: TcpRecord) -> TcpRecord {
    TcpRecord {
        events,
        ..record.with_flow(|flow| Flow { cookie, ..flow })
    }
}

#[test]
fn a_socket_keeps_its_role_when_its_server_stops_to_listen() {
    let mut direction = direction();
    direction.process(&mut listen(NETNS, 40_000, 1));
    // Both ports are ephemeral: nothing but the listener makes it a server.
    let record = seen(Role::Unknown, "192.0.2.1:40000", "198.51.100.1:50000");
    let ingress = Some((FlowKind::Ingress, Role::Server, RoleSource::Listener));
    let egress = Some((FlowKind::Egress, Role::Unknown, RoleSource::Assumed));
    let held = |events| of_socket(9, events, record.clone());
    assert_eq!(decided(&mut direction, held(Events::ADOPTED)), ingress);
    let closed = Listener {
        netns: NETNS,
        port: 0,
        cookie: 1,
    };
    direction.process(&mut FlowBatch {
        listeners: vec![ListenChange::Closed(closed)],
        ..FlowBatch::default()
    });
    assert_eq!(decided(&mut direction, record.clone()), egress, "any other");
    assert_eq!(decided(&mut direction, held(Events::NONE)), ingress);
    assert_eq!(decided(&mut direction, held(Events::CLOSED)), ingress);
    assert!(direction.decisions.is_empty(), "closed sockets are forgotten");
    assert_eq!(decided(&mut direction, held(Events::NONE)), egress);
}

#[test]
fn a_role_that_the_receiver_knows_wins_over_what_was_decided() {
    let mut direction = direction();
    let record = seen(Role::Unknown, "192.0.2.1:5000", "198.51.100.1:80");
    decided(&mut direction, of_socket(9, Events::ADOPTED, record.clone()));
    let known = of_socket(9, Events::NONE, record).with_flow(|flow| Flow {
        role: Role::Server,
        role_source: RoleSource::Counters,
        ..flow
    });
    assert_eq!(
        decided(&mut direction, known),
        Some((FlowKind::Ingress, Role::Server, RoleSource::Counters))
    );
}

#[test]
fn an_ephemeral_remote_port_of_an_assumed_egress_is_left_out() {
    let mut direction = direction();
    let remote_port = |direction: &mut Direction, record| {
        let mut batch = FlowBatch {
            tcp: vec![record],
            ..FlowBatch::default()
        };
        direction.process(&mut batch);
        batch.tcp[0].flow.remote.port
    };
    let assumed = seen(Role::Unknown, "192.0.2.1:50000", "198.51.100.1:40000");
    assert_eq!(remote_port(&mut direction, assumed), 0);
    let client = seen(Role::Client, "192.0.2.1:50000", "198.51.100.1:40000");
    assert_eq!(remote_port(&mut direction, client), 40_000);
    let service = seen(Role::Unknown, "192.0.2.1:5000", "198.51.100.1:80");
    assert_eq!(remote_port(&mut direction, service), 80);
    direction.keeps_ports = true;
    let assumed = seen(Role::Unknown, "192.0.2.1:50001", "198.51.100.1:40000");
    assert_eq!(remote_port(&mut direction, assumed), 40_000);
}

#[test]
fn only_pipelines_with_series_leave_ephemeral_ports_out() {
    for (pipeline, expected) in [
        ("metrics", 0),
        ("metrics/second", 0),
        ("logs", 40_000),
        ("logs/audit", 40_000),
    ] {
        let mut direction = Direction::new(&BuildContext {
            pipeline: pipeline.into(),
            ..context(NodeInfo::default())
        });
        let assumed = seen(Role::Unknown, "192.0.2.1:50000", "198.51.100.1:40000").flow;
        let mut batch = FlowBatch {
            tcp: vec![TcpRecord::new(assumed.clone())],
            udp: vec![UdpRecord::new(assumed)],
            ..FlowBatch::default()
        };
        direction.process(&mut batch);
        let ports = [batch.tcp[0].flow.remote.port, batch.udp[0].flow.remote.port];
        assert_eq!(ports, [expected; 2], "{pipeline}");
    }
}

#[test]
fn a_packet_that_was_dropped_on_arrival_was_sent_to_a_server() {
    let mut direction = direction();
    let dropped = |role| DropRecord {
        flow: Some(seen(role, "192.0.2.1:53", "198.51.100.1:40000").flow),
        ..DropRecord::new(DropReason::new("NO_SOCKET"), NETNS)
    };
    let mut batch = FlowBatch {
        drops: vec![
            dropped(Role::Server),
            dropped(Role::Client),
            DropRecord::new(DropReason::OTHER, 0),
        ],
        ..FlowBatch::default()
    };
    direction.process(&mut batch);
    let kinds = batch.drops.iter().map(|record| record.flow.as_ref()?.kind);
    let expected = [Some(FlowKind::Ingress), Some(FlowKind::Egress), None];
    assert!(kinds.eq(expected));
}

fn classes(direction: &mut Direction, records: Vec<TcpRecord>) -> Vec<Option<PeerClass>> {
    let mut batch = FlowBatch {
        tcp: records,
        ..FlowBatch::default()
    };
    direction.process(&mut batch);
    batch.tcp.iter().map(|record| record.flow.class).collect()
}

#[test]
fn a_connection_that_is_redirected_to_a_local_proxy_is_of_class_localhost() {
    let mut direction = direction();
    let application = of_socket(
        1,
        Events::OPENED,
        seen(Role::Client, "10.0.0.5:40000", "198.51.100.7:80"),
    );
    let accepted = of_socket(
        2,
        Events::OPENED,
        seen(Role::Server, "127.0.0.1:15001", "10.0.0.5:40000"),
    );
    let proxy = of_socket(
        3,
        Events::OPENED,
        seen(Role::Client, "10.0.0.5:40001", "198.51.100.7:80"),
    );
    let localhost = Some(PeerClass::Localhost);
    let all = [&application, &accepted, &proxy].map(Clone::clone).to_vec();
    assert_eq!(classes(&mut direction, all), [localhost, None, None]);

    // The proxy closes its end first.
    let closes = |record: &TcpRecord| TcpRecord {
        events: Events::CLOSED,
        ..record.clone()
    };
    assert_eq!(classes(&mut direction, vec![closes(&accepted)]), [None]);
    for _ in 0..3 {
        classes(&mut direction, Vec::new());
    }
    assert_eq!(classes(&mut direction, vec![closes(&application)]), [localhost]);
    // A later connection from the same port is another one.
    let later = application.with_flow(|flow| Flow { cookie: 4, ..flow });
    assert_eq!(classes(&mut direction, vec![later]), [None]);
}

#[test]
fn a_connection_to_an_own_address_or_in_another_namespace_is_not_redirected() {
    let mut direction = direction();
    let client = seen(Role::Client, "10.0.0.5:40000", "10.0.0.5:80");
    let server = seen(Role::Server, "10.0.0.5:80", "10.0.0.5:40000");
    assert_eq!(classes(&mut direction, vec![client, server]), [None, None]);
    let accepted = seen(Role::Server, "127.0.0.1:15001", "10.0.0.5:41000");
    let elsewhere = seen(Role::Client, "10.0.0.5:41000", "198.51.100.7:80").with_flow(|flow| Flow {
        netns: NETNS + 1,
        ..flow
    });
    assert_eq!(classes(&mut direction, vec![accepted, elsewhere]), [None, None]);
}
