//! The way of a request that the disk does not take, as a full one.
//!
//! It waits in memory until the disk takes it, or until those of its lane that are on disk have been delivered; then it is sent from
//! memory, and goes to disk between two attempts as soon as there is room. So requests of a lane are delivered in their order, and
//! those after it wait in the exporter's queue.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::Exported;
use tokio::time::{Instant, sleep};
use tower::{BoxError, Service, ServiceExt};

use super::fate::Fate;
use super::health::Health;
use super::storage::{Storage, StorageError};
use super::{Request, Senders};

/// Interval at which the disk is asked again.
const INTERVAL: Duration = Duration::from_secs(1);

/// When flowtap stops, the last request waits no longer than this for those on disk: a peer that takes none of them takes this
/// one neither, and the run has its own deadline.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Puts `request` on disk, and counts what is dropped for it.
///
/// # Errors
/// The inner one if the disk does not take it; the outer one if the thread that writes panicked.
pub(super) async fn store(
    storage: &Arc<Storage>,
    health: &Health,
    request: &Request,
) -> Result<Result<Fate, StorageError>, BoxError> {
    let (to, kept) = (Arc::clone(storage), request.clone());
    // It waits for the disk.
    let (fate, dropped) = match tokio::task::spawn_blocking(move || to.keep(&kept)).await? {
        Ok(kept) => kept,
        Err(error) => return Ok(Err(error)),
    };
    // Room for one is not room for all: those that are delivered may still be there.
    if storage.unremoved() == 0 {
        health.storage_fault(None);
    }
    // The call that they are counted with is of another kind, perhaps.
    for (kind, items) in dropped {
        health.no_room(kind, items);
    }
    Ok(Ok(fate))
}

/// Delivers a request that [`store`] refused with `refused`.
///
/// # Errors
/// That of its last attempt; `refused` if it is the last request of a run whose older ones nobody takes.
pub(super) async fn deliver(
    storage: &Arc<Storage>,
    senders: &mut Senders,
    health: &Health,
    request: Request,
    refused: StorageError,
) -> Result<(Exported, Fate), BoxError> {
    let lane = senders.lane_of(request.kind);
    let since = Instant::now();
    while is_waiting(storage, lane).await? {
        if request.last && since.elapsed() >= LAST_WAIT {
            return Err(refused.into());
        }
        sleep(INTERVAL).await;
        if let Ok(fate) = store(storage, health, &request).await? {
            return Ok((Exported::default(), fate));
        }
    }
    let sender = senders.of(request.kind);
    let mut attempts = pin!(async { sender.ready().await?.call(request.clone()).await });
    loop {
        tokio::select! {
            outcome = &mut attempts => return Ok((outcome?, Fate::Delivered)),
            () = sleep(INTERVAL) => {}
        }
        // Between two attempts: the next one does not begin while nothing polls it, so the peer can't have the request as well.
        if !health.is_attempting(lane)
            && let Ok(fate) = store(storage, health, &request).await?
        {
            return Ok((Exported::default(), fate));
        }
    }
}

async fn is_waiting(storage: &Arc<Storage>, lane: super::Lane) -> Result<bool, BoxError> {
    let storage = Arc::clone(storage);
    Ok(tokio::task::spawn_blocking(move || storage.is_waiting(lane)).await?)
}

#[cfg(test)]
#[cfg(feature = "storage")]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;
    use flowtap_pipeline::PipelineKind;

    use super::*;
    use crate::push::delivery::{Delivery, Spool};
    use crate::push::health::Addresses;
    use crate::push::http::HttpFailure;
    use crate::push::retry::RetryConfig;
    use crate::push::{Client, lock, sender};
    use crate::testing::context;

    /// A peer that is away at first; keeps what it takes, and how often it was asked.
    #[derive(Clone, Debug, Default)]
    struct Peer {
        is_there: Arc<AtomicBool>,
        taken: Arc<Mutex<Vec<Bytes>>>,
        asked: Arc<Mutex<Vec<Bytes>>>,
    }

    impl Client for Peer {
        async fn send(&self, request: Request) -> Result<Exported, BoxError> {
            lock(&self.asked).push(request.body.clone());
            if !self.is_there.load(Ordering::Relaxed) {
                return Err(Box::new(HttpFailure::asking_for(Duration::from_millis(10))));
            }
            lock(&self.taken).push(request.body);
            Ok(Exported {
                sent: request.items,
                failed: 0,
            })
        }

        fn reconnect(&self) {}
    }

    async fn open(directory: &Path, peer: &Peer) -> (Delivery, Spool, Health) {
        let health = Health::new(&context(), Addresses::one(&"peer"));
        let retry = RetryConfig {
            initial_interval: Duration::from_millis(10),
            max_interval: Duration::from_millis(10),
            ..RetryConfig::default()
        };
        let sender = sender(peer.clone(), &retry, Duration::from_secs(10), health.clone());
        let mut spool = Spool::default();
        let delivery = Delivery::open_in(directory, sender, &health, &context(), &mut spool)
            .await
            .unwrap();
        (delivery, spool, health)
    }

    fn request(body: &'static str) -> Request {
        Request {
            body: Bytes::from_static(body.as_bytes()),
            kind: PipelineKind::Metrics,
            items: 1,
            last: false,
        }
    }

    fn storage(delivery: &Delivery) -> Arc<Storage> {
        match delivery {
            Delivery::Spooled(storage, _) => Arc::clone(storage),
            Delivery::Direct(_) => panic!("not on disk"),
        }
    }

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let look = async {
            while !is_so() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(30), look).await.is_ok(),
            "never {what}"
        );
    }

    #[tokio::test]
    async fn a_request_from_memory_is_sent_after_those_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::default();
        let (mut delivery, _spool, health) = open(dir.path(), &peer).await;
        let storage = storage(&delivery);
        for body in ["first", "second"] {
            delivery.send(&health, request(body)).await.unwrap();
        }
        storage.set_full(true);
        let third =
            tokio::spawn(async move { delivery.send_tracked(&health, request("third")).await.unwrap() });
        until("tried", || lock(&peer.asked).len() > 3).await;
        assert!(
            lock(&peer.asked).iter().all(|body| body == "first"),
            "the oldest one alone"
        );
        peer.is_there.store(true, Ordering::Relaxed);
        let (exported, fate) = third.await.unwrap();
        assert_eq!((exported.sent, fate), (1, Fate::Delivered));
        assert_eq!(*lock(&peer.taken), ["first", "second", "third"]);
    }

    #[tokio::test]
    async fn a_request_in_memory_goes_to_disk_once_there_is_room() {
        for older in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let peer = Peer::default();
            let (mut delivery, spool, health) = open(dir.path(), &peer).await;
            let storage = storage(&delivery);
            if older {
                delivery.send(&health, request("older")).await.unwrap();
            }
            storage.set_full(true);
            let new =
                tokio::spawn(async move { delivery.send_tracked(&health, request("new")).await.unwrap() });
            until("tried", || lock(&peer.asked).len() > 3).await;
            storage.set_full(false);
            let (exported, fate) = new.await.unwrap();
            assert_eq!(exported, Exported::default());
            assert!(matches!(fate, Fate::Stored(_)), "{fate:?}");
            peer.is_there.store(true, Ordering::Relaxed);
            until("delivered", || storage.waiting().0 == 0).await;
            let expected: &[&str] = if older { &["older", "new"] } else { &["new"] };
            assert_eq!(*lock(&peer.taken), expected);
            drop(spool);
        }
    }
}
