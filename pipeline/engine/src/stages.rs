//! The synchronous chain of a pipeline: its processors in order, then the aggregator, which is a window or gives log records.
//!
//! Everything that runs records through a pipeline drives this type: the runner through a [`Chain`](crate::chain::Chain),
//! `flowtap replay`, `flowtap explain`, the fuzz targets, benches and tests. So what they measure and check is what the daemon does.
//!
//! In: batches, watermarks. Out: a snapshot, or a batch of log records, when a watermark closes a window.

use std::sync::Arc;

use flowtap_pipeline::{
    Aggregator, BuildContext, BuildError, Census, ComponentConfig, ComponentId, FlowBatch, LabelChanges,
    Observer, Output, Processor, ProcessorConfig, ProcessorStage, Timestamp,
};

/// A processor, and the config that it was built from.
pub struct ProcessorNode {
    /// Its id.
    pub id: ComponentId,
    /// Its whole config, see [`fingerprint`].
    pub fingerprint: String,
    /// The processor.
    pub processor: Box<dyn Processor>,
}

/// A pipeline's aggregator, and the config that it was built from.
pub struct WindowNode {
    /// Its whole config, see [`fingerprint`].
    pub fingerprint: String,
    /// The aggregator.
    pub aggregator: Box<dyn Aggregator>,
}

/// Processors in order, and the window that ends them.
pub struct Stages {
    processors: Vec<ProcessorNode>,
    window: WindowNode,
    /// For records that processors add.
    added: FlowBatch,
    /// Looks at what reaches the window.
    observer: Option<Arc<dyn Observer>>,
}

impl std::fmt::Debug for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids = self.processors.iter().map(|node| &node.id);
        f.debug_list().entries(ids).finish()
    }
}

impl Stages {
    /// Stages that were built elsewhere.
    pub fn new(processors: Vec<ProcessorNode>, window: WindowNode) -> Self {
        Self {
            processors,
            window,
            added: FlowBatch::default(),
            observer: None,
        }
    }

    /// Lets `observer` look at the records that reach the window.
    pub fn observe(&mut self, observer: Arc<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// Builds the stages of `configs`, in their order, each with what `context` returns for its id. `None` if no stage is an
    /// aggregator, which a pipeline must end in.
    ///
    /// # Errors
    /// The first processor that can't be built on this machine.
    pub fn build<'a>(
        configs: impl IntoIterator<Item = (&'a ComponentId, &'a dyn ProcessorConfig)>,
        context: impl Fn(&ComponentId) -> BuildContext,
    ) -> Result<Option<Self>, BuildError> {
        let configs: Vec<_> = configs.into_iter().collect();
        let mut changes = LabelChanges::default();
        for (_, config) in &configs {
            changes.merge(config.contract().label_changes);
        }
        let changes = Arc::new(changes);
        let (mut processors, mut window) = (Vec::new(), None);
        for (id, config) in configs {
            let mut fingerprint = fingerprint(config);
            let context = BuildContext {
                label_changes: Arc::clone(&changes),
                ..context(id)
            };
            match config.build(&context)? {
                ProcessorStage::Transform(processor) => processors.push(ProcessorNode {
                    id: id.clone(),
                    fingerprint,
                    processor,
                }),
                ProcessorStage::Aggregate(aggregator) => {
                    if !changes.is_empty() {
                        // With other changes its series are others.
                        fingerprint = format!("{fingerprint} {changes:?}");
                    }
                    window = Some(WindowNode {
                        fingerprint,
                        aggregator,
                    });
                }
            }
        }
        Ok(window.map(|window| Self::new(processors, window)))
    }

    /// The same processors with another window.
    #[must_use]
    pub fn with_window(mut self, window: Box<dyn Aggregator>) -> Self {
        self.window = WindowNode {
            fingerprint: String::new(),
            aggregator: window,
        };
        self
    }

    /// Sets the clocks of the processors, and opens the first window. To be called once, before anything else.
    pub fn begin(&mut self, at: Timestamp) {
        for node in &mut self.processors {
            node.processor.begin(at);
        }
        self.window.aggregator.begin(at);
    }

