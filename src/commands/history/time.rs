//! Times in answers, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flowtap_pipeline::Timestamp;
use serde::Serializer;

/// The last microsecond of the year 9999: text has no later time (RFC 3339).
const LAST: i64 = 253_402_300_799_999_999;

fn since_epoch(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros.clamp(0, LAST).unsigned_abs())
}

/// Microseconds since 1970, as a time in UTC.
pub(super) fn time(micros: i64) -> String {
    humantime::format_rfc3339_seconds(since_epoch(micros)).to_string()
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
    serializer.collect_str(&humantime::format_rfc3339_micros(since_epoch(*at)))
}

/// The same; null for none.
#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
pub(super) fn as_time_if_any<S: Serializer>(at: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => as_time(at, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_text_does_not_have_is_shown_as_the_nearest() {
        for (micros, expected) in [
            (i64::MIN, "1970-01-01T00:00:00Z"),
            (LAST, "9999-12-31T23:59:59Z"),
            (LAST + 1, "9999-12-31T23:59:59Z"),
            (i64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(micros), expected);
        }
        let mut json = Vec::new();
        as_time(&i64::MAX, &mut serde_json::Serializer::new(&mut json)).unwrap();
        assert_eq!(json, b"\"9999-12-31T23:59:59.999999Z\"");
    }
}
