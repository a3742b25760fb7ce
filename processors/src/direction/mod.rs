//! The processor `direction`: is this side the server of a connection (ingress) or its client (egress)?
//!
//! In: records with the role that the receiver knows, if it does; changes of listening ports. Out: records with `kind`, `role` and
//! `role_source`. The rules, in order:
//!
//! 1. The receiver knows the role, by the handshake or by the socket's counters: a server is ingress, a client egress.
//! 2. The local port is listened on in the record's network namespace: ingress.
//! 3. The remote end is on this node, and its port is listened on: egress.
//! 4. Just one of the two ports is ephemeral: that end is the client.
//! 5. Both ends are on this node: the end with the lower port is assumed to serve, so that the two ends agree.
//! 6. Else egress, assumed.
//!
//! Where the role is assumed and the server's port would be an ephemeral one, it is most likely a client's, and would make a
//! series for each connection: it is left out, unless the config keeps it. Pipelines `logs` have no series, and keep it always.
//!
//! Decisions of rules 2 to 6 are made once for a socket and kept until it closes: when a server
//! stops listening, the connections that it accepted stay ingress.
//!
//! Of UDP the receiver decides, by the first datagram and by who chose the port; where that is not known, rules 4 and 6 do. UDP
//! has no table of ports.
//!
//! Of a dropped packet the receiver of this machine is the server, and its sender the client.
//!
//! A connection that is redirected to a proxy on this machine is of class `localhost` ([`redirects`]).
//!
//! The direction of bytes is not decided here: sent is outbound and received is inbound, always.

mod listeners;
mod redirects;
mod socket;

use std::collections::HashSet;
use std::net::IpAddr;

use flowtap_pipeline::{
    Arrival, BuildContext, BuildError, ComponentConfig, Contract, Factory, Flow, FlowBatch, FlowKind,
    NodeInfo, PeerClass, PipelineId, PipelineKind, Processor, ProcessorConfig, ProcessorStage, RecordField,
    Role, RoleSource, Stability, Subscription, TcpRecord,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::listeners::Listeners;
use self::redirects::Redirects;
use self::socket::{is_last, socket_of};
use crate::recent::Recent;

/// Maximum number of sockets whose decided role is kept.
const DECISIONS: usize = 1 << 17;

/// Settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Keeps the server's port where the role is only assumed and that port is ephemeral. It is left out by default, because it is
    /// most likely a client's, and would make a series for each connection. Pipelines `logs` keep it in either case.
    pub keep_ephemeral_ports: bool,
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        Contract::default().fills([RecordField::Role]).reads_addresses()
    }
}

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        let mut direction = Direction::new(context);
        direction.keeps_ports |= self.keep_ephemeral_ports;
        Ok(ProcessorStage::Transform(Box::new(direction)))
    }
}

/// The processor type `direction`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "direction",
    "decides the role, ingress or egress: by the handshake or the socket's counters, then by listeners and ports",
    Stability::Beta,
);

/// A role as this processor decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decision {
    kind: FlowKind,
    role: Role,
    source: RoleSource,
}

/// The processor.
#[derive(Debug)]
pub struct Direction {
    listeners: Listeners,
    decisions: Recent<(u32, u64), Decision>,
    redirects: Redirects,
    node: Subscription<NodeInfo>,
    /// The node's addresses.
    local: HashSet<IpAddr>,
    /// Whether assumed ports are kept.
    keeps_ports: bool,
    evicted: Counter<u64>,
    processor: KeyValue,
}

impl Direction {
    /// A processor that knows of no listener yet.
    pub fn new(context: &BuildContext) -> Self {
        let evicted = context
            .meter
            .u64_counter("processor_evicted_sockets")
            .with_description("Sockets whose role was evicted from a full table, and may be decided again.")
            .with_unit("{socket}")
            .build();
        let processor = KeyValue::new("processor", context.id.to_string());
        evicted.add(0, std::slice::from_ref(&processor));
        Self {
            listeners: Listeners::default(),
            decisions: Recent::new(DECISIONS),
            redirects: Redirects::default(),
            local: addresses(&context.node.load()),
            keeps_ports: has_no_series(context),
            node: Subscription::new(&context.node),
            evicted,
            processor,
        }
    }

    fn is_local(&self, addr: IpAddr) -> bool {
        addr.is_loopback() || self.local.contains(&addr)
    }

