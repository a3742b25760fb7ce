//! The option `inspect` of the receiver `ebpf`: application protocols, names of TLS servers, exchanges, and the addresses of every
//! connection on the wire.
//!
//! In: first bytes of connections, exchanges and addresses from the kernel side, and the records of the mode for TCP. Out: these records,
//! with the protocol, the name, the exchanges and the addresses of their connections. The rules:
//!
//! 1. Off by default: no program is loaded, and a record passes by one look at an option.
//! 2. Before a batch is passed on, what the kernel side has reported is read, so that a connection's last record has all of it
//!    ([`InspectSink`]).
//! 3. Every [`TICK`] buffers are read, the time that was spent is held against the budget, and the programs are attached or detached ([`budget`]).
//! 4. Payload never leaves this module: it is recognized, and wiped ([`table`], [`crate::inspect`]).

mod budget;
mod config;
mod table;
mod telemetry;

use std::fmt::Display;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowtap_ebpf::udp::monotonic_ns;
use flowtap_ebpf::{Inspect, InspectEvent, LoadError, RingWatch};
use flowtap_pipeline::{BuildContext, FlowBatch, Sink, StageError, Timestamp};
use futures::FutureExt;
use futures::future::select_all;
use nix::time::{ClockId, clock_gettime};

use self::budget::{Budget, cost};
pub use self::budget::{InvalidShare, Share};
pub use self::config::InspectConfig;
use self::table::Table;
use self::telemetry::Telemetry;
use super::explain::{Grant, explain};

/// Interval at which the budget is looked at.
const TICK: Duration = Duration::from_millis(100);

/// The programs at work, and what goes with them from one receiver to the next.
#[derive(Debug)]
pub(super) struct InspectCapture {
    config: InspectConfig,
    reads_translations: bool,
    programs: Inspect,
    table: Table,
    budget: Budget,
    telemetry: Telemetry,
    /// At the last look at the budget.
    looked_at: Instant,
    runs: [u64; 3],
    /// CPU time spent on reading since then.
    reading: Duration,
    malformed: u64,
    has_failed: bool,
}

impl InspectCapture {
    /// Loads and attaches the programs: before the receiver has started, so that a connection that opens once flowtap is ready is seen from
    /// its first segment. [`Shared::run`] reads what they report. `None` if the config asks for nothing, or, with a warning, where the
    /// kernel does not allow it. With `reads_translations` addresses on the wire are read as well; by themselves they load nothing.
    ///
    /// # Errors
    /// The missing requirement, if flowtap runs strictly.
    pub(super) fn load(
        config: &InspectConfig,
        reads_translations: bool,
        context: &BuildContext,
    ) -> Result<Option<Box<Self>>, StageError> {
        if !config.is_on() {
            return Ok(None);
        }
        let loaded = Inspect::load(config.kernel(reads_translations)).and_then(|mut programs| {
            programs.attach()?;
            Ok(programs)
        });
        let programs = match loaded {
            Ok(programs) => programs,
            Err(error) if context.strict => return Err(explain(error, Grant::Programs)),
            Err(error) => {
                let hint = match (&error, error.descriptor_remedy()) {
                    (_, Some(remedy)) => remedy,
                    (LoadError::Capability(_), None) => "grant CAP_BPF and CAP_PERFMON",
                    _ => "run Linux 5.12 or later, or leave `inspect` out",
                };
                tracing::warn!(receiver = %context.id, %error, "`inspect` does not work here: protocols, names of servers and exchanges stay empty\n  hint: {hint}");
                return Ok(None);
            }
        };
        tracing::info!(
            receiver = %context.id,
            protocols = config.protocols,
            exchanges = config.exchanges,
            budget = %config.budget,
            "inspecting connections"
        );
        Ok(Some(Box::new(Self {
            table: Table::new(config),
            budget: Budget::new(config.budget),
            telemetry: Telemetry::new(context, config.reads_first_bytes()),
            config: config.clone(),
            reads_translations,
            programs,
            looked_at: Instant::now(),
            runs: [0; 3],
            reading: Duration::ZERO,
            malformed: 0,
            has_failed: false,
        })))
    }

    /// Whether a receiver with these settings can continue with it.
    pub(super) fn suits(&self, config: &InspectConfig, reads_translations: bool) -> bool {
        self.config == *config && self.reads_translations == reads_translations
    }

    /// Shows that the programs are about to be detached for good.
    pub(super) fn end(&self) {
        self.telemetry.end();
    }

    /// Reads what the kernel side has reported.
    fn drain(&mut self) -> io::Result<()> {
        let began = thread_cpu_time();
        let now_ns = monotonic_ns();
        let Self { programs, table, .. } = self;
        self.malformed += programs.drain_first_bytes(|first| table.add_first_bytes(first, now_ns));
        let drained = programs.drain_events(|event| match event {
            InspectEvent::Exchange(exchange) => table.add_exchange(exchange, now_ns),
            InspectEvent::Translation(found) => table.add_translation(found, now_ns),
        });
        // First bytes are reported before the exchange that they begin, but may have come after the first look at their buffer.
        if table.has_early_exchanges() {
            self.malformed += programs.drain_first_bytes(|first| table.add_first_bytes(first, now_ns));
            table.add_early_exchanges(now_ns);
        }
        self.reading += thread_cpu_time().saturating_sub(began);
        drained
    }

