//! Component types: the traits of their configs, and the registry.
//!
//! A component type is registered by its [`Factory`], in one explicit list (the daemon's is `src/components.rs`). A
//! custom distribution is a `main` that starts from that list and adds to it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use figment::value::Value;
use flowtap_model::{ClusterState, LabelChanges, NodeInfo, Resource};
use opentelemetry::metrics::Meter;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contract::{Contract, Signal, Stability};
use crate::extension::Extension;
use crate::findings::Findings;
use crate::id::{ComponentId, ComponentKind};
use crate::live::Published;
use crate::memory::SharedMemoryPressure;
use crate::queue::QueueConfig;
use crate::stage::{Aggregator, Exporter, Processor, Receiver};
use crate::status::StatusBoard;

/// Something in a component's config that is wrong although it is of the right type.
///
/// ```
/// use flowtap_pipeline::Violation;
///
/// let violation = Violation::new("tls.ca_file", "is not absolute; hint: begin it with `/`");
/// assert_eq!(violation.path, ["tls", "ca_file"]);
/// // Of the whole component.
/// assert!(Violation::new("", "needs `endpoint` or `path`").path.is_empty());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, below the component: `["tls", "ca_file"]`; an index is a decimal number; empty for the whole component.
    pub path: Vec<String>,
    /// Message, with the fix after `; hint: `.
    pub message: String,
}

impl Violation {
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

/// Context in which a component is built.
///
/// ```
/// use flowtap_pipeline::BuildContext;
/// use flowtap_pipeline::telemetry::ProcessorTelemetry;
///
/// // With defaults, as in a test; the daemon fills in the rest.
/// let context = BuildContext {
///     pipeline: "metrics".into(),
///     ..BuildContext::new("policy/dc".parse()?)
/// };
/// let dropped = ProcessorTelemetry::new(&context.meter, &context.id, &context.pipeline, &["size"]);
/// dropped.dropped(1, 1448, "size");
/// assert_eq!(context.id.to_string(), "policy/dc");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct BuildContext {
    /// The component's id.
    pub id: ComponentId,
    /// Name of the pipeline that it is built for; empty for receivers and exporters, which pipelines share.
    pub pipeline: Arc<str>,
    /// For the component's own counters.
    pub meter: Meter,
    /// Whether several pipelines feed it, so that an exporter must distinguish their series. Fixed
    /// for an exporter's life: a label added later would change the identity of every series.
    pub several_pipelines: bool,
    /// The attributes that name this flowtap and its node.
    pub resource: Arc<Resource>,
    /// This machine.
    pub node: Arc<Published<NodeInfo>>,
    /// The Kubernetes cluster around it.
    pub cluster: Arc<Published<ClusterState>>,
    /// Changes to the labels of all series of the pipeline, for its aggregator.
    pub label_changes: Arc<LabelChanges>,
    /// Memory pressure.
    pub memory: Arc<SharedMemoryPressure>,
    /// The newest findings.
    pub findings: Arc<Findings>,
    /// States of components; for one with background work, such as an exporter with a queue on
    /// disk, to report its state.
    pub status: StatusBoard,
    /// Whether a component must fail instead of degrading.
    pub strict: bool,
    /// Whether a command plays a recording through it: then it must neither read nor write what a daemon with the same config has
    /// learned.
    pub is_replay: bool,
}

impl BuildContext {
    /// A context outside of a daemon, for tools and tests: nothing is known of the machine and of a cluster, memory is ample, and
    /// the component's counters are not read.
    pub fn new(id: ComponentId) -> Self {
        Self {
            id,
            pipeline: "".into(),
            meter: opentelemetry::global::meter("flowtap"),
            several_pipelines: false,
            resource: Arc::default(),
            node: Published::new(NodeInfo::default()),
            cluster: Published::new(ClusterState::default()),
            label_changes: Arc::default(),
            memory: Arc::default(),
            findings: Arc::default(),
            status: StatusBoard::default(),
            strict: false,
            is_replay: false,
        }
    }
}

/// Why a component could not be built from a config that is valid.
#[derive(Debug, thiserror::Error)]
#[error("{id}: {message}")]
pub struct BuildError {
    /// Which component.
    pub id: ComponentId,
    /// Message, with a hint.
    pub message: String,
    /// Whether a later start may succeed, as when another process uses a file.
    pub is_temporary: bool,
}

