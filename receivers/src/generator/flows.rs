//! Which connections there are, and what each does when. All of it is arithmetic: nothing is kept per connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowtap_pipeline::{Endpoint, Events, Flow, Role, RoleSource, TcpRecord};

use super::config::Config;

/// This side: an address for documentation (RFC 3849).
const LOCAL_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Peers: addresses for benchmarks, `2001:2::/48` (RFC 5180).
const PEERS_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0);

/// The port of the side that serves; peers beyond the addresses have the next ones.
const SERVICE_PORT: u16 = 443;

/// The first port of the side that connects, and how many there are: Linux's `ip_local_port_range`.
const EPHEMERAL_PORT: u16 = 32_768;
const EPHEMERAL_PORTS: u64 = 28_232;

/// Round-trip times in µs, from the first on: over all of the histogram's buckets.
const RTT_US: u32 = 40;
const RTT_RANGE_US: u64 = 12_000;

/// Payload of a segment with timestamps on Ethernet.
const SEGMENT_BYTES: u32 = 1448;

/// The kernel's numbers of the states ESTABLISHED and CLOSE (`include/net/tcp_states.h`).
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;

/// The connections of a config.
#[derive(Clone, Debug)]
pub(super) struct Flows {
    /// Number of connections that are open at a time.
    open: u64,
    peers: u64,
    /// Number of addresses that the other peers share, and the first of them.
    addresses: u64,
    first_peer: Ipv4Addr,
    /// Address of this side by IPv4.
    local: Ipv4Addr,
    /// Peers by IPv6.
    ipv6: u64,
    /// Peers that this side serves.
    servers: u64,
    active: u64,
    churn: u64,
    sent_bytes: u32,
    received_bytes: u32,
    interval_us: u64,
    seed: u64,
    /// Peer n of the order in which they come is the number `n * stride + offset` of all.
    stride: u64,
    offset: u64,
}

/// The other side of a connection.
struct Peer {
    index: u64,
    local: IpAddr,
    addr: IpAddr,
    /// Port of the server.
    port: u16,
    role: Role,
    rtt_us: u32,
}

impl Flows {
    /// The connections of `config`, which is valid.
    pub(super) fn new(config: &Config) -> Self {
        let peers = config.peers.unwrap_or(config.flows).max(1);
        Self {
            open: u64::from(config.flows.max(1)),
            peers: u64::from(peers),
            addresses: config.addresses.max(1).into(),
            first_peer: config.first_peer_address,
            local: config.local_address,
            ipv6: share_of(peers, config.ipv6_share),
            servers: share_of(peers, config.server_share),
            active: u64::from(config.active_per_interval.unwrap_or(config.flows)),
            churn: u64::from(config.churn_per_interval),
            sent_bytes: config.sent_bytes,
            received_bytes: config.received_bytes,
            interval_us: u64::try_from(config.interval.as_micros()).unwrap_or(u64::MAX),
            seed: config.seed,
            stride: stride(u64::from(peers)),
            offset: mix(config.seed) % u64::from(peers),
        }
    }

    /// Records of the start: every connection opens.
    pub(super) fn opening(&self) -> impl Iterator<Item = TcpRecord> {
        (0..self.open).map(|connection| self.opened(connection, 0))
    }

    /// Records of the interval `index`, from 0 on: bytes that move; then closing connections, each
    /// followed by the one that opens instead.
    pub(super) fn interval(&self, index: u64) -> impl Iterator<Item = TcpRecord> {
        let closed = index * self.churn;
        let now = index + 1;
        let moved = (0..self.active).map(move |place| {
            // The open connections are numbers in a row, `open` of them, so one has this remainder.
            let turn = index * self.active + place;
            let ahead = (turn % self.open + self.open - closed % self.open) % self.open;
            self.moved(closed + ahead, now)
        });
        let churned = (closed..closed + self.churn)
            .flat_map(move |oldest| [self.closed(oldest, now), self.opened(oldest + self.open, now)]);
        moved.chain(churned)
    }

    /// Records of a census after `intervals`: every connection that is open.
    pub(super) fn census(&self, intervals: u64) -> impl Iterator<Item = TcpRecord> {
        let closed = intervals * self.churn;
        (closed..closed + self.open).map(move |connection| TcpRecord {
            events: Events::OPEN,
            ..self.record(connection, intervals)
        })
    }

    /// The ends, role and process of a connection.
    pub(super) fn flow(&self, connection: u64) -> Flow {
        let peer = self.peer(connection);
        self.flow_to(&peer, connection)
    }

