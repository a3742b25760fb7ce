//! `flowtap completions` and `flowtap man`: made from the arguments as they are declared.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap::builder::Resettable;
use clap_complete::Shell;

use crate::cli::{Cli, manual};
use crate::exit::{Code, ExitError};

/// The completion script for `shell`.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "flowtap", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes `flowtap.1`, `flowtap-run.1` and so on. These two have sections on the environment, exit codes, files and signals.
///
/// # Errors
/// A directory that can't be written to.
pub(crate) fn man_pages(directory: &Path) -> Result<(), ExitError> {
    let failed = |error: io::Error| ExitError::new(Code::Create, format!("{}: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(failed)?;
    // The sections have separate titles there.
    let command = Cli::command().mut_subcommand("run", |run| run.after_long_help(Resettable::Reset));
    clap_mangen::generate_to(command, directory).map_err(failed)?;
    for page in ["flowtap.1", "flowtap-run.1"] {
        let path = directory.join(page);
        let mut text = fs::read_to_string(&path).map_err(failed)?;
        text.push_str(&manual::roff());
        fs::write(&path, text).map_err(failed)?;
    }
    Ok(())
}
