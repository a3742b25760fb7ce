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
//! 5 and 11 are in `exclusive`. Not with every reading of a config: processors that work for nothing (`unused`).

use std::collections::BTreeSet;

use figment::value::{Dict, Value};
use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::contract::{FieldKey, Need, Signal};
use flowtap_pipeline::{
    ComponentId, ComponentKind, Contract, Dependency, PeerClass, PipelineId, PipelineKind, RecordField,
    Registry,
};

use crate::check::{Checker, path};
use crate::config::{Config, PipelineConfig};
use crate::diagnostic::{Diagnostic, key_of};
use crate::layers::find;
use crate::{aliases, suggest};

mod exclusive;
mod unused;

/// A component of a pipeline, with its position in the list of its kind.
struct Stage<'a> {
    kind: ComponentKind,
    index: usize,
    id: &'a ComponentId,
    contract: Contract,
}

impl Stage<'_> {
    fn fills(&self, field: RecordField) -> bool {
        self.contract.fills.contains(&field)
    }

    /// Whether it needs the field, or uses it if something fills it.
    fn uses(&self, field: RecordField) -> bool {
        let mut needs = self.contract.needs.iter();
        needs.any(|need| need.field == field) || self.contract.uses.contains(&field)
    }
}

/// The components of a pipeline in the order in which records reach them; `None` if one of them is wrong, which is reported
/// elsewhere.
fn stages<'a>(config: &Config, pipeline: &'a PipelineConfig) -> Option<Vec<Stage<'a>>> {
    let list = |kind: ComponentKind, ids: &'a [ComponentId]| {
        ids.iter().enumerate().map(move |(index, id)| {
            let contract = match kind {
                ComponentKind::Receiver => config.receivers.get(id).map(|config| config.contract()),
                ComponentKind::Processor => config.processors.get(id).map(|config| config.contract()),
                ComponentKind::Exporter => config.exporters.get(id).map(|config| config.contract()),
                ComponentKind::Extension => config.extensions.get(id).map(|config| config.contract()),
            };
            contract.map(|contract| Stage {
                kind,
                index,
                id,
                contract,
            })
        })
    };
    list(ComponentKind::Receiver, &pipeline.receivers)
        .chain(list(ComponentKind::Processor, &pipeline.processors))
        .chain(list(ComponentKind::Exporter, &pipeline.exporters))
        .collect()
}

/// The last processor.
fn processors_end<'a, 'b>(stages: &'b [Stage<'a>]) -> Option<&'b Stage<'a>> {
    let mut stages = stages.iter().rev();
    stages.find(|stage| stage.kind == ComponentKind::Processor)
}

