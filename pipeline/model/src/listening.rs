//! Listening sockets: how many connections wait to be accepted, and how many were dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;
use crate::flow::Flow;

/// A listening socket at one moment, and what it has dropped since its last record.
///
/// ```
/// use std::net::Ipv4Addr;
/// use flowtap_model::{Endpoint, ListeningRecord};
///
/// let local = Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), 443);
/// let record = ListeningRecord::new(local);
/// assert_eq!(record.flow.local.port, 443);
/// assert_eq!(record.wait_us, None);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListeningRecord {
    /// The socket and its process. Its `remote` is the unspecified address, and has no class.
    pub flow: Flow,
    /// Connections that wait to be accepted.
    pub backlog: u32,
    /// Connections that may wait; above it the queue is full.
    pub limit: u32,
    /// Connections that it dropped since its last record.
    pub drops: u64,
    /// Microseconds for which the first of the queue has waited; 0 if none waits, `None` if that can't be read.
    pub wait_us: Option<u32>,
    /// It listens no more; its queue is empty.
    pub closed: bool,
    /// It listened before the receiver looked for the first time, so what it has dropped until then is not counted.
    pub adopted: bool,
}

impl ListeningRecord {
    /// A socket that listens on `local`, with an empty queue.
    pub const fn new(local: Endpoint) -> Self {
        let nobody = match local.addr {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            flow: Flow::new(
                local,
                Endpoint {
                    addr: nobody,
                    port: 0,
                },
            ),
            backlog: 0,
            limit: 0,
            drops: 0,
            wait_us: None,
            closed: false,
            adopted: false,
        }
    }
}
