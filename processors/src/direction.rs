//! The processor `direction`: is this side the server of a connection (ingress) or its client (egress)?
//!
//! In: records with the role that the handshake told, if it was seen; changes of listening ports. Out: records with
//! `kind`, `role` and `role_source`. The rules, in order:
//!
//! 1. The receiver knows, most often because it saw the handshake: a server is ingress, a client egress.
//! 2. The local port is listened on in the record's network namespace: ingress.
//! 3. The remote end is on this node, too, and its port is listened on: egress.
//! 4. Both ends are on this node and nobody listens on either port: left out, and counted, as in the Go exporter.
//! 5. Else egress, assumed.
//!
//! The direction of bytes is not decided here: sent is outbound and received is inbound, always.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use figment::value::Value;
use flowtap_pipeline::telemetry::ProcessorTelemetry;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Factory, FlowBatch, FlowKind, FlowRecord, ListenChange,
    NodeInfo, Processor, ProcessorConfig, ProcessorStage, Role, RoleSource, Seen,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why records are left out.
const LOCAL_WITHOUT_LISTENER: &str = "local_without_listener";

/// Nothing can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

impl ComponentConfig for Config {
    fn to_value(&self) -> Result<Value, figment::Error> {
        Value::serialize(self)
    }
}

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Ok(ProcessorStage::Transform(Box::new(Direction::new(context))))
    }
}

/// The processor type `direction`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory {
    type_name: "direction",
    summary: "tells ingress from egress, by the handshake, then by who listens",
    parse: |value| Ok(Box::new(value.deserialize::<Config>()?)),
    schema: Config::json_schema,
};

/// Who listens where.
#[derive(Debug, Default)]
struct Listeners {
    /// Sockets by their cookies, per namespace and port.
    live: HashMap<(u32, u16), HashSet<u64>>,
    /// Where a cookie's socket listens, for closes that no longer know their port.
    places: HashMap<u64, (u32, u16)>,
    /// What the last rescan of a namespace found.
    rescanned: HashMap<u32, HashSet<u16>>,
}

impl Listeners {
    fn apply(&mut self, change: &ListenChange) {
        match change {
            ListenChange::Opened(listener) => {
                let place = (listener.netns, listener.port);
                // A socket found again by a rescan, or bound since it was first told of.
                if let Some(old) = self.places.insert(listener.cookie, place)
                    && old != place
                {
                    self.forget(old, listener.cookie);
                }
                self.live.entry(place).or_default().insert(listener.cookie);
            }
            ListenChange::Closed(listener) => {
                if let Some(place) = self.places.remove(&listener.cookie) {
                    self.forget(place, listener.cookie);
                }
            }
            ListenChange::Rescanned { netns, ports } => {
                self.rescanned.insert(*netns, ports.iter().copied().collect());
            }
        }
    }

    fn forget(&mut self, place: (u32, u16), cookie: u64) {
        if let Some(sockets) = self.live.get_mut(&place) {
            sockets.remove(&cookie);
            if sockets.is_empty() {
                self.live.remove(&place);
            }
        }
    }

    /// Whether someone listens on `port` in `netns`; in any namespace if that is 0, unknown.
    fn listens(&self, netns: u32, port: u16) -> bool {
        if netns == 0 {
            return self.live.keys().any(|&(_, listened)| listened == port)
                || self.rescanned.values().any(|ports| ports.contains(&port));
        }
        self.live.contains_key(&(netns, port))
            || self
                .rescanned
                .get(&netns)
                .is_some_and(|ports| ports.contains(&port))
    }
}

/// The processor.
#[derive(Debug)]
pub struct Direction {
    listeners: Listeners,
    node: Seen<NodeInfo>,
    /// The node's addresses.
    local: HashSet<IpAddr>,
    telemetry: ProcessorTelemetry,
}

