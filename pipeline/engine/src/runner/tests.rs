//! Tests of the runner, with components that behave as configured.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use flowtap_pipeline::telemetry::Reading;
use flowtap_pipeline::{
    Aggregator, ExportService, Exported, Exporter, FlowBatch, Output, Persistence, PipelineKind, QueueConfig,
    Receiver, SharedState, Sink, Snapshot, StageError, Timestamp, WhenFull, metrics_only,
};
use futures::future::BoxFuture;
use tower::service_fn;

use super::*;
use crate::stages::{Stages, WindowNode};

/// Windows of five seconds in ten minutes.
const WINDOWS: u64 = 120;

/// Ten minutes, as fast as they are taken.
struct TenMinutes;

impl Receiver for TenMinutes {
    fn start(&mut self) -> Result<(), StageError> {
        Ok(())
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut dyn Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            for window in 1..=WINDOWS {
                sink.watermark(Timestamp::from_nanos(window * 5_000_000_000));
            }
            stop.cancelled().await;
            Ok(())
        }
        .boxed()
    }
}

/// A snapshot per watermark.
struct EachWatermark;

fn snapshot(at: Timestamp, last: bool) -> Snapshot {
    Snapshot {
        pipeline: "metrics".into(),
        at,
        window: Duration::from_secs(5),
        last,
        replaced: false,
        families: Vec::new(),
    }
}

impl Aggregator for EachWatermark {
    fn begin(&mut self, _: Timestamp) {}
    fn fold(&mut self, _: &FlowBatch) {}
    fn advance(&mut self, to: Timestamp) -> Option<Output> {
        Some(snapshot(to, false).into())
    }
    fn finish(&mut self, at: Timestamp) -> Output {
        snapshot(at, true).into()
    }
}

/// Pipelines of the snapshots that came, and whether each was the last.
type Notes = Arc<Mutex<Vec<(Arc<str>, bool)>>>;

/// Peer of an exporter.
#[derive(Clone)]
enum Peer {
    /// Takes everything.
    Counting(Arc<AtomicUsize>),
    /// The same, and keeps which pipeline each snapshot is of, and whether it is the last.
    Noting(Notes),
    /// Never answers.
    Hanging,
    /// Takes everything, to disk, and hangs when it stops.
    Storing,
    /// Gives up the last snapshot, or all but the last, and counts what it takes.
    GivingUp { last: bool, count: Arc<AtomicUsize> },
    /// Panics.
    Broken,
}

impl Exporter for Peer {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        let peer = self.clone();
        let service = service_fn(move |snapshot: Arc<Snapshot>| {
            let peer = peer.clone();
            async move {
                match peer {
                    Self::Counting(count) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        Ok(Exported::default())
                    }
                    Self::Noting(seen) => {
                        seen.lock()
                            .unwrap()
                            .push((Arc::clone(&snapshot.pipeline), snapshot.last));
                        Ok(Exported::default())
                    }
                    Self::Storing => Ok(Exported::default()),
                    Self::Hanging => std::future::pending().await,
                    Self::GivingUp { last, count } => {
                        count.fetch_add(1, Ordering::Relaxed);
                        let failed = if snapshot.last == last { 3 } else { 0 };
                        Ok(Exported { sent: 1, failed })
                    }
                    Self::Broken => panic!("out of order"),
                }
            }
        });
        async move { Ok(metrics_only(service)) }.boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        match self {
            Self::Storing => std::future::pending().boxed(),
            _ => async {}.boxed(),
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Storing => Persistence::OnDisk,
            _ => Persistence::Never,
        }
    }
}

fn exporter(id: &str, peer: Peer, when_full: WhenFull) -> ExporterNode {
    ExporterNode {
        id: id.parse().unwrap(),
        fingerprint: id.to_owned(),
        exporter: Box::new(peer),
        queue: QueueConfig {
            size: NonZeroUsize::new(4).unwrap(),
            when_full,
            ..QueueConfig::default()
        },
        kinds: vec![PipelineKind::Metrics],
        is_pulled: false,
        wants_opening: false,
    }
}

