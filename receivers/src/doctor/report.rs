//! The report: a finding for each requirement.

use serde::Serialize;

/// Degree to which a requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Something is not seen, or a mode is not there; flowtap runs.
    Limited,
    /// Not met.
    Missing,
}

impl Verdict {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// One need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The requirement.
    pub need: &'static str,
    /// Degree to which it is met.
    pub verdict: Verdict,
    /// The finding.
    pub found: String,
    /// Consequence; empty if the requirement is met.
    pub consequence: &'static str,
    /// Fix; empty if the requirement is met.
    pub remedy: String,
    /// The mode that it is of; `None`: any.
    #[serde(rename = "mode", skip_serializing_if = "Option::is_none")]
    pub of_mode: Option<BestMode>,
}

impl Finding {
    pub(super) const fn ok(need: &'static str, found: String) -> Self {
        Self {
            need,
            verdict: Verdict::Ok,
            found,
            consequence: "",
            remedy: String::new(),
            of_mode: None,
        }
    }

    pub(super) fn not_ok(
        need: &'static str,
        verdict: Verdict,
        found: &dyn ToString,
        consequence: &'static str,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            need,
            verdict,
            found: found.to_string(),
            consequence,
            remedy: remedy.into(),
            of_mode: None,
        }
    }

    pub(super) fn of(self, mode: BestMode) -> Self {
        Self {
            of_mode: Some(mode),
            ..self
        }
    }
}

/// The mode that `mode: auto` would choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BestMode {
    /// Capture mode `sockets` of the receiver `ebpf`.
    Sockets,
    /// Its capture mode `events`.
    Events,
    /// The receiver `sock_diag`.
    SockDiag,
    /// None works.
    None,
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The mode that `flowtap run` would use.
    pub mode: BestMode,
    /// Whether it is only a privilege that stands between this and a better mode.
    pub lacks_privilege: bool,
    /// One per need.
    pub findings: Vec<Finding>,
}
