//! The Go exporter's debug endpoints, in its shapes: `/net-flow/tcp-listen` and `/net-flow/tcp-file`.

use std::fs;
use std::io;
use std::path::PathBuf;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flowtap_pipeline::ListenChange;
use flowtap_receivers::listen_scan;
use tokio::task::spawn_blocking;

/// The routes. `proc_root` is `/proc`, or where the host's is mounted.
pub(crate) fn routes(proc_root: PathBuf) -> Router {
    let for_file = proc_root.clone();
    Router::new()
        .route("/net-flow/tcp-listen", get(move || listening(proc_root.clone())))
        .route("/net-flow/tcp-file", get(move || table(for_file.clone())))
}

/// `{"code":0,"data":[80,443],"message":"success"}`.
async fn listening(proc_root: PathBuf) -> Response {
    let scanned = blocking(move || listen_scan::scan(&proc_root)).await;
    let (status, body) = match scanned {
        Ok(ListenChange::Rescanned { ports, .. }) => (
            StatusCode::OK,
            serde_json::json!({"code": 0, "data": ports, "message": "success"}),
        ),
        Ok(other) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            serde_json::json!({"code": 1, "data": [], "message": format!("{other:?}")}),
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            serde_json::json!({"code": 1, "data": [], "message": error.to_string()}),
        ),
    };
    let json = [(header::CONTENT_TYPE, "application/json")];
    (status, json, body.to_string()).into_response()
}

/// The kernel's table of TCP sockets as it is.
async fn table(proc_root: PathBuf) -> Response {
    let path = listen_scan::process_dir(&proc_root).join("net/tcp");
    match blocking(move || fs::read(path)).await {
        Ok(table) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], table).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// A large table takes the kernel a while.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
