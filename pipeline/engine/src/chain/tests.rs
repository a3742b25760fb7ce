//! Tests of a chain whose receivers differ in pace, and come and go.

use arc_swap::ArcSwap;
use flowtap_pipeline::{Aggregator, Census, Endpoint, Events, Flow, Processor, QueueConfig, Sink, TcpRecord};

use super::*;
use crate::queue::OutputQueue;
use crate::sink::{ChainSet, ChainSink};
use crate::stages::{ProcessorNode, WindowNode};
use crate::telemetry::ReceiverTelemetry;

/// A call of the aggregator.
#[derive(Clone, Debug, PartialEq)]
enum Shown {
    /// Receiver and number of records.
    Records(u16, usize),
    /// Nothing of this receiver is open any longer.
    Forgotten(u16),
    To(Timestamp),
}

#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Vec<Shown>>>);

impl Witness {
    fn take(&self) -> Vec<Shown> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn stages(&self, fingerprint: &str) -> Stages {
        let window = WindowNode {
            fingerprint: fingerprint.to_owned(),
            aggregator: Box::new(self.clone()),
        };
        Stages::new(Vec::new(), window)
    }
}

impl Aggregator for Witness {
    fn begin(&mut self, _: Timestamp) {}

    fn fold(&mut self, batch: &FlowBatch) {
        let shown = if batch.tcp.is_empty() && batch.census == Census::WHOLE {
            Shown::Forgotten(batch.receiver)
        } else {
            Shown::Records(batch.receiver, batch.tcp.len())
        };
        self.0.lock().unwrap().push(shown);
    }

    fn wants_census(&self, receiver: u16) -> bool {
        receiver == 1
    }

    fn advance(&mut self, to: Timestamp) -> Option<Output> {
        self.0.lock().unwrap().push(Shown::To(to));
        None
    }

    fn finish(&mut self, at: Timestamp) -> Output {
        Output::from(Snapshot {
            pipeline: "metrics".into(),
            at,
            window: Duration::ZERO,
            last: true,
            replaced: false,
            families: Vec::new(),
        })
    }
}

fn id(text: &str) -> ComponentId {
    text.parse().unwrap()
}

fn chain(witness: &Witness, receivers: &[&str]) -> Chain {
    let mut chain = Chain::new("metrics".into(), witness.stages("a"), Vec::new());
    chain.attach_receivers(&ids(receivers));
    chain
}

fn ids(receivers: &[&str]) -> Vec<ComponentId> {
    receivers.iter().map(|receiver| id(receiver)).collect()
}

fn record() -> FlowBatch {
    let end = Endpoint::new([192, 0, 2, 1].into(), 80);
    let record = TcpRecord {
        events: Events::OPENED,
        ..TcpRecord::new(Flow::new(end, end))
    };
    FlowBatch {
        tcp: vec![record],
        ..FlowBatch::default()
    }
}

#[test]
fn a_window_waits_for_a_receiver_that_has_not_come_anywhere_and_then_for_the_slower_one() {
    let witness = Witness::default();
    let mut chain = chain(&witness, &["quick", "slow"]);
    let start = Timestamp::now();
    let at = |seconds| start.plus(Duration::from_secs(seconds));
    chain.advance(&id("quick"), at(1));
    chain.advance(&id("quick"), at(2));
    assert_eq!(witness.take(), []);
    chain.advance(&id("slow"), at(3));
    chain.advance(&id("quick"), at(3));
    chain.advance(&id("quick"), at(4));
    assert_eq!(witness.take(), [2, 3, 3].map(|seconds| Shown::To(at(seconds))));
}

#[test]
fn a_receiver_that_restarts_holds_the_window_and_its_connections_are_forgotten() {
    let witness = Witness::default();
    let mut chain = chain(&witness, &["quick", "slow"]);
    let start = Timestamp::now();
    let at = |seconds| start.plus(Duration::from_secs(seconds));
    for receiver in ["quick", "slow"] {
        chain.advance(&id(receiver), at(3));
    }
    witness.take();
    chain.reset_watermark(&id("slow"));
    chain.advance(&id("quick"), at(4));
    assert_eq!(witness.take(), [Shown::Forgotten(1)]);
    chain.advance(&id("slow"), at(6));
    assert_eq!(witness.take(), [Shown::To(at(4))]);
}

#[test]
fn a_window_that_is_new_takes_a_receiver_that_is_behind_for_no_clock_that_was_set_back() {
    let witness = Witness::default();
    let mut chain = chain(&witness, &["quick", "slow"]);
    let start = Timestamp::now();
    for receiver in ["quick", "slow"] {
        // Both came by before the new window begins.
        chain.advance(&id(receiver), start);
    }
    witness.take();
    std::thread::sleep(Duration::from_millis(1));
    chain.reconcile(witness.stages("b"));
    let began = chain.began;
    assert!(began > start);
    chain.advance(&id("quick"), began.plus(Duration::from_secs(1)));
    assert_eq!(witness.take(), [Shown::To(began)]);
}

