//! What exporters that push have in common: requests that are encoded already, tried again, and kept on disk.
//!
//! | module | |
//! |---|---|
//! | [`http`] | a POST over HTTP/1.1, with TLS |
//! | [`retry`] | which failures are tried again, and when |
//! | [`storage`] | requests on disk, until they are delivered |

pub mod http;
pub mod retry;
pub mod storage;

use std::time::Duration;

use bytes::Bytes;
use flowtap_pipeline::Exported;
use flowtap_pipeline::telemetry::DeliveryTelemetry;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder};

use self::retry::{Backoff, RetryConfig};

/// An encoded request. Cloning it for a retry copies no bytes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// What is sent.
    pub(crate) body: Bytes,
    /// How many points it holds.
    pub(crate) points: u64,
    /// Whether flowtap is stopping.
    pub(crate) last: bool,
}

/// The way of a request to its peer, through retry and timeout.
pub(crate) type Sender = BoxCloneSyncService<Request, Exported, BoxError>;

/// `client` with a time limit for each attempt, and attempts as `retry` has them; one request at a time.
pub(crate) fn sender<C>(
    client: C,
    retry: &RetryConfig,
    timeout: Duration,
    deliveries: DeliveryTelemetry,
) -> Sender
where
    C: Service<Request, Response = Exported, Error = BoxError> + Clone + Send + Sync + 'static,
    C::Future: Send,
{
    let service = ServiceBuilder::new()
        .concurrency_limit(1)
        .retry(Backoff::new(retry, deliveries))
        .timeout(timeout)
        .service(client);
    BoxCloneSyncService::new(service)
}
