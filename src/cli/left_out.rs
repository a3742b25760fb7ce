//! Commands that this build was made without: their names are known, so that the answer is the feature that adds them.

use std::ffi::OsString;

use clap::{Args, Subcommand};

/// A command without its feature. It is in no help.
#[derive(Debug, Subcommand)]
pub(crate) enum LeftOut {
    #[cfg(not(feature = "analysis"))]
    #[command(hide = true)]
    Record(Rest),
    #[cfg(not(feature = "analysis"))]
    #[command(hide = true)]
    Replay(Rest),
    #[cfg(not(feature = "analysis"))]
    #[command(hide = true)]
    Explain(Rest),
    #[cfg(not(feature = "analysis"))]
    #[command(hide = true)]
    Diagnose(Rest),
    #[cfg(not(feature = "analysis"))]
    #[command(hide = true)]
    Policy(Rest),
    #[cfg(not(feature = "file"))]
    #[command(hide = true)]
    History(Rest),
    #[cfg(not(feature = "top"))]
    #[command(hide = true)]
    Top(Rest),
}

/// Arguments of a command that is not there.
#[derive(Args, Debug)]
pub(crate) struct Rest {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<OsString>,
}

impl LeftOut {
    /// The command, and the cargo feature that adds it.
    pub(crate) const fn command_and_feature(&self) -> (&'static str, &'static str) {
        match *self {
            #[cfg(not(feature = "analysis"))]
            Self::Record(_) => ("record", "analysis"),
            #[cfg(not(feature = "analysis"))]
            Self::Replay(_) => ("replay", "analysis"),
            #[cfg(not(feature = "analysis"))]
            Self::Explain(_) => ("explain", "analysis"),
            #[cfg(not(feature = "analysis"))]
            Self::Diagnose(_) => ("diagnose", "analysis"),
            #[cfg(not(feature = "analysis"))]
            Self::Policy(_) => ("policy", "analysis"),
            #[cfg(not(feature = "file"))]
            Self::History(_) => ("history", "file"),
            #[cfg(not(feature = "top"))]
            Self::Top(_) => ("top", "top"),
        }
    }
}
