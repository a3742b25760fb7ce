//! Removal of delivered requests, which needs room on the disk: where there is none they are skipped, and removed later.

use tokio::time::Instant;

use super::error::StorageError;
use super::table::{REQUESTS, footprint};
use super::{REMOVAL_PAUSE, State, Storage, Stored};
use crate::push::warned::{Warned, is_news};

impl Storage {
    /// Takes `stored` away: it is delivered, or given up. One that can't be removed for want of room is skipped from now on; another
    /// run would send it a second time. Returns why.
    pub(crate) fn remove(&self, stored: &Stored) -> Option<StorageError> {
        let mut state = self.lock();
        state.under_way.remove(&stored.lane);
        state.from.insert(stored.lane, stored.number + 1);
        state.delivered.insert(stored.number, stored.value_len);
        self.remove_delivered(&mut state)
    }

    /// Tries a last time to remove what is delivered.
    pub(crate) fn remove_rest(&self) {
        let mut state = self.lock();
        state.removal_at = None;
        self.remove_delivered(&mut state);
    }

    /// Number of delivered requests that are still in the file.
    pub(crate) fn unremoved(&self) -> usize {
        self.lock().delivered.len()
    }

    /// Removes what is delivered, unless that has failed a moment ago. Returns the failure.
    pub(super) fn remove_delivered(&self, state: &mut State) -> Option<StorageError> {
        let early = state.removal_at.is_some_and(|at| Instant::now() < at);
        if state.delivered.is_empty() || early {
            return None;
        }
        let error = self.try_to_remove_delivered(state).err()?;
        if is_news(&mut state.warned, &error.to_string()) {
            tracing::warn!(
                exporter = %self.telemetry.exporter(),
                %error,
                requests = state.delivered.len(),
                "delivered requests can't be removed from disk, and are skipped; \
                    hint: make room, or the right to write, in `storage.directory`; if flowtap stops before, they are sent a second time"
            );
        }
        Some(error)
    }

    /// The same at once; the next attempt is later if it fails.
    pub(super) fn try_to_remove_delivered(&self, state: &mut State) -> Result<(), StorageError> {
        let delivered = std::mem::take(&mut state.delivered);
        let removed = self.write(state, |database| {
            let transaction = database.begin_write()?;
            let mut removed = Vec::with_capacity(delivered.len());
            let mut table = transaction.open_table(REQUESTS)?;
            for (number, value_len) in &delivered {
                // It may have given way to newer ones while it was sent.
                if table.remove(number)?.is_some() {
                    removed.push(*value_len);
                }
            }
            drop(table);
            transaction.commit()?;
            Ok(removed)
        });
        match removed {
            Ok(removed) => {
                for value_len in removed {
                    state.items = state.items.saturating_sub(1);
                    state.bytes = state.bytes.saturating_sub(footprint(value_len));
                }
                state.removal_at = None;
                state.warned = Warned::default();
                Ok(())
            }
            Err(error) => {
                state.delivered = delivered;
                state.removal_at = Some(Instant::now() + REMOVAL_PAUSE);
                Err(error)
            }
        }
    }

    pub(super) fn remove_number(
        &self,
        state: &mut State,
        number: u64,
        value_len: usize,
    ) -> Result<(), StorageError> {
        let removed = self.write(state, |database| {
            let transaction = database.begin_write()?;
            let removed = transaction.open_table(REQUESTS)?.remove(number)?.is_some();
            transaction.commit()?;
            Ok(removed)
        })?;
        // It may have given way to newer ones while it was sent.
        if removed {
            state.items = state.items.saturating_sub(1);
            state.bytes = state.bytes.saturating_sub(footprint(value_len));
        }
        Ok(())
    }
}
