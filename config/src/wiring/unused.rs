//! Processors that work for nothing: they fill fields of records for labels that no series of their pipeline has.
//!
//! In: a checked config. Out: a warning for each, at its entry in the pipeline's list. `validate` and the start of `run` print them; a
//! reload does not look for them. The rules:
//!
//! 1. Only of pipelines `metrics`: every flow log record has all fields.
//! 2. Only of a processor all of whose fields are for labels that no metric has by default. A field that a component fills only if a key
//!    asks for it is warned of at that key (`unused_fields` of the module above).
//! 3. A field that a later component of the pipeline needs or uses is used.

use std::collections::BTreeSet;

use flowtap_pipeline::catalog::{FAMILIES, Label};
use flowtap_pipeline::{ComponentKind, PipelineId, PipelineKind, RecordField};

use super::{Stage, place, quoted, stages};
use crate::check::path;
use crate::config::Config;
use crate::diagnostic::Diagnostic;

impl Config {
    /// Warnings of processors that fill labels of which no metric of their pipeline has one.
    pub fn unused_processors(&self) -> Vec<Diagnostic> {
        let mut warnings = Vec::new();
        for (name, pipeline) in &self.pipelines {
            let (PipelineKind::Metrics, Some(stages)) = (name.kind(), stages(self, pipeline)) else {
                continue;
            };
            let unused = (0..stages.len()).filter(|position| is_unused(&stages, *position));
            warnings.extend(unused.map(|position| self.unused_processor(name, &stages, position)));
        }
        warnings
    }

    fn unused_processor(&self, pipeline: &PipelineId, stages: &[Stage<'_>], position: usize) -> Diagnostic {
        let stage = &stages[position];
        let fills = &stage.contract.fills;
        let window = stages.iter().find(|stage| stage.contract.is_aggregator());
        let window = window.and_then(|window| Some((window.id, self.processors.get(window.id)?)));
        let possible = window.and_then(|(_, config)| config.words_at(&path(&["labels", "0"])));
        let labels = labels_of(fills).map(Label::name);
        let labels = labels.filter(|label| possible.as_ref().is_none_or(|possible| possible.contains(label)));
        let message = format!(
            "`{}` fills the labels {}, and no metric of the pipeline `{pipeline}` has one of them",
            stage.id,
            quoted(labels)
        );
        let merged = self.origins.0.as_ref();
        let help = window.filter(|_| possible.is_some()).map(|(window, _)| {
            let key = format!("processors.{window}.labels");
            let has_list =
                merged.is_some_and(|merged| merged.user_has(&path(&["processors", window.as_str(), "labels"])));
            let add = if has_list {
                format!("add one of them to `{key}`")
            } else {
                format!(
                    "list one of them in `processors.{window}.families.NAME.labels` of a metric, or in `{key}` for every metric about \
                     peers; a list takes the place of the default labels"
                )
            };
            format!("{add}{}", other_use(fills))
        });
        self.diagnostic(
            &place(merged.map(|merged| &merged.values), pipeline.as_str(), stage),
            message,
            help,
        )
    }
}

/// Whether the component at `position` is a processor, and nothing after it uses what it fills.
fn is_unused(stages: &[Stage<'_>], position: usize) -> bool {
    let (stage, later) = (&stages[position], &stages[position + 1..]);
    let fills = &stage.contract.fills;
    let is_used = |field: RecordField| later.iter().any(|stage| stage.uses(field));
    stage.kind == ComponentKind::Processor
        && !fills.is_empty()
        && fills.iter().all(|field| is_optional(*field) && !is_used(*field))
}

/// Whether the field is for labels, and metrics have them only if a config lists them.
fn is_optional(field: RecordField) -> bool {
    let mut by_default = FAMILIES.iter().flat_map(|definition| definition.labels);
    field.setting().is_none()
        && labels_of(&BTreeSet::from([field])).next().is_some()
        && !by_default.any(|label| label.field() == Some(field))
}

/// The labels whose values come from `fields`.
fn labels_of(fields: &BTreeSet<RecordField>) -> impl Iterator<Item = Label> {
    let is_of = |label: &Label| label.field().is_some_and(|field| fields.contains(&field));
    Label::DETAILS.into_iter().filter(is_of)
}

/// Where names are shown without a label, as part of the advice.
fn other_use(fields: &BTreeSet<RecordField>) -> &'static str {
    let are_names = |field: &RecordField| matches!(field, RecordField::ClusterNames | RecordField::PeerName);
    if fields.iter().any(are_names) {
        "; without one only the map of the status page and commands such as `flowtap diagnose` have the names"
    } else {
        ""
    }
}
