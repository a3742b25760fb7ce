//! The newest findings, served to clients: the admin API, the status page, `flowtap findings`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtap_model::{FindingRecord, Timestamp};

/// Findings that are kept.
const KEPT: usize = 1000;

/// The newest findings, at most 1,000; older ones make room.
///
/// ```
/// use std::net::Ipv4Addr;
/// use flowtap_pipeline::{Endpoint, FindingKind, FindingRecord, Findings, Flow, Timestamp};
///
/// let end = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 80);
/// let findings = Findings::default();
/// findings.push(FindingRecord {
///     flow: Flow::new(end, end),
///     kind: FindingKind::FirstContact,
///     at: Timestamp::from_nanos(1),
///     subject: "curl".into(),
///     object: "192.0.2.0/24".into(),
///     text: "curl talks to 192.0.2.0/24 for the first time".into(),
///     numbers: Vec::new(),
/// });
/// assert_eq!(findings.newest(10).len(), 1);
/// assert_eq!(findings.take().len(), 1);
/// assert_eq!(findings.newest(10).len(), 0);
/// assert_eq!(findings.total(), 1);
/// ```
#[derive(Debug, Default)]
pub struct Findings(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Arc<FindingRecord>>,
    total: u64,
    /// Processors that make findings, by the index of their registration.
    watchers: BTreeMap<u64, Watcher>,
    registered: u64,
}

/// A processor that makes findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watcher {
    /// Its id.
    pub processor: String,
    /// The pipeline that it is in.
    pub pipeline: String,
    /// End of the period in which it learns and reports nothing; `None` before it is part of a pipeline that runs.
    pub learns_until: Option<Timestamp>,
}

/// A place among the [`watchers`](Findings::watchers), which is given up with it.
#[derive(Debug)]
pub struct Registration {
    findings: Arc<Findings>,
    index: u64,
}

impl Registration {
    /// Sets the end of the period in which the processor learns.
    pub fn learns_until(&self, until: Timestamp) {
        if let Some(watcher) = self.findings.kept().watchers.get_mut(&self.index) {
            watcher.learns_until = Some(until);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.findings.kept().watchers.remove(&self.index);
    }
}

impl Findings {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a processor that makes findings, for as long as what is returned is kept.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use flowtap_pipeline::{Findings, Timestamp};
    ///
    /// let findings = Arc::new(Findings::default());
    /// let watch = findings.register("watch", "metrics");
    /// assert_eq!(findings.watchers()[0].learns_until, None);
    /// watch.learns_until(Timestamp::from_nanos(7));
    /// assert_eq!(findings.watchers()[0].learns_until, Some(Timestamp::from_nanos(7)));
    /// drop(watch);
    /// assert!(findings.watchers().is_empty());
    /// ```
    pub fn register(self: &Arc<Self>, processor: &str, pipeline: &str) -> Registration {
        let mut kept = self.kept();
        let index = kept.registered;
        kept.registered += 1;
        kept.watchers.insert(
            index,
            Watcher {
                processor: processor.to_owned(),
                pipeline: pipeline.to_owned(),
                learns_until: None,
            },
        );
        Registration {
            findings: Arc::clone(self),
            index,
        }
    }

    /// Whether a processor of this pipeline makes findings.
    pub fn has_watcher_in(&self, pipeline: &str) -> bool {
        let kept = self.kept();
        kept.watchers.values().any(|watcher| watcher.pipeline == pipeline)
    }

    /// Returns the processors that make findings.
    pub fn watchers(&self) -> Vec<Watcher> {
        self.kept().watchers.values().cloned().collect()
    }

    /// Adds one, unless it is known: pipelines with the same processor make the same findings at the same watermark.
    pub fn push(&self, finding: FindingRecord) {
        let mut kept = self.kept();
        let mut of_watermark = kept
            .records
            .iter()
            .rev()
            .take_while(|known| known.at == finding.at);
        if of_watermark.any(|known| **known == finding) {
            return;
        }
        if kept.records.len() == KEPT {
            kept.records.pop_front();
        }
        kept.records.push_back(Arc::new(finding));
        kept.total += 1;
    }

    /// The newest, at most `limit`, the newest first.
    pub fn newest(&self, limit: usize) -> Vec<Arc<FindingRecord>> {
        let kept = self.kept();
        kept.records.iter().rev().take(limit).map(Arc::clone).collect()
    }

    /// Takes out all that are kept, the oldest first.
    pub fn take(&self) -> Vec<Arc<FindingRecord>> {
        let mut kept = self.kept();
        kept.records.drain(..).collect()
    }

    /// Number of findings since the start.
    pub fn total(&self) -> u64 {
        self.kept().total
    }
}
