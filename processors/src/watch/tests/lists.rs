//! Sentences about peers on lists, and first contacts over UDP, say what was seen.

use super::*;

/// A peer on the black list.
fn listed(role: FlowKind, transport: Transport) -> Flow {
    Flow {
        class: Some(PeerClass::AbnormalFlowBlackList),
        kind: Some(role),
        transport,
        ..flow("shop", ([192, 0, 2, 66], 443))
    }
}

/// The sentences of what is said of TCP records with these events and bytes received, one look at sockets after the other.
fn of_tcp(role: FlowKind, records: &[(Events, i64)]) -> Vec<String> {
    let mut scene = Scene::new(&quick());
    for (events, received_bytes) in records {
        scene.batch.tcp.push(TcpRecord {
            events: *events,
            received_bytes: *received_bytes,
            ..TcpRecord::new(listed(role, Transport::Tcp))
        });
        scene.tick();
    }
    scene
        .findings
        .iter()
        .map(|finding| finding.text.to_string())
        .collect()
}

const TRIED: &str = "shop tried to connect to 192.0.2.66, port 443, which is on the black list";
const CONNECTED: &str = "shop has a connection with 192.0.2.66, port 443, which is on the black list";

#[test]
fn a_connect_that_failed_is_not_a_connection() {
    let refused = (Events::FAILED, 0);
    let unanswered = (Events::FAILED | Events::UNANSWERED, 0);
    for failed in [refused, unanswered] {
        assert_eq!(of_tcp(FlowKind::Egress, &[failed, failed]), [TRIED]);
    }
    assert_eq!(
        of_tcp(FlowKind::Egress, &[(Events::OPENED, 0), refused]),
        [CONNECTED]
    );
    // Open before flowtap was.
    assert_eq!(of_tcp(FlowKind::Egress, &[(Events::NONE, 7)]), [CONNECTED]);
    let by_peer = of_tcp(FlowKind::Ingress, &[(Events::OPENED, 0)]);
    assert_eq!(
        by_peer,
        ["shop has a connection with 192.0.2.66, port 40000, which is on the black list"]
    );
}

#[test]
fn a_connection_after_a_connect_that_failed_is_another_finding() {
    let (refused, opened) = ((Events::FAILED, 0), (Events::OPENED, 0));
    assert_eq!(
        of_tcp(FlowKind::Egress, &[refused, opened, refused, opened]),
        [TRIED, CONNECTED]
    );
}

#[test]
fn datagrams_are_sent_received_or_exchanged_as_seen() {
    for (role, sent, received, words) in [
        (FlowKind::Egress, 7, 0, "sent datagrams to"),
        (FlowKind::Egress, 7, 7, "exchanged datagrams with"),
        (FlowKind::Ingress, 0, 7, "received datagrams from"),
        // One without a payload.
        (FlowKind::Egress, 0, 0, "sent datagrams to"),
    ] {
        let mut scene = Scene::new(&quick());
        scene.batch.udp.push(UdpRecord {
            opened: sent > 0 || received == 0,
            sent_bytes: sent,
            sent_datagrams: i64::from(sent > 0 || received == 0),
            received_bytes: received,
            ..UdpRecord::new(listed(role, Transport::Udp))
        });
        scene.tick();
        let texts: Vec<_> = scene.findings.iter().map(|finding| &*finding.text).collect();
        let port = if role == FlowKind::Egress { 443 } else { 40_000 };
        assert_eq!(
            texts,
            [format!(
                "shop {words} 192.0.2.66, port {port}/udp, which is on the black list"
            )]
        );
    }
}

#[test]
fn a_first_contact_without_an_answer_over_udp_is_no_talk() {
    for (received, words) in [(0, "sends to"), (9, "talks to")] {
        let mut config = quick();
        config.learn = Duration::from_secs(1);
        let mut scene = Scene::new(&config);
        scene.tick();
        scene.talk_udp("shop", ([10, 1, 0, 5], 443), true, 9, received);
        scene.tick();
        let text = format!("shop {words} 10.1.0.0/24, port 443/udp for the first time (address 10.1.0.5)");
        assert_eq!(scene.explained(), [(&*text, &[][..])]);
    }
}
