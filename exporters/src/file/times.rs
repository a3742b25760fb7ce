//! Times in Parquet.

use arrow_schema::{DataType, TimeUnit};
use flowtap_pipeline::Timestamp;

/// In UTC. Nanoseconds are not for every reader.
pub(super) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// No timestamp is so late that it would not fit.
pub(super) fn micros(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanos() / 1000).unwrap_or(i64::MAX)
}
