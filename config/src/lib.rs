//! The config: layers, substitution, checks.
//!
//! In: files, the environment, `--set`, and the registry of component types. Out: a checked [`Config`], or every mistake at
//! once, each with key, file, line and what to do. The steps, in order:
//!
//! 1. Each layer is read into values, with the place of every key ([`document`], [`layers`]).
//! 2. The layers are merged, later ones over earlier ones, key by key; a list replaces a list.
//! 3. `${env:X}`, `${env:X:-default}` and `${file:P}` are substituted in the merged values ([`substitute`]).
//! 4. Components are read by their factories, pipelines are wired and checked ([`check`]).
//!
//! The lowest layer is built in ([`defaults`]): it has the pipeline `metrics` unless the user defines
//! pipelines, and its components that no pipeline uses are removed.
//!
//! # Layout
//!
//! | module | contents |
//! |---|---|
//! | [`config`] | [`Config`]: the outcome, and `print-config` |
//! | [`service`] | the section `service` |
//! | [`layers`] | [`Layers`], and where each value came from |
//! | [`document`] | a file's values and places: YAML and TOML |
//! | [`substitute`] | `${env:X}`, `${file:P}` |
//! | [`lenient`] | reading a struct although parts of it are wrong |
//! | `words`, `quote`, `shape` | messages in plain words; values as they quote them; the form of values by their JSON Schema |
//! | `suggest`, [`aliases`] | the key that was meant: typing mistakes, spellings of other programs |
//! | [`log_level`] | levels of logs |
//! | `service_links` | variables that Kubernetes sets for a Service called flowtap |
//! | [`check`] | from merged values to a [`Config`] |
//! | [`defaults`] | the lowest layer |
//! | [`diagnostic`] | [`Diagnostic`], [`ConfigErrors`] |
//! | [`reference`](mod@reference) | the page of every key, from the schema |
//! | [`schema`] | the JSON Schema of a config, for editors |
//! | `wiring` | the components of a pipeline, checked against each other |
//! | `redacted` | secrets that a printed config lacks |
//! | `secret` | values that must not be shown |
#![forbid(unsafe_code)]

pub mod aliases;
pub mod check;
pub mod config;
pub mod defaults;
pub mod diagnostic;
pub mod document;
pub mod layers;
pub mod lenient;
pub mod log_level;
mod quote;
mod redacted;
pub mod reference;
pub mod schema;
mod secret;
pub mod service;
mod service_links;
mod shape;
pub mod substitute;
mod suggest;
mod wiring;
mod words;

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use config::Origins;
use flowtap_pipeline::Registry;

pub use config::{Config, PipelineConfig};
pub use diagnostic::{ConfigErrors, Diagnostic, Origin};
pub use layers::Layers;
pub use service::{
    AdminConfig, KubernetesConfig, LogFormat, LogsConfig, MemoryLimiterConfig, MetricsConfig, PushConfig,
    SamplingConfig, SandboxConfig, ServiceConfig, TelemetryConfig,
};

/// Reads `layers` with the component types of `registry`.
///
/// # Errors
/// Everything that is wrong.
pub fn load(layers: &Layers, registry: &Registry) -> Result<Config, ConfigErrors> {
    let mut diagnostics = Vec::new();
    let mut merged = layers.merge(registry, &mut diagnostics);
    let merging = diagnostics.len();
    substitute::substitute(&mut merged, &layers.env, &mut diagnostics);
    // Their values are still the text of the reference, of which only the reference can be judged.
    let unresolved: HashSet<_> = diagnostics[merging..].iter().map(|it| it.key.clone()).collect();
    redacted::report(&merged, &mut diagnostics);
    let mut faults = Vec::new();
    let config = check::check(&merged, registry, &mut faults);
    diagnostics.extend(
        faults
            .into_iter()
            .filter(|fault| !unresolved.contains(&fault.key)),
    );
    match config {
        Some(mut config) if diagnostics.is_empty() => {
            config.files = std::mem::take(&mut merged.files);
            config.origins = Origins(Some(merged));
            Ok(config)
        }
        _ => {
            for diagnostic in &mut diagnostics {
                let (known, key) = (&merged.substituted, &diagnostic.key);
                diagnostic.message = substitute::conceal(known, key, &diagnostic.message);
                let help = diagnostic.help.as_deref();
                diagnostic.help = help.map(|help| substitute::conceal(known, key, help));
            }
            Err(ConfigErrors::new(diagnostics))
        }
    }
}
