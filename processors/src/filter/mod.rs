//! The processor `filter`: drops the records that nobody wants, before they cost a series.
//!
//! In: records of any signal. Out: the same without some. The rules:
//!
//! 1. With `include`, a record that none of its matchers matches is dropped.
//! 2. A record that a matcher of `exclude` matches is dropped.
//! 3. With `self: exclude`, a record of a socket of this process is dropped.
//! 4. Conditions that can change while a connection is open apply to the connection as a whole ([`decisions`]): all its records are
//!    kept or none, so that a gauge of open connections stays right. Only a census can change that.
//! 5. Dropped records are counted with reason `filter`, records and bytes: in = out + dropped.

mod compiled;
mod config;
mod decisions;
mod ports;

use flowtap_pipeline::telemetry::ProcessorTelemetry;
use flowtap_pipeline::{
    BuildContext, BuildError, Factory, Flow, FlowBatch, NodeInfo, Processor, ProcessorConfig, ProcessorStage,
    Stability, Subscription, TcpRecord, UdpRecord,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

pub use self::config::{Config, End, Matcher, OwnTraffic, Side, TransportName};
pub use self::ports::{InvalidPorts, PortRange};

use self::compiled::Matchers;
use self::decisions::{Candidate, Decisions, GROUP};

/// Why records are left out.
const FILTER: &str = "filter";

/// The processor type `filter`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "filter",
    "keeps or drops records by address, port, class, role, process, ...",
    Stability::Beta,
);

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        if self.own == OwnTraffic::Exclude && context.node.load().own_pid == 0 {
            // Also of a recording, which may be of another process: hence a warning and not an error.
            tracing::warn!(
                processor = %context.id,
                "self: the id of this process in the initial pid namespace is unknown, so its connections are not recognized\n  \
                 hint: run it in the host's pid namespace (`hostPID: true`, `--pid=host`)"
            );
        }
        Ok(ProcessorStage::Transform(Box::new(Filter::new(self, context))))
    }
}

/// The processor.
#[derive(Debug)]
pub struct Filter {
    rules: Rules,
    /// `None` if every condition is about what never changes: each record is judged by itself then.
    decisions: Option<Decisions>,
    /// Decisions on the TCP records of the batch, a bit for each; kept so that no batch allocates.
    kept: Vec<u64>,
    node: Subscription<NodeInfo>,
    dropped: ProcessorTelemetry,
    passed: Counter<u64>,
    untracked: Counter<u64>,
    labels: [KeyValue; 2],
}

/// Conditions on a record.
#[derive(Debug)]
struct Rules {
    include: Matchers,
    exclude: Matchers,
    exclude_own: bool,
    /// Id of this process; 0 if it is unknown, as is that of the process of some flows.
    own_pid: u32,
}

impl Rules {
    fn keeps(&self, flow: &Flow) -> bool {
        (self.include.is_empty() || self.include.any(flow)) && !self.exclude.any(flow) && !self.is_own(flow)
    }

    const fn is_own(&self, flow: &Flow) -> bool {
        self.exclude_own && flow.pid != 0 && flow.pid == self.own_pid
    }
}

impl Filter {
    /// With what is known now.
    pub fn new(config: &Config, context: &BuildContext) -> Self {
        let node = Subscription::new(&context.node);
        let exclude_own = config.own == OwnTraffic::Exclude;
        let mut matchers = config.include.iter().chain(&config.exclude);
        let can_change = exclude_own || matchers.any(Matcher::can_change);
        let labels = [
            KeyValue::new("processor", context.id.to_string()),
            KeyValue::new("pipeline", context.pipeline.to_string()),
        ];
        let untracked = context
            .meter
            .u64_counter("processor_filter_untracked_records")
            .with_description(
                "Records of connections beyond those that a filter can follow, each judged by itself.",
            )
            .with_unit("{record}")
            .build();
        untracked.add(0, &labels);
        let passed = context
            .meter
            .u64_counter("processor_filter_passed_records")
            .with_description("Flow records that a filter let pass.")
            .with_unit("{record}")
            .build();
        passed.add(0, &labels);
        Self {
            rules: Rules {
                include: Matchers::new(&config.include),
                exclude: Matchers::new(&config.exclude),
                exclude_own,
                own_pid: node.last().own_pid,
            },
            decisions: can_change.then(Decisions::default),
            kept: Vec::new(),
            node,
            dropped: ProcessorTelemetry::new(&context.meter, &context.id, &context.pipeline, &[FILTER]),
            passed,
            untracked,
            labels,
        }
    }

