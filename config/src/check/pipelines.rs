//! Pipelines: the components that they name, and the aggregator at their end; components that no pipeline names.

use std::collections::{BTreeMap, BTreeSet};

use figment::value::{Dict, Value};
use flowtap_pipeline::{
    ComponentId, ComponentKind, Contract, ExporterConfig, PipelineId, PipelineKind, ProcessorConfig,
    ReceiverConfig, Registry, Signal,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Checker, path};
use crate::aliases::{self, Meant};
use crate::config::{Config, PipelineConfig};
use crate::diagnostic::Diagnostic;
use crate::suggest::closest;

/// A pipeline as it is written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPipeline {
    pub(super) receivers: Vec<String>,
    pub(super) processors: Vec<String>,
    pub(super) exporters: Vec<String>,
}

impl Checker<'_> {
    /// Checks the components of the pipelines against each other.
    pub(super) fn wirings(
        &mut self,
        config: &Config,
        written: &BTreeMap<PipelineId, RawPipeline>,
        registry: &Registry,
    ) {
        // Of others some components are missing from the config, so what they fill is not known.
        let count = |kind, list: &[String]| self.wanted(kind, list).count();
        let is_complete = |(name, pipeline): &(&PipelineId, &PipelineConfig)| {
            written.get(*name).is_some_and(|written| {
                pipeline.receivers.len() == count(ComponentKind::Receiver, &written.receivers)
                    && pipeline.processors.len() == count(ComponentKind::Processor, &written.processors)
                    && pipeline.exporters.len() == count(ComponentKind::Exporter, &written.exporters)
            })
        };
        let complete: Vec<_> = config.pipelines.iter().filter(is_complete).collect();
        for (id, pipeline) in complete {
            let warnings = self.wiring(config, id.as_str(), pipeline, registry);
            self.warn_once(warnings);
        }
        let warnings = self.unused_fields(config, registry);
        self.warn_once(warnings);
    }

    fn warn_once(&mut self, warnings: Vec<Diagnostic>) {
        for warning in warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    pub(super) fn pipeline(
        &mut self,
        id: &PipelineId,
        written: &RawPipeline,
        receivers: &BTreeMap<ComponentId, Box<dyn ReceiverConfig>>,
        processors: &BTreeMap<ComponentId, Box<dyn ProcessorConfig>>,
        registry: &Registry,
    ) -> PipelineConfig {
        let name = id.as_str();
        let of = |kind: ComponentKind| path(&["service", "pipelines", name, kind.section()]);
        let config = PipelineConfig {
            receivers: self.references(
                &of(ComponentKind::Receiver),
                ComponentKind::Receiver,
                &written.receivers,
            ),
            processors: self.references(
                &of(ComponentKind::Processor),
                ComponentKind::Processor,
                &written.processors,
            ),
            exporters: self.references(
                &of(ComponentKind::Exporter),
                ComponentKind::Exporter,
                &written.exporters,
            ),
        };
        for (kind, list) in [
            (ComponentKind::Receiver, &written.receivers),
            (ComponentKind::Exporter, &written.exporters),
        ] {
            let at = path(&["service", "pipelines", name, kind.section()]);
            // A list that can't be read is a mistake already.
            let written = crate::layers::find(&self.merged.values, &at);
            let is_empty = match written {
                Some(Value::Array(_, list)) => list.is_empty(),
                Some(Value::Empty(..)) | None => true,
                Some(_) => false,
            };
            if list.is_empty() && is_empty {
                self.report(&at, format!("a pipeline needs at least one {kind}"), None);
            }
        }
        let has_peers = config
            .receivers
            .iter()
            .filter_map(|id| receivers.get(id))
            .any(|config| {
                let signals = config.contract().signals_out(ComponentKind::Receiver);
                signals.iter().any(|signal| *signal != Signal::Readings)
            });
        self.aggregator(id, written, &config.processors, processors, has_peers, registry);
        config
    }

    /// The ids of the list at `above`, each defined and there but once.
    ///
    /// Those that are not defined are among them as well, if [`assume`](Self::assume) could define them.
    pub(super) fn references(
        &mut self,
        above: &[String],
        kind: ComponentKind,
        written: &[String],
    ) -> Vec<ComponentId> {
        let mut ids = Vec::new();
        for (index, text) in written.iter().enumerate() {
            let at = [above, &[index.to_string()]].concat();
            let defined = self.section_keys(kind);
            match text.parse::<ComponentId>() {
                Err(error) => self.report(&at, error.to_string(), None),
                Ok(_) if self.removable.contains(&(kind, text.clone())) => {}
                Ok(id) if !defined.contains(text) => {
                    let alias = aliases::find(&[kind.section()], id.type_name());
                    let help = match closest(text, defined.iter().map(String::as_str)) {
                        Some(like) => format!("did you mean `{like}`?"),
                        None => match alias {
                            Some(alias) => alias.hint(None),
                            None => format!("define it: `{}: {{{text}: {{}}}}`", kind.section()),
                        },
                    };
                    if matches!(
                        alias.map(|alias| alias.meant),
                        Some(Meant::At(_) | Meant::Note(_))
                    ) {
                        self.removable.insert((kind, text.clone()));
                    }
                    self.report(&at, format!("the {kind} `{text}` is not defined"), Some(help));
                    if !ids.contains(&id) && alias.is_none() {
                        ids.push(id);
                    }
                }
                Ok(id) if ids.contains(&id) => self.report(&at, format!("duplicate `{text}`"), None),
                Ok(id) => ids.push(id),
            }
        }
        ids
    }

    /// The daemon's own metrics go to exporters that take metrics.
    pub(super) fn take_metrics(
        &mut self,
        above: &[String],
        ids: &[ComponentId],
        exporters: &BTreeMap<ComponentId, Box<dyn ExporterConfig>>,
    ) {
        for (index, id) in ids.iter().enumerate() {
            let takes = |config: &dyn ExporterConfig| {
                let contract = config.contract();
                contract
                    .signals_in(ComponentKind::Exporter)
                    .contains(&Signal::Metrics)
            };
            if exporters.get(id).is_some_and(|config| !takes(&**config)) {
                let at = [above, &[index.to_string()]].concat();
                let help = "leave it out, or name an exporter that takes metrics";
                self.report(
                    &at,
                    format!("`{id}` does not take metrics"),
                    Some(help.to_owned()),
                );
            }
        }
    }

    /// The keys that a section defines, valid or not, so that a component with a mistake is
    /// reported once.
    fn section_keys(&self, kind: ComponentKind) -> BTreeSet<String> {
        let sections = self.sections(kind).into_iter();
        let sections = sections.filter_map(|name| self.merged.values.get(&name)?.as_dict());
        sections.flat_map(Dict::keys).cloned().collect()
    }

    /// A pipeline ends in an aggregator of its kind, and has no other.
    fn aggregator(
        &mut self,
        pipeline: &PipelineId,
        written: &RawPipeline,
        ids: &[ComponentId],
        processors: &BTreeMap<ComponentId, Box<dyn ProcessorConfig>>,
        has_peers: bool,
        registry: &Registry,
    ) {
        let wanted = self.wanted(ComponentKind::Processor, &written.processors).count();
        if ids.len() != wanted || ids.iter().any(|id| !processors.contains_key(id)) {
            return;
        }
        let gives = |id: &ComponentId| {
            processors
                .get(id)
                .and_then(|config| config.contract().pipeline_kind())
        };
        let aggregates = |id: &ComponentId| gives(id).is_some();
        let at = path(&["service", "pipelines", pipeline.as_str(), "processors"]);
        let kind = pipeline.kind();
        let others: Vec<_> = ids.iter().filter(|id| !aggregates(id)).collect();
        let help = self.aggregator_hint(kind, &others, has_peers, registry);
        match ids.last().and_then(|id| Some((id, gives(id)?))) {
            Some((_, given)) if given == kind => {}
            Some((id, given)) => {
                let at = [&at[..], &[(ids.len() - 1).to_string()]].concat();
                let message = format!("`{id}` gives {given}, and the pipeline `{pipeline}` is for {kind}");
                let renamed = renamed(pipeline.as_str(), given);
                self.report(
                    &at,
                    message,
                    Some(format!("{help}, or rename the pipeline to `{renamed}`")),
                );
            }
            None => {
                let message = match kind {
                    PipelineKind::Metrics => {
                        "exporters need a window, and this pipeline does not end with one"
                    }
                    PipelineKind::Logs => {
                        "exporters need log records, and this pipeline does not end with a processor that gives them"
                    }
                };
                self.report(&at, message, Some(help));
            }
        }
        for (index, id) in ids.iter().enumerate().take(ids.len().saturating_sub(1)) {
            if aggregates(id) {
                let at = [&at[..], &[index.to_string()]].concat();
                self.report(
                    &at,
                    format!("no processor can follow `{id}`, which ends the path of records"),
                    None,
                );
            }
        }
    }

    /// Advice to end a pipeline of kind `kind` with an aggregator, after its processors `ids`.
    fn aggregator_hint(
        &self,
        kind: PipelineKind,
        ids: &[&ComponentId],
        has_peers: bool,
        registry: &Registry,
    ) -> String {
        let names = aggregators(kind, registry);
        let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        let [name] = names[..] else {
            let either = if names.is_empty() {
                format!("one that gives {kind}")
            } else {
                quoted.join(" or ")
            };
            return format!("let its last processor be {either}");
        };
        let defined = self.section_keys(ComponentKind::Processor);
        let is_listed = |name: &str| ids.iter().any(|id| id.type_name() == name);
        // Those that are defined and fill what the aggregator uses of a record with a peer.
        let uses = registry
            .processors()
            .get(name)
            .map(|factory| factory.default().contract());
        let fills = |contract: Contract| {
            uses.iter().any(|uses| {
                let mut needs = uses.needs.iter().map(|need| need.field);
                needs.any(|field| contract.fills.contains(&field)) || !uses.uses.is_disjoint(&contract.fills)
            })
        };
        let of_peers = registry.processors().iter();
        let of_peers = of_peers
            .filter(|(name, factory)| {
                has_peers
                    && defined.contains(**name)
                    && !is_listed(name)
                    && fills(factory.default().contract())
            })
            .map(|(name, _)| *name);
        let ids = ids.iter().map(|id| id.as_str());
        let whole: Vec<_> = of_peers.chain(ids).chain([name]).collect();
        let whole = whole.join(", ");
        let define = if defined.contains(name) {
            String::new()
        } else {
            format!(", and define it: `processors: {{{name}: {{}}}}`")
        };
        format!("let its last processor be `{name}`, as in `processors: [{whole}]`{define}")
    }

    /// Takes out components that no pipeline uses, and extensions that the service does not list; those that the user named are
    /// warned of.
    pub(super) fn unused(&mut self, config: &mut Config) {
        let used = |list: fn(&PipelineConfig) -> &Vec<ComponentId>| {
            config
                .pipelines
                .values()
                .flat_map(list)
                .cloned()
                .collect::<BTreeSet<_>>()
        };
        let (receivers, processors, mut exporters) = (
            used(|p| &p.receivers),
            used(|p| &p.processors),
            used(|p| &p.exporters),
        );
        let of_telemetry = config.service.telemetry.metrics.exporters.iter();
        exporters.extend(of_telemetry.filter_map(|id| id.parse().ok()));
        let mut warnings = Vec::new();
        let mut keep = |kind: ComponentKind, id: &ComponentId, used: &BTreeSet<ComponentId>| {
            let at = path(&[kind.section(), id.as_str()]);
            if !used.contains(id) && self.merged.user_has(&at) {
                let (message, help) = if kind == ComponentKind::Extension {
                    (
                        "this extension does not run".to_owned(),
                        format!("list it: `service.extensions: [{id}]`"),
                    )
                } else {
                    (
                        format!("no pipeline uses this {kind}"),
                        format!(
                            "name it in `service.pipelines.NAME.{}`, or remove it",
                            kind.section()
                        ),
                    )
                };
                warnings.push(self.diagnostic(&at, message, Some(help)));
            }
            used.contains(id)
        };
        config
            .receivers
            .retain(|id, _| keep(ComponentKind::Receiver, id, &receivers));
        config
            .processors
            .retain(|id, _| keep(ComponentKind::Processor, id, &processors));
        config
            .exporters
            .retain(|id, _| keep(ComponentKind::Exporter, id, &exporters));
        let extensions = config.extension_order.iter().cloned().collect();
        config
            .extensions
            .retain(|id, _| keep(ComponentKind::Extension, id, &extensions));
        self.warnings.extend(warnings);
    }
}

