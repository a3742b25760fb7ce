//! The metric families, in the order in which they are exposed.

use super::label::Label;
use crate::family::{Family, FamilyKind, HISTOGRAM_BUCKETS, Naming};

/// Upper bounds of the round-trip time, in µs: those of the Go exporter.
const RTT_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    50.0, 100.0, 200.0, 300.0, 500.0, 700.0, 1000.0, 1300.0, 1600.0, 2000.0, 2500.0, 3000.0, 4000.0, 5000.0,
    7000.0, 10000.0,
];

/// Upper bounds of a round-trip time in µs, from a rack to a retransmitted SYN.
const WIDE_RTT_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    25_000.0,
    50_000.0,
    100_000.0,
    250_000.0,
    500_000.0,
    1_000_000.0,
    2_500_000.0,
    10_000_000.0,
];

/// [`WIDE_RTT_BOUNDS`] in seconds, the unit of durations in OpenTelemetry.
const WIDE_RTT_BOUNDS_SECONDS: [f64; HISTOGRAM_BUCKETS] = [
    0.000_05, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// Upper bounds of the time that a connect takes, in seconds: from one in a rack to one that was retried.
const CONNECT_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Upper bounds of the life of a connection, in seconds: from one request to a day.
const LIFE_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 21_600.0,
    86_400.0,
];

/// Number of a family in [`FAMILIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "each has its help in FAMILIES")]
pub enum FamilyId {
    Totals,
    Io,
    Egress,
    Ingress,
    K8s,
    Dns,
    Rtt,
    MinRtt,
    Connections,
    ConnectionsActive,
    ConnectFailures,
    ConnectDuration,
    ConnectionDuration,
    Segments,
    Retransmits,
    EventReceived,
    EventDropped,
    ListenBacklog,
    ListenLimit,
    ListenDrops,
    AcceptWait,
    Drops,
}

/// A family, and the labels that it has and can have.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Name, unit and help by the Go exporter's naming. This name identifies the family in a
    /// config.
    pub family: Family,
    /// The same by OpenTelemetry's naming.
    pub otel: Family,
    /// Labels unless the config says otherwise, in the order in which they are rendered.
    pub labels: &'static [Label],
    /// Further labels that the config can select.
    pub more: &'static [Label],
    /// The same, of one connection or process.
    pub details: &'static [Label],
    /// Whether it is exposed unless the config says otherwise.
    pub enabled: bool,
    /// The only naming that has it; `None` if each has.
    pub only: Option<Naming>,
}

const fn otel(name: &'static str, help: &'static str, unit: &'static str, kind: FamilyKind) -> Family {
    Family {
        name,
        naming: Naming::Otel,
        help,
        unit,
        kind,
    }
}

/// Labels that do not change while a connection lives. Others would let a gauge count up in one
/// series and down in another.
const STABLE_LABELS: &[Label] = &[Label::Laddr, Label::Netns];

/// Labels of a listening socket: of itself and of its process.
const LISTENER_LABELS: &[Label] = &[
    Label::Laddr,
    Label::Netns,
    Label::Pid,
    Label::Comm,
    Label::CgroupId,
    Label::ContainerId,
    Label::LocalNamespace,
    Label::LocalPod,
    Label::LocalWorkload,
];

/// Labels of a dropped packet, which has no process.
const DROP_LABELS: &[Label] = &[
    Label::Laddr,
    Label::Netns,
    Label::PeerNamespace,
    Label::PeerPod,
    Label::PeerWorkload,
    Label::PeerService,
    Label::PeerNode,
    Label::LocalNamespace,
    Label::LocalPod,
    Label::LocalWorkload,
];

impl Definition {
    /// Name, unit and help, shared by all its series.
    pub const fn named(&self, naming: Naming) -> &Family {
        match naming {
            Naming::PrimusLens => &self.family,
            Naming::Otel => &self.otel,
        }
    }

    /// Its labels unless the config says otherwise. By OpenTelemetry's naming an address has its type beside it.
    pub fn labels_by_default(&self, naming: Naming) -> Vec<Label> {
        let mut labels = self.labels.to_vec();
        labels.retain(|label| self.possible(naming).any(|possible| possible == *label));
        if naming == Naming::Otel && labels.contains(&Label::Raddr) {
            labels.push(Label::NetworkType);
        }
        labels
    }

