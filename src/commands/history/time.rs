//! Times in answers, in UTC.

use std::time::{Duration, UNIX_EPOCH};

use flowtap_pipeline::Timestamp;
use serde::Serializer;

/// Microseconds since 1970, as a time in UTC.
pub(super) fn time(micros: i64) -> String {
    let at = UNIX_EPOCH + Duration::from_micros(micros.max(0).unsigned_abs());
    humantime::format_rfc3339_seconds(at).to_string()
}

/// The same of a moment.
pub(super) fn time_of(at: Timestamp) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(at.as_nanos())).to_string()
}

/// Microseconds since 1970, as text that `--from` and `--to` read back without loss.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
pub(super) fn as_time<S: Serializer>(at: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    let at = UNIX_EPOCH + Duration::from_micros(at.max(&0).unsigned_abs());
    serializer.collect_str(&humantime::format_rfc3339_micros(at))
}

/// The same; null for none.
#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
pub(super) fn as_time_if_any<S: Serializer>(at: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => as_time(at, serializer),
        None => serializer.serialize_none(),
    }
}
