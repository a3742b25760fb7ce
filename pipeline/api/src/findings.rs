//! The newest findings, served to clients: the admin API, the status page, `flowtap findings`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtap_model::{FindingKind, FindingRecord, Timestamp};

/// Findings that are kept.
const KEPT: usize = 1000;

const KINDS: usize = FindingKind::ALL.len();

/// The newest findings, at most 1,000. The oldest of the kind that has the most make room, so a flood of one kind leaves the newest 142 of
/// each other one.
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
    /// With their numbers in the order in which they were made, by kind.
    records: [VecDeque<(u64, Arc<FindingRecord>)>; KINDS],
    /// Number of those that were made, by kind.
    totals: [u64; KINDS],
    /// Processors that make findings, by the index of their registration.
    watchers: BTreeMap<u64, Watcher>,
    registered: u64,
}

/// Numbers of findings of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Since the start.
    pub total: u64,
    /// Those that are kept.
    pub kept: usize,
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
    /// Whether that period has ended, by the processor's own clock: the system's may have been set back since.
    pub has_learned: bool,
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
        self.set(until, false);
    }

    /// Sets the end of that period, which has passed.
    pub fn has_learned_until(&self, until: Timestamp) {
        self.set(until, true);
    }

    fn set(&self, until: Timestamp, has_learned: bool) {
        if let Some(watcher) = self.findings.kept().watchers.get_mut(&self.index) {
            watcher.learns_until = Some(until);
            watcher.has_learned = has_learned;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.findings.kept().watchers.remove(&self.index);
    }
}

impl Kept {
    fn total(&self) -> u64 {
        self.totals.iter().sum()
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
    /// watch.has_learned_until(Timestamp::from_nanos(7));
    /// assert!(findings.watchers()[0].has_learned);
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
                has_learned: false,
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
        let kind = finding.kind as usize;
        let mut of_watermark = kept.records[kind]
            .iter()
            .rev()
            .take_while(|(_, known)| known.at == finding.at);
        if of_watermark.any(|(_, known)| **known == finding) {
            return;
        }
        if kept.records.iter().map(VecDeque::len).sum::<usize>() == KEPT
            && let Some(most) = kept.records.iter_mut().max_by_key(|records| records.len())
        {
            most.pop_front();
        }
        let number = kept.total();
        kept.records[kind].push_back((number, Arc::new(finding)));
        kept.totals[kind] += 1;
    }

    /// The newest, at most `limit`, the newest first.
    pub fn newest(&self, limit: usize) -> Vec<Arc<FindingRecord>> {
        let kept = self.kept();
        let mut newest: Vec<_> = kept.records.iter().flatten().collect();
        newest.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        let newest = newest.into_iter().take(limit);
        newest.map(|(_, record)| Arc::clone(record)).collect()
    }

    /// Takes out all that are kept, the oldest first.
    pub fn take(&self) -> Vec<Arc<FindingRecord>> {
        let mut kept = self.kept();
        let records = kept.records.iter_mut();
        let mut taken: Vec<_> = records.flat_map(|records| records.drain(..)).collect();
        taken.sort_unstable_by_key(|(number, _)| *number);
        taken.into_iter().map(|(_, record)| record).collect()
    }

    /// Number of findings since the start.
    pub fn total(&self) -> u64 {
        self.kept().total()
    }

    /// Numbers of findings by kind, of the kinds that have any.
    ///
    /// ```
    /// use flowtap_pipeline::Findings;
    ///
    /// assert!(Findings::default().counts().is_empty());
    /// ```
    pub fn counts(&self) -> BTreeMap<FindingKind, Count> {
        let kept = self.kept();
        let counts = FindingKind::ALL.map(|kind| {
            let (total, records) = (kept.totals[kind as usize], &kept.records[kind as usize]);
            (
                kind,
                Count {
                    total,
                    kept: records.len(),
                },
            )
        });
        counts.into_iter().filter(|(_, count)| count.total > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use flowtap_model::{Endpoint, Flow};

    use super::*;

    fn finding(kind: FindingKind, at: u64) -> FindingRecord {
        let end = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 80);
        FindingRecord {
            flow: Flow::new(end, end),
            kind,
            at: Timestamp::from_nanos(at),
            subject: "curl".into(),
            object: "".into(),
            text: "".into(),
            numbers: Vec::new(),
        }
    }

    #[test]
    fn a_flood_of_one_kind_leaves_those_of_other_kinds_and_all_are_counted() {
        let findings = Findings::default();
        findings.push(finding(FindingKind::BlackList, 1));
        findings.push(finding(FindingKind::BlackList, 1));
        for at in 2..2002 {
            findings.push(finding(FindingKind::FirstContact, at));
        }
        findings.push(finding(FindingKind::Beacon, 3000));
        let newest = findings.newest(usize::MAX);
        let times = newest.iter().map(|record| record.at.as_nanos());
        let expected = std::iter::once(3000).chain((1004..2002).rev()).chain([1]);
        assert!(times.eq(expected));
        assert_eq!(findings.total(), 2002);
        let counts = findings.counts();
        let count = |total, kept| Count { total, kept };
        assert_eq!(counts[&FindingKind::FirstContact], count(2000, 998));
        assert_eq!(counts[&FindingKind::BlackList], count(1, 1));
        assert_eq!(counts.len(), 3);
        // Two floods: a third kind keeps what it is promised.
        for at in 0..1000 {
            findings.push(finding(FindingKind::FanOut, at));
            findings.push(finding(FindingKind::FailureSurge, at));
        }
        let counts = findings.counts();
        assert_eq!(
            (
                counts[&FindingKind::BlackList].kept,
                counts[&FindingKind::Beacon].kept
            ),
            (1, 1)
        );
        assert!(counts[&FindingKind::FirstContact].kept >= KEPT / KINDS);
        let taken = findings.take();
        assert_eq!((taken.len(), findings.newest(1).len()), (KEPT, 0));
        assert_eq!(taken[0].kind, FindingKind::BlackList);
    }
}
