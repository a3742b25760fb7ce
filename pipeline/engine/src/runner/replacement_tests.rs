//! Tests of exporters that replace others while outputs come.

use std::num::NonZeroUsize;

use flowtap_pipeline::{
    Aggregator, ExportService, Exported, Exporter, FlowBatch, Output, PipelineKind, QueueConfig, Snapshot,
    StageError, Timestamp, metrics_only,
};
use tokio::sync::Semaphore;
use tower::service_fn;

use super::*;
use crate::chain::{ExporterHandle, SharedChain, lock};
use crate::stages::{Stages, WindowNode};

const DEADLINE: Duration = Duration::from_secs(60);

/// A snapshot each time that it is finished.
struct EachFinish(Arc<str>);

impl Aggregator for EachFinish {
    fn begin(&mut self, _: Timestamp) {}
    fn fold(&mut self, _: &FlowBatch) {}
    fn advance(&mut self, _: Timestamp) -> Option<Output> {
        None
    }
    fn finish(&mut self, at: Timestamp) -> Output {
        Output::from(Snapshot {
            pipeline: Arc::clone(&self.0),
            at,
            window: Duration::from_secs(1),
            last: false,
            replaced: false,
            families: Vec::new(),
        })
    }
}

/// The exporter, the pipeline and the time of each snapshot that was delivered.
type Delivered = Arc<Mutex<Vec<(&'static str, Arc<str>, u64)>>>;

/// An exporter that delivers a snapshot for each permit.
#[derive(Clone)]
struct Gated {
    name: &'static str,
    permits: Arc<Semaphore>,
    delivered: Delivered,
    fails: bool,
}

impl Gated {
    /// One that has `permits`.
    fn new(name: &'static str, permits: usize, delivered: &Delivered) -> Self {
        Self {
            name,
            permits: Arc::new(Semaphore::new(permits)),
            delivered: Arc::clone(delivered),
            fails: false,
        }
    }
}

impl Exporter for Gated {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        let gated = self.clone();
        let service = service_fn(move |snapshot: Arc<Snapshot>| {
            let gated = gated.clone();
            async move {
                gated.permits.acquire().await.unwrap().forget();
                let at = snapshot.at.as_nanos();
                let pipeline = Arc::clone(&snapshot.pipeline);
                gated.delivered.lock().unwrap().push((gated.name, pipeline, at));
                Ok(Exported::default())
            }
        });
        async move {
            if self.fails {
                return Err(StageError::Other("no".into()));
            }
            Ok(metrics_only(service))
        }
        .boxed()
    }
}

