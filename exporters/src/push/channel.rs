//! The HTTP client of an exporter: one connection, replaced after an error that makes it suspect,
//! or when its TLS files have changed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::BoxError;

use super::broken::{Connector, Newest};
use super::connect::Dial;
use super::error::Broken;
use flowtap_net::tls::Stamp;

/// Pings of HTTP/2, also while no request is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepAlive {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

pub(crate) type HttpClient<B> = Client<Connector, B>;

/// Cloning it shares the connection.
#[derive(Debug)]
pub(crate) struct Channel<B> {
    dial: Arc<Dial>,
    keep_alive: Option<KeepAlive>,
    newest: Newest,
    current: Arc<Mutex<Current<B>>>,
}

#[derive(Debug)]
struct Current<B> {
    client: HttpClient<B>,
    /// The TLS files as they were when they were read.
    stamp: Stamp,
    /// Why the files that are there now can't be used.
    unusable: Option<String>,
}

impl<B> Clone for Channel<B> {
    fn clone(&self) -> Self {
        Self {
            dial: Arc::clone(&self.dial),
            keep_alive: self.keep_alive,
            newest: self.newest.clone(),
            current: Arc::clone(&self.current),
        }
    }
}

impl<B> Channel<B>
where
    B: Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// A channel that connects with its first request. Must be made within a tokio runtime.
    ///
    /// # Errors
    /// A TLS file that can't be used.
    pub(crate) fn new(dial: Dial, keep_alive: Option<KeepAlive>) -> Result<Self, BoxError> {
        let newest = Newest::default();
        let current = Current {
            // Before the files are read: what changes in between is read again.
            stamp: dial.tls.stamp(),
            client: client(&dial, keep_alive, &newest)?,
            unusable: None,
        };
        Ok(Self {
            dial: Arc::new(dial),
            keep_alive,
            newest,
            current: Arc::new(Mutex::new(current)),
        })
    }

    pub(crate) fn dial(&self) -> &Dial {
        &self.dial
    }

    /// Why the newest connection broke, if it did by an error of its own.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.newest.broken()
    }

    /// A request was answered: how connections before it broke explains nothing after it.
    pub(crate) fn answered(&self) {
        self.newest.forget();
    }

    /// The client, with the certificates and keys that are in the files now. Files that can't be used leave the ones before in
    /// place; they are tried again with every request.
    pub(crate) fn client(&self) -> HttpClient<B> {
        let mut current = self.current();
        let stamp = self.dial.tls.stamp();
        if stamp != current.stamp {
            match client(&self.dial, self.keep_alive, &self.newest) {
                Ok(client) => {
                    tracing::info!(endpoint = %self.dial.endpoint, "certificates or keys have changed and are read again");
                    *current = Current {
                        client,
                        stamp,
                        unusable: None,
                    };
                }
                Err(error) => {
                    let error = error.to_string();
                    if current.unusable.as_ref() != Some(&error) {
                        tracing::warn!(endpoint = %self.dial.endpoint, error, "changed TLS files can't be used; the previous ones stay in use; hint: make certificate and key readable for flowtap, and check that they fit together");
                        current.unusable = Some(error);
                    }
                }
            }
        }
        current.client.clone()
    }

    /// Gives up the connection: one on which an attempt ran into its time limit may be dead without the kernel knowing, and on
    /// HTTP/2 the next attempt would wait on the same one.
    pub(crate) fn reconnect(&self) {
        let mut current = self.current();
        // It could be made before, from the same files; if they are broken now, the old client stays.
        if let Ok(client) = client(&self.dial, self.keep_alive, &self.newest) {
            current.client = client;
        }
    }

    fn current(&self) -> MutexGuard<'_, Current<B>> {
        // Every statement under the lock leaves it whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn client<B>(dial: &Dial, keep_alive: Option<KeepAlive>, newest: &Newest) -> Result<HttpClient<B>, BoxError>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(1)
        .http2_only(dial.http2);
    if let Some(KeepAlive { interval, timeout }) = keep_alive {
        builder
            .http2_keep_alive_interval(interval)
            .http2_keep_alive_timeout(timeout)
            .http2_keep_alive_while_idle(true);
    }
    Ok(builder.build(Connector {
        inner: dial.connector()?,
        newest: newest.clone(),
    }))
}