    /// Drops TCP records; returns their payload bytes.
    fn filter_tcp(&mut self, receiver: u16, records: &mut Vec<TcpRecord>) -> u64 {
        let Self {
            rules,
            decisions,
            kept,
            ..
        } = self;
        let Some(decisions) = decisions.as_mut().filter(|_| receiver != FlowBatch::DETACHED) else {
            return retain(records, tcp_bytes, |record| rules.keeps(&record.flow));
        };
        kept.clear();
        for group in records.chunks(GROUP) {
            let candidates = group.iter().map(|record| Candidate {
                cookie: record.flow.cookie,
                events: record.events,
                wanted: rules.keeps(&record.flow),
            });
            kept.push(decisions.decide_group(receiver, candidates));
        }
        let mut index = 0;
        retain(records, tcp_bytes, |_| {
            let keep = kept[index / GROUP] >> (index % GROUP) & 1 != 0;
            index += 1;
            keep
        })
    }
}

/// Drops records that are not to be kept; returns their payload bytes, which `bytes` has of each.
fn retain<R>(records: &mut Vec<R>, bytes: fn(&R) -> [i64; 2], mut keeps: impl FnMut(&R) -> bool) -> u64 {
    let mut dropped = 0;
    records.retain(|record| {
        let keep = keeps(record);
        if !keep {
            dropped += bytes(record)
                .map(|bytes| bytes.max(0).unsigned_abs())
                .iter()
                .sum::<u64>();
        }
        keep
    });
    dropped
}

const fn tcp_bytes(record: &TcpRecord) -> [i64; 2] {
    [record.sent_bytes, record.received_bytes]
}

const fn udp_bytes(record: &UdpRecord) -> [i64; 2] {
    [record.sent_bytes, record.received_bytes]
}

impl Processor for Filter {
    fn process(&mut self, batch: &mut FlowBatch) {
        if self.node.refresh() {
            self.rules.own_pid = self.node.last().own_pid;
        }
        let before = batch.records();
        if let Some(decisions) = self.decisions.as_mut().filter(|_| batch.census.begins) {
            decisions.begin_census(batch.receiver);
        }
        // Apart from other signals, which have no life that a gauge follows and no payload: the bytes of dropped packets have headers.
        let mut tcp = std::mem::take(&mut batch.tcp);
        let mut udp = std::mem::take(&mut batch.udp);
        let bytes = self.filter_tcp(batch.receiver, &mut tcp);
        let rules = &self.rules;
        let bytes = bytes + retain(&mut udp, udp_bytes, |record| rules.keeps(&record.flow));
        batch.retain(|flow| rules.keeps(flow));
        (batch.tcp, batch.udp) = (tcp, udp);
        let passed = batch.records();
        let dropped = before - passed;
        if passed > 0 {
            self.passed.add(passed as u64, &self.labels);
        }
        self.dropped.dropped(dropped as u64, bytes, FILTER);
        if let Some(decisions) = &mut self.decisions {
            if batch.census.ends {
                decisions.end_census(batch.receiver);
            }
            let untracked = decisions.take_untracked();
            if untracked > 0 {
                self.untracked.add(untracked, &self.labels);
            }
        }
    }

    fn wants_census(&self, receiver: u16) -> bool {
        let decisions = self.decisions.as_ref();
        decisions.is_some_and(|decisions| decisions.wants_census(receiver))
    }
}

#[cfg(test)]
mod tests;