    /// The decision about the socket of `record`, with how many others were evicted to keep it.
    fn decide(&mut self, record: &TcpRecord) -> (Decision, usize) {
        let source = record.flow.role_source;
        match record.flow.role {
            Role::Server => return (Decision::new(FlowKind::Ingress, Role::Server, source), 0),
            Role::Client => return (Decision::new(FlowKind::Egress, Role::Client, source), 0),
            Role::Unknown => {}
        }
        let Some(socket) = socket_of(record) else {
            return (self.by_ports(&record.flow), 0);
        };
        let (known, mut evicted) = self.decisions.get(socket);
        let decision = known.unwrap_or_else(|| self.by_ports(&record.flow));
        if is_last(record) {
            self.decisions.remove(&socket);
        } else if known.is_none() {
            evicted += self.decisions.insert(socket, decision);
        }
        (decision, evicted)
    }

    /// Rules 2 to 6.
    fn by_ports(&self, flow: &Flow) -> Decision {
        let (local, remote) = (flow.local, flow.remote);
        let server = |source| Decision::new(FlowKind::Ingress, Role::Server, source);
        let client = |source| Decision::new(FlowKind::Egress, Role::Client, source);
        if self.listeners.listens(flow.netns, local.port) {
            return server(RoleSource::Listener);
        }
        let remote_is_local = self.is_local(remote.addr);
        if remote_is_local && self.listeners.listens(flow.netns, remote.port) {
            return client(RoleSource::Listener);
        }
        match self.node.last().ephemeral_ports.role(local.port, remote.port) {
            Role::Server => return server(RoleSource::Ports),
            Role::Client => return client(RoleSource::Ports),
            Role::Unknown => {}
        }
        let serves = remote_is_local && self.is_local(local.addr) && local.port < remote.port;
        let kind = if serves {
            FlowKind::Ingress
        } else {
            FlowKind::Egress
        };
        Decision::new(kind, Role::Unknown, RoleSource::Assumed)
    }
}

impl Decision {
    const fn new(kind: FlowKind, role: Role, source: RoleSource) -> Self {
        Self { kind, role, source }
    }
}

/// Whether it is built for a pipeline whose records make no series.
fn has_no_series(context: &BuildContext) -> bool {
    let pipeline = context.pipeline.parse::<PipelineId>();
    pipeline.is_ok_and(|pipeline| pipeline.kind() == PipelineKind::Logs)
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
        let mut evicted = self.redirects.learn(&batch.tcp);
        for record in &mut batch.tcp {
            let (decision, more) = self.decide(record);
            evicted += more;
            record.flow.kind = Some(decision.kind);
            record.flow.role = decision.role;
            record.flow.role_source = decision.source;
            if decision.source == RoleSource::Assumed {
                self.hide_port(&mut record.flow, decision.kind);
            }
            if decision.kind == FlowKind::Egress {
                let (redirected, more) = self.redirects.holds(record);
                evicted += more;
                record.flow.class = redirected.then_some(PeerClass::Localhost);
                if redirected && record.flow.arrival == Arrival::Unknown {
                    record.flow.arrival = Arrival::Loopback;
                }
            }
        }
        for record in &mut batch.dns {
            // A message shows who asked.
            record.flow.kind = Some(match record.flow.role {
                Role::Server => FlowKind::Ingress,
                Role::Client | Role::Unknown => FlowKind::Egress,
            });
        }
        for flow in batch.drops.iter_mut().filter_map(|record| record.flow.as_mut()) {
            // The packet went from the client to the server: the receiver says which of them is here.
            flow.kind = Some(match flow.role {
                Role::Server => FlowKind::Ingress,
                Role::Client | Role::Unknown => FlowKind::Egress,
            });
        }
        for record in &mut batch.udp {
            self.process_udp(&mut record.flow);
        }
        if evicted > 0 {
            self.evicted
                .add(evicted as u64, std::slice::from_ref(&self.processor));
        }
    }
}

impl Direction {
    fn process_udp(&self, flow: &mut Flow) {
        let (local, remote) = (flow.local.port, flow.remote.port);
        let (role, source) = match flow.role {
            Role::Unknown => match self.node.last().ephemeral_ports.role(local, remote) {
                Role::Unknown => (Role::Unknown, RoleSource::Assumed),
                role => (role, RoleSource::Ports),
            },
            role => (role, flow.role_source),
        };
        let kind = match role {
            Role::Server => FlowKind::Ingress,
            Role::Client | Role::Unknown => FlowKind::Egress,
        };
        (flow.kind, flow.role, flow.role_source) = (Some(kind), role, source);
        if source == RoleSource::Assumed {
            self.hide_port(flow, kind);
        }
    }

    /// Leaves out the server's port where it says nothing of a service: it would be a label of a series for each connection.
    fn hide_port(&self, flow: &mut Flow, kind: FlowKind) {
        let end = match kind {
            FlowKind::Ingress => &mut flow.local,
            FlowKind::Egress => &mut flow.remote,
        };
        if !self.keeps_ports && self.node.last().ephemeral_ports.contains(end.port) {
            end.port = 0;
        }
    }
}

#[cfg(test)]
mod tests;
