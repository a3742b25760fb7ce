//! `flowtap findings` and `flowtap replay --findings`: what a daemon or a recording has found, and the numbers that led to it.

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
    Ok(text(&answer.findings, &answer.watchers)
        + &left_out(answer.findings.len(), kept, answer.total, args.kind.is_some()))
}

/// The findings of a recording, the oldest first: each pipeline's in turn.
///
/// # Errors
/// A recording that can't be read to its end; a component that can't be built.
#[cfg(feature = "analysis")]
pub(crate) fn of_recording(config: &Config, file: &Path, as_json: bool) -> Result<String, ExitError> {
    let (mut found, mut watchers) = (Vec::new(), Vec::new());
    for (id, pipeline) in &config.pipelines {
        let mut recording = Recording::open(file)?;
        let stages = recording.stages(config, id, pipeline)?;
        let mut of_pipeline = Vec::new();
        recording.play_and(stages, |findings, now| {
            found.extend(findings.take().iter().map(|record| Finding::from(&**record)));
            let known = findings.watchers();
            of_pipeline = known.iter().map(|watcher| Watcher::at(watcher, now)).collect();
        })?;
        watchers.extend(of_pipeline);
    }
    if as_json {
        return json(&Answer {
            total: found.len() as u64,
            findings: found,
            watchers,
        });
    }
    Ok(text(&found, &watchers))
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

fn text(findings: &[Finding], watchers: &[Watcher]) -> String {
    if findings.is_empty() {
        return nothing(watchers);
    }
    let mut text = String::new();
    for finding in findings {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}  {:<17}  {}", finding.at, finding.kind, finding.text);
        if !finding.numbers.is_empty() {
            let _ = writeln!(text, "{:20}  {:<17}  {}", "", "", numbers(finding));
        }
    }
    text
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
            text(&found, &[]),
            "2025-06-15T15:06:40Z  volume_surge       shop sent 500000000 bytes to external peers\n\
             \u{20}                                        bytes=500000000 score=12.35\n"
        );
    }

    #[test]
    fn without_findings_it_is_said_whether_something_watches_and_until_when_it_learns() {
        assert!(
            text(&[], &[])
                .starts_with("no findings: no pipeline has the processor `watch`\n  hint: define it")
        );
        let watcher = |learns_until: Option<&str>, is_learning| Watcher {
            processor: "watch/b".to_owned(),
            pipeline: "metrics".to_owned(),
            learns_until: learns_until.map(str::to_owned),
            is_learning,
        };
        let learning = watcher(Some("2025-06-15T15:06:40Z"), true);
        let learned = watcher(Some("2025-06-15T15:06:40Z"), false);
        assert_eq!(
            text(&[], &[learning, learned, watcher(None, true)]),
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
