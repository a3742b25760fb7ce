//! The newest findings, served to clients: the admin API, the status page, `flowtap findings`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use flowtap_model::FindingRecord;

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
}

impl Findings {
    /// Adds one, unless it is known: pipelines with the same processor make the same findings at the same watermark.
    pub fn push(&self, finding: FindingRecord) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.records.iter().rev().take(limit).map(Arc::clone).collect()
    }

    /// Takes out all that are kept, the oldest first.
    pub fn take(&self) -> Vec<Arc<FindingRecord>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.records.drain(..).collect()
    }

    /// Number of findings since the start.
    pub fn total(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}
