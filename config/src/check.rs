//! From merged values to a [`Config`]: components by their factories, pipelines, references, ports.

use std::collections::{BTreeMap, BTreeSet};

use figment::value::{Dict, Value};
use flowtap_pipeline::{
    ComponentConfig, ComponentId, ComponentKind, Contract, ExporterConfig, Factory, PipelineId, PipelineKind,
    ProcessorConfig, Registry, Signal, Violation,
};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;

use crate::aliases::{self, Meant};
use crate::config::{Config, Origins, PipelineConfig};
use crate::diagnostic::{Diagnostic, key_of};
use crate::layers::{Merged, SECTIONS};
use crate::lenient::{self, DecodeError, Outcome, Suggestion, fill_in};
use crate::secret;
use crate::service::ServiceConfig;
use crate::shape::Shape;
use crate::suggest::closest;
use crate::words::split_hint;

/// A pipeline as it is written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RawPipeline {
    receivers: Vec<String>,
    processors: Vec<String>,
    exporters: Vec<String>,
}

/// Collects what is wrong, each with its place.
pub(crate) struct Checker<'a> {
    pub(crate) merged: &'a Merged,
    diagnostics: &'a mut Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    generator: SchemaGenerator,
}

/// Known places at and below the value at `at`.
struct Below<'a> {
    merged: &'a Merged,
    at: &'a [String],
}

impl lenient::Source for Below<'_> {
    fn others(&self, path: &[String], value: &Value) -> Vec<Value> {
        self.merged.others(&[self.at, path].concat(), value)
    }

    fn instead_of(&self, path: &[String], key: &str, possible: &[&'static str]) -> Suggestion {
        let whole = [self.at, path].concat();
        instead_of(&whole, key, possible)
    }

    fn instead_of_word(&self, path: &[String], word: &str) -> Option<String> {
        let mut keys = path.iter().rev();
        let key = keys.find(|part| part.parse::<usize>().is_err())?;
        aliases::word(key, word).map(|meant| format!("did you mean `{meant}`?"))
    }
}

