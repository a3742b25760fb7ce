use super::*;
use crate::push::error::Lost;
use crate::push::retry::{Backoff, RetryConfig};
use crate::push::warned::WARN_INTERVAL;
use crate::testing::context;
use tower::retry::Policy;

const POINTS: PipelineKind = PipelineKind::Metrics;
const LOGS: PipelineKind = PipelineKind::Logs;

#[tokio::test(start_paused = true)]
async fn an_exporter_is_failing_from_its_first_failed_attempt_until_one_succeeds() {
    let context = context();
    let health = Health::new(&context, Addresses::one(&"http://collector:4317"));
    let state = || context.status.load().remove("exporters/test");
    health.succeeded(POINTS);
    assert_eq!(state(), None, "the state is the runner's while nothing fails");
    health.failed(LOGS, &"connection refused".into());
    let failing = state().unwrap();
    assert_eq!(failing.state, State::RecoverableError);
    assert_eq!(
        failing.error.as_deref(),
        Some("http://collector:4317: connection refused")
    );
    // One peer may take points and refuse log records.
    health.succeeded(POINTS);
    assert_eq!(state().unwrap().state, State::RecoverableError);
    health.succeeded(LOGS);
    assert_eq!(state().unwrap().state, State::Ok);
}

#[tokio::test(start_paused = true)]
async fn of_two_addresses_the_one_that_fails_is_named_until_it_takes_a_request() {
    let context = context();
    let health = Health::new(&context, Addresses::new(&"http://a/m", &"http://b/l"));
    let state = || context.status.load()["exporters/test"].clone();
    health.failed(LOGS, &"refused".into());
    health.succeeded(POINTS);
    assert_eq!(state().state, State::RecoverableError);
    assert_eq!(state().error.as_deref(), Some("http://b/l: refused"));
    health.failed(POINTS, &"timed out".into());
    assert_eq!(
        state().error.as_deref(),
        Some("http://a/m: timed out; http://b/l: refused")
    );
    health.succeeded(LOGS);
    assert_eq!(state().error.as_deref(), Some("http://a/m: timed out"));
    health.succeeded(POINTS);
    assert_eq!((state().state, state().error), (State::Ok, None));
}

#[tokio::test(start_paused = true)]
async fn of_one_address_the_kind_that_fails_is_named_once_there_are_both() {
    let context = context();
    let health = Health::new(&context, Addresses::one(&"http://a"));
    let error = || context.status.load()["exporters/test"].error.clone();
    health.attempting(LOGS);
    health.failed(LOGS, &"refused".into());
    assert_eq!(error().as_deref(), Some("http://a: refused"));
    health.attempting(POINTS);
    health.succeeded(POINTS);
    health.failed(LOGS, &"refused".into());
    assert_eq!(error().as_deref(), Some("http://a (log records): refused"));
    health.failed(POINTS, &"refused".into());
    assert_eq!(error().as_deref(), Some("http://a: refused"));
    health.succeeded(LOGS);
    health.succeeded(POINTS);
    assert_eq!(error(), None);
}

/// Counts the warnings of this thread.
#[derive(Clone, Debug, Default)]
struct Warnings(Arc<AtomicU64>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fails_is_a_warning_at_once_at_another_cause_and_once_a_minute() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let health = Health::new(&context(), Addresses::one(&"peer"));
    let mut backoff = Backoff::new(&RetryConfig::default(), health.clone());
    let mut request = Request {
        body: bytes::Bytes::new(),
        kind: POINTS,
        items: 1,
        last: false,
    };
    let mut fails = |cause: &str| {
        let error: BoxError = Box::new(Lost::new(&std::io::Error::other(cause.to_owned())));
        health.failed(POINTS, &error);
        assert!(backoff.retry(&mut request, &mut Err(error)).is_some());
        warnings.0.load(Ordering::Relaxed)
    };
    assert_eq!(fails("refused"), 1);
    assert_eq!(fails("refused"), 1);
    assert_eq!(fails("no such name"), 2);
    assert_eq!(fails("no such name"), 2);
    tokio::time::advance(WARN_INTERVAL).await;
    assert_eq!(fails("no such name"), 3);
    assert_eq!(fails("no such name"), 3);
}

#[test]
fn what_is_said_of_storage_depends_on_the_cause() {
    assert!(of_storage(true).contains("are kept"));
    assert!(of_storage(false).contains("does not keep"));
    let health = Health::new(&context(), Addresses::one(&""));
    let refused: BoxError = Box::new(crate::push::error::Refused::new(
        tonic::Status::invalid_argument("x"),
        &crate::push::secrets::Secrets::default(),
    ));
    let reset: BoxError = Box::new(Lost::new(&std::io::Error::from(
        std::io::ErrorKind::ConnectionReset,
    )));
    health.gave_up(&reset, POINTS, 1);
    assert_eq!(health.records().points.of_storage, of_storage(true));
    health.gave_up(&refused, POINTS, 1);
    assert_eq!(health.records().points.of_storage, of_storage(false));
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_given_up_are_one_warning_a_minute_with_all_of_their_items() {
    let health = Health::new(&context(), Addresses::one(&""));
    assert_eq!(health.newly_lost("401", of_storage(false), POINTS, 10), Some(10));
    assert_eq!(health.newly_lost("401", of_storage(false), POINTS, 10), None);
    assert_eq!(health.newly_lost("401", of_storage(false), POINTS, 5), None);
    // Of the other kind nothing was warned of, and its items are counted by themselves.
    assert_eq!(health.newly_lost("401", of_storage(false), LOGS, 3), Some(3));
    tokio::time::advance(WARN_INTERVAL).await;
    assert_eq!(health.newly_lost("401", of_storage(false), POINTS, 1), Some(16));
    assert_eq!(health.newly_lost("401", of_storage(false), POINTS, 7), None);
    health.failed(POINTS, &"401".into());
    // A retry of the same cause has a separate warning.
    assert!(is_news(
        &mut health.records().peers.get_mut(&POINTS).unwrap().retried,
        "401"
    ));
    health.succeeded(POINTS);
    assert_eq!(health.records().points.unreported, 0);
    assert_eq!(health.newly_lost("401", of_storage(false), POINTS, 3), Some(3));
}
