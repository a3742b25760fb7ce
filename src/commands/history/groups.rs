//! Sums of records by peer, process, workload or port.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use flowtap_exporters::file::history::Row;
use flowtap_pipeline::LogField;
use serde::Serialize;

use super::names::kept;
use super::time::as_time_if_any;
use crate::cli::history::{By, SortBy};

/// Groups that are summed at a time: some 15 MiB.
const MAX_GROUPS: usize = 50_000;

/// Bytes of their names.
const MAX_BYTES: usize = 16 << 20;

/// Sums over records.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sums {
    /// Payload bytes that this node sent.
    pub(super) sent: i64,
    /// Payload bytes that this node received.
    pub(super) received: i64,
    pub(super) records: u64,
    /// Connections and UDP flows that ended.
    pub(super) ended: u64,
    /// Those of them that failed.
    pub(super) failed: u64,
    pub(super) retransmits: i64,
    /// Smallest round-trip time in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min_rtt: Option<f64>,
    /// The end of the first record; `None` without records.
    #[serde(serialize_with = "as_time_if_any")]
    pub(super) first: Option<i64>,
    /// The end of the last record; `None` without records.
    #[serde(serialize_with = "as_time_if_any")]
    pub(super) last: Option<i64>,
}

impl Sums {
    pub(super) fn add(&mut self, row: &Row<'_>) {
        // Differences are never so large, except in a file that somebody made.
        self.sent = self.sent.saturating_add(row.sent);
        self.received = self.received.saturating_add(row.received);
        self.retransmits = self.retransmits.saturating_add(row.retransmits);
        self.first = Some(self.first.map_or(row.at, |first| first.min(row.at)));
        self.last = self.last.max(Some(row.at));
        self.records += 1;
        self.ended += u64::from(row.is_last());
        self.failed += u64::from(row.is_last() && row.has_failed());
        if row.min_rtt > 0.0 {
            self.min_rtt = Some(self.min_rtt.map_or(row.min_rtt, |rtt| rtt.min(row.min_rtt)));
        }
    }

    /// The number that lines are sorted by.
    fn rank(&self, sort: SortBy) -> i64 {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        match sort {
            SortBy::Bytes => self.sent.saturating_add(self.received),
            SortBy::Sent => self.sent,
            SortBy::Received => self.received,
            SortBy::Retransmits => self.retransmits,
            SortBy::Failed => count(self.failed),
            SortBy::Records => count(self.records),
            SortBy::Time => self.last.unwrap_or_default(),
        }
    }
}

/// A group, and its sums.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    /// The peer, process, workload or port.
    pub(super) group: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) class: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) name: Box<str>,
    #[serde(flatten)]
    pub(super) sums: Sums,
}

/// Fields that a grouping needs, beside those that every query reads.
pub(super) const fn fields(by: By) -> &'static [LogField] {
    match by {
        By::Peer => &[
            LogField::MinRtt,
            LogField::PeerClass,
            LogField::PeerName,
            LogField::PeerWorkload,
        ],
        By::Process => &[LogField::MinRtt, LogField::Comm],
        By::Workload => &[
            LogField::MinRtt,
            LogField::LocalNamespace,
            LogField::LocalWorkload,
        ],
        By::Port | By::Record => &[LogField::MinRtt],
    }
}

/// The groups of one part, which is decided by the hash of their key.
pub(super) struct Groups {
    by: By,
    part: u64,
    parts: u64,
    lines: HashMap<Box<str>, Line>,
    /// Bytes of the names of the groups.
    bytes: usize,
    is_full: bool,
    key: String,
}

impl Groups {
    pub(super) fn new(by: By, part: u64, parts: u64) -> Self {
        Self {
            by,
            part,
            parts,
            lines: HashMap::new(),
            bytes: 0,
            is_full: false,
            key: String::new(),
        }
    }

    /// Whether there are more groups than there is room for: the sums are of no use then.
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn len(&self) -> u64 {
        self.lines.len() as u64
    }

    pub(super) fn add(&mut self, row: &Row<'_>) {
        self.key.clear();
        match self.by {
            By::Peer | By::Record => self.key.push_str(kept(row.peer_address)),
            By::Process => self.key.push_str(kept(row.comm)),
            By::Workload if row.local_workload.is_empty() => {}
            By::Workload => self
                .key
                .extend([kept(row.local_namespace), "/", kept(row.local_workload)]),
            By::Port => {
                self.key.push_str(&row.server_port().to_string());
                if row.is_udp() {
                    self.key.push_str("/udp");
                }
            }
        }
        if self.is_full || (self.parts > 1 && hash(&self.key) % self.parts != self.part) {
            return;
        }
        if let Some(line) = self.lines.get_mut(&*self.key) {
            line.sums.add(row);
            // Names can come later than the first record.
            if line.name.is_empty() && self.by == By::Peer {
                line.name = kept(name(row)).into();
                self.bytes += line.name.len();
            }
            return;
        }
        if self.lines.len() == MAX_GROUPS || self.bytes >= MAX_BYTES {
            self.is_full = true;
            // They are of no use, and the scan goes on.
            self.lines = HashMap::new();
            return;
        }
        let (class, name) = if self.by == By::Peer {
            (kept(row.peer_class), kept(name(row)))
        } else {
            ("", "")
        };
        let mut line = Line {
            group: self.key.as_str().into(),
            class: class.into(),
            name: name.into(),
            sums: Sums::default(),
        };
        line.sums.add(row);
        self.bytes += 2 * line.group.len() + line.class.len() + line.name.len();
        self.lines.insert(line.group.clone(), line);
    }