/// Suggestion for the unknown `key` in the mapping `at`: the counterpart of another program's key,
/// the key that was probably meant, or all possible keys.
fn instead_of(at: &[String], key: &str, possible: &[&str]) -> Suggestion {
    let section = at.first().is_some_and(|section| section != "service");
    let mut parts: Vec<&str> = at.iter().map(String::as_str).collect();
    if section && let Some(id) = parts.get_mut(1) {
        *id = id.split('/').next().unwrap_or_default();
    }
    if let Some(alias) = aliases::find(&parts, key) {
        let key = match alias.meant {
            Meant::Key(key) | Meant::Written(key, _) => Some(key.to_owned()),
            Meant::At(_) | Meant::Note(_) => None,
        };
        return Suggestion {
            hint: alias.to_string(),
            key,
        };
    }
    match closest(key, possible.iter().copied()) {
        Some(like) => Suggestion {
            hint: format!("did you mean `{like}`?"),
            key: Some(like.to_owned()),
        },
        None => Suggestion::of_all(possible),
    }
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
    };
    checker.top_level();
    let receivers = checker.components(ComponentKind::Receiver, registry.receivers(), registry);
    let processors = checker.components(ComponentKind::Processor, registry.processors(), registry);
    let exporters = checker.components(ComponentKind::Exporter, registry.exporters(), registry);
    let extensions = checker.components(ComponentKind::Extension, registry.extensions(), registry);
    let (service, written) = checker.service();
    let pipelines: BTreeMap<_, _> = written
        .iter()
        .map(|(id, written)| (id.clone(), checker.pipeline(id, written, &processors, registry)))
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
    let is_complete = |(name, pipeline): &(&PipelineId, &PipelineConfig)| {
        written.get(*name).is_some_and(|written| {
            pipeline.receivers.len() == written.receivers.len()
                && pipeline.processors.len() == written.processors.len()
                && pipeline.exporters.len() == written.exporters.len()
        })
    };
    for (id, pipeline) in config.pipelines.iter().filter(is_complete) {
        for warning in checker.wiring(&config, id.as_str(), pipeline, registry) {
            if !checker.warnings.contains(&warning) {
                checker.warnings.push(warning);
            }
        }
    }
    for warning in checker.unused_fields(&config) {
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

/// The processors of this build that can end a pipeline of kind `kind`, for messages.
fn aggregators(kind: PipelineKind, registry: &Registry) -> String {
    let ends = |contract: Contract| contract.pipeline_kind() == Some(kind);
    let factories = registry.processors().values();
    let names = factories.filter(|factory| ends(factory.default().contract()));
    let names: Vec<_> = names.map(|factory| format!("`{}`", factory.type_name)).collect();
    if names.is_empty() {
        return format!("one that gives {kind}");
    }
    names.join(" or ")
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
        Diagnostic {
            origin: self.merged.origin(path),
            key: key_of(path),
            message: message.into(),
            help,
        }
    }

    pub(crate) fn report(&mut self, path: &[String], message: impl Into<String>, help: Option<String>) {
        let message = message.into();
        let message = shortened(secret::without_credentials(&message).unwrap_or(message));
        let diagnostic = self.diagnostic(path, message, help);
        self.diagnostics.push(diagnostic);
    }

    fn report_mistakes(&mut self, above: &[String], mistakes: Vec<DecodeError>) {
        for DecodeError { path, message, help } in mistakes {
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
                self.report(&[at, &fault.path].concat(), message, hint);
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
        value: Value,
        schema: &serde_json::Value,
        parse: impl FnMut(&Value) -> Result<T, figment::Error>,
    ) -> Outcome<T> {
        let source = Below {
            merged: self.merged,
            at,
        };
        lenient::read(value, Some(Shape::new(schema)), &source, parse)
    }

    /// Sections that begin with `x-` hold what aliases stand for, and nothing else.
    fn top_level(&mut self) {
        for key in self.merged.values.keys() {
            if !SECTIONS.contains(&key.as_str()) && !key.starts_with("x-") {
                let Suggestion { hint, .. } = instead_of(&[], key, &SECTIONS);
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
            Some(_) => {
                self.report(at, "must be a mapping", None);
                Dict::new()
            }
        }
    }

    fn components<C: ComponentConfig + ?Sized>(
        &mut self,
        kind: ComponentKind,
        types: &BTreeMap<&'static str, Factory<C>>,
        registry: &Registry,
    ) -> BTreeMap<ComponentId, Box<C>> {
        let mut components = BTreeMap::new();
        for (text, value) in self.section(&path(&[kind.section()])) {
            let at = path(&[kind.section(), &text]);
            let id: ComponentId = match text.parse() {
                Ok(id) => id,
                Err(error) => {
                    let error: flowtap_pipeline::InvalidComponentId = error;
                    self.report(&at, error.to_string(), None);
                    continue;
                }
            };
            let Some(factory) = types.get(id.type_name()) else {
                let name = id.type_name();
                if let Some(feature) = registry.feature_of(kind, name) {
                    let hint = format!("build flowtap with the feature `{feature}`, or remove the {kind}");
                    self.report(&at, format!("this build has no {kind} `{name}`"), Some(hint));
                    continue;
                }
                let names: Vec<_> = types.keys().copied().collect();
                let Suggestion { hint, .. } = instead_of(&at[..1], name, &names);
                self.report(&at, format!("unknown type of {kind} `{name}`"), Some(hint));
                continue;
            };
            if value.as_dict().is_none() {
                self.report(
                    &at,
                    "must be a mapping",
                    Some(format!("to leave it at its defaults: `{text}: {{}}`")),
                );
                continue;
            }
            let schema = (factory.schema)(&mut self.generator).to_value();
            let outcome = self.read(&at, value, &schema, factory.parse);
            if let Some(config) = self.report_outcome(&at, outcome, |config| config.validate()) {
                for Violation { path, message } in config.warnings() {
                    let (message, hint) = split_hint(&message);
                    self.warn(&[&at[..], &path].concat(), message, hint);
                }
                components.insert(id, config);
            }
        }
        components
    }

    fn service(&mut self) -> (Option<ServiceConfig>, BTreeMap<PipelineId, RawPipeline>) {
        let at = path(&["service"]);
        let mut values = self.section(&at);
        values.remove("pipelines");
        let schema = ServiceConfig::json_schema(&mut self.generator).to_value();
        let outcome = self.read(&at, Value::from(values), &schema, Value::deserialize);
        let service = self.report_outcome(&at, outcome, ServiceConfig::validate);

        let at = path(&["service", "pipelines"]);
        let mut pipelines = BTreeMap::new();
        for (name, mut value) in self.section(&at) {
            let at = [&at[..], std::slice::from_ref(&name)].concat();
            fill_in(&mut value);
            if value.as_dict().is_none() {
                let help = "write `receivers`, `processors` and `exporters`, a list each".to_owned();
                self.report(&at, "must be a mapping", Some(help));
                continue;
            }
            let schema = RawPipeline::json_schema(&mut self.generator).to_value();
            let outcome = self.read(&at, value, &schema, Value::deserialize::<RawPipeline>);
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
        self.aggregator(id, written, &config.processors, processors, registry);
        config
    }

    /// The ids of the list at `above`, each defined and there but once.
    fn references(&mut self, above: &[String], kind: ComponentKind, written: &[String]) -> Vec<ComponentId> {
        let mut ids = Vec::new();
        for (index, text) in written.iter().enumerate() {
            let at = [above, &[index.to_string()]].concat();
            let defined = self.section_keys(kind);
            match text.parse::<ComponentId>() {
                Err(error) => self.report(&at, error.to_string(), None),
                Ok(_) if !defined.contains(text) => {
                    let section = path(&[kind.section()]);
                    let type_name = text.split('/').next().unwrap_or(text);
                    let alias = aliases::find(&[kind.section()], type_name);
                    let help = match closest(text, defined.iter().map(String::as_str)) {
                        Some(like) => format!("did you mean `{like}`?"),
                        None if alias.is_some() => instead_of(&section, type_name, &[]).hint,
                        None => format!("define it: `{}: {{{text}: {{}}}}`", kind.section()),
                    };
                    self.report(&at, format!("the {kind} `{text}` is not defined"), Some(help));
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
        let section = self.merged.values.get(kind.section()).and_then(Value::as_dict);
        section
            .map(|dict| dict.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// A pipeline ends in an aggregator of its kind, and has no other.
    fn aggregator(
        &mut self,
        pipeline: &PipelineId,
        written: &RawPipeline,
        ids: &[ComponentId],
        processors: &BTreeMap<ComponentId, Box<dyn ProcessorConfig>>,
        registry: &Registry,
    ) {
        if ids.len() != written.processors.len() || ids.iter().any(|id| !processors.contains_key(id)) {
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
        let help = format!("let its last processor be {}", aggregators(kind, registry));
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
                let (message, help) = match kind {
                    ComponentKind::Extension => (
                        "this extension does not run".to_owned(),
                        Some(format!("list it: `service.extensions: [{id}]`")),
                    ),
                    _ => (format!("no pipeline uses this {kind}"), None),
                };
                warnings.push(self.diagnostic(&at, message, help));
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
