//! Helpers shared by the tests of several processors.

#[cfg(feature = "watch")]
use std::fmt::Write as _;
#[cfg(feature = "watch")]
use std::sync::{Arc, Mutex};

use flowtap_pipeline::testing::Instruments;
use flowtap_pipeline::{BuildContext, NodeInfo, Published};

pub(crate) use flowtap_pipeline::testing::{flow, record};

/// A context on a node like `node`, with instruments that nobody reads.
pub(crate) fn context(node: NodeInfo) -> BuildContext {
    BuildContext {
        node: Published::new(node),
        ..flowtap_pipeline::testing::context("test")
    }
}

/// The counters that Prometheus gets.
#[derive(Clone, Debug)]
pub(crate) struct Counters(Instruments);

impl Counters {
    /// `flowtap_processor_dropped_records_total` with this reason.
    pub(crate) fn dropped_records(&self, reason: &str) -> u64 {
        self.0.sum("processor_dropped_records", "reason", reason)
    }

    /// `flowtap_processor_dropped_bytes_total` with this reason.
    pub(crate) fn dropped_bytes(&self, reason: &str) -> u64 {
        self.0.sum("processor_dropped", "reason", reason)
    }

    /// The value of each series of a counter or gauge, with its labels as a text, in order.
    pub(crate) fn series(&self, name: &str) -> Vec<(String, u64)> {
        self.0.series(name)
    }
}

/// A context whose counters are read.
pub(crate) fn counted_context(node: NodeInfo) -> (BuildContext, Counters) {
    let instruments = Instruments::new();
    let context = BuildContext {
        meter: instruments.meter(),
        ..context(node)
    };
    (context, Counters(instruments))
}

/// The lines that `act` logs, from INFO on: the level, and each field as ` name=value`.
#[cfg(feature = "watch")]
pub(crate) fn logged(act: impl FnOnce()) -> String {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), act);
    let text = lines.0.lock().unwrap();
    text.clone()
}

#[cfg(feature = "watch")]
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<String>>);

#[cfg(feature = "watch")]
struct Fields<'a>(&'a mut String);

#[cfg(feature = "watch")]
impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

#[cfg(feature = "watch")]
impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut lines = self.0.lock().unwrap();
        write!(lines, "{}", event.metadata().level()).unwrap();
        event.record(&mut Fields(&mut lines));
        lines.push('\n');
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
