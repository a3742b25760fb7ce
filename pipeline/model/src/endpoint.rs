//! One end of a connection.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One end of a connection.
///
/// ```
/// use std::net::IpAddr;
/// use flowtap_model::Endpoint;
///
/// let mapped: IpAddr = "::ffff:192.0.2.7".parse()?;
/// assert_eq!(Endpoint::new(mapped, 443).to_string(), "192.0.2.7:443");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address, canonical: never IPv4-mapped IPv6.
    pub addr: IpAddr,
    /// The port, in host byte order.
    pub port: u16,
}

impl Endpoint {
    /// An end at `addr` (folded to IPv4 if it is IPv4-mapped) and `port`.
    pub fn new(addr: IpAddr, port: u16) -> Self {
        Self {
            addr: addr.to_canonical(),
            port,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.addr, self.port).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_mapped_address_is_folded_to_ipv4() {
        let mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped();
        let end = Endpoint::new(IpAddr::V6(mapped), 443);
        assert_eq!(end.addr, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(end.to_string(), "192.0.2.7:443");
        assert_eq!(
            Endpoint::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 53).to_string(),
            "[::1]:53"
        );
    }
}