#[test]
fn windows_follow_a_receivers_clock_that_was_set_back_also_while_it_restarted() {
    let witness = Witness::default();
    let mut chain = chain(&witness, &["one"]);
    let start = Timestamp::now();
    let later = start.plus(Duration::from_secs(1000));
    chain.advance(&id("one"), later);
    chain.advance(&id("one"), start);
    assert_eq!(witness.take(), [Shown::To(later), Shown::To(start)]);
    chain.advance(&id("one"), later);
    chain.reset_watermark(&id("one"));
    chain.advance(&id("one"), start);
    assert_eq!(
        witness.take(),
        [Shown::To(later), Shown::Forgotten(0), Shown::To(start)]
    );
}

#[test]
fn what_a_receiver_still_hands_on_counts_until_it_is_detached_and_its_index_is_free_then() {
    let witness = Witness::default();
    let mut chain = chain(&witness, &["first", "second"]);
    chain.accept(&id("first"), &mut record());
    chain.attach_receivers(&ids(&["second", "third"]));
    chain.accept(&id("first"), &mut record());
    chain.retain_receivers(&ids(&["second", "third"]));
    chain.accept(&id("first"), &mut record());
    chain.attach_receivers(&ids(&["fourth"]));
    chain.accept(&id("fourth"), &mut record());
    assert_eq!(
        witness.take(),
        [
            Shown::Records(0, 1),
            Shown::Records(0, 1),
            Shown::Forgotten(0),
            Shown::Records(FlowBatch::DETACHED, 1),
            Shown::Records(0, 1),
        ]
    );
}

#[test]
fn a_receiver_is_asked_for_a_census_by_the_pipelines_that_it_feeds_alone() {
    let witness = Witness::default();
    let chain: SharedChain = Arc::new(Mutex::new(chain(&witness, &["first", "second"])));
    let sink = |receiver| {
        let telemetry = ReceiverTelemetry::new(&opentelemetry::global::meter("test"), &id(receiver));
        let fed: ChainSet = Arc::new(ArcSwap::from_pointee(vec![Arc::clone(&chain)]));
        ChainSink::new(id(receiver), fed, telemetry, Arc::default())
    };
    assert!(!sink("first").wants_census());
    assert!(sink("second").wants_census());
    assert!(!sink("third").wants_census());
}

/// Adds a record whenever it learns the time; drops a record of a remote port.
struct Adds(Option<u16>);

impl Processor for Adds {
    fn process(&mut self, batch: &mut FlowBatch) {
        if let Some(port) = self.0 {
            batch.retain(|flow| flow.remote.port != port);
        }
    }

    fn advance(&mut self, _: Timestamp, batch: &mut FlowBatch) {
        if self.0.is_none() {
            batch.tcp.append(&mut record().tcp);
        }
    }
}

#[test]
fn what_a_processor_adds_goes_through_those_after_it_into_the_window_that_closes() {
    let processors = |drops: &[Option<u16>]| {
        let nodes = drops.iter().enumerate().map(|(place, drop)| ProcessorNode {
            id: id(&format!("adds/{place}")),
            fingerprint: String::new(),
            processor: Box::new(Adds(*drop)) as Box<dyn Processor>,
        });
        nodes.collect::<Vec<_>>()
    };
    let at = Timestamp::from_nanos(7);
    for (drops, added) in [
        (&[Some(80), None][..], 1),
        (&[None, Some(80)], 0),
        (&[None, None], 2),
    ] {
        let witness = Witness::default();
        let window = WindowNode {
            fingerprint: String::new(),
            aggregator: Box::new(witness.clone()),
        };
        let mut stages = Stages::new(processors(drops), window);
        stages.advance(at);
        let mut calls = witness.take();
        assert_eq!(calls.pop(), Some(Shown::To(at)), "the window closes last");
        let records = calls.into_iter().map(|call| match call {
            Shown::Records(FlowBatch::DETACHED, records) => records,
            other => panic!("{other:?}"),
        });
        assert_eq!(records.sum::<usize>(), added, "{drops:?}");
    }
}

/// A processor that shows where its clock was set to.
struct Clocked(Arc<Mutex<Vec<Timestamp>>>);

impl Processor for Clocked {
    fn begin(&mut self, at: Timestamp) {
        self.0.lock().unwrap().push(at);
    }

    fn process(&mut self, _: &mut FlowBatch) {
        assert!(!self.0.lock().unwrap().is_empty(), "its clock was set before");
    }
}

