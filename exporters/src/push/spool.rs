//! The tasks that send what is stored, oldest first: one for each lane.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flowtap_pipeline::Exported;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service, ServiceExt};

use super::fate::Fate;
use super::health::Health;
use super::storage::{Storage, StorageError, Stored};
use super::verdict::{asked_delay, described, is_temporary};
use super::warned::{Warned, is_news};
use super::{Lane, Request, Sender};

/// Pause after a failure that retries did not overcome, before the next round.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// After so many requests in a row that the collector refused for good, the next ones are sent slowly: whatever is wrong with it, a
/// whole queue should not be gone in a second.
const MAX_REFUSALS: u32 = 10;

/// Interval at which a stop looks whether an attempt under way has failed.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Sends the requests of `lane` until `stop`; then once more what waits, up to the first failure, also of the attempt that `stop` meets. The rest stays on
/// disk. Returns the failure at which it ended, if that is not shown yet.
pub(super) async fn drain(
    storage: Arc<Storage>,
    lane: Lane,
    mut sender: Sender,
    health: Health,
    stop: CancellationToken,
) -> Option<String> {
    let has_failed = follow(&storage, lane, &mut sender, &health, &stop).await;
    // A peer that is silent may take a whole `timeout` for each attempt: it has had its last one.
    let error = if has_failed {
        None
    } else {
        send_rest(&storage, lane, &mut sender, &health).await.err()
    };
    count_orphaned(&storage, lane, &health).await;
    remove_rest(&storage, &health).await;
    error.map(|error| described(&error))
}

/// Sends requests as they come until `stop`, and ends the attempt that is under way then. Returns whether it failed.
async fn follow(
    storage: &Arc<Storage>,
    lane: Lane,
    sender: &mut Sender,
    health: &Health,
    stop: &CancellationToken,
) -> bool {
    let mut refusals = 0;
    let mut warned = Warned::default();
    while !stop.is_cancelled() {
        let is_delivering = AtomicBool::new(false);
        let round = send_next(storage, lane, sender, health, &mut refusals, &is_delivering);
        let mut round = pin!(round);
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => return last_attempt_fails(round, lane, health, &is_delivering).await,
            outcome = &mut round => outcome,
        };
        if let Err(error) = outcome {
            warn(&mut warned, health, &error, storage.waiting().0);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause_after(&error)) => {}
            }
        }
    }
    false
}

