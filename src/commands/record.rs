//! `flowtap record`: the receivers of a config, into a file.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtap_config::{Config, MetricsConfig};
use flowtap_engine::runner::{self, PipelineNode};
use flowtap_engine::stages::{Stages, WindowNode};
use flowtap_extensions::kubernetes::{self, Listed};
use flowtap_extensions::telemetry::{self, LogWriter, Telemetry};
use flowtap_network_policy::manifest;
use flowtap_pipeline::cluster_objects::ClusterChange;
use flowtap_pipeline::{
    Aggregator, ClusterObjects, FlowBatch, NodeInfo, Output, PipelineKind, Snapshot, Timestamp,
};
use flowtap_receivers::replay::{Frame, RecordingError, Writer};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::daemon;
use crate::daemon::graph::{self, Environment};
use crate::daemon::{Signals, Stop};
use crate::exit::{Code, ExitError};

/// Objects of each kind in a frame.
const OBJECTS_PER_FRAME: usize = 2_000;

/// Interval at which the objects are listed again.
const RELIST_INTERVAL: Duration = Duration::from_secs(30);

/// Other names of standard output. To open one of them would empty the file that it is, and fails for a socket.
const STANDARD_OUTPUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// The place that is recorded into.
#[derive(Debug)]
pub(crate) enum Target<'a> {
    /// A file that is created or emptied.
    File(&'a Path),
    /// Standard output, after its contents.
    StandardOutput(File),
}

impl<'a> Target<'a> {
    /// The target that an argument names: `-` is standard output.
    ///
    /// # Errors
    /// Standard output is a terminal, or closed.
    pub(crate) fn of(file: &'a Path) -> Result<Self, ExitError> {
        if !STANDARD_OUTPUT.iter().any(|name| file == Path::new(name)) {
            return Ok(Self::File(file));
        }
        if io::stdout().is_terminal() {
            let message = "standard output is a terminal, and a recording is binary\n  hint: redirect it, or name a file";
            return Err(ExitError::new(Code::Usage, message));
        }
        let failed = |error: io::Error| ExitError::new(Code::Create, format!("standard output: {error}"));
        let duplicate = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
        let target = File::from(duplicate);
        if is_placeholder(&target).map_err(failed)? {
            return Err(failed(io::Error::other(
                "it is closed\n  hint: redirect it, or name a file",
            )));
        }
        Ok(Self::StandardOutput(target))
    }

    fn name(&self) -> &'a Path {
        match self {
            Self::File(path) => path,
            Self::StandardOutput(_) => Path::new("standard output"),
        }
    }

    fn create(self) -> Result<Writer, RecordingError> {
        let name = self.name();
        match self {
            Self::File(path) => Writer::create(path),
            Self::StandardOutput(file) => Writer::append(file, name),
        }
    }
}

