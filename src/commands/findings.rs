//! `flowtap findings` and `flowtap replay --findings`: what a daemon or a recording has found, and the numbers that led to it.

#[cfg(feature = "analysis")]
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
#[cfg(feature = "analysis")]
use std::path::Path;

#[cfg(feature = "analysis")]
use flowtap_config::Config;
use flowtap_extensions::admin::findings::{Answer, Watcher};
#[cfg(any(test, feature = "analysis"))]
use flowtap_extensions::admin::findings::{Count, Finding};
use flowtap_pipeline::{FindingKind, Registry};

use super::ask;
use super::config::load_for;
#[cfg(feature = "analysis")]
use super::replay::Recording;
use crate::cli::FindingsArgs;
use crate::exit::{Code, ExitError};

/// Findings that a daemon keeps.
const ALL: usize = 1000;

/// Those of each kind that a daemon keeps in any case.
const OF_EACH: usize = ALL / FindingKind::ALL.len();

/// The text, or JSON.
///
/// # Errors
/// No daemon that answers.
pub(crate) fn findings(args: &FindingsArgs, registry: &Registry) -> Result<String, ExitError> {
    let address = match args.admin {
        Some(address) => Some(address),
        None => {
            load_for(&args.config, registry, &["service.admin"])?
                .service
                .admin
                .endpoint
        }
    };
    let address: SocketAddr = address.ok_or_else(|| {
        ExitError::new(
            Code::Usage,
            "the config has no admin listener to ask\n  hint: set service.admin.endpoint, or name a daemon's: --admin 127.0.0.1:13134",
        )
    })?;
    let kind = args.kind.as_ref().map(|kind| format!("&kind={kind}"));
    let path = format!("/findings?limit={ALL}{}", kind.unwrap_or_default());
    let mut answer: Answer = ask::get(address, &path).map_err(|error| {
        let message = format!(
            "{}\n  hint: {}",
            error.sentence("findings", address),
            error.remedy(address)
        );
        ExitError::new(Code::Unavailable, message)
    })?;
    let kept = answer.findings.len();
    answer.findings.truncate(args.limit);
    if args.json {
        return json(&answer);
    }
    let kind = args.kind.as_deref();
    Ok(text(&answer, kept, kind) + &left_out(&answer, kept, kind))
}

/// The findings of a recording, the oldest first. One that several pipelines make at the same time is one, as in a daemon.
///
/// # Errors
/// A recording that can't be read to its end; a component that can't be built.
#[cfg(feature = "analysis")]
pub(crate) fn of_recording(config: &Config, file: &Path, as_json: bool) -> Result<String, ExitError> {
    let (mut found, mut watchers) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
    for (id, pipeline) in &config.pipelines {
        let mut recording = Recording::open(file)?;
        let stages = recording.stages(config, id, pipeline)?;
        let mut of_pipeline = Vec::new();
        recording.play_and(stages, |findings, now| {
            for record in findings.take() {
                let of_moment = found.entry(record.at).or_default();
                if !of_moment.contains(&record) {
                    of_moment.push(record);
                }
            }
            let known = findings.watchers();
            of_pipeline = known.iter().map(|watcher| Watcher::at(watcher, now)).collect();
        })?;
        watchers.extend(of_pipeline);
    }
    let found: Vec<_> = found
        .into_values()
        .flatten()
        .map(|record| Finding::from(&*record))
        .collect();
    let kept = found.len();
    let mut kinds = BTreeMap::<_, Count>::new();
    for finding in &found {
        let count = kinds.entry(finding.kind.clone()).or_default();
        (count.total, count.kept) = (count.total + 1, count.kept + 1);
    }
    let answer = Answer {
        total: kept as u64,
        kinds,
        findings: found,
        watchers,
    };
    if as_json {
        return json(&answer);
    }
    Ok(text(&answer, kept, None))
}

fn json(answer: &Answer) -> Result<String, ExitError> {
    let text = serde_json::to_string_pretty(answer).map_err(|error| ExitError::new(Code::Software, error))?;
    Ok(text + "\n")
}

