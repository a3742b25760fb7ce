//! The receiver `rdma`: traffic, errors, congestion, links and queue pairs of RDMA devices. No privileges, no programs in the kernel.
//!
//! In: counters and links of every port, from sysfs, and the queue pairs of all devices, by netlink, once per `interval`. Out: readings
//! ([`ReadingRecord`](flowtap_pipeline::ReadingRecord)). The rules:
//!
//! 1. Counters have the meaning that their name has ([`counters`]), and count from their first reading on ([`reader`]).
//! 2. Devices come and go; each look takes those that are there.
//! 3. A driver may take its time to answer, or hang. So each device is read on a separate thread ([`looks`]), and time goes on: its
//!    readings are of the interval in which they come. An interval in which a device is not read, because the look before goes on, is
//!    counted, and the receiver is not ok.
//! 4. A receiver that replaces another one on the same sysfs continues with its counters, and with the looks that go on.

mod config;
mod counters;
mod looks;
mod netlink;
mod pairs;
mod queue_pairs;
mod reader;
mod telemetry;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use flowtap_pipeline::{
    BuildContext, BuildError, Factory, FlowBatch, Inheritance, Receiver, ReceiverConfig, Sink, Stability,
    StageError, Ticker, Timestamp, plain,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use self::config::Config;
use self::looks::Looks;
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

/// Looks at the devices of this machine once, for tools. One that does not answer is among the `unread`.
///
/// # Errors
/// [`io::Error`] if devices or queue pairs can't be listed.
pub fn survey(sysfs_root: &Path) -> io::Result<Survey> {
    let devices = tree::device_names(sysfs_root)?;
    let (sender, results) = mpsc::sync_channel(devices.len() + 1);
    let mut waiting = BTreeSet::new();
    for name in &devices {
        let (root, device, sender) = (sysfs_root.to_owned(), name.clone(), sender.clone());
        waiting.insert(name.clone());
        // A driver may hang, which ends nothing but its own thread.
        thread::Builder::new().name("rdma".to_owned()).spawn(move || {
            let unread = tree::read_device(&root, &device).map(|read| read.faults().collect::<Vec<_>>());
            // The survey may have ended.
            let _ = sender.send((device, unread.map(|unread| (0, unread))));
        })?;
    }
    let queue_pairs = "queue pairs".to_owned();
    waiting.insert(queue_pairs.clone());
    thread::Builder::new().name("rdma".to_owned()).spawn(move || {
        let counted = queue_pairs::devices().map(|devices| {
            let mut counted = (0, Vec::new());
            for device in devices {
                match queue_pairs::dump(Path::new("/proc"), &device) {
                    Ok(pairs) => counted.0 += pairs.len(),
                    Err(error) => {
                        let name = plain::plain(&device.name);
                        counted.1.push(format!("queue pairs of {name}: {error}"));
                    }
                }
            }
            counted
        });
        let _ = sender.send((queue_pairs, counted));
    })?;
    let mut survey = Survey {
        devices,
        ..Survey::default()
    };
    let deadline = Instant::now() + LOOK_TIMEOUT;
    while !waiting.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((source, counted)) = results.recv_timeout(left) else {
            break;
        };
        let (pairs, unread) = counted?;
        survey.queue_pairs += pairs;
        survey.unread.extend(unread);
        waiting.remove(&source);
    }
    survey.unread.extend(waiting.into_iter().map(|source| {
        let source = plain::plain(&source);
        format!("{source}: no answer within {} s", LOOK_TIMEOUT.as_secs())
    }));
    Ok(survey)
}

/// The receiver.
#[derive(Debug)]
pub struct RdmaReceiver {
    config: Config,
    telemetry: Telemetry,
    id: String,
    /// `None` once it was handed over.
    looks: Option<Looks>,
    batch: FlowBatch,
    marked: Timestamp,
}

impl RdmaReceiver {
    /// A receiver that has not looked yet.
    pub fn new(config: Config, context: &BuildContext) -> Self {
        Self {
            config,
            telemetry: Telemetry::new(context),
            id: context.id.to_string(),
            looks: None,
            batch: FlowBatch::default(),
            marked: Timestamp::default(),
        }
    }

    fn looks(&mut self) -> &mut Looks {
        self.looks
            .get_or_insert_with(|| Looks::new(&self.config, self.telemetry.clone()))
    }

    /// Passes on what was read.
    fn pass(&mut self, sink: &mut dyn Sink) {
        let readings = self.looks().take_readings();
        self.batch.readings.extend(readings);
        if !self.batch.is_empty() {
            sink.accept(&mut self.batch);
            self.batch.clear();
        }
    }

    /// The same, and the time: once every look of the round has ended. Readings of one that took longer come after their time.
    fn pass_with_time(&mut self, sink: &mut dyn Sink) {
        self.pass(sink);
        let looks = self.looks();
        if looks.is_round_over() {
            let (at, late) = (looks.due(), looks.late());
            self.mark(sink, at, late);
        }
    }

    fn mark(&mut self, sink: &mut dyn Sink, at: Timestamp, late: Option<String>) {
        if at > self.marked {
            if let Some(late) = late {
                sink.scan_failed(&late);
            }
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
        let looks = self.looks();
        looks.begin(Timestamp::now());
        looks.wait(LOOK_TIMEOUT);
        if let Some(waiting) = looks.waiting() {
            tracing::warn!(
                receiver = self.id, waited = ?LOOK_TIMEOUT, devices = waiting,
                "RDMA devices have not answered yet; they are counted from when they do; \
                hint: run `time cat /sys/class/infiniband/*/ports/*/hw_counters/*`, which shows which one is slow"
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
            self.pass(sink);
            let ended = self.looks().ended();
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        let looks = self.looks();
                        if looks.is_round_over() {
                            looks.begin(Timestamp::now());
                        }
                        // This thread is the receiver's own, so it may wait.
                        looks.wait(LOOK_TIMEOUT);
                        self.pass(sink);
                        self.mark(sink, Timestamp::now(), None);
                        return Ok(());
                    }
                    () = ended.notified() => {
                        self.looks().collect();
                        self.pass_with_time(sink);
                    }
                    at = ticks.tick() => {
                        self.looks().begin(at);
                        self.pass_with_time(sink);
                    }
                }
            }
        }
        .boxed()
    }

    fn hand_over(&mut self) -> Option<Inheritance> {
        self.looks.take().map(|looks| Box::new(looks) as Inheritance)
    }

    fn take_over(&mut self, inheritance: Inheritance) -> Result<(), Inheritance> {
        let looks = *inheritance.downcast::<Looks>()?;
        match looks.with_config(&self.config, self.telemetry.clone()) {
            Ok(looks) => {
                self.looks = Some(looks);
                Ok(())
            }
            Err(looks) => Err(looks),
        }
    }
}
