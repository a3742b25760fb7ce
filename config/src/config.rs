//! The outcome: a config that was checked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use figment::value::{Dict, Value};
use flowtap_pipeline::{
    BuildError, ComponentId, ComponentKind, Contract, ExporterConfig, ExtensionConfig, PipelineId,
    ProcessorConfig, ReceiverConfig, ToValue,
};

use crate::diagnostic::{ConfigErrors, Diagnostic, key_of};
use crate::layers::Merged;
use crate::secret;
use crate::service::ServiceConfig;
use crate::words::split_hint;

/// A pipeline's components, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineConfig {
    /// Where its records come from: at least one.
    pub receivers: Vec<ComponentId>,
    /// Processors, in order: at least one, and the last one aggregates.
    pub processors: Vec<ComponentId>,
    /// Where its snapshots or log records go: at least one.
    pub exporters: Vec<ComponentId>,
}

/// A config that can be run.
#[derive(Debug)]
pub struct Config {
    /// Receivers by id.
    pub receivers: BTreeMap<ComponentId, Box<dyn ReceiverConfig>>,
    /// Processors by id.
    pub processors: BTreeMap<ComponentId, Box<dyn ProcessorConfig>>,
    /// Exporters by id.
    pub exporters: BTreeMap<ComponentId, Box<dyn ExporterConfig>>,
    /// Extensions by id.
    pub extensions: BTreeMap<ComponentId, Box<dyn ExtensionConfig>>,
    /// The order in which extensions start; whatever it names is defined.
    pub extension_order: Vec<ComponentId>,
    /// Pipelines by id; whatever they name is defined.
    pub pipelines: BTreeMap<PipelineId, PipelineConfig>,
    /// The daemon itself.
    pub service: ServiceConfig,
    /// Suspicious settings that are not errors.
    pub warnings: Vec<Diagnostic>,
    /// The files that it was read from: its own, and those that stand in `${file:P}`.
    pub files: Vec<PathBuf>,
    /// Where it all came from.
    pub(crate) origins: Origins,
}

/// The merged layers that a config came from. They may contain secrets, so `Debug` shows nothing of
/// them.
#[derive(Default)]
pub(crate) struct Origins(pub(crate) Option<Merged>);

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Origins")
    }
}

impl Config {
    /// The contract of every component that a pipeline uses, and of every extension that runs.
    pub fn contracts(&self) -> Vec<(ComponentKind, &ComponentId, Contract)> {
        let receivers = self.receivers.iter().map(|(id, config)| (id, config.contract()));
        let processors = self.processors.iter().map(|(id, config)| (id, config.contract()));
        let exporters = self.exporters.iter().map(|(id, config)| (id, config.contract()));
        let extensions = self.extensions.iter().map(|(id, config)| (id, config.contract()));
        let kinds = [
            (ComponentKind::Receiver, receivers.collect::<Vec<_>>()),
            (ComponentKind::Processor, processors.collect()),
            (ComponentKind::Exporter, exporters.collect()),
            (ComponentKind::Extension, extensions.collect()),
        ];
        let of_kind = |(kind, list): (_, Vec<_>)| list.into_iter().map(move |(id, of)| (kind, id, of));
        kinds.into_iter().flat_map(of_kind).collect()
    }

    /// Turns an error of building a component into diagnostics that point at the component's place
    /// in the config, or at the keys below it with which the message begins: `tls: ca_file: ...`.
    pub fn build_error(&self, error: &BuildError) -> ConfigErrors {
        let id = &error.id;
        let section = if self.receivers.contains_key(id) {
            ComponentKind::Receiver
        } else if self.processors.contains_key(id) {
            ComponentKind::Processor
        } else if self.exporters.contains_key(id) {
            ComponentKind::Exporter
        } else {
            ComponentKind::Extension
        };
        let mut path = vec![section.section(), id.as_str()];
        let mut message = &*error.message;
        while let Some((key, rest)) = message.split_once(": ")
            && self.has(&[&path[..], &[key]].concat())
        {
            path.push(key);
            message = rest;
        }
        self.error_at(&path, message)
    }

    /// Whether the config, as it is written, has a value at `path`.
    fn has(&self, path: &[&str]) -> bool {
        let path: Vec<_> = path.iter().map(|part| (*part).to_owned()).collect();
        self.origins.0.as_ref().is_some_and(|merged| merged.has(&path))
    }

    /// Diagnostics for an error about the value at `path` that was found after the config was
    /// checked.
    pub fn error_at(&self, path: &[&str], message: &str) -> ConfigErrors {
        let path: Vec<_> = path.iter().map(|part| (*part).to_owned()).collect();
        let (message, help) = split_hint(message);
        ConfigErrors::new(vec![self.diagnostic(&path, message, help)])
    }

    /// A diagnostic about the value at `path`.
    pub(crate) fn diagnostic(&self, path: &[String], message: String, help: Option<String>) -> Diagnostic {
        Diagnostic {
            origin: self.origins.0.as_ref().and_then(|merged| merged.origin(path)),
            key: key_of(path),
            message,
            help,
        }
    }

    /// The whole config as YAML, defaults filled in, secrets left out. It can be read back if it has none.
    pub fn to_yaml(&self) -> String {
        let mut service = Value::serialize(&self.service).map_or_else(|_| Dict::new(), dict);
        let pipelines = self
            .pipelines
            .iter()
            .map(|(id, pipeline)| (id.to_string(), pipeline.to_value()));
        service.insert("pipelines".to_owned(), Value::from(pipelines.collect::<Dict>()));
        let sections = [
            ("receivers", section(&self.receivers, ToValue::to_value)),
            ("processors", section(&self.processors, ToValue::to_value)),
            ("exporters", section(&self.exporters, ToValue::to_value)),
            ("extensions", section(&self.extensions, ToValue::to_value)),
            ("service", service),
        ];
        let mut text = String::new();
        for (name, mut values) in sections {
            secret::redact(&mut values);
            let section = Dict::from([(name.to_owned(), Value::from(values))]);
            match serde_saphyr::to_string(&section) {
                Ok(yaml) => text.push_str(yaml.trim_end()),
                Err(error) => text.push_str(&["# ", name, ": ", &error.to_string()].concat()),
            }
            text.push('\n');
        }
        text
    }
}

impl PipelineConfig {
    fn to_value(&self) -> Value {
        let list = |ids: &[ComponentId]| Value::from(ids.iter().map(ToString::to_string).collect::<Vec<_>>());
        Value::from(Dict::from([
            ("receivers".to_owned(), list(&self.receivers)),
            ("processors".to_owned(), list(&self.processors)),
            ("exporters".to_owned(), list(&self.exporters)),
        ]))
    }
}

fn section<C: ToValue + ?Sized>(
    components: &BTreeMap<ComponentId, Box<C>>,
    to_value: impl Fn(&C) -> Result<Value, figment::Error>,
) -> Dict {
    let entries = components.iter().map(|(id, config)| {
        let value = to_value(config).unwrap_or_else(|error| Value::from(error.to_string()));
        (id.to_string(), value)
    });
    entries.collect()
}

fn dict(value: Value) -> Dict {
    crate::lenient::into_dict(value).unwrap_or_default()
}
