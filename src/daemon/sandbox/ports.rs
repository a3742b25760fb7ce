//! TCP ports that a config needs, for the rules of Landlock about them.
//!
//! In: the contracts of the components, and the environment, where proxies and the Kubernetes API are. Out: each port with the key of
//! the config that needs it. Of a host nothing is known here: its addresses may change while flowtap runs.

use std::collections::BTreeMap;

use flowtap_config::{Config, ConfigErrors};
use flowtap_extensions::kubernetes;

use super::needs::kubeconfigs;

/// Where name servers listen; a long answer comes over TCP.
const DNS: u16 = 53;

/// Path of a key in the config; empty for a port that the environment asks for.
type Key = Vec<String>;

/// The ports of one config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::daemon) struct Ports {
    /// Those that it listens on.
    pub(super) listens: BTreeMap<u16, Key>,
    /// Those that it connects to, at any address.
    pub(super) connects: BTreeMap<u16, Key>,
}

impl Ports {
    /// The ports that `config` needs.
    pub(in crate::daemon) fn of(config: &Config) -> Self {
        let mut ports = Self::default();
        let service = &config.service;
        let path = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Key>();
        for (key, endpoint) in [
            (path(&["service", "admin", "endpoint"]), service.admin.endpoint),
            (
                path(&["service", "telemetry", "metrics", "endpoint"]),
                service.telemetry.metrics.endpoint,
            ),
        ] {
            ports
                .listens
                .extend(endpoint.map(|endpoint| (endpoint.port(), key)));
        }
        if let Some(url) = service.telemetry.metrics.otlp.url() {
            let key = path(&["service", "telemetry", "metrics", "otlp", "endpoint"]);
            ports.connects.extend(port(&url).map(|port| (port, key)));
        }
        for (kind, id, contract) in config.contracts() {
            let key = |key: &str| path(&[kind.section(), id.as_str(), key]);
            let listens = contract.listens.iter();
            ports
                .listens
                .extend(listens.map(|listen| (listen.address.port(), key(listen.key))));
            let dials = contract.dials.iter();
            ports
                .connects
                .extend(dials.filter_map(|dial| Some((port(&dial.address)?, key(dial.key)))));
        }
        if service.kubernetes.enabled {
            let servers = kubeconfigs(config).flat_map(|file| kubernetes::servers_of(&file));
            let key = path(&["service", "kubernetes", "kubeconfig"]);
            ports
                .connects
                .extend(servers.filter_map(|url| Some((port(&url)?, key.clone()))));
        }
        ports
            .connects
            .extend(of_environment().map(|port| (port, Key::new())));
        ports
    }

    /// Checks that `self`, which the sandbox leaves open, has what `config` needs.
    ///
    /// # Errors
    /// The first port that it has not, with its key.
    pub(in crate::daemon) fn check(&self, config: &Config) -> Result<(), ConfigErrors> {
        let needed = Self::of(config);
        let lacking = |has: &BTreeMap<u16, Key>, needs: BTreeMap<u16, Key>| {
            needs.into_iter().find(|(port, _)| !has.contains_key(port))
        };
        let listens = lacking(&self.listens, needed.listens).map(|found| ("listens on", found));
        let connects = || lacking(&self.connects, needed.connects).map(|found| ("connects to", found));
        let Some((uses, (port, key))) = listens.or_else(connects) else {
            return Ok(());
        };
        let key: Vec<_> = key.iter().map(String::as_str).collect();
        let message = format!(
            "{uses} TCP port {port}, which the sandbox has closed since the start (`service.sandbox.tcp_ports`); hint: restart flowtap"
        );
        Err(config.error_at(&key, &message))
    }
}

/// Ports that do not depend on the config: name servers, proxies, the API of the cluster around this pod.
fn of_environment() -> impl Iterator<Item = u16> {
    const PROXIES: [&str; 3] = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];
    let value = |name: &str| std::env::var(name).ok();
    let proxies = PROXIES
        .iter()
        .flat_map(move |name| [value(name), value(&name.to_lowercase())]);
    let api = ["KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_PORT_HTTPS"];
    let api = api.into_iter().filter_map(move |name| value(name)?.parse().ok());
    let proxies = proxies.flatten().filter_map(|url| {
        // A variable without a scheme is a proxy over HTTP.
        port(&url).or_else(|| port(&format!("http://{url}")))
    });
    proxies.chain(api).chain([DNS])
}

/// The TCP port of `scheme://host:port/path`; `None` if it has none, as a Unix socket.
fn port(url: &str) -> Option<u16> {
    let (scheme, rest) = url.split_once("://")?;
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        "socks5" | "socks5h" => 1080,
        "tcp" | "tls" => 4739,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    // A proxy's variable may hold credentials.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // After the brackets of an IPv6 address, in which there are colons too.
    let after = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    match after.rsplit_once(':') {
        Some((_, "")) | None => Some(default),
        Some((_, port)) => port.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_an_endpoint_is_its_own_or_that_of_its_scheme() {
        for (url, expected) in [
            ("http://collector:4317", Some(4317)),
            ("http://collector", Some(80)),
            ("https://collector/v1/metrics?token=a:b", Some(443)),
            ("https://[2001:db8::1]:8443/x", Some(8443)),
            ("https://[2001:db8::1]", Some(443)),
            ("socks5://user:secret@proxy", Some(1080)),
            ("tls://10.0.0.1:4740", Some(4740)),
            ("udp://10.0.0.1:4739", None),
            ("unix:///run/otel.sock", None),
        ] {
            assert_eq!(port(url), expected, "{url}");
        }
    }
}
