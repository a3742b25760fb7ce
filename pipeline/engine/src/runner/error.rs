//! Errors of a run, and the texts of errors and panics of components.

use std::any::Any;
use std::time::Duration;

use flowtap_pipeline::{ComponentId, StageError};

/// The error that ended a run early, or that occurred at its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A component did not start.
    #[error("{id} did not start: {source}")]
    Start {
        /// Which component.
        id: ComponentId,
        /// Why.
        source: StageError,
    },
    /// A component can't go on.
    #[error("{id} stopped: {source}")]
    Failed {
        /// Which component.
        id: ComponentId,
        /// Why.
        source: StageError,
    },
    /// A component panicked.
    #[error("{id} panicked: {message}")]
    Panicked {
        /// Which component.
        id: ComponentId,
        /// Message of the panic.
        message: String,
    },
    /// The system gave no thread or runtime for a receiver.
    #[error("no thread for {id}: {source}")]
    Thread {
        /// Which component.
        id: ComponentId,
        /// Error of the system.
        source: std::io::Error,
    },
    /// A receiver did not stop.
    #[error("{id} did not stop within {waited:?}; its last records may be missing")]
    Stuck {
        /// Which component.
        id: ComponentId,
        /// Time that was waited.
        waited: Duration,
    },
    /// Exporters had drained their queues by the deadline, and had not delivered everything in them.
    #[error("stopped with {items} points and log records not delivered")]
    Undelivered {
        /// Points and log records that were given up.
        items: u64,
    },
    /// Some exporter had not drained its queue when the deadline came.
    #[error("stopped by the deadline of {deadline:?} with {items} points and log records not yet exported")]
    Deadline {
        /// The deadline.
        deadline: Duration,
        /// Points and log records that were given up.
        items: u64,
    },
}

impl RunError {
    /// Which component it is about, if it is about one.
    pub const fn component(&self) -> Option<&ComponentId> {
        match self {
            Self::Start { id, .. }
            | Self::Failed { id, .. }
            | Self::Panicked { id, .. }
            | Self::Thread { id, .. }
            | Self::Stuck { id, .. } => Some(id),
            Self::Undelivered { .. } | Self::Deadline { .. } => None,
        }
    }
}

/// The text of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// An error with everything that caused it, on one line.
pub(super) fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
