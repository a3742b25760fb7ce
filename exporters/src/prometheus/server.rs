//! The listener: connections, over TLS if the config says so, no more of them than it allows.
//!
//! A peer that says nothing is let go after a while, and so is one that does not read what it asked for.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::tls::ServerCertificate;

/// How much of a request is read before it must make sense.
const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// How long after a failed accept, such as for want of descriptors, the next one is tried.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How often certificates are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(2);

/// How long scrapes that are under way may take to end when flowtap stops.
const LAST_SCRAPES: Duration = Duration::from_secs(1);

/// What a listener is made of.
pub(super) struct Server {
    pub(super) listener: TcpListener,
    pub(super) routes: Router,
    pub(super) tls: Option<(TlsAcceptor, Arc<ServerCertificate>)>,
    /// Connections at a time.
    pub(super) max_connections: usize,
    /// How long a request, a handshake, or the reading of an answer may stall.
    pub(super) timeout: Duration,
    /// Connections that were turned away.
    pub(super) refused: Counter<u64>,
    pub(super) exporter: KeyValue,
}

impl Server {
    /// Serves until `stop` is cancelled.
    pub(super) async fn run(self, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.max_connections));
        let graceful = GracefulShutdown::new();
        let mut certificates = tokio::time::interval(CERTIFICATE_INTERVAL);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                _ = certificates.tick() => {
                    self.refresh_certificate();
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted; it waits, and the next try is soon");
                    tokio::time::sleep(AFTER_FAILURE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                self.refused.add(1, std::slice::from_ref(&self.exporter));
                continue;
            };
            // A peer that does not read leaves its window shut; the kernel ends such a connection by itself.
            if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(self.timeout)) {
                tracing::debug!(%error, "no time limit on a connection");
            }
            let (tls, routes, timeout) = (self.tls.clone(), self.routes.clone(), self.timeout);
            let watcher = graceful.watcher();
            tokio::spawn(async move {
                match tls {
                    None => serve(stream, routes, timeout, watcher).await,
                    Some((acceptor, _)) => {
                        if let Some(stream) = handshake(&acceptor, stream, timeout).await {
                            serve(stream, routes, timeout, watcher).await;
                        }
                    }
                }
                drop(permit);
            });
        }
        let _ = tokio::time::timeout(LAST_SCRAPES, graceful.shutdown()).await;
    }

    fn refresh_certificate(&self) {
        if let Some((_, certificate)) = &self.tls {
            match certificate.refresh() {
                Ok(true) => tracing::info!("a new certificate is served"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the certificate before is served on"),
            }
        }
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
    routes: Router,
    timeout: Duration,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(MAX_REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}
