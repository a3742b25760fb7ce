//! The receiver `rdma`: traffic, errors, congestion, links and queue pairs of RDMA devices. No privileges, no programs in the kernel.
//!
//! In: counters and links of every port, from sysfs, and the queue pairs of all devices, by netlink, once per `interval`. Out: readings
//! ([`ReadingRecord`]). The rules:
//!
//! 1. Counters have the meaning that their name has ([`counters`]), and count from their first reading on ([`reader`]).
//! 2. Devices come and go; each look takes those that are there.
//! 3. A driver may take its time to answer, or hang. So a look is on a thread of its own, and time goes on: its readings are of the
//!    interval in which they come. An interval in which no look begins, because one goes on, is counted.
//! 4. A receiver that replaces another one on the same sysfs continues with its counters.

mod config;
mod counters;
mod netlink;
mod queue_pairs;
mod reader;
mod telemetry;
#[cfg(test)]
mod tests;
mod tree;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::Duration;

use flowtap_pipeline::{
    BuildContext, BuildError, Factory, FlowBatch, Inheritance, ReadingRecord, Receiver, ReceiverConfig, Sink,
    Stability, StageError, Ticker, Timestamp, plain,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::config::Config;
use self::reader::Reader;
use self::telemetry::Telemetry;

/// Time that the start and the end wait for a look at most.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

impl ReceiverConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Receiver>, BuildError> {
        Ok(Box::new(RdmaReceiver::new(self.clone(), context)))
    }
}

/// The receiver type `rdma`.
pub const FACTORY: Factory<dyn ReceiverConfig> = Factory::of::<Config>(
    "rdma",
    "counters, links and queue pairs of RDMA devices, from sysfs and netlink: no privileges",
    Stability::Alpha,
);

/// The result of one look at the RDMA devices of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Names of the devices.
    pub devices: Vec<String>,
    /// Values that can't be read, each with the reason.
    pub unread: Vec<String>,
    /// Queue pairs of all devices.
    pub queue_pairs: usize,
}

/// Looks at the devices of this machine once, for tools.
///
/// # Errors
/// [`io::Error`] if devices or queue pairs can't be listed.
pub fn survey(sysfs_root: &Path) -> io::Result<Survey> {
    let devices = tree::device_names(sysfs_root)?;
    let mut unread = Vec::new();
    for name in &devices {
        let device = tree::read_device(sysfs_root, name)?;
        unread.extend(device.faults());
    }
    let dump = queue_pairs::dump(Path::new("/proc"))?;
    let failed = dump.failed.iter();
    unread.extend(failed.map(|(device, error)| format!("queue pairs of {}: {error}", plain::plain(device))));
    Ok(Survey {
        devices,
        unread,
        queue_pairs: dump.pairs.len(),
    })
}

/// A look that goes on.
#[derive(Debug)]
struct Look {
    result: mpsc::Receiver<(Reader, Vec<ReadingRecord>)>,
    /// When it was due; its readings are of this moment.
    due: Timestamp,
}

/// The receiver.
#[derive(Debug)]
pub struct RdmaReceiver {
    config: Config,
    telemetry: Telemetry,
    id: String,
    /// `None` while a look has it.
    reader: Option<Reader>,
    look: Option<Look>,
    /// Notified when a look has ended.
    ended: Arc<Notify>,
    batch: FlowBatch,
    marked: Timestamp,
}

impl RdmaReceiver {
    /// A receiver that has not looked yet.
    pub fn new(config: Config, context: &BuildContext) -> Self {
        let telemetry = Telemetry::new(context);
        Self {
            reader: Some(Reader::new(&config, telemetry.clone())),
            config,
            telemetry,
            id: context.id.to_string(),
            look: None,
            ended: Arc::default(),
            batch: FlowBatch::default(),
            marked: Timestamp::default(),
        }
    }

