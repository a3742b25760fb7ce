//! Services with a separate task or thread, and no listener.

use std::sync::Arc;
use std::time::Instant;

use flowtap_config::{Config, MemoryLimiterConfig};
use flowtap_extensions::kubernetes::{self, Cluster};
use flowtap_extensions::telemetry::{LogLevel, Telemetry};
use flowtap_extensions::watches::WatchBoard;
use flowtap_extensions::{memory_limiter, node, systemd};
use flowtap_pipeline::futures::future::{LocalBoxFuture, ready};
use flowtap_pipeline::{
    ClusterState, MemoryPressure, NodeInfo, Published, SharedMemoryPressure, StatusBoard,
};
use opentelemetry::metrics::Meter;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Service;
use crate::exit::ExitError;

type Outcome<'a> = LocalBoxFuture<'a, Result<(), ExitError>>;

/// The daemon's own metrics: pushes what is left of them, as the last of all.
pub(in crate::daemon) struct OwnMetrics(pub(in crate::daemon) Arc<Telemetry>);

impl Service for OwnMetrics {
    fn start<'a>(&'a mut self, _: &'a Config) -> Outcome<'a> {
        Box::pin(ready(Ok(())))
    }

    fn stop(&mut self, until: Instant) -> LocalBoxFuture<'_, ()> {
        let telemetry = Arc::clone(&self.0);
        // It may wait for a collector that is away, which must not cost the report of how the pipelines ended.
        let last_push = tokio::task::spawn_blocking(move || telemetry.shutdown());
        Box::pin(async move {
            let _ = tokio::time::timeout_at(until.into(), last_push).await;
        })
    }
}

/// The level of logs, and the count of messages that were left out.
pub(in crate::daemon) struct Logs {
    level: LogLevel,
    stop: CancellationToken,
}

impl Logs {
    pub(in crate::daemon) fn new(level: LogLevel) -> Self {
        let stop = CancellationToken::new();
        Self { level, stop }
    }
}

impl Service for Logs {
    fn start<'a>(&'a mut self, _: &'a Config) -> Outcome<'a> {
        self.level.report_suppressed(self.stop.clone());
        Box::pin(ready(Ok(())))
    }

    fn reload<'a>(&'a mut self, config: &'a Config) -> Outcome<'a> {
        let set = self.level.set(&config.service.telemetry.logs);
        Box::pin(ready(set.map_err(ExitError::from)))
    }

    fn stop(&mut self, _: Instant) -> LocalBoxFuture<'_, ()> {
        self.stop.cancel();
        Box::pin(ready(()))
    }
}

/// The watcher of this machine's addresses. It ends with the process.
pub(in crate::daemon) struct NodeWatch(pub(in crate::daemon) Arc<Published<NodeInfo>>);

impl Service for NodeWatch {
    fn start<'a>(&'a mut self, _: &'a Config) -> Outcome<'a> {
        node::watch(&self.0);
        Box::pin(ready(Ok(())))
    }

    fn stop(&mut self, _: Instant) -> LocalBoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}

/// The memory limiter.
pub(in crate::daemon) struct MemoryLimiter {
    memory: Arc<SharedMemoryPressure>,
    meter: Meter,
    running: Option<(MemoryLimiterConfig, CancellationToken, JoinHandle<()>)>,
}

impl MemoryLimiter {
    pub(in crate::daemon) fn new(memory: &Arc<SharedMemoryPressure>, meter: &Meter) -> Self {
        Self {
            memory: Arc::clone(memory),
            meter: meter.clone(),
            running: None,
        }
    }

    fn begin(&mut self, config: &MemoryLimiterConfig) {
        let stop = CancellationToken::new();
        let task = memory_limiter::watch(
            config,
            &self.memory,
            &self.meter,
            flowtap_ebpf::trim_heap,
            stop.clone(),
        );
        self.running = task.map(|task| (config.clone(), stop, task));
    }

    async fn end(&mut self) {
        if let Some((_, stop, task)) = self.running.take() {
            stop.cancel();
            // A task that panicked has said so itself.
            let _ = task.await;
        }
    }
}

impl Service for MemoryLimiter {
    fn start<'a>(&'a mut self, config: &'a Config) -> Outcome<'a> {
        self.begin(&config.service.memory_limiter);
        Box::pin(ready(Ok(())))
    }

    fn reload<'a>(&'a mut self, config: &'a Config) -> Outcome<'a> {
        let wanted = &config.service.memory_limiter;
        Box::pin(async move {
            if self
                .running
                .as_ref()
                .is_some_and(|(running, ..)| running == wanted)
            {
                return Ok(());
            }
            self.end().await;
            self.begin(wanted);
            if self.running.is_none() {
                self.memory.set(MemoryPressure::None);
            }
            Ok(())
        })
    }

    fn stop(&mut self, _: Instant) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}

/// The watcher of the Kubernetes cluster, if there is one.
pub(in crate::daemon) struct ClusterWatch {
    cluster: Option<Cluster>,
    state: Arc<Published<ClusterState>>,
    watches: WatchBoard,
    meter: Meter,
    stop: CancellationToken,
}

impl ClusterWatch {
    pub(in crate::daemon) fn new(
        cluster: Option<Cluster>,
        state: &Arc<Published<ClusterState>>,
        watches: &WatchBoard,
        meter: &Meter,
    ) -> Self {
        Self {
            cluster,
            state: Arc::clone(state),
            watches: watches.clone(),
            meter: meter.clone(),
            stop: CancellationToken::new(),
        }
    }
}

impl Service for ClusterWatch {
    fn start<'a>(&'a mut self, config: &'a Config) -> Outcome<'a> {
        if let Some(cluster) = self.cluster.take() {
            let (watches, stop) = (self.watches.clone(), self.stop.clone());
            kubernetes::follow(config, cluster, &self.state, watches, &self.meter, stop);
        }
        Box::pin(ready(Ok(())))
    }

    fn stop(&mut self, _: Instant) -> LocalBoxFuture<'_, ()> {
        self.stop.cancel();
        Box::pin(ready(()))
    }
}

/// The notifications that systemd's watchdog waits for.
pub(in crate::daemon) struct Watchdog {
    board: StatusBoard,
    stop: CancellationToken,
}

impl Watchdog {
    pub(in crate::daemon) fn new(board: &StatusBoard) -> Self {
        Self {
            board: board.clone(),
            stop: CancellationToken::new(),
        }
    }
}

impl Service for Watchdog {
    fn start<'a>(&'a mut self, _: &'a Config) -> Outcome<'a> {
        systemd::keep_alive(self.board.clone(), self.stop.clone());
        Box::pin(ready(Ok(())))
    }

    fn stop(&mut self, _: Instant) -> LocalBoxFuture<'_, ()> {
        self.stop.cancel();
        Box::pin(ready(()))
    }
}
