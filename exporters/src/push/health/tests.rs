use super::*;
use crate::testing::context;

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
    // One peer takes both, so it is well again.
    health.succeeded(POINTS);
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
    let health = Health::new(&context(), Addresses::one(&""));
    assert_eq!(health.newly_lost("401", POINTS, 10), Some(10));
    assert_eq!(health.newly_lost("401", POINTS, 10), None);
    assert_eq!(health.newly_lost("401", POINTS, 5), None);
    // Of the other kind nothing was warned of, and its items are counted by themselves.
    assert_eq!(health.newly_lost("401", LOGS, 3), Some(3));
    tokio::time::advance(WARN_INTERVAL).await;
    assert_eq!(health.newly_lost("401", POINTS, 1), Some(16));
    assert_eq!(health.newly_lost("401", POINTS, 7), None);
    health.failed(POINTS, &"401".into());
    // A retry of the same cause has a warning of its own.
    assert!(is_news(
        &mut health.records().peers.get_mut("").unwrap().retried,
        "401"
    ));
    health.succeeded(POINTS);
    assert_eq!(health.records().points.unreported, 0);
    assert_eq!(health.newly_lost("401", POINTS, 3), Some(3));
}
