//! JSON lines.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read};
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use super::query::{Query, matches};
use super::row::Row;
use super::statistics::{Kind, Statistics};

/// Longer lines are not ours.
const MAX_LINE: u64 = 1 << 20;

/// The fields of a line that are of use.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    timestamp: Cow<'a, str>,
    host: Cow<'a, str>,
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
            at: i64::try_from(at).ok()?,
            host: &self.host,
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

/// Calls `each` with the rows that match. A last line that is being written is not read.
pub(super) fn scan(
    file: impl Read,
    query: &Query,
    statistics: &mut Statistics,
    each: &mut impl FnMut(&Row<'_>),
) -> io::Result<Kind> {
    let mut reader = BufReader::new(file);
    let mut kind = Kind::Other;
    let mut text = Vec::new();
    loop {
        text.clear();
        let length = Read::by_ref(&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut text);
        match length {
            Ok(_) if text.last() == Some(&b'\n') => {}
            Ok(length) if length as u64 == MAX_LINE => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line is longer than 1 MiB",
                ));
            }
            // The end, or a torn last line; of gzip, a torn last member.
            Ok(_) => return Ok(kind),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(kind),
            Err(error) => return Err(error),
        }
        let line: Line<'_> = serde_json::from_slice(&text)?;
        if line.event.is_empty() {
            continue;
        }
        kind = Kind::Logs;
        statistics.records += 1;
        statistics.read += 1;
        let Some(row) = line.row() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("invalid timestamp {:?}", line.timestamp),
            ));
        };
        if matches(query, &row) {
            statistics.matching += 1;
            each(&row);
        }
    }
}
