//! The metric families, in the order in which they are exposed.

mod bounds;
mod dns;
mod drops;
mod exchanges;
mod findings;
mod limits;
mod listening;
mod rdma;
mod tcp;
mod udp;

use super::definition::Definition;
use super::entry::Entry;

macro_rules! family_ids {
    ($($id:ident,)*) => {
        /// Number of a family in [`FAMILIES`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each has its help in FAMILIES")]
        pub enum FamilyId {
            $($id,)*
        }

        impl FamilyId {
            /// Every family, in the order of [`FAMILIES`].
            pub const ALL: [Self; FAMILIES.len()] = [$(Self::$id,)*];
        }
    };
}

// In the order of GROUPS.
family_ids! {
    // tcp
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
    ConnectionSize,
    Segments,
    Retransmits,
    EventReceived,
    EventDropped,
    // limits
    SendTime,
    RtoTime,
    SynRetransmits,
    QueuedBytes,
    OutOfOrder,
    Lost,
    EcnCe,
    Connecting,
    ConnectingRetransmits,
    // exchanges
    Exchanges,
    ExchangeDuration,
    // listening
    ListenBacklog,
    ListenLimit,
    ListenDrops,
    AcceptWait,
    // drops
    Drops,
    // dns
    DnsQueries,
    DnsDuration,
    DnsRetries,
    DnsTruncated,
    DnsSearchMisses,
    DnsLookupDuration,
    // findings
    Findings,
    // udp
    UdpIo,
    UdpEgress,
    UdpIngress,
    UdpK8s,
    UdpDatagrams,
    UdpDrops,
    UdpErrors,
    IcmpMessages,
    // rdma
    RdmaBytes,
    RdmaPackets,
    RdmaRetries,
    RdmaCongestion,
    RdmaErrors,
    RdmaCounters,
    RdmaLinkUp,
    RdmaLinkRate,
    RdmaQueuePairs,
}

/// Every family that a window can fill.
pub const FAMILIES: [Definition; COUNT] = {
    let mut all = [Entry::EMPTY.definition(); COUNT];
    let (mut group, mut next) = (0, 0);
    while group < GROUPS.len() {
        let mut place = 0;
        while place < GROUPS[group].len() {
            all[next] = GROUPS[group][place].definition();
            (place, next) = (place + 1, next + 1);
        }
        group += 1;
    }
    all
};

/// A signal's families each, in the order of [`FamilyId`].
const GROUPS: &[&[Entry]] = &[
    tcp::FAMILIES,
    limits::FAMILIES,
    exchanges::FAMILIES,
    listening::FAMILIES,
    drops::FAMILIES,
    dns::FAMILIES,
    findings::FAMILIES,
    udp::FAMILIES,
    rdma::FAMILIES,
];

const COUNT: usize = {
    let (mut group, mut count) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
};

impl FamilyId {
    /// Whether all its series exist from the start and never leave. They are few, and count against no budget.
    pub const fn is_permanent(self) -> bool {
        matches!(self, Self::Totals)
    }

    /// Whether it is filled from readings, and from nothing else.
    pub const fn takes_readings(self) -> bool {
        matches!(
            self,
            Self::RdmaBytes
                | Self::RdmaPackets
                | Self::RdmaRetries
                | Self::RdmaCongestion
                | Self::RdmaErrors
                | Self::RdmaCounters
                | Self::RdmaLinkUp
                | Self::RdmaLinkRate
                | Self::RdmaQueuePairs
        )
    }

    /// The family of this name by the Go exporter's naming.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|id| id.definition().family.name == name)
    }

    /// The family.
    pub const fn definition(self) -> &'static Definition {
        &FAMILIES[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::super::label::Label;
    use super::bounds::{WIDE_RTT_BOUNDS, WIDE_RTT_BOUNDS_SECONDS};
    use super::*;
    use crate::family::{FamilyKind, HISTOGRAM_BUCKETS, Naming};

    #[test]
    fn ids_and_families_stand_in_the_same_order() {
        // The first of each group, and the very last.
        let some = [
            (FamilyId::Totals, "network_tcp_bytes"),
            (FamilyId::Egress, "network_tcp_flow_egress"),
            (FamilyId::Rtt, "network_tcp_flow_rtt"),
            (FamilyId::EventDropped, "bpf_event_chan_drop"),
            (FamilyId::SendTime, "network_tcp_send_time"),
            (FamilyId::Exchanges, "network_tcp_exchanges"),
            (FamilyId::ListenBacklog, "network_tcp_listen_backlog"),
            (FamilyId::Drops, "network_drops"),
            (FamilyId::DnsQueries, "network_dns_queries"),
            (FamilyId::Findings, "network_findings"),
            (FamilyId::UdpIo, "network_udp_io"),
            (FamilyId::IcmpMessages, "network_icmp_messages"),
            (FamilyId::RdmaBytes, "network_rdma_bytes"),
            (FamilyId::RdmaQueuePairs, "network_rdma_queue_pairs"),
        ];
        for (id, name) in some {
            assert_eq!(id.definition().family.name, name);
        }
        assert_eq!(FamilyId::RdmaQueuePairs as usize + 1, FAMILIES.len());
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
                kind if kind.is_histogram() => "histogram",
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

    #[test]
    fn a_help_is_written_once() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catalog/families");
        let mut helps = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let literals = source.split('"').skip(1).step_by(2);
            helps.extend(literals.filter(|text| text.contains(' ')).map(str::to_owned));
        }
        let count = helps.len();
        assert!(count >= FAMILIES.len(), "{count} in {folder}");
        helps.sort_unstable();
        let repeated: Vec<_> = helps.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(repeated.is_empty(), "{repeated:#?}");
    }
}
