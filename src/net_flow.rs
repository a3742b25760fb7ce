//! The Go exporter's debug endpoints, in its shapes: `/net-flow/tcp-listen` and `/net-flow/tcp-file`.
//!
//! Both make the kernel go through its sockets, so few requests do so at a time, and the table is read in chunks as the client
//! takes them: memory does not grow with the number of sockets.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flowtap_pipeline::ListenChange;
use flowtap_receivers::listen_scan;
use futures::stream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Requests that read at the same time. None holds its place while its client is slow.
const MAX_CONCURRENT: usize = 2;

/// Bytes of the table that are read at a time.
const CHUNK: usize = 64 << 10;

/// The routes. `proc_root` is `/proc`, or where the host's is mounted.
pub(crate) fn routes(proc_root: PathBuf) -> Router {
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT));
    let (table_root, table_permits) = (proc_root.clone(), Arc::clone(&permits));
    Router::new()
        .route(
            "/net-flow/tcp-listen",
            get(move || listening(proc_root.clone(), Arc::clone(&permits))),
        )
        .route(
            "/net-flow/tcp-file",
            get(move || table(table_root.clone(), Arc::clone(&table_permits))),
        )
}

/// `{"code":0,"data":[80,443],"message":"success"}`.
async fn listening(proc_root: PathBuf, permits: Arc<Semaphore>) -> Response {
    let scanned = blocking(&permits, move || listen_scan::scan(&proc_root)).await;
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
async fn table(proc_root: PathBuf, permits: Arc<Semaphore>) -> Response {
    let path = listen_scan::process_dir(&proc_root).join("net/tcp");
    let opened = blocking(&permits, move || chunk(File::open(path)?)).await;
    let first = match opened {
        Ok(first) => first,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    let chunks = stream::unfold(Some(Ok(first)), move |next| {
        let permits = Arc::clone(&permits);
        async move {
            let (bytes, file) = match next? {
                Ok(chunk) => chunk,
                // The client sees that the table is not whole.
                Err(error) => return Some((Err(error), None)),
            };
            if bytes.is_empty() {
                return None;
            }
            let following = blocking(&permits, move || chunk(file)).await;
            Some((Ok(bytes), Some(following)))
        }
    });
    let text = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (text, Body::from_stream(chunks)).into_response()
}

/// The next bytes of `file`, none at its end.
fn chunk(file: File) -> io::Result<(Bytes, File)> {
    let mut bytes = Vec::with_capacity(CHUNK);
    (&file).take(CHUNK as u64).read_to_end(&mut bytes)?;
    Ok((bytes.into(), file))
}

/// A large table takes the kernel a while.
async fn blocking<T: Send + 'static>(
    permits: &Semaphore,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // The semaphore is never closed.
    let _permit = permits.acquire().await;
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use axum::http::Request;
    use std::fs;
    use tower::ServiceExt;

    #[tokio::test]
    async fn the_table_comes_whole_and_clients_that_do_not_read_hold_nobody_up() {
        let root = tempfile::tempdir().unwrap();
        let net = listen_scan::process_dir(root.path()).join("net");
        fs::create_dir_all(&net).unwrap();
        let line = format!("{:149}\n", "x");
        let table = line.repeat(20_000);
        fs::write(net.join("tcp"), &table).unwrap();
        let routes = routes(root.path().to_owned());
        let request = || Request::get("/net-flow/tcp-file").body(Body::empty()).unwrap();
        let mut unread = Vec::new();
        for _ in 0..MAX_CONCURRENT * 4 {
            unread.push(routes.clone().oneshot(request()).await.unwrap());
        }
        let response = routes.oneshot(request()).await.unwrap();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(body, table.as_bytes());
    }
}
