//! Episodes in which a listener closes connections to stay within its limits: a line of the log at the begin and the end of each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::connections::Reason;

/// An episode of closed connections is over when this has passed since the last one.
const EPISODE: Duration = Duration::from_secs(30);

/// A run of closed connections, logged once at its begin and once at its end.
#[derive(Debug)]
pub(super) struct Episode {
    address: SocketAddr,
    last: Option<Instant>,
    connections: u64,
}

impl Episode {
    pub(super) const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            last: None,
            connections: 0,
        }
    }

    pub(super) fn closed(&mut self, reason: Reason) {
        if self.last.replace(Instant::now()).is_none() {
            let (address, reason) = (self.address, reason.as_str());
            tracing::warn!(
                %address,
                reason,
                "a listener is at its limit of connections: those without a request are closed; \
                 flowtap_listener_closed_connections_total counts them; \
                hint: raise its `max_connections`, or find the client that leaves connections idle"
            );
        }
        self.connections += 1;
    }

    pub(super) fn tick(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() >= EPISODE) {
            let (address, connections) = (self.address, self.connections);
            tracing::info!(%address, connections, "a listener is below its limit of connections again");
            *self = Self::new(self.address);
        }
    }
}
