//! `flowtap findings` and `flowtap replay --findings`: what a daemon or a recording has found, and the numbers that led to it.

#[cfg(feature = "analysis")]
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
#[cfg(feature = "analysis")]
use std::path::Path;

#[cfg(feature = "analysis")]
use flowtap_config::Config;
use flowtap_extensions::admin::findings::{Answer, Finding, Watcher};
use flowtap_pipeline::Registry;

use super::ask;
use super::config::load_for;
#[cfg(feature = "analysis")]
use super::replay::Recording;
use crate::cli::FindingsArgs;
use crate::exit::{Code, ExitError};

/// Findings that a daemon keeps.
const ALL: usize = 1000;

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
        ExitError::new(
            Code::Unavailable,
            format!(
                "no findings at {address}: {error}\n  hint: {}",
                error.remedy(address)
            ),
        )
    })?;
    let kept = answer.findings.len();
    answer.findings.truncate(args.limit);
    if args.json {
        return json(&answer);
    }
    let kind = args.kind.as_deref();
    Ok(text(&answer, kept, kind) + &left_out(answer.findings.len(), kept, answer.total, kind.is_some()))
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
    let answer = Answer {
        total: kept as u64,
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

/// A line about findings that are not shown, if there are any. `kept` are those that the daemon still has, `total` those that it
/// made, of every kind.
fn left_out(shown: usize, kept: usize, total: u64, is_of_a_kind: bool) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    if shown < kept {
        let _ = writeln!(
            text,
            "({shown} of {kept}, the newest first; --limit {kept} shows all)"
        );
    }
    let evicted = total.saturating_sub(ALL as u64);
    if evicted > 0 {
        let of = if is_of_a_kind { " of all kinds" } else { "" };
        let _ = writeln!(
            text,
            "(the daemon keeps the newest {ALL}: {evicted} older{of} are not kept)"
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
            Some(until) => format!("has learned until {until}, and has found nothing since"),
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
                let others = answer.total;
                format!("no findings of the kind `{kind}`; {others} of other kinds\n")
                    + &learning(&answer.watchers)
            }
            _ => nothing(&answer.watchers),
        };
    }
    let mut text = String::new();
    for finding in &answer.findings {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}  {:<17}  {}", finding.at, finding.kind, finding.text);
        if !finding.numbers.is_empty() {
            let _ = writeln!(text, "{:20}  {:<17}  {}", "", "", numbers(finding));
        }
    }
    text + &learning(&answer.watchers)
}

fn numbers(finding: &Finding) -> String {
    let numbers = finding.numbers.iter().map(|(name, value)| {
        if value.fract() == 0.0 {
            format!("{name}={value:.0}")
        } else {
            format!("{name}={value:.2}")
        }
    });
    numbers.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(findings: &[Finding], total: u64, watchers: &[Watcher]) -> Answer {
        Answer {
            total,
            findings: findings.to_vec(),
            watchers: watchers.to_vec(),
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
            "no findings of the kind `beacon`; 7 of other kinds\n"
        );
        assert!(text(&answer(&[], 7, &[watcher(Some(UNTIL), true)]), 0, Some("beacon")).ends_with(LEARNS));
        assert!(text(&answer(&[], 0, &learned), 0, Some("beacon")).contains("has found nothing since"));
        // `--limit 0`: what is left out is a line of its own.
        assert_eq!(text(&answer(&[], 7, &learned), 7, None), "");
    }

    #[test]
    fn each_finding_is_a_sentence_with_its_numbers_below() {
        let found = [Finding {
            at: "2025-06-15T15:06:40Z".to_owned(),
            kind: "volume_surge".to_owned(),
            text: "shop sent 500000000 bytes to external peers".to_owned(),
            numbers: [("bytes".to_owned(), 5e8), ("score".to_owned(), 12.345)].into(),
            ..Finding::default()
        }];
        assert_eq!(
            text(&answer(&found, 1, &[]), 1, None),
            "2025-06-15T15:06:40Z  volume_surge       shop sent 500000000 bytes to external peers\n\
             \u{20}                                        bytes=500000000 score=12.35\n"
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
             no findings: `watch/b` in the pipeline `metrics` has learned until 2025-06-15T15:06:40Z, and has found nothing since\n\
             no findings: `watch/b` in the pipeline `metrics` has no records yet\n"
        );
    }

    #[test]
    fn findings_that_are_not_shown_are_counted() {
        assert_eq!(left_out(3, 3, 3, false), "");
        assert_eq!(
            left_out(50, 70, 70, false),
            "(50 of 70, the newest first; --limit 70 shows all)\n"
        );
        assert_eq!(
            left_out(1000, 1000, 1007, false),
            "(the daemon keeps the newest 1000: 7 older are not kept)\n"
        );
        assert!(left_out(2, 2, 1007, true).contains("7 older of all kinds"));
    }
}