/// A config that can be written as a value: everything that is `Serialize`.
pub trait ToValue {
    /// The whole config, defaults filled in.
    ///
    /// # Errors
    /// [`figment::Error`] if a field can't be written as a value.
    fn to_value(&self) -> Result<Value, figment::Error>;
}

impl<T: Serialize> ToValue for T {
    fn to_value(&self) -> Result<Value, figment::Error> {
        Value::serialize(self)
    }
}

/// Behaviour common to all component configs. Everything has a default, so an empty `impl` is a valid one.
///
/// A config is a plain struct: `Serialize` gives `print-config` and the comparison over a reload, `Any` lets a command that knows
/// a type find the configs of that type.
pub trait ComponentConfig: ToValue + Any + fmt::Debug + Send + Sync {
    /// Returns every fault of values that have the right type, not just the first.
    fn validate(&self) -> Vec<Violation> {
        Vec::new()
    }

    /// Returns what is odd about values that are valid, such as a key without effect.
    fn warnings(&self) -> Vec<Violation> {
        Vec::new()
    }

    /// Returns the words that the value at `path` can be, where they are fewer than its type has; `None`: all of the type.
    fn words_at(&self, _path: &[String]) -> Option<Vec<&'static str>> {
        None
    }

    /// Declares what the component takes, gives, reads, writes, listens on and depends on.
    fn contract(&self) -> Contract {
        Contract::default()
    }
}

/// Returns `config` as its type `T`, for commands that are about components of that type; `None` if it is another.
pub fn downcast<T: ComponentConfig>(config: &dyn ComponentConfig) -> Option<&T> {
    (config as &dyn Any).downcast_ref()
}

/// A receiver's config.
pub trait ReceiverConfig: ComponentConfig {
    /// Makes the receiver. Opens nothing yet.
    ///
    /// # Errors
    /// [`BuildError`] if this machine can't have it.
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Receiver>, BuildError>;

    /// Returns the config of a receiver that does not measure `signal`, for a command that does not use it; `None` if this one
    /// can't leave it out.
    fn without(&self, _signal: Signal) -> Option<Box<dyn ReceiverConfig>> {
        None
    }
}

/// A processor that was built.
pub enum ProcessorStage {
    /// Changes batches.
    Transform(Box<dyn Processor>),
    /// Ends the path: folds batches into series. A pipeline has exactly one, as its last processor.
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
    /// Makes the processor; one per pipeline that names it.
    ///
    /// # Errors
    /// [`BuildError`] if this machine can't have it.
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError>;
}

/// An exporter's config.
pub trait ExporterConfig: ComponentConfig {
    /// The queue in front of it.
    fn queue(&self) -> QueueConfig {
        QueueConfig::default()
    }

    /// Makes the exporter. Binds and dials nothing yet.
    ///
    /// # Errors
    /// [`BuildError`] if this machine can't have it.
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError>;
}

/// An extension's config.
pub trait ExtensionConfig: ComponentConfig {
    /// Makes the extension. Binds and opens nothing yet.
    ///
    /// # Errors
    /// [`BuildError`] if this machine can't have it.
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Extension>, BuildError>;
}

/// A config that can be boxed as one of the kind `C`: `dyn ReceiverConfig`, `dyn ProcessorConfig`, `dyn ExporterConfig` or
/// `dyn ExtensionConfig`.
///
/// Implemented for every config of a kind; see [`Factory::of`].
pub trait BoxAs<C: ?Sized> {
    /// The same, boxed.
    fn boxed(self) -> Box<C>;
}

impl<T: ReceiverConfig> BoxAs<dyn ReceiverConfig> for T {
    fn boxed(self) -> Box<dyn ReceiverConfig> {
        Box::new(self)
    }
}

impl<T: ProcessorConfig> BoxAs<dyn ProcessorConfig> for T {
    fn boxed(self) -> Box<dyn ProcessorConfig> {
        Box::new(self)
    }
}

impl<T: ExporterConfig> BoxAs<dyn ExporterConfig> for T {
    fn boxed(self) -> Box<dyn ExporterConfig> {
        Box::new(self)
    }
}

impl<T: ExtensionConfig> BoxAs<dyn ExtensionConfig> for T {
    fn boxed(self) -> Box<dyn ExtensionConfig> {
        Box::new(self)
    }
}

