//! The admin listener: is the daemon alive, does it measure, and how is each of its components?

pub mod findings;
mod http;
pub mod net_flow;
mod reloads;
pub mod status_page;

use std::collections::BTreeMap;

use axum::Json;
use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use flowtap_pipeline::{ComponentStatus, StatusBoard, Timestamp};
use serde::Serialize;

pub use self::http::{Endpoint, Server, serve};
pub use self::reloads::{ReloadRecorder, ReloadStatus};
use crate::watches::{SourceStatus, WatchBoard};

/// Response of `/status`.
#[derive(Clone, Debug, Serialize)]
struct Status {
    version: &'static str,
    /// Name of this machine; null if it is not known.
    host: Option<String>,
    ready: bool,
    started_unix_nano: u64,
    config: ReloadStatus,
    /// By `receivers/<id>` and `exporters/<id>`.
    components: BTreeMap<String, ComponentStatus>,
    /// Watches of the Kubernetes API by resource; absent where there is no cluster.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    kubernetes: BTreeMap<&'static str, SourceStatus>,
}

/// `/healthz`: 200 as long as every receiver's thread is alive. `/readyz`: 200 while every receiver scans. Else 503. `/status`: JSON.
pub fn routes(
    board: StatusBoard,
    watches: WatchBoard,
    reloads: ReloadRecorder,
    host: Option<String>,
) -> Router {
    let started_unix_nano = Timestamp::now().as_nanos();
    let ready = {
        let board = board.clone();
        move || async move {
            if board.is_ready() {
                (StatusCode::OK, "ready\n")
            } else {
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "not ready; /status has the reason\n",
                )
            }
        }
    };
    let alive = {
        let board = board.clone();
        move || async move {
            if board.is_alive() {
                (StatusCode::OK, "ok\n")
            } else {
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "a receiver's thread hangs; /status has which\n",
                )
            }
        }
    };
    let status = move || async move {
        Json(Status {
            version: env!("CARGO_PKG_VERSION"),
            host: host.clone(),
            ready: board.is_ready(),
            started_unix_nano,
            config: reloads.load(),
            components: board.load(),
            kubernetes: watches.load(),
        })
    };
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/status", get(status))
}

/// Answers to a path that is not served, with where it may have been looked for.
pub fn not_found(uri: &Uri) -> (StatusCode, String) {
    let hint = if uri.path() == "/metrics" {
        "the metrics of flows are at `exporters.prometheus.endpoint`, those of flowtap itself at `service.telemetry.metrics.endpoint`"
    } else {
        "the status page is /; others are /flows, /findings, /map, /pipelines, /status, /timeline, /verdicts, /healthz and /readyz"
    };
    (StatusCode::NOT_FOUND, format!("not found; hint: {hint}\n"))
}
