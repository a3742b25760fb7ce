//! Access to the file of requests. It is opened again after a failure, a damaged file is set aside, and one that was removed or replaced
//! is written again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use flowtap_pipeline::{Replaced, Timestamp};
use redb::Database;

use super::error::StorageError;
use super::table::{copy, count, is_damage, open};
use super::{State, Storage};
use crate::push::fate::Fate;

impl Storage {
    /// Does `work` with the file, which is opened first if that has failed before: redb must be reopened after any write that
    /// failed, as on a full disk. A file that turns out to be damaged is set aside, and `work` done with a new one.
    pub(super) fn with<T>(
        &self,
        state: &mut State,
        work: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        let failed = |source| self.failed(source);
        match self.attempt(state, &work) {
            Err(error) if is_damage(&error) => {
                self.set_aside(state, &error).map_err(failed)?;
                self.attempt(state, &work).map_err(failed)
            }
            outcome => outcome.map_err(failed),
        }
    }

    /// The same as [`Storage::with`], of work that needs room on the disk.
    pub(super) fn write<T>(
        &self,
        state: &mut State,
        work: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        #[cfg(test)]
        if state.full {
            return self.with(state, |_| {
                Err(redb::Error::Io(std::io::ErrorKind::StorageFull.into()))
            });
        }
        self.with(state, work)
    }

    fn attempt<T>(
        &self,
        state: &mut State,
        work: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        // Of a damaged file redb's debug assertions may fail; in a release they are errors.
        let guarded = || {
            let database = if let Some(database) = state.database.take() {
                database
            } else {
                fs::create_dir_all(&self.config.directory)?;
                let database = open(&self.path)?;
                state.file = identity(&self.path);
                database
            };
            if !state.counted {
                let next;
                (next, state.items, state.bytes) = count(&database)?;
                state.next = state.next.max(next);
                state.counted = true;
            }
            let done = work(&database)?;
            state.database = Some(database);
            Ok(done)
        };
        std::panic::catch_unwind(AssertUnwindSafe(guarded)).unwrap_or_else(|_| {
            let message = "redb panicked; the message is above".to_owned();
            Err(redb::Error::Corrupted(message))
        })
    }

    /// Gives a damaged file a name that none has, so that it can be looked at, and forgets what it held.
    fn set_aside(&self, state: &mut State, why: &redb::Error) -> Result<(), redb::Error> {
        let now = Timestamp::now().as_nanos() / 1_000_000_000;
        let names = (0..).map(|attempt| {
            let suffix = if attempt == 0 {
                String::new()
            } else {
                format!("-{attempt}")
            };
            self.path.with_extension(format!("corrupt-{now}{suffix}"))
        });
        for aside in names {
            if aside.exists() {
                continue;
            }
            tracing::error!(
                file = %self.path.display(),
                aside = %aside.display(),
                error = %why,
                requests = state.items,
                "the file of requests is damaged; it is set aside, and a new one is created; \
                hint: check the disk; the file that was set aside can be deleted"
            );
            fs::rename(&self.path, aside)?;
            break;
        }
        self.telemetry.count_corrupt(state.items.max(1));
        // Numbers go on: one that is under way must not be taken for another in the new file.
        // Of the newest numbers; that of one under way comes with its answer.
        let fates = state.fates.clone();
        let held = state.next.saturating_sub(state.items)..state.next;
        let under_way = std::mem::take(&mut state.under_way);
        for number in held.filter(|number| under_way.values().all(|sent| sent != number)) {
            fates.push(number, Fate::Failed { content: false });
        }
        *state = State {
            next: state.next,
            under_way,
            fates,
            ..State::default()
        };
        Ok(())
    }

    /// Writes the requests to a new file if that in use is no longer at its path: it would be gone when flowtap stops.
    pub(super) fn follow(&self, state: &mut State) -> Result<(), StorageError> {
        if state.file.is_none() || identity(&self.path) == state.file {
            return Ok(());
        }
        let Some(database) = state.database.take() else {
            return Ok(());
        };
        let moved = self.rewrite(&database);
        match moved {
            Ok(new) => {
                state.database = Some(new);
                state.file = identity(&self.path);
                tracing::warn!(exporter = %self.telemetry.exporter(), file = %self.path.display(), requests = state.items,
                    "the file of requests was removed or replaced while flowtap used it, and is written again; \
                    hint: stop flowtap before `storage.directory` is moved or emptied");
                Ok(())
            }
            Err(source) => {
                state.database = Some(database);
                Err(self.failed(source))
            }
        }
    }

    /// A new file at the path, with the requests of `database`. What is there is renamed.
    fn rewrite(&self, database: &Database) -> Result<Database, redb::Error> {
        fs::create_dir_all(&self.config.directory)?;
        let beside = self.path.with_extension("redb-new");
        let new = copy(database, &beside)?;
        if self.path.exists() {
            let now = Timestamp::now().as_nanos() / 1_000_000_000;
            fs::rename(&self.path, self.path.with_extension(format!("replaced-{now}")))?;
        }
        fs::rename(beside, &self.path)?;
        Ok(new)
    }

    fn failed(&self, source: redb::Error) -> StorageError {
        StorageError {
            path: self.path.clone(),
            replaced: match &source {
                redb::Error::Io(error) => self
                    .folder
                    .explain(error)
                    .map(|replaced| format!("{replaced}; hint: {}", Replaced::HINT)),
                _ => None,
            },
            source: Box::new(source),
        }
    }
}

/// The device and the inode of the file at `path`.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
