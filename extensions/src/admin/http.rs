//! The daemon's own listeners.

use std::net::SocketAddr;

use axum::Router;
use flowtap_net::listener::{AllowedHosts, ClosedConnections, Listener};
use flowtap_pipeline::StageError;
use opentelemetry::metrics::Meter;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running listener; it stops when the token is cancelled that it was started with.
pub type Server = JoinHandle<()>;

/// The address of a listener, and the names under which it answers.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its section in the config, such as `service.admin`.
    pub section: &'a str,
    /// Title for the log, such as `status page`.
    pub title: &'a str,
    /// Path of that page.
    pub path: &'a str,
    /// Where it listens.
    pub address: SocketAddr,
    /// Names that a request may be for.
    pub allowed_hosts: &'a [String],
}

/// Binds `endpoint` and serves `routes` there until `stop` is cancelled.
///
/// # Errors
/// [`StageError::Listen`] if the address can't be bound.
pub async fn serve(
    endpoint: Endpoint<'_>,
    routes: Router,
    meter: &Meter,
    stop: CancellationToken,
) -> Result<Server, StageError> {
    let Endpoint { section, address, .. } = endpoint;
    let closed = ClosedConnections::new(meter, &section.replace('.', "/"));
    let listener = Listener::bind(address, closed)
        .await
        .map_err(|source| StageError::Listen {
            address,
            key: format!("{section}.endpoint"),
            source,
        })?
        .hosts(AllowedHosts::new(endpoint.allowed_hosts));
    let address = listener.address();
    tracing::info!(%address, "{} on http://{address}{}", endpoint.title, endpoint.path);
    Ok(tokio::spawn(listener.serve(routes, stop)))
}
