//! Labels of one connection or process: the rows that keys have the number of.
//!
//! In: a flow, and which labels its family has. Out: the number of the row with the same values of those labels. A row that
//! is there is found without making one: a flow's hash and comparison touch what `labels` asks for, and no heap.

mod detail;

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use flowtap_pipeline::catalog::{Label, LabelSet};
use flowtap_pipeline::{Flow, ReadingLabels};
use foldhash::fast::RandomState;
use hashbrown::HashTable;

pub(super) use self::detail::Detail;
use self::detail::within;

/// Rows that are kept whether they are taken or not.
const LEAST: usize = 1024;

/// A row that is taken.
#[derive(Debug)]
struct Row {
    detail: Detail,
    hash: u64,
    /// Number of series that use it.
    series: usize,
}

/// The rows that keys point to. A row lives as long as a series has it.
#[derive(Debug)]
pub(super) struct Details {
    /// Row 0 is never taken.
    rows: Vec<Option<Row>>,
    /// Numbers of rows, by the hash of their values.
    numbers: HashTable<u32>,
    hasher: RandomState,
    free: Vec<u32>,
}

impl Default for Details {
    fn default() -> Self {
        Self {
            rows: vec![None],
            numbers: HashTable::new(),
            hasher: RandomState::default(),
            free: Vec::new(),
        }
    }
}

impl Details {
    /// The row of `flow`'s details among `labels`; 0 if none of those is a detail. A row that no series has is freed by
    /// the next [`Details::sweep`].
    #[inline]
    pub(super) fn index(&mut self, labels: LabelSet, flow: &Flow, qname: Option<&Arc<str>>) -> u32 {
        let labels = labels.details();
        if labels.is_empty() {
            return 0;
        }
        self.find(labels, flow, qname)
    }

    /// The same of a reading. Its direction is not in the row, but in the key.
    pub(super) fn index_of_reading(&mut self, labels: LabelSet, reading: &ReadingLabels) -> u32 {
        let labels = labels.without(Label::Direction);
        if labels.is_empty() {
            return 0;
        }
        let mut state = self.hasher.build_hasher();
        labels.hash(&mut state);
        for pair in within(labels, reading) {
            pair.hash(&mut state);
        }
        let hash = state.finish();
        let is_it = |index: &u32| {
            let row = self.rows[*index as usize].as_ref();
            row.is_some_and(|row| row.detail.is_of_reading(labels, reading))
        };
        match self.numbers.find(hash, is_it) {
            Some(index) => *index,
            None => self.insert(hash, Detail::of_reading(labels, reading)),
        }
    }

    /// Apart from [`Details::index`], so that a record without details passes by.
    #[inline(never)]
    fn find(&mut self, labels: LabelSet, flow: &Flow, qname: Option<&Arc<str>>) -> u32 {
        let hash = Detail::hash(&self.hasher, labels, flow, qname);
        let is_it = |index: &u32| {
            let row = self.rows[*index as usize].as_ref();
            row.is_some_and(|row| row.detail.is_of(labels, flow, qname))
        };
        match self.numbers.find(hash, is_it) {
            Some(index) => *index,
            None => self.insert(hash, Detail::new(labels, flow, qname)),
        }
    }

    #[cold]
    fn insert(&mut self, hash: u64, detail: Detail) -> u32 {
        let row = Some(Row {
            detail,
            hash,
            series: 0,
        });
        let index = if let Some(index) = self.free.pop() {
            self.rows[index as usize] = row;
            index
        } else {
            self.rows.push(row);
            // Memory ends long before 2^32 rows.
            u32::try_from(self.rows.len() - 1).unwrap_or(0)
        };
        let rows = &self.rows;
        self.numbers.insert_unique(hash, index, |index| {
            rows[*index as usize].as_ref().map_or(0, |row| row.hash)
        });
        index
    }

    pub(super) fn get(&self, index: u32) -> Option<&Detail> {
        self.rows.get(index as usize)?.as_ref().map(|row| &row.detail)
    }

    /// A series has come to have row `index`.
    pub(super) fn take(&mut self, index: u32) {
        if let Some(Some(row)) = self.rows.get_mut(index as usize) {
            row.series += 1;
        }
    }

    /// A series with row `index` has left.
    pub(super) fn release(&mut self, index: u32) {
        if let Some(Some(row)) = self.rows.get_mut(index as usize) {
            row.series = row.series.saturating_sub(1);
        }
    }

