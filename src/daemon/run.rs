//! The command `run`: logs, the daemon's own metrics, the admin listener, signals, and the pipelines between them; and how a
//! new config takes the place of the one before.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use flowtap_config::{Config, ServiceConfig};
use flowtap_engine::runner::{Graph, Runner};
use flowtap_extensions::admin::status_page::{self, Pipelines};
use flowtap_extensions::admin::{self, Endpoint, Readiness, ReloadRecorder, Server, net_flow};
use flowtap_extensions::live::tap::Tap;
use flowtap_extensions::telemetry::{self, LogLevel, LogWriter, Telemetry};
use flowtap_extensions::watches::WatchBoard;
use flowtap_extensions::{identity, kubernetes, memory_limiter, node, systemd};
use flowtap_pipeline::{ListenChange, Resource};
use flowtap_receivers::listen_scan;
use nix::sys::stat::{Mode, umask};
use opentelemetry::metrics::Meter;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::descriptors;
use super::graph::{self, Environment};
use super::reload::{Load, ReloadTrigger};
use super::sandbox;
use super::stop::{Signals, Stop};
use crate::exit::{Code, ExitError};

/// Time after `service.shutdown_timeout` at which the SDK's last push is given up; before the
/// deadline that ends all.
const LAST_PUSH: Duration = Duration::from_millis(650);

/// Maximum time for writing the last log lines.
const LAST_LINES: Duration = Duration::from_millis(100);

/// Runs the pipelines of `config` until SIGTERM or SIGINT, or until a component fails. `strict`:
/// fail instead of degrading. `sandboxed`: drop privileges that the config does not need.
///
/// # Errors
/// The error that ended it other than by a signal, or snapshots that could not be exported at the
/// end.
pub(crate) fn run(config: Config, load: Load<'_>, strict: bool, sandboxed: bool) -> Result<(), ExitError> {
    private_files();
    let descriptors = descriptors::raise();
    let signals = Signals::block()?;
    // From files that the sandbox closes.
    let resource = identity::resource(&config.service);
    // Before the first thread, the log's included: what a thread gives up, only those that it starts give up with it.
    let sandbox = sandboxed.then(|| sandbox::enter(&config)).transpose()?;
    let log = LogWriter::stderr()?;
    let logs = telemetry::init_logs(&config.service.telemetry.logs, log.clone())?;
    if let Some(sandbox) = sandbox {
        tracing::info!("in the sandbox: {sandbox}");
    }
    descriptors::report(descriptors);
    let stop = Stop::watch(signals, config.service.shutdown_timeout, &log)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(supervise(config, resource, load, &logs, &log, stop, strict));
    // Without waiting for what blocks, such as a name server that is silent.
    runtime.shutdown_background();
    log.flush(LAST_LINES);
    outcome
}

/// Creates files for their owner only from now on: flows, requests on disk and recordings are a map of the network.
pub(crate) fn private_files() {
    let others = Mode::S_IRWXG | Mode::S_IRWXO;
    let before = umask(others);
    umask(before | others);
}

/// Receivers have their own threads; only a few listeners and pushes run here.
pub(crate) fn runtime() -> Result<Runtime, ExitError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("flowtap")
        .enable_all()
        .build()?;
    Ok(runtime)
}

/// Connects to the cluster around this machine; `None` if there is none, or if a signal came first.
async fn connect(
    config: &Config,
    stop: &CancellationToken,
) -> Result<Option<kubernetes::Cluster>, ExitError> {
    let connecting = kubernetes::connect(&config.service.kubernetes);
    let connected = stop.run_until_cancelled(connecting).await;
    connected
        .unwrap_or(Ok(None))
        .map_err(|error| ExitError::new(Code::Config, format!("service.kubernetes: {error}")))
}

