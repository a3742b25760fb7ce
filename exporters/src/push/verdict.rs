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

/// Whether it would be of use to send the same again, some time.
pub(super) fn is_temporary(error: &BoxError) -> bool {
    verdict(error) != Verdict::Final
}

/// The time after which the peer wants to be asked again, if it names one.
pub(super) fn asked_delay(error: &BoxError) -> Option<Duration> {
    match verdict(error) {
        Verdict::RetryAfter(delay) => Some(delay),
        Verdict::Final | Verdict::Retry => None,
    }
}

/// The shortest wait asked for that is worth a word.
const LONG_WAIT: Duration = Duration::from_secs(60);

/// The text of a failure, with the wait that the peer asks for if that is a long one: in whole minutes, so that two of the same cause
/// have the same text.
pub(super) fn described(error: &BoxError) -> String {
    match asked_delay(error) {
        Some(delay) if delay >= LONG_WAIT => {
            let minutes = delay.as_secs() / 60;
            format!("{error}; it asks for no request for {minutes} min")
        }
        _ => error.to_string(),
    }
}

/// Judges a failure by who reports it: the network, or the server with a status.
pub(super) fn verdict(error: &BoxError) -> Verdict {
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
