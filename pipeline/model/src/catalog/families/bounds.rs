//! Upper bounds of histograms.

use crate::family::HISTOGRAM_BUCKETS;

/// Upper bounds of the round-trip time, in µs: those of the Go exporter.
pub(super) const RTT_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    50.0, 100.0, 200.0, 300.0, 500.0, 700.0, 1000.0, 1300.0, 1600.0, 2000.0, 2500.0, 3000.0, 4000.0, 5000.0,
    7000.0, 10000.0,
];

/// Upper bounds of a round-trip time in µs, from a rack to a retransmitted SYN.
pub(super) const WIDE_RTT_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    25_000.0,
    50_000.0,
    100_000.0,
    250_000.0,
    500_000.0,
    1_000_000.0,
    2_500_000.0,
    10_000_000.0,
];

/// [`WIDE_RTT_BOUNDS`] in seconds, the unit of durations in OpenTelemetry.
pub(super) const WIDE_RTT_BOUNDS_SECONDS: [f64; HISTOGRAM_BUCKETS] = [
    0.000_05, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// Upper bounds of the time that a connect takes, in seconds: from one in a rack to one that was retried.
pub(super) const CONNECT_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Upper bounds of the life of a connection, in seconds: from one request to a day.
pub(super) const LIFE_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 21_600.0,
    86_400.0,
];

/// Upper bounds of the payload bytes of a connection: from an empty request to a backup.
pub(super) const SIZE_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
    68_719_476_736.0,
];
