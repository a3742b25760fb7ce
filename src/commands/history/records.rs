//! Records one by one: the first of them by some order.

use flowtap_exporters::file::history::Row;
use flowtap_pipeline::LogField;
use serde::Serialize;

use super::names::kept;
use super::time::as_time;
use crate::cli::history::SortBy;

/// Fields that are shown, beside those that every query reads.
pub(super) const FIELDS: [LogField; 8] = [
    LogField::Duration,
    LogField::MinRtt,
    LogField::Comm,
    LogField::LocalNamespace,
    LogField::LocalWorkload,
    LogField::PeerClass,
    LogField::PeerName,
    LogField::PeerWorkload,
];

/// Records that are held above the limit before they are sorted.
const SLACK: usize = 1000;

/// A record, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Record {
    #[serde(serialize_with = "as_time")]
    pub(super) time: i64,
    pub(super) host: String,
    pub(super) transport: &'static str,
    pub(super) role: &'static str,
    pub(super) local_address: String,
    pub(super) local_port: i64,
    pub(super) peer_address: String,
    pub(super) peer_port: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) peer_class: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) peer_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) process: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) workload: String,
    pub(super) outcome: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) error: String,
    pub(super) duration: f64,
    pub(super) sent: i64,
    pub(super) received: i64,
    pub(super) retransmits: i64,
    pub(super) min_rtt: f64,
}

impl Record {
    fn new(row: &Row<'_>) -> Self {
        let owned = |name| kept(name).to_owned();
        Self {
            time: row.at,
            host: owned(row.host),
            transport: if row.is_udp() { "udp" } else { "tcp" },
            role: if row.is_client { "client" } else { "server" },
            local_address: owned(row.local_address),
            local_port: row.local_port,
            peer_address: owned(row.peer_address),
            peer_port: row.peer_port,
            peer_class: owned(row.peer_class),
            peer_name: owned(if row.peer_name.is_empty() {
                row.peer_workload
            } else {
                row.peer_name
            }),
            process: owned(row.comm),
            workload: match row.local_workload {
                "" => String::new(),
                workload => format!("{}/{}", kept(row.local_namespace), kept(workload)),
            },
            outcome: owned(row.outcome),
            error: owned(row.error),
            duration: row.duration,
            sent: row.sent,
            received: row.received,
            retransmits: row.retransmits,
            min_rtt: row.min_rtt,
        }
    }
}

/// The first records by an order.
#[derive(Debug)]
pub(super) struct Records {
    sort: SortBy,
    limit: usize,
    kept: Vec<Record>,
    /// The rank of the last one that counts, once there are enough.
    least: Option<(i64, i64)>,
}

impl Records {
    pub(super) const fn new(sort: SortBy, limit: usize) -> Self {
        Self {
            sort,
            limit,
            kept: Vec::new(),
            least: None,
        }
    }

    pub(super) fn add(&mut self, row: &Row<'_>) {
        let rank = (
            rank(self.sort, row.at, row.sent, row.received, row.retransmits),
            row.at,
        );
        if self.least.is_some_and(|least| rank <= least) {
            return;
        }
        self.kept.push(Record::new(row));
        if self.kept.len() >= self.limit.saturating_add(SLACK) {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        let by = self.sort;
        let rank = |record: &Record| {
            (
                rank(by, record.time, record.sent, record.received, record.retransmits),
                record.time,
            )
        };
        self.kept.sort_by_key(|record| std::cmp::Reverse(rank(record)));
        self.kept.truncate(self.limit);
        self.least = self
            .kept
            .last()
            .filter(|_| self.kept.len() == self.limit)
            .map(rank);
    }

    /// The records, the first by the order first.
    pub(super) fn finish(mut self) -> Vec<Record> {
        self.shrink();
        self.kept
    }
}

/// The number that records are sorted by; those of the same rank by time. A record is one, and failed or not, so these orders are the
/// time's.
const fn rank(sort: SortBy, at: i64, sent: i64, received: i64, retransmits: i64) -> i64 {
    match sort {
        SortBy::Bytes => sent.saturating_add(received),
        SortBy::Sent => sent,
        SortBy::Received => received,
        SortBy::Retransmits => retransmits,
        SortBy::Failed | SortBy::Records | SortBy::Time => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_by_the_order_are_kept_of_any_number() {
        for (sort, first) in [(SortBy::Bytes, 4999_i64), (SortBy::Time, 0)] {
            let mut records = Records::new(sort, 3);
            for index in 0..5000 {
                records.add(&Row {
                    sent: index,
                    at: 5000 - index,
                    ..Row::default()
                });
            }
            let kept: Vec<_> = records.finish().into_iter().map(|record| record.sent).collect();
            let expected = [first, (first - 1).abs(), (first - 2).abs()];
            assert_eq!(kept, expected, "{sort:?}");
        }
    }
}
