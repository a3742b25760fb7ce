//! The config that a command reads.

use std::io::{self, Write};

use flowtap_config::{Config, Diagnostic, Layers};
use flowtap_extensions::telemetry;
use flowtap_pipeline::Registry;

use crate::cli::sources::ConfigArgs;
use crate::exit::ExitError;

/// Reads the config, and prints its warnings.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn load(arguments: &ConfigArgs, registry: &Registry) -> Result<Config, ExitError> {
    load_for(arguments, registry, &[""])
}

/// The same for `validate`, and for the start of `run`: also prints warnings that a reload does not repeat.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn load_at_start(arguments: &ConfigArgs, registry: &Registry) -> Result<Config, ExitError> {
    let config = load(arguments, registry)?;
    config.unused_processors().iter().for_each(warn);
    Ok(config)
}

/// The same for a command that uses a part of the config: prints the warnings about keys that begin with one of `keys`.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn load_for(
    arguments: &ConfigArgs,
    registry: &Registry,
    keys: &[&str],
) -> Result<Config, ExitError> {
    let layers = Layers::from_process(arguments.config.clone(), arguments.set.clone());
    let config = flowtap_config::load(&layers, registry).map_err(|errors| ExitError::config(&errors))?;
    telemetry::check(&config).map_err(|errors| ExitError::config(&errors))?;
    let is_about = |key: &str| keys.iter().any(|beginning| key.starts_with(beginning));
    let warnings = config.warnings.iter();
    warnings.filter(|warning| is_about(&warning.key)).for_each(warn);
    Ok(config)
}

/// Prints a warning.
pub(crate) fn warn(warning: &Diagnostic) {
    let _ = writeln!(io::stderr(), "flowtap: warning: {warning}");
}
