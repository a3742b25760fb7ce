//! Component health, as served at `/status`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowtap_model::Timestamp;
use serde::Serialize;

use crate::id::{ComponentId, ComponentKind};
use crate::upload_status::{UploadProbe, UploadStatus};

/// A receiver whose thread has not ended a scan for so long will not do so any more.
const DEAD: Duration = Duration::from_secs(60);

/// State of a component, in the Collector's words (component status reporting).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attaching, binding, connecting.
    Starting,
    /// At work.
    Ok,
    /// Running, but its last operation failed; it keeps trying.
    RecoverableError,
    /// It has ended, and the daemon ends with it.
    PermanentError,
    /// Handing on what is pending.
    Stopping,
}

/// One component's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComponentStatus {
    /// Current state.
    pub state: State,
    /// Since when it is in this state, in nanoseconds since the epoch; another error of the same state changes nothing.
    pub since_unix_nano: u64,
    /// The last error; kept until the state changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Uploads of an exporter that has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uploads: Option<UploadStatus>,
}

impl ComponentStatus {
    /// Adds the state of uploads: an exporter at work whose uploads fail has a recoverable error.
    fn with_uploads(self, uploads: UploadStatus) -> Self {
        let failing = uploads.failing_since_unix_nano.zip(uploads.last_failure.clone());
        let own = Self {
            uploads: Some(uploads),
            ..self
        };
        match failing {
            Some((since_unix_nano, failure)) if own.state == State::Ok => Self {
                state: State::RecoverableError,
                since_unix_nano,
                error: Some(failure.error),
                ..own
            },
            _ => own,
        }
    }
}

/// Failed scans in a row after which a receiver is not ok.
pub const FAILURES: u32 = 3;

/// Health of a receiver, judged by the time since its last scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It scans.
    Ok,
    /// Its last scans failed.
    Failing(String),
    /// It scans, and records have been refused of late, which are lost.
    Losing(String),
    /// It waits for its pipelines, which wait for an exporter with `when_full: block`.
    Blocked(Duration),
    /// Its thread has not come to the end of a scan for so long.
    Stalled(Duration),
}

impl Health {
    /// A sentence on what is wrong; nothing if all is well.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Ok => None,
            Self::Failing(error) => Some(format!("the last {FAILURES} scans or more failed: {error}")),
            Self::Losing(reason) => Some(format!("records are refused, and lost: {reason}")),
            Self::Blocked(waited) => Some(format!(
                "waits for an exporter with when_full: block for {} s; records that find no room meanwhile are dropped and counted",
                waited.as_secs()
            )),
            Self::Stalled(waited) => Some(format!("no scan has ended for {} s", waited.as_secs())),
        }
    }

    /// Time for which it has been so; nothing if that is not known.
    const fn lasts(&self) -> Duration {
        match self {
            Self::Ok | Self::Failing(_) | Self::Losing(_) => Duration::ZERO,
            Self::Blocked(waited) | Self::Stalled(waited) => *waited,
        }
    }
}

/// Judges a receiver while it runs.
pub trait Probe: Send + Sync {
    /// Returns how the receiver is at `now`.
    fn health(&self, now: Instant) -> Health;
}

type Board = BTreeMap<(ComponentKind, ComponentId), ComponentStatus>;

/// The states of all components that run. Cloning it shares it.
///
/// Receivers are judged by their probes as well: one that does not scan reports nothing by itself.
///
/// ```
/// use flowtap_pipeline::{ComponentId, ComponentKind, State, StatusBoard};
///
/// let board = StatusBoard::default();
/// let id: ComponentId = "otlp".parse()?;
/// board.set(ComponentKind::Exporter, &id, State::RecoverableError, Some("refused".to_owned()));
/// assert!(board.is_failing(ComponentKind::Exporter, &id));
/// assert_eq!(board.load()["exporters/otlp"].error.as_deref(), Some("refused"));
/// # Ok::<(), flowtap_pipeline::InvalidComponentId>(())
/// ```
#[derive(Clone, Default)]
pub struct StatusBoard {
    board: Arc<Mutex<Board>>,
    probes: Arc<Mutex<BTreeMap<ComponentId, Arc<dyn Probe>>>>,
    uploads: Arc<Mutex<BTreeMap<ComponentId, Arc<dyn UploadProbe>>>>,
    running: Arc<AtomicBool>,
}

impl fmt::Debug for StatusBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusBoard")
            .field("board", &self.board)
            .finish_non_exhaustive()
    }
}