fn graph(exporters: Vec<ExporterNode>) -> Graph {
    Graph {
        telemetry: Vec::new(),
        receivers: vec![ReceiverNode {
            id: "minutes".parse().unwrap(),
            fingerprint: String::new(),
            receiver: Box::new(TenMinutes),
        }],
        pipelines: vec![PipelineNode {
            name: "metrics".into(),
            kind: PipelineKind::Metrics,
            receivers: vec!["minutes".parse().unwrap()],
            stages: Stages::new(
                Vec::new(),
                WindowNode {
                    fingerprint: String::new(),
                    aggregator: Box::new(EachWatermark),
                },
            ),
            exporters: exporters.iter().map(|exporter| exporter.id.clone()).collect(),
        }],
        exporters,
    }
}

async fn run_until(graph: Graph, done: impl Fn() -> bool) -> Result<(), RunError> {
    run_with(Duration::from_millis(200), graph, done).await
}

async fn run_with(deadline: Duration, graph: Graph, done: impl Fn() -> bool) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let meter = opentelemetry::global::meter("test");
    let running = run(graph, &meter, stop.clone(), deadline, || {});
    let watching = async {
        while !done() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = running => outcome,
        () = watching => Ok(()),
    }
}

/// Takes everything, and its peer acknowledges nothing; hangs when it stops, or ends.
struct Unacknowledged {
    items: Arc<AtomicU64>,
    hangs: bool,
}

impl Exporter for Unacknowledged {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        let service = service_fn(|output: Output| {
            let sent = output.items();
            std::future::ready(Ok(Exported { sent, failed: 0 }))
        });
        async move { Ok(ExportService::new(service)) }.boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        let hangs = self.hangs;
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    fn unacknowledged(&self) -> Option<Arc<AtomicU64>> {
        Some(Arc::clone(&self.items))
    }
}

#[tokio::test]
async fn what_a_peer_has_not_acknowledged_at_the_end_is_not_delivered() {
    for hangs in [false, true] {
        let items = Arc::new(AtomicU64::new(7));
        let node = ExporterNode {
            exporter: Box::new(Unacknowledged { items, hangs }),
            ..exporter("unacknowledged", Peer::Hanging, WhenFull::DropOldest)
        };
        let graph = Graph {
            exporters: vec![node],
            ..Graph::default()
        };
        let meter = opentelemetry::global::meter("test");
        let mut runner = Runner::new(&meter, Duration::from_millis(200), StatusBoard::default());
        runner.apply(graph).await.unwrap();
        let ended = runner.stop().await.unwrap_err();
        let items = match ended {
            RunError::Deadline { items, .. } if hangs => items,
            RunError::Undelivered { items } if !hangs => items,
            other => panic!("{other}"),
        };
        assert_eq!(items, 7);
    }
}

/// Takes snapshots and counts them; log records hang.
struct HalfHanging(Arc<AtomicUsize>);

