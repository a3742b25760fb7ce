//! Components by name: their ids, what a config of one can be asked, and the registry of types.
//!
//! A component type is registered by its [`Factory`], in one explicit list (the daemon's is `src/components.rs`). A
//! custom distribution is a `main` that starts from that list and adds to it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use figment::value::Value;
use opentelemetry::metrics::Meter;
use schemars::{Schema, SchemaGenerator};

use crate::cluster::ClusterState;
use crate::live::Live;
use crate::memory::Memory;
use crate::node::NodeInfo;
use crate::queue::QueueConfig;
use crate::resource::Resource;
use crate::stage::{Aggregator, Exporter, Processor, Receiver};
use crate::status::StatusBoard;

/// The three kinds of components.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ComponentKind {
    /// Where records come from.
    Receiver,
    /// What happens to them on the way.
    Processor,
    /// Where snapshots go.
    Exporter,
}

impl ComponentKind {
    /// The config's section for this kind.
    pub const fn section(self) -> &'static str {
        match self {
            Self::Receiver => "receivers",
            Self::Processor => "processors",
            Self::Exporter => "exporters",
        }
    }
}

impl fmt::Display for ComponentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section().trim_end_matches('s'))
    }
}

/// A component's id in the config: `type` or `type/name`, as in the OpenTelemetry Collector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComponentId {
    text: String,
    type_len: usize,
}

impl ComponentId {
    /// The part before the slash: which type of component this is.
    pub fn type_name(&self) -> &str {
        &self.text[..self.type_len]
    }

    /// The part behind the slash, if there is one.
    pub fn name(&self) -> Option<&str> {
        self.text.get(self.type_len + 1..)
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is no component id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no component id: write `type` or `type/name`, type in lower case letters, digits and `_`")]
pub struct InvalidComponentId(String);

impl FromStr for ComponentId {
    type Err = InvalidComponentId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (type_name, name) = match text.split_once('/') {
            Some((type_name, name)) => (type_name, Some(name)),
            None => (text, None),
        };
        let type_ok = type_name.starts_with(|c: char| c.is_ascii_lowercase())
            && type_name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let name_ok = name
            .is_none_or(|name| !name.is_empty() && !name.contains(|c: char| c == '/' || c.is_whitespace()));
        if type_ok && name_ok {
            Ok(Self {
                text: text.to_owned(),
                type_len: type_name.len(),
            })
        } else {
            Err(InvalidComponentId(text.to_owned()))
        }
    }
}

/// Something in a component's config that is wrong although it is of the right type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, below the component: `["tls", "ca_file"]`; an index is a decimal number; empty for the whole component.
    pub path: Vec<String>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Fault {
    /// A fault at the dotted path `at`.
    pub fn new(at: &str, message: impl Into<String>) -> Self {
        let path = at
            .split('.')
            .filter(|key| !key.is_empty())
            .map(str::to_owned)
            .collect();
        Self {
            path,
            message: message.into(),
        }
    }
}

/// What a component is built with.
#[derive(Clone, Debug)]
pub struct BuildContext {
    /// The component's id.
    pub id: ComponentId,
    /// Name of the pipeline that it is built for; empty for receivers and exporters, which pipelines share.
    pub pipeline: Arc<str>,
    /// For the component's own counters.
    pub meter: Meter,
    /// Whether several pipelines feed it, so that an exporter must tell their series apart. Fixed for an exporter's life: a label
    /// that appeared later would change the identity of every series.
    pub several_pipelines: bool,
    /// The attributes that name this flowtap and its node.
    pub resource: Arc<Resource>,
    /// This machine.
    pub node: Arc<Live<NodeInfo>>,
    /// The Kubernetes cluster around it.
    pub cluster: Arc<Live<ClusterState>>,
    /// How short memory is.
    pub memory: Arc<Memory>,
    /// Where a component that does work of its own shows how that goes, as an exporter with a queue on disk does.
    pub status: StatusBoard,
    /// Whether a component must fail rather than make do with less than its config asks for.
    pub strict: bool,
}

/// Why a component could not be built from a config that is valid.
#[derive(Debug, thiserror::Error)]
#[error("{id}: {message}")]
pub struct BuildError {
    /// Which component.
    pub id: ComponentId,
    /// What is wrong, and what to do.
    pub message: String,
}

/// What every component's config can be asked.
pub trait ComponentConfig: fmt::Debug + Send + Sync {
    /// The whole config, defaults filled in, for `print-config`.
    ///
    /// # Errors
    /// [`figment::Error`] if a field can't be written as a value.
    fn to_value(&self) -> Result<Value, figment::Error>;

