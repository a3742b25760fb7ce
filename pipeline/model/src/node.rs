//! State of the machine that flowtap runs on, collected and updated by the command line and passed
//! to every component: components read no interfaces and files themselves.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::flow::Role;

/// One address of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAddress {
    /// The interface's name, such as `eth0` or `docker0`.
    pub interface: String,
    /// The address with its prefix length.
    pub network: IpNet,
}

/// This machine's addresses and resolvers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Every address of every interface of the namespace that flowtap runs in.
    pub addresses: Vec<InterfaceAddress>,
    /// The `nameserver` lines of `resolv.conf`.
    pub resolvers: Vec<IpAddr>,
    /// The ports that the kernel gives to clients. No part of the format of recordings that this is in.
    #[serde(skip)]
    pub ephemeral_ports: EphemeralPorts,
    /// Id of this process in the initial pid namespace, as flows have it; 0 if unknown. No part of that format either.
    #[serde(skip)]
    pub own_pid: u32,
}

/// The ports that the kernel gives to a socket that connects without having been bound to one
/// (`net.ipv4.ip_local_port_range`).
///
/// ```
/// use flowtap_model::Role;
/// use flowtap_model::node::EphemeralPorts;
///
/// let ports = EphemeralPorts::default();
/// assert!(ports.contains(50_000));
/// assert_eq!(ports.role(50_000, 443), Role::Client);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EphemeralPorts {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Default for EphemeralPorts {
    /// The kernel's default.
    fn default() -> Self {
        Self {
            first: 32_768,
            last: 60_999,
        }
    }
}

impl EphemeralPorts {
    /// Whether `port` is one of them. A port below 1024 never is, however wide the range: binding to it takes a privilege.
    pub const fn contains(self, port: u16) -> bool {
        port >= 1024 && self.first <= port && port <= self.last
    }

    /// The role of the end at `local`, where just one of the two ports is ephemeral: that end is the client.
    pub const fn role(self, local: u16, remote: u16) -> Role {
        match (self.contains(local), self.contains(remote)) {
            (true, false) => Role::Client,
            (false, true) => Role::Server,
            (true, true) | (false, false) => Role::Unknown,
        }
    }
}
