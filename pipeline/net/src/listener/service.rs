//! The service of one connection: its handshake, its requests, and how far its client has read.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request, Response, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::connections::Connection;
use super::hosts::AllowedHosts;

/// Upper bound of a request's head.
const MAX_REQUEST_BYTES: usize = 16 * 1024;

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The routes as one connection sees them.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) routes: Router,
    /// Names that `Host` may have, if it is checked.
    pub(super) hosts: Option<AllowedHosts>,
    pub(super) connection: Arc<Connection>,
}

impl Service {
    /// Serves `stream`, over TLS with an `acceptor`, until its client is served or the connection is closed; then gives `permit` back.
    pub(super) async fn run(
        self,
        stream: TcpStream,
        acceptor: Option<TlsAcceptor>,
        timeout: Duration,
        watcher: Watcher,
        permit: OwnedSemaphorePermit,
    ) {
        let connection = Arc::clone(&self.connection);
        let serving = async {
            match acceptor {
                None => serve(stream, self, timeout, watcher).await,
                Some(acceptor) => {
                    if let Some(stream) = handshake(&acceptor, stream, timeout).await {
                        serve(stream, self, timeout, watcher).await;
                    }
                }
            }
        };
        tokio::select! {
            () = connection.closed() => {}
            () = serving => {}
        }
        drop(permit);
    }

    async fn respond(self, request: Request<Incoming>) -> Result<Response<Tracked>, Infallible> {
        self.connection.handling();
        let (parts, body) = request.into_parts();
        let checked = self.hosts.as_ref().map_or(Ok(()), |hosts| hosts.check(&parts));
        let mut response = match checked {
            Ok(()) => self.routes.oneshot(Request::from_parts(parts, body)).await?,
            Err(refusal) => refusal.into_response(),
        };
        let headers = response.headers_mut();
        for (name, value) in [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
        ] {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        self.connection.responding();
        let connection = self.connection;
        Ok(response.map(|body| Tracked { body, connection }))
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    timeout: Duration,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    match tokio::time::timeout(timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Service,
    timeout: Duration,
    watcher: Watcher,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(MAX_REQUEST_BYTES)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| service.clone().respond(request)),
        );
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A response's body, which shows how far its client has read: hyper asks for the next chunk when it has room for it.
struct Tracked {
    body: Body,
    connection: Arc<Connection>,
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if polled.is_ready() {
            this.connection.responding();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.connection.idle();
    }
}
