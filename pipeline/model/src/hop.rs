//! Facts about a flow from the ends of its connection on the wire: the end that stands behind the peer's address, and the part of a
//! connection in the way through a proxy.

use std::net::IpAddr;

use crate::endpoint::Endpoint;
use crate::flow::{Flow, Role, Transport};
use crate::translation::Arrival;

/// A connection's part in the way through a proxy on the same machine.
///
/// ```text
/// application  10.0.0.5:40000 -> 198.51.100.7:80     to_proxy          arrives at 127.0.0.1:15001
/// proxy         127.0.0.1:15001 <- 10.0.0.5:40000    from_application
/// proxy        10.0.0.5:40001 -> 198.51.100.7:80     none: the bytes that reach the peer
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// An application's connection that was redirected to a proxy in its network namespace.
    ToProxy,
    /// The proxy's end of such a connection.
    FromApplication,
    /// A proxy's end of a connection from elsewhere that was redirected to it.
    AtProxy,
    /// Both ends are in one network namespace.
    Loopback,
}

impl Hop {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ToProxy => "to_proxy",
            Self::FromApplication => "from_application",
            Self::AtProxy => "at_proxy",
            Self::Loopback => "loopback",
        }
    }

    /// Whether its bytes do not leave the network namespace.
    pub const fn is_local(self) -> bool {
        !matches!(self, Self::AtProxy)
    }
}

impl Flow {
    /// The end that the peer's address stands for, if it is known to be another one: the pod behind a service address, or the
    /// client behind a masquerade.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use flowtap_model::{Endpoint, Flow, Translation};
    ///
    /// let end = |last, port| Endpoint::new([10, 0, 0, last].into(), port);
    /// let mut flow = Flow::new(end(1, 40_000), end(200, 80));
    /// assert_eq!(flow.backend(), None);
    /// flow.translation = Some(Arc::new(Translation { local: end(1, 40_000), remote: end(7, 8080) }));
    /// assert_eq!(flow.backend(), Some(end(7, 8080)));
    /// ```
    pub fn backend(&self) -> Option<Endpoint> {
        let remote = self.translation.as_ref()?.remote;
        // A connection that was redirected to this machine's proxy has a peer that only the proxy knows.
        (remote != self.remote && !remote.addr.is_loopback()).then_some(remote)
    }

    /// The end that the peer knows as this one, if it is known to be another one: the service address that a client connected to,
    /// or the address that a masquerade gave to this client.
    pub fn frontend(&self) -> Option<Endpoint> {
        let local = self.translation.as_ref()?.local;
        (local != self.local).then_some(local)
    }

    /// The part of a TCP connection in the way through a proxy; `None` if it is known to have none, or if nothing is known.
    pub fn hop(&self) -> Option<Hop> {
        if self.transport != Transport::Tcp {
            return None;
        }
        let (local, remote) = (self.local.addr, self.remote.addr);
        let is_here = |addr: IpAddr| addr.is_loopback() || addr == local;
        if let Some(translation) = &self.translation {
            match (is_here(remote), is_here(translation.remote.addr)) {
                (false, true) => return Some(Hop::ToProxy),
                // A port on loopback behind which is another machine.
                (true, false) => return None,
                _ => {}
            }
        }
        let is_redirected = self.frontend().is_some();
        match self.arrival {
            Arrival::Device => {
                let frontend = self.frontend()?;
                (frontend.addr == local).then_some(Hop::AtProxy)
            }
            _ if local.is_loopback() && !remote.is_loopback() => Some(Hop::FromApplication),
            _ if is_here(remote) && is_redirected => Some(Hop::FromApplication),
            _ if is_here(remote) => Some(Hop::Loopback),
            Arrival::Loopback if self.role == Role::Server => Some(Hop::Loopback),
            Arrival::Loopback => Some(Hop::ToProxy),
            Arrival::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::translation::Translation;

    fn end(text: &str) -> Endpoint {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint::new(address.ip(), address.port())
    }

    fn flow(local: &str, remote: &str, arrival: Arrival, role: Role, sent: Option<[&str; 2]>) -> Flow {
        let translation = sent.map(|[local, remote]| {
            Arc::new(Translation {
                local: end(local),
                remote: end(remote),
            })
        });
        Flow {
            role,
            translation,
            arrival,
            ..Flow::new(end(local), end(remote))
        }
    }

    #[test]
    fn every_connection_of_a_mesh_has_its_hop() {
        use Arrival::{Device, Loopback, Unknown};
        use Role::{Client, Server};
        let (pod, service) = ("10.0.0.5:40000", "10.96.0.10:80");
        let (proxy, inbound) = ("127.0.0.1:15001", "10.0.0.5:15006");
        let cases = [
            // Of the client's pod, by the interface and by the headers.
            (flow(pod, service, Loopback, Client, None), Some(Hop::ToProxy)),
            (
                flow(pod, service, Unknown, Client, Some([pod, proxy])),
                Some(Hop::ToProxy),
            ),
            (
                flow(proxy, pod, Loopback, Server, None),
                Some(Hop::FromApplication),
            ),
            (
                flow(proxy, pod, Unknown, Server, None),
                Some(Hop::FromApplication),
            ),
            (
                flow(pod, service, Device, Client, Some([pod, "10.0.1.7:8080"])),
                None,
            ),
            (flow(pod, service, Device, Client, None), None),
            // Of the server's pod.
            (
                flow(
                    inbound,
                    "10.0.1.7:50000",
                    Device,
                    Server,
                    Some(["10.0.0.5:8080", "10.0.1.7:50000"]),
                ),
                Some(Hop::AtProxy),
            ),
            (
                flow("127.0.0.1:40000", "127.0.0.1:8080", Loopback, Client, None),
                Some(Hop::Loopback),
            ),
            // Own addresses, without a proxy.
            (
                flow(pod, "10.0.0.5:8080", Loopback, Client, None),
                Some(Hop::Loopback),
            ),
            (
                flow("10.0.0.5:8080", "10.0.0.6:40000", Loopback, Server, None),
                Some(Hop::Loopback),
            ),
            // A node's port on loopback, with a pod behind it.
            (
                flow(
                    "127.0.0.1:40000",
                    "127.0.0.1:30080",
                    Device,
                    Client,
                    Some(["10.0.0.5:40000", "10.0.1.7:8080"]),
                ),
                None,
            ),
            // A service's pod, and a server behind a masquerade.
            (
                flow(
                    "10.0.0.5:8080",
                    "10.0.0.1:40000",
                    Device,
                    Server,
                    Some(["10.96.0.10:80", "10.0.1.7:50000"]),
                ),
                None,
            ),
        ];
        for (flow, hop) in cases {
            assert_eq!(flow.hop(), hop, "{flow:?}");
        }
    }

    #[test]
    fn a_proxy_on_loopback_is_not_a_backend() {
        let to_proxy = flow(
            "10.0.0.5:40000",
            "10.96.0.10:80",
            Arrival::Loopback,
            Role::Client,
            Some(["10.0.0.5:40000", "127.0.0.1:15001"]),
        );
        assert_eq!((to_proxy.backend(), to_proxy.frontend()), (None, None));
    }
}
