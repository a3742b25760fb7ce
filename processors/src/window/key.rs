//! What tells one series from another: a small key that is hashed and compared without touching the heap.

use std::net::{IpAddr, Ipv6Addr};

use flowtap_pipeline::{EventType, FlowKind, LabelValue, PeerClass, Series, Timestamp};

use super::families::FamilyId;

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Outbound,
    Inbound,
}

impl Direction {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ConnectionEvent {
    Opened,
    Closed,
    Failed,
    Reset,
}

impl ConnectionEvent {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::Reset => "reset",
        }
    }
}

/// An address as 16 bytes; IPv4 as IPv4-mapped, which no canonical address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Addr(u128);

impl Addr {
    pub(super) fn new(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self(addr.to_ipv6_mapped().to_bits()),
            IpAddr::V6(addr) => Self(addr.to_bits()),
        }
    }

    fn get(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(self.0)).to_canonical()
    }
}

/// A series: its family and the values of its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Egress {
        raddr: Addr,
        rport: u16,
        direction: Direction,
        class: PeerClass,
    },
    Ingress {
        lport: u16,
        raddr: Addr,
        direction: Direction,
        class: PeerClass,
    },
    K8s {
        class: PeerClass,
    },
    Dns,
    Rtt {
        raddr: Addr,
        direction: Direction,
    },
    Connections {
        flow: FlowKind,
        event: ConnectionEvent,
        class: PeerClass,
    },
    ConnectionsActive {
        flow: FlowKind,
        class: PeerClass,
    },
    ConnectFailures {
        reason: &'static str,
        class: PeerClass,
    },
    ConnectDuration {
        raddr: Addr,
        class: PeerClass,
    },
    Retransmits {
        raddr: Addr,
        class: PeerClass,
    },
    EventReceived {
        event_type: EventType,
    },
    EventDropped {
        event_type: EventType,
    },
    /// What a family at its budget has no series for.
    Other(FamilyId),
}

/// The value of every label of a series `other`.
const OTHER: LabelValue<'static> = LabelValue::Text("other");

impl Key {
    pub(super) const fn family(&self) -> FamilyId {
        match self {
            Self::Egress { .. } => FamilyId::Egress,
            Self::Ingress { .. } => FamilyId::Ingress,
            Self::K8s { .. } => FamilyId::K8s,
            Self::Dns => FamilyId::Dns,
            Self::Rtt { .. } => FamilyId::Rtt,
            Self::Connections { .. } => FamilyId::Connections,
            Self::ConnectionsActive { .. } => FamilyId::ConnectionsActive,
            Self::ConnectFailures { .. } => FamilyId::ConnectFailures,
            Self::ConnectDuration { .. } => FamilyId::ConnectDuration,
            Self::Retransmits { .. } => FamilyId::Retransmits,
            Self::EventReceived { .. } => FamilyId::EventReceived,
            Self::EventDropped { .. } => FamilyId::EventDropped,
            Self::Other(family) => *family,
        }
    }

    /// The series, with its renderings: done once in its life.
    pub(super) fn render(&self, start: Timestamp) -> Series {
        use LabelValue::{Addr, Port, Text};
        let render = |values: &[LabelValue<'_>]| Series::render(self.family().family(), values, start);
        let class_of = |class: PeerClass| Text(class.as_str());
        match *self {
            Self::Egress {
                raddr,
                rport,
                direction,
                class,
            } => render(&[
                Addr(raddr.get()),
                Port(rport),
                Text(direction.as_str()),
                class_of(class),
            ]),
            Self::Ingress {
                lport,
                raddr,
                direction,
                class,
            } => render(&[
                Port(lport),
                Addr(raddr.get()),
                Text(direction.as_str()),
                class_of(class),
            ]),
            Self::K8s { class } => render(&[class_of(class)]),
            Self::Dns => render(&[]),
            Self::Rtt { raddr, direction } => render(&[Addr(raddr.get()), Text(direction.as_str())]),
            Self::Connections { flow, event, class } => {
                render(&[Text(flow.as_str()), Text(event.as_str()), class_of(class)])
            }
            Self::ConnectionsActive { flow, class } => render(&[Text(flow.as_str()), class_of(class)]),
            Self::ConnectFailures { reason, class } => render(&[Text(reason), class_of(class)]),
            Self::ConnectDuration { raddr, class } | Self::Retransmits { raddr, class } => {
                render(&[Addr(raddr.get()), class_of(class)])
            }
            Self::EventReceived { event_type } | Self::EventDropped { event_type } => {
                render(&[Text(event_type.as_str())])
            }
            Self::Other(_) => render(&[OTHER; 4]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_come_back_as_they_went_in() {
        for text in ["192.0.2.7", "0.0.0.0", "::", "2001:db8::1", "::1"] {
            let addr: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::new(addr).get(), addr);
        }
        assert_ne!(
            Addr::new("0.0.0.0".parse().unwrap()),
            Addr::new("::".parse().unwrap())
        );
    }

    #[test]
    fn labels_are_the_go_exporters() {
        let key = Key::Ingress {
            lport: 443,
            raddr: Addr::new("192.0.2.7".parse().unwrap()),
            direction: Direction::Inbound,
            class: PeerClass::ExternalHosts,
        };
        let series = key.render(Timestamp::from_nanos(1));
        assert_eq!(
            &*series.labels,
            r#"lport="443",raddr="192.0.2.7",direction="inbound",type="externalHosts""#
        );
        let other = Key::Other(FamilyId::Rtt).render(Timestamp::from_nanos(1));
        assert_eq!(&*other.labels, r#"raddr="other",direction="other""#);
        assert_eq!(&*Key::Dns.render(Timestamp::from_nanos(1)).labels, "");
    }
}