/// `pipelines` into `exporter`, which is another one by its name.
fn graph(pipelines: &[&'static str], exporter: Gated) -> Graph {
    let id: ComponentId = "gated".parse().unwrap();
    Graph {
        pipelines: ["metrics", "metrics/b"]
            .map(|name| PipelineNode {
                name: name.into(),
                kind: PipelineKind::Metrics,
                receivers: Vec::new(),
                stages: Stages::new(
                    Vec::new(),
                    WindowNode {
                        fingerprint: String::new(),
                        aggregator: Box::new(EachFinish(name.into())),
                    },
                ),
                exporters: pipelines
                    .contains(&name)
                    .then(|| id.clone())
                    .into_iter()
                    .collect(),
            })
            .into(),
        exporters: vec![ExporterNode {
            id,
            fingerprint: exporter.name.to_owned(),
            exporter: Box::new(exporter),
            queue: QueueConfig {
                size: NonZeroUsize::new(100).unwrap(),
                ..QueueConfig::default()
            },
            kinds: vec![PipelineKind::Metrics],
            is_pulled: false,
            wants_opening: false,
        }],
        ..Graph::default()
    }
}

fn runner(deadline: Duration) -> Runner {
    let meter = opentelemetry::global::meter("test");
    Runner::new(&meter, deadline, StatusBoard::default())
}

fn chain(runner: &Runner, name: &str) -> SharedChain {
    Arc::clone(&runner.pipelines[name].chain)
}

/// A snapshot of `chain` at each of `times`.
fn close(chain: &SharedChain, times: std::ops::Range<u64>) {
    for time in times {
        lock(chain).finish(Timestamp::from_nanos(time));
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let reached = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, reached).await.expect(what);
}

fn times(delivered: &Delivered) -> Vec<u64> {
    let delivered = delivered.lock().unwrap();
    delivered.iter().map(|(_, _, at)| *at).collect()
}

/// Whether the task of `chain` pushes to other queues than `before`.
fn is_switched(chain: &SharedChain, before: &ExporterHandle) -> bool {
    !lock(chain).feeds(&before.queue)
}

#[tokio::test]
async fn what_comes_while_an_exporter_is_replaced_goes_to_the_next_one_in_its_order() {
    let delivered = Delivered::default();
    let mut runner = runner(DEADLINE);
    let before = Gated::new("before", 0, &delivered);
    runner.apply(graph(&["metrics"], before.clone())).await.unwrap();
    let chain = chain(&runner, "metrics");
    close(&chain, 1..2);
    let handle = runner.exporters.values().next().unwrap().handle.clone();
    until("the first one is under way", || handle.queue.is_empty()).await;
    close(&chain, 2..5);
    let after = Gated::new("after", 100, &delivered);
    let reload = runner.apply(graph(&["metrics"], after));
    let traffic = async {
        until("the exporter is replaced", || is_switched(&chain, &handle)).await;
        close(&chain, 5..9);
        before.permits.add_permits(100);
    };
    tokio::join!(reload, traffic).0.unwrap();
    close(&chain, 9..10);
    runner.stop().await.unwrap();
    let by = |place: usize| delivered.lock().unwrap()[place].0;
    assert_eq!((by(0), by(8)), ("before", "after"));
    // And one when each pipeline is finished.
    assert_eq!(times(&delivered)[..9], [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn an_exporter_that_does_not_end_costs_the_output_that_it_has_under_way_alone() {
    let delivered = Delivered::default();
    let mut runner = runner(Duration::from_millis(200));
    runner
        .apply(graph(&["metrics"], Gated::new("before", 0, &delivered)))
        .await
        .unwrap();
    let chain = chain(&runner, "metrics");
    close(&chain, 1..2);
    let handle = runner.exporters.values().next().unwrap().handle.clone();
    until("the first one is under way", || handle.queue.is_empty()).await;
    close(&chain, 2..5);
    runner
        .apply(graph(&["metrics"], Gated::new("after", 100, &delivered)))
        .await
        .unwrap();
    until("the others", || times(&delivered) == [2, 3, 4]).await;
}

#[tokio::test]
async fn a_stop_during_a_reload_starts_the_next_exporter_for_what_waits_for_it() {
    let delivered = Delivered::default();
    let mut runner = runner(DEADLINE);
    let before = Gated::new("before", 0, &delivered);
    runner.apply(graph(&["metrics"], before.clone())).await.unwrap();
    let chain = chain(&runner, "metrics");
    close(&chain, 1..2);
    let handle = runner.exporters.values().next().unwrap().handle.clone();
    until("the first one is under way", || handle.queue.is_empty()).await;
    {
        let reload = runner.apply(graph(&["metrics"], Gated::new("after", 100, &delivered)));
        let switched = until("the exporter is replaced", || is_switched(&chain, &handle));
        tokio::select! {
            _ = reload => panic!("the first one is still under way"),
            () = switched => {}
        }
    }
    close(&chain, 2..4);
    before.permits.add_permits(1);
    runner.stop().await.unwrap();
    assert_eq!(times(&delivered)[..3], [1, 2, 3]);
    assert_eq!(times(&delivered).len(), 4, "and the last one");
}

#[tokio::test]
async fn what_comes_while_an_exporter_does_not_start_goes_to_the_one_of_the_graph_before() {
    let delivered = Delivered::default();
    let mut runner = runner(DEADLINE);
    let working = || graph(&["metrics"], Gated::new("before", 100, &delivered));
    runner.apply(working()).await.unwrap();
    let chain = chain(&runner, "metrics");
    let failing = Gated {
        fails: true,
        ..Gated::new("failing", 0, &delivered)
    };
    runner.apply(graph(&["metrics"], failing)).await.unwrap_err();
    close(&chain, 1..4);
    runner.apply(working()).await.unwrap();
    close(&chain, 4..5);
    until("all of them", || times(&delivered) == [1, 2, 3, 4]).await;
}

#[tokio::test]
async fn outputs_of_a_pipeline_that_feeds_the_next_exporter_no_more_are_left_to_the_one_before() {
    let delivered = Delivered::default();
    let mut runner = runner(DEADLINE);
    let before = Gated::new("before", 0, &delivered);
    runner
        .apply(graph(&["metrics", "metrics/b"], before.clone()))
        .await
        .unwrap();
    let (one, other) = (chain(&runner, "metrics"), chain(&runner, "metrics/b"));
    close(&one, 1..2);
    let handle = runner.exporters.values().next().unwrap().handle.clone();
    until("the first one is under way", || handle.queue.is_empty()).await;
    close(&one, 2..3);
    close(&other, 3..4);
    let reload = runner.apply(graph(&["metrics"], Gated::new("after", 100, &delivered)));
    let permits = async {
        until("the exporter is replaced", || handle.queue.len() == 1).await;
        before.permits.add_permits(2);
    };
    tokio::join!(reload, permits).0.unwrap();
    close(&one, 4..5);
    close(&other, 5..6);
    until("all of them", || times(&delivered).len() == 4).await;
    let delivered = delivered.lock().unwrap();
    let mut b = delivered
        .iter()
        .filter(|(_, pipeline, _)| &**pipeline == "metrics/b");
    assert_eq!(b.next().map(|(name, _, at)| (*name, *at)), Some(("before", 3)));
    assert_eq!(b.next(), None);
    assert_eq!(
        delivered.last().map(|(name, _, at)| (*name, *at)),
        Some(("after", 4))
    );
}
