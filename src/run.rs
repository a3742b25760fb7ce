//! The command `run`: logs, the daemon's own metrics, the admin listener, signals, and the pipelines between them.

use std::path::PathBuf;

use flowtap_config::Config;
use flowtap_pipeline::runner;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Readiness};
use crate::cluster;
use crate::exit::Failure;
use crate::flows::tap::Tap;
use crate::graph::{self, Surroundings};
use crate::http;
use crate::net_flow;
use crate::node;
use crate::status_page;
use crate::telemetry::{self, Telemetry};

/// Runs the pipelines of `config` until SIGTERM or SIGINT, or until a component can't go on. `strict`: none may make do with
/// less than its config asks for.
///
/// # Errors
/// What ended it otherwise than by a signal, or could not be exported at the end.
pub(crate) fn run(config: &Config, strict: bool) -> Result<(), Failure> {
    telemetry::init_logs(&config.service.telemetry.logs)?;
    runtime()?.block_on(supervise(config, strict))
}

/// Receivers have threads of their own; what is left is a handful of listeners and pushes.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("flowtap")
        .enable_all()
        .build()?;
    Ok(runtime)
}

async fn supervise(config: &Config, strict: bool) -> Result<(), Failure> {
    let telemetry = Telemetry::new(&config.service.telemetry)?;
    let around = Surroundings::now();
    node::watch(&around.node);
    let mut graph = graph::build(config, &telemetry.meter(), &around, strict)?;
    let tap = Tap::default();
    if config.service.admin.endpoint.is_some() {
        tap.attach(&mut graph);
    }
    let stop = stop_on_signal()?;
    cluster::follow(config, &around.cluster, stop.clone()).await?;
    let (readiness, servers_stop) = (Readiness::default(), CancellationToken::new());
    let mut servers = Vec::new();
    if let Some(address) = config.service.admin.endpoint {
        servers.push(
            http::serve(
                address,
                admin::routes(readiness.clone())
                    .merge(net_flow::routes(proc_root(config)))
                    .merge(tap.routes())
                    .merge(status_page::routes(config, telemetry.reader(), readiness.clone())),
                servers_stop.clone(),
            )
            .await?,
        );
    }
    if let Some(address) = config.service.telemetry.metrics.endpoint {
        servers.push(http::serve(address, telemetry.routes(), servers_stop.clone()).await?);
    }

    let ready = || {
        readiness.set(true);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "measuring");
    };
    let outcome = runner::run(
        graph,
        &telemetry.meter(),
        stop,
        config.service.shutdown_timeout,
        ready,
    )
    .await;
    readiness.set(false);

    // Last, so that a final look at the daemon's own metrics sees how the pipelines ended.
    servers_stop.cancel();
    for server in servers {
        // A task that panicked has said so itself.
        let _ = server.await;
    }
    telemetry.shutdown();
    Ok(outcome?)
}

/// A token that the first SIGTERM or SIGINT cancels.
pub(crate) fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(
                signal = name,
                "stopping: one last window, then the exporters drain"
            );
            stop.cancel();
        }
    });
    Ok(stop)
}

/// Where the receivers look for the proc file system: the first that says.
fn proc_root(config: &Config) -> PathBuf {
    let roots = config.receivers.values().filter_map(|receiver| {
        let value = receiver.to_value().ok()?;
        value.find("proc_root")?.into_string()
    });
    roots
        .map(PathBuf::from)
        .next()
        .unwrap_or_else(|| PathBuf::from("/proc"))
}