impl Exporter for HalfHanging {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        let count = Arc::clone(&self.0);
        let service = service_fn(move |output: Output| {
            let count = Arc::clone(&count);
            async move {
                if output.kind() == PipelineKind::Logs {
                    return std::future::pending().await;
                }
                count.fetch_add(1, Ordering::Relaxed);
                Ok(Exported { sent: 1, failed: 0 })
            }
        });
        async move { Ok(ExportService::new(service)) }.boxed()
    }

    fn separates_kinds(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn while_the_peer_of_log_records_hangs_that_of_metrics_misses_nothing_and_the_rest_is_counted() {
    let count = Arc::new(AtomicUsize::new(0));
    let node = ExporterNode {
        exporter: Box::new(HalfHanging(Arc::clone(&count))),
        kinds: vec![PipelineKind::Metrics, PipelineKind::Logs],
        ..exporter("half", Peer::Hanging, WhenFull::DropOldest)
    };
    let graph = Graph {
        exporters: vec![node],
        ..Graph::default()
    };
    let meter = opentelemetry::global::meter("test");
    let mut runner = Runner::new(&meter, Duration::from_millis(200), StatusBoard::default());
    runner.apply(graph).await.unwrap();
    let handle = runner.exporters.values().next().unwrap().handle.clone();
    let logs = || {
        let batch = flowtap_pipeline::LogBatch {
            pipeline: "logs".into(),
            at: Timestamp::from_nanos(1),
            last: false,
            records: Vec::new(),
            cut_short: 0,
        };
        Output::Logs(Arc::new(batch))
    };
    handle.push(logs());
    // More than a shared queue has room for.
    for window in 1..=10 {
        handle.push(logs());
        handle.push(Output::from(snapshot(Timestamp::from_nanos(window), false)));
        let taken = async {
            while (count.load(Ordering::Relaxed) as u64) < window {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), taken)
            .await
            .unwrap();
    }
    // The one under way, and as many as wait.
    assert_eq!(handle.queue.len(), handle.queue.capacity());
    let stopped = runner.stop().await.unwrap_err();
    assert!(matches!(stopped, RunError::Deadline { .. }), "{stopped}");
}

#[tokio::test]
async fn while_one_exporter_hangs_for_ten_minutes_the_other_misses_nothing() {
    let count = Arc::new(AtomicUsize::new(0));
    let exporters = vec![
        exporter("hanging", Peer::Hanging, WhenFull::DropOldest),
        // So fast are these ten minutes that it must be waited for.
        exporter("counting", Peer::Counting(Arc::clone(&count)), WhenFull::Block),
    ];
    let done = || count.load(Ordering::Relaxed) >= usize::try_from(WINDOWS).unwrap();
    let outcome = run_until(graph(exporters), done).await;
    // The last window was exported, and the exporter that hangs delayed the end until the deadline,
    // as reported.
    assert_eq!(count.load(Ordering::Relaxed) as u64, WINDOWS + 1);
    assert!(matches!(outcome, Err(RunError::Deadline { .. })), "{outcome:?}");
}

#[tokio::test]
async fn what_is_on_disk_at_the_deadline_is_not_lost_and_what_is_not_still_is() {
    let storing = || exporter("storing", Peer::Storing, WhenFull::Block);
    // Time enough for what is taken; the exporter hangs until the deadline, whatever it is.
    let outcome = run_with(Duration::from_secs(3), graph(vec![storing()]), || true).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    let hanging = exporter("hanging", Peer::Hanging, WhenFull::DropOldest);
    let outcome = run_until(graph(vec![storing(), hanging]), || true).await;
    assert!(matches!(outcome, Err(RunError::Deadline { .. })), "{outcome:?}");
}

#[tokio::test]
async fn what_is_given_up_while_the_run_stops_is_its_outcome_and_what_was_given_up_before_is_not() {
    let windows = usize::try_from(WINDOWS).unwrap();
    for last in [true, false] {
        let count = Arc::<AtomicUsize>::default();
        let peer = Peer::GivingUp {
            last,
            count: Arc::clone(&count),
        };
        let done = || count.load(Ordering::Relaxed) >= windows;
        let graph = graph(vec![exporter("refusing", peer, WhenFull::Block)]);
        let outcome = run_with(Duration::from_secs(30), graph, done).await;
        assert_eq!(count.load(Ordering::Relaxed), windows + 1);
        if last {
            assert!(
                matches!(outcome, Err(RunError::Undelivered { items: 3 })),
                "{outcome:?}"
            );
        } else {
            assert!(outcome.is_ok(), "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn an_exporter_that_panics_ends_the_run_with_its_name_and_what_it_said() {
    let exporters = vec![exporter("otlp/backup", Peer::Broken, WhenFull::DropOldest)];
    let outcome = run_until(graph(exporters), || false).await;
    let said = outcome.unwrap_err().to_string();
    assert_eq!(said, "otlp/backup panicked: out of order");
}

/// Hands on a window, and then can't go on, in either way.
struct Dying {
    panics: bool,
}

impl Receiver for Dying {
    fn start(&mut self) -> Result<(), StageError> {
        Ok(())
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut dyn Sink,
        _: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            sink.watermark(Timestamp::from_nanos(5_000_000_000));
            assert!(!self.panics, "out of records");
            Err(StageError::Unsupported {
                what: "the ring has gone".to_owned(),
                remedy: "start it again".to_owned(),
            })
        }
        .boxed()
    }
}

#[tokio::test]
async fn a_receiver_that_dies_ends_the_run_with_its_name_after_its_last_window_was_exported() {
    for (panics, expected) in [(false, "the ring has gone"), (true, "out of records")] {
        let count = Arc::new(AtomicUsize::new(0));
        let peer = Peer::Counting(Arc::clone(&count));
        let mut graph = graph(vec![exporter("counting", peer, WhenFull::Block)]);
        graph.receivers[0].receiver = Box::new(Dying { panics });
        let said = run_until(graph, || false).await.unwrap_err().to_string();
        assert!(said.contains("minutes") && said.contains(expected), "{said}");
        assert!(count.load(Ordering::Relaxed) >= 1, "{said}");
    }
}

/// Counts how often it was started; leaves that to the one that replaces it.
struct Heir {
    starts: Arc<Mutex<Vec<usize>>>,
    inherited: Option<usize>,
    fails: bool,
}

impl Receiver for Heir {
    fn start(&mut self) -> Result<(), StageError> {
        if self.fails {
            return Err(StageError::Other("no".into()));
        }
        let generation = self.inherited.get_or_insert(0);
        self.starts.lock().unwrap().push(*generation);
        Ok(())
    }

    fn run<'a>(
        &'a mut self,
        _: &'a mut dyn Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            stop.cancelled().await;
            self.inherited = self.inherited.map(|generation| generation + 1);
            Ok(())
        }
        .boxed()
    }

    fn hand_over(&mut self) -> Option<Inheritance> {
        self.inherited
            .take()
            .map(|generation| Box::new(generation) as Inheritance)
    }

    fn take_over(&mut self, inheritance: Inheritance) -> Result<(), Inheritance> {
        self.inherited = Some(*inheritance.downcast()?);
        Ok(())
    }
}

#[tokio::test]
async fn a_receiver_that_replaces_another_takes_over_also_after_one_that_did_not_start() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let graph_of = |fingerprint: &str, fails| Graph {
        receivers: vec![ReceiverNode {
            id: "heir".parse().unwrap(),
            fingerprint: fingerprint.to_owned(),
            receiver: Box::new(Heir {
                starts: Arc::clone(&starts),
                inherited: None,
                fails,
            }),
        }],
        ..Graph::default()
    };
    let meter = opentelemetry::global::meter("test");
    let mut runner = Runner::new(&meter, Duration::from_secs(10), StatusBoard::default());
    runner.apply(graph_of("a", false)).await.unwrap();
    // The same: it runs on.
    runner.apply(graph_of("a", false)).await.unwrap();
    runner.apply(graph_of("b", false)).await.unwrap();
    runner.apply(graph_of("c", true)).await.unwrap_err();
    runner.apply(graph_of("b", false)).await.unwrap();
    // One that goes leaves nothing to one that comes later.
    runner.apply(Graph::default()).await.unwrap();
    runner.apply(graph_of("b", false)).await.unwrap();
    runner.stop().await.unwrap();
    assert_eq!(*starts.lock().unwrap(), [0, 1, 2, 0]);
}