async fn supervise(
    config: Config,
    resource: Resource,
    load: Load<'_>,
    logs: &LogLevel,
    log: &LogWriter,
    stopping: Stop,
    strict: bool,
) -> Result<(), ExitError> {
    tracing::info!(
        node = resource.node(),
        instance = resource.instance(),
        "this instance"
    );
    let stop = stopping.token().clone();
    let cluster = connect(&config, &stop).await?;
    let resource = match cluster.as_ref().and_then(|cluster| cluster.uid.clone()) {
        Some(uid) => identity::in_cluster(resource, &config.service, uid),
        None => resource,
    };
    let telemetry = Telemetry::new(&resource, &config.service.telemetry.metrics)?;
    let meter = telemetry.meter();
    log.count(&meter);
    let environment = Environment::named(resource);
    node::watch(&environment.node);
    let tap = config.service.admin.endpoint.map(|_| Tap::default());
    let mut graph = graph::build(&config, &meter, &environment, strict)
        .map_err(|error| ExitError::config(&config.build_error(&error)))?;
    if let Some(tap) = &tap {
        graph::attach_tap(&mut graph, tap);
    }
    let pipelines = Pipelines::new(&config);
    logs.report_suppressed(stop.clone());
    memory_limiter::watch(
        &config.service.memory_limiter,
        &environment.memory,
        &meter,
        flowtap_ebpf::trim_heap,
        stop.clone(),
    );
    let mut reload_trigger = ReloadTrigger::new(config.files.clone())?;
    let watches = WatchBoard::default();
    if let Some(cluster) = cluster {
        kubernetes::follow(
            &config,
            cluster,
            &environment.cluster,
            watches.clone(),
            &meter,
            stop.clone(),
        );
    }
    let (readiness, board, reloads) = (
        Readiness::default(),
        environment.status.clone(),
        ReloadRecorder::new(&meter),
    );
    let servers_stop = CancellationToken::new();
    let routes = tap.as_ref().map(|tap| {
        admin::routes(readiness.clone(), board.clone(), watches, reloads.clone())
            .merge(net_flow_routes(&config))
            .merge(admin::findings::routes(Arc::clone(&environment.findings)))
            .merge(tap.routes())
            .merge(status_page::routes(pipelines.clone(), telemetry.reader()))
    });
    let servers = listen(&config.service, routes, telemetry.routes(), &meter, &servers_stop).await?;

    let mut running = Running {
        runner: Runner::new(&meter, config.service.shutdown_timeout, board.clone()),
        config,
        environment,
        meter,
        strict,
        tap,
        pipelines,
    };
    if let Some(mut own) = telemetry.own_metrics() {
        let interval = running.config.service.telemetry.metrics.interval;
        let collect = Box::new(move |reading| own.read(reading));
        running.runner.push_own_metrics(interval, collect);
    }
    let started = stop.run_until_cancelled(running.runner.apply(graph)).await;
    let mut outcome = started.unwrap_or(Ok(())).map_err(ExitError::from);
    if outcome.is_ok() && !stop.is_cancelled() {
        readiness.set(true);
        systemd::ready();
        systemd::keep_alive(board.clone(), servers_stop.clone());
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "measuring");
        outcome = running
            .follow(&stop, &mut reload_trigger, &reloads, load, logs)
            .await;
    }
    // Whatever has ended the run, from here on the deadline counts.
    stopping.begin();
    let last_push_until = Instant::now() + running.config.service.shutdown_timeout + LAST_PUSH;
    systemd::stopping();
    let outcome = outcome.and(running.runner.stop().await.map_err(ExitError::from));
    readiness.set(false);

    // Last, so that a final look at the daemon's own metrics sees how the pipelines ended.
    servers_stop.cancel();
    for server in servers {
        // A task that panicked has said so itself.
        let _ = server.await;
    }
    // It may wait for a collector that is away, which must not cost the report of how the pipelines ended.
    let last_push = tokio::task::spawn_blocking(move || telemetry.shutdown());
    let _ = tokio::time::timeout_at(last_push_until.into(), last_push).await;
    outcome
}

/// Serves `admin` and the daemon's own metrics where set by the config, until `stop`.
async fn listen(
    config: &ServiceConfig,
    admin: Option<Router>,
    metrics: Router,
    meter: &Meter,
    stop: &CancellationToken,
) -> Result<Vec<Server>, ExitError> {
    let admin = config.admin.endpoint.zip(admin).map(|(address, routes)| {
        let endpoint = Endpoint {
            section: "service.admin",
            title: "status page",
            path: "/",
            address,
            allowed_hosts: &config.admin.allowed_hosts,
        };
        (endpoint, routes)
    });
    let metrics = config.telemetry.metrics.endpoint.map(|address| {
        let endpoint = Endpoint {
            section: "service.telemetry.metrics",
            title: "own metrics",
            path: "/metrics",
            address,
            allowed_hosts: &config.telemetry.metrics.allowed_hosts,
        };
        (endpoint, metrics)
    });
    let mut servers = Vec::new();
    for (endpoint, routes) in admin.into_iter().chain(metrics) {
        servers.push(admin::serve(endpoint, routes, meter, stop.clone()).await?);
    }
    Ok(servers)
}

/// The running graph, and the config that it was built from.
struct Running {
    runner: Runner,
    config: Config,
    environment: Environment,
    meter: Meter,
    strict: bool,
    /// Where the live view looks, if anybody can ask for it.
    tap: Option<Tap>,
    pipelines: Pipelines,
}

/// Why a new config is not at work.
enum ReloadError {
    /// The old one is.
    Kept(ExitError),
    /// Neither is: the old one could not be had back.
    Lost(ExitError),
}

