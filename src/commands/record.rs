//! `flowtap record`: the receivers of a config, into a file.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtap_config::{Config, MetricsConfig};
use flowtap_engine::runner::{self, PipelineNode};
use flowtap_engine::stages::{Stages, WindowNode};
use flowtap_extensions::telemetry::{self, LogWriter, Telemetry};
use flowtap_pipeline::{Aggregator, FlowBatch, NodeInfo, Snapshot, Timestamp};
use flowtap_receivers::replay::{Frame, RecordingError, Writer};
use tokio_util::sync::CancellationToken;

use crate::daemon;
use crate::daemon::graph::{self, Environment};
use crate::exit::{Code, ExitError};

/// Records into `file` until `duration` is over, or SIGTERM or SIGINT comes.
///
/// # Errors
/// The error that keeps a receiver from working, or the file from being written.
pub(crate) fn record(config: &Config, file: &Path, duration: Option<Duration>) -> Result<(), ExitError> {
    daemon::private_files();
    let log = LogWriter::stderr()?;
    telemetry::init_logs(&config.service.telemetry.logs, log.clone())?;
    let recorded = daemon::runtime()?.block_on(async {
        let telemetry = Telemetry::new(&flowtap_pipeline::Resource::default(), &MetricsConfig::default())?;
        let environment = Environment::now();
        let stop = daemon::stop_on_signal()?;
        let (recorder, failed) = Recorder::create(file, &environment.node.load(), stop.clone())?;
        let mut graph = graph::build(config, &telemetry.meter(), &environment, true)?;
        // Every receiver of a pipeline, with the file as the only output.
        graph.exporters.clear();
        graph.pipelines = vec![PipelineNode {
            name: "recording".into(),
            receivers: graph.receivers.iter().map(|node| node.id.clone()).collect(),
            stages: Stages::new(
                Vec::new(),
                WindowNode {
                    fingerprint: String::new(),
                    aggregator: Box::new(recorder),
                },
            ),
            exporters: Vec::new(),
        }];
        let ready = || {
            tracing::info!(file = %file.display(), "recording");
            if let Some(duration) = duration {
                let stop = stop.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(duration).await;
                    stop.cancel();
                });
            }
        };
        let deadline = config.service.shutdown_timeout;
        runner::run(graph, &telemetry.meter(), stop.clone(), deadline, ready).await?;
        let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.map_or(Ok(()), |error| Err(ExitError::new(Code::Create, error)))
    });
    log.flush(Duration::from_secs(1));
    recorded
}

/// The end of the path, from the runner's view.
#[derive(Debug)]
struct Recorder {
    writer: Writer,
    /// The first error; reported when all has stopped.
    failed: Arc<Mutex<Option<RecordingError>>>,
    stop: CancellationToken,
}

type Failed = Arc<Mutex<Option<RecordingError>>>;

impl Recorder {
    fn create(path: &Path, node: &NodeInfo, stop: CancellationToken) -> Result<(Self, Failed), ExitError> {
        let create = || {
            let mut writer = Writer::create(path)?;
            let (at, node) = (Timestamp::now(), node.clone());
            writer.write(&Frame::Start { at, node })?;
            Ok(writer)
        };
        let writer = create().map_err(|error: RecordingError| ExitError::new(Code::Create, error))?;
        let failed = Failed::default();
        let recorder = Self {
            writer,
            failed: Arc::clone(&failed),
            stop,
        };
        Ok((recorder, failed))
    }

    /// An error ends the recording; what was written up to then stays.
    fn check(&self, outcome: Result<(), RecordingError>) {
        if let Err(error) = outcome {
            self.stop.cancel();
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error);
        }
    }
}

impl Aggregator for Recorder {
    fn begin(&mut self, _: Timestamp) {}

    fn fold(&mut self, batch: &FlowBatch) {
        let outcome = self.writer.write(&Frame::Batch(batch.clone()));
        self.check(outcome);
    }

    fn advance(&mut self, to: Timestamp) -> Option<Snapshot> {
        let outcome = self.writer.write(&Frame::Watermark(to));
        self.check(outcome);
        None
    }

    fn finish(&mut self, at: Timestamp) -> Snapshot {
        let outcome = self
            .writer
            .write(&Frame::End(at))
            .and_then(|()| self.writer.flush());
        self.check(outcome);
        Snapshot {
            pipeline: "".into(),
            at,
            window: Duration::ZERO,
            last: true,
            replaced: false,
            families: Vec::new(),
        }
    }
}
