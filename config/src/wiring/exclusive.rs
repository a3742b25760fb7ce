//! Places on disk and ports: no two components can have one of them.
//!
//! In: the components' contracts, and the listeners of `service`. Reported: two of them on one place or one port, and as a warning a port
//! that a Collector on this machine has by default, if something is pushed to one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use flowtap_pipeline::{ComponentId, ComponentKind, PipelineKind};

use crate::check::{Checker, path};
use crate::config::{Config, PipelineConfig};
use crate::diagnostic::{Diagnostic, key_of};

/// Ports where a Collector receives OTLP by default, over gRPC and over HTTP.
const OTLP: [u16; 2] = [4317, 4318];

impl Checker<'_> {
    /// A listener on a port that a Collector on this machine has by default, if something is pushed to one.
    pub(crate) fn collector_ports(&self, config: &Config) -> Option<Diagnostic> {
        /// Its own metrics, its health check, and its receivers for OTLP.
        const COLLECTOR: [u16; 4] = [8888, 13133, OTLP[0], OTLP[1]];
        let service = &config.service;
        let own = [
            (
                path(&["service", "telemetry", "metrics", "endpoint"]),
                service.telemetry.metrics.endpoint,
            ),
            (path(&["service", "admin", "endpoint"]), service.admin.endpoint),
        ];
        let taken = own
            .into_iter()
            .filter_map(|(at, address)| Some((at, address?)))
            .find(|(_, address)| COLLECTOR.contains(&address.port()));
        let (at, address) = taken?;
        let contracts = config.contracts();
        let mut dials = contracts.iter().flat_map(|(_, _, contract)| &contract.dials);
        let pushes_here = dials.any(|dial| is_local_collector(&dial.address));
        pushes_here.then(|| {
            let message = format!(
                "{address} is also where an OpenTelemetry Collector listens by default; of two on one machine the second does not start"
            );
            let help = "leave the key out: by default flowtap has other ports than a Collector";
            self.diagnostic(&at, message, Some(help.to_owned()))
        })
    }

    /// No two components that write to one place.
    pub(crate) fn places(&mut self, config: &Config) {
        let mut places = Vec::new();
        for (kind, id, contract) in config.contracts() {
            let fed = kinds(config, kind, id);
            for place in contract.owns {
                let keys = place.key.split('.').map(str::to_owned);
                let at: Vec<_> = path(&[kind.section(), id.as_str()])
                    .into_iter()
                    .chain(keys)
                    .collect();
                let fed = place.by_kind.then(|| fed.clone());
                places.push((at, place.path, fed));
            }
        }
        let clash = |(_, a, a_fed): &Owned, (_, b, b_fed): &Owned| {
            let share = |(a, b): (&BTreeSet<_>, &BTreeSet<_>)| !a.is_disjoint(b);
            resolved(a) == resolved(b) && a_fed.as_ref().zip(b_fed.as_ref()).is_none_or(share)
        };
        for (index, place) in places.iter().enumerate() {
            if let Some((other, ..)) = places[..index].iter().find(|other| clash(place, other)) {
                let (at, path, _) = place;
                self.report(
                    at,
                    format!("{} is already used by {}", path.display(), key_of(other)),
                    Some(another_place(at, other)),
                );
            }
        }
    }

    /// No two listeners on one port of one address.
    pub(crate) fn ports(&mut self, config: &Config) {
        let mut listeners: Vec<(Vec<String>, SocketAddr)> = Vec::new();
        for (kind, id, contract) in config.contracts() {
            let of_component = contract.listens.into_iter();
            listeners.extend(of_component.map(|listen| {
                let keys = listen.key.split('.');
                let at = path(&[kind.section(), id.as_str()]).into_iter();
                (at.chain(keys.map(str::to_owned)).collect(), listen.address)
            }));
        }
        let service = &config.service;
        let admin = path(&["service", "admin", "endpoint"]);
        listeners.extend(service.admin.endpoint.map(|address| (admin, address)));
        let metrics = path(&["service", "telemetry", "metrics", "endpoint"]);
        listeners.extend(service.telemetry.metrics.endpoint.map(|addr| (metrics, addr)));
        for (index, (at, addr)) in listeners.iter().enumerate() {
            if let Some((other, _)) = listeners[..index].iter().find(|(_, other)| clash(*addr, *other)) {
                // The one that the user has set is the one to change.
                let (at, other) = if self.merged.user_has(at) {
                    (at, other)
                } else {
                    (other, at)
                };
                self.report(
                    at,
                    format!("{addr} is already used by {}", key_of(other)),
                    Some("choose another port".to_owned()),
                );
            }
        }
    }
}

