//! `flowtap doctor`: would `run` work here, and what would it not see?

use std::fmt::Write as _;
use std::path::Path;

use flowtap_receivers::doctor::{BestMode, Report, Verdict, examine};

use crate::exit::{Code, ExitError};

/// The text to print, and the result of the process: success if `flowtap run --strict` would
/// measure with eBPF, else `EX_NOPERM` if only a privilege is missing, else `EX_UNAVAILABLE`.
pub(crate) fn doctor(proc_root: &Path, json: bool) -> (String, Result<(), ExitError>) {
    let report = examine(proc_root);
    let text = if json { as_json(&report) } else { as_text(&report) };
    let ended = match report.mode {
        BestMode::Sockets | BestMode::Events => Ok(()),
        BestMode::SockDiag | BestMode::None => {
            let code = if report.lacks_privilege {
                Code::Permission
            } else {
                Code::Unavailable
            };
            Err(ExitError::new(
                code,
                "eBPF is not available here; see what is `missing`",
            ))
        }
    };
    (text, ended)
}

fn as_json(report: &Report) -> String {
    // Maps with keys that are no text and numbers that are none are all that can fail: there are none.
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}

fn as_text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    for finding in &report.findings {
        let _ = write!(
            text,
            "{:<8} {:<27} {}",
            finding.verdict.as_str(),
            finding.need,
            finding.found
        );
        if finding.verdict != Verdict::Ok {
            let _ = write!(text, " -> {}; hint: {}", finding.consequence, finding.remedy);
        }
        text.push('\n');
    }
    let says = match report.mode {
        BestMode::Sockets => "`flowtap run` measures in mode sockets: exact totals, nothing on the data path",
        BestMode::Events => {
            "`flowtap run` measures in mode events: a record per segment, exact once a connection has closed"
        }
        BestMode::SockDiag => {
            "`flowtap run` falls back to sock_diag: this namespace only, no processes; `--strict` fails"
        }
        BestMode::None => "`flowtap run` can't measure here",
    };
    let _ = writeln!(text, "\n{says}");
    text
}
