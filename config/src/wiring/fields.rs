//! Fields of records: those that a component needs, and those that nothing uses.

use std::collections::BTreeSet;

use flowtap_pipeline::contract::{FieldKey, Need};
use flowtap_pipeline::{ComponentId, ComponentKind, Contract, PipelineKind, RecordField, Registry};

use super::stage::{Stage, has_peers, quoted, stages};
use crate::check::{Checker, path};
use crate::config::Config;
use crate::diagnostic::{Diagnostic, key_of};

impl Checker<'_> {
    /// Whether every field that the component at `position` needs is filled before it.
    pub(super) fn needs(
        &mut self,
        pipeline: &str,
        stages: &[Stage<'_>],
        position: usize,
        registry: &Registry,
    ) -> Vec<Diagnostic> {
        let stage = &stages[position];
        let mut warnings = Vec::new();
        let mut reported = BTreeSet::new();
        for Need { field, key } in &stage.contract.needs {
            if stages[..position].iter().any(|before| before.fills(*field)) {
                continue;
            }
            if let Some(later) = stages[position + 1..].iter().find(|after| after.fills(*field)) {
                if reported.insert(*field) {
                    let message = format!(
                        "`{}` needs {field}, which `{}` fills only after it",
                        stage.id, later.id
                    );
                    let help = format!("put `{}` before `{}`", later.id, stage.id);
                    self.report(&self.place(pipeline, stage), message, Some(help));
                }
                continue;
            }
            let help = remedy(*field, stage, stages, registry);
            let component = path(&[stage.kind.section(), stage.id.as_str()]);
            if let Some(key) = key {
                let message = format!(
                    "needs {field}, which no component of the pipeline `{pipeline}` fills: {}",
                    field.if_missing()
                );
                self.report(&[component, key.clone()].concat(), message, help);
            } else if has_peers(&stages[..position]) {
                let message = format!(
                    "`{}` uses {field}, which no component of the pipeline `{pipeline}` fills: {}",
                    stage.id,
                    field.if_missing()
                );
                warnings.push(self.diagnostic(&self.place(pipeline, stage), message, help));
            }
        }
        warnings
    }

    /// Fields that a component fills because its config asks for them, and that nothing in its pipelines uses. Fields of flow log
    /// records are not declared, so pipelines of logs use every field.
    pub(crate) fn unused_fields(&self, config: &Config, registry: &Registry) -> Vec<Diagnostic> {
        let mut used = BTreeSet::new();
        let mut filled = Vec::new();
        for (name, pipeline) in &config.pipelines {
            let Some(stages) = stages(config, pipeline) else {
                continue;
            };
            for stage in &stages {
                for FieldKey { field, key, .. } in &stage.contract.fill_keys {
                    if !stage.fills(*field) {
                        continue;
                    }
                    let of = (stage.kind.section(), stage.id, *field);
                    if name.kind() == PipelineKind::Logs || stages.iter().any(|stage| stage.uses(*field)) {
                        used.insert(of);
                    }
                    filled.push((of, key.clone(), use_of(*field, stage, &stages, registry)));
                }
            }
        }
        filled.retain(|(of, ..)| !used.contains(of));
        let warning =
            |((section, id, field), key, help): ((&str, &ComponentId, RecordField), Vec<String>, String)| {
                let at = [path(&[section, id.as_str()]), key].concat();
                let message = format!("makes `{id}` fill {field}, and no component of its pipelines uses it");
                self.diagnostic(&at, message, Some(help))
            };
        filled.into_iter().map(warning).collect()
    }
}

/// Ways to use a field that `filler` fills because a key asks for it, as advice.
fn use_of(field: RecordField, filler: &Stage<'_>, stages: &[Stage<'_>], registry: &Registry) -> String {
    let mut ways = Vec::new();
    for stage in stages {
        let keys = stage
            .contract
            .use_keys
            .iter()
            .filter(|keyed| keyed.field == field);
        ways.extend(keys.filter_map(|FieldKey { key, value, .. }| {
            let key = key_of(&[path(&[stage.kind.section(), stage.id.as_str()]), key.clone()].concat());
            Some(format!("list `{}` in `{key}`", (*value)?))
        }));
    }
    let processors = registry.processors().values();
    let users = processors.filter(|factory| {
        let contract = factory.default().contract();
        let mut always = contract.needs.iter().filter(|need| need.key.is_none());
        !contract.is_aggregator() && always.any(|need| need.field == field)
    });
    ways.extend(users.map(|factory| format!("add the processor `{}`", factory.type_name)));
    if ways.is_empty() {
        return "remove the key, or add a component that uses it".to_owned();
    }
    let ways = ways.join(", or ");
    if filler.kind == ComponentKind::Receiver {
        format!("{ways}; otherwise only recordings of `flowtap record` have it")
    } else {
        ways
    }
}

/// The keys with which components of this pipeline can fill a field; if there are none, those of the types of this build.
fn keys_that_fill(field: RecordField, stages: &[Stage<'_>], registry: &Registry) -> Vec<String> {
    let keys_of = |kind: ComponentKind, id: &str, contract: &Contract| -> Vec<String> {
        let keyed = contract.fill_keys.iter().filter(|keyed| keyed.field == field);
        let keys = keyed.map(|keyed| key_of(&[path(&[kind.section(), id]), keyed.key.clone()].concat()));
        keys.collect()
    };
    let of_stages = stages.iter();
    let keys: Vec<_> = of_stages
        .flat_map(|stage| keys_of(stage.kind, stage.id.as_str(), &stage.contract))
        .collect();
    if !keys.is_empty() {
        return keys;
    }
    let receivers = registry.receivers().values().map(|factory| {
        let contract = factory.default().contract();
        (ComponentKind::Receiver, factory.type_name, contract)
    });
    let processors = registry.processors().values().map(|factory| {
        let contract = factory.default().contract();
        (ComponentKind::Processor, factory.type_name, contract)
    });
    let types = receivers.chain(processors);
    types
        .flat_map(|(kind, name, contract)| keys_of(kind, name, &contract))
        .collect()
}

/// The component types of this build that fill a field, as advice.
fn remedy(
    field: RecordField,
    stage: &Stage<'_>,
    stages: &[Stage<'_>],
    registry: &Registry,
) -> Option<String> {
    let keys = keys_that_fill(field, stages, registry);
    if !keys.is_empty() {
        let one = if keys.len() == 1 { "" } else { "one of " };
        return Some(format!("set {one}{}", quoted(keys.iter().map(String::as_str))));
    }
    let fills = |contract: Contract| contract.fills.contains(&field);
    let processors = registry.processors().values();
    let processors = processors.filter(|factory| fills(factory.default().contract()));
    let processors: Vec<_> = processors.map(|factory| factory.type_name).collect();
    if !processors.is_empty() {
        let one = if processors.len() == 1 { "" } else { "one of " };
        return Some(format!("put {one}{} before `{}`", quoted(processors), stage.id));
    }
    let receivers = registry.receivers().values();
    let receivers = receivers.filter(|factory| fills(factory.default().contract()));
    let receivers = quoted(receivers.map(|factory| factory.type_name));
    (!receivers.is_empty()).then(|| format!("it is filled by {receivers}"))
}
