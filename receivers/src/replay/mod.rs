//! The receiver `replay`: passes on the contents of a file written by `flowtap record`, as fast as
//! the pipelines take it.
//!
//! In: a recording. Out: its batches and watermarks, moved in time so that it begins when flowtap
//! does. After its end watermarks continue until it is stopped. For tests, benchmarks and bug
//! reports; `flowtap replay` runs a recording through a pipeline without a daemon.

pub mod file;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Contract, Factory, Receiver, ReceiverConfig, RecordField,
    Signal, Sink, Stability, StageError, Timestamp, Violation,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use self::file::{Frame, Reader, RecordingError, Writer, is_recording};

/// Interval of the watermarks after the recording has ended.
const TICK: Duration = Duration::from_millis(200);

/// Settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The recording.
    pub file: PathBuf,
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        // A recording has all but those of processors.
        Contract::default()
            .gives(
                Signal::RECORDS
                    .into_iter()
                    .filter(|signal| *signal != Signal::Findings),
            )
            .fills([
                RecordField::Process,
                RecordField::Container,
                RecordField::Netns,
                RecordField::DnsName,
            ])
            .reads([&self.file])
    }

    fn validate(&self) -> Vec<Violation> {
        if self.file.as_os_str().is_empty() {
            return vec![Violation::new(
                "file",
                "must be set: the path of a recording of `flowtap record`",
            )];
        }
        Vec::new()
    }
}

impl ReceiverConfig for Config {
    fn build(&self, _: &BuildContext) -> Result<Box<dyn Receiver>, BuildError> {
        Ok(Box::new(Replay {
            config: self.clone(),
            opened: None,
        }))
    }
}

/// The receiver type `replay`.
pub const FACTORY: Factory<dyn ReceiverConfig> = Factory::of::<Config>(
    "replay",
    "replays a file written by `flowtap record`",
    Stability::Beta,
);

/// The receiver.
#[derive(Debug)]
pub struct Replay {
    config: Config,
    /// With when it began.
    opened: Option<(Reader, Timestamp)>,
}

impl Receiver for Replay {
    fn start(&mut self) -> Result<(), StageError> {
        let (reader, began, _) = Reader::open_regular(&self.config.file).map_err(broken)?;
        self.opened = Some((reader, began));
        Ok(())
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut dyn Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            let Some((reader, began)) = self.opened.take() else {
                return Err(StageError::Other("run without start".into()));
            };
            let (now, mut end) = (Timestamp::now(), Timestamp::default());
            for frame in reader {
                if stop.is_cancelled() {
                    return Ok(());
                }
                match frame.map_err(broken)? {
                    // Names of the cluster reach processors from its watcher alone.
                    Frame::Start { .. } | Frame::Cluster(_) | Frame::Listed { .. } => {}
                    Frame::Batch(mut batch) => sink.accept(&mut batch),
                    Frame::Watermark(at) | Frame::End(at) => {
                        end = now.plus(at.since(began));
                        sink.watermark(end);
                    }
                }
                // Other tasks run on this thread.
                tokio::task::yield_now().await;
            }
            tracing::info!(file = %self.config.file.display(), "the recording has ended");
            // Time advances from there, so that windows close and series expire.
            let ended = Instant::now();
            let mut ticks = tokio::time::interval(TICK);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    _ = ticks.tick() => sink.watermark(end.plus(ended.elapsed())),
                }
            }
        }
        .boxed()
    }
}

fn broken(error: RecordingError) -> StageError {
    StageError::Other(error.into())
}
