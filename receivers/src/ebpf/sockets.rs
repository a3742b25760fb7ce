//! Mode `sockets` at work. The rules, per tick of `interval`:
//!
//! 1. Scan the sockets' totals. Records of changed sockets come through the ring, among connections
//!    that closed and listeners that changed; it is drained before the scan, whenever the scan has
//!    filled its share, and once more after it.
//! 2. From here on no record before the tick is missing, so the window may close: the tick is
//!    passed on as the watermark.
//!
//! Between ticks the ring is drained only when a quarter of it is full. When flowtap stops, the same steps give the last window.

use std::io;

use flowtap_ebpf::{Event, Listeners, Sockets};
use flowtap_pipeline::Ticker;
use flowtap_pipeline::{FlowBatch, StageError, Timestamp};
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::convert;
use super::known::Known;
use super::losses::{ChannelLosses, LossTelemetry};
use super::programs::{Left, scan_listeners};
use crate::census::{self, CensusPlan};
use crate::containers;
use crate::coverage::MeteredSink;
use crate::listen_scan;

/// Records after which a batch is passed on, so that it stays in the cache.
const BATCH_RECORDS: usize = 1024;

/// The receiver at work.
pub(super) struct Capture<'a> {
    config: &'a Config,
    losses: &'a mut LossTelemetry,
    output: MeteredSink<'a>,
    sockets: Sockets,
    batch: FlowBatch,
    known: Known,
    census: CensusPlan,
    listeners: Option<Listeners>,
    /// Not counted on in this mode.
    lost: ChannelLosses,
}

impl<'a> Capture<'a> {
    pub(super) fn new(
        config: &'a Config,
        losses: &'a mut LossTelemetry,
        left: Left<Sockets>,
        output: MeteredSink<'a>,
    ) -> Self {
        Self {
            config,
            losses,
            output,
            sockets: left.programs,
            batch: left.found,
            known: left.known,
            census: left.census,
            listeners: left.listeners,
            lost: left.lost,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<Left<Sockets>, StageError> {
        let [_, watch] = self.sockets.watch().map_err(broken)?;
        let cgroups = self.known.containers.events().map_err(broken)?;
        let mut ticks = Ticker::new(self.config.interval);
        let mut rescans = Ticker::new(self.config.scan_listen_interval);
        self.rescan_listeners();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    let now = Timestamp::now();
                    // A census that is due is left to the receiver that continues.
                    self.collect(false)?;
                    self.output.watermark(now);
                    return Ok(Left {
                        programs: self.sockets,
                        found: self.batch,
                        known: self.known,
                        census: self.census,
                        listeners: self.listeners,
                        lost: self.lost,
                    });
                }
                tick = ticks.tick() => {
                    let census = self.is_census_due();
                    self.collect(census)?;
                    self.output.watermark(tick);
                }
                filled = watch.filled() => {
                    filled.map_err(broken)?;
                    self.drain()?;
                }
                filled = containers::filled(cgroups.as_ref()) => {
                    filled.map_err(broken)?;
                    self.known.containers.catch_up();
                }
                _ = rescans.tick() => {
                    self.adopt();
                    self.rescan_listeners();
                }
            }
        }
    }

    fn is_census_due(&mut self) -> bool {
        let lost = match (self.sockets.losses(), self.sockets.program_misses()) {
            (Ok(losses), Ok(misses)) => {
                // A change is missed only where every program was.
                let changes = misses.iter().map(|program| program.misses).min();
                losses.flows + losses.untracked + losses.missed_closes + changes.unwrap_or(0)
            }
            // Logged when the losses are read.
            _ => self.census.lost(),
        };
        self.census.is_due(self.output.wants_census(), lost)
    }

    /// Everything that has moved up to now; in a `census` also everything that is open.
    fn collect(&mut self, census: bool) -> Result<(), StageError> {
        self.hand_on();
        let Self {
            sockets,
            output,
            batch,
            known,
            ..
        } = self;
        if census {
            census::begin(batch);
            known.translations.begin_census();
        }
        let each = |event, _| take(batch, known, output, event);
        let scanned = if census {
            sockets.scan_census(each)
        } else {
            sockets.scan(each)
        };
        match scanned {
            Ok(_) if census => {
                census::end(&mut self.batch);
                self.known.translations.end_census();
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(broken(error)),
            // Totals that a failed scan has not shown are shown by the next one.
            Err(error) => {
                self.losses.scan_failed();
                if census {
                    self.census.failed();
                }
                self.output.scan_failed(&error);
                tracing::warn!(%error, "the scan of the sockets was cut short; the next one recovers it; \
                hint: report this if it comes again");
            }
        }
        scan_listeners(
            false,
            &mut self.listeners,
            &mut self.batch,
            &mut self.known.containers,
        );
        self.hand_on();
        match self.sockets.losses() {
            Ok(losses) => {
                if let Some(refused) = self.losses.update(&losses) {
                    self.output.records_refused(&refused);
                }
            }
            Err(error) => tracing::warn!(%error, "the kernel side's counters can't be read; \
                hint: restart flowtap if it comes again"),
        }
        self.losses.update_translations(self.known.translations.refused());
        match self.sockets.program_misses() {
            Ok(misses) => self.losses.update_misses(&misses),
            Err(error) => tracing::warn!(%error, "the programs' counters can't be read; \
                hint: restart flowtap if it comes again"),
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), StageError> {
        let Self {
            sockets,
            output,
            batch,
            known,
            ..
        } = self;
        sockets
            .drain(|event, _| take(batch, known, output, event))
            .map_err(broken)?;
        self.hand_on();
        Ok(())
    }

    fn adopt(&mut self) {
        adopt(&mut self.sockets, &mut self.batch, &mut self.known);
        self.hand_on();
    }

    fn rescan_listeners(&mut self) {
        match listen_scan::scan(&self.config.proc_root) {
            Ok(change) => self.batch.listeners.push(change),
            Err(error) => tracing::warn!(%error, "listening ports could not be read again; \
                hint: check receivers.ebpf.proc_root"),
        }
        self.hand_on();
    }

    fn hand_on(&mut self) {
        self.output.accept(&mut self.batch);
    }
}

/// Takes up what is open already, and adds the listeners that are found to `batch`.
pub(super) fn adopt(sockets: &mut Sockets, batch: &mut FlowBatch, known: &mut Known) {
    let adoption = sockets.adopt(|event| convert::push(batch, known, event));
    if let Some(Err(error)) = adoption.files {
        tracing::warn!(
            %error,
            "open connections of other network namespaces are not counted, and accepted connections \
             have no process; \
                hint: run flowtap in the host's pid namespace"
        );
    }
    if let Some(Err(error)) = adoption.sockets {
        tracing::warn!(%error, "open connections without a process are not counted; \
                hint: restart flowtap with a kernel that has iterators over TCP sockets (5.8)");
    }
}

/// Adds `event` to the batch, and hands the batch on when it is full.
fn take(batch: &mut FlowBatch, known: &mut Known, output: &mut MeteredSink<'_>, event: Event) {
    convert::push(batch, known, event);
    if batch.tcp.len() >= BATCH_RECORDS {
        output.accept(batch);
    }
}

pub(super) fn broken(error: io::Error) -> StageError {
    StageError::Other(error.into())
}
