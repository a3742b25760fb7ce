//! The way of requests: to the peer directly, or to disk, from where a task sends them.

use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::{BuildContext, Exported, StageError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service, ServiceExt};

use super::fate::{Fate, Fates};
use super::health::Health;
use super::storage::{Storage, StorageConfig, StorageError};
use super::{Request, Senders, spool};

/// Maximum time for which an exporter waits for one of this process that is given up, and holds the file of requests until its tasks
/// have ended.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval at which it looks whether that has happened.
const RELEASE_INTERVAL: Duration = Duration::from_millis(20);

impl From<StorageError> for StageError {
    fn from(error: StorageError) -> Self {
        if error.is_in_use() {
            Self::Temporary(error.into())
        } else {
            Self::Other(error.into())
        }
    }
}

/// Where requests go.
#[derive(Clone)]
pub(crate) enum Delivery {
    Direct(Senders),
    /// To disk, or directly what can't be written there.
    Spooled(Arc<Storage>, Senders),
}

/// The tasks that send what is on disk, if anything is kept there: one for each lane.
#[derive(Debug, Default)]
pub(crate) struct Spool {
    pub(crate) tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Spool {
    /// Stops them, after they have sent what they can without waiting for a peer that fails.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        for task in &mut self.tasks {
            // One that panicked has said so itself.
            let _ = task.await;
        }
        self.tasks.clear();
    }
}

impl Drop for Spool {
    /// An exporter that is given up must let go of its file: the next one of this directory needs it.
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Delivery {
    /// The way by `senders`; through a file if the config has `storage`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StorageError`] if the file can't be used, see [`Storage::open`].
    pub(crate) async fn open(
        senders: impl Into<Senders>,
        storage: Option<&StorageConfig>,
        health: &Health,
        context: &BuildContext,
        fates: &Fates,
        spool: &mut Spool,
    ) -> Result<Self, StorageError> {
        let senders = senders.into();
        let Some(storage) = storage else {
            return Ok(Self::Direct(senders));
        };
        let storage = open_released(storage, context, fates).await?;
        let lanes = senders.lanes().into_iter().map(|(lane, sender)| {
            let drain = spool::drain(
                Arc::clone(&storage),
                lane,
                sender,
                health.clone(),
                spool.stop.clone(),
            );
            tokio::spawn(drain)
        });
        spool.tasks = lanes.collect();
        Ok(Self::Spooled(storage, senders))
    }

    /// Stored items count as neither sent nor failed yet. Those that were dropped for want of room are counted here.
    pub(crate) async fn send(&mut self, health: &Health, request: Request) -> Result<Exported, BoxError> {
        let (exported, _) = self.send_tracked(health, request).await?;
        Ok(exported)
    }

    /// The same, with what has become of the request.
    pub(crate) async fn send_tracked(
        &mut self,
        health: &Health,
        request: Request,
    ) -> Result<(Exported, Fate), BoxError> {
        let kind = request.kind;
        let senders = match self {
            Self::Direct(senders) => senders,
            Self::Spooled(storage, senders) => {
                let (storage, request) = (Arc::clone(storage), request.clone());
                // It waits for the disk.
                match tokio::task::spawn_blocking(move || storage.keep(&request)).await? {
                    Ok((fate, dropped)) => {
                        health.storage_fault(None);
                        // The call that they are counted with is of another kind, perhaps.
                        for (kind, items) in dropped {
                            health.no_room(kind, items);
                        }
                        return Ok((Exported::default(), fate));
                    }
                    // A full or broken disk costs the protection from a restart, not the data.
                    Err(error) => {
                        health.storage_fault(Some(&error));
                        tracing::warn!(%error, "a request can't be kept on disk; it is sent from memory; \
                hint: make room, or the right to write, in `storage.directory`");
                    }
                }
                senders
            }
        };
        let exported = senders.of(kind).ready().await?.call(request).await?;
        Ok((exported, Fate::Delivered))
    }
}

/// Opens the file of requests, once the exporter that had it before has let go of it: an aborted task ends some time later, and one
/// that writes to disk ends after that.
async fn open_released(
    config: &StorageConfig,
    context: &BuildContext,
    fates: &Fates,
) -> Result<Arc<Storage>, StorageError> {
    let mut waited = Duration::ZERO;
    loop {
        match Storage::open_with(config, context, fates.clone()) {
            Err(error) if error.is_in_use() && waited < RELEASE_TIMEOUT => {
                tokio::time::sleep(RELEASE_INTERVAL).await;
                waited += RELEASE_INTERVAL;
            }
            outcome => return outcome,
        }
    }
}
