//! From merged values to a [`Config`]: components by their factories, pipelines, references, ports.

use std::collections::{BTreeMap, BTreeSet};

use figment::value::{Dict, Value};
use flowtap_pipeline::{ComponentConfig, ComponentId, ComponentKind, Factory, ProcessorConfig, Registry};
use serde::Deserialize;

use crate::config::{Config, Origins, PipelineConfig};
use crate::diagnostic::{Diagnostic, closest, key_of};
use crate::faulty::{self, Mistake};
use crate::layers::{Merged, SECTIONS};
use crate::secret;
use crate::service::ServiceConfig;

/// A pipeline as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    receivers: Vec<String>,
    processors: Vec<String>,
    exporters: Vec<String>,
}

/// Collects what is wrong, each with its place.
pub(crate) struct Checker<'a> {
    pub(crate) merged: &'a Merged,
    diagnostics: &'a mut Vec<Diagnostic>,
}

/// Checks everything; `None` if what is wrong leaves nothing to run.
pub(crate) fn check(
    merged: &Merged,
    registry: &Registry,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Config> {
    let mut checker = Checker { merged, diagnostics };
    checker.top_level();
    let receivers = checker.components(ComponentKind::Receiver, registry.receivers());
    let processors = checker.components(ComponentKind::Processor, registry.processors());
    let exporters = checker.components(ComponentKind::Exporter, registry.exporters());
    let (service, written) = checker.service();
    let pipelines: BTreeMap<_, _> = written
        .iter()
        .map(|(name, written)| (name.clone(), checker.pipeline(name, written, &processors)))
        .collect();

    if let Some(service) = &service {
        let at = path(&["service", "telemetry", "metrics", "exporters"]);
        checker.references(&at, ComponentKind::Exporter, &service.telemetry.metrics.exporters);
    }

    let mut config = Config {
        receivers,
        processors,
        exporters,
        pipelines,
        service: service?,
        warnings: Vec::new(),
        files: Vec::new(),
        origins: Origins::default(),
    };
    config.warnings = checker.unused(&mut config);
    // Of others some components are missing from the config, so what they fill is not known.
    let is_complete = |(name, pipeline): &(&String, &PipelineConfig)| {
        written.get(*name).is_some_and(|written| {
            pipeline.receivers.len() == written.receivers.len()
                && pipeline.processors.len() == written.processors.len()
                && pipeline.exporters.len() == written.exporters.len()
        })
    };
    for (name, pipeline) in config.pipelines.iter().filter(is_complete) {
        let warnings = checker.wiring(&config, name, pipeline, registry);
        for warning in warnings {
            if !config.warnings.contains(&warning) {
                config.warnings.push(warning);
            }
        }
    }
    checker.ports(&config);
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

    fn report_mistakes(&mut self, above: &[String], mistakes: Vec<Mistake>) {
        for Mistake { path, message, help } in mistakes {
            self.report(&[above, &path].concat(), message, help);
        }
    }

    /// Reads the value at `at`, as far as it is readable.
    fn read<T>(
        &self,
        at: &[String],
        value: Value,
        parse: impl FnMut(&Value) -> Result<T, figment::Error>,
    ) -> (Option<T>, Vec<Mistake>) {
        let text = |below: &[String]| self.merged.texts.get(&[at, below].concat()).cloned();
        faulty::read(value, text, parse)
    }

    fn top_level(&mut self) {
        for key in self
            .merged
            .values
            .keys()
            .filter(|key| !SECTIONS.contains(&key.as_str()))
        {
            let help = match closest(key, SECTIONS) {
                Some(like) => format!("did you mean `{like}`?"),
                None => format!("possible here: {}", SECTIONS.join(", ")),
            };
            self.report(std::slice::from_ref(key), "there is no such section", Some(help));
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
                let names: Vec<_> = types.keys().copied().collect();
                let help = match closest(id.type_name(), names.iter().copied()) {
                    Some(like) => format!("did you mean `{like}`?"),
                    None => format!("this build has: {}", names.join(", ")),
                };
                self.report(
                    &at,
                    format!("there is no {kind} of type `{}`", id.type_name()),
                    Some(help),
                );
                continue;
            };
            // serde would take a list for a struct, field by field.
            if value.as_dict().is_none() {
                self.report(
                    &at,
                    "must be a mapping",
                    Some(format!("to leave it at its defaults: `{text}: {{}}`")),
                );
                continue;
            }
            let (config, mistakes) = self.read(&at, value, factory.parse);
            self.report_mistakes(&at, mistakes);
            if let Some(config) = config {
                for fault in config.validate() {
                    self.report(&[&at[..], &fault.path].concat(), fault.message, None);
                }
                components.insert(id, config);
            }
        }
        components
    }

    fn service(&mut self) -> (Option<ServiceConfig>, BTreeMap<String, Written>) {
        let at = path(&["service"]);
        let mut values = self.section(&at);
        values.remove("pipelines");
        let (service, mistakes) = self.read(&at, Value::from(values), Value::deserialize);
        self.report_mistakes(&at, mistakes);
        for fault in service.iter().flat_map(ServiceConfig::validate) {
            self.report(&[&at[..], &fault.path].concat(), fault.message, None);
        }

        let at = path(&["service", "pipelines"]);
        let mut pipelines = BTreeMap::new();
        for (name, value) in self.section(&at) {
            let at = [&at[..], std::slice::from_ref(&name)].concat();
            if value.as_dict().is_none() {
                let help = "write `receivers`, `processors` and `exporters`, a list each".to_owned();
                self.report(&at, "must be a mapping", Some(help));
                continue;
            }
            let (written, mistakes) = self.read(&at, value, Value::deserialize::<Written>);
            self.report_mistakes(&at, mistakes);
            if let Some(written) = written {
                pipelines.insert(name, written);
            }
        }
        if pipelines.is_empty() && self.diagnostics.is_empty() {
            self.report(
                &at,
                "there is no pipeline",
                Some("define one, or leave the section out".to_owned()),
            );
        }
        (service, pipelines)
    }

    fn pipeline(
        &mut self,
        name: &str,
        written: &Written,
        processors: &BTreeMap<ComponentId, Box<dyn ProcessorConfig>>,
    ) -> PipelineConfig {
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
            if list.is_empty() {
                let at = path(&["service", "pipelines", name, kind.section()]);
                self.report(&at, format!("a pipeline needs at least one {kind}"), None);
            }
        }
        self.window(name, written, &config.processors, processors);
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
                    let help = match closest(text, defined.iter().map(String::as_str)) {
                        Some(like) => format!("did you mean `{like}`?"),
                        None => format!("define it: `{}: {{{text}: {{}}}}`", kind.section()),
                    };
                    self.report(&at, format!("the {kind} `{text}` is not defined"), Some(help));
                }
                Ok(id) if ids.contains(&id) => self.report(&at, format!("`{text}` is there twice"), None),
                Ok(id) => ids.push(id),
            }
        }
        ids
    }

    /// The keys that a section defines, valid or not, so that a component with a mistake is
    /// reported once.
    fn section_keys(&self, kind: ComponentKind) -> BTreeSet<String> {
        let section = self.merged.values.get(kind.section()).and_then(Value::as_dict);
        section
            .map(|dict| dict.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// A pipeline ends in a window, and has no other.
    fn window(
        &mut self,
        pipeline: &str,
        written: &Written,
        ids: &[ComponentId],
        processors: &BTreeMap<ComponentId, Box<dyn ProcessorConfig>>,
    ) {
        if ids.len() != written.processors.len() || ids.iter().any(|id| !processors.contains_key(id)) {
            return;
        }
        let aggregates = |id: &ComponentId| {
            processors
                .get(id)
                .is_some_and(|config| config.contract().is_aggregator())
        };
        let at = path(&["service", "pipelines", pipeline, "processors"]);
        if !ids.last().is_some_and(aggregates) {
            let help = Some("let its last processor be `window`".to_owned());
            self.report(
                &at,
                "exporters get what a window gives out, and this pipeline has none at its end",
                help,
            );
        }
        for (index, id) in ids.iter().enumerate().take(ids.len().saturating_sub(1)) {
            if aggregates(id) {
                let at = [&at[..], &[index.to_string()]].concat();
                self.report(
                    &at,
                    format!("nothing can come after `{id}`, which ends the path of records"),
                    None,
                );
            }
        }
    }

    /// Takes out components that no pipeline uses; those that the user named are warned of.
    fn unused(&self, config: &mut Config) -> Vec<Diagnostic> {
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
                warnings.push(self.diagnostic(&at, format!("no pipeline uses this {kind}"), None));
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
        warnings
    }
}
