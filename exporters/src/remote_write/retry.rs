//! When a request is tried again (Prometheus remote write 1.0, "Retries & Backoff").

use std::time::Duration;

use flowtap_pipeline::Exported;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::StatusCode;
use tokio::time::Instant;
use tower::BoxError;
use tower::retry::Policy;
use tower::timeout::error::Elapsed;

use super::client::{Request, SendError};
use crate::otlp::RetryConfig;

/// When flowtap stops, the last requests are given up after this: the run has a deadline of its own.
const LAST_ELAPSED: Duration = Duration::from_secs(5);

/// Exponential backoff with full jitter. Cloned for each request, so its state is that request's.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    config: RetryConfig,
    /// The longest wait before the next retry.
    ceiling: Duration,
    /// When the first attempt failed.
    failing_since: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(config: &RetryConfig) -> Self {
        Self {
            config: config.clone(),
            ceiling: config.initial_interval,
            failing_since: None,
        }
    }

    /// How long to wait before the next attempt; `None` to give up.
    fn wait(&mut self, error: &BoxError, last: bool) -> Option<Duration> {
        if !self.config.enabled {
            return None;
        }
        let wait = match verdict(error) {
            Verdict::Final => return None,
            Verdict::RetryAfter(delay) => delay,
            Verdict::Retry => {
                let ceiling = self.ceiling.min(self.config.max_interval);
                self.ceiling = ceiling.saturating_mul(2);
                ceiling.mul_f64(fastrand::f64())
            }
        };
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let longest = self
            .config
            .max_elapsed_time
            .min(if last { LAST_ELAPSED } else { Duration::MAX });
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
        tracing::info!(%error, ?wait, points = request.points, "a request failed and is tried again");
        Some(tokio::time::sleep(wait).boxed())
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}

/// What a failure means for the request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Final,
    Retry,
    RetryAfter(Duration),
}

fn verdict(error: &BoxError) -> Verdict {
    if error.is::<Elapsed>() {
        return Verdict::Retry;
    }
    match error.downcast_ref::<SendError>() {
        Some(SendError::NoAnswer(_)) => Verdict::Retry,
        Some(SendError::Refused {
            status, retry_after, ..
        }) if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS => {
            retry_after.map_or(Verdict::Retry, Verdict::RetryAfter)
        }
        // The same samples would be refused again.
        Some(SendError::Refused { .. }) | None => Verdict::Final,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, retry_after: Option<Duration>) -> BoxError {
        Box::new(SendError::Refused {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after,
            said: String::new(),
        })
    }

    #[test]
    fn a_server_in_trouble_is_asked_again_and_one_that_refuses_is_not() {
        for status in [429, 500, 501, 502, 503, 504, 599] {
            assert_eq!(verdict(&refused(status, None)), Verdict::Retry, "{status}");
            let delay = Duration::from_secs(7);
            assert_eq!(
                verdict(&refused(status, Some(delay))),
                Verdict::RetryAfter(delay),
                "{status}"
            );
        }
        for status in [301, 400, 401, 403, 404, 413, 422] {
            let delay = Some(Duration::from_secs(7));
            assert_eq!(verdict(&refused(status, delay)), Verdict::Final, "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_goes_beyond_the_elapsed_time_is_not_begun() {
        let config = RetryConfig {
            max_elapsed_time: Duration::from_secs(60),
            ..RetryConfig::default()
        };
        let asked = |seconds| refused(503, Some(Duration::from_secs(seconds)));
        let mut backoff = Backoff::new(&config);
        assert_eq!(backoff.wait(&asked(40), false), Some(Duration::from_secs(40)));
        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(backoff.wait(&asked(40), false), None);
        assert_eq!(Backoff::new(&config).wait(&asked(u64::MAX), false), None);
        assert_eq!(Backoff::new(&config).wait(&asked(6), true), None);
    }
}
