//! Stopping in bounded time: signals and the deadline have dedicated threads.
//!
//! The first SIGTERM or SIGINT begins an orderly stop; a second one ends the process at once. However it begins, the stop is over
//! within `service.shutdown_timeout` and a grace period: a peer, a pipe, a name server or a worker that is stuck can't make it
//! longer, because neither thread waits for anything of theirs.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use flowtap_extensions::telemetry::LogWriter;
use nix::sys::signal::{SigSet, Signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Code, ExitError};

/// Time after `service.shutdown_timeout` at which the process is ended by force; an orderly end
/// takes less.
const GRACE: Duration = Duration::from_millis(900);

/// Maximum time for writing the last log lines.
const LAST_LINES: Duration = Duration::from_millis(100);

/// SIGTERM and SIGINT, blocked in this thread and all that it starts.
#[derive(Debug)]
pub(crate) struct Signals(SigSet);

/// Signals that the daemon has an answer to, once it is ready for them.
const HELD: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

impl Signals {
    /// Lets SIGTERM, SIGINT and SIGHUP wait, from the first instruction on: the one that comes while the daemon reads its config would
    /// end it as no stop does.
    pub(crate) fn hold() {
        // Where that is not possible, the signals do as before.
        let _ = HELD.into_iter().collect::<SigSet>().thread_block();
    }

    /// Lets those that wait, and later ones, do what they do to any process: the command that runs is none that answers them.
    pub(crate) fn release() {
        let _ = HELD.into_iter().collect::<SigSet>().thread_unblock();
    }

    /// Lets SIGHUP come, once there is a handler. It is called in the thread that has held it.
    pub(crate) fn release_hangup() {
        let _ = SigSet::from(Signal::SIGHUP).thread_unblock();
    }

    /// Blocks them. Call it before the first thread: a signal is delivered to any thread that does not block it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn block() -> Result<Self, ExitError> {
        let set: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        set.thread_block()
            .map_err(|errno| ExitError::new(Code::System, format!("signals can't be blocked: {errno}")))?;
        Ok(Self(set))
    }
}

/// The begin of the stop, and its deadline.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    token: CancellationToken,
    steps: SyncSender<Step>,
    /// Whether the work that was to be stopped has ended.
    is_over: Arc<AtomicBool>,
}

/// Steps of the stop.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begun,
    Over,
}

impl Stop {
    /// One that no signal begins.
    #[cfg(test)]
    pub(crate) fn without_signals() -> Self {
        Self {
            token: CancellationToken::new(),
            steps: sync_channel(1).0,
            is_over: Arc::default(),
        }
    }

    /// Waits for `signals`, from now on.
    ///
    /// # Errors
    /// No thread could be started.
    pub(crate) fn watch(signals: Signals, timeout: Duration, log: &LogWriter) -> Result<Self, ExitError> {
        let (steps, taken) = sync_channel(1);
        let stop = Self {
            token: CancellationToken::new(),
            steps,
            is_over: Arc::default(),
        };
        let for_signals = (stop.clone(), log.clone());
        spawn("signals", move || wait(&signals, &for_signals.0, &for_signals.1))?;
        let log = log.clone();
        spawn("stop-deadline", move || enforce(&taken, timeout, &log))?;
        Ok(stop)
    }

    /// Returns the token that the first signal cancels.
    pub(crate) const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Begins the stop: from now on the deadline counts, whatever caused it.
    pub(crate) fn begin(&self) {
        self.token.cancel();
        // Nobody receives it: it is over.
        let _ = self.steps.send(Step::Begun);
    }

    /// The work has ended, and the process goes on: there is no deadline any longer, and a signal ends the process at once.
    #[cfg_attr(
        not(feature = "analysis"),
        expect(dead_code, reason = "the daemon ends with its work; only commands go on")
    )]
    pub(crate) fn over(&self) {
        self.is_over.store(true, Ordering::Release);
        let _ = self.steps.send(Step::Over);
    }
}

/// Signals within this time of the first are one.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), ExitError> {
    // Neither needs more than a few calls deep.
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(256 << 10);
    thread.spawn(work)?;
    Ok(())
}

fn wait(signals: &Signals, stop: &Stop, log: &LogWriter) {
    let Ok(first) = signals.0.wait() else { return };
    if stop.is_over.load(Ordering::Acquire) {
        exit(log);
    }
    tracing::info!(
        signal = first.as_str(),
        "stopping: one last window, then the exporters drain; a second signal ends flowtap at once"
    );
    stop.begin();
    let begun = Instant::now();
    let second = loop {
        let Ok(second) = signals.0.wait() else { return };
        // timeout(1) and some shells send theirs to the process and then to its group.
        if begun.elapsed() >= SAME_SIGNAL {
            break second;
        }
    };
    let signal = second.as_str();
    tracing::error!(
        signal,
        "ended by a second signal: data in memory is lost; requests on disk (`storage`) are sent after the next start; \
                hint: send one signal, and raise service.shutdown_timeout if the end takes long"
    );
    exit(log);
}

fn enforce(taken: &Receiver<Step>, timeout: Duration, log: &LogWriter) {
    let Ok(Step::Begun) = taken.recv() else { return };
    let until = Instant::now() + timeout + GRACE;
    loop {
        match taken.recv_timeout(until.saturating_duration_since(Instant::now())) {
            // Begun once more: the first counts.
            Ok(Step::Begun) => {}
            Ok(Step::Over) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    tracing::error!(
        ?timeout,
        "service.shutdown_timeout has passed and a part still hangs: data in memory is lost; requests on disk (`storage`) are sent after the next start; \
                hint: raise service.shutdown_timeout, or look at the component that is named before"
    );
    exit(log);
}

#[expect(
    clippy::disallowed_methods,
    reason = "destructors have had their time, and may be the part that hangs"
)]
fn exit(log: &LogWriter) {
    log.flush(LAST_LINES);
    process::exit(Code::Temporary as i32);
}
