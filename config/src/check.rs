//! From merged values to a [`Config`]: components by their factories, pipelines, references, ports.

use std::collections::{BTreeMap, BTreeSet};

use figment::value::{Dict, Value};
use flowtap_pipeline::{
    ComponentId, ComponentKind, Contract, ExporterConfig, PipelineId, PipelineKind, ProcessorConfig,
    ReceiverConfig, Registry, Signal, Violation,
};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;

use crate::aliases::{self, Meant};
use crate::config::{Config, Origins, PipelineConfig};
use crate::diagnostic::{Diagnostic, key_of};
use crate::layers::{Merged, SECTIONS};
use crate::lenient::{self, DecodeError, Names, Outcome, Suggestion, fill_in};
use crate::service::ServiceConfig;
use crate::shape::Shape;
use crate::suggest::closest;
use crate::words::split_hint;
use crate::{quote, secret};

mod components;

/// A pipeline as it is written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RawPipeline {
    receivers: Vec<String>,
    processors: Vec<String>,
    exporters: Vec<String>,
}

const KINDS: [ComponentKind; 4] = [
    ComponentKind::Receiver,
    ComponentKind::Processor,
    ComponentKind::Exporter,
    ComponentKind::Extension,
];

/// Collects what is wrong, each with its place.
pub(crate) struct Checker<'a> {
    pub(crate) merged: &'a Merged,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    generator: SchemaGenerator,
    /// Components that the advice about them is to remove, by their kind and id.
    removable: BTreeSet<(ComponentKind, String)>,
    /// Where components are, and what is in them, if that has other names than their config's, by kind and id.
    written: BTreeMap<(ComponentKind, String), (Vec<String>, Names)>,
}

/// Known places at and below the value at `at`.
struct Below<'a> {
    merged: &'a Merged,
    at: &'a [String],
    /// The same place as aliases have it: section and type.
    known: &'a [&'a str],
}

impl lenient::Source for Below<'_> {
    fn others(&self, path: &[String], value: &Value) -> Vec<Value> {
        self.merged.others(&[self.at, path].concat(), value)
    }

    fn instead_of(&self, path: &[String], key: &str, value: Option<&Value>, possible: &[&str]) -> Suggestion {
        let whole: Vec<&str> = self
            .known
            .iter()
            .copied()
            .chain(path.iter().map(String::as_str))
            .collect();
        instead_of(&whole, key, value, possible)
    }

    fn instead_of_word(&self, path: &[String], word: &str) -> Option<&'static str> {
        let mut keys = path.iter().rev();
        let key = keys.find(|part| part.parse::<usize>().is_err())?;
        aliases::word(key, word)
    }
}

/// Suggestion for the unknown `key` in the mapping `at`, in which components are types: the counterpart of another program's key,
/// the key that was probably meant, or all possible keys.
fn instead_of(at: &[&str], key: &str, value: Option<&Value>, possible: &[&str]) -> Suggestion {
    let is_possible = |alias: &&aliases::Alias| match alias.meant {
        Meant::Key(key) | Meant::Written(key, _) | Meant::Unit(key, _) => possible.contains(&key),
        Meant::At(_) | Meant::Note(_) => true,
    };
    if let Some(alias) = aliases::find(at, key).filter(is_possible) {
        let hint = alias.hint(value);
        let (key, value) = match alias.meant {
            Meant::Key(key) => (Some(key), value.cloned()),
            Meant::Unit(key, unit) => (Some(key), value.and_then(|value| with_unit(value, unit))),
            Meant::Written(key, _) => (Some(key), None),
            Meant::At(_) | Meant::Note(_) => (None, None),
        };
        return Suggestion {
            hint,
            key: key.map(str::to_owned),
            value,
        };
    }
    Suggestion::closest(key, value, possible)
}

/// A number as a text with its unit.
fn with_unit(value: &Value, unit: &str) -> Option<Value> {
    let number = quote::text(&quote::found(value));
    number
        .parse::<f64>()
        .is_ok()
        .then(|| Value::from(format!("{number}{unit}")))
}

