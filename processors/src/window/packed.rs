//! Labels of two or three values in the key of a series: role, direction, network type and application protocol.

use std::net::IpAddr;

use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::{FlowKind, Naming, ReadingLabels, UdpApp};

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Outbound,
    Inbound,
}

impl Direction {
    /// From the word that a reading has for it, which is OpenTelemetry's.
    pub(super) fn of_reading(labels: &ReadingLabels) -> Option<Self> {
        match labels.get(Label::Direction)? {
            "transmit" => Some(Self::Outbound),
            "receive" => Some(Self::Inbound),
            _ => None,
        }
    }

    pub(super) const fn named(self, naming: Naming) -> &'static str {
        match (naming, self) {
            (Naming::PrimusLens, Self::Outbound) => "outbound",
            (Naming::PrimusLens, Self::Inbound) => "inbound",
            (Naming::Otel, Self::Outbound) => "transmit",
            (Naming::Otel, Self::Inbound) => "receive",
        }
    }
}

/// Which protocol an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum NetworkType {
    Ipv4,
    Ipv6,
}

impl NetworkType {
    pub(super) const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// Role, direction, network type and application protocol in one byte, two bits each; a field is 0 where the family has no such label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packed(pub(super) u8);

impl Packed {
    const FLOW_SHIFT: u8 = 0;
    const DIRECTION_SHIFT: u8 = 2;
    const NETWORK_TYPE_SHIFT: u8 = 4;
    const APP_SHIFT: u8 = 6;
    const FIELD: u8 = 0b11;

    pub(super) fn new(
        flow: Option<FlowKind>,
        direction: Option<Direction>,
        network_type: Option<NetworkType>,
    ) -> Self {
        let flow = flow.map_or(0, |flow| flow as u8 + 1);
        let direction = direction.map_or(0, |direction| direction as u8 + 1);
        let network_type = network_type.map_or(0, |network_type| network_type as u8 + 1);
        Self(
            flow << Self::FLOW_SHIFT
                | direction << Self::DIRECTION_SHIFT
                | network_type << Self::NETWORK_TYPE_SHIFT,
        )
    }

    const fn field(self, shift: u8) -> u8 {
        self.0 >> shift & Self::FIELD
    }

    pub(super) const fn flow(self) -> Option<FlowKind> {
        match self.field(Self::FLOW_SHIFT) {
            0 => None,
            field if field == FlowKind::Ingress as u8 + 1 => Some(FlowKind::Ingress),
            _ => Some(FlowKind::Egress),
        }
    }

    pub(super) const fn direction(self) -> Option<Direction> {
        match self.field(Self::DIRECTION_SHIFT) {
            0 => None,
            field if field == Direction::Outbound as u8 + 1 => Some(Direction::Outbound),
            _ => Some(Direction::Inbound),
        }
    }

    pub(super) const fn network_type(self) -> Option<NetworkType> {
        match self.field(Self::NETWORK_TYPE_SHIFT) {
            0 => None,
            field if field == NetworkType::Ipv4 as u8 + 1 => Some(NetworkType::Ipv4),
            _ => Some(NetworkType::Ipv6),
        }
    }

    pub(super) const fn with_app(self, app: UdpApp) -> Self {
        Self(self.0 & !(Self::FIELD << Self::APP_SHIFT) | (app as u8) << Self::APP_SHIFT)
    }

    pub(super) const fn app(self) -> UdpApp {
        match self.field(Self::APP_SHIFT) {
            field if field == UdpApp::Quic as u8 => UdpApp::Quic,
            _ => UdpApp::Unknown,
        }
    }

    pub(super) const fn without_direction(self) -> u8 {
        self.0 & !(Self::FIELD << Self::DIRECTION_SHIFT)
    }

    pub(super) const fn with_direction(self, direction: Direction) -> Self {
        Self(self.without_direction() | (direction as u8 + 1) << Self::DIRECTION_SHIFT)
    }
}
