//! The extension `health_check`: a listener for probes alone, as the OpenTelemetry Collector has it.
//!
//! The admin listener answers probes as well, and shows who talks to whom: it is not for every network. This one shows nothing but
//! whether the daemon measures, so it can listen where a kubelet or a load balancer reaches it.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use flowtap_pipeline::futures::FutureExt;
use flowtap_pipeline::futures::future::BoxFuture;
use flowtap_pipeline::schema::AddressText;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, ComponentId, Contract, Extension, ExtensionConfig, Factory,
    Stability, StageError, StatusBoard, Violation,
};
use opentelemetry::metrics::Meter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::admin::{Endpoint, Server, serve};

/// The type in the registry.
pub const FACTORY: Factory<dyn ExtensionConfig> = Factory::of::<Config>(
    "health_check",
    "answers health checks, on a listener that shows nothing else",
    Stability::Alpha,
);

/// Path of the answer to whether the daemon is alive.
const LIVENESS: &str = "/healthz";

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port.
    #[serde(with = "flowtap_pipeline::address")]
    #[schemars(with = "AddressText")]
    pub endpoint: SocketAddr,
    /// Path of the readiness check: 200 while every receiver scans, else 503. `/healthz` is the liveness check: 200 while every
    /// receiver's thread is alive.
    pub path: String,
    /// Names that `Host` may have in requests over the loopback interface, beside addresses and `localhost`; `*` for any. Other names
    /// get 421.
    pub allowed_hosts: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // The Collector's port.
            endpoint: SocketAddr::from((Ipv4Addr::LOCALHOST, 13133)),
            path: "/".to_owned(),
            allowed_hosts: Vec::new(),
        }
    }
}

impl ComponentConfig for Config {
    fn validate(&self) -> Vec<Violation> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
        let mut faults = Vec::new();
        if !self.path.starts_with('/') || !self.path.bytes().all(is_plain) {
            let message = format!(
                "`{}` is not a path; expected `/` and letters, digits, `-`, `_`, `.`, `~` and `/`, such as `/ready`",
                self.path
            );
            faults.push(Violation::new("path", message));
        } else if self.path == LIVENESS {
            let message = "`/healthz` is the liveness check; hint: choose another path, such as `/readyz`";
            faults.push(Violation::new("path", message));
        }
        faults
    }

    fn contract(&self) -> Contract {
        Contract::default().listens("endpoint", self.endpoint)
    }
}

impl ExtensionConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Extension>, BuildError> {
        Ok(Box::new(HealthCheck {
            id: context.id.clone(),
            config: self.clone(),
            board: context.status.clone(),
            meter: context.meter.clone(),
            running: None,
        }))
    }
}

struct HealthCheck {
    id: ComponentId,
    config: Config,
    board: StatusBoard,
    meter: Meter,
    running: Option<(CancellationToken, Server)>,
}

impl Extension for HealthCheck {
    fn start(&mut self) -> BoxFuture<'_, Result<(), StageError>> {
        async move {
            let endpoint = Endpoint {
                section: &format!("extensions.{}", self.id),
                title: "health checks",
                path: &self.config.path,
                address: self.config.endpoint,
                allowed_hosts: &self.config.allowed_hosts,
            };
            let routes = routes(&self.config.path, &self.board);
            let stop = CancellationToken::new();
            let server = serve(endpoint, routes, &self.meter, stop.clone()).await?;
            self.running = Some((stop, server));
            Ok(())
        }
        .boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        async move {
            if let Some((stop, server)) = self.running.take() {
                stop.cancel();
                // A task that panicked has said so itself.
                let _ = server.await;
            }
        }
        .boxed()
    }
}

fn routes(path: &str, board: &StatusBoard) -> Router {
    let answer = |is_well: fn(&StatusBoard) -> bool| {
        let board = board.clone();
        get(move || async move {
            if is_well(&board) {
                (StatusCode::OK, "ok\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable\n")
            }
        })
    };
    Router::new()
        .route(path, answer(StatusBoard::is_ready))
        .route(LIVENESS, answer(StatusBoard::is_alive))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn status(board: &StatusBoard, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).unwrap();
        routes("/ready", board).oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn it_is_ready_while_the_pipelines_run_and_alive_before_and_after() {
        let board = StatusBoard::default();
        assert_eq!(status(&board, "/ready").await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(&board, LIVENESS).await, StatusCode::OK);
        board.set_running(true);
        assert_eq!(status(&board, "/ready").await, StatusCode::OK);
        board.set_running(false);
        assert_eq!(status(&board, "/ready").await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(&board, "/status").await, StatusCode::NOT_FOUND);
    }

    #[test]
    fn a_path_that_a_router_would_not_take_is_refused() {
        for path in ["", "ready", "/{id}", "/a b", "/healthz"] {
            let config = Config {
                path: path.to_owned(),
                ..Config::default()
            };
            assert_eq!(config.validate()[0].path, ["path"], "{path}");
        }
        assert_eq!(Config::default().validate(), []);
    }
}
