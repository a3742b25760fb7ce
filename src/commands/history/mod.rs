//! `flowtap history`: what the exporter `file` wrote on this node: top talkers, a peer's past, failures between two times.
//!
//! In: the files of folders, and the conditions of the arguments. Out: lines, the largest first, as text or JSON. Sums are exact with
//! bounded memory: where there are more groups than it has room for, the files are read several times, each time for a part of the
//! groups.

mod answer;
mod groups;
mod names;
mod records;
mod text;
mod time;

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use flowtap_config::Config;
use flowtap_exporters::file;
use flowtap_exporters::file::history::{Files, Query, Row, Statistics, scan};
use flowtap_pipeline::component::downcast;
use flowtap_pipeline::plain::plain;
use flowtap_pipeline::{LogField, PipelineKind, Registry};

use self::answer::{Answer, Lines, Unreadable};
use self::groups::{Groups, Sums};
use self::records::Records;
use super::config::load_for;
use crate::cli::history::{By, HistoryArgs, Range};
use crate::exit::{Code, ExitError};

/// The text, or JSON.
///
/// # Errors
/// No folder is known, or it has no flow logs that can be read.
pub(crate) fn history(args: &HistoryArgs, registry: &Registry) -> Result<String, ExitError> {
    let range = Range::new(args.from, args.to, SystemTime::now());
    if let (Some(from), Some(to)) = (range.from, range.to)
        && from >= to
    {
        return Err(ExitError::new(
            Code::Usage,
            format!(
                "--from ({}) is not before --to ({})\n  hint: exchange them, or give both with a date: 2026-01-02T10:00:00Z",
                time::time_of(from),
                time::time_of(to)
            ),
        ));
    }
    let folders = folders(args, registry)?;
    let mut files = Files::default();
    for folder in &folders {
        files.add(folder).map_err(|error| {
            let hint = if error.kind() == io::ErrorKind::PermissionDenied {
                "read it as root, or as flowtap's user"
            } else {
                "name the folder of the exporter `file`: --path DIRECTORY"
            };
            ExitError::new(
                Code::NoInput,
                format!("can't read {}: {error}\n  hint: {hint}", folder.display()),
            )
        })?;
    }
    let default = if args.peer.is_some() || args.failed {
        By::Record
    } else {
        By::Peer
    };
    let answer = answer(args, range, args.by.unwrap_or(default), &files);
    if answer.files == 0 {
        return Err(no_logs(&folders, &answer));
    }
    if args.json {
        let json =
            serde_json::to_string_pretty(&answer).map_err(|error| ExitError::new(Code::Software, error))?;
        return Ok(json + "\n");
    }
    Ok(text::text(&answer))
}

/// The folders of the arguments, or of the config's exporter.
fn folders(args: &HistoryArgs, registry: &Registry) -> Result<Vec<PathBuf>, ExitError> {
    if !args.path.is_empty() {
        return Ok(args.path.clone());
    }
    let config = load_for(&args.config, registry, &["exporters."])?;
    let fed = exporters(&config);
    if fed.is_empty() {
        return Err(ExitError::new(
            Code::Usage,
            "the config has no exporter `file`, which writes a history\n  hint: name the folder of its files: --path DIRECTORY",
        ));
    }
    let chosen = choose(args, &fed).map_err(|message| ExitError::new(Code::Usage, message))?;
    let mut folders: Vec<_> = chosen.iter().map(|exporter| exporter.folder.clone()).collect();
    folders.sort();
    folders.dedup();
    Ok(folders)
}

/// An exporter `file`, and the pipelines `logs` that feed it.
#[derive(Debug)]
struct FileOfConfig {
    name: String,
    folder: PathBuf,
    pipelines: Vec<String>,
}

/// The exporters `file` of a config: those with flow logs, or all if none has.
fn exporters(config: &Config) -> Vec<FileOfConfig> {
    let all = config.exporters.iter().filter_map(|(id, settings)| {
        let logs = config.pipelines.iter().filter(|(pipeline, stages)| {
            pipeline.kind() == PipelineKind::Logs && stages.exporters.contains(id)
        });
        Some(FileOfConfig {
            name: id.to_string(),
            folder: downcast::<file::Config>(&**settings)?.root(),
            pipelines: logs.map(|(pipeline, _)| pipeline.to_string()).collect(),
        })
    });
    let (fed, others): (Vec<_>, Vec<_>) = all.partition(|exporter| !exporter.pipelines.is_empty());
    if fed.is_empty() { others } else { fed }
}

