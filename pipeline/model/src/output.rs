//! The output of a pipeline, as its exporters take it: snapshots of series or batches of log records.
//!
//! The id of a pipeline says which: `metrics` or `metrics/name`, `logs` or `logs/name`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::log::LogBatch;
use crate::snapshot::Snapshot;

/// The kinds of pipelines, by the output of the aggregator at their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PipelineKind {
    /// Series, in snapshots.
    Metrics,
    /// Log records, in batches.
    Logs,
}

impl PipelineKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Metrics, Self::Logs];

    /// The part of a pipeline's id before the slash.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// The items of an output of this kind, as messages call them.
    pub const fn items(self) -> &'static str {
        match self {
            Self::Metrics => "points",
            Self::Logs => "log records",
        }
    }
}

impl fmt::Display for PipelineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The id of a pipeline, `kind` or `kind/name`, as in the OpenTelemetry Collector.
///
/// ```
/// use flowtap_model::output::{PipelineId, PipelineKind};
///
/// let id: PipelineId = "logs/audit".parse()?;
/// assert_eq!((id.kind(), id.as_str()), (PipelineKind::Logs, "logs/audit"));
/// assert!("flows".parse::<PipelineId>().is_err());
/// # Ok::<(), flowtap_model::output::InvalidPipelineId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineId {
    kind: PipelineKind,
    text: String,
}

impl PipelineId {
    /// The kind of its output.
    pub const fn kind(&self) -> PipelineKind {
        self.kind
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for PipelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// A text that is not the id of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPipelineId(String);

impl fmt::Display for InvalidPipelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a valid pipeline id: expected `metrics`, `metrics/name`, `logs` or `logs/name`",
            self.0
        )
    }
}

impl std::error::Error for InvalidPipelineId {}

impl FromStr for PipelineId {
    type Err = InvalidPipelineId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) => (kind, Some(name)),
            None => (text, None),
        };
        let kind = PipelineKind::ALL.into_iter().find(|known| known.as_str() == kind);
        let name_ok = name
            .is_none_or(|name| !name.is_empty() && !name.contains(|c: char| c == '/' || c.is_whitespace()));
        match kind {
            Some(kind) if name_ok => Ok(Self {
                kind,
                text: text.to_owned(),
            }),
            _ => Err(InvalidPipelineId(text.to_owned())),
        }
    }
}

/// One output of a pipeline, shared by the exporters that it feeds.
#[derive(Clone, Debug)]
pub enum Output {
    /// Of a pipeline `metrics`.
    Metrics(Arc<Snapshot>),
    /// Of a pipeline `logs`.
    Logs(Arc<LogBatch>),
}

impl Output {
    /// Its kind.
    pub const fn kind(&self) -> PipelineKind {
        match self {
            Self::Metrics(_) => PipelineKind::Metrics,
            Self::Logs(_) => PipelineKind::Logs,
        }
    }

    /// Number of its items: points of live series, or log records.
    pub fn items(&self) -> u64 {
        match self {
            Self::Metrics(snapshot) => snapshot.points() as u64,
            Self::Logs(batch) => batch.records.len() as u64,
        }
    }

    /// Bytes of memory that it takes, shared series not included.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Metrics(snapshot) => snapshot.bytes(),
            Self::Logs(batch) => batch.bytes(),
        }
    }

    /// The end of the time that it covers.
    pub fn at(&self) -> crate::Timestamp {
        match self {
            Self::Metrics(snapshot) => snapshot.at,
            Self::Logs(batch) => batch.at,
        }
    }

    /// Whether it is the last one of its pipeline: flowtap is stopping.
    pub fn is_last(&self) -> bool {
        match self {
            Self::Metrics(snapshot) => snapshot.last,
            Self::Logs(batch) => batch.last,
        }
    }

    /// The same as the output of an aggregator that another one replaces, so not the last of its pipeline.
    #[must_use]
    pub fn replaced(self) -> Self {
        match self {
            Self::Metrics(mut snapshot) => {
                let inner = Arc::make_mut(&mut snapshot);
                (inner.last, inner.replaced) = (false, true);
                Self::Metrics(snapshot)
            }
            Self::Logs(mut batch) => {
                Arc::make_mut(&mut batch).continue_with_another();
                Self::Logs(batch)
            }
        }
    }

    /// The snapshot that it is; `None` for log records.
    pub fn into_snapshot(self) -> Option<Arc<Snapshot>> {
        match self {
            Self::Metrics(snapshot) => Some(snapshot),
            Self::Logs(_) => None,
        }
    }

    /// The batch of log records that it is; `None` for a snapshot.
    pub fn into_logs(self) -> Option<Arc<LogBatch>> {
        match self {
            Self::Logs(batch) => Some(batch),
            Self::Metrics(_) => None,
        }
    }
}

impl From<Snapshot> for Output {
    fn from(snapshot: Snapshot) -> Self {
        Self::Metrics(Arc::new(snapshot))
    }
}

impl From<LogBatch> for Output {
    fn from(batch: LogBatch) -> Self {
        Self::Logs(Arc::new(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_kind_with_an_optional_name() {
        for (text, kind) in [
            ("metrics", PipelineKind::Metrics),
            ("metrics/second", PipelineKind::Metrics),
            ("logs", PipelineKind::Logs),
            ("logs/a.b-c", PipelineKind::Logs),
        ] {
            let id: PipelineId = text.parse().unwrap();
            assert_eq!((id.kind(), id.as_str()), (kind, text));
        }
        for text in [
            "", "flows", "metrics/", "logs/a/b", "logs/a b", "Logs", "traces", "/logs",
        ] {
            assert!(text.parse::<PipelineId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn the_output_of_a_replaced_aggregator_is_not_the_last_of_its_pipeline() {
        let batch = LogBatch {
            last: true,
            ..LogBatch::default()
        };
        assert!(!Output::from(batch).replaced().is_last());
    }
}