impl Direction {
    /// A processor that knows of no listener yet.
    pub fn new(context: &BuildContext) -> Self {
        Self {
            listeners: Listeners::default(),
            local: addresses(&context.node.load()),
            node: Seen::new(&context.node),
            telemetry: ProcessorTelemetry::new(&context.meter, &context.id, &[LOCAL_WITHOUT_LISTENER]),
        }
    }

    fn is_local(&self, addr: IpAddr) -> bool {
        addr.is_loopback() || self.local.contains(&addr)
    }

    /// Kind, role and what they rest on; `None` for what is left out.
    fn decide(&self, record: &FlowRecord) -> Option<(FlowKind, Role, RoleSource)> {
        match record.role {
            Role::Server => return Some((FlowKind::Ingress, Role::Server, record.role_source)),
            Role::Client => return Some((FlowKind::Egress, Role::Client, record.role_source)),
            Role::Unknown => {}
        }
        if self.listeners.listens(record.netns, record.local.port) {
            return Some((FlowKind::Ingress, Role::Server, RoleSource::Listener));
        }
        if self.is_local(record.remote.addr) {
            if self.listeners.listens(record.netns, record.remote.port) {
                return Some((FlowKind::Egress, Role::Client, RoleSource::Listener));
            }
            if self.is_local(record.local.addr) {
                return None;
            }
        }
        Some((FlowKind::Egress, Role::Unknown, RoleSource::Assumed))
    }
}

fn addresses(node: &NodeInfo) -> HashSet<IpAddr> {
    node.addresses.iter().map(|local| local.network.addr()).collect()
}