/// Whether a standard stream is what the standard library opens in place of one that was closed: `/dev/null`, to read and write.
/// A shell's redirection to it is to write alone.
fn is_placeholder(file: &File) -> io::Result<bool> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    let null = fs::metadata("/dev/null")?;
    let own = file.metadata()?;
    let is_null = own.file_type().is_char_device() && own.rdev() == null.rdev();
    Ok(is_null && flags & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

/// Records into `target` until `duration` is over, counted from when the receivers are attached, or SIGTERM or SIGINT comes; then ends within `service.shutdown_timeout`, also
/// if the file is a pipe whose reader takes nothing. Returns the time that was measured, if a signal came before `duration` was over.
///
/// # Errors
/// The error that keeps a receiver from working, or the file from being written.
pub(crate) fn record(
    config: &Config,
    target: Target<'_>,
    duration: Option<Duration>,
) -> Result<Option<Duration>, ExitError> {
    daemon::private_files();
    let signals = Signals::block()?;
    let log = LogWriter::stderr()?;
    telemetry::init_logs(&config.service.telemetry.logs, log.clone())?;
    let stop = Stop::watch(signals, config.service.shutdown_timeout, &log)?;
    let runtime = daemon::runtime()?;
    let recorded = runtime.block_on(record_until(config, target, duration, &stop));
    // Without waiting for a write that its reader does not take.
    runtime.shutdown_background();
    stop.over();
    log.flush(Duration::from_secs(1));
    recorded
}

async fn record_until(
    config: &Config,
    target: Target<'_>,
    duration: Option<Duration>,
    stop: &Stop,
) -> Result<Option<Duration>, ExitError> {
    let telemetry = Telemetry::new(&flowtap_pipeline::Resource::default(), &MetricsConfig::default())?;
    let environment = Environment::now();
    let name = target.name();
    let (recorder, failed) = Recorder::create(target, &environment.node.load(), stop.clone())?;
    let token = stop.token();
    let connecting = kubernetes::connect(&config.service.kubernetes);
    let cluster = token.run_until_cancelled(connecting).await.unwrap_or(Ok(None));
    let cluster =
        cluster.map_err(|error| ExitError::new(Code::Config, format!("service.kubernetes: {error}")))?;
    if let Some(cluster) = cluster {
        let listed = token
            .run_until_cancelled(kubernetes::list_objects(&cluster))
            .await;
        let mut known = ClusterObjects::default();
        // Written with the first watermark, on the receiver's thread: here nothing may wait for the file.
        add(&recorder.changed, &mut known, &listed.unwrap_or_default());
        tokio::spawn(follow(cluster, known, Arc::clone(&recorder.changed)));
    }
    let begun = Arc::clone(&recorder.begun);
    let timed = duration.map(|duration| tokio::spawn(end_after(duration, Arc::clone(&begun), stop.clone())));
    let mut graph = graph::build(config, &telemetry.meter(), &environment, true)?;
    // Every receiver of a pipeline, with the file as the only output.
    graph.exporters.clear();
    graph.pipelines = vec![PipelineNode {
        name: "recording".into(),
        kind: PipelineKind::Metrics,
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
        tracing::info!(file = %name.display(), "recording");
        begun.attached.notify_one();
    };
    let deadline = config.service.shutdown_timeout;
    runner::run(graph, &telemetry.meter(), token.clone(), deadline, ready).await?;
    let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(error) = failed {
        return Err(ExitError::new(Code::Create, error));
    }
    match timed {
        // Else the receivers have come to their end.
        Some(timed) if token.is_cancelled() => Ok(timed.await.ok().flatten()),
        _ => Ok(None),
    }
}

/// Moments at the start of a recording.
#[derive(Debug, Default)]
struct Begun {
    /// Every receiver is attached.
    attached: Notify,
    /// The first records are about to be written, which may wait for the file from then on, and with it the start of other receivers.
    written: Notify,
}

/// Begins the stop when `duration` was measured. Returns the time until then, if something else begins it before.
async fn end_after(duration: Duration, begun: Arc<Begun>, stop: Stop) -> Option<Duration> {
    let measured = measured(duration, &begun, stop.token()).await;
    if measured.is_none() {
        stop.begin();
    }
    measured
}

/// Returns when `duration` has passed since all receivers were attached, or since the first records if some are not by then. Returns the
/// time that was measured if `stop` comes before.
async fn measured(duration: Duration, begun: &Begun, stop: &CancellationToken) -> Option<Duration> {
    let waits = async {
        begun.written.notified().await;
        tokio::time::sleep(duration).await;
    };
    let attached = async {
        tokio::select! {
            () = begun.attached.notified() => Some(Instant::now()),
            () = waits => None,
        }
    };
    let Some(attached) = stop.run_until_cancelled(attached).await else {
        return Some(Duration::ZERO);
    };
    let began = attached?;
    let over = stop.run_until_cancelled(tokio::time::sleep(duration)).await;
    over.is_none().then(|| began.elapsed())
}

/// The difference that listings since the last watermark showed; `None` if there was none.
type Changed = Arc<Mutex<Option<ClusterChange>>>;

/// Lists the objects of the cluster again and again, and adds to `changed` the difference from the last time. Ends with the
/// runtime.
async fn follow(cluster: kubernetes::Cluster, mut known: ClusterObjects, changed: Changed) {
    loop {
        tokio::time::sleep(RELIST_INTERVAL).await;
        let listed = kubernetes::list_objects(&cluster).await;
        add(&changed, &mut known, &listed);
    }
}

/// Adds a listing that is written with the next watermark. One that shows no difference is also: until then nothing had changed.
fn add(changed: &Changed, known: &mut ClusterObjects, listed: &Listed) {
    let change = change(known, listed);
    if change.is_empty() && !listed.has_all_pods {
        return;
    }
    let mut changed = changed.lock().unwrap_or_else(PoisonError::into_inner);
    changed.get_or_insert_default().merge(change);
}

/// The difference between a listing and the objects of those before it, to which it is added.
fn change(known: &mut ClusterObjects, listed: &Listed) -> ClusterChange {
    let now = manifest::objects_of(&listed.objects);
    let mut gone = Vec::new();
    if listed.has_all_pods {
        let there: HashSet<_> = now.pods.iter().map(|pod| (&pod.namespace, &pod.name)).collect();
        known.pods.retain(|pod| {
            let is_there = there.contains(&(&pod.namespace, &pod.name));
            if !is_there {
                gone.push((pod.namespace.clone(), pod.name.clone()));
            }
            is_there
        });
    }
    let objects = now.without(known);
    known.merge(objects.clone());
    let new: HashSet<_> = objects
        .pods
        .iter()
        .map(|pod| (&pod.namespace, &pod.name))
        .collect();
    let starts = manifest::starts_of(&listed.objects)
        .into_iter()
        .filter(|start| new.contains(&(&start.namespace, &start.name)))
        .collect();
    ClusterChange {
        objects,
        gone,
        starts,
    }
}

/// The end of the path, from the runner's view.
#[derive(Debug)]
struct Recorder {
    writer: Writer,
    /// The first error; reported when all has stopped.
    failed: Arc<Mutex<Option<RecordingError>>>,
    stop: Stop,
    changed: Changed,
    begun: Arc<Begun>,
}

type Failed = Arc<Mutex<Option<RecordingError>>>;

impl Recorder {
    fn create(target: Target<'_>, node: &NodeInfo, stop: Stop) -> Result<(Self, Failed), ExitError> {
        let is_file = matches!(target, Target::File(_));
        let create = || {
            let mut writer = target.create()?;
            let (at, node) = (Timestamp::now(), node.clone());
            writer.write(&Frame::Start { at, node })?;
            Ok(writer)
        };
        let writer = create().map_err(|error: RecordingError| {
            let message = if is_file {
                format!("can't create {error}\n  hint: name a file in a folder that exists and that you may write to")
            } else {
                error.to_string()
            };
            ExitError::new(Code::Create, message)
        })?;
        let failed = Failed::default();
        let recorder = Self {
            writer,
            failed: Arc::clone(&failed),
            stop,
            changed: Arc::default(),
            begun: Arc::default(),
        };
        Ok((recorder, failed))
    }

    /// Writes what the listings since the last watermark showed, objects in a frame per some thousand: a frame has a maximum size.
    fn write_changes(&mut self) {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(ClusterChange {
            objects,
            gone,
            starts,
        }) = changed
        else {
            return;
        };
        if !(objects.is_empty() && gone.is_empty()) {
            tracing::info!(
                pods = objects.pods.len(),
                gone = gone.len(),
                namespaces = objects.namespaces.len(),
                services = objects.services.len(),
                nodes = objects.nodes.len(),
                "recording objects of the cluster"
            );
        }
        for objects in objects.chunks(OBJECTS_PER_FRAME) {
            let outcome = self.writer.write(&Frame::Cluster(objects));
            self.check(outcome);
        }
        let outcome = self.writer.write(&Frame::Listed { gone, starts });
        self.check(outcome);
    }

    /// An error ends the recording; what was written up to then stays.
    fn check(&self, outcome: Result<(), RecordingError>) {
        if let Err(error) = outcome {
            self.stop.begin();
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error);
        }
    }
}

impl Aggregator for Recorder {
    fn begin(&mut self, _: Timestamp) {}

    fn fold(&mut self, batch: &FlowBatch) {
        self.begun.written.notify_one();
        let outcome = self.writer.write(&Frame::Batch(batch.clone()));
        self.check(outcome);
    }

    fn advance(&mut self, to: Timestamp) -> Option<Output> {
        self.begun.written.notify_one();
        self.write_changes();
        let outcome = self.writer.write(&Frame::Watermark(to));
        self.check(outcome);
        None
    }

    fn finish(&mut self, at: Timestamp) -> Output {
        self.write_changes();
        let outcome = self
            .writer
            .write(&Frame::End(at))
            .and_then(|()| self.writer.flush());
        self.check(outcome);
        Output::from(Snapshot::of_nothing(at))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn standard_output_is_its_descriptor_by_every_name() {
        for name in STANDARD_OUTPUT {
            // That of the tests may be a terminal.
            match Target::of(Path::new(name)) {
                Ok(Target::File(file)) => panic!("{file:?} is opened"),
                Ok(Target::StandardOutput(_)) => {}
                Err(error) => assert!(error.to_string().contains("standard output"), "{error}"),
            }
        }
        assert!(matches!(
            Target::of(Path::new("./-")),
            Ok(Target::File(file)) if file == Path::new("./-")
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn the_duration_is_counted_from_when_the_receivers_are_attached() {
        let second = Duration::from_secs(1);
        let begun = Arc::new(Begun::default());
        let stop = CancellationToken::new();
        let before = Instant::now();
        let attaches = async {
            tokio::time::sleep(second).await;
            // The first of several receivers reports what is open.
            begun.written.notify_one();
            tokio::time::sleep(second).await;
            begun.attached.notify_one();
        };
        let (measured, ()) = tokio::join!(measured(3 * second, &begun, &stop), attaches);
        assert_eq!((measured, before.elapsed()), (None, 5 * second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_waits_for_the_file_ends_and_a_stop_leaves_the_time_that_was_measured() {
        let second = Duration::from_secs(1);
        let (begun, stop) = (Begun::default(), CancellationToken::new());
        begun.written.notify_one();
        let before = Instant::now();
        assert_eq!(measured(3 * second, &begun, &stop).await, None);
        assert_eq!(before.elapsed(), 3 * second);
        begun.attached.notify_one();
        let stops = async {
            tokio::time::sleep(second).await;
            stop.cancel();
        };
        let (left, ()) = tokio::join!(measured(3 * second, &begun, &stop), stops);
        assert_eq!(left, Some(second));
        assert_eq!(measured(3 * second, &begun, &stop).await, Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_recording_does_not_begin_with_its_pipeline_but_with_its_records() {
        let target = Target::StandardOutput(tempfile::tempfile().unwrap());
        let node = NodeInfo::default();
        let (mut recorder, _) = Recorder::create(target, &node, Stop::without_signals()).unwrap();
        let begun = Arc::clone(&recorder.begun);
        let is_written = async || {
            let written = begun.written.notified();
            tokio::time::timeout(Duration::from_secs(1), written)
                .await
                .is_ok()
        };
        // The receivers are attached after this.
        recorder.begin(Timestamp::now());
        assert!(!is_written().await);
        recorder.fold(&FlowBatch::default());
        assert!(is_written().await);
    }

    #[test]
    fn a_closed_standard_output_is_not_recorded_into() {
        let null = |write_only: bool| {
            let mut options = File::options();
            options.read(!write_only).write(true).open("/dev/null").unwrap()
        };
        assert!(is_placeholder(&null(false)).unwrap());
        assert!(!is_placeholder(&null(true)).unwrap());
        assert!(!is_placeholder(&tempfile::tempfile().unwrap()).unwrap());
    }

    #[test]
    fn a_pod_is_gone_if_a_whole_listing_lacks_it_and_new_again_if_it_comes_back() {
        let pod = |name: &str| json!({"kind": "Pod", "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let listed = |names: &[&str], has_all_pods| Listed {
            objects: names.iter().map(|name| pod(name)).collect(),
            has_all_pods,
        };
        let mut known = ClusterObjects::default();
        let mut next = |listed: Listed| {
            let change = change(&mut known, &listed);
            let new: Vec<_> = change.objects.pods.into_iter().map(|pod| pod.name).collect();
            let starts: Vec<_> = change.starts.into_iter().map(|start| start.name).collect();
            assert_eq!(new, starts);
            let gone: Vec<_> = change.gone.into_iter().map(|(_, name)| name).collect();
            (new.join(" "), gone.join(" "))
        };
        let texts = |new: &str, gone: &str| (new.to_owned(), gone.to_owned());
        assert_eq!(next(listed(&["a", "b"], true)), texts("a b", ""));
        assert_eq!(next(listed(&["a", "b"], true)), texts("", ""));
        assert_eq!(next(listed(&["a"], false)), texts("", ""));
        assert_eq!(next(listed(&["a"], true)), texts("", "b"));
        assert_eq!(next(listed(&["a", "b"], true)), texts("b", ""));
    }
}
