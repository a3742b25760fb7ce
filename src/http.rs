//! The daemon's own small listeners.

use std::net::SocketAddr;

use axum::Router;
use flowtap_pipeline::StageError;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A listener at work; stops when the token is cancelled that it was started with.
pub(crate) type Server = JoinHandle<()>;

/// Binds `address` and serves `routes` there until `stop` is cancelled.
///
/// # Errors
/// [`StageError::Listen`] if the address can't be had.
pub(crate) async fn serve(
    address: SocketAddr,
    routes: Router,
    stop: CancellationToken,
) -> Result<Server, StageError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| StageError::Listen { address, source })?;
    Ok(tokio::spawn(async move {
        let serving = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!(%address, %error, "a listener has stopped");
        }
    }))
}
