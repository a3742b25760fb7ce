//! Labels that components add to series, which must not make two of one name.

use std::collections::BTreeSet;

use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::{ComponentId, PipelineKind};

use super::stage::Stage;
use crate::check::{Checker, path};
use crate::config::Config;

impl Checker<'_> {
    /// No exporter adds a label that the series have.
    pub(super) fn labels(&mut self, config: &Config, pipeline: &str, stages: &[Stage<'_>]) {
        let Some(window) = stages.iter().find(|stage| stage.contract.is_aggregator()) else {
            return;
        };
        let labels = self.series_labels(window, stages);
        for stage in stages {
            let feeds = |id: &ComponentId| {
                // Only series have labels.
                let pipelines = config.pipelines.iter();
                let with_series = pipelines.filter(|(id, _)| id.kind() == PipelineKind::Metrics);
                with_series
                    .filter(|(_, pipeline)| pipeline.exporters.contains(id))
                    .count()
            };
            for (key, name) in &stage.contract.adds_labels {
                let owner = if labels.contains(name) {
                    format!(
                        "series of `{}` in the pipeline `{pipeline}` have a label `{name}`",
                        window.id
                    )
                } else if name == "pipeline" && feeds(stage.id) > 1 {
                    "series of several pipelines have a label `pipeline`".to_owned()
                } else {
                    continue;
                };
                let at = [path(&[stage.kind.section(), stage.id.as_str()]), key.clone()].concat();
                self.report(
                    &at,
                    format!("{owner}, and Prometheus rejects a scrape with two"),
                    Some(format!("choose another name, such as `node_{name}`")),
                );
            }
        }
    }

    /// The labels of the series of `window` after the changes of the components before it, which must not make two of one name.
    fn series_labels(&mut self, window: &Stage<'_>, stages: &[Stage<'_>]) -> BTreeSet<String> {
        let mut labels = window.contract.series_labels.clone();
        let exposed = |name: &str| name.replace('.', "_");
        for stage in stages {
            let changes = &stage.contract.label_changes;
            let names = |label: Label| [label.name().to_owned(), exposed(label.otel_name())];
            for label in &changes.drop {
                labels.retain(|name| !names(*label).contains(name));
            }
            for (label, _) in &changes.rename {
                labels.retain(|name| !names(*label).contains(name));
            }
            let renamed = changes.rename.iter();
            let renamed = renamed.map(|(label, name)| ("rename", label.name().to_owned(), name));
            let added = changes.add.iter();
            let added = added.map(|(name, _)| ("add", name.clone(), name));
            for (section, key, name) in renamed.chain(added) {
                if labels.insert(exposed(name)) {
                    continue;
                }
                let at = path(&[stage.kind.section(), stage.id.as_str(), section, &key]);
                let message = format!(
                    "series of `{}` have a label `{name}` already, and Prometheus rejects a scrape with two",
                    window.id
                );
                let help = format!("choose another name, such as `my_{name}`");
                self.report(&at, message, Some(help));
            }
        }
        labels
    }
}
