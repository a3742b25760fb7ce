//! Delivery state of an exporter that pushes: its entry in `/status`, and what its log says about failures.
//!
//! The state follows attempts, not requests: a request may be retried for minutes, and with storage for ever, and in that time the
//! operator must see that nothing arrives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowtap_pipeline::telemetry::DeliveryTelemetry;
use flowtap_pipeline::{BuildContext, ComponentId, ComponentKind, PipelineKind, State, StatusBoard};
use tokio::time::Instant;
use tower::BoxError;

use super::verdict::is_temporary;

/// The same failure is a warning once in this time; in between it is logged at `debug`.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Cloning it shares it.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: ComponentId,
    /// The endpoint as it may be shown.
    endpoint: String,
    board: StatusBoard,
    deliveries: DeliveryTelemetry,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    failing_since: Option<Instant>,
    /// The last warning of a retry.
    retried: Warned,
    /// The last warning of a request that was given up, and the items of those since.
    given_up: Warned,
    unreported: u64,
}

/// When there was a warning, and of which cause.
type Warned = Option<(Instant, String)>;

impl Health {
    pub(crate) fn new(context: &BuildContext, endpoint: String) -> Self {
        Self(Arc::new(Inner {
            id: context.id.clone(),
            endpoint,
            board: context.status.clone(),
            deliveries: DeliveryTelemetry::new(&context.meter, &context.id),
            record: Mutex::default(),
        }))
    }

    pub(crate) fn deliveries(&self) -> &DeliveryTelemetry {
        &self.0.deliveries
    }

    /// An attempt succeeded.
    pub(crate) fn succeeded(&self) {
        let failed = {
            let mut record = self.record();
            record
                .failing_since
                .is_some()
                .then(|| std::mem::take(&mut *record))
        };
        if let Some(Record {
            failing_since: Some(since),
            unreported,
            ..
        }) = failed
        {
            self.set(State::Ok, None);
            let after = humantime::format_duration(Duration::from_secs(since.elapsed().as_secs()));
            let Inner { id, endpoint, .. } = &*self.0;
            // Those that no warning has counted yet.
            let lost = (unreported > 0).then_some(unreported);
            tracing::info!(exporter = %id, endpoint, %after, lost, "delivering again");
        }
    }

    /// An attempt failed.
    pub(crate) fn failed(&self, error: &BoxError) {
        self.record().failing_since.get_or_insert_with(Instant::now);
        self.set(
            State::RecoverableError,
            Some(format!("{}: {error}", self.0.endpoint)),
        );
    }

    /// A failed request of `items` is retried after `wait`; `first` says whether this was its first attempt.
    pub(crate) fn retrying(&self, error: &BoxError, items: u64, wait: Duration, first: bool) {
        self.0.deliveries.retried();
        let Inner { id, endpoint, .. } = &*self.0;
        if first && is_news(&mut self.record().retried, &error.to_string()) {
            tracing::warn!(exporter = %id, endpoint, %error, items, ?wait, "delivery failed and is retried; \
                hint: fix the cause that the error names; what comes meanwhile waits in `sending_queue`, or in `storage` if that is set; \
                what they can't hold is lost, with a warning, and counted in `flowtap_exporter_enqueue_failed_*`");
        } else {
            tracing::debug!(exporter = %id, endpoint, %error, items, ?wait, "delivery failed and is retried");
        }
    }

    /// A request of `items` is given up.
    pub(crate) fn gave_up(&self, error: &BoxError, kind: PipelineKind, items: u64) {
        let Inner { id, endpoint, .. } = &*self.0;
        let Some(items) = self.newly_lost(&error.to_string(), items) else {
            tracing::debug!(exporter = %id, endpoint, %error, items, "{} were not delivered", kind.items());
            return;
        };
        let lost = kind.items();
        if is_temporary(error) {
            tracing::warn!(exporter = %id, endpoint, %error, items, "{lost} were not delivered within `retry.max_elapsed_time`; \
                hint: fix the cause that the error names; with `storage`, of `otlp` and `remote_write`, requests are kept until they \
                are delivered");
        } else {
            tracing::warn!(exporter = %id, endpoint, %error, items, "{lost} were not delivered, and are not retried; \
                hint: fix the cause that the error names; `storage` does not keep requests that the peer refuses");
        }
    }

    /// The number of items that a warning is due for: these, and those since the last one. `None` if there was one of the same cause a
    /// short while ago.
    fn newly_lost(&self, error: &str, items: u64) -> Option<u64> {
        let mut record = self.record();
        record.unreported += items;
        is_news(&mut record.given_up, error).then(|| std::mem::take(&mut record.unreported))
    }

    fn set(&self, state: State, error: Option<String>) {
        self.0
            .board
            .set(ComponentKind::Exporter, &self.0.id, state, error);
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // Every statement under the lock leaves it whole.
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `error` has not been a warning for a while; then it is one now.
fn is_news(warned: &mut Warned, error: &str) -> bool {
    let known = warned
        .as_ref()
        .is_some_and(|(at, text)| text == error && at.elapsed() < WARN_INTERVAL);
    if !known {
        *warned = Some((Instant::now(), error.to_owned()));
    }
    !known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::context;

    #[tokio::test(start_paused = true)]
    async fn an_exporter_is_failing_from_its_first_failed_attempt_until_one_succeeds() {
        let context = context();
        let health = Health::new(&context, "http://collector:4317".to_owned());
        let state = || context.status.load().remove("exporters/test");
        health.succeeded();
        assert_eq!(state(), None, "the state is the runner's while nothing fails");
        health.failed(&"connection refused".into());
        let failing = state().unwrap();
        assert_eq!(failing.state, State::RecoverableError);
        assert_eq!(
            failing.error.as_deref(),
            Some("http://collector:4317: connection refused")
        );
        health.succeeded();
        assert_eq!(state().unwrap().state, State::Ok);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_failure_is_news_once_a_minute_and_another_at_once() {
        let mut warned = None;
        assert!(is_news(&mut warned, "refused"));
        assert!(!is_news(&mut warned, "refused"));
        assert!(is_news(&mut warned, "reset"));
        assert!(!is_news(&mut warned, "reset"));
        tokio::time::advance(WARN_INTERVAL).await;
        assert!(is_news(&mut warned, "reset"));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_given_up_are_one_warning_a_minute_with_all_of_their_items() {
        let health = Health::new(&context(), String::new());
        assert_eq!(health.newly_lost("401", 10), Some(10));
        assert_eq!(health.newly_lost("401", 10), None);
        assert_eq!(health.newly_lost("401", 5), None);
        tokio::time::advance(WARN_INTERVAL).await;
        assert_eq!(health.newly_lost("401", 1), Some(16));
        // A retry of the same cause has a warning of its own.
        assert!(is_news(&mut health.record().retried, "401"));
        assert_eq!(health.newly_lost("401", 7), None);
        health.failed(&"401".into());
        health.succeeded();
        assert_eq!(health.record().unreported, 0);
        assert_eq!(health.newly_lost("401", 3), Some(3));
    }
}