    /// The output with which the first window opens, if there is one: see [`Aggregator::opening`].
    pub(crate) fn opening(&self) -> Option<Output> {
        self.window.aggregator.opening()
    }

    /// Runs `batch` through the processors, in place, and into the window.
    pub fn accept(&mut self, batch: &mut FlowBatch) {
        for node in &mut self.processors {
            node.processor.process(batch);
        }
        if let Some(observer) = &self.observer {
            observer.observe(batch);
        }
        self.window.aggregator.fold(batch);
    }

    /// Whether a processor or the window asks for every open connection of the receiver with this index.
    pub fn wants_census(&self, receiver: u16) -> bool {
        let mut processors = self.processors.iter();
        self.window.aggregator.wants_census(receiver)
            || processors.any(|node| node.processor.wants_census(receiver))
    }

    /// Every record up to `to` has been accepted. Returns the output of the window that this closes, if it closes one.
    pub fn advance(&mut self, to: Timestamp) -> Option<Output> {
        self.advance_processors(to);
        if let Some(observer) = &self.observer {
            observer.advance(to);
        }
        self.window.aggregator.advance(to)
    }

    /// Lets each processor know the time. Records that one adds go through those after it and into the window.
    fn advance_processors(&mut self, to: Timestamp) {
        self.added.receiver = FlowBatch::DETACHED;
        for place in 0..self.processors.len() {
            self.processors[place].processor.advance(to, &mut self.added);
            if self.added.is_empty() {
                continue;
            }
            for node in &mut self.processors[place + 1..] {
                node.processor.process(&mut self.added);
            }
            self.window.aggregator.fold(&self.added);
            self.added.clear();
        }
    }

    /// Closes the current window, however short; nothing follows.
    pub fn finish(&mut self, at: Timestamp) -> Output {
        self.advance_processors(at);
        self.window.aggregator.finish(at)
    }

    /// The connections of the receiver with this index are no longer open, as far as the window is concerned. Returns how many
    /// these were.
    pub(crate) fn forget_connections(&mut self, receiver: u16) -> u64 {
        let open = self.window.aggregator.open_connections(receiver);
        self.window.aggregator.fold(&FlowBatch {
            census: Census::WHOLE,
            receiver,
            ..FlowBatch::default()
        });
        open
    }

    /// Becomes `other`; processors and window whose config is the same live on, with their state. A window that does not is
    /// finished at `now`, where the new one begins with what that one leaves: its contents are returned.
    pub(crate) fn reconcile(&mut self, other: Self, now: Timestamp) -> Option<Output> {
        self.observer = other.observer;
        let mut before = std::mem::take(&mut self.processors);
        let identity = |node: &ProcessorNode| (node.id.clone(), node.fingerprint.clone());
        let other_records = !before
            .iter()
            .map(identity)
            .eq(other.processors.iter().map(identity));
        for new in other.processors {
            let same = |old: &ProcessorNode| old.id == new.id && old.fingerprint == new.fingerprint;
            let kept = before
                .iter()
                .position(same)
                .map(|place| before.swap_remove(place));
            self.processors.push(kept.unwrap_or_else(|| {
                let mut new = new;
                new.processor.begin(now);
                new
            }));
        }
        if other.window.fingerprint == self.window.fingerprint {
            if other_records {
                self.window.aggregator.request_census();
            }
            return None;
        }
        let output = self.window.aggregator.finish(now);
        let before = std::mem::replace(&mut self.window, other.window);
        if let Some(inheritance) = before.aggregator.hand_over() {
            self.window.aggregator.take_over(inheritance);
        }
        if other_records {
            self.window.aggregator.request_census();
        }
        self.window.aggregator.begin(now);
        Some(output)
    }
}

/// The whole config of a component, as text: over a reload, a component lives on as long as its text is the same.
pub fn fingerprint(config: &dyn ComponentConfig) -> String {
    let text = config
        .to_value()
        .ok()
        .and_then(|value| serde_json::to_string(&value).ok());
    // Every config was read from such a value, so it can be written as one.
    text.unwrap_or_default()
}