    /// The first lines.
    pub(super) fn finish(self, by: SortBy, limit: usize) -> Vec<Line> {
        let mut lines: Vec<_> = self.lines.into_values().collect();
        sort(&mut lines, by, limit);
        lines
    }
}

fn name<'a>(row: &Row<'a>) -> &'a str {
    if row.peer_name.is_empty() {
        row.peer_workload
    } else {
        row.peer_name
    }
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Sorts lines, the largest first, and keeps the first of them. Lines of the same rank are in the order of their groups.
pub(super) fn sort(lines: &mut Vec<Line>, by: SortBy, limit: usize) {
    lines.sort_unstable_by(|one, other| {
        let rank = other.sums.rank(by).cmp(&one.sums.rank(by));
        rank.then_with(|| one.group.cmp(&other.group))
    });
    lines.truncate(limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(peer: &str, sent: i64) -> Row<'_> {
        Row {
            peer_address: peer,
            sent,
            received: 1,
            at: sent,
            outcome: "closed",
            is_client: true,
            peer_port: 443,
            ..Row::default()
        }
    }

    #[test]
    fn groups_in_parts_add_up_to_the_groups_at_once() {
        let peers: Vec<_> = (0..500)
            .map(|peer| format!("10.0.{}.{}", peer / 250, peer % 250))
            .collect();
        let all = |parts| {
            let (mut lines, mut count) = (Vec::new(), 0);
            for part in 0..parts {
                let mut groups = Groups::new(By::Peer, part, parts);
                for (peer, sent) in peers.iter().zip(0..).chain(peers.iter().zip(5000..)) {
                    groups.add(&row(peer, sent));
                }
                count += groups.len();
                lines.extend(groups.finish(SortBy::Bytes, 10));
            }
            sort(&mut lines, SortBy::Bytes, 10);
            (count, serde_json::to_string(&lines).unwrap())
        };
        assert_eq!(all(1).0, 500);
        assert_eq!(all(1), all(7));
    }

    #[test]
    fn ports_of_udp_are_other_groups_than_those_of_tcp() {
        let mut groups = Groups::new(By::Port, 0, 1);
        groups.add(&row("192.0.2.7", 5));
        groups.add(&Row {
            event: "flowtap.udp.flow",
            ..row("192.0.2.7", 3)
        });
        let lines = groups.finish(SortBy::Bytes, 10);
        let names: Vec<_> = lines.iter().map(|line| (&*line.group, line.sums.sent)).collect();
        assert_eq!(names, [("443", 5), ("443/udp", 3)]);
    }

    #[test]
    fn more_groups_than_there_is_room_for_are_noticed() {
        let mut groups = Groups::new(By::Port, 0, 1);
        for port in 0..=i64::try_from(MAX_GROUPS).unwrap() {
            assert!(!groups.is_full());
            groups.add(&Row {
                local_port: port,
                ..Row::default()
            });
        }
        assert!(groups.is_full());
    }

    #[test]
    fn sums_of_no_record_have_no_times() {
        let sums = serde_json::to_value(Sums::default()).unwrap();
        assert_eq!(
            (&sums["first"], &sums["last"]),
            (&serde_json::Value::Null, &serde_json::Value::Null)
        );
    }

    #[test]
    fn names_take_bounded_memory_whatever_their_length_and_sums_stay_exact() {
        const NAMES: usize = 30_000;
        let names: Vec<_> = (0..NAMES)
            .map(|name| format!("{name:05}{}", "ä".repeat(1000)))
            .collect();
        let in_parts = |parts| {
            let (mut count, mut sent) = (0, 0);
            for part in 0..parts {
                let mut groups = Groups::new(By::Process, part, parts);
                for name in &names {
                    groups.add(&Row {
                        comm: name,
                        ..row("192.0.2.7", 2)
                    });
                }
                if groups.is_full() {
                    return None;
                }
                let held = groups.lines.iter();
                let held: usize = held.map(|(key, line)| key.len() + line.group.len()).sum();
                assert!(held < MAX_BYTES + 1024, "{held}");
                count += groups.len();
                let lines = groups.finish(SortBy::Bytes, NAMES);
                sent += lines.iter().map(|line| line.sums.sent).sum::<i64>();
            }
            Some((count, sent))
        };
        assert_eq!(in_parts(1), None, "they are more than there is room for");
        assert_eq!(in_parts(2), Some((30_000, 60_000)));
    }

    #[test]
    fn a_connection_counts_as_ended_and_as_failed_once_by_its_last_record() {
        let mut sums = Sums::default();
        for (outcome, error) in [
            ("active", ""),
            ("active", "refused"),
            ("idle", "refused"),
            ("active", ""),
            ("detached", ""),
            ("active", ""),
            ("closed", ""),
        ] {
            sums.add(&Row {
                outcome,
                error,
                ..Row::default()
            });
        }
        assert_eq!((sums.ended, sums.failed), (2, 1));
    }

    #[test]
    fn sums_have_the_smallest_rtt_the_first_and_the_last_time() {
        let mut sums = Sums::default();
        for (at, min_rtt) in [(5_000_000, 0.0), (3_000_000, 0.2), (9_000_000, 0.1)] {
            sums.add(&Row {
                at,
                min_rtt,
                outcome: "failed",
                ..Row::default()
            });
        }
        assert_eq!(
            serde_json::to_value(&sums).unwrap(),
            serde_json::json!({
                "sent": 0, "received": 0, "records": 3, "ended": 3, "failed": 3, "retransmits": 0, "min_rtt": 0.1,
                "first": "1970-01-01T00:00:03.000000Z", "last": "1970-01-01T00:00:09.000000Z",
            })
        );
    }
}
