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
//! | `flows` | the live view's data, from the newest snapshots: `/flows` |
//! | `graph` | from a checked config to the stages, wired |
//! | `draw` | the pipelines as a drawing |
//! | `complete` | shell completions and man pages |
//! | `identity` | the resource: the attributes that name this flowtap and its node |
//! | `own_metrics` | the daemon's own metrics as snapshots, for exporters |
//! | `node` | state of this machine for components |
//! | `memory`, `descriptors` | the memory limiter; the limit of open files |
//! | `logs`, `log_writer` | rate limit and filter of logs; writing them without blocking |
//! | `stop` | signals, and the deadline of the stop |
//! | `status_page` | the admin listener's page, and `/status.json` |
//! | `top` | the live view in a terminal |
//! | `run`, `reload` | the command `run`: telemetry, admin listener, signals, the pipelines; a new config |
//! | `sandbox`, `systemd` | drops privileges before the start; notifications to systemd |
//! | `http`, `admin`, `telemetry` | the listeners of the daemon itself, its logs and its own metrics |
#![forbid(unsafe_code)]

mod admin;
pub mod classify;
mod cli;
mod cluster;
mod complete;
pub mod components;
mod descriptors;
pub mod doctor;
mod draw;
mod exit;
mod explain;
mod flows;
mod graph;
mod http;
mod identity;
mod log_writer;
mod logs;
mod memory;
mod net_flow;
mod node;
mod own_metrics;
mod record;
mod reload;
mod replay;
mod run;
mod sandbox;
mod status_page;
mod stop;
mod systemd;
mod telemetry;
mod top;

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use flowtap_config::{Config, Layers, MetricsConfig};
use flowtap_pipeline::{ComponentId, Registry, plain};

use cli::{Cli, Command, ConfigArgs};
use exit::Failure;

/// Reads the process' arguments, does what they say with the component types of `registry`, and returns the exit code.
/// Errors are printed on standard error.
pub fn main(registry: &Registry) -> ExitCode {
    let arguments = match Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version also come this way, and are not errors. A closed terminal is not
            // reported.
            let _ = error.print();
            return if error.use_stderr() {
                exit::Code::Usage.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match dispatch(arguments, registry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(format!("flowtap: {failure}\n"));
            failure.code.into()
        }
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

fn dispatch(arguments: Cli, registry: &Registry) -> Result<(), Failure> {
    match arguments.command {
        None => print(&Cli::command().render_help().to_string()),
        Some(Command::Run(args)) => {
            let load = || load(&args.config, registry);
            run::run(load()?, &load, args.strict, !args.no_sandbox)
        }
        Some(Command::Validate(config)) => validate(&load(&config, registry)?),
        Some(Command::PrintConfig(config)) => print(&load(&config, registry)?.to_yaml()),
        Some(Command::Doctor(args)) => {
            let (text, ended) = doctor::doctor(&args.proc_root, args.json);
            print(&text)?;
            ended
        }
        Some(Command::Record(args)) => {
            record::record(&load(&args.config, registry)?, &args.file, args.duration)
        }
        Some(Command::Replay(args)) => print(&replay::replay(&load(&args.config, registry)?, &args.file)?),
        Some(Command::Explain(args)) => {
            let config = load(&args.config, registry)?;
            print(&match args.file {
                Some(file) => explain::explain(&config, &file)?,
                None => explain::explain_live(&config, args.duration)?,
            })
        }
        Some(Command::Classify(args)) => print(&classify::classify(
            &load(&args.config, registry)?,
            &args.addresses,
        )?),
        Some(Command::Top(args)) => top::top(args, registry),
        Some(Command::Components) => print(&components::describe(registry)),
        Some(Command::Graph(args)) => {
            let config = load(&args.config, registry)?;
            print(&draw::draw(&config.pipelines, args.format))
        }
        Some(Command::Schema) => print(&flowtap_config::schema::text(registry)),
        Some(Command::Completions(args)) => print(&complete::completions(args.shell)),
        Some(Command::Man(args)) => complete::man_pages(&args.directory),
    }
}

pub(crate) fn load(arguments: &ConfigArgs, registry: &Registry) -> Result<Config, Failure> {
    let layers = Layers::from_process(arguments.config.clone(), arguments.set.clone());
    let config = flowtap_config::load(&layers, registry).map_err(|errors| Failure::config(&errors))?;
    telemetry::check_logs(&config)?;
    for warning in &config.warnings {
        let _ = writeln!(io::stderr(), "flowtap: warning: {warning}");
    }
    Ok(config)
}

/// Builds everything short of starting it.
fn validate(config: &Config) -> Result<(), Failure> {
    // Some components want a runtime around them, even if nothing runs on it.
    let runtime = run::runtime()?;
    let _guard = runtime.enter();
    let telemetry =
        telemetry::Telemetry::new(&flowtap_pipeline::Resource::default(), &MetricsConfig::default())?;
    graph::build(config, &telemetry.meter(), &graph::Surroundings::now(), false)
        .map_err(|error| Failure::config(&config.build_error(&error)))?;
    let mut text = String::from("the config is valid\n");
    for (name, pipeline) in &config.pipelines {
        let list = |ids: &[ComponentId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "  {name}: {} -> {} -> {}",
            list(&pipeline.receivers),
            list(&pipeline.processors),
            list(&pipeline.exporters)
        );
    }
    for (kind, id, contract) in config.contracts() {
        let mut uses = |what: &str, name: &dyn fmt::Display| {
            let _ = writeln!(text, "  {}.{id} {what} {name}", kind.section());
        };
        for listen in &contract.listens {
            uses("listens on", &listen.address);
        }
        for dial in &contract.dials {
            uses("connects to", &dial.address);
        }
        for path in contract.proc_root.iter().chain(&contract.reads) {
            uses("reads", &path.display());
        }
        for path in &contract.writes {
            uses("writes to", &path.display());
        }
    }
    print(&text)
}

/// To standard output, as a whole; on a terminal without foreign control characters. A reader that
/// has gone away (`| head`) is not an error.
fn print(text: &str) -> Result<(), Failure> {
    let shown = if io::stdout().is_terminal() {
        plain::lines(text)
    } else {
        text.into()
    };
    let text = &*shown;
    match io::stdout()
        .write_all(text.as_bytes())
        .and_then(|()| io::stdout().flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
