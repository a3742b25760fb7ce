//! Clients of the Kubernetes API whose answers have a maximum size.
//!
//! The library collects an answer to a list as a whole, and a watch up to the next line break. An API server, or a proxy that stands
//! in for it, which never ends one would take all memory.

use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use kube::client::retry::RetryPolicy;
use kube::client::{Body as RequestBody, ClientBuilder};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, Service, ServiceBuilder, layer};

/// Maximum size of an answer, and of a line of a watch. An object has up to 1.5 MiB (etcd's limit), and few have more than some kilobytes.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Objects of a page of a list: at most [`MAX_ANSWER_BYTES`] if each has 650 KB.
pub(super) const PAGE: u32 = 100;

/// An answer, or a line of a watch, that exceeds [`MAX_ANSWER_BYTES`].
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} of the Kubernetes API exceeds {} MiB, the most that flowtap reads; hint: check which server answers at the address of the API server, \
     and the size of its objects",
    MAX_ANSWER_BYTES >> 20
)]
struct TooLong {
    what: &'static str,
}

/// A client that reports each failed request: the watcher counts failures and retries by itself, and the retries of the library would
/// hide those of an overloaded server (429, 503, 504) for minutes.
///
/// # Errors
/// Settings that can't be used.
pub(super) fn client(mut config: Config) -> kube::Result<Client> {
    config.default_retry = false;
    let bounded = layer::layer_fn(|inner| Bounded { inner });
    Ok(ClientBuilder::try_from(config)?.with_layer(&bounded).build())
}

/// The same client with some retries, for requests that nobody repeats. The first ones are within the time that a start waits.
pub(super) fn retrying(client: &Client) -> Client {
    let policy =
        RetryPolicy::new(Duration::from_millis(100), Duration::from_secs(1), 3, false).unwrap_or_default();
    let inner = client.clone();
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(policy))
        .map_err(BoxError::from)
        .service_fn(move |request| {
            let inner = inner.clone();
            async move { inner.send(request).await }
        });
    Client::new(service, client.default_namespace())
}

/// Ends an answer with an error when it becomes too long.
#[derive(Clone, Debug)]
struct Bounded<S> {
    inner: S,
}

impl<S, B> Service<Request<RequestBody>> for Bounded<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: axum::body::HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.split('&').any(|pair| pair == "watch=true");
        let answer = self.inner.call(request);
        async move { Ok(answer.await?.map(|body| bounded(Body::new(body), is_watch))) }.boxed()
    }
}

fn bounded(body: Body, is_watch: bool) -> Body {
    let mut counted = 0_usize;
    let chunks = body.into_data_stream().map_err(BoxError::from);
    let chunks = chunks.map(move |chunk| {
        let chunk = chunk?;
        let line_break = is_watch
            .then(|| chunk.iter().rposition(|byte| *byte == b'\n'))
            .flatten();
        match line_break {
            // Lines within a chunk are shorter than it.
            Some(at) => counted = chunk.len() - at - 1,
            None => counted = counted.saturating_add(chunk.len()),
        }
        if counted > MAX_ANSWER_BYTES {
            let what = if is_watch {
                "a line of a watch"
            } else {
                "an answer"
            };
            return Err(TooLong { what }.into());
        }
        Ok::<_, BoxError>(chunk)
    });
    // After an error the reader gets no more of it, and the connection is closed.
    let until_error = chunks.scan(false, |failed, chunk| {
        let ended = std::mem::replace(failed, chunk.is_err());
        std::future::ready((!ended).then_some(chunk))
    });
    Body::from_stream(until_error)
}
