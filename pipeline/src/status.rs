//! How each component is: what `/status` tells.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::component::{ComponentId, ComponentKind};
use crate::pulse::{Health, Pulse};
use crate::time::Timestamp;

/// A receiver whose thread has not ended a scan for so long will not do so any more.
const DEAD: Duration = Duration::from_secs(60);

/// How a component is, in the Collector's words (component status reporting).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attaching, binding, connecting.
    Starting,
    /// At work.
    Ok,
    /// At work, but what it did last has failed; it goes on trying.
    RecoverableError,
    /// It has ended, and the daemon ends with it.
    PermanentError,
    /// Handing on what is pending.
    Stopping,
}

/// One component's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComponentStatus {
    /// How it is.
    pub state: State,
    /// Since when, in nanoseconds since the epoch.
    pub since_unix_nano: u64,
    /// What went wrong last; stays until the state is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

type Board = BTreeMap<(ComponentKind, ComponentId), ComponentStatus>;

/// The states of all components that run. Cloning it shares it.
///
/// Receivers are judged by their pulses as well: one that does not scan reports nothing by itself.
#[derive(Clone, Debug, Default)]
pub struct StatusBoard {
    board: Arc<Mutex<Board>>,
    pulses: Arc<Mutex<BTreeMap<ComponentId, Arc<Pulse>>>>,
}

impl StatusBoard {
    /// A component has come to be in `state`. Nothing changes if it was already, with the same error.
    pub fn set(&self, kind: ComponentKind, id: &ComponentId, state: State, error: Option<String>) {
        let mut board = lock(&self.board);
        let known = board.get(&(kind, id.clone()));
        if known.is_some_and(|known| known.state == state && known.error == error) {
            return;
        }
        let status = ComponentStatus {
            state,
            since_unix_nano: Timestamp::now().as_nanos(),
            error,
        };
        board.insert((kind, id.clone()), status);
    }

    /// Whether a component is failing, with an error that says why.
    pub fn is_failing(&self, kind: ComponentKind, id: &ComponentId) -> bool {
        let key = format!("{}/{id}", kind.section());
        let status = self.load().remove(&key);
        status.is_some_and(|status| status.state == State::RecoverableError && status.error.is_some())
    }

    /// A component is no more.
    pub fn remove(&self, kind: ComponentKind, id: &ComponentId) {
        lock(&self.board).remove(&(kind, id.clone()));
        if kind == ComponentKind::Receiver {
            lock(&self.pulses).remove(id);
        }
    }

    /// Every component that runs: `receivers/ebpf` and its state.
    pub fn load(&self) -> BTreeMap<String, ComponentStatus> {
        self.judge();
        let board = lock(&self.board);
        let named = |((kind, id), status): (&(ComponentKind, ComponentId), &ComponentStatus)| {
            (format!("{}/{id}", kind.section()), status.clone())
        };
        board.iter().map(named).collect()
    }

    /// Judges the receiver `id` by `pulse` from now on.
    pub(crate) fn watch(&self, id: &ComponentId, pulse: Arc<Pulse>) {
        lock(&self.pulses).insert(id.clone(), pulse);
    }

    /// Whether every receiver scans.
    pub fn is_measuring(&self) -> bool {
        self.health().iter().all(|(_, health)| *health == Health::Ok)
    }

    /// Whether every receiver's thread is alive: one that waits for an exporter is, and so is one whose scans fail.
    pub fn is_alive(&self) -> bool {
        let dead = |health: &Health| matches!(health, Health::Stalled(waited) if *waited > DEAD);
        !self.health().iter().any(|(_, health)| dead(health))
    }

    fn health(&self) -> Vec<(ComponentId, Health)> {
        let now = Instant::now();
        let pulses = lock(&self.pulses);
        let judged = pulses.iter().map(|(id, pulse)| (id.clone(), pulse.health(now)));
        judged.collect()
    }

    /// Brings the states of receivers that run in line with their pulses.
    fn judge(&self) {
        for (id, health) in self.health() {
            let key = (ComponentKind::Receiver, id.clone());
            let state = lock(&self.board).get(&key).map(|status| status.state);
            if matches!(state, Some(State::Ok | State::RecoverableError)) {
                match health.problem() {
                    None => self.set(ComponentKind::Receiver, &id, State::Ok, None),
                    Some(problem) => {
                        self.set(
                            ComponentKind::Receiver,
                            &id,
                            State::RecoverableError,
                            Some(problem),
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
        assert_eq!(set(State::Ok, None).error, None);
        board.remove(ComponentKind::Exporter, &id);
        assert!(board.load().is_empty());
    }

    #[test]
    fn a_receiver_whose_scans_fail_is_not_ok_although_nobody_has_set_that() {
        let (board, pulse) = (StatusBoard::default(), Arc::new(Pulse::default()));
        let id: ComponentId = "ebpf".parse().unwrap();
        board.set(ComponentKind::Receiver, &id, State::Ok, None);
        board.watch(&id, Arc::clone(&pulse));
        assert!(board.is_measuring() && board.is_alive());
        for _ in 0..3 {
            pulse.scan_failed("Too many open files".to_owned());
            pulse.watermark(Timestamp::default(), Instant::now());
        }
        let status = board.load()["receivers/ebpf"].clone();
        assert_eq!(status.state, State::RecoverableError);
        assert!(status.error.unwrap().contains("Too many open files"));
        assert!(!board.is_measuring() && board.is_alive(), "alive, and not ready");
        pulse.watermark(Timestamp::default(), Instant::now());
        assert_eq!(board.load()["receivers/ebpf"].state, State::Ok);
        assert!(board.is_measuring());
    }
}
