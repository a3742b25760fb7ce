//! The command line of flowtap, as a library: a distribution with custom components is a `main`
//! that adds to [`components::registry`] and calls [`main`].
//!
//! # Layout
//!
//! | module | task |
//! |---|---|
//! | [`cli`] | the arguments |
//! | [`components`] | the component types of this build, in one list |
//! | [`exit`] | exit codes, and errors on their way to them |
//! | `commands` | a module per command |
//! | `daemon` | what the commands `run` and `record` have running: the graph, signals, reloads, the sandbox |
#![forbid(unsafe_code)]

mod cli;
mod commands;
pub mod components;
mod daemon;
mod exit;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use clap::Parser;
use flowtap_pipeline::Registry;

use cli::Cli;
use daemon::Signals;

/// Reads the process' arguments, does what they say with the component types of `registry`, and returns the exit code.
/// Errors are printed on standard error.
pub fn main(registry: &Registry) -> ExitCode {
    Signals::hold();
    flowtap_ebpf::limit_kept_memory();
    let arguments = match Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version also come this way, and are not errors. A closed terminal is not
            // reported.
            let _ = error.print();
            return if error.use_stderr() {
                usage().into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match commands::dispatch(arguments, registry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(format!("flowtap: {failure}\n"));
            failure.code.into()
        }
    }
}

/// The code for wrong arguments: checks have that of `diff`, whose 1 means a difference.
fn usage() -> exit::Code {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|command| command == "policy")
    {
        exit::Code::CheckUsage
    } else {
        exit::Code::Usage
    }
}

/// Writes to standard error without waiting for a reader: it may be a pipe that nobody reads.
fn report(text: String) {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let (done, written) = sync_channel(1);
    let write = move || {
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = done.send(());
    };
    if thread::Builder::new().spawn(write).is_ok() {
        let _ = written.recv_timeout(TIMEOUT);
    }
}
