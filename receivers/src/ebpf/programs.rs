//! The programs of a capture mode, with what goes with them from one receiver to the next.

use std::time::Duration;

use flowtap_ebpf::{Attachment, EventsOptions, Listeners, Sockets, SocketsOptions, Store};
use flowtap_pipeline::FlowBatch;

use super::config::Config;
use super::convert;
use super::event_programs::EventPrograms;
use super::known::Known;
use super::losses::ChannelLosses;
use crate::census::CensusPlan;
use crate::containers::Containers;
use crate::sock_diag::SockDiagReceiver;

/// The ring of mode `sockets`, unless the config says otherwise: what some 20,000 connections say when they open or close. With it
/// none of 30,000 a second was lost (docs/performance.md).
const SOCKETS_RING_BYTES: u32 = 1 << 22;

/// Each ring of mode `events`, unless the config says otherwise: as the Go exporter's.
const EVENTS_RING_BYTES: u32 = 1 << 24;

/// Options with which mode `sockets`, or with `per_segment` mode `events`, is loaded.
pub(super) fn sockets_options(config: &Config, per_segment: bool) -> SocketsOptions {
    let ring_bytes = if per_segment {
        EVENTS_RING_BYTES
    } else {
        SOCKETS_RING_BYTES
    };
    SocketsOptions {
        ring_buffer_bytes: config.ring_buffer_bytes.unwrap_or(ring_bytes),
        max_sockets: config.max_sockets,
        per_segment,
        translation: config.reads_translations(),
    }
}

/// Options with which mode `events` is loaded where it has a separate table.
pub(super) fn events_options(config: &Config) -> EventsOptions {
    EventsOptions {
        ring_buffer_bytes: config.ring_buffer_bytes.unwrap_or(EVENTS_RING_BYTES),
        max_sockets: config.max_sockets,
        translation: config.reads_translations(),
    }
}

/// The programs of the mode that was taken.
#[derive(Debug)]
pub(super) enum Programs {
    Sockets(Box<Left<Sockets>>),
    Events(Box<Left<EventPrograms>>),
    /// None: the receiver that needs none, started.
    SockDiag(Box<SockDiagReceiver>),
}

impl Programs {
    /// Logs how the kernel side works.
    pub(super) fn log(&self, config: &Config) {
        let (sockets, mode) = match self {
            Self::Sockets(left) => (&left.programs, "sockets"),
            Self::Events(left) => match &left.programs {
                EventPrograms::Shared(sockets) => (&**sockets, "events"),
                EventPrograms::Own(events) => return log_attachment(events.attachment()),
            },
            Self::SockDiag(_) => return,
        };
        if let Err(error) = sockets.accept() {
            tracing::warn!(
                %error,
                "accept() is not observed: an accepted connection has the process that listens until a file scan or its close; \
                hint: use a kernel with fentry (`flowtap doctor`), or a shorter `scan_listen_interval`"
            );
        }
        if let Err(error) = sockets.finds_missed() {
            tracing::warn!(
                %error,
                "destroyed sockets are not looked at: a connection is not counted if the kernel skipped each program when it opened or \
                closed; hint: watch `flowtap_receiver_program_misses_total`, which counts skipped programs"
            );
        }
        match sockets.store() {
            Store::SocketStorage(scan) => {
                tracing::debug!(mode, scan, "connections are followed in their sockets' storage");
            }
            Store::Table => tracing::info!(
                mode,
                max_sockets = config.max_sockets,
                "the kernel refuses iterators over socket storage; connections are followed in a table"
            ),
        }
    }

    pub(super) const fn mode(&self) -> &'static str {
        match self {
            Self::Sockets(_) => "sockets",
            Self::Events(_) => "events",
            Self::SockDiag(_) => "sock_diag",
        }
    }
}

/// Programs, with what goes with them from one receiver to the next.
#[derive(Debug)]
pub(super) struct Left<P> {
    pub(super) programs: P,
    /// Records that were read, but not passed to a pipeline.
    pub(super) found: FlowBatch,
    pub(super) known: Known,
    pub(super) census: CensusPlan,
    /// The scan of listening sockets; `None` where the kernel has none.
    pub(super) listeners: Option<Listeners>,
    /// Running totals, as [`LossTelemetry`](super::losses::LossTelemetry) knows them.
    pub(super) lost: ChannelLosses,
}

impl<P> Left<P> {
    pub(super) fn new(programs: P, listeners: Option<Listeners>, known: Known) -> Self {
        Self {
            programs,
            found: FlowBatch::default(),
            known,
            census: CensusPlan::default(),
            listeners,
            lost: ChannelLosses::default(),
        }
    }

    /// The programs, and the rest.
    pub(super) fn split(self) -> (P, Left<()>) {
        let rest = Left {
            programs: (),
            found: self.found,
            known: self.known,
            census: self.census,
            listeners: self.listeners,
            lost: self.lost,
        };
        (self.programs, rest)
    }

    pub(super) fn map<Q>(self, with: impl FnOnce(P) -> Q) -> Left<Q> {
        let (programs, rest) = self.split();
        Left {
            programs: with(programs),
            found: rest.found,
            known: rest.known,
            census: rest.census,
            listeners: rest.listeners,
            lost: rest.lost,
        }
    }
}

/// Adds what a scan of listening sockets finds to `batch`; `adopts` at the first one.
pub(super) fn scan_listeners(
    adopts: bool,
    listeners: &mut Option<Listeners>,
    batch: &mut FlowBatch,
    containers: &mut Containers,
) {
    let Some(scan) = listeners else { return };
    let scanned = scan.scan(|found| {
        let mut record = convert::listening_record(&found);
        record.adopted = adopts;
        record.flow.container_id = containers.id_of(&record.flow, Duration::ZERO);
        batch.listening.push(record);
    });
    if let Err(error) = scanned {
        tracing::warn!(%error, "the queues of listening sockets can't be read; the next scan recovers it; \
                 hint: report this if it comes again");
    }
}

/// Logs how programs of mode `events` with a separate table are attached.
fn log_attachment(attachment: Attachment) {
    tracing::info!(
        tracepoints = attachment.tracepoints,
        kprobes = attachment.kprobes,
        accept = attachment.accept.unwrap_or("not observed"),
        "mode events, in a separate table"
    );
    if let (false, Some(level)) = (attachment.kprobes, perf_event_paranoid()) {
        tracing::warn!(
            kernel.perf_event_paranoid = level,
            "no kprobes: at this level the kernel requires CAP_SYS_ADMIN for them, so processes that close accepted connections are not observed; \
             hint: run `sysctl -w kernel.perf_event_paranoid=2`; CAP_PERFMON is sufficient then"
        );
    }
}

/// `kernel.perf_event_paranoid`, where it is above what the kernel itself knows: Debian's and Ubuntu's kernels have more levels.
fn perf_event_paranoid() -> Option<i32> {
    let text = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?;
    text.trim().parse().ok().filter(|level| *level > 2)
}
