//! `flowtap validate`: would a config work on this machine?

use std::fmt::{self, Write as _};

use flowtap_config::{Config, MetricsConfig};
use flowtap_extensions::telemetry::{self, Telemetry};
use flowtap_extensions::{identity, kubernetes};
use flowtap_pipeline::{ComponentId, Resource};

use super::config::warn;
use crate::daemon::sandbox::plugins;
use crate::daemon::{self, graph};
use crate::exit::ExitError;

/// Builds everything short of starting it; returns a line per pipeline, and one per address
/// and path that a component uses.
///
/// # Errors
/// A component that can't be built on this machine.
pub(crate) fn validate(config: &Config) -> Result<String, ExitError> {
    // Some components want a runtime around them, even if nothing runs on it.
    let runtime = daemon::runtime()?;
    let _guard = runtime.enter();
    telemetry::check_filter(&config.service.telemetry.logs)?;
    graph::check_memory(config)?;
    let telemetry = Telemetry::new(&Resource::default(), &MetricsConfig::default())?;
    graph::build(config, &telemetry.meter(), &graph::Environment::now(), false)
        .map_err(|error| ExitError::config(&config.build_error(&error)))?;
    identity::unused_attributes().iter().for_each(warn);
    // Not an error: `run --no-sandbox` works.
    let refused = plugins::refused(config);
    refused.iter().flat_map(|refused| &refused.0).for_each(warn);
    let unavailable = runtime.block_on(kubernetes::unavailable(config));
    unavailable.iter().for_each(warn);
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
    let service = &config.service;
    for (key, address) in [
        ("admin", service.admin.endpoint),
        ("telemetry.metrics", service.telemetry.metrics.endpoint),
    ] {
        if let Some(address) = address {
            let _ = writeln!(text, "  service.{key} listens on {address}");
        }
    }
    Ok(text)
}
