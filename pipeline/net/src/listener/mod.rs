//! The HTTP listener of scrapes, of the admin endpoints and of the daemon's own metrics: bounded whatever its clients do.
//!
//! In: connections. Out: what the routes answer. The rules:
//!
//! 1. HTTP/1 only, over TLS if set by the config; a request's head has 16 KiB and a time limit.
//! 2. A connection more than `max_connections` takes the place of the one that has been idle longest ([`connections`]).
//! 3. One client address has at most half of the connections; a further one replaces another of the
//!    same address.
//! 4. A client that does not read is cut off by the kernel (`TCP_USER_TIMEOUT`).
//! 5. The last descriptors of the process are left to the receivers.
//! 6. On the loopback interface, `Host` must be an address, `localhost` or a configured name ([`AllowedHosts`]).
//! 7. Every connection that is closed for one of these reasons is counted; the log has a line per episode.

mod connections;
mod episode;
mod hosts;
mod service;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::server::graceful::GracefulShutdown;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::connections::{Connections, Peer, Reason};
use self::episode::Episode;
pub use self::hosts::AllowedHosts;
use self::service::Service;
use crate::tls::ListenerTls;

/// Connections that a listener holds at a time, unless its config has another number.
pub const MAX_CONNECTIONS: usize = 64;

/// Time for which a request or the reading of a response may stall, unless the config has another.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The part of a listener's connections that one client address may have: one in so many.
const PEER_SHARE: usize = 2;

/// Delay after a failed accept, such as for want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Interval at which certificates and authorities are checked for renewal, and episodes for their end.
const TICK: Duration = Duration::from_secs(2);

/// Time that requests under way may take to end when flowtap stops.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Descriptors that no listener takes, as long as the limit has so many: a receiver needs a few for each scan.
const RESERVED_DESCRIPTORS: u64 = 32;

/// Counts the connections that a listener closed to stay within its bounds.
#[derive(Clone, Debug)]
pub struct ClosedConnections {
    counter: Counter<u64>,
    listener: KeyValue,
}

impl ClosedConnections {
    /// For the listener `name`, such as `service/admin`; every reason stands at 0 from the start.
    pub fn new(meter: &Meter, name: &str) -> Self {
        let closed = Self {
            counter: meter
                .u64_counter("listener_closed_connections")
                .with_description(
                    "Connections closed or not accepted by a listener to stay within its limits, by reason.",
                )
                .with_unit("{connection}")
                .build(),
            listener: KeyValue::new("listener", name.to_owned()),
        };
        for reason in Reason::ALL {
            closed.add(0, reason);
        }
        closed
    }

    fn add(&self, connections: u64, reason: Reason) {
        let attributes = [self.listener.clone(), KeyValue::new("reason", reason.as_str())];
        self.counter.add(connections, &attributes);
    }
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<ListenerTls>,
    hosts: AllowedHosts,
    max_connections: usize,
    timeout: Duration,
    closed: ClosedConnections,
}

fn has_no_ipv6(error: &io::Error) -> bool {
    let missing = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|code| missing.contains(&code))
}