/// Checks everything; `None` if what is wrong leaves nothing to run.
pub(crate) fn check(
    merged: &Merged,
    registry: &Registry,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Config> {
    let mut checker = Checker {
        merged,
        diagnostics,
        warnings: merged.warnings.clone(),
        generator: SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator(),
        removable: BTreeSet::new(),
        written: BTreeMap::new(),
    };
    checker.top_level();
    let mut receivers = checker.components(ComponentKind::Receiver, registry.receivers(), registry);
    let mut processors = checker.components(ComponentKind::Processor, registry.processors(), registry);
    let mut exporters = checker.components(ComponentKind::Exporter, registry.exporters(), registry);
    let extensions = checker.components(ComponentKind::Extension, registry.extensions(), registry);
    let (service, written) = checker.service();
    for pipeline in written.values() {
        Checker::assume(&pipeline.receivers, registry.receivers(), &mut receivers);
        Checker::assume(&pipeline.processors, registry.processors(), &mut processors);
        Checker::assume(&pipeline.exporters, registry.exporters(), &mut exporters);
    }
    let pipelines: BTreeMap<_, _> = written
        .iter()
        .map(|(id, written)| {
            let pipeline = checker.pipeline(id, written, &receivers, &processors, registry);
            (id.clone(), pipeline)
        })
        .collect();

    if let Some(service) = &service {
        let at = path(&["service", "telemetry", "metrics", "exporters"]);
        let ids = checker.references(&at, ComponentKind::Exporter, &service.telemetry.metrics.exporters);
        checker.take_metrics(&at, &ids, &exporters);
    }

    let at = path(&["service", "extensions"]);
    let listed = service.as_ref().map(|service| &*service.extensions);
    let extension_order = checker.references(&at, ComponentKind::Extension, listed.unwrap_or_default());

    let mut config = Config {
        receivers,
        processors,
        exporters,
        extensions,
        extension_order,
        pipelines,
        service: service?,
        warnings: Vec::new(),
        files: Vec::new(),
        origins: Origins::default(),
    };
    checker.unused(&mut config);
    // Of others some components are missing from the config, so what they fill is not known.
    let count = |kind, list: &[String]| checker.wanted(kind, list).count();
    let is_complete = |(name, pipeline): &(&PipelineId, &PipelineConfig)| {
        written.get(*name).is_some_and(|written| {
            pipeline.receivers.len() == count(ComponentKind::Receiver, &written.receivers)
                && pipeline.processors.len() == count(ComponentKind::Processor, &written.processors)
                && pipeline.exporters.len() == count(ComponentKind::Exporter, &written.exporters)
        })
    };
    let complete: Vec<_> = config.pipelines.iter().filter(is_complete).collect();
    for (id, pipeline) in complete {
        for warning in checker.wiring(&config, id.as_str(), pipeline, registry) {
            if !checker.warnings.contains(&warning) {
                checker.warnings.push(warning);
            }
        }
    }
    for warning in checker.unused_fields(&config, registry) {
        if !checker.warnings.contains(&warning) {
            checker.warnings.push(warning);
        }
    }
    checker.ports(&config);
    checker.places(&config);
    let warning = checker.collector_ports(&config);
    checker.warnings.extend(warning);
    config.warnings = checker.warnings;
    Some(config)
}

/// A message without what makes it longer than anybody reads: a value can have any length.
fn shortened(message: String) -> String {
    const SHOWN: usize = 1000;
    let start = message.char_indices().nth(SHOWN);
    let end = message.char_indices().nth_back(SHOWN);
    match (start, end) {
        (Some((start, _)), Some((end, _))) if start < end => {
            format!("{} ... {}", &message[..start], &message[end..])
        }
        _ => message,
    }
}

/// The id that a pipeline could have instead of one that is not valid.
fn pipeline_id_hint(name: &str) -> String {
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

/// Message about `found` in place of a mapping.
fn not_a_mapping(found: &Value) -> String {
    format!(
        "expected a mapping, found {}",
        quote::actual(&quote::found(found))
    )
}

pub(crate) fn path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

impl Checker<'_> {
    pub(crate) fn diagnostic(
        &self,
        path: &[String],
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        let path = self.as_written(path);
        Diagnostic {
            origin: self.merged.origin(&path),
            key: key_of(&path),
            message: message.into(),
            help,
        }
    }

    /// The place, as the user wrote it, of a key of a component's config.
    fn as_written(&self, path: &[String]) -> Vec<String> {
        if let [section, id, key @ ..] = path
            && crate::layers::find(&self.merged.values, path).is_none()
            && let Some(kind) = KINDS.into_iter().find(|kind| kind.section() == section)
            && let Some((at, names)) = self.written.get(&(kind, id.clone()))
        {
            return [&at[..], &names.shown(key)].concat();
        }
        path.to_vec()
    }

    pub(crate) fn report(&mut self, path: &[String], message: impl Into<String>, help: Option<String>) {
        let message = message.into();
        let message = shortened(secret::without_credentials(&message).unwrap_or(message));
        let diagnostic = self.diagnostic(path, message, help);
        self.diagnostics.push(diagnostic);
    }

    fn report_mistakes(&mut self, above: &[String], mistakes: Vec<DecodeError>) {
        for mistake in mistakes {
            let DecodeError {
                path, message, help, ..
            } = mistake;
            self.report(&[above, &path].concat(), message, help);
        }
    }

    /// Reports what came of reading the value at `at`, and what is wrong with what could be read.
    fn report_outcome<T>(
        &mut self,
        at: &[String],
        mut outcome: Outcome<T>,
        faults: impl FnOnce(&T) -> Vec<Violation>,
    ) -> Option<T> {
        self.report_mistakes(at, std::mem::take(&mut outcome.mistakes));
        for fault in outcome.read.as_ref().map(faults).unwrap_or_default() {
            // A stand-in is wrong in its own way.
            if !outcome.is_changed(&fault.path) {
                let (message, hint) = split_hint(&fault.message);
                let path = outcome.shown(&fault.path);
                self.report(&[at, &path].concat(), message, hint);
            }
        }
        outcome.read
    }

    fn warn(&mut self, at: &[String], message: impl Into<String>, help: Option<String>) {
        let warning = self.diagnostic(at, message, help);
        self.warnings.push(warning);
    }

    /// Reads the value at `at`, as far as it is readable.
    fn read<T>(
        &self,
        at: &[String],
        known: &[&str],
        value: Value,
        schema: &serde_json::Value,
        parse: impl FnMut(&Value) -> Result<T, figment::Error>,
    ) -> Outcome<T> {
        let source = Below {
            merged: self.merged,
            at,
            known,
        };
        lenient::read(value, Some(Shape::new(schema)), &source, parse)
    }

    /// Sections that begin with `x-` hold what aliases stand for, and nothing else.
    fn top_level(&mut self) {
        for key in self.merged.values.keys() {
            if !SECTIONS.contains(&key.as_str()) && !key.starts_with("x-") {
                let Suggestion { mut hint, .. } = instead_of(&[], key, None, &SECTIONS);
                let place = aliases::section(key).map(|alias| alias.meant);
                if let Some(Meant::At(place)) = place
                    && let Some(name) = place
                        .strip_prefix("exporters.")
                        .filter(|name| !name.contains('.'))
                {
                    hint = format!("{hint}; name it in `service.pipelines.metrics.exporters: [{name}]`");
                }
                self.report(
                    std::slice::from_ref(key),
                    format!("unknown section `{key}`"),
                    Some(hint),
                );
            }
        }
    }

    /// The entries of a section; nothing if it is not there or no mapping.
    fn section(&mut self, at: &[String]) -> Dict {
        match crate::layers::find(&self.merged.values, at) {
            None => Dict::new(),
            Some(Value::Dict(_, dict)) => dict.clone(),
            Some(other) => {
                self.report(at, not_a_mapping(other), None);
                Dict::new()
            }
        }
    }

    fn service(&mut self) -> (Option<ServiceConfig>, BTreeMap<PipelineId, RawPipeline>) {
        let at = path(&["service"]);
        let mut values = self.section(&at);
        values.remove("pipelines");
        let schema = ServiceConfig::json_schema(&mut self.generator).to_value();
        let outcome = self.read(
            &at,
            &["service"],
            Value::from(values),
            &schema,
            Value::deserialize,
        );
        let service = self.report_outcome(&at, outcome, ServiceConfig::validate);

        let at = path(&["service", "pipelines"]);
        let mut pipelines = BTreeMap::new();
        for (name, mut value) in self.section(&at) {
            let at = [&at[..], std::slice::from_ref(&name)].concat();
            fill_in(&mut value);
            if value.as_dict().is_none() {
                let help = "write `receivers`, `processors` and `exporters`, a list each".to_owned();
                self.report(&at, not_a_mapping(&value), Some(help));
                continue;
            }
            let schema = RawPipeline::json_schema(&mut self.generator).to_value();
            let known = ["service", "pipelines", &name];
            let outcome = self.read(&at, &known, value, &schema, Value::deserialize::<RawPipeline>);
            let written = self.report_outcome(&at, outcome, |_| Vec::new());
            match name.parse::<PipelineId>() {
                Ok(id) => {
                    written.map(|written| pipelines.insert(id, written));
                }
                Err(error) => {
                    let help = pipeline_id_hint(&name);
                    self.report(&at, error.to_string(), Some(help));
                }
            }
        }
        if pipelines.is_empty() && self.diagnostics.is_empty() {
            self.report(
                &at,
                "no pipeline is defined",
                Some("define one, or leave the section out".to_owned()),
            );
        }
        (service, pipelines)
    }

    fn pipeline(
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
    fn references(&mut self, above: &[String], kind: ComponentKind, written: &[String]) -> Vec<ComponentId> {
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
    fn take_metrics(
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
    fn unused(&mut self, config: &mut Config) {
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