    /// Begins a look, on a thread of its own; one that goes on is not disturbed, which is counted.
    fn begin(&mut self, due: Timestamp) {
        let Some(mut reader) = self.reader.take() else {
            self.telemetry.missed();
            return;
        };
        let (sender, result) = mpsc::sync_channel(1);
        let ended = Arc::clone(&self.ended);
        let spawned = thread::Builder::new().name("rdma".to_owned()).spawn(move || {
            let readings = reader.look();
            // The receiver may have been stopped meanwhile.
            let _ = sender.send((reader, readings));
            ended.notify_one();
        });
        match spawned {
            Ok(_) => self.look = Some(Look { result, due }),
            Err(error) => {
                tracing::error!(receiver = self.id, %error, "no thread to read RDMA devices with; hint: raise the limit of tasks");
                self.telemetry.failed();
                self.reader = Some(Reader::new(&self.config, self.telemetry.clone()));
            }
        }
    }

    /// Takes the result of a look that has ended; returns when it was due.
    fn take(&mut self) -> Option<Timestamp> {
        let look = self.look.as_ref()?;
        let due = look.due;
        match look.result.try_recv() {
            Ok((reader, readings)) => self.keep(reader, readings),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                // It panicked, which is logged. Counters begin anew.
                self.telemetry.failed();
                self.look = None;
                self.reader = Some(Reader::new(&self.config, self.telemetry.clone()));
            }
        }
        Some(due)
    }

    /// The same after waiting for it, for `timeout` at most.
    fn wait(&mut self, timeout: Duration) {
        let result = self.look.as_ref().map(|look| look.result.recv_timeout(timeout));
        if let Some(Ok((reader, readings))) = result {
            self.keep(reader, readings);
        }
    }

    fn keep(&mut self, reader: Reader, readings: Vec<ReadingRecord>) {
        self.look = None;
        self.reader = Some(reader);
        self.batch.readings.extend(readings);
    }

    /// Passes on what was read, and the time.
    fn pass(&mut self, sink: &mut dyn Sink, at: Timestamp) {
        if !self.batch.is_empty() {
            sink.accept(&mut self.batch);
            self.batch.clear();
        }
        // Readings of a look that took long come after its time.
        if at > self.marked {
            self.marked = at;
            sink.watermark(at);
        }
    }
}

impl Receiver for RdmaReceiver {
    fn start(&mut self) -> Result<(), StageError> {
        let root = &self.config.sysfs_root;
        if let Err(error) = std::fs::read_dir(root) {
            return Err(StageError::Unsupported {
                what: format!("receivers.{}.sysfs_root: {}: {error}", self.id, root.display()),
                remedy: "mount the host's sysfs there, read-only, or set another `sysfs_root`".to_owned(),
            });
        }
        // Before flowtap is called ready: what devices count from then on is counted.
        self.begin(Timestamp::now());
        self.wait(LOOK_TIMEOUT);
        if self.look.is_some() {
            tracing::warn!(
                receiver = self.id, waited = ?LOOK_TIMEOUT,
                "RDMA devices have not answered yet; they are counted from when they do; \
                hint: `time cat /sys/class/infiniband/*/ports/*/hw_counters/*` shows which one is slow"
            );
        }
        Ok(())
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut dyn Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            let mut ticks = Ticker::new(self.config.interval);
            // The readings of the start.
            self.pass(sink, Timestamp::default());
            let ended = Arc::clone(&self.ended);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        if self.look.is_none() {
                            self.begin(Timestamp::now());
                        }
                        // This thread is the receiver's own, so it may wait.
                        self.wait(LOOK_TIMEOUT);
                        self.pass(sink, Timestamp::now());
                        return Ok(());
                    }
                    () = ended.notified() => {
                        if let Some(due) = self.take() {
                            self.pass(sink, due);
                        }
                    }
                    at = ticks.tick() => {
                        let goes_on = self.look.is_some();
                        self.begin(at);
                        if goes_on {
                            self.pass(sink, at);
                        }
                    }
                }
            }
        }
        .boxed()
    }

    fn hand_over(&mut self) -> Option<Inheritance> {
        self.reader.take().map(|reader| Box::new(reader) as Inheritance)
    }

    fn take_over(&mut self, inheritance: Inheritance) -> Result<(), Inheritance> {
        let reader = *inheritance.downcast::<Reader>()?;
        match reader.with_config(&self.config, self.telemetry.clone()) {
            Ok(reader) => {
                self.reader = Some(reader);
                Ok(())
            }
            Err(reader) => Err(Box::new(reader)),
        }
    }
}
