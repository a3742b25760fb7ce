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
use futures::stream;

use crate::places::Places;

/// Requests that read at the same time. None holds its place while its client is slow.
const MAX_CONCURRENT: usize = 2;

/// Bytes of the table that are read at a time.
const CHUNK: usize = 64 << 10;

/// Lists the ports that are listened on.
pub type Scan = Arc<dyn Fn() -> io::Result<Vec<u16>> + Send + Sync>;

/// The routes. `scan` lists the ports, `table` is the kernel's file `net/tcp`.
pub fn routes(scan: Scan, table_path: PathBuf) -> Router {
    let places = Places::new(MAX_CONCURRENT);
    let table_places = places.clone();
    Router::new()
        .route(
            "/net-flow/tcp-listen",
            get(move || listening(Arc::clone(&scan), places.clone())),
        )
        .route(
            "/net-flow/tcp-file",
            get(move || table(table_path.clone(), table_places.clone())),
        )
}

/// `{"code":0,"data":[80,443],"message":"success"}`.
async fn listening(scan: Scan, places: Places) -> Response {
    let scanned = blocking(&places, move || scan()).await;
    let (status, body) = match scanned {
        Ok(ports) => (
            StatusCode::OK,
            serde_json::json!({"code": 0, "data": ports, "message": "success"}),
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
async fn table(path: PathBuf, places: Places) -> Response {
    let opened = blocking(&places, move || chunk(File::open(path)?)).await;
    let first = match opened {
        Ok(first) => first,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    let chunks = stream::unfold(Some(Ok(first)), move |next| {
        let places = places.clone();
        async move {
            let (bytes, file) = match next? {
                Ok(chunk) => chunk,
                // The client sees that the table is not whole.
                Err(error) => return Some((Err(error), None)),
            };
            if bytes.is_empty() {
                return None;
            }
            let following = blocking(&places, move || chunk(file)).await;
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
    places: &Places,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    places.work(work).await.map_err(io::Error::other)?
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
        let path = root.path().join("tcp");
        let line = format!("{:149}\n", "x");
        let table = line.repeat(20_000);
        fs::write(&path, &table).unwrap();
        let routes = routes(Arc::new(|| Ok(Vec::new())), path);
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