/// One component type: a constant that [`Factory::of`] makes, and that a [`Registry`] holds.
///
/// ```
/// use flowtap_pipeline::{Factory, ProcessorConfig};
///
/// /// Names and summaries of component types, as `flowtap components` lists them.
/// fn listed(factories: &[Factory<dyn ProcessorConfig>]) -> Vec<String> {
///     let lines = factories.iter().map(|factory| format!("{}: {}", factory.type_name, factory.summary));
///     lines.collect()
/// }
/// # assert!(listed(&[]).is_empty());
/// ```
pub struct Factory<C: ?Sized> {
    /// Its name in ids.
    pub type_name: &'static str,
    /// One line for `flowtap components` and the config reference.
    pub summary: &'static str,
    /// Stability of its behaviour and keys.
    pub stability: Stability,
    /// Reads a config of this type. `figment`'s error carries the path of the key and what was expected there.
    pub parse: fn(&Value) -> Result<Box<C>, figment::Error>,
    /// The JSON Schema of such a config, for editors and the config reference: what [`schemars::JsonSchema`] derives from it.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// The config in which nothing is set. It need not be valid: a key may have to be given.
    pub default: fn() -> Box<C>,
}

impl<C: ?Sized> Factory<C> {
    /// The component type whose config is `T`: how it is read, printed and described follows from `T` alone.
    ///
    /// ```
    /// use flowtap_pipeline::contract::Stability;
    /// use flowtap_pipeline::{
    ///     BuildContext, BuildError, ComponentConfig, Factory, FlowBatch, Processor, ProcessorConfig, ProcessorStage,
    /// };
    ///
    /// /// Nothing can be set.
    /// #[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    /// #[serde(deny_unknown_fields, default)]
    /// struct Config {}
    ///
    /// impl ComponentConfig for Config {}
    ///
    /// impl ProcessorConfig for Config {
    ///     fn build(&self, _: &BuildContext) -> Result<ProcessorStage, BuildError> {
    ///         Ok(ProcessorStage::Transform(Box::new(Forget)))
    ///     }
    /// }
    ///
    /// /// Drops every record.
    /// struct Forget;
    ///
    /// impl Processor for Forget {
    ///     fn process(&mut self, batch: &mut FlowBatch) {
    ///         batch.tcp.clear();
    ///     }
    /// }
    ///
    /// const FACTORY: Factory<dyn ProcessorConfig> =
    ///     Factory::of::<Config>("forget", "drops every record", Stability::Alpha);
    /// # assert!(FACTORY.default().contract().fills.is_empty());
    /// ```
    pub const fn of<T>(type_name: &'static str, summary: &'static str, stability: Stability) -> Self
    where
        T: BoxAs<C> + Default + DeserializeOwned + JsonSchema,
    {
        Self {
            type_name,
            summary,
            stability,
            parse: |value| Ok(value.deserialize::<T>()?.boxed()),
            schema: T::json_schema,
            default: || T::default().boxed(),
        }
    }

    /// The config in which nothing is set.
    pub fn default(&self) -> Box<C> {
        (self.default)()
    }
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
    extensions: Factories<dyn ExtensionConfig>,
    left_out: BTreeMap<(ComponentKind, &'static str), &'static str>,
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

    /// Adds an extension type. It replaces a type of the same name.
    #[must_use]
    pub fn extension(mut self, factory: Factory<dyn ExtensionConfig>) -> Self {
        self.extensions.insert(factory.type_name, factory);
        self
    }

    /// Notes that this build has no type `type_name` of `kind`, and which cargo feature adds it: a config that names it gets that
    /// answer instead of a guess at a typing mistake. A type of this name that is registered has precedence.
    #[must_use]
    pub fn left_out(mut self, kind: ComponentKind, type_name: &'static str, feature: &'static str) -> Self {
        self.left_out.insert((kind, type_name), feature);
        self
    }

    /// The cargo feature that adds the type `type_name` of `kind`, if this build was made without it.
    pub fn feature_of(&self, kind: ComponentKind, type_name: &str) -> Option<&'static str> {
        let left_out = self.types_left_out(kind);
        left_out
            .filter(|(name, _)| *name == type_name)
            .map(|(_, feature)| feature)
            .next()
    }

    /// The types of `kind` that this build was made without, by name, each with the cargo feature that adds it.
    pub fn types_left_out(&self, kind: ComponentKind) -> impl Iterator<Item = (&'static str, &'static str)> {
        let left_out = self.left_out.iter();
        left_out
            .filter(move |((of, _), _)| *of == kind)
            .map(|((_, name), feature)| (*name, *feature))
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

    /// The extension types.
    pub const fn extensions(&self) -> &Factories<dyn ExtensionConfig> {
        &self.extensions
    }
}
