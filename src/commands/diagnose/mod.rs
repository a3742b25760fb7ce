//! `flowtap diagnose`: is it the network, the receiver or the application?
//!
//! In: the receivers of a config, for a while, or a recording. Out: a sentence and its evidence, for a peer, a process, a service, or
//! for all, and a line for each of the peers that had connections for the longest time.

mod gather;
mod target;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtap_config::{Config, MetricsConfig};
use flowtap_engine::runner;
use flowtap_extensions::short::counted;
use flowtap_extensions::telemetry::{self, LogWriter, Telemetry};
use flowtap_extensions::verdict::{Evidence, PeerVerdict, Sums, Verdict, judge, verdicts};
use flowtap_pipeline::plain::plain;
use flowtap_pipeline::{ComponentId, Contract, PipelineId, Registry, Signal};
use serde::Serialize;

use self::gather::Gather;
use self::target::Target;
use super::config::load_for;
use super::replay::Recording;
use crate::cli::DiagnoseArgs;
use crate::daemon;
use crate::daemon::graph::{self, Environment};
use crate::exit::{Code, ExitError};

/// Config overrides for measuring: shorter intervals distinguish network and answer better, and a peer is asked for by its port,
/// whatever that port is. There are no series here that ephemeral ports could multiply.
const OVERRIDES: [&str; 4] = [
    "processors.direction.keep_ephemeral_ports=true",
    "receivers.ebpf.interval=1s",
    "service.admin.endpoint=null",
    "service.telemetry.metrics.endpoint=null",
];

/// The answer as text, or as JSON.
///
/// # Errors
/// Returns the reason that this machine can't be measured, or that a recording can't be read.
pub(crate) fn diagnose(args: &DiagnoseArgs, registry: &Registry) -> Result<String, ExitError> {
    let mut sources = args.config.clone();
    sources.set.extend(OVERRIDES.map(str::to_owned));
    let about = ["processors.direction", "processors.policy", "service.kubernetes"];
    let mut config = load_for(&sources, registry, &about)?;
    without_udp(&mut config);
    let processors = &config.processors;
    for pipeline in config.pipelines.values_mut() {
        let is_kept = |id: &ComponentId| {
            processors
                .get(id)
                .is_some_and(|config| names_ends(&config.contract()))
        };
        pipeline.processors.retain(is_kept);
    }
    let config = &config;
    let target = args.target.as_deref().map_or(Ok(Target::All), Target::parse);
    let target = Arc::new(target.map_err(|message| ExitError::new(Code::Usage, message))?);
    if let (Target::Process(pid), None) = (&*target, &args.file)
        && !Path::new("/proc").join(pid.to_string()).exists()
    {
        let message =
            format!("process {pid} does not exist; hint: process ids are those of the initial pid namespace");
        return Err(ExitError::new(Code::Usage, message));
    }
    let gathered = match &args.file {
        Some(file) => gather_recording(config, &target, file)?,
        None => gather_live(config, &target, args.duration)?,
    };
    let answer = Answer::new(&target, &gathered, args.limit);
    if args.json {
        let text =
            serde_json::to_string_pretty(&answer).map_err(|error| ExitError::new(Code::Software, error))?;
        return Ok(text + "\n");
    }
    Ok(answer.text())
}

/// Leaves out UDP, which no verdict is about: no program is loaded for it, and no warning about it is logged.
fn without_udp(config: &mut Config) {
    for receiver in config.receivers.values_mut() {
        if let Some(without) = receiver.without(Signal::Udp) {
            *receiver = without;
        }
    }
}

/// Whether a processor names ends for the verdict, and passes every record on with the addresses that the target is compared with.
/// One that fills nothing has no part in it: `watch` would only learn. The window at the end is replaced.
fn names_ends(contract: &Contract) -> bool {
    let fills = !contract.fills.is_empty() && !contract.drops_records && !contract.changes_addresses;
    fills || contract.is_aggregator()
}

/// The first pipeline's name and config: its processors name the ends.
fn pipeline(config: &Config) -> Result<(&PipelineId, &flowtap_config::PipelineConfig), ExitError> {
    let first = config.pipelines.iter().next();
    first.ok_or_else(|| {
        ExitError::new(
            Code::Config,
            "the config has no pipeline\n  hint: add one under service.pipelines",
        )
    })
}

fn gather_recording(config: &Config, target: &Arc<Target>, file: &Path) -> Result<Sums, ExitError> {
    let (name, pipeline) = pipeline(config)?;
    let mut recording = Recording::open(file)?;
    let (gather, gathered) = Gather::new(Arc::clone(target));
    let stages = recording.stages(config, name, pipeline)?;
    recording.play(stages.with_window(Box::new(gather)))?;
    Ok(taken(&gathered))
}