    /// Completes the records of a batch.
    fn complete(&mut self, batch: &mut FlowBatch) -> io::Result<()> {
        let drained = self.drain();
        self.table.complete(batch, monotonic_ns());
        drained
    }

    /// Begins to read, or goes on; attaches the programs that a receiver before left detached, if the budget has recovered.
    fn begin(&mut self) -> io::Result<()> {
        self.looked_at = Instant::now();
        if !self.budget.is_on() {
            return Ok(());
        }
        self.programs.attach().map_err(io::Error::other)
    }

    /// Reads, so that little waits in the buffers, and holds the time that was spent against the budget.
    fn tick(&mut self) -> io::Result<()> {
        self.drain()?;
        let seen = self.programs.seen()?;
        let elapsed = self.looked_at.elapsed();
        self.looked_at += elapsed;
        let runs = [seen.runs, seen.timed_runs, seen.timed_ns];
        let [new_runs, timed_runs, timed_ns] = std::array::from_fn(|i| runs[i].saturating_sub(self.runs[i]));
        self.runs = runs;
        let spent = cost(new_runs, timed_runs, timed_ns) + std::mem::take(&mut self.reading);
        let was_attached = self.programs.is_attached();
        self.telemetry.add_time(elapsed, was_attached, spent);
        let missed = self.programs.program_misses()?;
        self.telemetry.update(
            &seen,
            missed.iter().map(|program| program.misses).sum(),
            self.malformed,
            self.table.rejected(),
            self.table.closed(),
            self.table.len(),
        );
        let changed = match (self.budget.tick(elapsed, spent), was_attached) {
            (true, false) => self.programs.attach(),
            (false, true) => self.programs.detach(),
            _ => Ok(()),
        };
        match changed {
            Ok(()) => self.has_failed = false,
            // The next look tries again.
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                tracing::warn!(%error, "the programs of `inspect` can't be attached or detached; trying again\n  hint: restart flowtap if it goes on");
            }
            Err(_) => {}
        }
        Ok(())
    }
}

/// The capture, which the sink and the watch share.
#[derive(Debug)]
pub(super) struct Shared(Mutex<Option<Box<InspectCapture>>>);

impl Shared {
    pub(super) const fn new(capture: Option<Box<InspectCapture>>) -> Self {
        Self(Mutex::new(capture))
    }

    /// The capture, for the receiver that continues.
    pub(super) fn into_capture(self) -> Option<Box<InspectCapture>> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn capture(&self) -> MutexGuard<'_, Option<Box<InspectCapture>>> {
        // A panic in between leaves a table whose entries are whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, and looks at the budget, every [`TICK`]; reads whenever a buffer has filled. Without a capture it waits for ever.
    ///
    /// # Errors
    /// If a buffer can't be watched or read.
    pub(super) async fn run(&self) -> Result<(), StageError> {
        let watches = self.capture().as_ref().map(|capture| capture.programs.watch());
        let Some(watches) = watches else {
            return std::future::pending().await;
        };
        let watches = watches.map_err(broken)?;
        self.capture()
            .as_mut()
            .map_or(Ok(()), |capture| capture.begin())
            .map_err(broken)?;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let step = tokio::select! {
                _ = ticks.tick() => InspectCapture::tick,
                filled = any_filled(&watches) => {
                    filled.map_err(broken)?;
                    InspectCapture::drain
                }
            };
            self.capture()
                .as_mut()
                .map_or(Ok(()), |capture| step(capture))
                .map_err(broken)?;
        }
    }
}

/// CPU time that this thread has taken: that in which it waited for a CPU is not spent.
fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

async fn any_filled(watches: &[RingWatch]) -> io::Result<()> {
    select_all(watches.iter().map(|watch| watch.filled().boxed()))
        .await
        .0
}

fn broken(error: io::Error) -> StageError {
    StageError::Other(error.into())
}

/// The sink of a mode, with what is known of a connection in each of its records.
#[derive(Debug)]
pub(super) struct InspectSink<'a> {
    pub(super) sink: &'a mut dyn Sink,
    pub(super) shared: &'a Shared,
}

impl Sink for InspectSink<'_> {
    fn accept(&mut self, batch: &mut FlowBatch) {
        if let Some(capture) = self.shared.capture().as_mut()
            && (!batch.tcp.is_empty() || batch.census.ends)
            && let Err(error) = capture.complete(batch)
        {
            tracing::warn!(%error, "the ring of exchanges can't be read\n  hint: restart flowtap; report this if it comes again");
        }
        self.sink.accept(batch);
    }

    fn wants_census(&self) -> bool {
        self.sink.wants_census()
    }

    fn watermark(&mut self, to: Timestamp) {
        self.sink.watermark(to);
    }

    fn scan_failed(&mut self, error: &dyn Display) {
        self.sink.scan_failed(error);
    }

    fn records_refused(&mut self, reason: &dyn Display) {
        self.sink.records_refused(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_takes_no_cpu_time() {
        let (began, waited_from) = (thread_cpu_time(), Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        let taken = thread_cpu_time().saturating_sub(began);
        assert!(taken < waited_from.elapsed() / 5, "{taken:?}");
        let began = thread_cpu_time();
        while thread_cpu_time() == began {}
    }
}
