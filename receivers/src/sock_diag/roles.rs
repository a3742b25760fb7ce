//! The role of a socket whose counters do not show it.

use std::collections::HashSet;

use flowtap_pipeline::node::EphemeralPorts;
use flowtap_pipeline::{Endpoint, Role, RoleSource};

use super::dump::{Dump, Socket};

/// Listeners and connections of one dump.
#[derive(Debug, Default)]
pub(super) struct Roles {
    pub(super) listening: HashSet<u16>,
    /// Ends of all sockets, the local one first.
    ends: HashSet<(Endpoint, Endpoint)>,
    ephemeral: EphemeralPorts,
}

impl Roles {
    pub(super) fn new(found: &Dump, ephemeral: EphemeralPorts) -> Self {
        Self {
            listening: found.listening.iter().copied().collect(),
            ends: found
                .sockets
                .iter()
                .map(|socket| (socket.local, socket.remote))
                .collect(),
            ephemeral,
        }
    }

    /// The role of an open socket: by its counters, else by the ports.
    pub(super) fn of(&self, socket: &Socket) -> (Role, RoleSource) {
        match socket.counters.role() {
            Some(role) => (role, RoleSource::Counters),
            None => self.by_port(socket),
        }
    }

    /// Whether the counters show another role than the listeners. One dump does not decide which is right: the kernel reads a socket's
    /// state before it takes the lock for the counters, so the acknowledgment of a FIN that is sent in between looks like that of a
    /// SYN. Programs that connect from the port that they listen on are as rare.
    pub(super) fn contradict(&self, socket: &Socket) -> bool {
        let by_counters = socket.counters.role();
        let (role, source) = self.by_port(socket);
        source == RoleSource::Listener && by_counters.is_some_and(|by_counters| by_counters != role)
    }

    /// The role by listeners, then by which of the two ports is ephemeral.
    pub(super) fn by_port(&self, socket: &Socket) -> (Role, RoleSource) {
        let (local, remote) = (socket.local, socket.remote);
        if self.listening.contains(&local.port) {
            (Role::Server, RoleSource::Listener)
        } else if self.listening.contains(&remote.port)
            && (remote.addr.is_loopback() || self.ends.contains(&(remote, local)))
        {
            (Role::Client, RoleSource::Listener)
        } else {
            match self.ephemeral.role(local.port, remote.port) {
                Role::Unknown => (Role::Unknown, RoleSource::Assumed),
                role => (role, RoleSource::Ports),
            }
        }
    }
}
