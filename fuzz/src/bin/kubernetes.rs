//! Answers of the Kubernetes API: a status and a list, and after a byte 0 the lines of a watch, to every request alike.
#![no_main]

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flowtap_extensions::kubernetes::{WatchConfig, watch};
use flowtap_extensions::watches::WatchBoard;
use flowtap_pipeline::{BuildContext, ClusterState, Published};
use http::{Request, Response, StatusCode};
use kube::client::Body;
use libfuzzer_sys::fuzz_target;
use tokio_util::sync::CancellationToken;

/// On the clock of the runtime, which stands still while anything runs: a few attempts after failures.
const DURATION: Duration = Duration::from_secs(20);

/// A watch that ends is begun again at once, on a clock that stands still; later requests get no answer.
const MAX_REQUESTS: usize = 60;

const STATUSES: [StatusCode; 4] = [
    StatusCode::OK,
    StatusCode::FORBIDDEN,
    StatusCode::GONE,
    StatusCode::TOO_MANY_REQUESTS,
];

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let status = STATUSES[usize::from(first) % STATUSES.len()];
    let (list, lines) = match rest.iter().position(|byte| *byte == 0) {
        Some(end) => (&rest[..end], &rest[end + 1..]),
        None => (rest, &[][..]),
    };
    let (list, lines) = (Bytes::copy_from_slice(list), Bytes::copy_from_slice(lines));
    let requests = Arc::new(AtomicUsize::new(0));
    let answer = move |request: Request<Body>| {
        let watches = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch="));
        let body = if watches { lines.clone() } else { list.clone() };
        let requests = Arc::clone(&requests);
        async move {
            if requests.fetch_add(1, Ordering::Relaxed) >= MAX_REQUESTS {
                pending::<()>().await;
            }
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let client = kube::Client::new(tower::service_fn(answer), "default");
        let cluster = Published::new(ClusterState::default());
        let board = WatchBoard::default();
        let config = WatchConfig {
            names: true,
            node_name: Some("node1".to_owned()),
        };
        let id = "fuzz".parse().unwrap_or_else(|_| unreachable!("an id"));
        let meter = BuildContext::new(id).meter;
        let watching = watch(
            config,
            client,
            cluster,
            board.clone(),
            &meter,
            CancellationToken::new(),
        );
        // It ends by the time only.
        let _ = tokio::time::timeout(DURATION, watching).await;
        for (resource, status) in board.load() {
            let is_plain = |error: &String| !error.chars().any(char::is_control);
            assert!(status.error.iter().all(is_plain), "{resource}: {status:?}");
        }
    });
});
