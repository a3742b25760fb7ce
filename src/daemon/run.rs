//! The command `run`: signals, the services beside the pipelines, the pipelines, and the stop of all of them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use flowtap_config::Config;
use flowtap_engine::runner::{Graph, Runner};
use flowtap_extensions::admin::status_page::{self, Pipelines};
use flowtap_extensions::admin::{self, ReloadRecorder, net_flow};
use flowtap_extensions::live::tap::Tap;
use flowtap_extensions::telemetry::{self, LogLevel, LogWriter, Telemetry};
use flowtap_extensions::watches::WatchBoard;
use flowtap_extensions::{identity, kubernetes, systemd};
use flowtap_pipeline::{ListenChange, Resource};
use flowtap_receivers::listen_scan;
use nix::sys::stat::{Mode, umask};
use tokio::runtime::{Builder, Runtime};
#[cfg(feature = "analysis")]
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::descriptors;
use super::graph::Environment;
use super::reload::{Load, ReloadTrigger};
use super::running::{Parts, Running};
use super::sandbox::{self, Limits, plugins};
use super::services::{
    ClusterWatch, Extensions, Listener, Logs, MemoryLimiter, NameFiles, NodeWatch, OwnMetrics, Place,
    Service, Services, Watchdog,
};
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
    descriptors::require(descriptors)?;
    let signals = Signals::block()?;
    // From files that the sandbox closes.
    let resource = identity::resource(&config.service);
    // Before the first thread, the log's included: what a thread gives up, only those that it starts give up with it.
    let sandbox = sandboxed.then(|| sandbox::enter(&config)).transpose()?;
    let log = LogWriter::stderr()?;
    let logs = telemetry::init_logs(&config.service.telemetry.logs, log.clone())?;
    if let Some(sandbox) = &sandbox {
        tracing::info!("in the sandbox: {sandbox}");
    }
    identity::report_unused_attributes();
    let fixed = Fixed {
        resource,
        strict,
        sandboxed,
        limits: sandbox.map(|sandbox| sandbox.limits).unwrap_or_default(),
    };
    descriptors::report(descriptors);
    let stop = Stop::watch(signals, config.service.shutdown_timeout, &log)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(supervise(config, fixed, load, logs, &log, stop));
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
    sandboxed: bool,
    stop: &CancellationToken,
) -> Result<Option<kubernetes::Cluster>, ExitError> {
    let connecting = kubernetes::connect(&config.service.kubernetes);
    let connected = stop.run_until_cancelled(connecting).await;
    connected.unwrap_or(Ok(None)).map_err(|error| {
        // The kernel's answer to the start of a program names neither the sandbox nor the remedy.
        let refused = plugins::refused(config).filter(|_| sandboxed);
        refused.map_or_else(
            || ExitError::new(Code::Config, format!("service.kubernetes: {error}")),
            |refused| ExitError::config(&refused),
        )
    })
}

/// Facts of the start that no reload changes.
struct Fixed {
    resource: Resource,
    strict: bool,
    sandboxed: bool,
    /// The sandbox, as far as it limits later configs.
    limits: Limits,
}

async fn supervise(
    config: Config,
    fixed: Fixed,
    load: Load<'_>,
    logs: LogLevel,
    log: &LogWriter,
    stopping: Stop,
) -> Result<(), ExitError> {
    let Fixed {
        resource,
        strict,
        sandboxed,
        limits,
    } = fixed;
    tracing::info!(
        node = resource.node(),
        instance = resource.instance(),
        "this instance"
    );
    let stop = stopping.token().clone();
    let cluster = connect(&config, sandboxed, &stop).await?;
    let resource = match cluster.as_ref().and_then(|cluster| cluster.uid.clone()) {
        Some(uid) => identity::in_cluster(resource, &config.service, uid),
        None => resource,
    };
    let telemetry = Arc::new(Telemetry::new(&resource, &config.service.telemetry.metrics)?);
    let meter = telemetry.meter();
    log.count(&meter);
    let environment = Environment::named(resource);
    let parts = Parts {
        tap: config.service.admin.endpoint.map(|_| Tap::default()),
        pipelines: Pipelines::new(&config),
        reloads: ReloadRecorder::new(&meter),
        environment,
        meter,
        strict,
    };
    let graph = parts.build(&config)?;
    parts.show(&config);
    let watches = WatchBoard::default();
    let mut services = services(&config, &parts, logs, cluster, &telemetry, &watches);
    let mut reload_trigger = ReloadTrigger::new(config.files.clone())?;
    Signals::release_hangup();
    let board = parts.environment.status.clone();
    telemetry.describe_components(board.clone(), watches);
    let started = services.start(&config).await;
    let mut runner = Runner::new(&parts.meter, config.service.shutdown_timeout, board.clone());
    if let Some(mut own) = telemetry.own_metrics() {
        let interval = config.service.telemetry.metrics.interval;
        let collect = Box::new(move |reading| own.read(reading));
        runner.push_own_metrics(interval, collect);
    }
    let running = Running {
        runner,
        services,
        config,
        parts,
        limits,
    };
    measure(running, graph, started, &mut reload_trigger, load, stopping).await
}

