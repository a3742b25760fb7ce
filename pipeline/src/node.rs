//! What flowtap knows of the machine it runs on, gathered and kept up to date by the command line and handed to every
//! component: components read no interfaces and no files of their own.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
}
