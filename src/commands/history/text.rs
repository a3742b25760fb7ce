//! The answer as text: a line about what was read, then a table. Names are those of others: control characters are escaped.

use std::fmt::Write as _;

use flowtap_extensions::short::counted;
use flowtap_pipeline::plain::plain;

use super::answer::{Answer, Lines, Unreadable};
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
        plain(text).into_owned()
    }
}

/// The answer.
pub(super) fn text(answer: &Answer) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "{} of {} in {}",
        answer.matching,
        counted(answer.records, "record", "records"),
        counted(answer.files, "file", "files")
    );
    let total = &answer.total;
    if let (Some(first), Some(last)) = (total.first, total.last) {
        let _ = write!(
            text,
            ", {} to {}: {} bytes sent, {} received, {} ended, {} failed",
            time(first),
            time(last),
            total.sent,
            total.received,
            total.ended,
            total.failed
        );
    }
    text.push('\n');
    if !answer.others.is_empty() {
        let others = answer.others.iter();
        let others: Vec<_> = others
            .map(|(event, count)| format!("{count} {}", plain(event)))
            .collect();
        let _ = writeln!(text, "not of connections or UDP flows: {}", others.join(", "));
    }
    files(&mut text, "not read", &answer.unreadable, answer.unreadable_files);
    files(&mut text, "read in part", &answer.damaged, answer.damaged_files);
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

/// Appends a line for each of the files that are named, and one for the others.
fn files(text: &mut String, what: &str, named: &[Unreadable], count: u64) {
    for file in named {
        let path = file.path.display().to_string();
        let _ = writeln!(text, "{what}: {}: {}", plain(&path), plain(&file.error));
    }
    let further = count.saturating_sub(named.len() as u64);
    if further > 0 {
        let _ = writeln!(text, "{what}: {further} more");
    }
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
            sums.last.map_or_else(|| or_dash(""), time),
            or_dash(&line.name),
        ]
    });
    let mut table: Vec<_> = std::iter::once(heads.map(str::to_owned).to_vec())
        .chain(rows)
        .collect();
    // A group that is not a peer has neither.
    for head in ["CLASS", "NAME"] {
        let is_empty = |column: &usize| table[1..].iter().all(|row| row[*column] == or_dash(""));
        let column = table[0].iter().position(|it| it == head);
        if let Some(column) = column.filter(is_empty) {
            for row in &mut table {
                row.remove(column);
            }
        }
    }
    table
}

fn records(records: &[super::records::Record]) -> Vec<Vec<String>> {
    let heads = [
        "TIME",
        "PROCESS",
        "TRANSPORT",
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
            record.transport.to_owned(),
            record.role.to_owned(),
            record.local_port.to_string(),
            or_dash(&record.peer_address),
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
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if index + 1 == columns {
                text.push_str(cell);
            } else {
                // Not by the formatter, which takes a width of 65,535 at most.
                text.push_str(cell);
                let missing = width - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', missing + 2));
            }
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use flowtap_exporters::file::history::Row;

    use super::*;
    use crate::cli::history::{By, SortBy};
    use crate::commands::history::groups::{Groups, Sums};
    use crate::commands::history::records::Records;

    fn answer(lines: Lines, groups: u64) -> Answer {
        Answer {
            files: 1,
            records: 2,
            matching: 2,
            others: [("a\u{7}b".to_owned(), 3)].into(),
            unreadable: vec![Unreadable {
                path: "/x/\u{1b}[2J".into(),
                error: "bad \n line".to_owned(),
            }],
            unreadable_files: 3,
            damaged: Vec::new(),
            damaged_files: 0,
            total: Sums::default(),
            groups,
            lines,
        }
    }

    #[test]
    fn a_name_of_any_length_is_shown() {
        let long = "x".repeat(70_000);
        let row = Row {
            comm: &long,
            ..Row::default()
        };
        let mut groups = Groups::new(By::Process, 0, 1);
        groups.add(&row);
        let text = text(&answer(Lines::Groups(groups.finish(SortBy::Bytes, 10)), 1));
        assert!(text.contains("xxx"), "{text}");
        let head = text.lines().find(|line| line.starts_with("GROUP")).unwrap();
        let line = text.lines().last().unwrap();
        assert_eq!(
            head.find("SENT"),
            line.rfind('x').map(|last| last + 3),
            "columns are aligned"
        );
    }

    #[test]
    fn control_characters_in_names_are_escaped_and_columns_are_aligned_by_characters() {
        let rows = [
            ("\u{1b}]0;pwn\u{7}", "a\nFAKE"),
            ("größe", "peer\u{9b}2J\u{202e}"),
        ];
        let row = |(comm, peer)| Row {
            comm,
            peer_name: peer,
            peer_address: peer,
            peer_class: peer,
            local_namespace: peer,
            local_workload: peer,
            outcome: peer,
            error: peer,
            ..Row::default()
        };
        let mut texts = Vec::new();
        for by in [By::Peer, By::Process, By::Workload] {
            let mut groups = Groups::new(by, 0, 1);
            rows.map(row).iter().for_each(|row| groups.add(row));
            texts.push(text(&answer(Lines::Groups(groups.finish(SortBy::Bytes, 10)), 2)));
        }
        let processes = texts[1].clone();
        let mut records = Records::new(SortBy::Bytes, 10);
        rows.map(row).iter().for_each(|row| records.add(row));
        texts.push(text(&answer(Lines::Records(records.finish()), 2)));
        for text in texts {
            let hostile = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(hostile), "{text:?}");
            assert!(!text.lines().any(|line| line.starts_with("FAKE")), "{text}");
            assert!(
                text.contains("not of connections or UDP flows: 3 a\\u{7}b\n"),
                "{text}"
            );
            assert!(
                text.contains("not read: /x/\\u{1b}[2J: bad \\n line\nnot read: 2 more\n"),
                "{text}"
            );
        }
        assert!(processes.contains("\\u{1b}]0;pwn\\u{7}"), "{processes}");
        // The column after the group begins at the same character in each line.
        let table: Vec<_> = processes
            .lines()
            .skip_while(|line| !line.is_empty())
            .skip(1)
            .collect();
        assert!(
            !table[0].contains("CLASS") && !table[0].contains("NAME"),
            "{processes}"
        );
        let head = table[0].find("SENT").unwrap();
        for line in &table[1..] {
            let cell: Vec<_> = line.chars().skip(head - 2).take(3).collect();
            assert_eq!(cell, [' ', ' ', '0'], "{processes}");
        }
    }
}