/// The ways out for two components on one place, by their keys. Two of one type may have been meant to be one: each pipeline that has the
/// id of a component has it.
fn another_place(at: &[String], other: &[String]) -> String {
    let hint = "choose another path: each would overwrite the other's files";
    let of_type = |at: &[String]| {
        let [section, id, ..] = at else { return None };
        let (type_name, _) = id.split_once('/').unwrap_or((id, ""));
        Some((section.clone(), type_name.to_owned()))
    };
    match (at, other) {
        ([_, id, ..], [_, first, ..]) if of_type(at) == of_type(other) => {
            format!("{hint}; or write `{first}` in place of `{id}`: several pipelines may have the same id")
        }
        _ => hint.to_owned(),
    }
}

/// Whether an address that a component connects to is one of this machine, with a port where a Collector receives OTLP by default.
fn is_local_collector(address: &str) -> bool {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = address.split('/').next().unwrap_or_default();
    let Some((host, port)) = authority.rsplit_once(':') else {
        return false;
    };
    ["127.0.0.1", "localhost", "[::1]"].contains(&host) && OTLP.iter().any(|own| own.to_string() == port)
}

/// A place: its key, its path, and the kinds of the pipelines that feed its component if that makes a difference.
type Owned = (Vec<String>, PathBuf, Option<BTreeSet<PipelineKind>>);

/// Kinds of the pipelines that have this component.
fn kinds(config: &Config, kind: ComponentKind, id: &ComponentId) -> BTreeSet<PipelineKind> {
    let has = |pipeline: &PipelineConfig| match kind {
        ComponentKind::Receiver => pipeline.receivers.contains(id),
        ComponentKind::Processor => pipeline.processors.contains(id),
        ComponentKind::Exporter => pipeline.exporters.contains(id),
        ComponentKind::Extension => false,
    };
    let pipelines = config.pipelines.iter().filter(|(_, pipeline)| has(pipeline));
    let own = config.service.telemetry.metrics.exporters.iter();
    let own = own.filter(|own| kind == ComponentKind::Exporter && own.as_str() == id.as_str());
    pipelines
        .map(|(name, _)| name.kind())
        .chain(own.map(|_| PipelineKind::Metrics))
        .collect()
}

/// `path` from the root on, without `.`, `..` and the links that exist, so that two ways to write one place are the same.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut resolved = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => {
                resolved.pop();
            }
            component => {
                resolved.push(component);
                // A path that does not exist yet can not be a link.
                if let Ok(target) = resolved.canonicalize() {
                    resolved = target;
                }
            }
        }
    }
    resolved
}

/// Port 0 is any free port; an unspecified address is all of them.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let everywhere = |addr: SocketAddr| addr.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || everywhere(a) || everywhere(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_same_by_every_spelling_and_every_link() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let queue = root.join("queue");
        std::fs::create_dir_all(queue.join("deep")).unwrap();
        std::os::unix::fs::symlink("queue", root.join("link")).unwrap();
        std::os::unix::fs::symlink("queue/deep", root.join("far")).unwrap();
        for spelling in [
            "queue",
            "queue/",
            "./queue",
            "x/../queue",
            "link",
            "link/.",
            "far/..",
        ] {
            assert_eq!(resolved(&root.join(spelling)), queue, "{spelling}");
        }
        assert_eq!(resolved(&root.join("link/new/file")), queue.join("new/file"));
        assert_ne!(resolved(&root.join("other")), queue);
    }

    #[test]
    fn a_collector_is_an_address_of_this_machine_with_a_port_of_otlp() {
        for address in [
            "http://127.0.0.1:4317",
            "https://localhost:4318/v1/metrics",
            "http://[::1]:4317/",
            "localhost:4317",
        ] {
            assert!(is_local_collector(address), "{address}");
        }
        for address in [
            "http://127.0.0.1:43170",
            "http://127.0.0.1:9090/api/v1/write",
            "http://192.0.2.7:4317",
            "http://localhost.example:4317",
            "127.0.0.1",
            "",
        ] {
            assert!(!is_local_collector(address), "{address}");
        }
    }
}
