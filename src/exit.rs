//! Exit codes, by `sysexits.h`, and errors on their way to them.

use std::fmt;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use flowtap_config::ConfigErrors;
use flowtap_engine::runner::RunError;
use flowtap_extensions::telemetry::TelemetryError;
use flowtap_pipeline::{BuildError, StageError, plain};

/// An exit code: of `sysexits.h`, or of a check such as `policy check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[cfg_attr(
    not(any(feature = "analysis", feature = "file")),
    expect(dead_code, reason = "files are read by commands of these features")
)]
pub(crate) enum Code {
    /// A check has found something, as `diff` has differences.
    Found = 1,
    /// The arguments of `policy` are wrong.
    CheckUsage = 2,
    /// `EX_USAGE`: the arguments are wrong.
    Usage = 64,
    /// `EX_DATAERR`: an input file is malformed.
    Data = 65,
    /// `EX_NOINPUT`: it can't be read.
    NoInput = 66,
    /// `EX_UNAVAILABLE`: this machine or its kernel can't do it, now or later; no daemon answers a command that asks one.
    Unavailable = 69,
    /// `EX_SOFTWARE`: a bug in flowtap, or a failed component.
    Software = 70,
    /// `EX_OSERR`: a basic system call failed.
    System = 71,
    /// `EX_CANTCREAT`: a file can't be written.
    Create = 73,
    /// `EX_TEMPFAIL`: a transient failure, such as a port in use; stopped before everything was exported.
    Temporary = 75,
    /// `EX_NOPERM`: a privilege is missing.
    Permission = 77,
    /// `EX_CONFIG`: the config is wrong.
    Config = 78,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why the process fails, in words for standard error.
#[derive(Debug)]
pub(crate) struct ExitError {
    /// The exit code.
    pub(crate) code: Code,
    message: String,
}

impl ExitError {
    /// With this code and message.
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self {
            code,
            // Names of files and texts of others are in it.
            message: plain::lines(&message.to_string()).into_owned(),
        }
    }

    /// A config with faults: all of them, with colours if a terminal shows them.
    pub(crate) fn config(errors: &ConfigErrors) -> Self {
        let styled =
            io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // It is escaped before it has colours.
        Self {
            code: Code::Config,
            message: errors.render(styled),
        }
    }
}

impl fmt::Display for ExitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<io::Error> for ExitError {
    fn from(error: io::Error) -> Self {
        Self::new(Code::System, error)
    }
}

impl From<BuildError> for ExitError {
    fn from(error: BuildError) -> Self {
        let code = if error.is_temporary {
            Code::Temporary
        } else {
            Code::Config
        };
        Self::new(code, error)
    }
}

impl From<StageError> for ExitError {
    fn from(error: StageError) -> Self {
        Self::new(stage_code(&error), error)
    }
}

impl From<TelemetryError> for ExitError {
    fn from(error: TelemetryError) -> Self {
        let code = match &error {
            TelemetryError::Filter { .. } => Code::Config,
            TelemetryError::Metrics(_) | TelemetryError::Logs(_) => Code::Software,
        };
        Self::new(code, error)
    }
}

impl From<RunError> for ExitError {
    fn from(error: RunError) -> Self {
        let code = match &error {
            RunError::Start { source, .. } | RunError::Failed { source, .. } => stage_code(source),
            RunError::Panicked { .. } => Code::Software,
            RunError::Thread { .. } => Code::System,
            RunError::Undelivered { .. } | RunError::Deadline { .. } | RunError::Stuck { .. } => {
                Code::Temporary
            }
        };
        Self::new(code, error)
    }
}

fn stage_code(error: &StageError) -> Code {
    match error {
        StageError::Permission { .. } => Code::Permission,
        StageError::Unsupported { .. } => Code::Unavailable,
        StageError::Listen { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied => Code::Permission,
            // An address that is in use, or not configured yet while the machine boots: a restart may find it.
            _ => Code::Temporary,
        },
        StageError::Temporary(_) => Code::Temporary,
        StageError::Other(_) => Code::Software,
    }
}
