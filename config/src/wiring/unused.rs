//! Processors that work for nothing: they fill fields of records for labels that no series of their pipeline has.
//!
//! In: a checked config. Out: a warning for each, at its entry in the pipeline's list. `validate` and the start of `run` print them; a
//! reload does not look for them. The rules:
//!
//! 1. Only of pipelines `metrics`: every flow log record has all fields.
//! 2. Only of a processor all of whose fields are for labels that no metric has by default. A field that a component fills only if a key
//!    asks for it is warned of at that key (`unused_fields` of the module above).
//! 3. A field that a later component of the pipeline needs or uses is used; by the window if one of its labels is in a series and not
//!    dropped (`attributes.drop`).
//! 4. Changes of labels (`attributes.add`, `rename`, `drop`) are of series: a processor that only pipelines `logs` have makes them for
//!    nothing, with a warning for each key.
//! 5. Several that fill the same fields, as `kubernetes` and `kubernetes/2`, have one warning.

use std::collections::{BTreeMap, BTreeSet};

use figment::value::Value;
use flowtap_pipeline::catalog::{FAMILIES, Label};
use flowtap_pipeline::{ComponentKind, PipelineId, PipelineKind, RecordField};

use super::stage::{Stage, place, quoted, stages};
use crate::check::path;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, key_of};
use crate::document::value_from_yaml;
use crate::layers::find;

impl Config {
    /// Warnings of processors that fill labels of which no metric of their pipeline has one.
    pub fn unused_processors(&self) -> Vec<Diagnostic> {
        let mut warnings = Vec::new();
        for (name, pipeline) in &self.pipelines {
            let (PipelineKind::Metrics, Some(stages)) = (name.kind(), stages(self, pipeline)) else {
                continue;
            };
            // Several of a type fill the same: one warning names them.
            let mut alike = BTreeMap::<_, Vec<_>>::new();
            for position in (0..stages.len()).filter(|position| is_unused(&stages, *position)) {
                let stage = &stages[position];
                alike.entry(&stage.contract.fills).or_default().push(stage);
            }
            let unused = alike.into_values();
            warnings.extend(unused.filter_map(|unused| self.unused_processor(name, &stages, &unused)));
        }
        warnings.extend(self.unused_label_changes());
        warnings.sort();
        warnings
    }

    /// Warnings of changes of labels in pipelines without series.
    fn unused_label_changes(&self) -> Vec<Diagnostic> {
        let of_kind = |kind| {
            let pipelines = self.pipelines.iter().filter(move |(name, _)| name.kind() == kind);
            pipelines
                .flat_map(|(_, pipeline)| &pipeline.processors)
                .collect::<BTreeSet<_>>()
        };
        let (series, logs) = (of_kind(PipelineKind::Metrics), of_kind(PipelineKind::Logs));
        let mut warnings = Vec::new();
        for id in logs.difference(&series) {
            let Some(config) = self.processors.get(*id) else {
                continue;
            };
            let changes = config.contract().label_changes;
            let keys = [
                (
                    "add",
                    changes.add.is_empty(),
                    ", or set them for all that flowtap sends: `service.telemetry.resource`",
                ),
                ("rename", changes.rename.is_empty(), ""),
                ("drop", changes.drop.is_empty(), ""),
            ];
            for (key, _, otherwise) in keys.into_iter().filter(|(_, is_empty, _)| !is_empty) {
                let at = path(&["processors", id.as_str(), key]);
                let message =
                    "has no effect on log records, which have the fields of docs/flow-logs.md and no labels"
                        .to_owned();
                let help = format!("remove it, or put `{id}` into a pipeline `metrics`{otherwise}");
                warnings.push(self.diagnostic(&at, message, Some(help)));
            }
        }
        warnings
    }