#[test]
fn the_clock_of_a_processor_is_set_before_its_first_batch_also_of_one_that_a_reload_adds() {
    let set = Arc::default();
    let stages = |configs: &[&str]| {
        let node = |config: &&str| ProcessorNode {
            id: id("clocked"),
            fingerprint: (*config).to_owned(),
            processor: Box::new(Clocked(Arc::clone(&set))),
        };
        let window = WindowNode {
            fingerprint: String::new(),
            aggregator: Box::new(Witness::default()),
        };
        Stages::new(configs.iter().map(node).collect(), window)
    };
    let (first, second) = (Timestamp::from_nanos(7), Timestamp::from_nanos(9));
    let mut running = stages(&["a"]);
    running.begin(first);
    running.accept(&mut record());
    running.reconcile(stages(&["a"]), second);
    assert_eq!(*set.lock().unwrap(), [first], "it lives on");
    running.reconcile(stages(&["a", "b"]), second);
    assert_eq!(*set.lock().unwrap(), [first, second]);
    running.accept(&mut record());
}

/// A processor that asks for a census of the receiver with index 3.
struct Curious;

impl Processor for Curious {
    fn process(&mut self, _: &mut FlowBatch) {}

    fn wants_census(&self, receiver: u16) -> bool {
        receiver == 3
    }
}

/// An aggregator that counts how often it is made to ask for a census.
#[derive(Default)]
struct Recounts(Arc<Mutex<usize>>);

impl Aggregator for Recounts {
    fn begin(&mut self, _: Timestamp) {}
    fn fold(&mut self, _: &FlowBatch) {}
    fn request_census(&mut self) {
        *self.0.lock().unwrap() += 1;
    }
    fn advance(&mut self, _: Timestamp) -> Option<Output> {
        None
    }
    fn finish(&mut self, at: Timestamp) -> Output {
        Witness::default().finish(at)
    }
}

#[test]
fn a_window_recounts_what_is_open_when_the_processors_before_it_change() {
    let requests = Arc::default();
    let stages = |processors: &[&str], window: &str| {
        let node = |config: &&str| ProcessorNode {
            id: "filter".parse().unwrap(),
            fingerprint: (*config).to_owned(),
            processor: Box::new(Curious),
        };
        let window = WindowNode {
            fingerprint: window.to_owned(),
            aggregator: Box::new(Recounts(Arc::clone(&requests))),
        };
        Stages::new(processors.iter().map(node).collect(), window)
    };
    let mut running = stages(&["port 22"], "5s");
    assert!(
        running.wants_census(3) && !running.wants_census(0),
        "a processor asks"
    );
    let mut reload = |processors: &[&str], window: &str| {
        running.reconcile(stages(processors, window), Timestamp::default());
        std::mem::take(&mut *requests.lock().unwrap())
    };
    assert_eq!(reload(&["port 22"], "5s"), 0, "nothing has changed");
    assert_eq!(reload(&["port 23"], "5s"), 1, "another config");
    assert_eq!(reload(&[], "5s"), 1, "removed");
    assert_eq!(
        reload(&[], "10s"),
        0,
        "another window starts with a census of its own accord"
    );
    assert_eq!(
        reload(&["port 22"], "5s"),
        1,
        "the window may have taken over connections"
    );
}

/// Opens with a snapshot.
struct Open;

impl Aggregator for Open {
    fn begin(&mut self, _: Timestamp) {}

    fn opening(&self) -> Option<Output> {
        Some(Witness::default().finish(Timestamp::default()))
    }

    fn fold(&mut self, _: &FlowBatch) {}

    fn advance(&mut self, _: Timestamp) -> Option<Output> {
        None
    }

    fn finish(&mut self, at: Timestamp) -> Output {
        Witness::default().finish(at)
    }
}

#[test]
fn the_output_with_which_a_window_opens_is_for_exporters_that_want_it_alone() {
    let meter = opentelemetry::global::meter("test");
    let handle = |name: &str, wants_opening: bool| {
        let queue = Arc::new(Queues::from(OutputQueue::new(QueueConfig::default())));
        let telemetry =
            ExporterTelemetry::new(&meter, &id(name), &queue, &[PipelineKind::Metrics], wants_opening);
        let handle = ExporterHandle {
            queue,
            telemetry,
            wants_opening,
        };
        (id(name), handle)
    };
    let exporters = vec![handle("scraped", true), handle("pushes", false)];
    let waiting = || {
        let queues = exporters.iter().map(|(_, handle)| handle.queue.len());
        queues.collect::<Vec<_>>()
    };
    let stages = |aggregator| {
        let window = WindowNode {
            fingerprint: String::new(),
            aggregator,
        };
        Stages::new(Vec::new(), window)
    };
    let chain = Chain::new("metrics".into(), stages(Box::new(Open)), exporters.clone());
    assert_eq!(waiting(), [1, 0]);
    // No window has closed.
    assert_eq!(chain.closed_at().load(Ordering::Relaxed), 0);
    Chain::new(
        "metrics".into(),
        stages(Box::<Witness>::default()),
        exporters.clone(),
    );
    assert_eq!(waiting(), [1, 0]);
}
