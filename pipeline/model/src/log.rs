//! Log records: events of flows, one by one, as aggregators of `logs` pipelines give them to exporters.
//!
//! In: the events of an aggregator. Out, to exporters: the fields of each record by the catalogue [`LogField`], which every format
//! (attributes, columns, lines) is written from.
//!
//! TCP connections ([`ConnectionLog`]), UDP flows ([`UdpLog`]), DNS transactions ([`DnsLog`]), dropped packets ([`DropLog`]) and findings
//! ([`FindingLog`]) are events so far. A further one is a variant of [`LogBody`], with its name in [`LogRecord::event_name`], and rows in
//! [`LogField`]; exporters need no change then.

mod connection;
mod dns;
mod drops;
mod field;
mod finding;
mod part;
mod record;
mod udp;

use std::sync::Arc;

use crate::time::Timestamp;

pub use self::connection::{ConnectionLog, Counts};
pub use self::dns::DnsLog;
pub use self::drops::DropLog;
pub use self::field::{LogField, LogFieldType, LogValue};
pub use self::finding::FindingLog;
pub use self::part::{FlowPart, Moved, Outcome};
pub use self::record::{LogBody, LogRecord, Severity};
pub use self::udp::{Datagrams, UdpLog};

/// Version of the fields of log records. A field that is added does not change it; one that is removed or means something else does.
pub const LOG_SCHEMA_VERSION: u8 = 1;

/// Log records of one pipeline, in the order in which their events were seen.
///
/// ```
/// use flowtap_model::LogBatch;
///
/// let batch = LogBatch::default();
/// assert!(batch.records.is_empty() && !batch.last);
/// ```
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    /// The pipeline it comes from.
    pub pipeline: Arc<str>,
    /// Every event up to this moment is in this batch or an earlier one.
    pub at: Timestamp,
    /// Whether it is the last one: flowtap is stopping.
    pub last: bool,
    /// The records.
    pub records: Vec<LogRecord>,
    /// Number of records at the end that are detached for no other reason than that this batch is the last.
    pub cut_short: usize,
}

impl LogBatch {
    /// The same batch of an aggregator that another one continues: connections that were cut short stay active.
    pub(crate) fn continue_with_another(&mut self) {
        self.last = false;
        let first = self
            .records
            .len()
            .saturating_sub(std::mem::take(&mut self.cut_short));
        for record in &mut self.records[first..] {
            match &mut record.body {
                LogBody::Connection(log) => log.outcome = Outcome::Active,
                LogBody::Udp(log) => log.outcome = Outcome::Active,
                LogBody::Dns(_) | LogBody::Drop(_) | LogBody::Finding(_) => {}
            }
        }
    }

    /// Bytes of memory that it takes, names that records share not included.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.records.capacity() * size_of::<LogRecord>()
    }
}

#[cfg(test)]
mod tests;
