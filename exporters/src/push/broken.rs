//! Why a connection broke. A client of HTTP/2 that finds its connection gone says that the request was canceled; the cause, such as the
//! alert of a peer that wants a certificate, is an error that only the connection has seen.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tower::{BoxError, Service};

use super::connect::{Route, Stream};
use super::error::{Broken, chain};

/// Most pieces of what a peer has sent that are read to find its alert.
const MAX_READS: usize = 16;

/// Connections in a row that can break without an error of TLS before the last one no longer explains them: of connections that a peer
/// closes with an alert, some are gone before the alert is read.
const MAX_UNEXPLAINED: u64 = 8;

/// The error of the newest connection of an exporter. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Newest(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    connection: u64,
    broken: Option<Broken>,
    /// The last error of TLS, and its connection, while no request is answered.
    explained: Option<(u64, Broken)>,
}

impl Newest {
    /// Why the newest connection broke; the last error of TLS, if one before broke by that and nothing was answered since.
    pub(crate) fn broken(&self) -> Option<Broken> {
        let record = self.record();
        let explained = record
            .explained
            .as_ref()
            .filter(|(connection, _)| record.connection - connection <= MAX_UNEXPLAINED);
        match (&record.broken, explained) {
            (Some(broken), _) if broken.is_tls => Some(broken.clone()),
            (_, Some((_, broken))) => Some(broken.clone()),
            (broken, None) => broken.clone(),
        }
    }

    /// A request was answered, or a connection could not be made: errors of TLS before it explain nothing after it.
    pub(crate) fn forget(&self) {
        self.record().explained = None;
    }

    /// Begins a connection, and returns its number.
    fn begin(&self) -> u64 {
        let mut record = self.record();
        record.connection += 1;
        record.broken = None;
        record.connection
    }

    /// The first error counts, unless a later one is of TLS; of an older connection none does.
    fn note(&self, connection: u64, error: &io::Error) {
        let is_tls = is_tls(error);
        let mut record = self.record();
        let is_new = record.broken.as_ref().is_none_or(|known| is_tls && !known.is_tls);
        if record.connection == connection && is_new {
            let broken = Broken {
                text: chain(error),
                is_tls,
            };
            if is_tls {
                record.explained = Some((connection, broken.clone()));
            }
            record.broken = Some(broken);
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // Every statement under the lock leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

/// Makes connections whose errors are kept.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) inner: HttpsConnector<Route>,
    pub(crate) newest: Newest,
}

impl Service<Uri> for Connector {
    type Response = Watched;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Watched, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, peer: Uri) -> Self::Future {
        let newest = self.newest.clone();
        let connection = newest.begin();
        let connecting = self.inner.call(peer);
        Box::pin(async move {
            let io = match connecting.await {
                Ok(io) => io,
                Err(error) => {
                    newest.forget();
                    return Err(error);
                }
            };
            Ok(Watched {
                io,
                connection,
                newest,
            })
        })
    }
}

/// A connection whose errors are kept.
pub(crate) struct Watched {
    io: MaybeHttpsStream<Stream>,
    connection: u64,
    newest: Newest,
}

impl Watched {
    fn seen<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &outcome {
            self.newest.note(self.connection, error);
        }
        outcome
    }

    /// Of a write. After one that failed nobody would read the alert with which the peer has closed the connection, so it is read here.
    fn written<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(outcome, Poll::Ready(Err(_))) {
            for _ in 0..MAX_READS {
                let mut bytes = [0; 1024];
                let mut buffer = ReadBuf::new(&mut bytes);
                match Pin::new(&mut self.io).poll_read(context, buffer.unfilled()) {
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(Err(error)) if is_tls(&error) => {
                        self.newest.note(self.connection, &error);
                        break;
                    }
                    _ => break,
                }
            }
        }
        self.seen(outcome)
    }
}

impl Connection for Watched {
    fn connected(&self) -> Connected {
        self.io.connected()
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_read(context, buffer);
        self.seen(outcome)
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(context, buffer);
        self.written(context, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(context);
        self.written(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(context, buffers);
        self.written(context, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALERT: &str = "received fatal alert: CertificateRequired";

    #[test]
    fn the_error_of_tls_counts_before_what_follows_from_it_and_only_of_the_newest_connection() {
        let alert = || {
            io::Error::other(rustls::Error::AlertReceived(
                rustls::AlertDescription::CertificateRequired,
            ))
        };
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        let text = |newest: &Newest| newest.broken().map(|broken| broken.text);
        let newest = Newest::default();
        let first = newest.begin();
        newest.note(first, &pipe());
        assert_eq!(text(&newest).as_deref(), Some("broken pipe"));
        newest.note(first, &alert());
        newest.note(first, &pipe());
        assert!(text(&newest).unwrap().starts_with(ALERT), "{newest:?}");
        newest.forget();
        let second = newest.begin();
        newest.note(first, &alert());
        assert_eq!(text(&newest), None);
        newest.note(second, &pipe());
        assert_eq!(text(&newest).as_deref(), Some("broken pipe"));
    }

    #[test]
    fn an_error_of_tls_explains_the_next_connections_until_a_request_is_answered() {
        let alert = io::Error::other(rustls::Error::AlertReceived(
            rustls::AlertDescription::CertificateRequired,
        ));
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        let newest = Newest::default();
        let is_explained = || {
            newest
                .broken()
                .is_some_and(|broken| broken.text.starts_with(ALERT))
        };
        newest.note(newest.begin(), &alert);
        for _ in 0..MAX_UNEXPLAINED {
            let next = newest.begin();
            assert!(is_explained());
            newest.note(next, &pipe());
            assert!(is_explained());
        }
        newest.note(newest.begin(), &pipe());
        assert!(!is_explained(), "too many have broken otherwise");
        newest.note(newest.begin(), &alert);
        newest.forget();
        newest.note(newest.begin(), &pipe());
        assert!(!is_explained());
    }
}