    /// Every label that it can have. OpenTelemetry's round-trip time is of a connection, so it has no direction.
    pub fn possible(&self, naming: Naming) -> impl Iterator<Item = Label> {
        let is_rtt = self.family.name == FAMILIES[FamilyId::Rtt as usize].family.name;
        let without = (is_rtt && naming == Naming::Otel).then_some(Label::Direction);
        [self.labels, self.more, self.details]
            .into_iter()
            .flatten()
            .copied()
            .filter(move |label| Some(*label) != without)
    }

    /// Whether a naming has the family.
    pub fn is_of(&self, naming: Naming) -> bool {
        self.only.is_none_or(|only| only == naming)
    }
}

/// Every family that a window can fill.
pub const FAMILIES: [Definition; 22] = [
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_bytes",
            help: "Payload bytes of all TCP connections. Its series exist from the start, so an increase is whole.",
            unit: "By",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.node.tcp.io",
            "Payload bytes of all TCP connections. Its series exist from the start, so an increase is whole.",
            "By",
            FamilyKind::Counter,
        ),
        labels: &[Label::Flow, Label::Direction, Label::Type],
        more: &[Label::NetworkType],
        details: &[],
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_io",
            help: "Payload bytes of TCP connections, by peer.",
            unit: "By",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.io",
            "Payload bytes of TCP connections, by peer.",
            "By",
            FamilyKind::Counter,
        ),
        labels: &[
            Label::Raddr,
            Label::ServerPort,
            Label::Direction,
            Label::Flow,
            Label::Type,
        ],
        more: &[Label::Rport, Label::Lport, Label::NetworkType],
        details: &Label::DETAILS,
        enabled: true,
        only: Some(Naming::Otel),
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_flow_egress",
            help: "Payload bytes of TCP connections that this machine opened, by peer.",
            unit: "By",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.egress.io",
            "Payload bytes of TCP connections that this machine opened, by peer.",
            "By",
            FamilyKind::Counter,
        ),
        labels: &[Label::Raddr, Label::Rport, Label::Direction, Label::Type],
        more: &[Label::Lport, Label::ServerPort, Label::NetworkType],
        details: &Label::DETAILS,
        enabled: true,
        only: Some(Naming::PrimusLens),
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_flow_ingress",
            help: "Payload bytes of TCP connections that this machine accepted, by peer.",
            unit: "By",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.ingress.io",
            "Payload bytes of TCP connections that this machine accepted, by peer.",
            "By",
            FamilyKind::Counter,
        ),
        labels: &[Label::Lport, Label::Raddr, Label::Direction, Label::Type],
        more: &[Label::Rport, Label::ServerPort, Label::NetworkType],
        details: &Label::DETAILS,
        enabled: true,
        only: Some(Naming::PrimusLens),
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_k8s_tcp_flow",
            help: "Payload bytes to and from pods and services of the cluster.",
            unit: "By",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.k8s.io",
            "Payload bytes to and from pods and services of the cluster.",
            "By",
            FamilyKind::Counter,
        ),
        labels: &[Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Direction,
            Label::Flow,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: true,
        only: Some(Naming::PrimusLens),
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_flow_dns",
            help: "Payload bytes to and from name servers, over TCP.",
            unit: "By",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.dns.io",
            "Payload bytes to and from name servers, over TCP.",
            "By",
            FamilyKind::Counter,
        ),
        labels: &[],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Direction,
            Label::Flow,
            Label::Type,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: true,
        only: Some(Naming::PrimusLens),
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_flow_rtt",
            help: "Smoothed round-trip time in microseconds of connections that moved bytes, once per interval.",
            unit: "us",
            kind: FamilyKind::Histogram(&RTT_BOUNDS),
        },
        otel: otel(
            "flowtap.tcp.rtt",
            "Smoothed round-trip time of connections that moved bytes, once per interval.",
            "s",
            FamilyKind::Histogram(&WIDE_RTT_BOUNDS_SECONDS),
        ),
        labels: &[Label::Raddr, Label::Direction],
        more: &[
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Type,
            Label::Flow,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_flow_min_rtt",
            help: "Smallest round-trip time in microseconds that the kernel measured lately, of connections that moved bytes, once per interval.",
            unit: "us",
            kind: FamilyKind::Histogram(&WIDE_RTT_BOUNDS),
        },
        otel: otel(
            "flowtap.tcp.min_rtt",
            "Smallest round-trip time that the kernel measured lately, of connections that moved bytes, once per interval.",
            "s",
            FamilyKind::Histogram(&WIDE_RTT_BOUNDS_SECONDS),
        ),
        labels: &[Label::Raddr],
        more: &[
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Type,
            Label::Flow,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: false,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_connections",
            help: "TCP connections that were opened, closed, reset, or failed to open.",
            unit: "{connection}",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.connection.events",
            "TCP connections that were opened, closed, reset, or failed to open.",
            "{connection}",
            FamilyKind::Counter,
        ),
        labels: &[Label::Flow, Label::Event, Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_connections_active",
            help: "TCP connections that are open.",
            unit: "{connection}",
            kind: FamilyKind::Gauge,
        },
        otel: otel(
            "flowtap.tcp.connection.active",
            "TCP connections that are open.",
            "{connection}",
            FamilyKind::UpDownCounter,
        ),
        labels: &[Label::Flow, Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::NetworkType,
        ],
        details: STABLE_LABELS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_connect_failures",
            help: "Connects that failed, by reason.",
            unit: "{connection}",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.connect.failures",
            "Connects that failed, by reason.",
            "{connection}",
            FamilyKind::Counter,
        ),
        labels: &[Label::Reason, Label::Type],
        more: &[Label::Raddr, Label::Rport, Label::NetworkType],
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_connect_duration",
            help: "Time in seconds from the SYN to the established connection, for connections that this machine opened.",
            unit: "s",
            kind: FamilyKind::Histogram(&CONNECT_BOUNDS),
        },
        otel: otel(
            "flowtap.tcp.connect.duration",
            "Time in seconds from the SYN to the established connection, for connections that this machine opened.",
            "s",
            FamilyKind::Histogram(&CONNECT_BOUNDS),
        ),
        labels: &[Label::Raddr, Label::Type],
        more: &[Label::Rport, Label::NetworkType],
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_connection_duration",
            help: "Time in seconds from the established connection, or its adoption by flowtap, to its end.",
            unit: "s",
            kind: FamilyKind::Histogram(&LIFE_BOUNDS),
        },
        otel: otel(
            "flowtap.tcp.connection.duration",
            "Time from the established connection, or its adoption by flowtap, to its end.",
            "s",
            FamilyKind::Histogram(&LIFE_BOUNDS),
        ),
        labels: &[Label::Flow, Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_segments",
            help: "TCP segments, by peer: retransmissions and acknowledgements without payload included.",
            unit: "{segment}",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.segments",
            "TCP segments, by peer: retransmissions and acknowledgements without payload included.",
            "{segment}",
            FamilyKind::Counter,
        ),
        labels: &[Label::Raddr, Label::Direction, Label::Type],
        more: &[
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Flow,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: false,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_retransmits",
            help: "Retransmitted TCP segments, by peer.",
            unit: "{segment}",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.retransmits",
            "Retransmitted TCP segments, by peer.",
            "{segment}",
            FamilyKind::Counter,
        ),
        labels: &[Label::Raddr, Label::Type],
        more: &[
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Flow,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "bpf_event_recv",
            help: "Events read from the kernel's ring buffers, in the capture mode that has a record per event.",
            unit: "{event}",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.bpf.events.received",
            "Events read from the kernel's ring buffers, in the capture mode that has a record per event.",
            "{event}",
            FamilyKind::Counter,
        ),
        labels: &[Label::EventType],
        more: &[],
        details: &[],
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "bpf_event_chan_drop",
            help: "Events dropped because the channel after the ring buffers was full.",
            unit: "{event}",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.bpf.events.dropped",
            "Events dropped because the channel after the ring buffers was full.",
            "{event}",
            FamilyKind::Counter,
        ),
        labels: &[Label::EventType],
        more: &[],
        details: &[],
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_listen_backlog",
            help: "Connections that wait to be accepted, by listening port.",
            unit: "{connection}",
            kind: FamilyKind::Gauge,
        },
        otel: otel(
            "flowtap.tcp.listen.backlog",
            "Connections that wait to be accepted, by listening port.",
            "{connection}",
            FamilyKind::UpDownCounter,
        ),
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_listen_backlog_limit",
            help: "Connections that may wait to be accepted, by listening port; further ones are dropped.",
            unit: "{connection}",
            kind: FamilyKind::Gauge,
        },
        otel: otel(
            "flowtap.tcp.listen.backlog.limit",
            "Connections that may wait to be accepted, by listening port; further ones are dropped.",
            "{connection}",
            FamilyKind::UpDownCounter,
        ),
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_listen_drops",
            help: "Connections that listening sockets dropped, most often because their queue was full, by listening port.",
            unit: "{connection}",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.listen.drops",
            "Connections that listening sockets dropped, most often because their queue was full, by listening port.",
            "{connection}",
            FamilyKind::Counter,
        ),
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_accept_wait",
            help: "Time in seconds for which the first connection of a queue has waited to be accepted, by listening port.",
            unit: "s",
            kind: FamilyKind::Gauge,
        },
        otel: otel(
            "flowtap.tcp.accept.wait",
            "Time for which the first connection of a queue has waited to be accepted, by listening port.",
            "s",
            FamilyKind::Gauge,
        ),
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_drops",
            help: "Packets that the kernel dropped, by its reason; of kinds tcp, end and other no data is lost.",
            unit: "{packet}",
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.network.drops",
            "Packets that the kernel dropped, by its reason; of kinds tcp, end and other no data is lost.",
            "{packet}",
            FamilyKind::Counter,
        ),
        labels: &[Label::Reason, Label::Type, Label::Kind],
        more: &[Label::Raddr, Label::Rport, Label::Lport, Label::NetworkType],
        details: DROP_LABELS,
        enabled: true,
        only: None,
    },
];

