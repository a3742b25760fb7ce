//! JSON lines.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read};
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use super::query::{Query, offer};
use super::row::Row;
use super::statistics::{Kind, Scanned, Statistics, invalid};

/// Longer lines are not ours.
const MAX_LINE: u64 = 1 << 20;

/// Characters of the reason why a line can't be read, which repeats a value of it.
const MAX_REASON: usize = 256;

/// The fields of a line that are of use.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    timestamp: Cow<'a, str>,
    host: Cow<'a, str>,
    pipeline: Cow<'a, str>,
    source_address: Cow<'a, str>,
    source_port: i64,
    destination_address: Cow<'a, str>,
    destination_port: i64,
    role: Cow<'a, str>,
    outcome: Cow<'a, str>,
    error: Cow<'a, str>,
    source_bytes: i64,
    destination_bytes: i64,
    retransmits: i64,
    duration: f64,
    min_rtt: f64,
    comm: Cow<'a, str>,
    local_namespace: Cow<'a, str>,
    local_workload: Cow<'a, str>,
    peer_class: Cow<'a, str>,
    peer_name: Cow<'a, str>,
    peer_workload: Cow<'a, str>,
}

impl Line<'_> {
    fn row(&self) -> Option<Row<'_>> {
        let at = humantime::parse_rfc3339(&self.timestamp).ok()?;
        let at = at.duration_since(UNIX_EPOCH).ok()?.as_micros();
        let mut row = Row {
            event: &self.event,
            at: i64::try_from(at).ok()?,
            host: &self.host,
            pipeline: &self.pipeline,
            local_address: &self.source_address,
            local_port: self.source_port,
            peer_address: &self.destination_address,
            peer_port: self.destination_port,
            is_client: self.role != "server",
            outcome: &self.outcome,
            error: &self.error,
            sent: self.source_bytes,
            received: self.destination_bytes,
            retransmits: self.retransmits,
            duration: self.duration,
            min_rtt: self.min_rtt,
            comm: &self.comm,
            local_namespace: &self.local_namespace,
            local_workload: &self.local_workload,
            peer_class: &self.peer_class,
            peer_name: &self.peer_name,
            peer_workload: &self.peer_workload,
        };
        row.orient();
        Some(row)
    }
}

/// State of a file that is being read.
#[derive(Debug, Default)]
struct Lines {
    /// The number of the current line.
    number: u64,
    /// Whether a line could be read, be it of series.
    is_ours: bool,
    has_logs: bool,
    /// Lines that could not be read.
    bad: u64,
    /// The first of them, and why.
    first_bad: Option<(u64, String)>,
}

impl Lines {
    fn reject(&mut self, error: impl FnOnce() -> String) {
        self.bad += 1;
        let number = self.number;
        self.first_bad
            .get_or_insert_with(|| (number, error().chars().take(MAX_REASON).collect()));
    }

    fn read(
        &mut self,
        text: &[u8],
        query: &Query,
        statistics: &mut Statistics,
        each: &mut impl FnMut(&Row<'_>),
    ) {
        let line: Line<'_> = match serde_json::from_slice(text) {
            Ok(line) => line,
            Err(_) if text.trim_ascii().is_empty() => return,
            Err(error) => return self.reject(|| reason(&error)),
        };
        if line.event.is_empty() {
            self.is_ours = true;
            return;
        }
        let Some(row) = line.row() else {
            return self.reject(|| format!("invalid timestamp {:?}", line.timestamp));
        };
        self.is_ours = true;
        self.has_logs = true;
        statistics.records += 1;
        statistics.read += 1;
        offer(query, &row, statistics, each);
    }

    /// The part that is missing of the file.
    fn damage(&mut self) -> Option<String> {
        let (number, error) = self.first_bad.take()?;
        Some(match self.bad {
            1 => format!("line {number} not read: {error}"),
            bad => format!("{bad} lines not read, the first of them line {number}: {error}"),
        })
    }
}

/// Whether a last line without its end is as a write that was cut short leaves it, or a power failure: zeros that were never written.
fn is_torn(text: &[u8]) -> bool {
    text.starts_with(b"{") || text.iter().all(|byte| *byte == 0)
}

/// The error without a line number, which counts lines of the text of one line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&*place) {
        Some(reason) => format!("{reason} at column {}", error.column()),
        None => text,
    }
}

/// Calls `each` with the rows that match. A line that can't be read is counted, and those after it are read. The last line of a file that
/// is being written (`growing`) may not be whole, and is not read then.
pub(super) fn scan(
    file: impl Read,
    growing: bool,
    query: &Query,
    statistics: &mut Statistics,
    each: &mut impl FnMut(&Row<'_>),
) -> io::Result<Scanned> {
    let mut reader = BufReader::new(file);
    let mut lines = Lines::default();
    let mut text = Vec::new();
    let failure = loop {
        text.clear();
        lines.number += 1;
        let length = Read::by_ref(&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut text);
        match length {
            Ok(0) => break None,
            Ok(_) if text.last() == Some(&b'\n') => lines.read(&text, query, statistics, each),
            Ok(length) if length as u64 == MAX_LINE => {
                lines.reject(|| "it is longer than 1 MiB".to_owned());
                if let Err(error) = reader.skip_until(b'\n') {
                    break Some(error);
                }
            }
            Ok(_) if growing && is_torn(&text) => break None,
            // Others need not end their last line.
            Ok(_) => lines.read(&text, query, statistics, each),
            Err(error) => break Some(error),
        }
    };
    let damage = match (failure, lines.damage()) {
        (Some(error), None) => Some(error.to_string()),
        (Some(error), Some(damage)) => Some(format!("{error}; {damage}")),
        (None, damage) => damage,
    };
    match damage {
        Some(damage) if !lines.is_ours => Err(invalid(damage)),
        damage => Ok(Scanned {
            kind: if lines.has_logs { Kind::Logs } else { Kind::Other },
            damage,
        }),
    }
}