/// A line about findings that are not shown, if there are any. `kept` are those that the daemon still has, of the kind if one was asked
/// for.
fn left_out(answer: &Answer, kept: usize, kind: Option<&str>) -> String {
    let mut text = String::new();
    let shown = answer.findings.len();
    // Writing to a String does not fail.
    if shown < kept {
        let _ = writeln!(
            text,
            "({shown} of {kept}, the newest first; --limit {kept} shows all)"
        );
    }
    let of = |kind: &str| answer.kinds.get(kind).map_or(0, |count| count.total);
    let evicted = kind.map_or(answer.total, of).saturating_sub(kept as u64);
    if evicted > 0 {
        let of = if kind.is_some() { " of this kind" } else { "" };
        let _ = writeln!(
            text,
            "(the daemon keeps {ALL}, and of each kind at least the newest {OF_EACH}: {evicted} older ones{of} are not kept)"
        );
    }
    text
}

/// Why there are no findings, and when there can be some.
fn nothing(watchers: &[Watcher]) -> String {
    if watchers.is_empty() {
        return "no findings: no pipeline has the processor `watch`\n  \
                hint: define it, `processors: {watch: {}}`, and put it after `policy`, as in `processors: [direction, policy, watch, window]`\n"
            .to_owned();
    }
    let mut text = String::new();
    for Watcher {
        processor,
        pipeline,
        learns_until,
        is_learning,
    } in watchers
    {
        let state = match learns_until {
            None => "has no records yet".to_owned(),
            Some(until) if *is_learning => {
                format!("learns until {until}; before that only peers on lists are reported")
            }
            Some(until) => format!("has learned until {until}, and has found nothing since the start"),
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "no findings: `{processor}` in the pipeline `{pipeline}` {state}"
        );
    }
    text
}

/// A line for each processor that learns, which explains why there are few findings.
fn learning(watchers: &[Watcher]) -> String {
    let mut text = String::new();
    for watcher in watchers.iter().filter(|watcher| watcher.is_learning) {
        let Watcher {
            processor, pipeline, ..
        } = watcher;
        if let Some(until) = &watcher.learns_until {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "(`{processor}` in the pipeline `{pipeline}` learns until {until}; before that only peers on lists are reported)"
            );
        }
    }
    text
}

