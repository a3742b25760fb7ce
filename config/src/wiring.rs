//! Checks of the components of a pipeline against each other, by their contracts.
//!
//! In: components that are right by themselves, and pipelines that name them. Reported:
//!
//! 1. A processor or exporter that takes none of the signals that reach it.
//! 2. A field of records that a component needs and that only a later processor fills.
//! 3. A field that a key asks for and that nothing in the pipeline fills. Without such a key it is a warning: the component works,
//!    with less; none where no records have a peer.
//! 4. Two receivers of one pipeline that report the same sockets: their bytes would count twice.
//! 5. Two listeners on one port of one address.
//!    Two components that write to one place, which each wants for itself.
//! 6. A label that an exporter adds to series which have one of that name: Prometheus rejects a scrape with both.
//! 7. A label that a processor adds or renames to one of the series, for the same reason.
//! 8. A component that looks addresses up after one that shortens them.
//! 9. A class that a key names and that no component of the pipeline gives.
//! 10. Windows that don't end on measurements: a warning.
//! 11. A port that a Collector on this machine has by default, if something is pushed to one: a warning.
//! 12. A component that uses the names of a cluster while the watcher of the cluster is disabled: a warning.
//!
//! 2 and 3 are in `fields`, 5 and 11 in `exclusive`, 6 and 7 in `labels`. Not with every reading of a config: processors that work for
//! nothing (`unused`).

use std::collections::BTreeSet;

use flowtap_pipeline::contract::Signal;
use flowtap_pipeline::{ComponentKind, Contract, Dependency, PeerClass, PipelineId, RecordField, Registry};

use self::stage::{Stage, listed, place, processors_end, quoted, stages};
use crate::check::{Checker, path};
use crate::config::{Config, PipelineConfig};
use crate::diagnostic::{Diagnostic, key_of};
use crate::{aliases, suggest};

mod exclusive;
mod fields;
mod labels;
mod stage;
mod unused;