#[tokio::test]
async fn a_graph_that_is_rolled_back_leaves_no_state_of_its_components() {
    let graph_of = |exporters: &[&str], receivers: &[&str]| Graph {
        exporters: exporters
            .iter()
            .map(|id| ExporterNode {
                exporter: Box::new(Successor {
                    generation: Arc::default(),
                    starts: Arc::default(),
                    fails: *id == "ghost",
                }),
                ..exporter(id, Peer::Hanging, WhenFull::Block)
            })
            .collect(),
        receivers: receivers
            .iter()
            .map(|id| ReceiverNode {
                id: id.parse().unwrap(),
                fingerprint: String::new(),
                receiver: Box::new(Heir {
                    starts: Arc::default(),
                    inherited: None,
                    fails: *id == "ghost",
                }),
            })
            .collect(),
        ..Graph::default()
    };
    let meter = opentelemetry::global::meter("test");
    let status = StatusBoard::default();
    let mut runner = Runner::new(&meter, Duration::from_secs(10), status.clone());
    for (exporters, receivers) in [(&["a", "ghost"][..], &["a"][..]), (&["a"], &["a", "ghost"])] {
        runner.apply(graph_of(exporters, receivers)).await.unwrap_err();
        let failed = status
            .load()
            .into_values()
            .filter(|status| status.state == State::PermanentError);
        assert_eq!(failed.count(), 1);
        runner.apply(graph_of(&["a"], &["a"])).await.unwrap();
        let shown: Vec<_> = status.load().into_keys().collect();
        assert_eq!(shown, ["exporters/a", "receivers/a"]);
    }
    runner.stop().await.unwrap();
}

