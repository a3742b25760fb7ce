//! Parts shared by exporters that push: encoded requests, their connections, retries, and a queue on disk.
//!
//! | module | |
//! |---|---|
//! | [`endpoint`] | the address, without secrets |
//! | [`proxy`] | a proxy of the config or of the environment |
//! | [`connect`] | TCP, proxies, Unix sockets, TLS |
//! | [`tunnel`] | CONNECT, and failures of proxies |
//! | [`broken`] | why a connection broke |
//! | [`channel`] | the connection in use, and when it is replaced |
//! | [`http`] | a POST over HTTP/1.1 |
//! | [`error`] | failures in words, and whether a server or the network caused them |
//! | [`verdict`] | failures that are temporary |
//! | [`retry`] | when they are retried |
//! | [`secrets`] | secrets that are empty, and those that a peer repeats |
//! | [`health`] | reports deliveries in `/status` and the log |
//! | [`delivery`] | the way of a request: directly, or through a file |
//! | [`fate`] | what has become of a request |
//! | [`markers`] | series that have ended, until a peer has that |
//! | [`progress`] | the state of series that an exporter leaves to the one that replaces it |
//! | [`zeros`] | series whose 0 no peer has yet |
//! | [`spool`] | the task that sends what is on disk |
//! | [`unstored`] | the way of a request that the disk does not take |
//! | [`storage`] | requests on disk, until they are delivered |

mod broken;
pub(crate) mod channel;
pub(crate) mod connect;
pub(crate) mod delivery;
pub(crate) mod endpoint;
pub(crate) mod error;
pub(crate) mod fate;
pub(crate) mod health;
pub mod http;
pub(crate) mod markers;
pub(crate) mod progress;
pub(crate) mod proxy;
mod request;
pub mod retry;
pub(crate) mod secrets;
mod spool;
#[cfg(feature = "storage")]
pub mod storage;
#[cfg(not(feature = "storage"))]
#[path = "no_storage.rs"]
pub mod storage;
mod tunnel;
mod unstored;
mod verdict;
mod warned;
pub(crate) mod zeros;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use flowtap_pipeline::{Exported, PipelineKind, Series, Snapshot, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder};

use self::error::TimedOut;
use self::health::Health;
pub(crate) use self::request::{Lane, Request};
use self::retry::{Backoff, RetryConfig};
use self::verdict::{Paused, asked_delay, described};

/// `User-Agent` of every request.
pub(crate) const USER_AGENT: &str = concat!("flowtap/", env!("CARGO_PKG_VERSION"));

/// The time at which a series ended that `snapshot` lists as ended: one millisecond into the window. Its last point is at the window's
/// start at the latest, and a series of the same labels, as after a reload with other buckets, begins in this window at the earliest.
pub(crate) fn ended_at(snapshot: &Snapshot) -> Timestamp {
    let opened = snapshot.at.as_nanos().saturating_sub(nanos(snapshot.window));
    let ended = Timestamp::from_nanos(opened).plus(Duration::from_millis(1));
    // A window that was cut short by a set clock can be of no length.
    ended.min(snapshot.at)
}

/// The time of the 0 that goes before the first point, at `at`, of a series: two milliseconds into its first window, after the end of
/// what ended in the same window. In a shorter window, as the first one can be, one millisecond before its end, because a store keeps one
/// sample per millisecond.
pub(crate) fn zero_at(series: &Series, at: Timestamp) -> Timestamp {
    let zero = series.start().plus(Duration::from_millis(2));
    let milliseconds = |time: Timestamp| time.as_nanos() / 1_000_000;
    if milliseconds(zero) < milliseconds(at) {
        zero
    } else {
        Timestamp::from_nanos(at.as_nanos().saturating_sub(1_000_000))
    }
}

/// Contents of `shared`.
pub(crate) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement under such a lock leaves it whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Sends requests over one connection.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    /// Makes one attempt.
    fn send(&self, request: Request) -> impl Future<Output = Result<Exported, BoxError>> + Send;

    /// Uses a new connection from the next attempt on.
    fn reconnect(&self);
}

/// A request's way to its peer, with retries and time limits.
pub(crate) type Sender = BoxCloneSyncService<Request, Exported, BoxError>;

/// The way of the requests of each kind: one, or two that do not wait for each other.
#[derive(Clone)]
pub(crate) struct Senders {
    metrics: Sender,
    /// If they have a separate way.
    logs: Option<Sender>,
}

impl From<Sender> for Senders {
    fn from(sender: Sender) -> Self {
        Self {
            metrics: sender,
            logs: None,
        }
    }
}

impl Senders {
    pub(crate) const fn by_kind(metrics: Sender, logs: Sender) -> Self {
        Self {
            metrics,
            logs: Some(logs),
        }
    }

    pub(crate) const fn of(&mut self, kind: PipelineKind) -> &mut Sender {
        match (kind, &mut self.logs) {
            (PipelineKind::Logs, Some(logs)) => logs,
            _ => &mut self.metrics,
        }
    }

    /// The lane of requests of `kind`.
    const fn lane_of(&self, kind: PipelineKind) -> Lane {
        match self.logs {
            None => None,
            Some(_) => Some(kind),
        }
    }

