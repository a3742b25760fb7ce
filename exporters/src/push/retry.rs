//! When a request is tried again (OTLP specification, "OTLP/gRPC Throttling" and "Failures").

use std::time::Duration;

use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{Exported, Violation};
use futures::FutureExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower::BoxError;
use tower::retry::Policy;

use super::health::Health;
use super::request::Request;
use super::verdict::{Verdict, verdict};

/// When flowtap stops, the last requests are given up after this: the run has its own deadline.
const LAST_ELAPSED: Duration = Duration::from_secs(5);

/// Retries of failed requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Whether failed requests are retried.
    pub enabled: bool,
    /// The longest wait before the first retry; it doubles from one to the next.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub initial_interval: Duration,
    /// The longest wait before any retry.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_interval: Duration,
    /// Time after which a request is given up.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_elapsed_time: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            initial_interval: Duration::from_secs(5),
            max_interval: Duration::from_secs(30),
            max_elapsed_time: Duration::from_secs(300),
        }
    }
}

impl RetryConfig {
    /// Violations of its settings.
    pub(crate) fn validate(&self) -> impl Iterator<Item = Violation> {
        let positive = [
            ("initial_interval", self.initial_interval),
            ("max_interval", self.max_interval),
        ];
        positive
            .into_iter()
            .filter(|(_, duration)| duration.is_zero())
            .map(|(key, _)| Violation {
                path: vec!["retry".to_owned(), key.to_owned()],
                message: "must be longer than 0s".to_owned(),
            })
    }
}

/// Exponential backoff with full jitter. Cloned for each request, so its state is that request's.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    config: RetryConfig,
    /// The longest wait before the next retry.
    ceiling: Duration,
    /// When the first attempt failed.
    failing_since: Option<Instant>,
    health: Health,
}

impl Backoff {
    pub(crate) fn new(config: &RetryConfig, health: Health) -> Self {
        Self {
            config: config.clone(),
            ceiling: config.initial_interval,
            failing_since: None,
            health,
        }
    }

    /// Time to wait before the next attempt; `None` to give up.
    fn wait(&mut self, error: &BoxError, last: bool) -> Option<Duration> {
        if !self.config.enabled {
            return None;
        }
        let asked = match verdict(error) {
            Verdict::Final => return None,
            Verdict::RetryAfter(delay) => delay,
            Verdict::Retry => Duration::ZERO,
        };
        let ceiling = self.ceiling.min(self.config.max_interval);
        self.ceiling = ceiling.saturating_mul(2);
        // A server asks for a longer wait, never for a shorter one: `Retry-After: 0` from one that is overloaded would have it
        // asked as fast as the network allows.
        let wait = asked.max(ceiling.mul_f64(fastrand::f64()));
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let longest = self
            .config
            .max_elapsed_time
            .min(if last { LAST_ELAPSED } else { Duration::MAX });
        // A peer may ask for any time, even one that is too long to be added to.
        (since.elapsed().saturating_add(wait) <= longest).then_some(wait)
    }
}

impl Policy<Request, Exported, BoxError> for Backoff {
    type Future = BoxFuture<'static, ()>;

    fn retry(
        &mut self,
        request: &mut Request,
        result: &mut Result<Exported, BoxError>,
    ) -> Option<Self::Future> {
        let error = result.as_ref().err()?;
        let wait = self.wait(error, request.last)?;
        self.health.retrying(error, request, wait);
        Some(tokio::time::sleep(wait).boxed())
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::error::Refused;
    use crate::push::health::Addresses;
    use crate::push::http::HttpFailure;
    use crate::push::secrets::Secrets;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    fn health() -> Health {
        Health::new(&crate::testing::context(), Addresses::one(&""))
    }

    fn status(code: Code) -> BoxError {
        Box::new(Refused::new(Status::new(code, "x"), &Secrets::default()))
    }

    fn with_retry_info(code: Code, delay: Duration) -> BoxError {
        let details = ErrorDetails::with_retry_info(Some(delay));
        Box::new(Refused::new(
            Status::with_error_details(code, "x", details),
            &Secrets::default(),
        ))
    }

    #[test]
    fn codes_are_retried_as_the_specification_lists_them() {
        for code in [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unavailable,
            Code::DataLoss,
        ] {
            assert_eq!(verdict(&status(code)), Verdict::Retry, "{code:?}");
        }
        for code in [
            Code::Unknown,
            Code::InvalidArgument,
            Code::NotFound,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::FailedPrecondition,
            Code::Unimplemented,
            Code::Internal,
            Code::Unauthenticated,
            Code::ResourceExhausted,
        ] {
            assert_eq!(verdict(&status(code)), Verdict::Final, "{code:?}");
        }
        let delay = Duration::from_secs(7);
        for code in [Code::ResourceExhausted, Code::Unavailable] {
            assert_eq!(verdict(&with_retry_info(code, delay)), Verdict::RetryAfter(delay));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_up_to_their_ceiling_and_end_after_the_elapsed_time() {
        let config = RetryConfig {
            initial_interval: Duration::from_secs(1),
            max_interval: Duration::from_secs(4),
            max_elapsed_time: Duration::from_secs(60),
            ..RetryConfig::default()
        };
        let mut backoff = Backoff::new(&config, health());
        let mut elapsed = Duration::ZERO;
        for ceiling in [1, 2, 4, 4, 4] {
            let wait = backoff.wait(&status(Code::Unavailable), false).unwrap();
            assert!(wait <= Duration::from_secs(ceiling), "{wait:?} > {ceiling}s");
            tokio::time::advance(wait).await;
            elapsed += wait;
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(backoff.wait(&status(Code::Unavailable), false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_of_any_length_can_be_asked_for_and_is_not_begun() {
        let mut backoff = Backoff::new(&RetryConfig::default(), health());
        let asked = |delay| with_retry_info(Code::Unavailable, delay);
        assert!(backoff.wait(&asked(Duration::from_secs(1)), false).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        let refused: BoxError = Box::new(HttpFailure::asking_for(Duration::MAX));
        assert_eq!(backoff.wait(&refused, false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_for_no_wait_gets_the_backoff() {
        let mut backoff = Backoff::new(&RetryConfig::default(), health());
        let waits = (0..8).map(|_| {
            let asked: BoxError = Box::new(HttpFailure::asking_for(Duration::ZERO));
            backoff.wait(&asked, false).unwrap()
        });
        // Eight draws of up to 5, 10, 20, 30, … seconds.
        assert!(waits.sum::<Duration>() > Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_request_is_given_up_before_the_runs_deadline() {
        let mut backoff = Backoff::new(&RetryConfig::default(), health());
        assert!(
            backoff
                .wait(&with_retry_info(Code::Unavailable, Duration::from_secs(4)), true)
                .is_some()
        );
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(
            backoff.wait(&with_retry_info(Code::Unavailable, Duration::from_secs(4)), true),
            None
        );
    }
}
