//! Folds the records of UDP sockets, and counts of ICMP messages.

use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::{FlowKind, IcmpCount, PeerClass, UdpRecord};

use super::super::event_label::{EventLabel, FailureReason};
use super::super::icmp::IcmpType;
use super::super::key::{Key, KeyInputs, class_of, kind_of};
use super::super::packed::{Direction, NetworkType};
use super::{MEMORY_LIMIT, Window};

impl Window {
    pub(super) fn fold_udp(&mut self, record: &UdpRecord) {
        let family = match (class_of(&record.flow), kind_of(&record.flow)) {
            _ if self.catalog.is_enabled(FamilyId::UdpIo) => FamilyId::UdpIo,
            (PeerClass::K8sPod | PeerClass::K8sSvc, _) => FamilyId::UdpK8s,
            (PeerClass::Dns, _) => FamilyId::Dns,
            (_, FlowKind::Egress) => FamilyId::UdpEgress,
            (_, FlowKind::Ingress) => FamilyId::UdpIngress,
        };
        for (direction, bytes) in bytes(record) {
            self.change_udp(family, record, towards(record, direction), bytes);
        }
        let datagrams = [
            (Direction::Outbound, record.sent_datagrams),
            (Direction::Inbound, record.received_datagrams),
        ];
        for (direction, count) in datagrams {
            self.change_udp(FamilyId::UdpDatagrams, record, towards(record, direction), count);
        }
        self.change_udp(FamilyId::UdpDrops, record, KeyInputs::default(), record.drops);
        let inputs = KeyInputs {
            cause: Some(EventLabel::Reason(FailureReason::of(record.error))),
            app: record.app,
            ..KeyInputs::default()
        };
        self.change_udp(FamilyId::UdpErrors, record, inputs, record.errors);
    }

    /// Counts the changes that the records would have made, and drops them.
    pub(super) fn shed_udp(&mut self, records: &[UdpRecord]) {
        if records.is_empty() {
            return;
        }
        let moved = records.iter().flat_map(bytes);
        let bytes = moved.map(|(_, bytes)| bytes.max(0).unsigned_abs()).sum();
        self.shed.dropped(records.len() as u64, bytes, MEMORY_LIMIT);
    }

    fn change_udp(&mut self, family: FamilyId, record: &UdpRecord, inputs: KeyInputs, difference: i64) {
        if difference == 0 {
            return;
        }
        let Some(key) = self.catalog.key(family, &record.flow, inputs) else {
            return;
        };
        // A flow without a place in the kernel's tables is where a full family of series would have put it.
        let key = if record.unplaced && !self.catalog.has_few_series(family) {
            key.folded()
        } else {
            key
        };
        let hashed = (self.sums.hash(&key), key);
        self.sums
            .change(hashed, difference, self.opened, &mut self.catalog);
    }

    pub(super) fn fold_icmp(&mut self, count: &IcmpCount) {
        let Some(labels) = self.catalog.labels_of(FamilyId::IcmpMessages) else {
            return;
        };
        let direction = if count.is_sent {
            Direction::Outbound
        } else {
            Direction::Inbound
        };
        let network_type = if count.is_v6 {
            NetworkType::Ipv6
        } else {
            NetworkType::Ipv4
        };
        let message = IcmpType::of(count.is_v6, count.message_type);
        let key = Key::of_icmp(labels, message, direction, network_type);
        let difference = i64::try_from(count.count).unwrap_or(i64::MAX);
        let hashed = (self.sums.hash(&key), key);
        self.sums
            .change(hashed, difference, self.opened, &mut self.catalog);
    }
}

/// Payload bytes by direction.
const fn bytes(record: &UdpRecord) -> [(Direction, i64); 2] {
    [
        (Direction::Outbound, record.sent_bytes),
        (Direction::Inbound, record.received_bytes),
    ]
}