/// Measures with the pipelines of `graph`, if the services have `started`, until the stop or a failure; then stops everything.
async fn measure(
    mut running: Running,
    graph: Graph,
    started: Result<(), ExitError>,
    reload_trigger: &mut ReloadTrigger,
    load: Load<'_>,
    stopping: Stop,
) -> Result<(), ExitError> {
    let stop = stopping.token().clone();
    let board = running.parts.environment.status.clone();
    let mut outcome = match started {
        Ok(()) => {
            let applied = stop.run_until_cancelled(running.runner.apply(graph)).await;
            applied.unwrap_or(Ok(())).map_err(ExitError::from)
        }
        Err(error) => Err(error),
    };
    if outcome.is_ok() && !stop.is_cancelled() {
        board.set_running(true);
        systemd::ready();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "measuring");
        flowtap_ebpf::unmap_program();
        outcome = running.follow(&stop, reload_trigger, load).await;
    }
    // Whatever has ended the run, from here on the deadline counts.
    stopping.begin();
    let last_push_until = Instant::now() + running.config.service.shutdown_timeout + LAST_PUSH;
    systemd::stopping();
    let outcome = outcome.and(running.runner.stop().await.map_err(ExitError::from));
    board.set_running(false);
    // After the pipelines, so that a final look at the daemon's own metrics sees how they ended.
    running.services.stop(last_push_until).await;
    outcome
}

/// Everything that runs beside the pipelines, in the order in which it starts.
fn services(
    config: &Config,
    parts: &Parts,
    logs: LogLevel,
    cluster: Option<kubernetes::Cluster>,
    telemetry: &Arc<Telemetry>,
    watches: &WatchBoard,
) -> Services {
    let Parts {
        environment, meter, ..
    } = parts;
    let mut list: Vec<Box<dyn Service>> = vec![
        Box::new(OwnMetrics(Arc::clone(telemetry))),
        Box::new(Logs::new(logs)),
        Box::new(NodeWatch(Arc::clone(&environment.node))),
        Box::new(NameFiles::default()),
        Box::new(MemoryLimiter::new(&environment.memory, meter)),
        Box::new(ClusterWatch::new(cluster, &environment.cluster, watches, meter)),
        Box::new(Listener {
            section: "service.telemetry.metrics",
            title: "own metrics",
            path: "/metrics",
            place: |service| {
                let section = &service.telemetry.metrics;
                let (address, hosts) = (section.endpoint?, section.allowed_hosts.clone());
                Some(Place { address, hosts })
            },
            routes: telemetry.routes(),
            meter: meter.clone(),
            running: None,
        }),
    ];
    // Without it nothing keeps what the page shows.
    if let Some(tap) = &parts.tap {
        let host = environment.resource.get("host.name").map(str::to_owned);
        let routes = admin::routes(
            environment.status.clone(),
            watches.clone(),
            parts.reloads.clone(),
            host,
        )
        .merge(net_flow_routes(config))
        .merge(admin::findings::routes(Arc::clone(&environment.findings)))
        .merge(tap.routes(flowtap_ebpf::trim_heap))
        .merge(status_page::routes(parts.pipelines.clone(), telemetry.reader()))
        .fallback(|uri| async move { admin::not_found(&uri) });
        list.push(Box::new(Listener {
            section: "service.admin",
            title: "status page",
            path: "/",
            place: |service| {
                let (address, hosts) = (service.admin.endpoint?, service.admin.allowed_hosts.clone());
                Some(Place { address, hosts })
            },
            routes,
            meter: meter.clone(),
            running: None,
        }));
    }
    list.push(Box::new(Extensions::new(environment, meter, parts.strict)));
    list.push(Box::new(Watchdog::new(&environment.status)));
    Services::new(list)
}

/// A token that the first SIGTERM or SIGINT cancels, for commands that end soon after.
#[cfg(feature = "analysis")]
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
