//! Places for work that blocks, of which little is done at a time.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

/// A number of places. Cloning it shares them.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }

    /// Does `work` on a separate thread, once there is a place for it.
    ///
    /// # Errors
    /// It panicked, or the runtime ends.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // The semaphore is never closed.
        let place = Arc::clone(&self.0).acquire_owned().await;
        // The place goes with the work, which nothing ends: a client that leaves ends only this future.
        let work = move || {
            let _place = place;
            work()
        };
        spawn_blocking(work).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_longer_keeps_its_place_until_it_is_done() {
        let places = Places::new(1);
        let (begin, begun) = oneshot::channel();
        let (end, ended) = mpsc::sync_channel::<()>(0);
        let asked = tokio::spawn({
            let places = places.clone();
            async move {
                let work = move || {
                    let _ = begin.send(());
                    let _ = ended.recv();
                };
                places.work(work).await
            }
        });
        begun.await.unwrap();
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        let mut next = std::pin::pin!(places.work(|| ()));
        assert!(timeout(Duration::from_millis(50), &mut next).await.is_err());
        drop(end);
        next.await.unwrap();
    }
}
