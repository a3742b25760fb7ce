//! Temporary failures: those after which the same request may succeed.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt;
use tower::BoxError;

use super::error::{Lost, Refused, TimedOut};
use super::http::{HttpFailure, Misunderstood, Page};

/// Consequence of a failure for the request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It would fail again.
    Final,
    /// It is retried.
    Retry,
    /// The same, and not earlier than that.
    RetryAfter(Duration),
}

/// Longest wait that a peer can ask for: a mistake of its own must not end deliveries for good.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(3600);

/// A request that was not sent, as the peer has asked for none for a time, in its answer to one before.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{cause}")]
pub(super) struct Paused {
    /// That answer.
    pub(super) cause: String,
    /// The rest of that time.
    pub(super) rest: Duration,
}

/// Whether it would be of use to send the same again, some time.
pub(super) fn is_temporary(error: &BoxError) -> bool {
    verdict(error) != Verdict::Final
}

/// The time after which the peer wants to be asked again, if it names one; [`MAX_WAIT`] at most.
pub(super) fn asked_delay(error: &BoxError) -> Option<Duration> {
    named_delay(error).map(|delay| delay.min(MAX_WAIT))
}

/// The same as the peer named it.
fn named_delay(error: &BoxError) -> Option<Duration> {
    match judge(error) {
        Verdict::RetryAfter(delay) => Some(delay),
        Verdict::Final | Verdict::Retry => None,
    }
}

/// The shortest wait asked for that is worth a word.
const LONG_WAIT: Duration = Duration::from_secs(60);

/// The text of a failure, with the wait that the peer asks for if that is a long one: in whole minutes, so that two of the same cause
/// have the same text.
pub(super) fn described(error: &BoxError) -> String {
    if error.is::<Paused>() {
        return error.to_string();
    }
    match named_delay(error) {
        Some(delay) if delay > MAX_WAIT => {
            let minutes = MAX_WAIT.as_secs() / 60;
            format!(
                "{error}; it asks for no request for more than {minutes} min, and is asked again after {minutes} min"
            )
        }
        Some(delay) if delay >= LONG_WAIT => {
            let minutes = delay.as_secs() / 60;
            format!("{error}; it asks for no request for {minutes} min")
        }
        _ => error.to_string(),
    }
}

/// Judges a failure by who reports it: the network, or the server with a status. No wait is longer than [`MAX_WAIT`].
pub(super) fn verdict(error: &BoxError) -> Verdict {
    match judge(error) {
        Verdict::RetryAfter(delay) => Verdict::RetryAfter(delay.min(MAX_WAIT)),
        other => other,
    }
}

fn judge(error: &BoxError) -> Verdict {
    if let Some(paused) = error.downcast_ref::<Paused>() {
        return Verdict::RetryAfter(paused.rest);
    }
    if error.is::<TimedOut>() || error.is::<Page>() || error.is::<Misunderstood>() {
        return Verdict::Retry;
    }
    if let Some(lost) = error.downcast_ref::<Lost>() {
        return match lost.retry_after {
            _ if !lost.is_retryable() => Verdict::Final,
            Some(delay) => Verdict::RetryAfter(delay),
            None => Verdict::Retry,
        };
    }
    if let Some(failure) = error.downcast_ref::<HttpFailure>() {
        return match (failure.temporary, failure.retry_after) {
            (false, _) => Verdict::Final,
            (true, Some(delay)) => Verdict::RetryAfter(delay),
            (true, None) => Verdict::Retry,
        };
    }
    let Some(Refused { status, .. }) = error.downcast_ref() else {
        return Verdict::Final;
    };
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match (status.code(), asked) {
        (
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted,
            Some(delay),
        ) => Verdict::RetryAfter(delay),
        (
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss,
            None,
        ) => Verdict::Retry,
        // Without RetryInfo this one says that trying again is of no use.
        _ => Verdict::Final,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_of_any_length_is_one_of_an_hour_at_most_and_is_said_in_minutes() {
        let asking = |delay| Box::new(HttpFailure::asking_for(delay)) as BoxError;
        for (delay, expected) in [
            (Duration::from_secs(59), ""),
            (Duration::from_secs(60), "; it asks for no request for 1 min"),
            (Duration::from_secs(3600), "; it asks for no request for 60 min"),
            (
                Duration::from_secs(u64::MAX),
                "; it asks for no request for more than 60 min, and is asked again after 60 min",
            ),
        ] {
            let error = asking(delay);
            assert_eq!(described(&error), format!("{error}{expected}"));
            assert_eq!(verdict(&error), Verdict::RetryAfter(delay.min(MAX_WAIT)));
        }
    }
}
