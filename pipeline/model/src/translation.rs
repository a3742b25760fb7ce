//! The ends of a connection on the wire, where they are not those of its socket: behind DNAT, masquerading, a proxy.

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;

/// The ends of a connection as the packets that this machine's end sends have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Translation {
    /// Their source.
    pub local: Endpoint,
    /// Their destination.
    pub remote: Endpoint,
}

/// The interface on which the packets of a connection arrive. A recording holds a variant by its position: append new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Arrival {
    /// Not known.
    #[default]
    Unknown,
    /// Loopback: the other end is in the same network namespace.
    Loopback,
    /// Another one.
    Device,
}