impl Processor for Direction {
    fn process(&mut self, batch: &mut FlowBatch) {
        if self.node.refresh() {
            self.local = addresses(self.node.last());
        }
        for change in &batch.listeners {
            self.listeners.apply(change);
        }
        let (mut records, mut bytes) = (0, 0);
        batch.records.retain_mut(|record| {
            let decided = self.decide(record);
            if let Some((kind, role, source)) = decided {
                record.kind = Some(kind);
                record.role = role;
                record.role_source = source;
            } else {
                records += 1;
                bytes += record
                    .sent_bytes
                    .saturating_add(record.received_bytes)
                    .max(0)
                    .unsigned_abs();
            }
            decided.is_some()
        });
        self.telemetry.dropped(records, bytes, LOCAL_WITHOUT_LISTENER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, record};
    use flowtap_pipeline::Listener;
    use flowtap_pipeline::node::InterfaceAddress;

    const NETNS: u32 = 7;

    fn direction() -> Direction {
        let address = |text: &str| InterfaceAddress {
            interface: "eth0".to_owned(),
            network: text.parse().unwrap(),
        };
        Direction::new(&context(NodeInfo {
            addresses: vec![address("192.0.2.1/24"), address("192.0.2.2/24")],
            resolvers: Vec::new(),
        }))
    }

    fn decided(direction: &mut Direction, record: FlowRecord) -> Option<(FlowKind, Role, RoleSource)> {
        let mut batch = FlowBatch {
            records: vec![record],
            ..FlowBatch::default()
        };
        direction.process(&mut batch);
        let record = batch.records.first()?;
        Some((record.kind?, record.role, record.role_source))
    }

    fn seen(role: Role, local: &str, remote: &str) -> FlowRecord {
        let source = if role == Role::Unknown {
            RoleSource::Assumed
        } else {
            RoleSource::Handshake
        };
        FlowRecord {
            role,
            role_source: source,
            netns: NETNS,
            ..record(local, remote)
        }
    }

    fn listen(netns: u32, port: u16, cookie: u64) -> FlowBatch {
        let listeners = vec![ListenChange::Opened(Listener { netns, port, cookie })];
        FlowBatch {
            listeners,
            ..FlowBatch::default()
        }
    }

    /// The Go exporter's rules, and ours before them.
    #[test]
    fn each_rule_decides_in_its_turn() {
        use FlowKind::{Egress, Ingress};
        let (handshake, listener, assumed) =
            (RoleSource::Handshake, RoleSource::Listener, RoleSource::Assumed);
        let mut direction = direction();
        direction.process(&mut listen(NETNS, 80, 1));
        let cases = [
            // The handshake beats the listening port.
            (
                Role::Client,
                "192.0.2.1:80",
                "198.51.100.1:5000",
                Some((Egress, Role::Client, handshake)),
            ),
            (
                Role::Server,
                "192.0.2.1:5000",
                "198.51.100.1:80",
                Some((Ingress, Role::Server, handshake)),
            ),
            // The local port is listened on.
            (
                Role::Unknown,
                "192.0.2.1:80",
                "198.51.100.1:5000",
                Some((Ingress, Role::Server, listener)),
            ),
            // A remote port is only looked up if the remote end is here.
            (
                Role::Unknown,
                "192.0.2.1:5000",
                "192.0.2.2:80",
                Some((Egress, Role::Client, listener)),
            ),
            (
                Role::Unknown,
                "127.0.0.1:5000",
                "127.0.0.1:80",
                Some((Egress, Role::Client, listener)),
            ),
            (
                Role::Unknown,
                "192.0.2.1:5000",
                "198.51.100.1:80",
                Some((Egress, Role::Unknown, assumed)),
            ),
            // Local to local, and nobody listens.
            (Role::Unknown, "192.0.2.1:5000", "192.0.2.2:6000", None),
            (Role::Unknown, "[::1]:5000", "[::1]:6000", None),
        ];
        for (role, local, remote, expected) in cases {
            assert_eq!(
                decided(&mut direction, seen(role, local, remote)),
                expected,
                "{role:?} {local} {remote}"
            );
        }
    }

    #[test]
    fn a_listener_counts_in_its_own_namespace_only() {
        let mut direction = direction();
        direction.process(&mut listen(8, 80, 1));
        let assumed = Some((FlowKind::Egress, Role::Unknown, RoleSource::Assumed));
        let record = seen(Role::Unknown, "192.0.2.1:80", "198.51.100.1:5000");
        assert_eq!(decided(&mut direction, record.clone()), assumed);
        let unknown_namespace = FlowRecord { netns: 0, ..record };
        assert_eq!(
            decided(&mut direction, unknown_namespace).map(|d| d.0),
            Some(FlowKind::Ingress)
        );
    }

    #[test]
    fn a_port_is_listened_on_until_its_last_socket_has_closed() {
        let mut direction = direction();
        direction.process(&mut listen(NETNS, 80, 1));
        direction.process(&mut listen(NETNS, 80, 2));
        let record = seen(Role::Unknown, "192.0.2.1:80", "198.51.100.1:5000");
        for (cookie, kind) in [(1, FlowKind::Ingress), (2, FlowKind::Egress)] {
            // A close may not know its port any more.
            let closed = ListenChange::Closed(Listener {
                netns: NETNS,
                port: 0,
                cookie,
            });
            direction.process(&mut FlowBatch {
                listeners: vec![closed],
                ..FlowBatch::default()
            });
            assert_eq!(decided(&mut direction, record.clone()).map(|d| d.0), Some(kind));
        }
    }

    #[test]
    fn a_rescan_replaces_what_the_rescan_before_it_found() {
        let mut direction = direction();
        let record = seen(Role::Unknown, "192.0.2.1:80", "198.51.100.1:5000");
        for (ports, kind) in [(vec![80, 443], FlowKind::Ingress), (vec![443], FlowKind::Egress)] {
            let listeners = vec![ListenChange::Rescanned { netns: NETNS, ports }];
            direction.process(&mut FlowBatch {
                listeners,
                ..FlowBatch::default()
            });
            assert_eq!(decided(&mut direction, record.clone()).map(|d| d.0), Some(kind));
        }
    }
}
