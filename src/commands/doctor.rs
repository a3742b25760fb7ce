//! `flowtap doctor`: would `run` work here, and what would it not see?

use std::fmt::Write as _;
use std::path::Path;

use flowtap_receivers::doctor::{BestMode, Finding, Report, Verdict, examine};

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
                "eBPF is not available on this host; see the items marked `missing`",
            ))
        }
    };
    (text, ended)
}

fn as_json(report: &Report) -> String {
    // Only maps with keys other than text, and numbers that are not finite, could fail: there are none.
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}

/// Findings that are one line: of one requirement, with one fix.
struct Line<'a> {
    first: &'a Finding,
    found: Vec<&'a str>,
}

impl Line<'_> {
    fn found(&self) -> String {
        const LOADS: &str = " loads";
        if let [_, _, ..] = self.found[..]
            && let Some(programs) = self
                .found
                .iter()
                .map(|found| found.strip_suffix(LOADS))
                .collect::<Option<Vec<_>>>()
        {
            return format!("{} load", programs.join(", "));
        }
        self.found.join("; ")
    }
}

/// The findings as lines, each once. Those of mode `events` are not among them where mode `sockets` is used.
fn lines(report: &Report) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    let is_used =
        |finding: &&Finding| report.mode != BestMode::Sockets || finding.of_mode != Some(BestMode::Events);
    for finding in report.findings.iter().filter(is_used) {
        let is_same = |line: &&mut Line<'_>| {
            let Finding {
                need,
                verdict,
                consequence,
                remedy,
                ..
            } = line.first;
            (need, verdict, consequence, remedy)
                == (
                    &finding.need,
                    &finding.verdict,
                    &finding.consequence,
                    &finding.remedy,
                )
        };
        match lines.iter_mut().find(is_same) {
            Some(line) => line.found.push(&finding.found),
            None => lines.push(Line {
                first: finding,
                found: vec![&finding.found],
            }),
        }
    }
    lines
}

fn as_text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    for line in lines(report) {
        let Finding {
            need,
            verdict,
            consequence,
            remedy,
            ..
        } = line.first;
        let _ = write!(text, "{:<8} {need:<27} {}", verdict.as_str(), line.found());
        if *verdict != Verdict::Ok {
            let _ = write!(text, " -> {consequence}; hint: {remedy}");
        }
        text.push('\n');
    }
    let of_events = report
        .findings
        .iter()
        .filter(|it| it.of_mode == Some(BestMode::Events));
    let (all, load) = of_events.fold((0, 0), |(all, load), finding| {
        (all + 1, load + usize::from(finding.verdict == Verdict::Ok))
    });
    if report.mode == BestMode::Sockets && all > 0 {
        let _ = writeln!(
            text,
            "{:<8} {:<27} not used, as mode sockets works; {load} of its {all} programs load (`--json` lists them)",
            Verdict::Ok.as_str(),
            "mode events",
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(need: &'static str, program: &str, loads: bool, of_mode: BestMode) -> Finding {
        Finding {
            need,
            verdict: if loads { Verdict::Ok } else { Verdict::Limited },
            found: format!("{program} {}", if loads { "loads" } else { "was refused" }),
            consequence: if loads { "" } else { "less is seen" },
            remedy: if loads { "" } else { "a newer kernel" }.to_owned(),
            of_mode: Some(of_mode),
        }
    }

    #[test]
    fn a_requirement_is_one_line_and_a_mode_that_is_not_used_is_another() {
        let findings = || {
            vec![
                finding("iter/tcp", "adopt", true, BestMode::Sockets),
                finding("iter/map", "scan", false, BestMode::Sockets),
                finding("iter/map", "scan_all", false, BestMode::Sockets),
                finding("iter/tcp", "revisit", true, BestMode::Sockets),
                finding("kprobe/x", "probe", false, BestMode::Events),
                finding("raw_tp/x", "segment", true, BestMode::Events),
            ]
        };
        let report = |mode| Report {
            mode,
            lacks_privilege: false,
            findings: findings(),
        };
        let text = as_text(&report(BestMode::Sockets));
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines[..4],
            [
                "ok iter/tcp adopt, revisit load",
                "limited iter/map scan was refused; scan_all was refused -> less is seen; hint: a newer kernel",
                "ok mode events not used, as mode sockets works; 1 of its 2 programs load (`--json` lists them)",
                "",
            ]
        );
        // Where it is used its programs are requirements as others are.
        let text = as_text(&report(BestMode::Events));
        assert!(text.contains("kprobe/x") && text.contains("raw_tp/x"), "{text}");
        assert!(!text.contains("not used"), "{text}");
    }
}
