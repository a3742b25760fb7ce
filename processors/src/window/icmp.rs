//! Names of ICMP's message types, for both versions.

/// A message type that has a name; those of ICMP and ICMPv6 that mean the same have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum IcmpType {
    EchoRequest,
    EchoReply,
    DestinationUnreachable,
    PacketTooBig,
    TimeExceeded,
    ParameterProblem,
    SourceQuench,
    Redirect,
    RouterSolicitation,
    RouterAdvertisement,
    NeighborSolicitation,
    NeighborAdvertisement,
    MulticastListener,
    Timestamp,
    Other,
}

impl IcmpType {
    /// From the number (RFC 792; RFC 4443, 4861, 3810 for ICMPv6).
    pub(super) const fn of(is_v6: bool, number: u8) -> Self {
        match (is_v6, number) {
            (false, 8) | (true, 128) => Self::EchoRequest,
            (false, 0) | (true, 129) => Self::EchoReply,
            (false, 3) | (true, 1) => Self::DestinationUnreachable,
            (true, 2) => Self::PacketTooBig,
            (false, 11) | (true, 3) => Self::TimeExceeded,
            (false, 12) | (true, 4) => Self::ParameterProblem,
            (false, 4) => Self::SourceQuench,
            (false, 5) | (true, 137) => Self::Redirect,
            (false, 10) | (true, 133) => Self::RouterSolicitation,
            (false, 9) | (true, 134) => Self::RouterAdvertisement,
            (true, 135) => Self::NeighborSolicitation,
            (true, 136) => Self::NeighborAdvertisement,
            (true, 130 | 131 | 132 | 143) => Self::MulticastListener,
            (false, 13 | 14) => Self::Timestamp,
            _ => Self::Other,
        }
    }

    /// The label value.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::EchoRequest => "echo_request",
            Self::EchoReply => "echo_reply",
            Self::DestinationUnreachable => "destination_unreachable",
            Self::PacketTooBig => "packet_too_big",
            Self::TimeExceeded => "time_exceeded",
            Self::ParameterProblem => "parameter_problem",
            Self::SourceQuench => "source_quench",
            Self::Redirect => "redirect",
            Self::RouterSolicitation => "router_solicitation",
            Self::RouterAdvertisement => "router_advertisement",
            Self::NeighborSolicitation => "neighbor_solicitation",
            Self::NeighborAdvertisement => "neighbor_advertisement",
            Self::MulticastListener => "multicast_listener",
            Self::Timestamp => "timestamp",
            Self::Other => "other",
        }
    }
}
