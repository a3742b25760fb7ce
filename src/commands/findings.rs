//! `flowtap findings`: what a daemon has found, and the numbers that led to it.

use std::fmt::Write as _;
use std::net::SocketAddr;

use flowtap_extensions::admin::findings::{Answer, Finding};
use flowtap_pipeline::Registry;

use super::ask;
use super::config::load;
use crate::cli::FindingsArgs;
use crate::exit::{Code, ExitError};

/// Findings that a daemon keeps: a kind is chosen among all of them.
const ALL: usize = 1000;

/// The text, or JSON.
///
/// # Errors
/// No daemon that answers.
pub(crate) fn findings(args: &FindingsArgs, registry: &Registry) -> Result<String, ExitError> {
    let address = match args.admin {
        Some(address) => Some(address),
        None => load(&args.config, registry)?.service.admin.endpoint,
    };
    let address: SocketAddr = address.ok_or_else(|| {
        ExitError::new(
            Code::Usage,
            "the config has no admin listener to ask\n  hint: set service.admin.endpoint, or name a daemon's: --admin 127.0.0.1:13133",
        )
    })?;
    let mut answer: Answer = ask::get(address, &format!("/findings?limit={ALL}")).map_err(|error| {
        ExitError::new(
            Code::Unavailable,
            format!("no findings at {address}: {error}\n  hint: start `flowtap run` with service.admin.endpoint={address}"),
        )
    })?;
    if let Some(kind) = &args.kind {
        answer.findings.retain(|finding| finding.kind == *kind);
    }
    answer.findings.truncate(args.limit);
    if args.json {
        let text =
            serde_json::to_string_pretty(&answer).map_err(|error| ExitError::new(Code::Software, error))?;
        return Ok(text + "\n");
    }
    Ok(text(&answer))
}

fn text(answer: &Answer) -> String {
    if answer.findings.is_empty() {
        return "no findings; they need a pipeline with the processor `watch`, and come after its time of learning\n".to_owned();
    }
    let mut text = String::new();
    for finding in &answer.findings {
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
        let answer = Answer {
            total: 1,
            findings: vec![Finding {
                at: "2025-06-15T15:06:40Z".to_owned(),
                kind: "volume_surge".to_owned(),
                text: "shop sent 500000000 bytes to external peers".to_owned(),
                numbers: [("bytes".to_owned(), 5e8), ("score".to_owned(), 12.345)].into(),
                ..Finding::default()
            }],
        };
        assert_eq!(
            text(&answer),
            "2025-06-15T15:06:40Z  volume_surge       shop sent 500000000 bytes to external peers\n\
             \u{20}                                        bytes=500000000 score=12.35\n"
        );
        assert!(text(&Answer::default()).starts_with("no findings;"));
    }
}