impl FamilyId {
    /// Every family, in the order of [`FAMILIES`].
    pub const ALL: [Self; FAMILIES.len()] = [
        Self::Totals,
        Self::Io,
        Self::Egress,
        Self::Ingress,
        Self::K8s,
        Self::Dns,
        Self::Rtt,
        Self::MinRtt,
        Self::Connections,
        Self::ConnectionsActive,
        Self::ConnectFailures,
        Self::ConnectDuration,
        Self::ConnectionDuration,
        Self::Segments,
        Self::Retransmits,
        Self::EventReceived,
        Self::EventDropped,
        Self::ListenBacklog,
        Self::ListenLimit,
        Self::ListenDrops,
        Self::AcceptWait,
        Self::Drops,
    ];

    /// Whether all its series exist from the start and never leave. They are few, and count against no budget.
    pub const fn is_permanent(self) -> bool {
        matches!(self, Self::Totals)
    }

    /// The family.
    pub const fn definition(self) -> &'static Definition {
        &FAMILIES[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_families_stand_in_the_same_order() {
        assert_eq!(FamilyId::Totals.definition().family.name, "network_tcp_bytes");
        assert_eq!(
            FamilyId::Egress.definition().family.name,
            "network_tcp_flow_egress"
        );
        assert_eq!(FamilyId::Rtt.definition().family.name, "network_tcp_flow_rtt");
        assert_eq!(FamilyId::Drops as usize + 1, FAMILIES.len());
        assert_eq!(FamilyId::Drops.definition().family.name, "network_drops");
        assert_eq!(
            FamilyId::EventDropped.definition().family.name,
            "bpf_event_chan_drop"
        );
    }

    #[test]
    fn bounds_of_histograms_rise() {
        for family in FAMILIES
            .iter()
            .flat_map(|definition| [&definition.family, &definition.otel])
        {
            if let FamilyKind::Histogram(bounds) = family.kind {
                assert!(bounds.len() <= HISTOGRAM_BUCKETS);
                assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{}", family.name);
            }
        }
    }

    #[test]
    fn no_family_has_a_label_twice() {
        for definition in &FAMILIES {
            let mut names: Vec<_> = definition.possible(Naming::PrimusLens).map(Label::name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", definition.family.name);
        }
    }

    #[test]
    fn a_family_by_either_naming_is_of_one_kind_and_its_labels_are_possible() {
        for definition in &FAMILIES {
            // OpenTelemetry's conventions call a number of open connections an up-down counter, not a gauge.
            let kind = |naming| match definition.named(naming).kind {
                FamilyKind::Histogram(_) => "histogram",
                kind if kind.can_fall() => "gauge",
                _ => "counter",
            };
            assert_eq!(
                kind(Naming::PrimusLens),
                kind(Naming::Otel),
                "{}",
                definition.otel.name
            );
            for label in definition.labels_by_default(Naming::Otel) {
                assert!(
                    definition
                        .possible(Naming::Otel)
                        .any(|possible| possible == label),
                    "{label}"
                );
            }
        }
    }

    #[test]
    fn the_bounds_in_seconds_are_those_in_microseconds() {
        for (seconds, microseconds) in WIDE_RTT_BOUNDS_SECONDS.iter().zip(WIDE_RTT_BOUNDS) {
            assert!(
                (seconds * 1e6 - microseconds).abs() < 1e-6,
                "{seconds} {microseconds}"
            );
        }
    }
}
