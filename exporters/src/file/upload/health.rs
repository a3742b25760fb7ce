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

    /// A file was taken out of the queue. Returns whether it was the last one whose upload had failed.
    pub(super) fn settled(&self) -> bool {
        // Before the lock: the queue has its own.
        let has_failed = self.0.queue.has_failed();
        !has_failed && self.record().failing_since.take().is_some()
    }

    /// The upload of `file` failed at `at`. Returns whether none was failing, or the newest failure had another cause.
    pub(super) fn failed(&self, file: &str, error: &str, at: Timestamp) -> bool {
        let error = format!("{}: {error}", self.0.url);
        let mut record = self.record();
        let is_news = record.failing_since.is_none()
            || record
                .last_failure
                .as_ref()
                .is_none_or(|last| cause(&last.error) != cause(&error));
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

/// The text up to the body of the answer, and the code in it: these distinguish causes of failures. Stores add an id of the request.
fn cause(error: &str) -> (&str, Option<&str>) {
    let body = error.find(['<', '{']).unwrap_or(error.len());
    let (head, body) = error.split_at(body);
    let code = body
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    (head, code.map(|(code, _)| code))
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
    use super::super::super::names::Name;
    use super::*;

    #[test]
    fn a_failure_is_news_once_and_is_kept_after_an_upload_succeeds() {
        let queue = Queue::default();
        let health = Health::new("s3://flows", &queue);
        let at = Timestamp::from_nanos;
        let name = Name::starting(at(1));
        queue.put(name.clone(), "a".to_owned());
        assert!(!health.settled());
        queue.failed(&name, "a");
        assert!(health.failed("a", "403", at(1)));
        assert!(!health.failed("a", "403", at(2)));
        assert!(health.failed("b", "timeout", at(3)));
        // Another file was uploaded; this one is refused still.
        assert!(!health.settled());
        let status = health.uploads();
        assert_eq!(status.failing_since_unix_nano, Some(1));
        let failure = status.last_failure.unwrap();
        assert_eq!(
            (failure.at_unix_nano, &*failure.file, &*failure.error),
            (3, "b", "s3://flows: timeout")
        );
        queue.remove(&name, "a");
        assert!(health.settled());
        let status = health.uploads();
        assert_eq!(status.failing_since_unix_nano, None);
        assert!(status.last_failure.is_some());
        assert!(health.failed("b", "timeout", at(9)), "after a success it is news");
    }

    #[test]
    fn the_id_of_a_request_is_no_other_cause_but_the_code_is() {
        let health = Health::new("s3://flows", &Queue::default());
        let refused = |code: &str, id: u32| {
            format!("403 Forbidden: <Error><Code>{code}</Code><RequestId>{id}</RequestId></Error>")
        };
        let failed = |error: &str| health.failed("a", error, Timestamp::from_nanos(1));
        assert!(failed(&refused("AccessDenied", 1)));
        assert!(!failed(&refused("AccessDenied", 2)));
        assert!(failed(&refused("SignatureDoesNotMatch", 3)));
        assert!(failed("503 Service Unavailable: {\"id\": 4}"));
        assert!(!failed("503 Service Unavailable: {\"id\": 5}"));
    }
}