/// The id that a pipeline could have instead of one that is not valid.
pub(super) fn pipeline_id_hint(name: &str) -> String {
    let [metrics, logs] = PipelineKind::ALL.map(|kind| renamed(name, kind));
    if metrics.parse::<PipelineId>().is_err() {
        return "a name has no slash and no space".to_owned();
    }
    format!("rename it to `{metrics}`, or to `{logs}` if it is for log records")
}

/// The id of kind `kind` that is most like `id`.
fn renamed(id: &str, kind: PipelineKind) -> String {
    let (before, name) = id.split_once('/').unwrap_or(("", id));
    let is_kind = |text: &str| PipelineKind::ALL.iter().any(|kind| kind.as_str() == text);
    if is_kind(before) {
        format!("{kind}/{name}")
    } else if is_kind(id) {
        kind.to_string()
    } else {
        format!("{kind}/{id}")
    }
}

/// The processors of this build that can end a pipeline of kind `kind`.
fn aggregators(kind: PipelineKind, registry: &Registry) -> Vec<&'static str> {
    let ends = |contract: Contract| contract.pipeline_kind() == Some(kind);
    let factories = registry.processors().values();
    let names = factories.filter(|factory| ends(factory.default().contract()));
    names.map(|factory| factory.type_name).collect()
}
