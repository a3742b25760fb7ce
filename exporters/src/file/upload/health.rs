//! State of uploads for `/status`: what waits, what was abandoned, and the newest failure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtap_pipeline::{Timestamp, UploadFailure, UploadProbe, UploadStatus};

use super::queue::Queue;

/// Cloning it shares it.
#[derive(Clone, Debug)]
pub(super) struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The destination, without credentials.
    url: String,
    queue: Queue,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    abandoned: u64,
    last_failure: Option<UploadFailure>,
    failing_since: Option<Timestamp>,
}

impl Health {
    pub(super) fn new(url: &str, queue: &Queue) -> Self {
        Self(Arc::new(Inner {
            url: url.to_owned(),
            queue: queue.clone(),
            record: Mutex::default(),
        }))
    }

    /// An upload succeeded. Returns whether the one before it had failed.
    pub(super) fn succeeded(&self) -> bool {
        self.record().failing_since.take().is_some()
    }

    /// The upload of `file` failed at `at`. Returns whether the one before it succeeded, or failed for another reason.
    pub(super) fn failed(&self, file: &str, error: &str, at: Timestamp) -> bool {
        let error = format!("{}: {error}", self.0.url);
        let mut record = self.record();
        let is_news = record.failing_since.is_none()
            || record
                .last_failure
                .as_ref()
                .is_none_or(|last| last.error != error);
        record.failing_since.get_or_insert(at);
        record.last_failure = Some(UploadFailure {
            at_unix_nano: at.as_nanos(),
            file: file.to_owned(),
            error,
        });
        is_news
    }

    /// A file was removed before it was uploaded.
    pub(super) fn abandoned(&self) {
        self.record().abandoned += 1;
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // Every statement under the lock leaves it whole.
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UploadProbe for Health {
    fn uploads(&self) -> UploadStatus {
        // Before the lock: the queue has its own.
        let pending_files = self.0.queue.len() as u64;
        let record = self.record();
        UploadStatus {
            pending_files,
            abandoned_files: record.abandoned,
            last_failure: record.last_failure.clone(),
            failing_since_unix_nano: record.failing_since.map(Timestamp::as_nanos),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_news_once_and_is_kept_after_an_upload_succeeds() {
        let health = Health::new("s3://flows", &Queue::default());
        let at = Timestamp::from_nanos;
        assert!(!health.succeeded());
        assert!(health.failed("a", "403", at(1)));
        assert!(!health.failed("a", "403", at(2)));
        assert!(health.failed("b", "timeout", at(3)));
        let status = health.uploads();
        assert_eq!(status.failing_since_unix_nano, Some(1));
        let failure = status.last_failure.unwrap();
        assert_eq!(
            (failure.at_unix_nano, &*failure.file, &*failure.error),
            (3, "b", "s3://flows: timeout")
        );
        assert!(health.succeeded());
        let status = health.uploads();
        assert_eq!(status.failing_since_unix_nano, None);
        assert!(status.last_failure.is_some());
        assert!(health.failed("b", "timeout", at(9)), "after a success it is news");
    }
}