impl Listener {
    /// Binds `address`.
    ///
    /// # Errors
    /// The system's, such as for an address in use.
    pub async fn bind(address: SocketAddr, closed: ClosedConnections) -> io::Result<Self> {
        let socket = match TcpListener::bind(address).await {
            // `:PORT` is every address. A kernel without IPv6 has those of IPv4.
            Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && has_no_ipv6(&error) => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await?
            }
            bound => bound?,
        };
        let address = socket.local_addr()?;
        Ok(Self {
            socket,
            address,
            tls: None,
            hosts: AllowedHosts::default(),
            max_connections: MAX_CONNECTIONS,
            timeout: TIMEOUT,
            closed,
        })
    }

    /// Serves over TLS.
    #[must_use]
    pub fn tls(self, tls: ListenerTls) -> Self {
        Self {
            tls: Some(tls),
            ..self
        }
    }

    /// Sets the names that `Host` may have.
    #[must_use]
    pub fn hosts(self, hosts: AllowedHosts) -> Self {
        Self { hosts, ..self }
    }

    /// Sets how many connections there may be at a time, and how long one may stall.
    #[must_use]
    pub fn limits(self, max_connections: usize, timeout: Duration) -> Self {
        Self {
            max_connections,
            timeout,
            ..self
        }
    }

    /// Returns the bound address: the port is the kernel's choice if port 0 was asked for.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `routes` until `stop` is cancelled, and a moment longer for requests under way.
    pub async fn serve(self, routes: Router, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.max_connections));
        let connections = Connections::default();
        let (mut graceful, mut draining) = (GracefulShutdown::new(), JoinSet::new());
        let close_all = CancellationToken::new();
        let mut episode = Episode::new(self.address);
        let mut ticks = tokio::time::interval(TICK);
        let mut starved = false;
        for id in 0.. {
            let accepted = loop {
                tokio::select! {
                    () = stop.cancelled() => break None,
                    _ = ticks.tick() => {
                        self.refresh_certificate();
                        if self.refresh_authorities() {
                            // Their clients were checked with the authorities before, which may have been revoked: each ends with
                            // the request that it is at.
                            draining.spawn(std::mem::take(&mut graceful).shutdown());
                        }
                        while draining.try_join_next().is_some() {}
                        episode.tick();
                    }
                    accepted = self.socket.accept() => break Some(accepted),
                }
            };
            let Some(accepted) = accepted else { break };
            let (stream, peer) = match accepted {
                Ok((stream, peer)) => (stream, Peer::from(peer.ip())),
                Err(error) => {
                    if !std::mem::replace(&mut starved, true) {
                        tracing::warn!(address = %self.address, %error, "connections can't be accepted; they wait in the backlog; hint: raise LimitNOFILE= of the unit or ulimits of the container, if descriptors ran out");
                    }
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            if std::mem::take(&mut starved) {
                tracing::info!(address = %self.address, "connections are accepted again");
            }
            let permit = match self.admit((&stream, peer), &permits, &connections, &mut episode) {
                Admission::Admitted(permit) => permit,
                Admission::Rejected => continue,
                Admission::Evicting(permit) => match stop.run_until_cancelled(permit).await {
                    Some(Ok(permit)) => permit,
                    _ => break,
                },
            };
            // A client that does not read leaves its window shut; the kernel ends such a connection by itself.
            if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(self.timeout)) {
                tracing::debug!(%error, "no time limit on a connection");
            }
            let connection = connections.add(id, peer, close_all.child_token());
            let hosts = self.guards(&stream).then(|| self.hosts.clone());
            let acceptor = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.config()));
            let (routes, timeout) = (routes.clone(), self.timeout);
            let watcher = graceful.watcher();
            let service = Service {
                routes,
                hosts,
                connection,
            };
            tokio::spawn(service.run(stream, acceptor, timeout, watcher, permit));
        }
        draining.spawn(graceful.shutdown());
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, draining.join_all()).await;
        close_all.cancel();
    }

    /// Decides whether `stream` gets a place, and makes room for it if another connection may go.
    fn admit(
        &self,
        (stream, peer): (&TcpStream, Peer),
        permits: &Arc<Semaphore>,
        connections: &Connections,
        episode: &mut Episode,
    ) -> Admission {
        let before = connections.len();
        let is_reserved = is_reserved(stream);
        if is_reserved {
            // The new one may stay once another has left: the number of open descriptors is what counts.
            let reason = connections.evict(Instant::now(), None);
            self.closed.add(1, reason.unwrap_or(Reason::Descriptors));
            episode.closed(Reason::Descriptors);
            if reason.is_none() {
                return Admission::Rejected;
            }
        }
        if connections.count(peer) >= self.max_connections.div_ceil(PEER_SHARE) {
            let reason = connections.evict(Instant::now(), Some(peer));
            self.closed.add(1, reason.unwrap_or(Reason::PeerShare));
            episode.closed(Reason::PeerShare);
            if reason.is_none() {
                return Admission::Rejected;
            }
        }
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            if !is_reserved {
                return Admission::Admitted(permit);
            }
            let connections = connections.clone();
            let gone = async move {
                connections.fewer_than(before).await;
                Ok(permit)
            };
            return Admission::Evicting(gone.boxed());
        }
        let reason = connections.evict(Instant::now(), None);
        self.closed.add(1, reason.unwrap_or(Reason::Full));
        episode.closed(reason.unwrap_or(Reason::Full));
        match reason {
            Some(_) => Admission::Evicting(Arc::clone(permits).acquire_owned().boxed()),
            None => Admission::Rejected,
        }
    }

    /// Whether `Host` is checked on this connection: it came over the loopback interface, and without TLS, whose certificate
    /// already binds the name.
    fn guards(&self, stream: &TcpStream) -> bool {
        let is_local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        self.tls.is_none() && stream.local_addr().is_ok_and(is_local)
    }

    fn refresh_certificate(&self) {
        if let Some(tls) = &self.tls {
            match tls.refresh_certificate() {
                Ok(true) => tracing::info!("a new certificate is served"),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "the previous certificate stays in use; hint: make tls.cert_file and tls.key_file readable for flowtap, and check that they fit together");
                }
            }
        }
    }

    /// Returns whether clients are checked with other authorities from now on.
    fn refresh_authorities(&self) -> bool {
        let Some(tls) = &self.tls else { return false };
        match tls.refresh_authorities() {
            Ok(true) => {
                tracing::info!(
                    "clients are checked with new authorities; connections that were accepted before are closed"
                );
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(%error, "the previous authorities of clients stay in use; hint: make tls.client_ca_file readable for flowtap, with their certificates in PEM");
                false
            }
        }
    }
}

/// Whether a new connection has a place.
enum Admission {
    Admitted(OwnedSemaphorePermit),
    /// Once the evicted connection's task has returned its permit, or its descriptor if these run out, which it does as soon as it
    /// is scheduled: so neither exceeds its limit.
    Evicting(BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>),
    Rejected,
}

/// Whether `stream` has one of the last descriptors. The kernel hands out the lowest free number, so that many are open.
fn is_reserved(stream: &TcpStream) -> bool {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return false;
    };
    let first = limit.saturating_sub(RESERVED_DESCRIPTORS.min(limit / 4));
    u64::try_from(stream.as_raw_fd()).is_ok_and(|descriptor| descriptor >= first)
}

#[cfg(test)]
mod tests;
