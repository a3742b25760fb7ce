//! The metric families, in the order in which they are exposed.

use flowtap_pipeline::{Family, FamilyKind, HISTOGRAM_BUCKETS};

use super::label::Label;

/// Upper bounds of the round-trip time, in µs: those of the Go exporter.
const RTT_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    50.0, 100.0, 200.0, 300.0, 500.0, 700.0, 1000.0, 1300.0, 1600.0, 2000.0, 2500.0, 3000.0, 4000.0, 5000.0,
    7000.0, 10000.0,
];

/// Upper bounds of the time that a connect takes, in seconds: from one in a rack to one that was retried.
const CONNECT_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Number of a family in [`FAMILIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "each has its help in FAMILIES")]
pub enum FamilyId {
    Egress,
    Ingress,
    K8s,
    Dns,
    Rtt,
    Connections,
    ConnectionsActive,
    ConnectFailures,
    ConnectDuration,
    Retransmits,
    EventReceived,
    EventDropped,
}

/// A family, and the labels that it has and can have.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// What all its series share.
    pub family: Family,
    /// Labels unless the config says otherwise, in the order in which they are rendered.
    pub labels: &'static [Label],
    /// Labels that the config can ask for besides.
    pub more: &'static [Label],
    /// The same, of one connection or process.
    pub details: &'static [Label],
}

/// What does not change while a connection lives. Others would let a gauge count up in one series and down in another.
const LASTING: &[Label] = &[Label::Laddr, Label::Netns];

impl Definition {
    /// Every label that it can have.
    pub fn possible(&self) -> impl Iterator<Item = Label> {
        [self.labels, self.more, self.details]
            .into_iter()
            .flatten()
            .copied()
    }
}

/// Every family that a window can fill.
pub const FAMILIES: [Definition; 12] = [
    Definition {
        family: Family {
            name: "network_tcp_flow_egress",
            help: "Payload bytes of TCP connections that this machine opened, by peer.",
            unit: "By",
            kind: FamilyKind::Counter,
        },
        labels: &[Label::Raddr, Label::Rport, Label::Direction, Label::Type],
        more: &[Label::Lport],
        details: &Label::DETAILS,
    },
    Definition {
        family: Family {
            name: "network_tcp_flow_ingress",
            help: "Payload bytes of TCP connections that this machine accepted, by peer.",
            unit: "By",
            kind: FamilyKind::Counter,
        },
        labels: &[Label::Lport, Label::Raddr, Label::Direction, Label::Type],
        more: &[Label::Rport],
        details: &Label::DETAILS,
    },
    Definition {
        family: Family {
            name: "network_k8s_tcp_flow",
            help: "Payload bytes to and from pods and services of the cluster.",
            unit: "By",
            kind: FamilyKind::Counter,
        },
        labels: &[Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::Direction,
            Label::Flow,
        ],
        details: &Label::DETAILS,
    },
    Definition {
        family: Family {
            name: "network_flow_dns",
            help: "Payload bytes to and from name servers, over TCP.",
            unit: "By",
            kind: FamilyKind::Counter,
        },
        labels: &[],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::Direction,
            Label::Flow,
            Label::Type,
        ],
        details: &Label::DETAILS,
    },
    Definition {
        family: Family {
            name: "network_tcp_flow_rtt",
            help: "Smoothed round-trip time in microseconds of connections that moved bytes, once per interval.",
            unit: "us",
            kind: FamilyKind::Histogram(&RTT_BOUNDS),
        },
        labels: &[Label::Raddr, Label::Direction],
        more: &[Label::Rport, Label::Lport, Label::Type, Label::Flow],
        details: &Label::DETAILS,
    },
    Definition {
        family: Family {
            name: "network_tcp_connections",
            help: "TCP connections that were opened, closed, reset, or failed to open.",
            unit: "{connection}",
            kind: FamilyKind::Counter,
        },
        labels: &[Label::Flow, Label::Event, Label::Type],
        more: &[Label::Raddr, Label::Rport, Label::Lport],
        details: &Label::DETAILS,
    },
    Definition {
        family: Family {
            name: "network_tcp_connections_active",
            help: "TCP connections that are open.",
            unit: "{connection}",
            kind: FamilyKind::Gauge,
        },
        labels: &[Label::Flow, Label::Type],
        more: &[Label::Raddr, Label::Rport, Label::Lport],
        details: LASTING,
    },
    Definition {
        family: Family {
            name: "network_tcp_connect_failures",
            help: "Connects that failed, by reason.",
            unit: "{connection}",
            kind: FamilyKind::Counter,
        },
        labels: &[Label::Reason, Label::Type],
        more: &[Label::Raddr, Label::Rport],
        details: &Label::DETAILS,
    },
    Definition {
        family: Family {
            name: "network_tcp_connect_duration",
            help: "Time in seconds from the SYN to the established connection, for connections that this machine opened.",
            unit: "s",
            kind: FamilyKind::Histogram(&CONNECT_BOUNDS),
        },
        labels: &[Label::Raddr, Label::Type],
        more: &[Label::Rport],
        details: &Label::DETAILS,
    },
    Definition {
        family: Family {
            name: "network_tcp_retransmits",
            help: "TCP segments that were sent again, by peer.",
            unit: "{segment}",
            kind: FamilyKind::Counter,
        },
        labels: &[Label::Raddr, Label::Type],
        more: &[Label::Rport, Label::Lport, Label::Flow],
        details: &Label::DETAILS,
    },
    Definition {
        family: Family {
            name: "bpf_event_recv",
            help: "Events read from the kernel's ring buffers, in the capture mode that has a record per event.",
            unit: "{event}",
            kind: FamilyKind::Counter,
        },
        labels: &[Label::EventType],
        more: &[],
        details: &[],
    },
    Definition {
        family: Family {
            name: "bpf_event_chan_drop",
            help: "Events dropped because the channel behind the ring buffers was full.",
            unit: "{event}",
            kind: FamilyKind::Counter,
        },
        labels: &[Label::EventType],
        more: &[],
        details: &[],
    },
];

impl FamilyId {
    /// Every family, in the order of [`FAMILIES`].
    pub const ALL: [Self; FAMILIES.len()] = [
        Self::Egress,
        Self::Ingress,
        Self::K8s,
        Self::Dns,
        Self::Rtt,
        Self::Connections,
        Self::ConnectionsActive,
        Self::ConnectFailures,
        Self::ConnectDuration,
        Self::Retransmits,
        Self::EventReceived,
        Self::EventDropped,
    ];

    /// The family.
    pub const fn family(self) -> &'static Family {
        &FAMILIES[self as usize].family
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_families_stand_in_the_same_order() {
        assert_eq!(FamilyId::Egress.family().name, "network_tcp_flow_egress");
        assert_eq!(FamilyId::Rtt.family().name, "network_tcp_flow_rtt");
        assert_eq!(FamilyId::EventDropped as usize + 1, FAMILIES.len());
        assert_eq!(FamilyId::EventDropped.family().name, "bpf_event_chan_drop");
    }

    #[test]
    fn bounds_of_histograms_rise() {
        for Definition { family, .. } in &FAMILIES {
            if let FamilyKind::Histogram(bounds) = family.kind {
                assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{}", family.name);
            }
        }
    }

    #[test]
    fn no_family_has_a_label_twice() {
        for definition in &FAMILIES {
            let mut names: Vec<_> = definition.possible().map(Label::name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", definition.family.name);
        }
    }
}
