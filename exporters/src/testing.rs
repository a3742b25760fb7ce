//! Helpers shared by the tests of several exporters.

use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::log::{ConnectionLog, Counts, Outcome};
use flowtap_pipeline::{
    Buckets, BuildContext, Endpoint, Family, FamilyKind, FamilySnapshot, Flow, FlowKind, HISTOGRAM_BUCKETS,
    HistogramPoint, LabelValue, LogBatch, LogBody, LogRecord, Naming, Points, Resource, Series, Snapshot,
    SumPoint, Timestamp, Unit,
};

const BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
];

pub(crate) const BYTES: Family = Family {
    name: "network_bytes",
    naming: Naming::PrimusLens,
    help: "Bytes of a test.",
    unit: Unit::Bytes,
    kind: FamilyKind::Counter,
};

const IO: Family = Family {
    name: "flowtap.io",
    naming: Naming::Otel,
    help: "Bytes of a test.",
    unit: Unit::Bytes,
    kind: FamilyKind::Counter,
};

const TIMES: Family = Family {
    name: "network_rtt",
    naming: Naming::PrimusLens,
    help: "Times of a test.",
    unit: Unit::Microseconds,
    kind: FamilyKind::Histogram(&BOUNDS),
};

const EXPONENTIAL: Family = Family {
    name: "network_exponential",
    kind: FamilyKind::ExponentialHistogram,
    ..TIMES
};

/// The same as [`snapshot`] with nothing but an exponential histogram of `values`.
pub(crate) fn exponential(values: &[f64]) -> Snapshot {
    let mut buckets = Buckets::default();
    for value in values {
        buckets.record(*value, None);
    }
    let pairs = [("raddr", LabelValue::Text("192.0.2.7"))];
    let point = HistogramPoint {
        series: Series::new(&EXPONENTIAL, pairs, None, Timestamp::from_nanos(1_000)),
        buckets,
        sum: values.iter().sum(),
        updated: Timestamp::from_nanos(5_000),
    };
    Snapshot {
        families: vec![FamilySnapshot {
            family: &EXPONENTIAL,
            points: Points::Histograms(vec![point]),
            ended: Vec::new(),
        }],
        ..snapshot(0)
    }
}

/// A self-signed certificate for `name`, as `<base>.crt` and `<base>.key`.
pub(crate) fn certificate(base: &std::path::Path, name: &str) {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(base.with_extension("key"), certified.signing_key.serialize_pem()).unwrap();
    std::fs::write(base.with_extension("crt"), certified.cert.pem()).unwrap();
}

/// The node `node1`.
pub(crate) fn resource() -> Resource {
    let attributes = [
        ("service.name", "flowtap"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", "11111111-2222-5333-8444-555555555555"),
        ("host.name", "node1"),
    ];
    let owned = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Resource::new(owned, "node1")
}

/// A context with instruments that nobody reads.
pub(crate) fn context() -> BuildContext {
    BuildContext {
        pipeline: "".into(),
        resource: Arc::new(resource()),
        ..flowtap_pipeline::testing::context("test")
    }
}

fn sum(raddr: &str, total: u64) -> SumPoint {
    let pairs = [("raddr", LabelValue::Text(raddr))];
    let series = Series::new(&BYTES, pairs, None, Timestamp::from_nanos(1_000));
    SumPoint {
        series,
        total,
        delta: total,
        updated: Timestamp::from_nanos(5_000),
    }
}

/// A snapshot of the pipeline `metrics` at 5 µs after the epoch: one counter at `total`, one histogram with a hostile label
/// value, one counter that has ended.
pub(crate) fn snapshot(total: u64) -> Snapshot {
    let mut buckets = [0; HISTOGRAM_BUCKETS + 1];
    buckets[..3].copy_from_slice(&[1, 2, 3]);
    buckets[HISTOGRAM_BUCKETS] = 1;
    let pairs = [("raddr", LabelValue::Text("a\"b\\c\nd"))];
    let series = Series::new(&TIMES, pairs, None, Timestamp::from_nanos(1_000));
    let times = HistogramPoint {
        series,
        buckets: buckets.into(),
        sum: 12.5,
        updated: Timestamp::from_nanos(5_000),
    };
    let families = vec![
        FamilySnapshot {
            family: &BYTES,
            points: Points::Sums(vec![sum("192.0.2.7", total)]),
            ended: vec![sum("192.0.2.9", 0).series],
        },
        FamilySnapshot {
            family: &TIMES,
            points: Points::Histograms(vec![times]),
            ended: Vec::new(),
        },
    ];
    Snapshot {
        pipeline: "metrics".into(),
        at: Timestamp::from_nanos(5_000),
        window: Duration::from_secs(5),
        last: false,
        replaced: false,
        families,
    }
}

/// The same with nothing but a counter of OpenTelemetry's naming.
pub(crate) fn otel_snapshot(total: u64) -> Snapshot {
    let families = vec![FamilySnapshot {
        family: &IO,
        points: Points::Sums(vec![sum("192.0.2.7", total)]),
        ended: Vec::new(),
    }];
    Snapshot {
        families,
        ..snapshot(0)
    }
}

/// A snapshot with `series` counters.
pub(crate) fn many(series: u64) -> Snapshot {
    let points = (0..series)
        .map(|number| sum(&format!("peer-{number}"), number))
        .collect();
    let families = vec![FamilySnapshot {
        family: &BYTES,
        points: Points::Sums(points),
        ended: Vec::new(),
    }];
    Snapshot {
        families,
        ..snapshot(0)
    }
}

/// A batch of the pipeline `logs` at 5 s after the epoch: a connection that closed, and a connect that failed.
pub(crate) fn logs() -> LogBatch {
    let end = |last: u8, port| Endpoint::new([192, 0, 2, last].into(), port);
    let mut flow = Flow::new(end(1, 50_000), end(7, 443));
    flow.cookie = 4711;
    flow.pid = 99;
    flow.comm[..6].copy_from_slice(b"my app");
    flow.kind = Some(FlowKind::Egress);
    let counts = Counts {
        sent_bytes: 81,
        received_bytes: 3_000,
        sent_segments: 5,
        received_segments: 6,
        retransmits: 1,
        ..Counts::default()
    };
    let closed = ConnectionLog {
        outcome: Outcome::Closed,
        error: None,
        sequence: 0,
        adopted: false,
        duration: Duration::from_millis(2500),
        interval: Duration::from_millis(2500),
        delta: counts,
        total: counts,
        rtt: Duration::from_micros(350),
        min_rtt: Duration::from_micros(300),
        handshake: Duration::from_micros(400),
        probability: 1.0,
    };
    let failed = ConnectionLog {
        outcome: Outcome::Failed,
        error: Some("refused"),
        duration: Duration::ZERO,
        interval: Duration::ZERO,
        delta: Counts::default(),
        total: Counts::default(),
        rtt: Duration::ZERO,
        min_rtt: Duration::ZERO,
        handshake: Duration::ZERO,
        ..closed.clone()
    };
    let at = Timestamp::from_nanos(5_000_000_000);
    let record = |cookie, log| LogRecord {
        at,
        flow: Flow {
            cookie,
            ..flow.clone()
        },
        body: LogBody::Connection(log),
    };
    LogBatch {
        pipeline: "logs".into(),
        at,
        last: false,
        records: vec![record(4711, closed), record(4712, failed)],
        cut_short: 0,
    }
}