impl Checker<'_> {
    /// Checks a pipeline whose components are all defined; returns the warnings.
    pub(crate) fn wiring(
        &mut self,
        config: &Config,
        name: &str,
        pipeline: &PipelineConfig,
        registry: &Registry,
    ) -> Vec<Diagnostic> {
        let Some(stages) = stages(config, pipeline) else {
            return Vec::new();
        };
        self.signals(name, &stages, registry);
        self.overlaps(name, &stages);
        self.labels(config, name, &stages);
        self.classes(name, &stages);
        self.addresses(name, &stages);
        let mut warnings = Vec::new();
        warnings.extend(self.intervals(&stages));
        warnings.extend(self.namespaces(config, &stages));
        for position in 0..stages.len() {
            warnings.extend(self.needs(name, &stages, position, registry));
        }
        warnings.extend(self.names(config, &stages));
        warnings
    }

    /// Where the list of a pipeline names a component.
    fn place(&self, pipeline: &str, stage: &Stage<'_>) -> Vec<String> {
        place(Some(&self.merged.values), pipeline, stage)
    }

    /// Whether something about this entry of a pipeline is wrong already, such as that it is not defined: one mistake is one error.
    fn is_reported(&self, pipeline: &str, stage: &Stage<'_>) -> bool {
        let key = key_of(&self.place(pipeline, stage));
        self.diagnostics.iter().any(|diagnostic| diagnostic.key == key)
    }

    /// Each processor and exporter takes something that reaches it.
    fn signals(&mut self, pipeline: &str, stages: &[Stage<'_>], registry: &Registry) {
        if !stages.iter().any(|stage| stage.kind == ComponentKind::Receiver) {
            // Reported as a pipeline without a receiver.
            return;
        }
        let mut processors = stages
            .iter()
            .filter(|stage| stage.kind == ComponentKind::Processor);
        let last = processors.clone().count().checked_sub(1);
        let ends = processors.position(|stage| stage.contract.is_aggregator());
        if ends.is_none() || ends != last {
            // Reported as a pipeline without an aggregator at its end.
            return;
        }
        let given = processors_end(stages).and_then(|stage| stage.contract.pipeline_kind());
        if pipeline.parse::<PipelineId>().map(|id| id.kind()).ok() != given {
            // Reported as an aggregator that is not of the pipeline's kind. Its exporters fit the kind, not the aggregator.
            return;
        }
        let mut reaching = BTreeSet::new();
        for stage in stages {
            if stage.kind == ComponentKind::Exporter && self.is_reported(pipeline, stage) {
                continue;
            }
            let takes = stage.contract.signals_in(stage.kind);
            match stage.kind {
                ComponentKind::Receiver => reaching.extend(stage.contract.signals_out(stage.kind)),
                ComponentKind::Processor | ComponentKind::Exporter if takes.is_disjoint(&reaching) => {
                    let message = format!(
                        "`{}` takes {}, but receives {}",
                        stage.id,
                        listed(&takes),
                        listed(&reaching)
                    );
                    let help = (stage.kind == ComponentKind::Exporter)
                        .then(|| exporters_of(&reaching, registry))
                        .flatten();
                    self.report(&self.place(pipeline, stage), message, help);
                    // Further errors would have the same cause.
                    return;
                }
                ComponentKind::Processor => {
                    // Records end with the aggregator, whatever they are.
                    if stage.contract.is_aggregator() {
                        reaching.clear();
                    }
                    reaching.extend(stage.contract.signals_out(stage.kind));
                }
                ComponentKind::Exporter | ComponentKind::Extension => {}
            }
        }
    }

    /// No two receivers report the same sockets.
    fn overlaps(&mut self, pipeline: &str, stages: &[Stage<'_>]) {
        for (position, stage) in stages.iter().enumerate() {
            let Some(sockets) = stage.contract.covers else {
                continue;
            };
            let other = stages[..position].iter().find(|other| {
                let others = other.contract.covers;
                others.is_some_and(|others| sockets.overlaps(others))
            });
            if let Some(other) = other
                && ![stage, other]
                    .iter()
                    .any(|stage| self.is_reported(pipeline, stage))
            {
                let message = format!(
                    "`{}` reports {sockets} that `{}` reports as well, so their bytes would count twice",
                    stage.id, other.id
                );
                let help = format!("leave out one of them, or give `{}` its own pipeline", stage.id);
                self.report(&self.place(pipeline, stage), message, Some(help));
            }
        }
    }

    /// No component looks an address up that one before it has shortened.
    fn addresses(&mut self, pipeline: &str, stages: &[Stage<'_>]) {
        for (position, stage) in stages.iter().enumerate() {
            let Some(key) = &stage.contract.truncates_addresses else {
                continue;
            };
            for later in stages[position + 1..]
                .iter()
                .filter(|later| later.contract.reads_addresses)
            {
                let message = format!(
                    "`{}` looks addresses up that `{}` has shortened (`{}`)",
                    later.id,
                    stage.id,
                    key.join(".")
                );
                let help = format!("put `{}` before `{}`", later.id, stage.id);
                self.report(&self.place(pipeline, later), message, Some(help));
            }
        }
    }

    /// Each class that a key names is one that a peer can have.
    fn classes(&mut self, pipeline: &str, stages: &[Stage<'_>]) {
        let custom: BTreeSet<&str> = stages
            .iter()
            .flat_map(|stage| &stage.contract.classes)
            .map(String::as_str)
            .collect();
        for stage in stages {
            for (key, name) in &stage.contract.named_classes {
                if PeerClass::is_built_in(name) || custom.contains(&**name) {
                    continue;
                }
                let built_in = PeerClass::BUILT_IN.map(PeerClass::as_str);
                let available = built_in.into_iter().chain(custom.iter().copied());
                let message = format!(
                    "unknown class `{name}` in the pipeline `{pipeline}`; available: {}",
                    available.clone().collect::<Vec<_>>().join(", ")
                );
                let available: Vec<_> = available.collect();
                let meant = aliases::word("class", name).filter(|meant| available.contains(meant));
                let like = meant.or_else(|| suggest::closest(name, available));
                let help = like.map_or_else(
                    || "define it in `processors.policy.classes`".to_owned(),
                    |like| format!("did you mean `{like}`?"),
                );
                let at = [path(&[stage.kind.section(), stage.id.as_str()]), key.clone()].concat();
                self.report(&at, message, Some(help));
            }
        }
    }

    /// Windows end on measurements.
    fn intervals(&self, stages: &[Stage<'_>]) -> Vec<Diagnostic> {
        let Some(window) = stages.iter().find(|stage| stage.contract.is_aggregator()) else {
            return Vec::new();
        };
        let Some(length) = window.contract.interval else {
            return Vec::new();
        };
        let receivers = stages
            .iter()
            .filter(|stage| stage.kind == ComponentKind::Receiver);
        let uneven = receivers.filter_map(|stage| {
            let interval = stage.contract.interval.filter(|interval| !interval.is_zero())?;
            (length.as_nanos() % interval.as_nanos() != 0).then_some((stage, interval))
        });
        let warnings = uneven.map(|(stage, interval)| {
            let at = path(&[window.kind.section(), window.id.as_str(), "interval"]);
            let message = format!(
                "windows of {length:?} don't end on measurements of `{}`, which are {interval:?} apart: some windows have more of them than \
                 others",
                stage.id
            );
            let help = format!("make it a multiple of {interval:?}, or set `{}.{}.interval`", stage.kind.section(), stage.id);
            self.diagnostic(&at, message, Some(help))
        });
        warnings.collect()
    }

    /// A namespace that the names of the window don't have.
    fn namespaces(&self, config: &Config, stages: &[Stage<'_>]) -> Vec<Diagnostic> {
        let mut windows = stages.iter().filter_map(|stage| {
            let value = config.processors.get(stage.id)?.to_value().ok()?;
            value.find("naming")?.into_string()
        });
        if !windows.any(|naming| naming == "otel") {
            return Vec::new();
        }
        let exporters = stages
            .iter()
            .filter(|stage| stage.kind == ComponentKind::Exporter);
        let set = exporters.map(|stage| path(&[stage.kind.section(), stage.id.as_str(), "namespace"]));
        let warnings = set.filter(|at| self.merged.user_has(at)).map(|at| {
            let message = "has no effect with `naming: otel`, whose names begin with `flowtap`";
            self.diagnostic(
                &at,
                message,
                Some("remove it, or write `naming: primus_lens`".to_owned()),
            )
        });
        warnings.collect()
    }

    /// Names of a cluster come from its watcher.
    fn names(&self, config: &Config, stages: &[Stage<'_>]) -> Option<Diagnostic> {
        let uses_names = |stage: &&Stage<'_>| stage.contract.depends_on.contains(&Dependency::ClusterNames);
        let stage = stages.iter().find(uses_names)?;
        if config.service.kubernetes.enabled {
            return None;
        }
        let message = format!(
            "`{}` uses the names that the watcher of the cluster keeps, and it is disabled: {}",
            stage.id,
            RecordField::ClusterNames.if_missing()
        );
        let at = path(&["service", "kubernetes", "enabled"]);
        Some(self.diagnostic(&at, message, Some("set it to true".to_owned())))
    }
}

/// The exporter types of this build that take one of `signals`, as advice.
fn exporters_of(signals: &BTreeSet<Signal>, registry: &Registry) -> Option<String> {
    let exporters = registry.exporters().values();
    let takes = |contract: Contract| !contract.signals_in(ComponentKind::Exporter).is_disjoint(signals);
    let exporters = exporters.filter(|factory| takes(factory.default().contract()));
    let names = quoted(exporters.map(|factory| factory.type_name));
    (!names.is_empty()).then(|| format!("exporters that take {}: {names}", listed(signals)))
}
