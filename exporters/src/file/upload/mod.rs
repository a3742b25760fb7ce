//! Upload of finished files to an object store.
//!
//! In: names of finished files. Out: objects of the same names, below the prefix of `upload.url`. The rules, in order:
//!
//! 1. A finished file does not change any more, and its name has the node's name in it, so an object is written once, or again
//!    with the same content.
//! 2. The folder is the queue, which survives a crash, and `rotation` its bound. Files are uploaded one at a time, the oldest
//!    first; the names of those that the store has acknowledged are in a file beside them (`ledger`).
//! 3. An upload that fails is retried, whatever the reason, with growing waits: of the file, as the store may refuse only that
//!    one, and of all while none succeeds. Other files come first. A file that is removed before it is uploaded counts as abandoned.
//! 4. `/status` has the files that wait and the newest failure; the exporter is failing as long as there is a file whose upload failed.
//! 5. At its end flowtap uploads what it can within five seconds; the next start uploads the rest.

mod health;
mod http;
mod ledger;
mod queue;
mod store;
mod telemetry;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtap_pipeline::{BuildContext, ComponentId, StatusBoard};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::ledger::Ledger;
use self::queue::{Next, Queue};
use self::store::{Store, UploadError};
use self::telemetry::Telemetry;
use super::names::Name;
use super::upload_config::UploadConfig;

/// When flowtap stops, uploads are given up after this: the run has its own deadline.
const LAST_UPLOADS: Duration = Duration::from_secs(5);

/// When flowtap stops, uploads are given up after so many failures in a row: the store is not there.
const LAST_FAILURES: u32 = 4;

/// The uploads of an exporter. Cloning it shares them.
#[derive(Clone, Debug)]
pub(super) struct Uploads {
    store: Store,
    queue: Queue,
    ledger: Arc<Mutex<Ledger>>,
    telemetry: Telemetry,
    /// Paths of objects are relative to this folder.
    root: PathBuf,
    retry_interval: Duration,
    max_retry_interval: Duration,
    id: ComponentId,
    status: StatusBoard,
}

/// The task that uploads.
#[derive(Debug, Default)]
pub(super) struct UploadTask {
    task: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Uploads {
    /// Uploads of the files below `root`; none has begun.
    ///
    /// # Errors
    /// The reason why the store can't be used.
    pub(super) fn new(config: &UploadConfig, root: PathBuf, context: &BuildContext) -> Result<Self, String> {
        let queue = Queue::default();
        let ledger = root.join(format!(".uploaded-{}", context.id.to_string().replace('/', "-")));
        let store = Store::new(config)?;
        Ok(Self {
            telemetry: Telemetry::new(context, &config.url, &queue),
            queue,
            ledger: Arc::new(Mutex::new(Ledger::open(ledger, store.destination()))),
            store,
            root,
            retry_interval: config.retry_interval,
            max_retry_interval: config.max_retry_interval.max(config.retry_interval),
            id: context.id.clone(),
            status: context.status.clone(),
        })
    }

    /// A file is whole, and on the disk. It is uploaded, unless it is already.
    pub(super) fn finished(&self, name: &Name, path: &std::path::Path) {
        let key = self.key(path);
        if !self.ledger().contains(&key) {
            self.queue.put(name.clone(), key);
        }
    }

    /// A file was removed.
    pub(super) fn removed(&self, name: &Name, path: &std::path::Path) {
        let key = self.key(path);
        if self.queue.remove(name, &key) {
            self.telemetry.abandoned(&key);
        }
        self.ledger().remove(&key);
    }

    /// Forgets uploaded files that are gone, as after a run in which nothing removed them here.
    pub(super) fn forget_removed(&self) {
        self.ledger().retain(|key| self.root.join(key).exists());
    }

    /// Begins to upload, and to report it.
    pub(super) fn start(&self, task: &mut UploadTask) {
        // Not when it is built: on a reload an exporter with this id may still be at work then.
        self.status
            .watch_uploads(&self.id, Arc::new(self.telemetry.health().clone()));
        let (uploads, stop) = (self.clone(), task.stop.clone());
        task.task = Some(tokio::spawn(async move { uploads.run(&stop).await }));
    }

    async fn run(&self, stop: &CancellationToken) {
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_UPLOADS).await;
        };
        tokio::select! {
            () = self.upload_all(stop) => {}
            () = deadline => tracing::warn!(files = self.queue.len(), "files are left to upload; hint: start flowtap again with the same `path` to upload them"),
        }
    }

    /// Uploads until `stop`, and then once more what is left.
    async fn upload_all(&self, stop: &CancellationToken) {
        // In a row, of whatever files.
        let mut failures = 0;
        while !stop.is_cancelled() {
            let due = match self.queue.next(Instant::now()) {
                Next::File(name, key) => {
                    if self.upload(&name, &key).await {
                        failures = 0;
                        continue;
                    }
                    failures += 1;
                    // New files don't shorten it.
                    tokio::select! {
                        () = tokio::time::sleep(self.wait(failures)) => {}
                        () = stop.cancelled() => {}
                    }
                    continue;
                }
                Next::At(due) => Some(due),
                Next::Nothing => None,
            };
            tokio::select! {
                () = self.queue.changed() => {}
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {}
                () = stop.cancelled() => {}
            }
        }
        failures = 0;
        for (name, key) in self.queue.all() {
            failures = if self.upload(&name, &key).await {
                0
            } else {
                failures + 1
            };
            if failures >= LAST_FAILURES {
                return;
            }
        }
    }

    /// Uploads a file. Returns whether that did not fail.
    async fn upload(&self, name: &Name, key: &str) -> bool {
        match self.store.upload(&self.root.join(key), key).await {
            Ok(bytes) => {
                // If `rotation` removed it meanwhile, it counts as abandoned already.
                if self.queue.remove(name, key) {
                    self.telemetry.delivered(key, bytes);
                }
                self.acknowledge(key).await;
                true
            }
            Err(UploadError::Gone) => {
                if self.queue.remove(name, key) {
                    self.telemetry.abandoned(key);
                }
                true
            }
            Err(error) => {
                let failed = self.queue.failed(name, key);
                if failed > 0 {
                    self.queue.defer(name, key, Instant::now() + self.wait(failed));
                    self.telemetry.retried(key, &self.store.shown(&error));
                }
                false
            }
        }
    }

    /// Time to wait after so many failures. Full jitter, so that a fleet does not come back at the same moment.
    fn wait(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let wait = self.retry_interval.saturating_mul(factor);
        wait.min(self.max_retry_interval).mul_f64(fastrand::f64())
    }

    /// Notes that an object is there.
    async fn acknowledge(&self, key: &str) {
        let (ledger, owned) = (Arc::clone(&self.ledger), key.to_owned());
        let path = self.root.join(key);
        let noted = spawn_blocking(move || {
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            // Rotation may have removed it while it was uploaded.
            if path.exists() { ledger.add(&owned) } else { Ok(()) }
        });
        if let Ok(Err(error)) = noted.await {
            tracing::warn!(%error, key, "the upload of a file can't be noted; it is uploaded again after a restart; hint: free space");
        }
    }

    fn key(&self, path: &std::path::Path) -> String {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        path.to_string_lossy().into_owned()
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        // Every statement under the lock leaves it whole.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UploadTask {
    /// Ends it, after it has uploaded what it can.
    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // One that panicked has said so itself.
            let _ = task.await;
        }
    }
}

#[cfg(test)]
mod tests;