/// The exporters whose records count: one, unless more are named, as several can have the same records. And of one pipeline, for the same
/// reason.
fn choose<'a>(args: &HistoryArgs, fed: &'a [FileOfConfig]) -> Result<Vec<&'a FileOfConfig>, String> {
    let mut chosen: Vec<&FileOfConfig> = Vec::new();
    for name in &args.exporter {
        let found = fed.iter().find(|exporter| exporter.name == *name);
        chosen.push(found.ok_or_else(|| {
            format!(
                "the config has no exporter `{name}` of flow logs\n  hint: it has {}",
                names(fed.iter())
            )
        })?);
    }
    if chosen.is_empty() {
        chosen = fed.iter().collect();
    }
    if let Some(pipeline) = &args.pipeline {
        let feeds = |exporter: &&FileOfConfig| exporter.pipelines.contains(pipeline);
        if !chosen.iter().any(&feeds) {
            let pipelines: Vec<_> = chosen.iter().flat_map(|exporter| &*exporter.pipelines).collect();
            return Err(format!(
                "no pipeline `{pipeline}` of the config writes to {}\n  hint: these do: {}",
                names(chosen.into_iter()),
                pipelines
                    .into_iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
        chosen.retain(feeds);
    }
    if let ([one, _, ..], []) = (&*chosen, &*args.exporter)
        && !one.pipelines.is_empty()
    {
        return Err(format!(
            "several exporters have flow logs: {}; records that more than one of them has would count more than once\n  \
             hint: choose one with --exporter {}, or give --exporter for each if their records differ",
            names(chosen.iter().copied()),
            one.name
        ));
    }
    let several = chosen.iter().find(|exporter| exporter.pipelines.len() > 1);
    match several {
        Some(exporter) if args.pipeline.is_none() => Err(format!(
            "several pipelines write to the exporter {}: {}; records that more than one of them has would count more than once\n  \
             hint: choose one with --pipeline {}",
            exporter.name,
            exporter.pipelines.join(", "),
            exporter.pipelines[0]
        )),
        _ => Ok(chosen),
    }
}

fn names<'a>(exporters: impl Iterator<Item = &'a FileOfConfig>) -> String {
    exporters
        .map(|exporter| &*exporter.name)
        .collect::<Vec<_>>()
        .join(", ")
}

fn no_logs(folders: &[PathBuf], answer: &Answer) -> ExitError {
    let folders: Vec<_> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    let folders = folders.join(", ");
    if let Some(Unreadable { path, error }) = answer.unreadable.first() {
        let files = answer.unreadable_files;
        return ExitError::new(
            Code::Data,
            format!(
                "none of the files in {folders} can be read ({files}): {}: {}",
                path.display(),
                plain(error)
            ),
        );
    }
    ExitError::new(
        Code::NoInput,
        format!(
            "no flow logs in {folders}\n  hint: they come from a pipeline `logs` with the exporter `file`; series that a pipeline `metrics` \
             wrote are for SQL (docs/history.md)"
        ),
    )
}

fn answer(args: &HistoryArgs, range: Range, by: By, files: &Files) -> Answer {
    let query = Query {
        from: range.from,
        to: range.to,
        peer: args.peer,
        failed: args.failed,
        pipeline: args.pipeline.clone(),
    };
    let mut total = Sums::default();
    let (statistics, groups, lines) = if by == By::Record {
        let mut records = Records::new(args.sort, args.limit);
        let statistics = scan(files, &query, &records::FIELDS, |row| {
            total.add(row);
            records.add(row);
        });
        let matching = statistics.matching;
        (statistics, matching, Lines::Records(records.finish()))
    } else {
        let (statistics, sums, groups, lines) = summed(args, by, files, &query);
        total = sums;
        (statistics, groups, Lines::Groups(lines))
    };
    let with_path = |files: Vec<(PathBuf, String)>| -> Vec<_> {
        let files = files.into_iter();
        files.map(|(path, error)| Unreadable { path, error }).collect()
    };
    Answer {
        files: statistics.files,
        records: statistics.records,
        matching: statistics.matching,
        others: statistics.others,
        unreadable: with_path(statistics.unreadable),
        unreadable_files: statistics.unreadable_files,
        damaged: with_path(statistics.damaged),
        damaged_files: statistics.damaged_files,
        total,
        groups,
        lines,
    }
}

/// Reads the files as often as there are parts of the groups.
fn summed(
    args: &HistoryArgs,
    by: By,
    files: &Files,
    query: &Query,
) -> (Statistics, Sums, u64, Vec<groups::Line>) {
    let mut parts = 1;
    loop {
        if let Some(found) = summed_in(parts, args, by, files, query) {
            return found;
        }
        parts *= 2;
    }
}

/// The same in so many parts; `None` if one has too many groups.
fn summed_in(
    parts: u64,
    args: &HistoryArgs,
    by: By,
    files: &Files,
    query: &Query,
) -> Option<(Statistics, Sums, u64, Vec<groups::Line>)> {
    let fields: &[LogField] = groups::fields(by);
    let (mut lines, mut count) = (Vec::new(), 0);
    let mut first: Option<(Statistics, Sums)> = None;
    for part in 0..parts {
        let mut groups = Groups::new(by, part, parts);
        let mut total = Sums::default();
        let statistics = scan(files, query, fields, |row: &Row<'_>| {
            total.add(row);
            groups.add(row);
        });
        if groups.is_full() {
            return None;
        }
        count += groups.len();
        lines.extend(groups.finish(args.sort, args.limit));
        // Each pass reads the same; but of very many files one that is removed in between is missing in those after it.
        match &first {
            Some((before, _)) if before.unreadable_files >= statistics.unreadable_files => {}
            _ => first = Some((statistics, total)),
        }
    }
    groups::sort(&mut lines, args.sort, args.limit);
    let (statistics, total) = first.unwrap_or_default();
    Some((statistics, total, count, lines))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        history: HistoryArgs,
    }

    fn chosen(arguments: &str, fed: &[(&str, &[&str])]) -> Result<Vec<String>, String> {
        let fed: Vec<_> = fed
            .iter()
            .map(|(name, pipelines)| FileOfConfig {
                name: (*name).to_owned(),
                folder: PathBuf::from(name),
                pipelines: pipelines.iter().map(|name| (*name).to_owned()).collect(),
            })
            .collect();
        let arguments = ["history"].into_iter().chain(arguments.split_whitespace());
        let arguments = Arguments::try_parse_from(arguments).unwrap();
        let chosen = choose(&arguments.history, &fed)?;
        Ok(chosen.into_iter().map(|exporter| exporter.name.clone()).collect())
    }

    #[test]
    fn records_that_two_exporters_or_two_pipelines_have_never_count_twice_unasked() {
        let both: &[(&str, &[&str])] = &[("file/local", &["logs"]), ("file/upload", &["logs"])];
        let refused = chosen("", both).unwrap_err();
        assert!(refused.contains("--exporter file/local"), "{refused}");
        assert!(chosen("--pipeline logs", both).is_err());
        let of = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(chosen("--exporter file/upload", both), of(&["file/upload"]));
        let each = chosen("--exporter file/upload --exporter file/local", both);
        assert_eq!(each, of(&["file/upload", "file/local"]));
        let unknown = chosen("--exporter file/other", both).unwrap_err();
        assert!(unknown.contains("it has file/local, file/upload"), "{unknown}");

        let shared: &[(&str, &[&str])] = &[("file", &["logs/all", "logs/clients"])];
        let refused = chosen("", shared).unwrap_err();
        assert!(refused.contains("--pipeline logs/all"), "{refused}");
        assert_eq!(chosen("--pipeline logs/clients", shared), of(&["file"]));
        let unknown = chosen("--pipeline logs/other", shared).unwrap_err();
        assert!(unknown.contains("these do: logs/all, logs/clients"), "{unknown}");

        let apart: &[(&str, &[&str])] = &[("file/a", &["logs/a"]), ("file/b", &["logs/b"])];
        assert_eq!(chosen("--pipeline logs/b", apart), of(&["file/b"]));
        assert_eq!(chosen("", &apart[..1]), of(&["file/a"]));
    }
}
