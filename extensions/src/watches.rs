//! State of the watches of the Kubernetes API, as served at `/status`.
//!
//! In: events and failures of each watch. Out: [`SourceStatus`] by resource, on demand. A watch that works again reports nothing until
//! an object changes, so a state of failure also ends by the clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowtap_pipeline::{State, Timestamp};
use serde::Serialize;

/// A watch that has not failed for so long works again. The client gives up a silent server after 295 s and then waits for some 30 s.
const RECOVERED: Duration = Duration::from_secs(360);

/// State of the watch of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// `starting` before the first list is complete, `recoverable_error` while the API can't be watched.
    pub state: State,
    /// Whether a list was ever complete: what is known is whole, if perhaps old.
    pub synced: bool,
    /// Number of objects that are known.
    pub objects: usize,
    /// Since when it is in this state, in nanoseconds since the epoch.
    pub since_unix_nano: u64,
    /// Why the last request failed; absent once one has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl SourceStatus {
    fn set(&mut self, state: State, error: Option<String>) {
        if self.state != state {
            self.since_unix_nano = Timestamp::now().as_nanos();
        }
        self.state = state;
        self.error = error;
    }
}

#[derive(Debug)]
struct Entry {
    status: SourceStatus,
    failed: Instant,
}

/// The watches by resource, such as `pods`. Cloning it shares it; empty where no cluster is watched.
#[derive(Clone, Debug, Default)]
pub struct WatchBoard(Arc<Mutex<BTreeMap<&'static str, Entry>>>);

#[cfg_attr(
    not(feature = "kubernetes"),
    expect(dead_code, reason = "only the watcher of a cluster reports states")
)]
impl WatchBoard {
    /// Every watched resource and its state.
    pub fn load(&self) -> BTreeMap<&'static str, SourceStatus> {
        self.load_at(Instant::now())
    }

    fn load_at(&self, now: Instant) -> BTreeMap<&'static str, SourceStatus> {
        let mut board = self.lock();
        for Entry { status, failed } in board.values_mut() {
            let quiet = now.saturating_duration_since(*failed);
            if status.synced && status.state == State::RecoverableError && quiet >= RECOVERED {
                status.set(State::Ok, None);
            }
        }
        board
            .iter()
            .map(|(resource, entry)| (*resource, entry.status.clone()))
            .collect()
    }

    /// `resource` is going to be watched.
    pub(crate) fn add(&self, resource: &'static str) {
        let status = SourceStatus {
            state: State::Starting,
            synced: false,
            objects: 0,
            since_unix_nano: Timestamp::now().as_nanos(),
            error: None,
        };
        let failed = Instant::now();
        self.lock().insert(resource, Entry { status, failed });
    }

    /// The API has sent a whole list of `resource`, or a change of it; so many `objects` are known.
    pub(crate) fn listed(&self, resource: &str, objects: usize) {
        if let Some(Entry { status, .. }) = self.lock().get_mut(resource) {
            status.synced = true;
            status.objects = objects;
            status.set(State::Ok, None);
        }
    }

    /// A request for `resource` has failed.
    pub(crate) fn failed(&self, resource: &str, error: String) {
        if let Some(Entry { status, failed }) = self.lock().get_mut(resource) {
            status.set(State::RecoverableError, Some(error));
            *failed = Instant::now();
        }
    }

    /// The API has no such resource, so it has no objects, either.
    pub(crate) fn missing(&self, resource: &str) {
        if let Some(Entry { status, .. }) = self.lock().get_mut(resource) {
            status.set(State::Ok, None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Entry>> {
        // Every statement under the lock leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_failing_until_an_event_or_until_nothing_has_failed_for_a_while() {
        let board = WatchBoard::default();
        board.add("nodes");
        let state = |now| board.load_at(now)["nodes"].state;
        let now = Instant::now();
        assert_eq!(state(now), State::Starting);
        board.failed("nodes", "connection refused".to_owned());
        let status = board.load()["nodes"].clone();
        assert_eq!((status.state, status.synced), (State::RecoverableError, false));
        assert_eq!(status.error.as_deref(), Some("connection refused"));
        assert_eq!(
            state(now + RECOVERED * 2),
            State::RecoverableError,
            "never listed: it has not recovered"
        );
        board.listed("nodes", 3);
        let status = board.load()["nodes"].clone();
        assert_eq!(
            (status.state, status.synced, status.objects),
            (State::Ok, true, 3)
        );
        assert_eq!(status.error, None);
        board.failed("nodes", "broken".to_owned());
        assert_eq!(state(now + RECOVERED / 2), State::RecoverableError);
        let status = board.load_at(Instant::now() + RECOVERED)["nodes"].clone();
        assert_eq!((status.state, status.objects), (State::Ok, 3));
    }
}
