//! The config that a command reads.

use std::io::{self, Write};

use flowtap_config::{Config, Layers};
use flowtap_extensions::telemetry;
use flowtap_pipeline::Registry;

use crate::cli::sources::ConfigArgs;
use crate::exit::ExitError;

/// Reads the config, and prints its warnings.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn load(arguments: &ConfigArgs, registry: &Registry) -> Result<Config, ExitError> {
    let layers = Layers::from_process(arguments.config.clone(), arguments.set.clone());
    let config = flowtap_config::load(&layers, registry).map_err(|errors| ExitError::config(&errors))?;
    telemetry::check(&config).map_err(|errors| ExitError::config(&errors))?;
    for warning in &config.warnings {
        let _ = writeln!(io::stderr(), "flowtap: warning: {warning}");
    }
    Ok(config)
}
