//! How each component is: what `/status` tells.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::component::{ComponentId, ComponentKind};
use crate::time::Timestamp;

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
#[derive(Clone, Debug, Default)]
pub struct StatusBoard(Arc<Mutex<Board>>);

impl StatusBoard {
    /// A component has come to be in `state`. Nothing changes if it was already, with the same error.
    pub fn set(&self, kind: ComponentKind, id: &ComponentId, state: State, error: Option<String>) {
        let mut board = self.lock();
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
        self.lock().remove(&(kind, id.clone()));
    }

    /// Every component that runs: `receivers/ebpf` and its state.
    pub fn load(&self) -> BTreeMap<String, ComponentStatus> {
        let board = self.lock();
        let named = |((kind, id), status): (&(ComponentKind, ComponentId), &ComponentStatus)| {
            (format!("{}/{id}", kind.section()), status.clone())
        };
        board.iter().map(named).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // The board is whole after every statement above.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
}