/// The findings of an answer. `kept` of them there are, of the `kind` if one was asked for; fewer may be shown.
fn text(answer: &Answer, kept: usize, kind: Option<&str>) -> String {
    if kept == 0 {
        return match kind {
            Some(kind) if answer.total > 0 => {
                format!(
                    "no findings of the kind `{kind}` since the start; {} of other kinds\n",
                    answer.total
                ) + &learning(&answer.watchers)
            }
            _ => nothing(&answer.watchers),
        };
    }
    let mut text = String::new();
    for finding in &answer.findings {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}  {:<17}  {}", finding.at, finding.kind, finding.text);
        let details = [finding.numbers_text(), finding.place_text()];
        for line in details.iter().filter(|line| !line.is_empty()) {
            let _ = writeln!(text, "{:20}  {:<17}  {line}", "", "");
        }
    }
    text + &learning(&answer.watchers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(findings: &[Finding], total: u64, watchers: &[Watcher]) -> Answer {
        Answer {
            total,
            findings: findings.to_vec(),
            watchers: watchers.to_vec(),
            ..Answer::default()
        }
    }

    fn watcher(learns_until: Option<&str>, is_learning: bool) -> Watcher {
        Watcher {
            processor: "watch/b".to_owned(),
            pipeline: "metrics".to_owned(),
            learns_until: learns_until.map(str::to_owned),
            is_learning,
        }
    }

    const UNTIL: &str = "2025-06-15T15:06:40Z";
    const LEARNS: &str = "(`watch/b` in the pipeline `metrics` learns until 2025-06-15T15:06:40Z; before that only peers on lists are \
                          reported)\n";

    #[test]
    fn that_it_learns_is_said_beside_findings() {
        let found = [Finding {
            at: UNTIL.to_owned(),
            kind: "black_list".to_owned(),
            text: "curl has a connection".to_owned(),
            ..Finding::default()
        }];
        let text_of = |is_learning| text(&answer(&found, 1, &[watcher(Some(UNTIL), is_learning)]), 1, None);
        let line = "2025-06-15T15:06:40Z  black_list         curl has a connection\n";
        assert_eq!(text_of(true), format!("{line}{LEARNS}"));
        assert_eq!(text_of(false), line);
    }

    #[test]
    fn findings_of_other_kinds_and_those_that_are_not_shown_are_not_none() {
        let learned = [watcher(Some(UNTIL), false)];
        assert_eq!(
            text(&answer(&[], 7, &learned), 0, Some("beacon")),
            "no findings of the kind `beacon` since the start; 7 of other kinds\n"
        );
        assert!(text(&answer(&[], 7, &[watcher(Some(UNTIL), true)]), 0, Some("beacon")).ends_with(LEARNS));
        assert!(text(&answer(&[], 0, &learned), 0, Some("beacon")).contains("has found nothing since"));
        // `--limit 0`: what is left out is a separate line.
        assert_eq!(text(&answer(&[], 7, &learned), 7, None), "");
    }

    #[test]
    fn each_finding_is_a_sentence_with_its_numbers_and_its_process_below() {
        let found = [Finding {
            at: "2025-06-15T15:06:40Z".to_owned(),
            kind: "volume_surge".to_owned(),
            text: "shop sent 500000000 bytes to external peers".to_owned(),
            numbers: [("bytes".to_owned(), 5e8), ("score".to_owned(), 12.35)].into(),
            raddr: "198.51.100.7".to_owned(),
            pid: Some(4711),
            ..Finding::default()
        }];
        assert_eq!(
            text(&answer(&found, 1, &[]), 1, None),
            "2025-06-15T15:06:40Z  volume_surge       shop sent 500000000 bytes to external peers\n\
             \u{20}                                        bytes=500000000 score=12.35\n\
             \u{20}                                        raddr=198.51.100.7 pid=4711\n"
        );
    }

    #[test]
    fn without_findings_it_is_said_whether_something_watches_and_until_when_it_learns() {
        assert!(
            text(&answer(&[], 0, &[]), 0, None)
                .starts_with("no findings: no pipeline has the processor `watch`\n  hint: define it")
        );
        let learning = watcher(Some(UNTIL), true);
        let learned = watcher(Some(UNTIL), false);
        assert_eq!(
            text(
                &answer(&[], 0, &[learning, learned, watcher(None, true)]),
                0,
                None
            ),
            "no findings: `watch/b` in the pipeline `metrics` learns until 2025-06-15T15:06:40Z; before that only peers on lists are \
             reported\n\
             no findings: `watch/b` in the pipeline `metrics` has learned until 2025-06-15T15:06:40Z, and has found nothing since the start\n\
             no findings: `watch/b` in the pipeline `metrics` has no records yet\n"
        );
    }

    #[test]
    fn findings_that_are_not_shown_are_counted() {
        let shown = |shown: usize, kept, total, kind: Option<&str>| {
            let mut answer = answer(&vec![Finding::default(); shown], total, &[]);
            answer.kinds = [("beacon".to_owned(), Count { total: 12, kept: 10 })].into();
            left_out(&answer, kept, kind)
        };
        assert_eq!(shown(3, 3, 3, None), "");
        assert_eq!(
            shown(50, 70, 70, None),
            "(50 of 70, the newest first; --limit 70 shows all)\n"
        );
        assert_eq!(
            shown(1000, 1000, 1007, None),
            "(the daemon keeps 1000, and of each kind at least the newest 142: 7 older ones are not kept)\n"
        );
        assert!(shown(10, 10, 1007, Some("beacon")).contains("2 older ones of this kind"));
        assert_eq!(shown(3, 3, 1007, Some("fan_out")), "");
    }
}