impl Running {
    /// Reloads the config whenever it is to be, until `stop` or until a component ends the run.
    async fn follow(
        &mut self,
        stop: &CancellationToken,
        reload_trigger: &mut ReloadTrigger,
        reloads: &ReloadRecorder,
        load: Load<'_>,
        logs: &LogLevel,
    ) -> Result<(), ExitError> {
        loop {
            let why = tokio::select! {
                () = stop.cancelled() => break Ok(()),
                ended = self.runner.ended() => break ended.map_err(ExitError::from),
                why = reload_trigger.next() => why,
            };
            tracing::info!(why, "reloading the config");
            systemd::reloading();
            // A signal must not wait for exporters that drain: dropped, the reload leaves the rest to `stop`.
            let Some(reloaded) = stop.run_until_cancelled(self.reload(load, logs)).await else {
                break Ok(());
            };
            match reloaded {
                Ok(()) => {
                    reload_trigger.watch(self.config.files.clone());
                    reloads.applied();
                    tracing::info!("the new config is in use");
                }
                Err(ReloadError::Kept(why)) => {
                    reloads.refused(&why.to_string());
                    tracing::error!(
                        "the new config is refused, the old one stays: {why}; \
                hint: check it with `flowtap validate --config FILE`"
                    );
                }
                Err(ReloadError::Lost(why)) => break Err(why),
            }
            systemd::ready();
        }
    }

    /// Takes on the config as `load` has it now: components whose config is the same live on. One that is wrong changes nothing;
    /// if its components don't start, the one before is restored.
    async fn reload(&mut self, load: Load<'_>, logs: &LogLevel) -> Result<(), ReloadError> {
        let config = load().map_err(ReloadError::Kept)?;
        let graph = self.build(&config).map_err(ReloadError::Kept)?;
        logs.set(&config.service.telemetry.logs)
            .map_err(|error| ReloadError::Kept(error.into()))?;
        if let Err(error) = self.runner.apply(graph).await {
            tracing::warn!(%error, "rolling back to the previous config; \
                hint: fix the component that the error names, then reload");
            let level = &self.config.service.telemetry.logs;
            logs.set(level).map_err(|error| ReloadError::Lost(error.into()))?;
            let before = self.build(&self.config).map_err(ReloadError::Lost)?;
            // The previous graph can run again, unless the machine has changed meanwhile.
            self.runner
                .apply(before)
                .await
                .map_err(|error| ReloadError::Lost(error.into()))?;
            return Err(ReloadError::Kept(error.into()));
        }
        let mut service = config.service.clone();
        let level = &self.config.service.telemetry.logs.level;
        service.telemetry.logs.level.clone_from(level);
        let exporters = &self.config.service.telemetry.metrics.exporters;
        if !exporters.is_empty() {
            service.telemetry.metrics.exporters.clone_from(exporters);
        }
        if service != self.config.service {
            tracing::warn!(
                "listeners, telemetry.resource, telemetry.metrics.interval, its first exporters, the format and sampling of logs, memory_limiter, Kubernetes \
                 and shutdown_timeout change only at the next start; \
                hint: restart flowtap for these"
            );
        }
        self.pipelines.set(&config);
        self.config = config;
        Ok(())
    }

    fn build(&self, config: &Config) -> Result<Graph, ExitError> {
        let mut graph = graph::build(config, &self.meter, &self.environment, self.strict)
            .map_err(|error| ExitError::config(&config.build_error(&error)))?;
        if let Some(tap) = &self.tap {
            graph::attach_tap(&mut graph, tap);
        }
        Ok(graph)
    }
}

/// A token that the first SIGTERM or SIGINT cancels, for commands that end soon after.
pub(crate) fn stop_on_signal() -> Result<CancellationToken, ExitError> {
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
            tracing::info!(signal = name, "stopping");
            stop.cancel();
        }
    });
    Ok(stop)
}

/// The routes of the Go exporter's debug endpoints, for the proc file system that the receivers look at.
fn net_flow_routes(config: &Config) -> Router {
    let proc_root = proc_root(config);
    let table = listen_scan::process_dir(&proc_root).join("net/tcp");
    let scan = move || match listen_scan::scan(&proc_root)? {
        ListenChange::Rescanned { ports, .. } => Ok(ports),
        other => Err(io::Error::other(format!("{other:?}"))),
    };
    net_flow::routes(Arc::new(scan), table)
}

/// The first proc file system that a component looks into.
fn proc_root(config: &Config) -> PathBuf {
    let mut contracts = config.contracts().into_iter();
    contracts
        .find_map(|(_, _, contract)| contract.proc_root)
        .unwrap_or_else(|| PathBuf::from("/proc"))
}
