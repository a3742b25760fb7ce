//! The answer as text: a line about what was read, then a table.

use std::fmt::Write as _;

use super::answer::{Answer, Lines};
use super::time::time;

fn milliseconds(seconds: Option<f64>) -> String {
    match seconds {
        Some(seconds) if seconds > 0.0 => format!("{:.3}ms", seconds * 1000.0),
        _ => "-".to_owned(),
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// The answer.
pub(super) fn text(answer: &Answer) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "{} of {} records in {} files",
        answer.matching, answer.records, answer.files
    );
    if answer.matching > 0 {
        let total = &answer.total;
        let _ = write!(
            text,
            ", {} to {}: {} bytes sent, {} received, {} connections ended, {} failed",
            time(total.first),
            time(total.last),
            total.sent,
            total.received,
            total.ended,
            total.failed
        );
    }
    text.push('\n');
    for file in &answer.unreadable {
        let _ = writeln!(text, "not read: {}: {}", file.path.display(), file.error);
    }
    let rows = match &answer.lines {
        Lines::Groups(lines) => groups(lines),
        Lines::Records(records) => self::records(records),
    };
    if rows.len() > 1 {
        text.push('\n');
        table(&mut text, &rows);
    }
    let shown = rows.len().saturating_sub(1) as u64;
    if shown < answer.groups {
        let _ = writeln!(text, "... and {} more; hint: --limit", answer.groups - shown);
    }
    text
}

fn groups(lines: &[super::groups::Line]) -> Vec<Vec<String>> {
    let heads = [
        "GROUP",
        "CLASS",
        "SENT",
        "RECEIVED",
        "RECORDS",
        "ENDED",
        "FAILED",
        "RETRANSMITS",
        "MIN RTT",
        "LAST",
        "NAME",
    ];
    let rows = lines.iter().map(|line| {
        let sums = &line.sums;
        vec![
            or_dash(&line.group),
            or_dash(&line.class),
            sums.sent.to_string(),
            sums.received.to_string(),
            sums.records.to_string(),
            sums.ended.to_string(),
            sums.failed.to_string(),
            sums.retransmits.to_string(),
            milliseconds(sums.min_rtt),
            time(sums.last),
            or_dash(&line.name),
        ]
    });
    std::iter::once(heads.map(str::to_owned).to_vec())
        .chain(rows)
        .collect()
}

fn records(records: &[super::records::Record]) -> Vec<Vec<String>> {
    let heads = [
        "TIME",
        "PROCESS",
        "ROLE",
        "LOCAL PORT",
        "PEER",
        "PEER PORT",
        "OUTCOME",
        "ERROR",
        "DURATION",
        "SENT",
        "RECEIVED",
        "RETRANSMITS",
        "MIN RTT",
        "NAME",
    ];
    let rows = records.iter().map(|record| {
        vec![
            time(record.time),
            or_dash(if record.workload.is_empty() {
                &record.process
            } else {
                &record.workload
            }),
            record.role.to_owned(),
            record.local_port.to_string(),
            record.peer_address.clone(),
            record.peer_port.to_string(),
            or_dash(&record.outcome),
            or_dash(&record.error),
            format!("{:.3}s", record.duration),
            record.sent.to_string(),
            record.received.to_string(),
            record.retransmits.to_string(),
            milliseconds(Some(record.min_rtt)),
            or_dash(&record.peer_name),
        ]
    });
    std::iter::once(heads.map(str::to_owned).to_vec())
        .chain(rows)
        .collect()
}

/// Appends rows whose columns are aligned; the last one is not filled up.
fn table(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<_> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if index + 1 == columns {
                text.push_str(cell);
            } else {
                let _ = write!(text, "{cell:<width$}  ");
            }
        }
        text.push('\n');
    }
}
