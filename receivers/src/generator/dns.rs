//! Which DNS transactions there are. As with flows all of it is arithmetic.

use std::net::Ipv4Addr;
use std::sync::Arc;

use flowtap_pipeline::flow::Transport;
use flowtap_pipeline::{DnsAnswer, DnsOutcome, DnsRecord, Endpoint, Flow, Role, RoleSource, Timestamp};

use super::config::Config;

/// The name server: an address for documentation (RFC 5737).
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);

/// The port of name servers.
const DNS_PORT: u16 = 53;

/// The first port of the side that asks, and how many there are.
const EPHEMERAL_PORT: u16 = 32_768;
const EPHEMERAL_PORTS: u64 = 28_232;

/// The types A and AAAA, as IANA numbers them.
const TYPES: [u16; 2] = [1, 28];

/// NXDOMAIN.
const NXDOMAIN: u16 = 3;

/// Of so many queries one has no answer, and of so many one asks for a name that does not exist.
pub(super) const LOST: u64 = 100;
pub(super) const MISSING: u64 = 20;

/// Time to live of an answer, in seconds.
const TTL: u32 = 60;

/// The transactions of a config.
#[derive(Clone, Debug)]
pub(super) struct Queries {
    per_interval: u64,
    names: u64,
    client: Ipv4Addr,
}

impl Queries {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            per_interval: config.dns_queries_per_interval.into(),
            names: config.dns_names.into(),
            client: config.local_address,
        }
    }

    /// Transactions of the interval `index`, from 0 on, which ended `at`.
    pub(super) fn interval(&self, index: u64, at: Timestamp) -> impl Iterator<Item = DnsRecord> {
        let first = index * self.per_interval;
        (first..first + self.per_interval).map(move |query| self.query(query, at))
    }

    fn query(&self, query: u64, at: Timestamp) -> DnsRecord {
        let port = EPHEMERAL_PORT + u16::try_from(query % EPHEMERAL_PORTS).unwrap_or_default();
        let flow = Flow {
            transport: Transport::Udp,
            role: Role::Client,
            role_source: RoleSource::Message,
            comm: *b"generator\0\0\0\0\0\0\0",
            ..Flow::new(
                Endpoint::new(self.client.into(), port),
                Endpoint::new(SERVER.into(), DNS_PORT),
            )
        };
        let outcome = if query % LOST == LOST - 1 {
            DnsOutcome::TimedOut
        } else if query % MISSING == MISSING - 1 {
            DnsOutcome::Answered(NXDOMAIN)
        } else {
            DnsOutcome::Answered(0)
        };
        let is_answered = outcome != DnsOutcome::TimedOut;
        // Number of the name, where there are names.
        let name: Option<Arc<str>> = query
            .checked_rem(self.names)
            .map(|name| format!("host{name}.example.com").into());
        let is_named = outcome == DnsOutcome::Answered(0);
        let host = query.checked_rem(self.names).unwrap_or_default();
        DnsRecord {
            latency_us: if is_answered {
                500 + u32::try_from(query % 1000).unwrap_or_default()
            } else {
                0
            },
            retries: u32::from(!is_answered),
            query_bytes: 40,
            answer_bytes: if is_answered { 56 } else { 0 },
            at,
            qname: name.clone(),
            answer: name.filter(|_| is_named).map(|name| DnsAnswer {
                name,
                addresses: vec![(peer(host).into(), TTL)],
            }),
            ..DnsRecord::new(flow, TYPES[usize::from(query % 2 == 1)], outcome)
        }
    }
}

/// The address of a name: those of the generator's IPv4 peers, in turn.
fn peer(host: u64) -> Ipv4Addr {
    let host = u32::try_from(host % u64::from(super::config::MAX_ADDRESSES)).unwrap_or_default();
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + host)
}
