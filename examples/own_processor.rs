//! A custom distribution: flowtap with one more processor, `drop_peers`, which drops records by the peer's class and port.
//!
//! In: records with their class. Out: the same without those that match. The rules, in order:
//!
//! 1. A record whose class is in `classes` is dropped.
//! 2. A record whose peer has a port in `ports` is dropped.
//! 3. Each record that is dropped is counted with its payload bytes, by reason: `processor_dropped_records`, `processor_dropped_bytes`.
//!
//! `docs/extending.md` explains it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use flowtap_pipeline::telemetry::ProcessorTelemetry;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Contract, Factory, Flow, FlowBatch, Processor,
    ProcessorConfig, ProcessorStage, RecordField, Stability, Violation,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    flowtap::main(&flowtap::components::registry().processor(FACTORY))
}

/// The processor type `drop_peers`.
const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "drop_peers",
    "drops records by the peer's class and port",
    Stability::Alpha,
);

/// Settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Classes of peers to drop, such as `localhost`.
    classes: Vec<String>,
    /// Ports of peers to drop.
    ports: Vec<u16>,
}

impl ComponentConfig for Config {
    fn validate(&self) -> Vec<Violation> {
        if self.classes.is_empty() && self.ports.is_empty() {
            return vec![Violation::new(
                "",
                "drops nothing; hint: set `classes` or `ports`",
            )];
        }
        Vec::new()
    }

    fn contract(&self) -> Contract {
        // `flowtap diagnose` leaves it out.
        let contract = Contract::default().drops_records();
        if self.classes.is_empty() {
            return contract;
        }
        // Before `policy` no record has a class: `validate` rejects a pipeline in that order.
        contract.needs_for(RecordField::Class, &["classes"])
    }
}

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        let dropped = ProcessorTelemetry::new(&context.meter, &context.id, &context.pipeline, &[PEER]);
        Ok(ProcessorStage::Transform(Box::new(DropPeers {
            config: self.clone(),
            dropped,
        })))
    }
}

/// The reason of the counters.
const PEER: &str = "peer";

/// The processor.
struct DropPeers {
    config: Config,
    dropped: ProcessorTelemetry,
}

impl DropPeers {
    fn matches(&self, flow: &Flow) -> bool {
        let class = flow.class.map(flowtap_pipeline::PeerClass::as_str);
        class.is_some_and(|class| self.config.classes.iter().any(|dropped| dropped == class))
            || self.config.ports.contains(&flow.remote.port)
    }
}

impl Processor for DropPeers {
    fn process(&mut self, batch: &mut FlowBatch) {
        let before = payload_bytes(batch);
        let dropped = batch.retain(|flow| !self.matches(flow));
        let bytes = before.saturating_sub(payload_bytes(batch));
        self.dropped.dropped(dropped as u64, bytes, PEER);
    }
}

/// Payload of TCP and UDP; other records have none of their own. A correction is below zero.
fn payload_bytes(batch: &FlowBatch) -> u64 {
    let tcp = batch
        .tcp
        .iter()
        .map(|record| record.sent_bytes + record.received_bytes);
    let udp = batch
        .udp
        .iter()
        .map(|record| record.sent_bytes + record.received_bytes);
    tcp.chain(udp).map(|bytes| bytes.max(0).unsigned_abs()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowtap_pipeline::testing::{Instruments, ProcessorTest, config, context, record};
    use flowtap_pipeline::{PeerClass, TcpRecord};

    #[test]
    fn records_of_a_dropped_class_or_port_do_not_pass() {
        let mut drop_peers = ProcessorTest::new(FACTORY, "{classes: [localhost], ports: [22]}");
        let local = record("127.0.0.1:40000", "127.0.0.1:443").with_flow(|flow| Flow {
            class: Some(PeerClass::Localhost),
            ..flow
        });
        let passed = drop_peers.process([
            local,
            record("192.0.2.1:40001", "198.51.100.7:22"),
            record("192.0.2.1:40002", "198.51.100.7:443"),
        ]);
        let ports: Vec<_> = passed.iter().map(|record| record.flow.local.port).collect();
        assert_eq!(ports, [40002]);
    }

    #[test]
    fn what_is_dropped_is_counted_with_its_bytes() {
        let instruments = Instruments::new();
        let context = BuildContext {
            meter: instruments.meter(),
            ..context("drop_peers")
        };
        let mut drop_peers = ProcessorTest::in_context(FACTORY, "ports: [22]", &context);
        drop_peers.process([TcpRecord {
            sent_bytes: 700,
            received_bytes: 50,
            ..record("192.0.2.1:40001", "198.51.100.7:22")
        }]);
        let labels = "pipeline=metrics,processor=drop_peers,reason=peer";
        let records = instruments.series("processor_dropped_records");
        assert_eq!(records, [(labels.to_owned(), 1)]);
        // The unit completes the name for Prometheus: `processor_dropped_bytes_total`.
        let bytes = instruments.series("processor_dropped");
        assert_eq!(bytes, [(labels.to_owned(), 750)]);
    }

    #[test]
    fn a_config_that_drops_nothing_is_not_valid() {
        let error = config(FACTORY, "").expect_err("the config was accepted");
        assert!(error.contains("hint: set `classes` or `ports`"), "{error}");
    }
}