    /// Everything that is wrong with values of the right type: all faults, not just the first.
    fn validate(&self) -> Vec<Fault> {
        Vec::new()
    }

    /// Folders that this component writes to; nothing else can be written once the daemon is in its sandbox.
    fn writes(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The addresses that this component will listen on, each with the key that sets it.
    fn listen_addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        Vec::new()
    }
}

/// A receiver's config.
pub trait ReceiverConfig: ComponentConfig {
    /// Makes the receiver. Opens nothing yet.
    ///
    /// # Errors
    /// [`BuildError`] if this machine can't have it.
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Receiver>, BuildError>;
}

/// Which part of the synchronous path a processor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessorRole {
    /// Changes batches.
    Transform,
    /// Ends the path: folds batches into series. A pipeline has exactly one, as its last processor.
    Aggregate,
}

/// A processor that was built.
pub enum ProcessorStage {
    /// Changes batches.
    Transform(Box<dyn Processor>),
    /// Ends the path.
    Aggregate(Box<dyn Aggregator>),
}

impl fmt::Debug for ProcessorStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transform(_) => "Transform",
            Self::Aggregate(_) => "Aggregate",
        })
    }
}

/// A processor's config.
pub trait ProcessorConfig: ComponentConfig {
    /// Which part of the path it will be.
    fn role(&self) -> ProcessorRole {
        ProcessorRole::Transform
    }

    /// Makes the processor; one per pipeline that names it.
    ///
    /// # Errors
    /// [`BuildError`] if this machine can't have it.
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError>;
}

/// An exporter's config.
pub trait ExporterConfig: ComponentConfig {
    /// The queue in front of it.
    fn queue(&self) -> QueueConfig;

    /// Makes the exporter. Binds and dials nothing yet.
    ///
    /// # Errors
    /// [`BuildError`] if this machine can't have it.
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError>;
}

/// One component type.
pub struct Factory<C: ?Sized> {
    /// Its name in ids.
    pub type_name: &'static str,
    /// One line for `flowtap components`.
    pub summary: &'static str,
    /// Reads a config of this type. `figment`'s error carries the path of the key and what was expected there.
    pub parse: fn(&Value) -> Result<Box<C>, figment::Error>,
    /// The JSON Schema of such a config, for editors: what [`schemars::JsonSchema`] derives from it.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

// By hand: a derive would ask the same of `C`.
impl<C: ?Sized> Clone for Factory<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: ?Sized> Copy for Factory<C> {}

impl<C: ?Sized> fmt::Debug for Factory<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory")
            .field("type_name", &self.type_name)
            .finish_non_exhaustive()
    }
}

/// Factories of one kind, by type name.
pub type Factories<C> = BTreeMap<&'static str, Factory<C>>;

/// Every component type that a build of flowtap has.
#[derive(Debug, Default)]
pub struct Registry {
    receivers: Factories<dyn ReceiverConfig>,
    processors: Factories<dyn ProcessorConfig>,
    exporters: Factories<dyn ExporterConfig>,
}

impl Registry {
    /// A registry without any type.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a receiver type. It replaces a type of the same name.
    #[must_use]
    pub fn receiver(mut self, factory: Factory<dyn ReceiverConfig>) -> Self {
        self.receivers.insert(factory.type_name, factory);
        self
    }

    /// Adds a processor type. It replaces a type of the same name.
    #[must_use]
    pub fn processor(mut self, factory: Factory<dyn ProcessorConfig>) -> Self {
        self.processors.insert(factory.type_name, factory);
        self
    }

    /// Adds an exporter type. It replaces a type of the same name.
    #[must_use]
    pub fn exporter(mut self, factory: Factory<dyn ExporterConfig>) -> Self {
        self.exporters.insert(factory.type_name, factory);
        self
    }

    /// The receiver types.
    pub const fn receivers(&self) -> &Factories<dyn ReceiverConfig> {
        &self.receivers
    }

    /// The processor types.
    pub const fn processors(&self) -> &Factories<dyn ProcessorConfig> {
        &self.processors
    }

    /// The exporter types.
    pub const fn exporters(&self) -> &Factories<dyn ExporterConfig> {
        &self.exporters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_type_with_an_optional_name() {
        let id: ComponentId = "otlp/backup".parse().unwrap();
        assert_eq!((id.type_name(), id.name()), ("otlp", Some("backup")));
        let id: ComponentId = "sock_diag".parse().unwrap();
        assert_eq!((id.type_name(), id.name()), ("sock_diag", None));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "", "/x", "otlp/", "otlp/a/b", "Otlp", "9otlp", "ot lp", "otlp/a b",
        ] {
            assert!(text.parse::<ComponentId>().is_err(), "{text:?} was taken");
        }
    }
}