    fn flow_to(&self, peer: &Peer, connection: u64) -> Flow {
        // Another one for each connection to a peer, as for one that connects anew.
        let ephemeral =
            EPHEMERAL_PORT + remainder::<u16>(connection / self.peers + peer.index, EPHEMERAL_PORTS);
        let (local, remote) = if peer.role == Role::Server {
            (peer.port, ephemeral)
        } else {
            (ephemeral, peer.port)
        };
        Flow {
            cookie: connection + 1,
            role: peer.role,
            role_source: RoleSource::Handshake,
            comm: *b"generator\0\0\0\0\0\0\0",
            ..Flow::new(Endpoint::new(peer.local, local), Endpoint::new(peer.addr, remote))
        }
    }

    fn opened(&self, connection: u64, now: u64) -> TcpRecord {
        TcpRecord {
            events: Events::OPENED,
            ..self.record(connection, now)
        }
    }

    fn moved(&self, connection: u64, now: u64) -> TcpRecord {
        TcpRecord {
            sent_bytes: self.sent_bytes.into(),
            received_bytes: self.received_bytes.into(),
            sent_segments: self.sent_bytes.div_ceil(SEGMENT_BYTES).into(),
            received_segments: self.received_bytes.div_ceil(SEGMENT_BYTES).into(),
            ..self.record(connection, now)
        }
    }

    fn closed(&self, connection: u64, now: u64) -> TcpRecord {
        TcpRecord {
            events: Events::CLOSED,
            state: CLOSE,
            ..self.record(connection, now)
        }
    }

    /// The connection as it is when `now` intervals are over.
    fn record(&self, connection: u64, now: u64) -> TcpRecord {
        let peer = self.peer(connection);
        let age = now.saturating_sub(self.opened_after(connection));
        TcpRecord {
            rtt_us: peer.rtt_us,
            min_rtt_us: peer.rtt_us,
            cwnd: 10,
            state: ESTABLISHED,
            handshake_us: if peer.role == Role::Client { peer.rtt_us } else { 0 },
            age_us: age.saturating_mul(self.interval_us),
            ..TcpRecord::new(self.flow_to(&peer, connection))
        }
    }

    /// Number of intervals that were over when it opened.
    fn opened_after(&self, connection: u64) -> u64 {
        let replaced = connection.checked_sub(self.open);
        replaced.map_or(0, |replaced| replaced / self.churn.max(1) + 1)
    }

    /// The first numbers are those by IPv6; those that are served are spread over all.
    fn peer(&self, connection: u64) -> Peer {
        let index = (connection % self.peers * self.stride + self.offset) % self.peers;
        let (local, addr, port) = if index < self.ipv6 {
            let addr = Ipv6Addr::from_bits(PEERS_IPV6.to_bits() + u128::from(index));
            (LOCAL_IPV6.into(), addr.into(), SERVICE_PORT)
        } else {
            let index = index - self.ipv6;
            let addr = self
                .first_peer
                .to_bits()
                .saturating_add(remainder(index, self.addresses));
            let round: u16 = remainder(index / self.addresses, u64::from(u16::MAX));
            let addr = Ipv4Addr::from_bits(addr);
            (self.local.into(), addr.into(), SERVICE_PORT + round)
        };
        let served_below = |index: u64| index * self.servers / self.peers;
        Peer {
            index,
            local,
            addr,
            port,
            role: if served_below(index + 1) > served_below(index) {
                Role::Server
            } else {
                Role::Client
            },
            rtt_us: RTT_US + remainder::<u32>(mix(self.seed ^ mix(index)), RTT_RANGE_US),
        }
    }
}

/// A share of `peers`, rounded.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is from 0 to 1"
)]
fn share_of(peers: u32, share: f64) -> u64 {
    (f64::from(peers) * share).round() as u64
}

/// A stride that comes past all of `peers`, near the golden section: any run of peers is spread over all.
fn stride(peers: u64) -> u64 {
    let prime_to = |stride: &u64| gcd(*stride, peers) == 1;
    (peers * 618 / 1000..peers).find(prime_to).unwrap_or(1)
}

const fn gcd(mut one: u64, mut other: u64) -> u64 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// The finalizer of `SplitMix64` (Steele, Lea and Flood, 2014): numbers in a row come out as if by chance.
const fn mix(index: u64) -> u64 {
    let index = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let index = (index ^ (index >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let index = (index ^ (index >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    index ^ (index >> 31)
}

/// `index` modulo `bound`, which fits into `T`.
fn remainder<T: TryFrom<u64> + Default>(index: u64, bound: u64) -> T {
    T::try_from(index % bound).unwrap_or_default()
}