    /// The warning of the stages `unused`, which fill the same fields.
    fn unused_processor(
        &self,
        pipeline: &PipelineId,
        stages: &[Stage<'_>],
        unused: &[&Stage<'_>],
    ) -> Option<Diagnostic> {
        let first = unused.first()?;
        let fills = &first.contract.fills;
        let window = stages.iter().find(|stage| stage.contract.is_aggregator());
        let config = window.and_then(|window| self.processors.get(window.id));
        let possible = config.and_then(|config| config.words_at(&path(&["labels", "0"])));
        let is_possible = |label: &Label| {
            possible
                .as_ref()
                .is_none_or(|possible| possible.contains(&label.name()))
        };
        let labels: Vec<_> = labels_of(fills).filter(is_possible).collect();
        let (plural, one) = match &*labels {
            [_] => ("", "it"),
            _ => ("s", "one of them"),
        };
        let message = format!(
            "{} {} the label{plural} {}, and no metric of the pipeline `{pipeline}` has {one}",
            quoted(unused.iter().map(|stage| stage.id)),
            if unused.len() == 1 { "fills" } else { "fill" },
            quoted(labels.iter().map(|label| label.name())),
        );
        let merged = self.origins.0.as_ref();
        let dropped_by = window.and_then(|window| {
            let mut listed = labels.iter().filter(|label| has_label(window, **label));
            listed.find_map(|label| Some((label, dropped_by(stages, *label)?)))
        });
        let help = if let Some((label, stage)) = dropped_by {
            Some(format!(
                "remove `{}` from `processors.{}.drop`, or the processor from the pipeline",
                label.name(),
                stage.id
            ))
        } else {
            window.filter(|_| possible.is_some()).map(|window| {
                let key = path(&["processors", window.id.as_str(), "labels"]);
                // null is the default, as if there was none.
                let listed = merged.and_then(|merged| find(&merged.values, &key));
                let has_list = listed.is_some_and(is_list);
                let key = key_of(&key);
                let add = if has_list {
                    format!("add {one} to `{key}`")
                } else {
                    format!(
                        "list {one} in `processors.{}.families.NAME.labels` of a metric, or in `{key}` for every metric about peers; \
                         a list takes the place of the default labels",
                        window.id
                    )
                };
                format!("{add}{}", other_use(fills))
            })
        };
        Some(self.diagnostic(
            &place(merged.map(|merged| &merged.values), pipeline.as_str(), first),
            message,
            help,
        ))
    }
}

/// Whether a value is a list, or the text of one, as `--set` has it.
fn is_list(value: &Value) -> bool {
    let read = value.as_str().and_then(|text| value_from_yaml(text).ok());
    matches!(read.as_ref().unwrap_or(value), Value::Array(..))
}

/// Whether the component at `position` is a processor, and nothing after it uses what it fills.
fn is_unused(stages: &[Stage<'_>], position: usize) -> bool {
    let (stage, later) = (&stages[position], &stages[position + 1..]);
    let fills = &stage.contract.fills;
    let is_used = |field: RecordField| {
        later.iter().any(|stage| {
            stage.uses(field) && (!stage.contract.is_aggregator() || is_exposed(stages, stage, field))
        })
    };
    stage.kind == ComponentKind::Processor
        && !fills.is_empty()
        && fills
            .iter()
            .all(|field| is_optional(stage, *field) && !is_used(*field))
}

/// Whether series of `window` have a label of the field that no processor drops. An aggregator that does not declare its labels has.
fn is_exposed(stages: &[Stage<'_>], window: &Stage<'_>, field: RecordField) -> bool {
    let mut labels = labels_of_field(field);
    window.contract.series_labels.is_empty()
        || labels.any(|label| has_label(window, label) && dropped_by(stages, label).is_none())
}

/// Whether series of `window` have the label, whatever processors drop.
fn has_label(window: &Stage<'_>, label: Label) -> bool {
    let names = [label.name().to_owned(), label.otel_name().replace('.', "_")];
    names
        .iter()
        .any(|name| window.contract.series_labels.contains(name))
}

/// The processor that drops the label from every series.
fn dropped_by<'s, 'a>(stages: &'s [Stage<'a>], label: Label) -> Option<&'s Stage<'a>> {
    let mut stages = stages.iter();
    stages.find(|stage| stage.contract.label_changes.drop.contains(&label))
}

/// Whether the field is for labels, and metrics have them only if a config lists them. Those that a key makes the stage fill have a
/// warning of their own.
fn is_optional(stage: &Stage<'_>, field: RecordField) -> bool {
    let mut by_default = FAMILIES.iter().flat_map(|definition| definition.labels);
    !stage.contract.fill_keys.iter().any(|keyed| keyed.field == field)
        && labels_of_field(field).next().is_some()
        && !by_default.any(|label| label.field() == Some(field))
}

/// The labels whose values come from `fields`.
fn labels_of(fields: &BTreeSet<RecordField>) -> impl Iterator<Item = Label> {
    let is_of = |label: &Label| label.field().is_some_and(|field| fields.contains(&field));
    Label::DETAILS.into_iter().filter(is_of)
}

/// The labels whose values come from `field`.
fn labels_of_field(field: RecordField) -> impl Iterator<Item = Label> {
    let is_of = move |label: &Label| label.field() == Some(field);
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
