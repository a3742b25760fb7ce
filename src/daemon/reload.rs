//! Triggers of a reload: SIGHUP, and when one of its files has changed and has been stable for one
//! poll interval.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use flowtap_config::Config;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior};

use crate::exit::ExitError;

/// Poll interval of the files. A mount of Kubernetes changes by a link, so there is no event to
/// wait for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the config anew, from wherever it came.
pub(crate) type Load<'a> = &'a dyn Fn() -> Result<Config, ExitError>;

/// Wakes the task that reloads the config.
pub(crate) struct ReloadTrigger {
    hangup: Signal,
    files: Vec<PathBuf>,
    /// As they were when they were read.
    seen: Vec<Stamp>,
    /// As they were at the last look: one that changes from look to look is still being written.
    looked: Vec<Stamp>,
    ticks: Interval,
}

/// Identity of a file's version; `None` if the file does not exist.
type Stamp = Option<(SystemTime, u64)>;

impl ReloadTrigger {
    /// From now on. Needs a runtime around it.
    ///
    /// # Errors
    /// A signal that can't be had.
    pub(crate) fn new(files: Vec<PathBuf>) -> Result<Self, ExitError> {
        let mut reload_trigger = Self {
            hangup: signal(SignalKind::hangup())?,
            seen: Vec::new(),
            looked: Vec::new(),
            files,
            ticks: tokio::time::interval(LOOK_INTERVAL),
        };
        // Not several at once, after a reload that took long.
        reload_trigger
            .ticks
            .set_missed_tick_behavior(MissedTickBehavior::Delay);
        reload_trigger.seen = reload_trigger.look();
        Ok(reload_trigger)
    }

    /// Wakes for these from now on.
    pub(crate) fn watch(&mut self, files: Vec<PathBuf>) {
        if files != self.files {
            self.files = files;
            self.seen = self.look();
        }
    }

    /// Waits for the next; returns what it was.
    pub(crate) async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    self.seen = self.look();
                    return "SIGHUP";
                }
                _ = self.ticks.tick() => {}
            }
            let now = self.look();
            let rests = now == self.looked;
            self.looked.clone_from(&now);
            if rests && now != self.seen {
                self.seen = now;
                return "a file has changed";
            }
        }
    }

    fn look(&self) -> Vec<Stamp> {
        let look = |path: &PathBuf| {
            let metadata = path.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        self.files.iter().map(look).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_when_it_rests_and_not_while_it_is_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut reload_trigger = ReloadTrigger::new(vec![file.path().to_owned()]).unwrap();
        let read = async {
            let why = reload_trigger.next().await;
            (why, fs::read_to_string(file.path()).unwrap())
        };
        let write = async {
            for lines in 1..=5 {
                fs::write(file.path(), "line\n".repeat(lines)).unwrap();
                tokio::time::sleep(LOOK_INTERVAL / 2).await;
            }
        };
        let (read, ()) = tokio::join!(read, write);
        assert_eq!(read, ("a file has changed", "line\n".repeat(5)));
    }
}
