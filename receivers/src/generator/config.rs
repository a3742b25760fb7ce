//! The config of the receiver `generator`.

use std::net::Ipv4Addr;
use std::time::Duration;

use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{ComponentConfig, Contract, RecordField, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most peers, and with them the most flows.
pub(super) const MAX_PEERS: u32 = 10_000_000;

/// Number of addresses in 198.18.0.0/15.
pub(super) const MAX_ADDRESSES: u32 = 1 << 17;

/// This side: an address for documentation (RFC 5737).
const LOCAL_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Peers: addresses for benchmarks, 198.18.0.0/15 (RFC 2544).
const FIRST_PEER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// Most names that DNS queries can ask for.
const MAX_NAMES: u32 = 1_000_000;

/// Most payload bytes of a UDP datagram over IPv4 (RFC 768).
const MAX_DATAGRAM_BYTES: u32 = 65_507;

/// Number of ports from 443 on.
pub(super) const PORTS: u32 = 65_536 - 443;

/// Settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Number of connections that are open at a time, each to a separate peer: from 1 to
    /// 10,000,000.
    pub flows: u32,
    /// Number of peers that new connections go to in turn: from `flows` to 10,000,000. Unset: as
    /// many as `flows`, so that churn makes no new series.
    pub peers: Option<u32>,
    /// Interval at which flows move bytes. At least 100 ms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Number of intervals after which no more bytes move; open connections stay open. At least 1.
    /// Unset: no limit.
    pub max_intervals: Option<u64>,
    /// Number of flows that move bytes in an interval, all in turn: at most `flows`. Unset: all.
    pub active_per_interval: Option<u32>,
    /// Number of connections that close in an interval, and of those that open: at most `flows`.
    pub churn_per_interval: u32,
    /// Bytes that an active flow sends in an interval.
    pub sent_bytes: u32,
    /// Bytes that an active flow receives in an interval.
    pub received_bytes: u32,
    /// Number of addresses that the IPv4 peers share: from 1 to 131,072. Peers of the same address
    /// differ by the service's port, of which there are 65,093 for each.
    pub addresses: u32,
    /// The first of the addresses of IPv4 peers. The others follow it.
    pub first_peer_address: Ipv4Addr,
    /// IPv4 address of this side. Two generators, each with the other's address as its peer and the
    /// other's role, report both ends of the same connections.
    pub local_address: Ipv4Addr,
    /// Share of the peers with an IPv6 address, each a different one: from 0 to 1.
    pub ipv6_share: f64,
    /// Share of the peers with role ingress; the others have egress. From 0 to 1.
    pub server_share: f64,
    /// DNS transactions of an interval: of types A and AAAA in turn, every 20th with NXDOMAIN and every 100th without an answer.
    pub dns_queries_per_interval: u32,
    /// Names that these ask for in turn, `host0.example.com` and so on: at most 1,000,000. 0: the records have no names.
    pub dns_names: u32,
    /// Number of UDP flows that are open at a time, each of a separate socket to a separate peer: at most 10,000,000. All of
    /// them move datagrams in each interval.
    pub udp_flows: u32,
    /// Number of UDP flows that end in an interval, and of those that begin: at most `udp_flows`. They begin with the peers of
    /// those that ended.
    pub udp_churn_per_interval: u32,
    /// Datagrams that a UDP flow sends in an interval, and as many that it receives.
    pub udp_datagrams: u32,
    /// Payload bytes of each datagram: at most 65,507.
    pub udp_datagram_bytes: u32,
    /// Dropped packets of an interval, by five reasons in turn.
    pub dropped_packets_per_interval: u32,
    /// Seed for the order of peers and their round-trip times. The same seed produces the same
    /// records; sums don't depend on it.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            flows: 1000,
            peers: None,
            interval: Duration::from_secs(1),
            max_intervals: None,
            active_per_interval: None,
            churn_per_interval: 0,
            sent_bytes: 1000,
            received_bytes: 10_000,
            addresses: MAX_ADDRESSES,
            first_peer_address: FIRST_PEER_ADDRESS,
            local_address: LOCAL_ADDRESS,
            ipv6_share: 0.0,
            server_share: 0.5,
            dns_queries_per_interval: 0,
            dns_names: 0,
            udp_flows: 0,
            udp_churn_per_interval: 0,
            udp_datagrams: 10,
            udp_datagram_bytes: 1200,
            dropped_packets_per_interval: 0,
            seed: 0,
        }
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        let contract = Contract::default().fills([RecordField::Process]);
        if self.dns_names > 0 {
            contract.fills([RecordField::DnsName])
        } else {
            contract
        }
    }

    fn validate(&self) -> Vec<Violation> {
        let flows = self.flows;
        let active = self.active_per_interval.unwrap_or(flows);
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        let at_most = || format!("must be at most `flows`, {flows}");
        let share = || "must be from 0 to 1".to_owned();
        let most_peers = self.peers.unwrap_or(flows).max(self.udp_flows);
        let fewest = most_peers.div_ceil(PORTS).max(1);
        let rules = [
            (
                (1..=MAX_PEERS).contains(&flows),
                "flows",
                format!("must be from 1 to {MAX_PEERS}"),
            ),
            (
                self.peers
                    .is_none_or(|peers| (flows..=MAX_PEERS).contains(&peers)),
                "peers",
                format!("must be from `flows`, {flows}, to {MAX_PEERS}"),
            ),
            (
                self.interval >= Duration::from_millis(100),
                "interval",
                "must be at least 100ms".to_owned(),
            ),
            (
                self.max_intervals != Some(0),
                "max_intervals",
                "must be at least 1".to_owned(),
            ),
            (active <= flows, "active_per_interval", at_most()),
            (self.churn_per_interval <= flows, "churn_per_interval", at_most()),
            (
                (fewest..=MAX_ADDRESSES).contains(&self.addresses),
                "addresses",
                format!("must be from {fewest}, required by the number of peers, to {MAX_ADDRESSES}"),
            ),
            (
                self.first_peer_address
                    .to_bits()
                    .checked_add(self.addresses.saturating_sub(1))
                    .is_some(),
                "first_peer_address",
                format!(
                    "must leave room for `addresses`, {}, before 255.255.255.255",
                    self.addresses
                ),
            ),
            (
                self.dns_names <= MAX_NAMES,
                "dns_names",
                format!("must be at most {MAX_NAMES}"),
            ),
            (
                self.udp_flows <= MAX_PEERS,
                "udp_flows",
                format!("must be at most {MAX_PEERS}"),
            ),
            (
                self.udp_churn_per_interval <= self.udp_flows,
                "udp_churn_per_interval",
                format!("must be at most `udp_flows`, {}", self.udp_flows),
            ),
            (
                self.udp_datagram_bytes <= MAX_DATAGRAM_BYTES,
                "udp_datagram_bytes",
                format!("must be at most {MAX_DATAGRAM_BYTES}"),
            ),
            (is_share(self.ipv6_share), "ipv6_share", share()),
            (is_share(self.server_share), "server_share", share()),
        ];
        let broken = rules.into_iter().filter(|(holds, ..)| !holds);
        broken
            .map(|(_, key, message)| Violation::new(key, message))
            .collect()
    }
}
