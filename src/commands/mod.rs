//! The commands: a module each, and what they have in common: the config that they read, the text that they print.

mod ask;
mod classify;
mod complete;
mod config;
#[cfg(feature = "analysis")]
mod diagnose;
mod doctor;
mod draw;
#[cfg(feature = "analysis")]
mod explain;
mod findings;
#[cfg(feature = "file")]
mod history;
mod output;
#[cfg(feature = "analysis")]
mod policy;
#[cfg(feature = "analysis")]
mod record;
#[cfg(feature = "analysis")]
mod replay;
#[cfg(feature = "top")]
mod top;
mod validate;

use std::fs::File;

use clap::CommandFactory;
use flowtap_pipeline::Registry;

use self::config::{load, load_at_start, load_for};
use self::output::print;
use crate::cli::sources::ConfigArgs;
use crate::cli::{ClassifyArgs, Cli, Command};
use crate::components;
use crate::daemon::{self, Signals};
use crate::exit::{Code, ExitError};

/// Does what the arguments say.
///
/// # Errors
/// The error of the command.
pub(crate) fn dispatch(arguments: Cli, registry: &Registry) -> Result<(), ExitError> {
    if !matches!(arguments.command, Some(Command::Run(_))) {
        Signals::release();
    }
    match arguments.command {
        None => print(&Cli::command().render_help().to_string()),
        Some(Command::Run(args)) => {
            let load = || load(&args.config, registry);
            let config = load_at_start(&args.config, registry)?;
            daemon::run(config, &load, args.strict, !args.no_sandbox)
        }
        Some(Command::Validate(config)) => print(&validate::validate(&load_at_start(&config, registry)?)?),
        Some(Command::PrintConfig(config)) => print(&load(&config, registry)?.to_yaml()),
        Some(Command::Doctor(args)) => {
            let (text, ended) = doctor::doctor(&args.proc_root, args.json);
            print(&text)?;
            ended
        }
        #[cfg(feature = "analysis")]
        Some(Command::Record(args)) => {
            let config = load_for(&args.config, registry, &["service.kubernetes"])?;
            let target = record::Target::of(&args.file)?;
            record::record(&config, target, args.duration).map(drop)
        }
        #[cfg(feature = "analysis")]
        Some(Command::Replay(args)) => {
            let config = load(&args.config, registry)?;
            print(&if args.findings {
                findings::of_recording(&config, &args.file, args.json)?
            } else {
                replay::replay(&config, &args.file)?
            })
        }
        #[cfg(feature = "analysis")]
        Some(Command::Explain(args)) => {
            let config = load(&args.config, registry)?;
            print(&match args.file {
                Some(file) => explain::explain(&config, &file)?,
                None => explain::explain_live(&config, args.duration)?,
            })
        }
        Some(Command::Classify(args)) => classify(args, registry),
        #[cfg(feature = "analysis")]
        Some(Command::Policy(command)) => policy::policy(&command, registry),
        #[cfg(feature = "top")]
        Some(Command::Top(args)) => top::top(args, registry),
        #[cfg(feature = "analysis")]
        Some(Command::Diagnose(args)) => print(&diagnose::diagnose(&args, registry)?),
        Some(Command::Findings(args)) => print(&findings::findings(&args, registry)?),
        #[cfg(feature = "file")]
        Some(Command::History(args)) => print(&history::history(&args, registry)?),
        Some(Command::Components) => print(&components::describe(registry)),
        Some(Command::Graph(args)) => {
            let config = load(&args.config, registry)?;
            print(&draw::draw(&config.pipelines, args.format))
        }
        Some(Command::Schema) => print(&flowtap_config::schema::text(registry)),
        Some(Command::Completions(args)) => print(&complete::completions(args.shell)),
        Some(Command::Man(args)) => complete::man_pages(&args.directory),
        Some(Command::LeftOut(command)) => {
            let (command, feature) = command.command_and_feature();
            let message = format!(
                "this build has no command `{command}`\n  hint: build flowtap with the feature `{feature}`"
            );
            Err(ExitError::new(Code::Usage, message))
        }
    }
}

/// Prints the classes of addresses, or those that differ with another config.
fn classify(args: ClassifyArgs, registry: &Registry) -> Result<(), ExitError> {
    let load = |config: &ConfigArgs| load_for(config, registry, &["processors.policy"]);
    let config = load(&args.config)?;
    let Some(candidate) = args.diff else {
        return print(&classify::classify(&config, &args.addresses, args.json)?);
    };
    let candidate = ConfigArgs {
        config: vec![candidate],
        set: Vec::new(),
    };
    // A file of an argument, like those that other commands compare.
    File::open(&candidate.config[0]).map_err(|error| {
        ExitError::new(
            Code::NoInput,
            format!(
                "can't read {}: {error}\n  hint: name a config file",
                candidate.config[0].display()
            ),
        )
    })?;
    let (text, found) = classify::diff(&config, &load(&candidate)?, &args.addresses, args.json)?;
    print(&text)?;
    found
}
