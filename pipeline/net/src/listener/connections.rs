//! The open connections of a listener, and the selection of one to close when there is no room for
//! another.
//!
//! A client that sends nothing costs as much as one that scrapes, so a full listener closes the connection that has waited
//! longest for a complete request. One that has asked and does not read its answer comes next, once it has stalled.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Time for which the reading of a response must have stalled before the connection may be closed
/// in favour of another.
const STALLED: Duration = Duration::from_secs(1);

/// Phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A complete request (or TLS handshake) of its client.
    Idle,
    /// The handler's work.
    Handling,
    /// The client to read its response.
    Responding,
}

/// Why a connection was closed, or not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It had waited longest for a complete request.
    Idle,
    /// Its client did not read the response.
    Stalled,
    /// Every other connection had a request under way.
    Full,
    /// Its peer had its share of the connections, each with a request under way.
    PeerShare,
    /// The remaining descriptors are reserved for measuring.
    Descriptors,
}

impl Reason {
    pub(super) const ALL: [Self; 5] = [
        Self::Idle,
        Self::Stalled,
        Self::Full,
        Self::PeerShare,
        Self::Descriptors,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Full => "full",
            Self::PeerShare => "peer_share",
            Self::Descriptors => "descriptors",
        }
    }
}

/// The part of a client's address that connections are shared out by: a host has a whole IPv6 network of 64 bits to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer(IpAddr);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                Ipv6Addr::from(network).into()
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// One open connection.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    peer: Peer,
    progress: Mutex<(Phase, Instant)>,
    close: CancellationToken,
    all: Connections,
}

impl Connection {
    /// Waits until the listener wants it closed.
    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }

    /// A complete request has come.
    pub(super) fn handling(&self) {
        self.set(Phase::Handling);
    }

    /// The client has read more of its response.
    pub(super) fn responding(&self) {
        self.set(Phase::Responding);
    }

    /// The response is done.
    pub(super) fn idle(&self) {
        self.set(Phase::Idle);
    }

    fn set(&self, phase: Phase) {
        *lock(&self.progress) = (phase, Instant::now());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.all.open).remove(&self.id);
        self.all.gone.notify_one();
    }
}

/// Everything about an open connection that eviction looks at; weak, so that the connection's own task owns it.
type Open = BTreeMap<u64, std::sync::Weak<Connection>>;

/// The open connections. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    open: Arc<Mutex<Open>>,
    /// One has gone.
    gone: Arc<Notify>,
}

impl Connections {
    /// Adds a connection, which `close` (or eviction) closes. `id` must not be in use.
    pub(super) fn add(&self, id: u64, peer: Peer, close: CancellationToken) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            id,
            peer,
            progress: Mutex::new((Phase::Idle, Instant::now())),
            close,
            all: self.clone(),
        });
        lock(&self.open).insert(id, Arc::downgrade(&connection));
        connection
    }

    /// Number of connections, with those that are about to be closed.
    pub(super) fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// Waits until there are fewer than `many`: a connection that is closed keeps its descriptor until its task has ended.
    pub(super) async fn fewer_than(&self, many: usize) {
        while self.len() >= many {
            self.gone.notified().await;
        }
    }

    /// Number of connections of `peer` that are not about to be closed.
    pub(super) fn count(&self, peer: Peer) -> usize {
        let open = self.open();
        let of_peer = open.iter().filter(|connection| connection.peer == peer);
        of_peer
            .filter(|connection| !connection.close.is_cancelled())
            .count()
    }

    fn open(&self) -> Vec<Arc<Connection>> {
        // Upgraded under the lock, dropped after it: the last owner of a connection takes the lock itself.
        let open = lock(&self.open);
        open.values().filter_map(std::sync::Weak::upgrade).collect()
    }

    /// Closes the connection that has been idle longest, else the one whose client has stalled longest, of `peer` alone if it is given;
    /// returns why, or nothing if every connection is at work.
    pub(super) fn evict(&self, now: Instant, peer: Option<Peer>) -> Option<Reason> {
        let open = self.open();
        let waiting = |wanted: Phase| {
            open.iter()
                .filter(|connection| !connection.close.is_cancelled())
                .filter(|connection| peer.is_none_or(|peer| connection.peer == peer))
                .filter_map(move |connection| {
                    let (phase, since) = *lock(&connection.progress);
                    (phase == wanted).then_some((since, connection))
                })
                .min_by_key(|(since, _)| *since)
        };
        if let Some((_, connection)) = waiting(Phase::Idle) {
            connection.close.cancel();
            return Some(Reason::Idle);
        }
        let stalled =
            waiting(Phase::Responding).filter(|(since, _)| now.saturating_duration_since(*since) >= STALLED);
        stalled.map(|(_, connection)| {
            connection.close.cancel();
            Reason::Stalled
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement under these locks leaves the value whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::from(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn the_connection_that_is_idle_longest_goes_first_then_one_that_stalls_and_none_at_work() {
        let all = Connections::default();
        let [a, b, c] = [1, 2, 3].map(|id| all.add(id, peer("192.0.2.1"), CancellationToken::new()));
        a.handling();
        let now = Instant::now();
        assert_eq!(all.evict(now, None), Some(Reason::Idle));
        assert!(b.close.is_cancelled() && !c.close.is_cancelled());
        assert_eq!(all.evict(now, None), Some(Reason::Idle));
        assert!(c.close.is_cancelled());
        drop((b, c));
        assert_eq!(all.evict(now + STALLED * 2, None), None, "a handler is at work");
        a.responding();
        assert_eq!(all.evict(Instant::now(), None), None, "not stalled yet");
        assert_eq!(all.evict(Instant::now() + STALLED, None), Some(Reason::Stalled));
        drop(a);
        assert!(lock(&all.open).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_place_of_a_closed_connection_is_free_once_it_has_gone() {
        let all = Connections::default();
        let [old, _other] = [1, 2].map(|id| all.add(id, peer("192.0.2.1"), CancellationToken::new()));
        let before = all.len();
        assert_eq!(all.evict(Instant::now(), None), Some(Reason::Idle));
        let soon = Duration::from_secs(1);
        let waited = tokio::time::timeout(soon, all.fewer_than(before)).await;
        assert!(waited.is_err(), "it still has its descriptor");
        tokio::spawn(async move { drop(old) });
        let waited = tokio::time::timeout(soon, all.fewer_than(before)).await;
        assert!(waited.is_ok());
    }

    #[test]
    fn of_a_peer_with_its_share_only_its_own_connections_are_closed() {
        let all = Connections::default();
        let [scraper, client] = [peer("192.0.2.1"), peer("192.0.2.2")];
        let older = all.add(1, scraper, CancellationToken::new());
        let newer = all.add(2, client, CancellationToken::new());
        let now = Instant::now();
        assert_eq!((all.count(scraper), all.count(client)), (1, 1));
        assert_eq!(all.evict(now, Some(client)), Some(Reason::Idle));
        assert!(newer.close.is_cancelled() && !older.close.is_cancelled());
        assert_eq!(all.count(client), 0);
        assert_eq!(all.evict(now, Some(client)), None);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_peer_and_a_mapped_one_is_ipv4() {
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:192.0.2.1"), peer("192.0.2.1"));
        assert_ne!(peer("192.0.2.2"), peer("192.0.2.1"));
    }
}
