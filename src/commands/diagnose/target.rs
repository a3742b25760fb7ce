//! Whose traffic is diagnosed.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use flowtap_extensions::verdict::server_port;
use flowtap_pipeline::{Flow, KubernetesNames, RoleSource};
use ipnet::IpNet;

/// The subject of a diagnosis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Everything.
    All,
    /// A peer: its addresses, and a port of the side that serves.
    Peer(Vec<IpNet>, Option<u16>),
    /// A process of this machine.
    Process(u32),
    /// A process by its name; or a pod, workload, service, namespace or node of the cluster.
    Name(String),
}

/// Addresses of a host. A name that does not resolve is one of a process or of the cluster.
fn resolve(host: &str) -> Vec<IpNet> {
    let found = (host, 0).to_socket_addrs().into_iter().flatten();
    found
        .map(|address| IpNet::from(address.ip().to_canonical()))
        .collect()
}

/// Whether `text` is an address with a mistake in it: names of processes are not numbers with dots, and those of namespaces have neither
/// dots nor colons.
fn is_meant_as_address(text: &str) -> bool {
    let is_v4 = text.contains('.') && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    is_v4 || text.matches(':').count() > 1 && text.chars().all(|c| c.is_ascii_hexdigit() || c == ':')
}

impl Target {
    /// Reads `text`: an address, a range, `ADDRESS:PORT`, a process id, a name that resolves to addresses (`HOST` or
    /// `HOST:PORT`), or any other name.
    ///
    /// # Errors
    /// A sentence about an empty text, an address, a range or a port that is none, or a host with a port that does not resolve.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err(
                "the name is empty; hint: an address, a range, ADDRESS:PORT, a process id or a name, or no argument for all"
                    .to_owned(),
            );
        }
        if let Ok(pid) = text.parse() {
            return Ok(Self::Process(pid));
        }
        if let Ok(addr) = text
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
        {
            return Ok(Self::Peer(vec![IpNet::from(addr.to_canonical())], None));
        }
        if let Ok(range) = text.parse() {
            return Ok(Self::Peer(vec![range], None));
        }
        if text
            .split_once('/')
            .is_some_and(|(addr, _)| is_meant_as_address(addr))
        {
            return Err(format!(
                "`{text}` is not a range; hint: 192.0.2.0/24, with a prefix of at most 32, of IPv6 128"
            ));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Peer(
                vec![IpNet::from(address.ip().to_canonical())],
                Some(address.port()),
            ));
        }
        Self::parse_name(text)
    }

    /// Reads a name: of a host if it resolves, with or without a port.
    fn parse_name(text: &str) -> Result<Self, String> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.parse::<u16>();
                let port =
                    port.map_err(|_| format!("`{text}` has no valid port; hint: a number from 0 to 65535"))?;
                (host, Some(port))
            }
            None => (text, None),
        };
        // Names of processes and of the cluster have no dots, but of hosts nearly all have, or a port.
        if port.is_some() || host.contains('.') || host == "localhost" {
            let found = resolve(host);
            if !found.is_empty() {
                return Ok(Self::Peer(found, port));
            }
            if port.is_some() {
                return Err(format!("`{host}` does not resolve; hint: use the peer's address"));
            }
            if is_meant_as_address(host) {
                return Err(format!(
                    "`{host}` is not an address; hint: 192.0.2.7 or 2001:db8::7, each number of IPv4 from 0 to 255"
                ));
            }
        }
        Ok(Self::Name(text.to_owned()))
    }

    /// Whether `flow` belongs to it.
    pub(super) fn matches(&self, flow: &Flow) -> bool {
        match self {
            Self::All => true,
            Self::Peer(ranges, port) => {
                port.is_none_or(|port| has_port(flow, port))
                    && ranges.iter().any(|range| range.contains(&flow.remote.addr))
            }
            Self::Process(pid) => flow.pid == *pid,
            Self::Name(name) => {
                process(flow) == name.as_bytes()
                    || is_named(flow.local_names.as_deref(), name)
                    || is_named(flow.peer_names.as_deref(), name)
                    || flow.peer_name.as_ref().is_some_and(|known| *known.name == **name)
            }
        }
    }

    /// Whether the listening socket of `flow` belongs to it; that has no peer.
    pub(super) fn matches_listener(&self, flow: &Flow) -> bool {
        match self {
            Self::All => true,
            Self::Peer(..) => false,
            Self::Process(_) | Self::Name(_) => self.matches(flow),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all TCP connections of this machine"),
            Self::Peer(ranges, port) => {
                let shown = ranges.iter().map(|range| {
                    if range.prefix_len() == range.max_prefix_len() {
                        range.addr().to_string()
                    } else {
                        range.to_string()
                    }
                });
                write!(f, "peer {}", shown.collect::<Vec<_>>().join(", "))?;
                port.map_or(Ok(()), |port| write!(f, ", port {port}"))
            }
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Whether `port` is the server's. Where the role is only assumed it may be that of either end.
fn has_port(flow: &Flow, port: u16) -> bool {
    let is_assumed = flow.role_source == RoleSource::Assumed;
    port == server_port(flow) || is_assumed && [flow.local.port, flow.remote.port].contains(&port)
}

/// The name of the process, without its padding.
pub(super) fn process(flow: &Flow) -> &[u8] {
    let end = flow
        .comm
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(flow.comm.len());
    &flow.comm[..end]
}

/// `name` is one of `names`, alone or as `namespace/name`; of a workload `Deployment/web` and `web`.
fn is_named(names: Option<&KubernetesNames>, name: &str) -> bool {
    let Some(names) = names else { return false };
    let name = match name.split_once('/') {
        Some((namespace, rest)) if namespace == names.namespace => rest,
        _ => name,
    };
    let short = names.workload.rsplit('/').next().unwrap_or_default();
    let all = [
        &*names.pod,
        &names.workload,
        short,
        &names.service,
        &names.node,
        &names.namespace,
    ];
    !name.is_empty() && all.contains(&name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flowtap_pipeline::{Endpoint, FlowKind};

    use super::*;

    fn flow() -> Flow {
        let end = |addr: [u8; 4], port| Endpoint::new(addr.into(), port);
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"nginx");
        Flow {
            pid: 7,
            comm,
            kind: Some(FlowKind::Egress),
            role_source: RoleSource::Handshake,
            peer_names: Some(Arc::new(KubernetesNames {
                namespace: "shop".to_owned(),
                workload: "Deployment/db".to_owned(),
                service: "db".to_owned(),
                ..KubernetesNames::default()
            })),
            ..Flow::new(end([10, 0, 0, 1], 40_000), end([192, 0, 2, 7], 5432))
        }
    }

    #[test]
    fn what_is_asked_about_is_known_by_its_form() {
        let matches = |text| Target::parse(text).unwrap().matches(&flow());
        for text in [
            "192.0.2.7",
            "192.0.2.0/24",
            "192.0.2.7:5432",
            "[::ffff:192.0.2.7]:5432",
            "7",
            "nginx",
            "db",
            "shop/db",
            "Deployment/db",
            "shop/Deployment/db",
            "shop",
        ] {
            assert!(matches(text), "{text}");
        }
        for text in [
            "192.0.2.8",
            "192.0.2.7:443",
            "10.0.0.0/8",
            "8",
            "ngin",
            "other/db",
            "shop/",
            "/",
        ] {
            assert!(!matches(text), "{text}");
        }
        assert!(
            matches!(Target::parse("localhost"), Ok(Target::Peer(addresses, None)) if !addresses.is_empty())
        );
    }

    #[test]
    fn of_an_assumed_role_the_port_of_either_end_is_matched() {
        let matches = |port: u16, role_source| {
            let target = Target::parse(&format!("192.0.2.7:{port}")).unwrap();
            target.matches(&Flow {
                role_source,
                ..flow()
            })
        };
        for port in [5432, 40_000] {
            assert!(matches(port, RoleSource::Assumed), "{port}");
        }
        assert!(!matches(40_000, RoleSource::Handshake));
        assert!(!matches(443, RoleSource::Assumed));
    }

    #[test]
    fn a_range_or_a_port_that_is_none_is_an_error() {
        for text in [
            "",
            " ",
            "192.0.2.7/99",
            "300.1.1.1",
            "300.1.1.1/44",
            "192.0.2/24x",
            "2001:db8::7::/64",
            "2001:db8::/129",
            "192.0.2.7:99999",
            "host.invalid:443",
        ] {
            let error = Target::parse(text).unwrap_err();
            assert!(error.contains("hint:"), "{error}");
        }
    }
}