fn gather_live(config: &Config, target: &Arc<Target>, duration: Duration) -> Result<Sums, ExitError> {
    let (name, _) = pipeline(config)?;
    let log = LogWriter::stderr()?;
    telemetry::init_logs(&config.service.telemetry.logs, log.clone())?;
    let (gather, gathered) = Gather::new(Arc::clone(target));
    let measured = daemon::runtime()?.block_on(async {
        let telemetry = Telemetry::new(&flowtap_pipeline::Resource::default(), &MetricsConfig::default())?;
        let environment = Environment::now();
        let stop = daemon::stop_on_signal()?;
        let mut graph = graph::build(config, &telemetry.meter(), &environment, false)?;
        graph.exporters.clear();
        graph.pipelines.retain(|node| *node.name == *name.to_string());
        let mut gather = Some(gather);
        for node in std::mem::take(&mut graph.pipelines) {
            let Some(gather) = gather.take() else { break };
            graph.pipelines.push(runner::PipelineNode {
                stages: node.stages.with_window(Box::new(gather)),
                exporters: Vec::new(),
                ..node
            });
        }
        let ready = || {
            tracing::info!(
                seconds = duration.as_secs(),
                "measuring; an interrupt ends it early"
            );
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::time::sleep(duration).await;
                stop.cancel();
            });
        };
        let deadline = config.service.shutdown_timeout;
        runner::run(graph, &telemetry.meter(), stop.clone(), deadline, ready).await?;
        Ok::<_, ExitError>(())
    });
    log.flush(Duration::from_secs(1));
    measured?;
    Ok(taken(&gathered))
}

fn taken(gathered: &Mutex<Sums>) -> Sums {
    std::mem::take(&mut *gathered.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    target: String,
    #[serde(flatten)]
    verdict: Verdict,
    /// The numbers that it rests on.
    measured: Evidence,
    /// Packets that the kernel dropped on this machine meanwhile, and that were lost, by reason.
    drops: std::collections::BTreeMap<&'static str, u64>,
    /// The peers that had connections for the longest time.
    peers: Vec<PeerVerdict>,
    /// Records of peers beyond those that are listed.
    records_of_further_peers: u64,
    /// Records of connections whose queues are not in the sums.
    records_without_queues: u64,
}

impl Answer {
    fn new(target: &Target, gathered: &Sums, limit: usize) -> Self {
        let mut verdict = judge(&gathered.all);
        if let Target::Name(name) = target
            && gathered.all == Evidence::default()
        {
            verdict.sentence = format!(
                "nothing of a process, pod, workload, service, namespace or node `{}` was seen in this period; hint: `flowtap diagnose` \
                 without a name lists peers",
                plain(name)
            );
        }
        Self {
            target: target.to_string(),
            verdict,
            measured: gathered.all.clone(),
            drops: gathered.drops.clone(),
            peers: verdicts(gathered, limit),
            records_of_further_peers: gathered.further,
            records_without_queues: gathered.unqueued,
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{}\n\n  {}: {}\n\n",
            plain(&self.target),
            self.verdict.cause.name(),
            self.verdict.sentence
        );
        // Writing to a String does not fail.
        for line in &self.verdict.evidence {
            let _ = writeln!(text, "  {line}");
        }
        for (reason, packets) in &self.drops {
            let packets = counted(*packets, "packet", "packets");
            let _ = writeln!(text, "  {packets} dropped on this machine meanwhile: {reason}");
        }
        if self.peers.len() > 1 {
            text.push_str("\nby peer:\n");
            for peer in &self.peers {
                let address = format!("{} port {}", peer.raddr, peer.server_port);
                let cause = peer.verdict.cause.name();
                let _ = writeln!(
                    text,
                    "  {address:<28} {:<8} {cause:<14} {}",
                    peer.flow, peer.verdict.sentence
                );
            }
        }
        if self.records_of_further_peers > 0 {
            let records = counted(self.records_of_further_peers, "record", "records");
            let _ = writeln!(text, "  and {records} of further peers");
        }
        if self.records_without_queues > 0 {
            let _ = writeln!(
                text,
                "  queues of further connections are not in the sums: {}",
                counted(self.records_without_queues, "record", "records")
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_that_drop_records_or_change_addresses_are_left_out() {
        use flowtap_pipeline::RecordField;
        let names = || Contract::default().fills([RecordField::Role]);
        assert!(names_ends(&names()));
        assert!(names_ends(&Contract::default().gives([Signal::Metrics])));
        let others = [
            Contract::default(),
            names().drops_records(),
            names().changes_addresses(),
            names().truncates_addresses(&["truncate"]),
        ];
        assert!(!others.iter().any(names_ends));
        // Of this build's.
        let registry = crate::components::registry();
        let kept = registry.processors().values().filter(|factory| {
            let contract = factory.default().contract();
            names_ends(&contract) && !contract.is_aggregator()
        });
        let kept: Vec<_> = kept.map(|factory| factory.type_name).collect();
        let left_out = ["filter", "watch"];
        assert!(
            ["direction", "policy", "names"]
                .iter()
                .all(|name| kept.contains(name)),
            "{kept:?}"
        );
        assert!(!left_out.iter().any(|name| kept.contains(name)), "{kept:?}");
    }

    #[test]
    fn control_characters_of_the_argument_are_escaped() {
        let target = Target::parse("\u{1b}[31mx").unwrap();
        let text = Answer::new(&target, &Sums::default(), 1).text();
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(text.matches(r"\u{1b}[31mx").count(), 2, "{text:?}");
    }
}
