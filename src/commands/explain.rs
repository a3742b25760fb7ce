//! `flowtap explain`: how many series a config makes of live traffic or a recording, and what each label costs.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use flowtap_config::{Config, PipelineConfig};
use flowtap_pipeline::catalog::{Definition, FAMILIES, Label};
use flowtap_pipeline::component::downcast;
use flowtap_pipeline::{PipelineId, PipelineKind};
use flowtap_processors::window::{self, Window};

use super::record;
use super::replay::Recording;
use crate::exit::{Code, ExitError};

/// The table, for every pipeline.
///
/// # Errors
/// As [`super::replay::replay`].
pub(crate) fn explain(config: &Config, file: &Path) -> Result<String, ExitError> {
    let mut text = String::new();
    let with_series = |(id, _): &(&PipelineId, _)| id.kind() == PipelineKind::Metrics;
    for (name, pipeline) in config.pipelines.iter().filter(with_series) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "pipeline {name}");
        explain_pipeline(&mut text, config, name, pipeline, file)?;
    }
    Ok(text)
}

/// The same of what passes on this machine for `duration`.
///
/// # Errors
/// As [`super::record::record`].
pub(crate) fn explain_live(config: &Config, duration: Duration) -> Result<String, ExitError> {
    let folder = tempfile::tempdir().map_err(|error| ExitError::new(Code::Create, error))?;
    let file = folder.path().join("explain");
    record::record(config, record::Target::File(&file), Some(duration))?;
    explain(config, &file)
}

fn explain_pipeline(
    text: &mut String,
    config: &Config,
    name: &PipelineId,
    pipeline: &PipelineConfig,
    file: &Path,
) -> Result<(), ExitError> {
    let window = window_of(config, pipeline)?;
    let budget = window.max_series.get();
    let labels: Vec<_> = FAMILIES.iter().map(|family| labels_of(&window, family)).collect();
    let most = labels.iter().map(Vec::len).max().unwrap_or(0);
    let all = series(config, name, pipeline, file, &without(&window, &labels, None))?;
    // One pass per place: each leaves out one label of every family.
    let mut fewer = Vec::new();
    for place in 0..most {
        fewer.push(series(
            config,
            name,
            pipeline,
            file,
            &without(&window, &labels, Some(place)),
        )?);
    }
    let _ = writeln!(text, "{:<34} {:>9}  series without the label", "metric", "series");
    for (number, family) in FAMILIES.iter().enumerate().filter(|(number, _)| all[*number] > 0) {
        let _ = write!(text, "{:<34} {:>9} ", family.family.name, all[number]);
        for (place, label) in labels[number].iter().enumerate() {
            let _ = write!(text, " {label}: {}", fewer[place][number]);
        }
        if all[number] > budget {
            let _ = write!(
                text,
                "  (max_series is {budget}: {} go into `other`)",
                all[number] - budget
            );
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{:<34} {:>9}\n", "in all", all.iter().sum::<usize>());
    Ok(())
}

/// The config of the pipeline's window.
fn window_of(config: &Config, pipeline: &PipelineConfig) -> Result<window::Config, ExitError> {
    let window = pipeline
        .processors
        .last()
        .and_then(|id| config.processors.get(id));
    let window = window.and_then(|window| downcast::<window::Config>(&**window));
    window.cloned().ok_or_else(|| {
        let message =
            "this pipeline does not end in a processor of type `window`, so its series can't be counted";
        ExitError::new(Code::Config, message)
    })
}

fn labels_of(window: &window::Config, family: &Definition) -> Vec<Label> {
    let own = window.families.get(family.family.name);
    own.and_then(|own| own.labels.clone())
        .unwrap_or_else(|| family.labels_by_default(window.naming))
}

/// The same window without bounds, and without the label at `place` of every family.
fn without(window: &window::Config, labels: &[Vec<Label>], place: Option<usize>) -> window::Config {
    let mut window = window.clone();
    window.max_series = NonZeroUsize::MAX;
    window.metric_expiration = Duration::MAX;
    for (family, labels) in FAMILIES.iter().zip(labels) {
        let mut labels = labels.clone();
        if let Some(place) = place.filter(|place| *place < labels.len()) {
            labels.remove(place);
        }
        let own = window.families.entry(family.family.name.to_owned()).or_default();
        own.labels = Some(labels);
    }
    window
}

/// Series per family at the end of the recording.
fn series(
    config: &Config,
    name: &PipelineId,
    pipeline: &PipelineConfig,
    file: &Path,
    window: &window::Config,
) -> Result<Vec<usize>, ExitError> {
    let mut recording = Recording::open(file)?;
    let stages = recording.stages(config, name, pipeline)?;
    // The last one is the window: the config's check has made sure of it.
    let Some(id) = pipeline.processors.last() else {
        return Ok(vec![0; FAMILIES.len()]);
    };
    let window = Window::new(window, &recording.context(id, name.as_str()));
    let last = recording
        .play(stages.with_window(Box::new(window)))?
        .into_snapshot();
    let families = last.iter().flat_map(|snapshot| &snapshot.families);
    Ok(families.map(|family| family.points.len()).collect())
}
