//! Connections that a firewall rule redirects to a proxy on the same machine (netfilter's REDIRECT, or DNAT to an own address).
//!
//! The application's socket still has the peer's address, and the proxy then connects to the same peer: without care its bytes
//! would count twice. The proxy's accepted socket gives it away: its peer is the application's local end, but its own end is
//! not what the application's socket has as its remote one.
//!
//! ```text
//! application  10.0.0.5:40000 -> 198.51.100.7:80
//! proxy         127.0.0.1:15001 <- 10.0.0.5:40000     accepted
//! proxy        10.0.0.5:40001 -> 198.51.100.7:80      the bytes that reach the peer
//! ```
//!
//! Not seen: TPROXY of a machine's own connections, for there the accepted socket has the peer's address as its own.

use flowtap_pipeline::{Endpoint, Events, Role, TcpRecord};

use super::socket::{is_last, socket_of};
use crate::recent::Recent;

/// Maximum number of accepted connections with a peer on this machine that are kept, and of
/// redirected ones.
const CAPACITY: usize = 1 << 14;

#[derive(Debug)]
pub(super) struct Redirects {
    /// The local end of an accepted connection, by its namespace and its peer's end.
    accepted: Recent<(u32, Endpoint), Endpoint>,
    /// Those that closed in this batch and in the one before. Both ends of a connection close at about the same time, and
    /// their last records may come in two batches.
    closed: [Vec<(u32, Endpoint)>; 2],
    /// Whether a connection that an application opened is redirected. It stays that when the proxy closes its end first.
    redirected: Recent<(u32, u64), ()>,
}

impl Default for Redirects {
    fn default() -> Self {
        Self {
            accepted: Recent::new(CAPACITY),
            closed: Default::default(),
            redirected: Recent::new(CAPACITY),
        }
    }
}

impl Redirects {
    /// Takes the accepted connections of a batch into account, before any other record of it. Returns how many were evicted.
    pub(super) fn learn(&mut self, records: &[TcpRecord]) -> usize {
        for closed in std::mem::take(&mut self.closed[0]) {
            self.accepted.remove(&closed);
        }
        self.closed.swap(0, 1);
        let mut evicted = 0;
        for record in records.iter().filter(|record| is_from_here(record)) {
            let place = (record.flow.netns, record.flow.remote);
            evicted += self.accepted.insert(place, record.flow.local);
            if record.events.contains(Events::CLOSED) && self.closed[1].len() < CAPACITY {
                self.closed[1].push(place);
            }
        }
        evicted
    }

    /// Whether the connection of `record`, of a client, is redirected; with how many entries were evicted.
    pub(super) fn holds(&mut self, record: &TcpRecord) -> (bool, usize) {
        if self.accepted.is_empty() && self.redirected.is_empty() {
            return (false, 0);
        }
        let socket = socket_of(record);
        let (known, mut evicted) = socket.map_or((None, 0), |socket| self.redirected.get(socket));
        let redirected = known.is_some() || {
            let (accepted, more) = self.accepted.get((record.flow.netns, record.flow.local));
            evicted += more;
            accepted.is_some_and(|by| by != record.flow.remote)
        };
        match socket {
            Some(socket) if redirected && is_last(record) => self.redirected.remove(&socket),
            Some(socket) if redirected => evicted += self.redirected.insert(socket, ()),
            _ => {}
        }
        (redirected, evicted)
    }
}

/// Whether it is an accepted connection from the same machine that could be redirected, by its
/// addresses alone: other network namespaces' addresses are not known. REDIRECT makes a connection
/// go to loopback, and a peer on loopback has class `localhost` anyway.
fn is_from_here(record: &TcpRecord) -> bool {
    let (local, remote) = (record.flow.local.addr, record.flow.remote.addr);
    record.flow.role == Role::Server && !remote.is_loopback() && (local.is_loopback() || local == remote)
}
