//! Families of DNS transactions.

use super::super::entry::{COUNTER, Entry, histogram};
use super::super::label::Label;
use super::bounds::CONNECT_BOUNDS;
use crate::family::Naming;
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
pub(super) const FAMILIES: &[Entry] = &[
    Entry {
        names: ["network_dns_queries", "flowtap.dns.queries"],
        help: "DNS queries over UDP, by name server and outcome: the response code, or timeout without an answer.",
        unit: Unit::Count("{query}"),
        kinds: COUNTER,
        labels: &[Label::Raddr, Label::Flow, Label::Qtype, Label::Rcode],
        more: DNS_LABELS,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_dns_duration", "flowtap.dns.query.duration"],
        help: "Time in seconds from a DNS query to its answer, the time of retries included.",
        otel_help: Some("Time from a DNS query to its answer, the time of retries included."),
        unit: Unit::Seconds,
        kinds: histogram(&CONNECT_BOUNDS),
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
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_dns_retries", "flowtap.dns.retries"],
        help: "Retries of DNS queries from the same socket, because no answer had come.",
        unit: Unit::Count("{query}"),
        kinds: COUNTER,
        labels: &[Label::Raddr, Label::Flow],
        more: DNS_MORE_LABELS,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_dns_truncated", "flowtap.dns.truncated"],
        help: "DNS answers over UDP that were truncated, so that the client has to ask over TCP.",
        unit: Unit::Count("{answer}"),
        kinds: COUNTER,
        labels: &[Label::Raddr, Label::Flow],
        more: DNS_MORE_LABELS,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_dns_search_misses", "flowtap.dns.search_misses"],
        help: "DNS queries that a resolver's search list made, and that were answered with NXDOMAIN.",
        unit: Unit::Count("{query}"),
        kinds: COUNTER,
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
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_dns_lookup_duration", "dns.lookup.duration"],
        help: "Time in seconds from a DNS query of this machine to its answer, by name.",
        otel_help: Some("Time from a DNS query of this machine to its answer, by name."),
        unit: Unit::Seconds,
        kinds: histogram(&LOOKUP_BOUNDS),
        labels: &[Label::Qname, Label::Reason],
        more: &[Label::Raddr, Label::ServerPort, Label::Type, Label::NetworkType],
        details: &Label::DETAILS,
        enabled: false,
        only: Some(Naming::Otel),
        ..Entry::EMPTY
    },
];