const fn towards(record: &UdpRecord, direction: Direction) -> KeyInputs<'static> {
    KeyInputs {
        app: record.app,
        direction: Some(direction),
        cause: None,
        qname: None,
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::testing::flow;
    use flowtap_pipeline::{
        Aggregator, Flow, FlowBatch, Naming, NodeInfo, Points, Timestamp, Transport, UdpApp,
    };

    use super::*;
    use crate::testing::context;
    use crate::window::config::Config;

    fn record(kind: FlowKind, class: PeerClass, remote: &str) -> UdpRecord {
        let flow = Flow {
            transport: Transport::Udp,
            kind: Some(kind),
            class: Some(class),
            ..flow("192.0.2.1:40000", remote)
        };
        UdpRecord {
            sent_bytes: 300,
            sent_datagrams: 3,
            received_bytes: 200,
            received_datagrams: 2,
            ..UdpRecord::new(flow)
        }
    }

    /// Series of UDP and ICMP after one window: `name{labels} total`.
    fn shown(naming: Naming, batch: &FlowBatch) -> Vec<String> {
        let config = Config {
            naming,
            ..Config::default()
        };
        let mut window = Window::new(&config, &context(NodeInfo::default()));
        window.begin(Timestamp::from_nanos(0));
        window.fold(batch);
        let snapshot = window.finish(Timestamp::from_nanos(5_000_000_000));
        let mut shown = Vec::new();
        for family in &snapshot.families {
            let name = family.family.name;
            if let Points::Sums(points) = &family.points
                && ["udp", "icmp", "dns"].iter().any(|part| name.contains(part))
            {
                for point in points {
                    shown.push(format!(
                        "{name}{{{}}} {}",
                        point.series.joined_labels(),
                        point.total
                    ));
                }
            }
        }
        shown.sort_unstable();
        shown
    }

    fn batch(udp: impl Into<Vec<UdpRecord>>) -> FlowBatch {
        FlowBatch {
            udp: udp.into(),
            ..FlowBatch::default()
        }
    }

    #[test]
    fn a_record_goes_to_the_family_of_its_role_and_class_with_bytes_and_datagrams() {
        let quic = UdpRecord {
            app: UdpApp::Quic,
            received_bytes: 0,
            received_datagrams: 0,
            ..record(FlowKind::Egress, PeerClass::ExternalHosts, "198.51.100.7:443")
        };
        let dns = record(FlowKind::Egress, PeerClass::Dns, "192.0.2.53:53");
        assert_eq!(
            shown(Naming::PrimusLens, &batch([quic, dns])),
            [
                "network_flow_dns{} 500",
                r#"network_udp_datagrams{flow="egress",direction="inbound",type="dns"} 2"#,
                r#"network_udp_datagrams{flow="egress",direction="outbound",type="dns"} 3"#,
                r#"network_udp_datagrams{flow="egress",direction="outbound",type="externalHosts"} 3"#,
                r#"network_udp_flow_egress{raddr="198.51.100.7",rport="443",direction="outbound",type="externalHosts",app="quic"} 300"#,
            ]
        );
    }

    #[test]
    fn by_opentelemetrys_naming_one_family_has_both_roles() {
        let served = UdpRecord {
            received_bytes: 0,
            ..record(FlowKind::Ingress, PeerClass::ExternalHosts, "198.51.100.7:50000")
        };
        let shown = shown(Naming::Otel, &batch([served]));
        let bytes = shown
            .iter()
            .find(|series| series.starts_with("flowtap.udp.io"))
            .unwrap();
        assert_eq!(
            bytes,
            r#"flowtap.udp.io{network_peer_address="198.51.100.7",server_port="40000",network_io_direction="transmit",flowtap_role="ingress",flowtap_peer_class="externalHosts",network_type="ipv4"} 300"#
        );
    }

    #[test]
    fn what_had_no_place_in_the_kernel_is_in_other_and_sums_stay_whole() {
        let placed = record(FlowKind::Egress, PeerClass::Unknown, "198.51.100.7:443");
        let rest = UdpRecord {
            unplaced: true,
            sent_bytes: 7_000,
            ..record(FlowKind::Egress, PeerClass::Unknown, "0.0.0.0:0")
        };
        let shown = shown(Naming::PrimusLens, &batch([placed, rest]));
        let sent: Vec<_> = shown
            .iter()
            .filter(|series| series.contains("egress{") && series.contains("outbound"))
            .collect();
        assert_eq!(
            sent,
            [
                r#"network_udp_flow_egress{raddr="198.51.100.7",rport="443",direction="outbound",type="unknown",app=""} 300"#,
                r#"network_udp_flow_egress{raddr="other",rport="other",direction="outbound",type="unknown",app=""} 7000"#,
            ]
        );
        assert!(
            shown.iter().any(|series| series
                == r#"network_udp_datagrams{flow="egress",direction="outbound",type="unknown"} 6"#),
            "{shown:?}"
        );
    }

    #[test]
    fn drops_errors_and_messages_have_their_port_reason_and_type() {
        let udp = UdpRecord {
            drops: 5,
            errors: 2,
            error: 90,
            sent_bytes: 0,
            sent_datagrams: 0,
            received_bytes: 0,
            received_datagrams: 0,
            ..record(FlowKind::Egress, PeerClass::ExternalHosts, "198.51.100.7:443")
        };
        let icmp = |is_v6, is_sent, message_type, count| IcmpCount {
            netns: 1,
            is_v6,
            is_sent,
            message_type,
            count,
        };
        let batch = FlowBatch {
            icmp: vec![
                icmp(false, false, 3, 4),
                icmp(true, false, 1, 5),
                icmp(true, true, 128, 6),
            ],
            ..batch([udp])
        };
        assert_eq!(
            shown(Naming::PrimusLens, &batch),
            [
                r#"network_icmp_messages{direction="inbound",icmp_type="destination_unreachable"} 9"#,
                r#"network_icmp_messages{direction="outbound",icmp_type="echo_request"} 6"#,
                r#"network_udp_drops{lport="40000"} 5"#,
                r#"network_udp_errors{raddr="198.51.100.7",reason="message_too_big",type="externalHosts"} 2"#,
            ]
        );
    }
}