/// Sends the oldest request, or waits until there is one. `refusals`: of requests in a row; `is_delivering`: set once it is with the
/// peer.
async fn send_next(
    storage: &Arc<Storage>,
    lane: Lane,
    sender: &mut Sender,
    health: &Health,
    refusals: &mut u32,
    is_delivering: &AtomicBool,
) -> Result<(), BoxError> {
    let Some(stored) = first(storage, lane).await? else {
        storage.changed(lane).await;
        return Ok(());
    };
    if *refusals >= MAX_REFUSALS {
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    is_delivering.store(true, Ordering::Relaxed);
    if deliver(storage, sender, health, stored).await? {
        *refusals = 0;
    } else {
        *refusals += 1;
        if *refusals == MAX_REFUSALS {
            tracing::warn!(
                exporter = %health.exporter(),
                requests = storage.waiting().0,
                "the peer permanently rejected {MAX_REFUSALS} requests in a row; requests on disk are sent at one per second; \
                hint: look for the reason in the peer's log"
            );
        }
    }
    Ok(())
}

/// Waits for the attempt of `round` that is under way. Cut here, it or its removal would be made once more: the peer would have it
/// twice. Returns whether it failed.
async fn last_attempt_fails(
    mut round: Pin<&mut impl Future<Output = Result<(), BoxError>>>,
    lane: Lane,
    health: &Health,
    is_delivering: &AtomicBool,
) -> bool {
    let retries = health.retries(lane);
    // By their number: the wait before a retry may be shorter than the time between two looks.
    let has_failed = || health.retries(lane) != retries;
    let mut failed_last = false;
    while is_delivering.load(Ordering::Relaxed) && health.is_attempting(lane) && !has_failed() {
        tokio::select! {
            outcome = &mut round => return outcome.is_err(),
            () = tokio::time::sleep(LOOK_INTERVAL) => failed_last = has_failed(),
        }
    }
    failed_last
}

/// Sends once more what waits, up to the first failure.
async fn send_rest(
    storage: &Arc<Storage>,
    lane: Lane,
    sender: &mut Sender,
    health: &Health,
) -> Result<(), BoxError> {
    while let Some(mut stored) = first(storage, lane).await? {
        stored.request.last = true;
        deliver(storage, sender, health, stored).await?;
    }
    Ok(())
}

/// Removes what is delivered, and logs what can't be removed.
async fn remove_rest(storage: &Arc<Storage>, health: &Health) {
    if storage.unremoved() > 0 {
        let last = Arc::clone(storage);
        // One that panicked has said so itself.
        let _ = tokio::task::spawn_blocking(move || last.remove_rest()).await;
    }
    let requests = storage.unremoved();
    if requests > 0 {
        tracing::warn!(
            exporter = %health.exporter(),
            requests,
            "delivered requests could not be removed from disk; the next start with this `storage` sends them a second time; \
                hint: make room, or the right to write, in `storage.directory` before flowtap stops"
        );
    }
}

/// Counts what waits in a file that no later start finds.
async fn count_orphaned(storage: &Arc<Storage>, lane: Lane, health: &Health) {
    let storage = Arc::clone(storage);
    // One that panicked has said so itself.
    let orphaned = tokio::task::spawn_blocking(move || storage.orphaned(lane)).await;
    for (kind, items) in orphaned.into_iter().flatten() {
        health.deliveries().failed(kind, items);
    }
}

/// Says why requests wait: as a warning, if it did not say so a short while ago.
fn warn(warned: &mut Warned, health: &Health, error: &BoxError, requests: u64) {
    let (exporter, text) = (health.exporter(), described(error));
    if !is_news(warned, &text) {
        tracing::debug!(%exporter, error = text, requests, "requests wait on disk");
    } else if error.is::<StorageError>() {
        tracing::warn!(
            %exporter,
            error = text,
            requests,
            "requests on disk can't be read, and wait there; \
                hint: make room, or the right to read and write, in `storage.directory`"
        );
    } else {
        tracing::warn!(
            %exporter,
            error = text,
            requests,
            "requests wait on disk; \
                hint: restore the peer; nothing is lost up to `storage.max_bytes`"
        );
    }
}

/// The time until the next round: a wait that exceeds `retry.max_elapsed_time` is not begun by a request, so it is kept here.
fn pause_after(error: &BoxError) -> Duration {
    asked_delay(error).unwrap_or_default().max(RETRY_PAUSE)
}

async fn first(storage: &Arc<Storage>, lane: Lane) -> Result<Option<Stored>, BoxError> {
    let storage = Arc::clone(storage);
    Ok(tokio::task::spawn_blocking(move || storage.first(lane)).await??)
}

/// Sends one, and returns whether the collector took it. An error is temporary: the request stays.
async fn deliver(
    storage: &Arc<Storage>,
    sender: &mut Sender,
    health: &Health,
    stored: Stored,
) -> Result<bool, BoxError> {
    let Request { kind, items, .. } = stored.request;
    let outcome = match sender.ready().await {
        Ok(sender) => sender.call(stored.request.clone()).await,
        Err(error) => Err(error),
    };
    let mut fate = Fate::Delivered;
    let Exported { sent, failed } = match outcome {
        Ok(exported) => exported,
        Err(error) if is_temporary(&error) => return Err(error),
        Err(error) => {
            health.gave_up(&error, kind, items);
            fate = Fate::failed(&error);
            Exported {
                sent: 0,
                failed: items,
            }
        }
    };
    // That is so, whatever comes of taking it away.
    health.deliveries().sent(kind, sent);
    health.deliveries().failed(kind, failed);
    storage.settle(&stored, fate);
    let storage = Arc::clone(storage);
    if let Some(error) = tokio::task::spawn_blocking(move || storage.remove(&stored)).await? {
        health.storage_fault(Some(&error));
    }
    Ok(fate == Fate::Delivered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::http::HttpFailure;
    use crate::push::verdict::MAX_WAIT;

    #[test]
    fn a_peer_that_asks_for_a_long_wait_gets_it_within_bounds() {
        let pause = |delay| pause_after(&(Box::new(HttpFailure::asking_for(delay)) as BoxError));
        assert_eq!(pause(Duration::ZERO), RETRY_PAUSE);
        assert_eq!(pause(Duration::from_secs(600)), Duration::from_secs(600));
        assert_eq!(pause(Duration::MAX), MAX_WAIT);
        assert_eq!(pause_after(&"refused".into()), RETRY_PAUSE);
    }
}

#[cfg(test)]
#[cfg(feature = "storage")]
mod stop_tests {
    use std::path::Path;
    use std::sync::atomic::AtomicU32;

    use bytes::Bytes;
    use flowtap_pipeline::PipelineKind;
    use tokio::time::Instant;

    use super::*;
    use crate::push::delivery::{Delivery, Spool};
    use crate::push::health::Addresses;
    use crate::push::http::HttpFailure;
    use crate::push::retry::RetryConfig;
    use crate::push::{Client, Senders, sender};
    use crate::testing::context;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A peer that takes requests and never answers; counts them.
    #[derive(Clone, Debug, Default)]
    struct Silent(Arc<AtomicU32>);

    impl Client for Silent {
        async fn send(&self, _: Request) -> Result<Exported, BoxError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::future::pending().await
        }

        fn reconnect(&self) {}
    }

    async fn open(directory: &Path, peer: &Silent) -> (Delivery, Spool, Health) {
        let health = Health::new(&context(), Addresses::one(&"peer"));
        // So short that a retry is under way before anything looks.
        let retry = RetryConfig {
            initial_interval: Duration::from_millis(1),
            ..RetryConfig::default()
        };
        let sender = sender(peer.clone(), &retry, TIMEOUT, health.clone());
        let mut spool = Spool::default();
        let delivery = Delivery::open_in(directory, sender, &health, &context(), &mut spool)
            .await
            .unwrap();
        (delivery, spool, health)
    }

    async fn until_attempted(delivery: &mut Delivery, health: &Health, peer: &Silent) {
        let request = Request {
            body: Bytes::from_static(b"points"),
            kind: PipelineKind::Metrics,
            items: 1,
            last: false,
        };
        delivery.send(health, request).await.unwrap();
        while peer.0.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// A peer that takes points, and wants no log record for an hour.
    #[derive(Clone, Debug, Default)]
    struct HalfAway(Arc<AtomicU32>);

    impl Client for HalfAway {
        async fn send(&self, request: Request) -> Result<Exported, BoxError> {
            if request.kind == PipelineKind::Logs {
                return Err(Box::new(HttpFailure::asking_for(Duration::from_secs(3600))));
            }
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Exported {
                sent: request.items,
                failed: 0,
            })
        }

        fn reconnect(&self) {}
    }

    #[tokio::test]
    async fn log_records_that_a_peer_does_not_take_hold_no_points_up() {
        let dir = tempfile::tempdir().unwrap();
        let peer = HalfAway::default();
        let health = Health::new(&context(), Addresses::one(&"peer"));
        let sender = || sender(peer.clone(), &RetryConfig::default(), TIMEOUT, health.clone());
        let mut spool = Spool::default();
        let senders = Senders::by_kind(sender(), sender());
        let mut delivery = Delivery::open_in(dir.path(), senders, &health, &context(), &mut spool)
            .await
            .unwrap();
        for kind in [PipelineKind::Logs, PipelineKind::Metrics, PipelineKind::Metrics] {
            let request = Request {
                body: Bytes::from_static(b"items"),
                kind,
                items: 1,
                last: false,
            };
            delivery.send(&health, request).await.unwrap();
        }
        let Delivery::Spooled(storage, _) = &delivery else {
            panic!("not on disk");
        };
        let taken = async {
            while storage.waiting().0 > 1 {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), taken)
            .await
            .unwrap();
        assert_eq!(peer.0.load(Ordering::Relaxed), 2);
        let waiting = storage.first(None).unwrap().unwrap();
        assert_eq!(waiting.request.kind, PipelineKind::Logs);
    }

    #[tokio::test]
    async fn a_full_disk_is_shown_until_a_request_is_stored_and_none_is_left_that_is_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let (context, peer) = (context(), HalfAway::default());
        let health = Health::new(&context, Addresses::one(&"peer"));
        let sender = sender(peer.clone(), &RetryConfig::default(), TIMEOUT, health.clone());
        let mut spool = Spool::default();
        let mut delivery = Delivery::open_in(dir.path(), sender, &health, &context, &mut spool)
            .await
            .unwrap();
        let Delivery::Spooled(storage, _) = &delivery else {
            panic!("not on disk");
        };
        let storage = Arc::clone(storage);
        let request = || Request {
            body: Bytes::from_static(b"points"),
            kind: PipelineKind::Metrics,
            items: 1,
            last: false,
        };
        let shown = || context.status.load()["exporters/test"].error.clone();
        let logs = Request {
            kind: PipelineKind::Logs,
            ..request()
        };
        storage.set_full(true);
        for sent in 1..3 {
            delivery.send(&health, request()).await.unwrap();
            assert_eq!(peer.0.load(Ordering::Relaxed), sent, "from memory");
            let error = shown().unwrap();
            assert!(error.contains("storage.directory"), "{error}");
        }
        // From now on nothing is sent from disk: the log records have no answer for an hour.
        storage.set_full(false);
        delivery.send(&health, logs).await.unwrap();
        while shown().is_none_or(|error| error.contains("storage.directory")) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        storage.set_full(true);
        // They are delivered, and can't be removed.
        let stored = storage.first(None).unwrap().unwrap();
        assert!(storage.remove(&stored).is_some());
        delivery.send(&health, request()).await.unwrap();
        assert!(shown().unwrap().contains("storage.directory"));
        storage.set_full(false);
        delivery.send(&health, request()).await.unwrap();
        assert!(shown().unwrap().contains("storage.directory"));
        storage.remove_rest();
        delivery.send(&health, request()).await.unwrap();
        assert!(!shown().unwrap_or_default().contains("storage.directory"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_one_attempt_of_a_silent_peer_and_for_no_second_one() {
        let dir = tempfile::tempdir().unwrap();
        let peer = Silent::default();
        let (mut delivery, mut spool, health) = open(dir.path(), &peer).await;
        until_attempted(&mut delivery, &health, &peer).await;
        let began = Instant::now();
        spool.stop().await;
        assert!(
            began.elapsed() <= TIMEOUT + 2 * LOOK_INTERVAL,
            "{:?}",
            began.elapsed()
        );
        let Delivery::Spooled(storage, _) = &delivery else {
            panic!("not on disk");
        };
        assert_eq!(storage.waiting().0, 1, "it stays on disk");
    }

    #[tokio::test(start_paused = true)]
    async fn an_exporter_that_is_given_up_leaves_its_file_to_the_next_one_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let peer = Silent::default();
        let (mut delivery, spool, health) = open(dir.path(), &peer).await;
        until_attempted(&mut delivery, &health, &peer).await;
        // As an aborted task does; that of the spool has not ended when this returns.
        drop((delivery, spool));
        let (delivery, _spool, _) = open(dir.path(), &peer).await;
        let Delivery::Spooled(storage, _) = &delivery else {
            panic!("not on disk");
        };
        assert_eq!(storage.waiting().0, 1);
    }
}
