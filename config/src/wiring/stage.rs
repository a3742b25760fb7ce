//! The components of a pipeline, in the order in which records reach them.

use std::collections::BTreeSet;

use figment::value::{Dict, Value};
use flowtap_pipeline::contract::Signal;
use flowtap_pipeline::{ComponentId, ComponentKind, Contract, RecordField};

use crate::check::path;
use crate::config::{Config, PipelineConfig};
use crate::layers::find;

/// A component of a pipeline, with its position in the list of its kind.
pub(super) struct Stage<'a> {
    pub(super) kind: ComponentKind,
    pub(super) index: usize,
    pub(super) id: &'a ComponentId,
    pub(super) contract: Contract,
}

impl Stage<'_> {
    pub(super) fn fills(&self, field: RecordField) -> bool {
        self.contract.fills.contains(&field)
    }

    /// Whether it needs the field, or uses it if something fills it.
    pub(super) fn uses(&self, field: RecordField) -> bool {
        let mut needs = self.contract.needs.iter();
        needs.any(|need| need.field == field) || self.contract.uses.contains(&field)
    }
}

/// The components of a pipeline in the order in which records reach them; `None` if one of them is wrong, which is reported
/// elsewhere.
pub(super) fn stages<'a>(config: &Config, pipeline: &'a PipelineConfig) -> Option<Vec<Stage<'a>>> {
    let list = |kind: ComponentKind, ids: &'a [ComponentId]| {
        ids.iter().enumerate().map(move |(index, id)| {
            let contract = match kind {
                ComponentKind::Receiver => config.receivers.get(id).map(|config| config.contract()),
                ComponentKind::Processor => config.processors.get(id).map(|config| config.contract()),
                ComponentKind::Exporter => config.exporters.get(id).map(|config| config.contract()),
                ComponentKind::Extension => config.extensions.get(id).map(|config| config.contract()),
            };
            contract.map(|contract| Stage {
                kind,
                index,
                id,
                contract,
            })
        })
    };
    list(ComponentKind::Receiver, &pipeline.receivers)
        .chain(list(ComponentKind::Processor, &pipeline.processors))
        .chain(list(ComponentKind::Exporter, &pipeline.exporters))
        .collect()
}

/// The last processor.
pub(super) fn processors_end<'a, 'b>(stages: &'b [Stage<'a>]) -> Option<&'b Stage<'a>> {
    let mut stages = stages.iter().rev();
    stages.find(|stage| stage.kind == ComponentKind::Processor)
}

/// Whether records with a peer come from `stages`: readings of devices have none, and so neither a role nor a class.
pub(super) fn has_peers(stages: &[Stage<'_>]) -> bool {
    let receivers = stages
        .iter()
        .filter(|stage| stage.kind == ComponentKind::Receiver);
    let mut signals = receivers.flat_map(|stage| stage.contract.signals_out(stage.kind));
    signals.any(|signal| signal != Signal::Readings)
}

/// Where the list of a pipeline in `values` names a component. Entries that are to be removed are in that list, and are not stages.
pub(super) fn place(values: Option<&Dict>, pipeline: &str, stage: &Stage<'_>) -> Vec<String> {
    let list = path(&["service", "pipelines", pipeline, stage.kind.section()]);
    let is_named = |value: &Value| value.as_str() == Some(stage.id.as_str());
    let index = match values.and_then(|values| find(values, &list)) {
        Some(Value::Array(_, list)) => list.iter().position(is_named),
        _ => None,
    };
    [list, vec![index.unwrap_or(stage.index).to_string()]].concat()
}

pub(super) fn quoted(ids: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let quoted: Vec<_> = ids.into_iter().map(|id| format!("`{id}`")).collect();
    quoted.join(", ")
}

pub(super) fn listed(signals: &BTreeSet<Signal>) -> String {
    let names: Vec<_> = signals.iter().map(ToString::to_string).collect();
    names.join(", ")
}