impl StatusBoard {
    /// A component has come to be in `state`. Nothing changes if it was already, with the same error.
    pub fn set(&self, kind: ComponentKind, id: &ComponentId, state: State, error: Option<String>) {
        self.set_lasting(kind, id, state, error, Duration::ZERO);
    }

    /// The same of a state that has lasted for some time.
    fn set_lasting(
        &self,
        kind: ComponentKind,
        id: &ComponentId,
        state: State,
        error: Option<String>,
        lasts: Duration,
    ) {
        let mut board = lock(&self.board);
        let known = board.get(&(kind, id.clone()));
        let since = known.filter(|known| known.state == state);
        let since_unix_nano = since.map_or_else(
            || {
                let lasts = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
                Timestamp::now().as_nanos().saturating_sub(lasts)
            },
            |known| known.since_unix_nano,
        );
        let status = ComponentStatus {
            state,
            since_unix_nano,
            error,
            uploads: None,
        };
        board.insert((kind, id.clone()), status);
    }

    /// Whether a component has set that it is failing, with an error that says why.
    pub fn is_failing(&self, kind: ComponentKind, id: &ComponentId) -> bool {
        if kind == ComponentKind::Receiver {
            self.judge();
        }
        let board = lock(&self.board);
        let status = board.get(&(kind, id.clone()));
        status.is_some_and(|status| status.state == State::RecoverableError && status.error.is_some())
    }

    /// Sets the state of a component that is failing with `error` to [`State::Ok`]. Another error, which it has set since, stays.
    pub fn recover(&self, kind: ComponentKind, id: &ComponentId, error: &str) {
        let is_current = {
            let board = lock(&self.board);
            let status = board.get(&(kind, id.clone()));
            status.is_some_and(|status| {
                status.state == State::RecoverableError && status.error.as_deref() == Some(error)
            })
        };
        if is_current {
            self.set(kind, id, State::Ok, None);
        }
    }

    /// Removes the components of `kind` that `exists` is false of, such as one that a config has tried that was refused.
    pub fn retain(&self, kind: ComponentKind, exists: impl Fn(&ComponentId) -> bool) {
        let gone: Vec<_> = lock(&self.board)
            .keys()
            .filter(|(of, id)| *of == kind && !exists(id))
            .map(|(_, id)| id.clone())
            .collect();
        for id in gone {
            self.remove(kind, &id);
        }
    }

    /// Removes a component that no longer exists.
    pub fn remove(&self, kind: ComponentKind, id: &ComponentId) {
        lock(&self.board).remove(&(kind, id.clone()));
        if kind == ComponentKind::Receiver {
            lock(&self.probes).remove(id);
        }
        if kind == ComponentKind::Exporter {
            lock(&self.uploads).remove(id);
        }
    }

    /// Every component that runs: `receivers/ebpf` and its state.
    pub fn load(&self) -> BTreeMap<String, ComponentStatus> {
        self.judge();
        let mut loaded = lock(&self.board).clone();
        for (id, probe) in &*lock(&self.uploads) {
            if let Some(status) = loaded.get_mut(&(ComponentKind::Exporter, id.clone())) {
                *status = status.clone().with_uploads(probe.uploads());
            }
        }
        let named = |((kind, id), status): ((ComponentKind, ComponentId), ComponentStatus)| {
            (format!("{}/{id}", kind.section()), status)
        };
        loaded.into_iter().map(named).collect()
    }

    /// Reports the uploads of the exporter `id` by `probe` from now on, until it is removed.
    pub fn watch_uploads(&self, id: &ComponentId, probe: Arc<dyn UploadProbe>) {
        lock(&self.uploads).insert(id.clone(), probe);
    }

    /// Judges the receiver `id` by `probe` from now on.
    pub fn watch(&self, id: &ComponentId, probe: Arc<dyn Probe>) {
        lock(&self.probes).insert(id.clone(), probe);
    }