    /// Each lane with its way.
    fn lanes(&self) -> Vec<(Lane, Sender)> {
        match &self.logs {
            None => vec![(None, self.metrics.clone())],
            Some(logs) => vec![
                (Some(PipelineKind::Metrics), self.metrics.clone()),
                (Some(PipelineKind::Logs), logs.clone()),
            ],
        }
    }
}

/// `client` with a time limit for each attempt, and retries as `retry` has them; one request at a time.
pub(crate) fn sender<C: Client>(client: C, retry: &RetryConfig, timeout: Duration, health: Health) -> Sender {
    let service = ServiceBuilder::new()
        .concurrency_limit(1)
        .retry(Backoff::new(retry, health.clone()))
        .service(Attempt {
            client,
            timeout,
            health,
            pauses: Pauses::default(),
        });
    BoxCloneSyncService::new(service)
}

/// One attempt: its time limit, and what comes of it for the exporter's state.
#[derive(Clone, Debug)]
struct Attempt<C> {
    client: C,
    timeout: Duration,
    health: Health,
    pauses: Pauses,
}

/// Until when a peer wants no request, by its answer to one before. Cloning it shares it. Points and log records may have different
/// peers.
#[derive(Clone, Debug, Default)]
struct Pauses(Arc<Mutex<BTreeMap<PipelineKind, (Instant, String)>>>);

impl Pauses {
    /// The failure of a request that comes too early. The last one of an exporter is none: there is no later one.
    fn of(&self, request: &Request) -> Option<Paused> {
        let pauses = self.pauses();
        let (until, cause) = pauses.get(&request.kind).filter(|_| !request.last)?;
        let rest = until.saturating_duration_since(Instant::now());
        (!rest.is_zero()).then(|| Paused {
            cause: cause.clone(),
            rest,
        })
    }

    /// Keeps what the peer asks for in `error`, if it does.
    fn keep(&self, kind: PipelineKind, error: &BoxError) {
        let mut pauses = self.pauses();
        match asked_delay(error) {
            Some(delay) if !delay.is_zero() => {
                pauses.insert(kind, (Instant::now() + delay, described(error)));
            }
            _ => {
                pauses.remove(&kind);
            }
        }
    }

    fn end(&self, kind: PipelineKind) {
        self.pauses().remove(&kind);
    }

    fn pauses(&self) -> MutexGuard<'_, BTreeMap<PipelineKind, (Instant, String)>> {
        // Every statement under the lock leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Client> Service<Request> for Attempt<C> {
    type Response = Exported;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Exported, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The connection is awaited in `call`, so that the time limit includes it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self {
            client,
            timeout,
            health,
            pauses,
        } = self.clone();
        async move {
            let kind = request.kind;
            // The peer is not asked: its answer is the one that it has given.
            if let Some(paused) = pauses.of(&request) {
                return Err(paused.into());
            }
            health.attempting(kind);
            let outcome = tokio::time::timeout(timeout, client.send(request))
                .await
                .unwrap_or_else(|_| {
                    client.reconnect();
                    Err(Box::new(TimedOut(timeout)))
                });
            match &outcome {
                Ok(_) => {
                    pauses.end(kind);
                    health.succeeded(kind);
                }
                Err(error) => {
                    pauses.keep(kind, error);
                    health.failed(kind, error);
                }
            }
            outcome
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;
    use tower::ServiceExt;

    use super::health::Addresses;
    use super::http::HttpFailure;
    use super::*;
    use crate::testing::context;

    /// A peer that asks for a wait of this length, always; counts its requests.
    #[derive(Clone, Debug)]
    struct Busy(Duration, Arc<AtomicU32>);

    impl Client for Busy {
        async fn send(&self, _: Request) -> Result<Exported, BoxError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Err(Box::new(HttpFailure::asking_for(self.0)))
        }

        fn reconnect(&self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_a_peer_asks_for_is_one_for_the_requests_after_it() {
        let request = |kind, last| Request {
            body: Bytes::new(),
            kind,
            items: 1,
            last,
        };
        let points = request(PipelineKind::Metrics, false);
        for asked in [Duration::from_secs(3600), Duration::MAX] {
            let peer = Busy(asked, Arc::default());
            let health = Health::new(&context(), Addresses::one(&"peer"));
            let timeout = Duration::from_secs(10);
            let mut sender = sender(peer.clone(), &RetryConfig::default(), timeout, health);
            let mut send = async |request: &Request| {
                let outcome = sender.ready().await.unwrap().call(request.clone()).await;
                (described(&outcome.unwrap_err()), peer.1.load(Ordering::Relaxed))
            };
            let (first, requests) = send(&points).await;
            assert_eq!(requests, 1);
            for _ in 0..20 {
                tokio::time::advance(Duration::from_secs(60)).await;
                // The text is the same, so that there is one warning for all of them.
                assert_eq!(send(&points).await, (first.clone(), 1));
            }
            // Log records may have another peer, and nothing comes after the last request.
            assert_eq!(send(&request(PipelineKind::Logs, false)).await.1, 2);
            assert_eq!(send(&request(PipelineKind::Metrics, true)).await.1, 3);
            tokio::time::advance(Duration::from_secs(3601)).await;
            assert_eq!(send(&points).await.1, 4);
        }
    }
}
