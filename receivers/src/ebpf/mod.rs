//! The receiver `ebpf`: TCP flows of this machine, every network namespace, by eBPF.
//!
//! In: the kernel. Out: a record for each socket that moved bytes since the last interval, one for each connection that
//! closed or failed, and changes of listening ports. The rules, per tick of `interval`:
//!
//! 1. Drain the ring: connections that closed, listeners that changed.
//! 2. Scan the sockets' totals.
//! 3. Drain the ring once more: what closed before the scan came to it. From here on nothing that moved before the
//!    tick is missing, so the window may close: the tick is handed on as the watermark.
//!
//! Between ticks the ring is drained only when a quarter of it is full. When flowtap stops, the same three steps give the
//! last window.

mod config;
mod convert;
mod losses;

use std::io;

use flowtap_ebpf::{Event, LoadError, RingWatch, Sockets, SocketsOptions};
use flowtap_pipeline::time::Ticker;
use flowtap_pipeline::{BuildContext, FlowBatch, Receiver, Sink, StageError, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use self::config::{Config, FACTORY, Mode};
use self::losses::LossTelemetry;
use crate::listen_scan;

/// Records after which a batch is handed on, so that it stays in the cache.
const BATCH_RECORDS: usize = 1024;

/// The receiver.
#[derive(Debug)]
pub struct EbpfReceiver {
    config: Config,
    losses: LossTelemetry,
    sockets: Option<Sockets>,
}

impl EbpfReceiver {
    /// A receiver that has not touched the kernel yet.
    pub fn new(config: Config, context: &BuildContext) -> Self {
        Self {
            config,
            losses: LossTelemetry::new(context),
            sockets: None,
        }
    }
}

impl Receiver for EbpfReceiver {
    fn start(&mut self) -> Result<(), StageError> {
        let options = SocketsOptions {
            ring_buffer_bytes: self.config.ring_buffer_bytes,
        };
        self.sockets = Some(Sockets::load(&options).map_err(explain)?);
        tracing::info!(mode = "sockets", reason = "it loads", "eBPF programs attached");
        Ok(())
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            let Some(sockets) = self.sockets.take() else {
                return Err(StageError::Other("run without start".into()));
            };
            let watch = sockets.watch().map_err(broken)?;
            let capture = Capture {
                config: &self.config,
                losses: &mut self.losses,
                sockets,
                sink,
                batch: FlowBatch::default(),
            };
            capture.run(watch, stop).await
        }
        .boxed()
    }
}

/// The receiver at work.
struct Capture<'a> {
    config: &'a Config,
    losses: &'a mut LossTelemetry,
    sockets: Sockets,
    sink: &'a mut Sink,
    batch: FlowBatch,
}

impl Capture<'_> {
    async fn run(mut self, watch: RingWatch, stop: CancellationToken) -> Result<(), StageError> {
        let mut ticks = Ticker::new(self.config.interval);
        let mut rescans = Ticker::new(self.config.scan_listen_interval);
        self.adopt();
        self.rescan_listeners();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    let now = Timestamp::now();
                    self.collect()?;
                    self.sink.watermark(now);
                    return Ok(());
                }
                tick = ticks.tick() => {
                    self.collect()?;
                    self.sink.watermark(tick);
                }
                filled = watch.filled() => {
                    filled.map_err(broken)?;
                    self.drain()?;
                }
                _ = rescans.tick() => {
                    self.adopt();
                    self.rescan_listeners();
                }
            }
        }
    }

    /// Everything that has moved up to now.
    fn collect(&mut self) -> Result<(), StageError> {
        self.drain()?;
        let Self {
            sockets, sink, batch, ..
        } = self;
        // Totals that a failed scan has not shown are shown by the next one.
        if let Err(error) = sockets.scan(|event| take(batch, sink, event)) {
            self.losses.scan_failed();
            tracing::warn!(%error, "the scan of the sockets was cut short; the next one makes up for it");
        }
        self.drain()?;
        self.hand_on();
        match self.sockets.losses() {
            Ok(losses) => self.losses.update(&losses),
            Err(error) => tracing::warn!(%error, "the kernel side's counters can't be read"),
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), StageError> {
        let Self {
            sockets, sink, batch, ..
        } = self;
        sockets.drain(|event| take(batch, sink, event)).map_err(broken)?;
        self.hand_on();
        Ok(())
    }

    fn adopt(&mut self) {
        let Self {
            sockets, sink, batch, ..
        } = self;
        let adoption = sockets.adopt(|event| take(batch, sink, event));
        self.hand_on();
        if let Some(Err(error)) = adoption.files {
            tracing::warn!(%error, "connections of other network namespaces that were open before are not counted, \
                and accepted connections have no process");
        }
        if let Some(Err(error)) = adoption.sockets {
            tracing::warn!(%error, "connections without a process that were open before are not counted");
        }
    }

    fn rescan_listeners(&mut self) {
        match listen_scan::scan(&self.config.proc_root) {
            Ok(change) => self.batch.listeners.push(change),
            Err(error) => tracing::warn!(%error, "listening ports could not be read again"),
        }
        self.hand_on();
    }

    fn hand_on(&mut self) {
        self.sink.accept(&mut self.batch);
    }
}

/// Adds `event` to the batch, and hands the batch on when it is full.
fn take(batch: &mut FlowBatch, sink: &mut Sink, event: Event) {
    convert::push(batch, event);
    if batch.records.len() >= BATCH_RECORDS {
        sink.accept(batch);
    }
}

fn broken(error: io::Error) -> StageError {
    StageError::Other(error.into())
}

/// What is missing, in the operator's terms, and the command that mends it.
fn explain(error: LoadError) -> StageError {
    match error {
        LoadError::Capability(missing) => StageError::Permission {
            what: "the eBPF programs can't be loaded".to_owned(),
            missing: missing.join(", "),
            remedy: grant_command(),
        },
        LoadError::Refused { .. } => StageError::Permission {
            what: error.to_string(),
            missing: "the kernel's consent: it is locked down, or a seccomp or LSM policy forbids bpf(2)"
                .to_owned(),
            remedy: "see /sys/kernel/security/lockdown, and the container's seccomp profile".to_owned(),
        },
        LoadError::Btf(_) => StageError::Unsupported {
            what: error.to_string(),
            remedy: "run a kernel built with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
        },
        LoadError::MissingField { .. } | LoadError::Verifier { .. } => StageError::Unsupported {
            what: error.to_string(),
            remedy: "mode `sockets` needs Linux 5.12 or later".to_owned(),
        },
        error => StageError::Other(error.into()),
    }
}

fn grant_command() -> String {
    let program = std::env::current_exe().map_or_else(
        |_| "/path/to/flowtap".to_owned(),
        |path| path.display().to_string(),
    );
    format!("sudo setcap cap_bpf,cap_perfmon+ep {program}   (or run it as root)")
}
