//! From merged values to a [`Config`]: components by their factories, pipelines, references, ports.

use std::collections::{BTreeMap, BTreeSet};

use figment::value::{Dict, Value};
use flowtap_pipeline::{ComponentKind, Registry};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;

use self::suggest::{Below, instead_of};
use crate::aliases::{self, Meant};
use crate::config::{Config, Origins};
use crate::diagnostic::Diagnostic;
use crate::layers::{Merged, SECTIONS};
use crate::lenient::{self, Names, Outcome, Suggestion};
use crate::quote;
use crate::shape::Shape;

mod components;
mod pipelines;
mod report;
mod service;
mod suggest;

/// Collects what is wrong, each with its place.
pub(crate) struct Checker<'a> {
    pub(crate) merged: &'a Merged,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    generator: SchemaGenerator,
    /// Components that the advice about them is to remove, by their kind and id.
    removable: BTreeSet<(ComponentKind, String)>,
    /// Where components are, and what is in them, if that has other names than their config's, by kind and id.
    written: BTreeMap<(ComponentKind, String), (Vec<String>, Names)>,
}

/// Checks everything; `None` if what is wrong leaves nothing to run.
pub(crate) fn check(
    merged: &Merged,
    registry: &Registry,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Config> {
    let mut checker = Checker {
        merged,
        diagnostics,
        warnings: merged.warnings.clone(),
        generator: SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator(),
        removable: BTreeSet::new(),
        written: BTreeMap::new(),
    };
    checker.top_level();
    let mut receivers = checker.components(ComponentKind::Receiver, registry.receivers(), registry);
    let mut processors = checker.components(ComponentKind::Processor, registry.processors(), registry);
    let mut exporters = checker.components(ComponentKind::Exporter, registry.exporters(), registry);
    let extensions = checker.components(ComponentKind::Extension, registry.extensions(), registry);
    let (service, written) = checker.service();
    for pipeline in written.values() {
        Checker::assume(&pipeline.receivers, registry.receivers(), &mut receivers);
        Checker::assume(&pipeline.processors, registry.processors(), &mut processors);
        Checker::assume(&pipeline.exporters, registry.exporters(), &mut exporters);
    }
    let pipelines: BTreeMap<_, _> = written
        .iter()
        .map(|(id, written)| {
            let pipeline = checker.pipeline(id, written, &receivers, &processors, registry);
            (id.clone(), pipeline)
        })
        .collect();

    if let Some(service) = &service {
        let at = path(&["service", "telemetry", "metrics", "exporters"]);
        let ids = checker.references(&at, ComponentKind::Exporter, &service.telemetry.metrics.exporters);
        checker.take_metrics(&at, &ids, &exporters);
    }

    let at = path(&["service", "extensions"]);
    let listed = service.as_ref().map(|service| &*service.extensions);
    let extension_order = checker.references(&at, ComponentKind::Extension, listed.unwrap_or_default());

    let mut config = Config {
        receivers,
        processors,
        exporters,
        extensions,
        extension_order,
        pipelines,
        service: service?,
        warnings: Vec::new(),
        files: Vec::new(),
        origins: Origins::default(),
    };
    checker.unused(&mut config);
    checker.wirings(&config, &written, registry);
    checker.ports(&config);
    checker.places(&config);
    let warning = checker.collector_ports(&config);
    checker.warnings.extend(warning);
    config.warnings = checker.warnings;
    Some(config)
}

/// Message about `found` in place of a mapping.
fn not_a_mapping(found: &Value) -> String {
    format!(
        "expected a mapping, found {}",
        quote::actual(&quote::found(found))
    )
}

pub(crate) fn path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

impl Checker<'_> {
    /// Reads the value at `at`, as far as it is readable.
    fn read<T>(
        &self,
        at: &[String],
        known: &[&str],
        value: Value,
        schema: &serde_json::Value,
        parse: impl FnMut(&Value) -> Result<T, figment::Error>,
    ) -> Outcome<T> {
        let source = Below {
            merged: self.merged,
            at,
            known,
        };
        lenient::read(value, Some(Shape::new(schema)), &source, parse)
    }

    /// Sections that begin with `x-` hold what aliases stand for, and nothing else.
    fn top_level(&mut self) {
        for key in self.merged.values.keys() {
            if !SECTIONS.contains(&key.as_str()) && !key.starts_with("x-") {
                let Suggestion { mut hint, .. } = instead_of(&[], key, None, &SECTIONS);
                let place = aliases::section(key).map(|alias| alias.meant);
                if let Some(Meant::At(place)) = place
                    && let Some(name) = place
                        .strip_prefix("exporters.")
                        .filter(|name| !name.contains('.'))
                {
                    hint = format!("{hint}; name it in `service.pipelines.metrics.exporters: [{name}]`");
                }
                self.report(
                    std::slice::from_ref(key),
                    format!("unknown section `{key}`"),
                    Some(hint),
                );
            }
        }
    }

    /// The entries of a section; nothing if it is not there or no mapping.
    fn section(&mut self, at: &[String]) -> Dict {
        match crate::layers::find(&self.merged.values, at) {
            None => Dict::new(),
            Some(Value::Dict(_, dict)) => dict.clone(),
            Some(other) => {
                self.report(at, not_a_mapping(other), None);
                Dict::new()
            }
        }
    }
}