/// Counts how many exporters of its id have gone on after one another.
struct Successor {
    generation: Arc<AtomicUsize>,
    starts: Arc<Mutex<Vec<usize>>>,
    fails: bool,
}

impl Exporter for Successor {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        async move {
            if self.fails {
                return Err(StageError::Other("no".into()));
            }
            let generation = self.generation.fetch_add(1, Ordering::Relaxed);
            self.starts.lock().unwrap().push(generation);
            let service = service_fn(|_: Arc<Snapshot>| async { Ok(Exported::default()) });
            Ok(metrics_only(service))
        }
        .boxed()
    }

    fn shared_state(&self) -> Option<SharedState> {
        Some(Arc::clone(&self.generation) as SharedState)
    }

    fn take_over(&mut self, before: SharedState) {
        self.generation = before.downcast().unwrap();
    }
}

#[tokio::test]
async fn an_exporter_that_replaces_another_takes_over_also_after_one_that_did_not_start() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let graph_of = |fingerprint: &str, fails| Graph {
        exporters: vec![ExporterNode {
            fingerprint: fingerprint.to_owned(),
            exporter: Box::new(Successor {
                generation: Arc::default(),
                starts: Arc::clone(&starts),
                fails,
            }),
            ..exporter("successor", Peer::Hanging, WhenFull::Block)
        }],
        ..Graph::default()
    };
    let meter = opentelemetry::global::meter("test");
    let mut runner = Runner::new(&meter, Duration::from_secs(10), StatusBoard::default());
    runner.apply(graph_of("a", false)).await.unwrap();
    // The same: it runs on.
    runner.apply(graph_of("a", false)).await.unwrap();
    runner.apply(graph_of("b", false)).await.unwrap();
    runner.apply(graph_of("c", true)).await.unwrap_err();
    runner.apply(graph_of("b", false)).await.unwrap();
    // One that goes leaves nothing to one that comes later.
    runner.apply(Graph::default()).await.unwrap();
    runner.apply(graph_of("b", false)).await.unwrap();
    runner.stop().await.unwrap();
    assert_eq!(*starts.lock().unwrap(), [0, 1, 2, 0]);
}

#[tokio::test]
async fn own_metrics_go_to_the_exporters_that_want_them_and_a_last_time_after_the_last_window() {
    let (wanting, other) = (Arc::default(), Arc::default());
    let exporters = vec![
        exporter("wanting", Peer::Noting(Arc::clone(&wanting)), WhenFull::Block),
        exporter("other", Peer::Noting(Arc::clone(&other)), WhenFull::Block),
    ];
    let mut graph = graph(exporters);
    graph.telemetry = vec!["wanting".parse().unwrap()];
    let meter = opentelemetry::global::meter("test");
    let mut runner = Runner::new(&meter, Duration::from_secs(10), StatusBoard::default());
    let mut before = None;
    let collect = move |reading: Reading| {
        assert!(before.is_none_or(|before| reading.since == before) && reading.since <= reading.at);
        before = Some(reading.at);
        Snapshot {
            pipeline: "".into(),
            ..snapshot(reading.at, reading.last)
        }
    };
    runner.push_own_metrics(Duration::from_millis(1), Box::new(collect));
    runner.apply(graph).await.unwrap();
    let own = |seen: &Mutex<Vec<(Arc<str>, bool)>>| {
        let seen = seen.lock().unwrap();
        seen.iter().filter(|(pipeline, _)| pipeline.is_empty()).count()
    };
    while own(&wanting) < 3 {
        tokio::task::yield_now().await;
    }
    runner.stop().await.unwrap();
    let seen = wanting.lock().unwrap();
    // A reading that was under way when the run ended may stand between the last window and the last reading.
    let window = seen.iter().rfind(|(pipeline, _)| !pipeline.is_empty());
    assert_eq!(window, Some(&("metrics".into(), true)));
    assert_eq!(seen.last(), Some(&("".into(), true)));
    assert_eq!(own(&other), 0);
}
