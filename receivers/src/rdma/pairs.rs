//! From the queue pairs of a device to levels, by type, state and process.

use std::collections::{BTreeMap, HashSet};
use std::io;

use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::{ReadingLabels, ReadingRecord, ReadingValue, plain};

use super::queue_pairs::QueuePair;
use super::reader::{Shown, end};
use super::telemetry::Telemetry;

/// Sets of labels that the queue pairs of a device have at most; those of further processes are counted together.
const MAX_GROUPS: usize = 1 << 12;

/// Queue pairs of a device over time.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    shown: HashSet<Shown>,
    failing: Failing,
}

impl Pairs {
    /// Counts what a dump has. After one that failed the levels stay as they are.
    pub(super) fn read(
        &mut self,
        device: &str,
        dump: io::Result<Vec<QueuePair>>,
        telemetry: &Telemetry,
        readings: &mut Vec<ReadingRecord>,
    ) {
        let Some(pairs) = self.failing.listed(device, dump, telemetry) else {
            return;
        };
        let mut shown = HashSet::new();
        for (labels, count) in group(pairs) {
            let family = FamilyId::RdmaQueuePairs;
            let value = ReadingValue::Level(count);
            readings.push(ReadingRecord::new(family, labels.clone(), value));
            shown.insert((family, labels));
        }
        end(&self.shown, &shown, readings);
        self.shown = shown;
    }

    /// Ends the levels of a device that is gone.
    pub(super) fn end_levels(&mut self, readings: &mut Vec<ReadingRecord>) {
        end(&self.shown, &HashSet::new(), readings);
        self.shown.clear();
    }
}

/// Whether the last dump failed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failing(bool);

impl Failing {
    /// The result of a dump of `device`, or of the list of devices if that is empty. A failure is counted, and logged when it is new.
    pub(super) fn listed<T>(
        &mut self,
        device: &str,
        result: io::Result<T>,
        telemetry: &Telemetry,
    ) -> Option<T> {
        let error = match result {
            Ok(value) => {
                self.0 = false;
                return Some(value);
            }
            Err(error) => error,
        };
        telemetry.failed();
        if !std::mem::replace(&mut self.0, true) {
            tracing::warn!(
                device = %plain::plain(device), %error,
                "queue pairs of RDMA devices can't be listed; their counts stay as they are; \
                hint: run `rdma resource show qp`, which shows whether the kernel lists them"
            );
        }
        None
    }
}

/// Numbers of queue pairs by labels.
fn group(pairs: Vec<QueuePair>) -> Vec<(ReadingLabels, u64)> {
    let mut groups = BTreeMap::<QueuePair, u64>::new();
    for pair in pairs {
        let is_full = groups.len() >= MAX_GROUPS && !groups.contains_key(&pair);
        let pair = if is_full { pair.of_other() } else { pair };
        *groups.entry(pair).or_default() += 1;
    }
    let groups = groups.into_iter();
    groups.map(|(pair, count)| (pair.labels(), count)).collect()
}