    /// Frees the rows that no series has.
    pub(super) fn sweep(&mut self) {
        for (index, place) in (0..).zip(&mut self.rows) {
            let Some(row) = place.take_if(|row| row.series == 0) else {
                continue;
            };
            if let Ok(entry) = self.numbers.find_entry(row.hash, |found| *found == index) {
                entry.remove();
            }
            self.free.push(index);
        }
        // Keys hold the numbers of rows, so only those at the end can go.
        let taken = self.rows.iter().rposition(Option::is_some).unwrap_or(0);
        if self.rows.len() > LEAST && taken < self.rows.len() / 4 {
            self.rows.truncate(taken + 1);
            self.rows.shrink_to_fit();
            self.free.retain(|index| (*index as usize) <= taken);
            self.free.shrink_to_fit();
            let rows = &self.rows;
            let hash_of = |index: &u32| rows[*index as usize].as_ref().map_or(0, |row| row.hash);
            self.numbers.shrink_to_fit(hash_of);
        }
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::{KubernetesNames, LabelValue};

    use super::*;
    use crate::testing::flow;

    fn of(pid: u32, netns: u32) -> Flow {
        Flow {
            pid,
            netns,
            comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
            ..flow("192.0.2.1:80", "198.51.100.7:4000")
        }
    }

    fn named(pod: &str, workload: &str) -> Flow {
        let names = KubernetesNames {
            pod: pod.to_owned(),
            workload: workload.to_owned(),
            ..KubernetesNames::default()
        };
        Flow {
            peer_names: Some(Arc::new(names)),
            ..of(7, 1)
        }
    }

    #[test]
    fn details_are_numbered_by_what_is_asked_for_and_freed_when_no_series_has_them() {
        let mut details = Details::default();
        let labels = LabelSet::new(&[Label::Pid, Label::Comm]);
        let first = details.index(labels, &of(7, 1), None);
        assert_eq!(
            details.index(labels, &of(7, 2), None),
            first,
            "netns is not asked for"
        );
        let second = details.index(labels, &of(8, 1), None);
        assert_ne!(first, second);
        assert_eq!(details.index(LabelSet::new(&[Label::Raddr]), &of(7, 1), None), 0);

        let detail = details.get(first).unwrap();
        assert_eq!(detail.value(Label::Comm), LabelValue::Text("nginx"));
        assert_eq!(detail.value(Label::Pid), LabelValue::Number(7));
        assert_eq!(detail.value(Label::ContainerId), LabelValue::Text(""));

        details.take(first);
        details.sweep();
        assert_eq!(details.index(labels, &of(7, 1), None), first);
        assert_eq!(
            details.index(labels, &of(9, 1), None),
            second,
            "the row is free again"
        );
        details.release(first);
        details.sweep();
        assert!(details.get(first).is_none());
    }

    #[test]
    fn families_that_differ_only_in_labels_that_are_no_details_share_rows() {
        let mut details = Details::default();
        let number = |details: &mut Details, label| {
            details.index(LabelSet::new(&[label, Label::Netns]), &of(7, 1), None)
        };
        let first = number(&mut details, Label::Rport);
        assert_eq!(number(&mut details, Label::Lport), first);
        assert_ne!(number(&mut details, Label::Pid), first);
    }

    #[test]
    fn names_distinguish_series_only_where_they_are_configured() {
        let mut details = Details::default();
        let workload = LabelSet::new(&[Label::PeerWorkload]);
        let first = details.index(workload, &named("web-1", "Deployment/web"), None);
        assert_eq!(
            details.index(workload, &named("web-2", "Deployment/web"), None),
            first
        );
        let other = details.index(workload, &named("db-0", "StatefulSet/db"), None);
        assert_ne!(other, first);
        let none = details.index(workload, &of(7, 1), None);
        assert!(![first, other].contains(&none), "no names are no names");
        assert_eq!(
            details.index(workload, &named("", ""), None),
            none,
            "nor are empty ones"
        );
        assert_eq!(
            details.get(first).unwrap().value(Label::PeerWorkload),
            LabelValue::Text("Deployment/web")
        );

        let pods = LabelSet::new(&[Label::PeerPod, Label::LocalPod]);
        let web = details.index(pods, &named("web-1", "Deployment/web"), None);
        assert_eq!(
            details.get(web).unwrap().value(Label::LocalPod),
            LabelValue::Text("")
        );
        assert_ne!(details.index(pods, &named("web-2", "Deployment/web"), None), web);
    }

    #[test]
    fn names_of_processes_are_distinguished_by_their_bytes_and_shown_without_control_characters() {
        let mut details = Details::default();
        let labels = LabelSet::new(&[Label::Comm]);
        let mut number = |comm: &[u8; 16]| {
            let flow = Flow {
                comm: *comm,
                ..of(7, 1)
            };
            details.index(labels, &flow, None)
        };
        let (first, second) = (
            number(b"\x1b[2J\xff\0\0\0\0\0\0\0\0\0\0\0"),
            number(b"\x1b[2J\xfe\0\0\0\0\0\0\0\0\0\0\0"),
        );
        assert_ne!(first, second);
        for index in [first, second] {
            let shown = details.get(index).unwrap().value(Label::Comm);
            assert_eq!(shown, LabelValue::Text("\\x1b[2J\u{fffd}"));
        }
    }
}