    /// Sets whether the pipelines run, from the moment when every exporter has started and every receiver is attached.
    pub fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::Release);
    }

    /// Whether the pipelines run and every receiver scans.
    pub fn is_ready(&self) -> bool {
        self.running.load(Ordering::Acquire) && self.is_measuring()
    }

    /// Whether every receiver scans.
    pub fn is_measuring(&self) -> bool {
        // One that loses records reports all others.
        let scans = |health: &Health| matches!(health, Health::Ok | Health::Losing(_));
        self.health().iter().all(|(_, health)| scans(health))
    }

    /// Whether every receiver's thread is alive: one that waits for an exporter is, and so is one whose scans fail.
    pub fn is_alive(&self) -> bool {
        let dead = |health: &Health| matches!(health, Health::Stalled(waited) if *waited > DEAD);
        !self.health().iter().any(|(_, health)| dead(health))
    }

    fn health(&self) -> Vec<(ComponentId, Health)> {
        let now = Instant::now();
        let probes = lock(&self.probes);
        let judged = probes.iter().map(|(id, probe)| (id.clone(), probe.health(now)));
        judged.collect()
    }

    /// Brings the states of receivers that run in line with their probes.
    fn judge(&self) {
        for (id, health) in self.health() {
            let key = (ComponentKind::Receiver, id.clone());
            let state = lock(&self.board).get(&key).map(|status| status.state);
            if matches!(state, Some(State::Ok | State::RecoverableError)) {
                match health.problem() {
                    None => self.set(ComponentKind::Receiver, &id, State::Ok, None),
                    Some(problem) => {
                        // A receiver is judged when somebody asks, which may be long after it has begun.
                        self.set_lasting(
                            ComponentKind::Receiver,
                            &id,
                            State::RecoverableError,
                            Some(problem),
                            health.lasts(),
                        );
                    }
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement under these locks leaves the value whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upload_status::UploadFailure;

    struct Waits(Instant);

    impl Probe for Waits {
        fn health(&self, now: Instant) -> Health {
            Health::Blocked(now.duration_since(self.0) + Duration::from_secs(7))
        }
    }

    #[test]
    fn a_receiver_that_waits_does_so_since_it_began_and_not_since_somebody_asked() {
        let board = StatusBoard::default();
        let id: ComponentId = "ebpf".parse().unwrap();
        board.set(ComponentKind::Receiver, &id, State::Ok, None);
        board.watch(&id, Arc::new(Waits(Instant::now())));
        let before = Timestamp::now().as_nanos();
        let first = board.load()["receivers/ebpf"].clone();
        assert_eq!(first.state, State::RecoverableError);
        assert!(first.since_unix_nano <= before - 6_000_000_000, "{first:?}");
        std::thread::sleep(Duration::from_millis(20));
        let second = board.load()["receivers/ebpf"].clone();
        assert_eq!(second.since_unix_nano, first.since_unix_nano);
    }

    struct Fails;

    impl UploadProbe for Fails {
        fn uploads(&self) -> UploadStatus {
            UploadStatus {
                pending_files: 3,
                last_failure: Some(UploadFailure {
                    at_unix_nano: 9,
                    file: "a".to_owned(),
                    error: "s3://flows: 403".to_owned(),
                }),
                failing_since_unix_nano: Some(7),
                ..UploadStatus::default()
            }
        }
    }

    #[test]
    fn failing_uploads_are_a_recoverable_error_and_hide_no_other() {
        let board = StatusBoard::default();
        let id: ComponentId = "file".parse().unwrap();
        let kind = ComponentKind::Exporter;
        let load = || board.load()["exporters/file"].clone();
        board.watch_uploads(&id, Arc::new(Fails));
        assert!(board.load().is_empty(), "one that does not run has no state");
        board.set(kind, &id, State::Ok, None);
        assert_eq!(
            (load().state, load().since_unix_nano, load().error.as_deref()),
            (State::RecoverableError, 7, Some("s3://flows: 403"))
        );
        assert_eq!(load().uploads.unwrap().pending_files, 3);
        // The runner asks about the exporter's own state.
        assert!(!board.is_failing(kind, &id));
        board.set(
            kind,
            &id,
            State::RecoverableError,
            Some("no space left".to_owned()),
        );
        assert_eq!(load().error.as_deref(), Some("no space left"));
        assert!(board.is_failing(kind, &id));
        board.remove(kind, &id);
        board.set(kind, &id, State::Ok, None);
        assert_eq!((load().state, load().uploads), (State::Ok, None));
    }

    #[test]
    fn a_state_has_its_error_and_its_time_until_it_is_another() {
        let board = StatusBoard::default();
        let id: ComponentId = "otlp/backup".parse().unwrap();
        let set = |state, error: Option<&str>| {
            board.set(ComponentKind::Exporter, &id, state, error.map(str::to_owned));
            board.load()["exporters/otlp/backup"].clone()
        };
        let failing = set(State::RecoverableError, Some("refused"));
        assert_eq!(failing.error.as_deref(), Some("refused"));
        assert_eq!(set(State::RecoverableError, Some("refused")), failing);
        let other = set(State::RecoverableError, Some("reset"));
        assert_eq!(
            (other.since_unix_nano, other.error.as_deref()),
            (failing.since_unix_nano, Some("reset"))
        );
        assert_eq!(set(State::Ok, None).error, None);
        board.remove(ComponentKind::Exporter, &id);
        assert!(board.load().is_empty());
    }
}
