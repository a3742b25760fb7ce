//! Families of DNS transactions.

use super::super::definition::{Definition, otel};
use super::super::label::Label;
use super::bounds::CONNECT_BOUNDS;
use crate::family::{Family, FamilyKind, Naming};
use crate::unit::Unit;

/// Upper bounds of OpenTelemetry's `dns.lookup.duration`, in seconds.
const LOOKUP_BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Further labels of DNS queries that have an outcome.
const DNS_LABELS: &[Label] = &[
    Label::Qname,
    Label::Rport,
    Label::Lport,
    Label::ServerPort,
    Label::Type,
    Label::NetworkType,
];

/// Further labels of other counts of DNS queries.
const DNS_MORE_LABELS: &[Label] = &[
    Label::Qtype,
    Label::Rcode,
    Label::Qname,
    Label::Rport,
    Label::Lport,
    Label::ServerPort,
    Label::Type,
    Label::NetworkType,
];

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Definition] = &[
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_dns_queries",
            help: "DNS queries over UDP, by name server and outcome: the response code, or timeout without an answer.",
            unit: Unit::Count("{query}"),
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.dns.queries",
            "DNS queries over UDP, by name server and outcome: the response code, or timeout without an answer.",
            Unit::Count("{query}"),
            FamilyKind::Counter,
        ),
        labels: &[Label::Raddr, Label::Flow, Label::Qtype, Label::Rcode],
        more: DNS_LABELS,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_dns_duration",
            help: "Time in seconds from a DNS query to its answer, the time of retries included.",
            unit: Unit::Seconds,
            kind: FamilyKind::Histogram(&CONNECT_BOUNDS),
        },
        otel: otel(
            "flowtap.dns.query.duration",
            "Time from a DNS query to its answer, the time of retries included.",
            Unit::Seconds,
            FamilyKind::Histogram(&CONNECT_BOUNDS),
        ),
        labels: &[Label::Raddr, Label::Flow, Label::Qtype],
        more: &[
            Label::Rcode,
            Label::Qname,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Type,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_dns_retries",
            help: "Retries of DNS queries from the same socket, because no answer had come.",
            unit: Unit::Count("{query}"),
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.dns.retries",
            "Retries of DNS queries from the same socket, because no answer had come.",
            Unit::Count("{query}"),
            FamilyKind::Counter,
        ),
        labels: &[Label::Raddr, Label::Flow],
        more: DNS_MORE_LABELS,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_dns_truncated",
            help: "DNS answers over UDP that were truncated, so that the client has to ask over TCP.",
            unit: Unit::Count("{answer}"),
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.dns.truncated",
            "DNS answers over UDP that were truncated, so that the client has to ask over TCP.",
            Unit::Count("{answer}"),
            FamilyKind::Counter,
        ),
        labels: &[Label::Raddr, Label::Flow],
        more: DNS_MORE_LABELS,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_dns_search_misses",
            help: "DNS queries that a resolver's search list made, and that were answered with NXDOMAIN.",
            unit: Unit::Count("{query}"),
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.dns.search_misses",
            "DNS queries that a resolver's search list made, and that were answered with NXDOMAIN.",
            Unit::Count("{query}"),
            FamilyKind::Counter,
        ),
        labels: &[Label::Raddr],
        more: &[
            Label::Flow,
            Label::Qtype,
            Label::Qname,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Type,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_dns_lookup_duration",
            help: "Time in seconds from a DNS query of this machine to its answer, by name.",
            unit: Unit::Seconds,
            kind: FamilyKind::Histogram(&LOOKUP_BOUNDS),
        },
        otel: otel(
            "dns.lookup.duration",
            "Time from a DNS query of this machine to its answer, by name.",
            Unit::Seconds,
            FamilyKind::Histogram(&LOOKUP_BOUNDS),
        ),
        labels: &[Label::Qname, Label::Reason],
        more: &[Label::Raddr, Label::ServerPort, Label::Type, Label::NetworkType],
        details: &Label::DETAILS,
        enabled: false,
        only: Some(Naming::Otel),
    },
];
