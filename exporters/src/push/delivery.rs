//! The way of requests: to the peer directly, or to disk, from where a task sends them.

use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::{BuildContext, ComponentId, Exported, StageError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service, ServiceExt};

use super::fate::{Fate, Fates};
use super::health::Health;
use super::storage::{Storage, StorageConfig, StorageError};
use super::{Request, Senders, spool, unstored};

/// Maximum time for which an exporter waits for one of this process that is given up, and holds the file of requests until its tasks
/// have ended.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval at which it looks whether that has happened.
const RELEASE_INTERVAL: Duration = Duration::from_millis(20);

impl From<StorageError> for StageError {
    fn from(error: StorageError) -> Self {
        // The other process ends, a full or read-only file system is mended, a late one is mounted: a restart may find it so.
        Self::Temporary(error.into())
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
    /// Each ends with the failure at which it left requests on disk, if it did.
    pub(crate) tasks: Vec<JoinHandle<Option<String>>>,
    stop: CancellationToken,
    kept: Option<(Arc<Storage>, ComponentId)>,
}

impl Spool {
    /// Stops them, after they have sent what they can without waiting for a peer that fails.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        if let Some((requests, bytes, exporter)) = self.waiting() {
            tracing::info!(%exporter, requests, bytes, "requests wait on disk; those that the peer takes by the end are sent");
        }
        let mut errors = Vec::new();
        for task in &mut self.tasks {
            // One that panicked has said so itself.
            errors.extend(task.await.ok().flatten());
        }
        self.tasks.clear();
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        // Whether flowtap stops, or this exporter is replaced.
        if let Some((requests, bytes, exporter)) = self.waiting() {
            tracing::info!(%exporter, requests, bytes, error,
                "requests stay on disk; the next exporter with this `storage.directory` sends them, after a reload or the next start");
        }
        if let (Some(error), None, Some((storage, exporter))) = (&error, self.waiting(), &self.kept)
            && storage.has_file()
        {
            tracing::warn!(%exporter, error, "requests that an earlier run may have left on disk can't be read, and stay there; \
                hint: make room, or the right to read and write, in `storage.directory`");
        }
        // For that one.
        self.kept = None;
    }

    /// Requests on disk, and their bytes, if there are any.
    fn waiting(&self) -> Option<(u64, u64, &ComponentId)> {
        let (storage, exporter) = self.kept.as_ref()?;
        let (requests, bytes) = storage.waiting();
        (requests > 0).then_some((requests, bytes, exporter))
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
    /// [`StorageError`] if the file can't be used, see [`Storage::open_with`].
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
        spool.kept = Some((Arc::clone(&storage), health.exporter().clone()));
        Ok(Self::Spooled(storage, senders))
    }

    /// The way by `senders` through a file of at most 1 MiB in `directory`.
    #[cfg(all(test, feature = "storage"))]
    pub(crate) async fn open_in(
        directory: &std::path::Path,
        senders: impl Into<Senders>,
        health: &Health,
        context: &BuildContext,
        spool: &mut Spool,
    ) -> Result<Self, StorageError> {
        let config = StorageConfig {
            directory: directory.to_owned(),
            max_bytes: 1 << 20,
            when_full: super::storage::WhenDiskFull::default(),
        };
        Self::open(senders, Some(&config), health, context, &Fates::default(), spool).await
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
        match self {
            Self::Direct(senders) => {
                let exported = senders.of(request.kind).ready().await?.call(request).await?;
                Ok((exported, Fate::Delivered))
            }
            Self::Spooled(storage, senders) => match unstored::store(storage, health, &request).await? {
                Ok(fate) => Ok((Exported::default(), fate)),
                // A full or broken disk costs the protection from a restart, not the data.
                Err(error) => {
                    health.unkept(&error);
                    unstored::deliver(storage, senders, health, request, error).await
                }
            },
        }
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
