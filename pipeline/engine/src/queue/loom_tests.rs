//! The queue under every interleaving of a producer, a consumer and the caller of `close`, up to
//! three preemptions.
//!
//! loom drives the mutex and the condition variable; tokio's `Notify` has loom tests of its own and counts as one step here.

use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::{Snapshot, Timestamp};
use loom::future::block_on;
use loom::model::Builder;
use loom::thread;

use super::*;

fn check(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

fn queue(when_full: WhenFull) -> Arc<OutputQueue> {
    Arc::new(OutputQueue::new(QueueConfig {
        size: NonZeroUsize::MIN,
        when_full,
        ..QueueConfig::default()
    }))
}

fn snapshot(at: u64) -> Output {
    Output::from(Snapshot {
        pipeline: "metrics".into(),
        at: Timestamp::from_nanos(at),
        window: Duration::from_secs(5),
        last: false,
        replaced: false,
        families: Vec::new(),
    })
}

/// Takes everything until the queue is closed and drained.
fn drain(queue: &OutputQueue) -> Vec<u64> {
    block_on(async {
        let mut taken = Vec::new();
        while let Some(snapshot) = queue.pop().await {
            taken.push(snapshot.at().as_nanos());
        }
        taken
    })
}

/// Runs a producer of two snapshots against a consumer; returns what was delivered and dropped.
fn produce_and_drain(queue: &Arc<OutputQueue>) -> (Vec<u64>, Vec<u64>) {
    let producer = thread::spawn({
        let queue = Arc::clone(queue);
        move || {
            let mut dropped = Vec::new();
            for at in 1..=2 {
                dropped.extend(queue.push(snapshot(at)).iter().map(|it| it.at().as_nanos()));
            }
            queue.close();
            dropped
        }
    });
    let taken = drain(queue);
    (taken, producer.join().unwrap())
}

#[test]
fn every_snapshot_is_delivered_or_returned_as_dropped() {
    for when_full in [WhenFull::DropOldest, WhenFull::DropNewest] {
        check(move || {
            let (taken, dropped) = produce_and_drain(&queue(when_full));
            assert!(taken.is_sorted(), "{taken:?}");
            let mut all = [taken, dropped].concat();
            all.sort_unstable();
            assert_eq!(all, [1, 2]);
        });
    }
}

#[test]
fn a_producer_that_waits_for_room_loses_nothing_and_always_goes_on() {
    check(|| {
        let (taken, dropped) = produce_and_drain(&queue(WhenFull::Block));
        assert_eq!((taken, dropped), (vec![1, 2], Vec::new()));
    });
}

#[test]
fn a_producer_that_waits_for_room_goes_on_when_the_queue_is_relieved() {
    check(|| {
        let queue = queue(WhenFull::Block);
        assert!(queue.push(snapshot(1)).is_empty());
        let producer = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.push(snapshot(2)).len()
        });
        queue.relieve(true);
        // Nobody takes anything: the oldest made room.
        assert_eq!(producer.join().unwrap(), 1);
        assert_eq!(queue.len(), 1);
    });
}

#[test]
fn giving_up_wakes_the_producer_and_the_consumer() {
    check(|| {
        let queue = queue(WhenFull::Block);
        let consumer = thread::spawn({
            let queue = Arc::clone(&queue);
            move || drain(&queue)
        });
        let producer = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.push(snapshot(1)).len()
        });
        queue.give_up();
        let (taken, returned) = (consumer.join().unwrap(), producer.join().unwrap());
        assert!(taken.len() + returned <= 1);
    });
}