/// Whether records with a peer come from `stages`: readings of devices have none, and so neither a role nor a class.
fn has_peers(stages: &[Stage<'_>]) -> bool {
    let receivers = stages
        .iter()
        .filter(|stage| stage.kind == ComponentKind::Receiver);
    let mut signals = receivers.flat_map(|stage| stage.contract.signals_out(stage.kind));
    signals.any(|signal| signal != Signal::Readings)
}

/// Where the list of a pipeline in `values` names a component. Entries that are to be removed are in that list, and are not stages.
fn place(values: Option<&Dict>, pipeline: &str, stage: &Stage<'_>) -> Vec<String> {
    let list = path(&["service", "pipelines", pipeline, stage.kind.section()]);
    let is_named = |value: &Value| value.as_str() == Some(stage.id.as_str());
    let index = match values.and_then(|values| find(values, &list)) {
        Some(Value::Array(_, list)) => list.iter().position(is_named),
        _ => None,
    };
    [list, vec![index.unwrap_or(stage.index).to_string()]].concat()
}

fn quoted(ids: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let quoted: Vec<_> = ids.into_iter().map(|id| format!("`{id}`")).collect();
    quoted.join(", ")
}

fn listed(signals: &BTreeSet<Signal>) -> String {
    let names: Vec<_> = signals.iter().map(ToString::to_string).collect();
    names.join(", ")
}

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
                        "`{}` takes {}, and what reaches it is {}",
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

    /// No exporter adds a label that the series have.
    fn labels(&mut self, config: &Config, pipeline: &str, stages: &[Stage<'_>]) {
        let Some(window) = stages.iter().find(|stage| stage.contract.is_aggregator()) else {
            return;
        };
        let labels = self.series_labels(window, stages);
        for stage in stages {
            let feeds = |id: &ComponentId| {
                // Only series have labels.
                let pipelines = config.pipelines.iter();
                let with_series = pipelines.filter(|(id, _)| id.kind() == PipelineKind::Metrics);
                with_series
                    .filter(|(_, pipeline)| pipeline.exporters.contains(id))
                    .count()
            };
            for (key, name) in &stage.contract.adds_labels {
                let owner = if labels.contains(name) {
                    format!(
                        "series of `{}` in the pipeline `{pipeline}` have a label `{name}`",
                        window.id
                    )
                } else if name == "pipeline" && feeds(stage.id) > 1 {
                    "series of several pipelines have a label `pipeline`".to_owned()
                } else {
                    continue;
                };
                let at = [path(&[stage.kind.section(), stage.id.as_str()]), key.clone()].concat();
                self.report(
                    &at,
                    format!("{owner}, and Prometheus rejects a scrape with two"),
                    Some(format!("choose another name, such as `node_{name}`")),
                );
            }
        }
    }

    /// The labels of the series of `window` after the changes of the components before it, which must not make two of one name.
    fn series_labels(&mut self, window: &Stage<'_>, stages: &[Stage<'_>]) -> BTreeSet<String> {
        let mut labels = window.contract.series_labels.clone();
        let exposed = |name: &str| name.replace('.', "_");
        for stage in stages {
            let changes = &stage.contract.label_changes;
            let names = |label: Label| [label.name().to_owned(), exposed(label.otel_name())];
            for label in &changes.drop {
                labels.retain(|name| !names(*label).contains(name));
            }
            for (label, _) in &changes.rename {
                labels.retain(|name| !names(*label).contains(name));
            }
            let renamed = changes.rename.iter();
            let renamed = renamed.map(|(label, name)| ("rename", label.name().to_owned(), name));
            let added = changes.add.iter();
            let added = added.map(|(name, _)| ("add", name.clone(), name));
            for (section, key, name) in renamed.chain(added) {
                if labels.insert(exposed(name)) {
                    continue;
                }
                let at = path(&[stage.kind.section(), stage.id.as_str(), section, &key]);
                let message = format!(
                    "series of `{}` have a label `{name}` already, and Prometheus rejects a scrape with two",
                    window.id
                );
                let help = format!("choose another name, such as `my_{name}`");
                self.report(&at, message, Some(help));
            }
        }
        labels
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

    /// Whether every field that the component at `position` needs is filled before it.
    fn needs(
        &mut self,
        pipeline: &str,
        stages: &[Stage<'_>],
        position: usize,
        registry: &Registry,
    ) -> Vec<Diagnostic> {
        let stage = &stages[position];
        let mut warnings = Vec::new();
        let mut reported = BTreeSet::new();
        for Need { field, key } in &stage.contract.needs {
            if stages[..position].iter().any(|before| before.fills(*field)) {
                continue;
            }
            if let Some(later) = stages[position + 1..].iter().find(|after| after.fills(*field)) {
                if reported.insert(*field) {
                    let message = format!(
                        "`{}` needs {field}, which `{}` fills only after it",
                        stage.id, later.id
                    );
                    let help = format!("put `{}` before `{}`", later.id, stage.id);
                    self.report(&self.place(pipeline, stage), message, Some(help));
                }
                continue;
            }
            let help = remedy(*field, stage, stages, registry);
            let component = path(&[stage.kind.section(), stage.id.as_str()]);
            if let Some(key) = key {
                let message = format!(
                    "needs {field}, which no component of the pipeline `{pipeline}` fills: {}",
                    field.if_missing()
                );
                self.report(&[component, key.clone()].concat(), message, help);
            } else if has_peers(&stages[..position]) {
                let message = format!(
                    "`{}` uses {field}, which no component of the pipeline `{pipeline}` fills: {}",
                    stage.id,
                    field.if_missing()
                );
                warnings.push(self.diagnostic(&self.place(pipeline, stage), message, help));
            }
        }
        warnings
    }

    /// Fields that a component fills because its config asks for them, and that nothing in its pipelines uses. Fields of flow log
    /// records are not declared, so pipelines of logs use every field.
    pub(crate) fn unused_fields(&self, config: &Config, registry: &Registry) -> Vec<Diagnostic> {
        let mut used = BTreeSet::new();
        let mut filled = Vec::new();
        for (name, pipeline) in &config.pipelines {
            let Some(stages) = stages(config, pipeline) else {
                continue;
            };
            for stage in &stages {
                for FieldKey { field, key, .. } in &stage.contract.fill_keys {
                    if !stage.fills(*field) {
                        continue;
                    }
                    let of = (stage.kind.section(), stage.id, *field);
                    if name.kind() == PipelineKind::Logs || stages.iter().any(|stage| stage.uses(*field)) {
                        used.insert(of);
                    }
                    filled.push((of, key.clone(), use_of(*field, stage, &stages, registry)));
                }
            }
        }
        filled.retain(|(of, ..)| !used.contains(of));
        let warning =
            |((section, id, field), key, help): ((&str, &ComponentId, RecordField), Vec<String>, String)| {
                let at = [path(&[section, id.as_str()]), key].concat();
                let message = format!("makes `{id}` fill {field}, and no component of its pipelines uses it");
                self.diagnostic(&at, message, Some(help))
            };
        filled.into_iter().map(warning).collect()
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

/// Ways to use a field that `filler` fills because a key asks for it, as advice.
fn use_of(field: RecordField, filler: &Stage<'_>, stages: &[Stage<'_>], registry: &Registry) -> String {
    let mut ways = Vec::new();
    for stage in stages {
        let keys = stage
            .contract
            .use_keys
            .iter()
            .filter(|keyed| keyed.field == field);
        ways.extend(keys.filter_map(|FieldKey { key, value, .. }| {
            let key = key_of(&[path(&[stage.kind.section(), stage.id.as_str()]), key.clone()].concat());
            Some(format!("list `{}` in `{key}`", (*value)?))
        }));
    }
    let processors = registry.processors().values();
    let users = processors.filter(|factory| {
        let contract = factory.default().contract();
        let mut always = contract.needs.iter().filter(|need| need.key.is_none());
        !contract.is_aggregator() && always.any(|need| need.field == field)
    });
    ways.extend(users.map(|factory| format!("add the processor `{}`", factory.type_name)));
    if ways.is_empty() {
        return "remove the key, or add a component that uses it".to_owned();
    }
    let ways = ways.join(", or ");
    if filler.kind == ComponentKind::Receiver {
        format!("{ways}; otherwise only recordings of `flowtap record` have it")
    } else {
        ways
    }
}

/// The keys with which components of this pipeline can fill a field; if there are none, those of the types of this build.
fn keys_that_fill(field: RecordField, stages: &[Stage<'_>], registry: &Registry) -> Vec<String> {
    let keys_of = |kind: ComponentKind, id: &str, contract: &Contract| -> Vec<String> {
        let keyed = contract.fill_keys.iter().filter(|keyed| keyed.field == field);
        let keys = keyed.map(|keyed| key_of(&[path(&[kind.section(), id]), keyed.key.clone()].concat()));
        keys.collect()
    };
    let of_stages = stages.iter();
    let keys: Vec<_> = of_stages
        .flat_map(|stage| keys_of(stage.kind, stage.id.as_str(), &stage.contract))
        .collect();
    if !keys.is_empty() {
        return keys;
    }
    let receivers = registry.receivers().values().map(|factory| {
        let contract = factory.default().contract();
        (ComponentKind::Receiver, factory.type_name, contract)
    });
    let processors = registry.processors().values().map(|factory| {
        let contract = factory.default().contract();
        (ComponentKind::Processor, factory.type_name, contract)
    });
    let types = receivers.chain(processors);
    types
        .flat_map(|(kind, name, contract)| keys_of(kind, name, &contract))
        .collect()
}

/// The component types of this build that fill a field, as advice.
fn remedy(
    field: RecordField,
    stage: &Stage<'_>,
    stages: &[Stage<'_>],
    registry: &Registry,
) -> Option<String> {
    let keys = keys_that_fill(field, stages, registry);
    if !keys.is_empty() {
        let one = if keys.len() == 1 { "" } else { "one of " };
        return Some(format!("set {one}{}", quoted(keys.iter().map(String::as_str))));
    }
    let fills = |contract: Contract| contract.fills.contains(&field);
    let processors = registry.processors().values();
    let processors = processors.filter(|factory| fills(factory.default().contract()));
    let processors: Vec<_> = processors.map(|factory| factory.type_name).collect();
    if !processors.is_empty() {
        let one = if processors.len() == 1 { "" } else { "one of " };
        return Some(format!("put {one}{} before `{}`", quoted(processors), stage.id));
    }
    let receivers = registry.receivers().values();
    let receivers = receivers.filter(|factory| fills(factory.default().contract()));
    let receivers = quoted(receivers.map(|factory| factory.type_name));
    (!receivers.is_empty()).then(|| format!("it is filled by {receivers}"))
}

/// The exporter types of this build that take one of `signals`, as advice.
fn exporters_of(signals: &BTreeSet<Signal>, registry: &Registry) -> Option<String> {
    let exporters = registry.exporters().values();
    let takes = |contract: Contract| !contract.signals_in(ComponentKind::Exporter).is_disjoint(signals);
    let exporters = exporters.filter(|factory| takes(factory.default().contract()));
    let names = quoted(exporters.map(|factory| factory.type_name));
    (!names.is_empty()).then(|| format!("exporters that take {}: {names}", listed(signals)))
}
