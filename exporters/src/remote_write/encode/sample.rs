//! The points of a snapshot, and the samples that each becomes.

use flowtap_pipeline::{Family, FamilyKind, FamilySnapshot, HistogramPoint, Points, Series, Timestamp};

use crate::naming::prometheus_name;
use crate::prometheus::canonical;
use crate::push::zeros::Starts;

/// The one NaN that says that a series has ended (Prometheus remote write 1.0 and 2.0, "Stale Markers").
pub(super) const STALE_MARKER: u64 = 0x7ff0_0000_0000_0002;

/// The label that holds the metric's name.
pub(super) const NAME: &str = "__name__";

/// The label that holds a bucket's upper bound.
pub(super) const BOUND: &str = "le";

/// The metadata of a series.
pub(super) struct Point<'a> {
    pub(super) family: &'static Family,
    pub(super) series: &'a Series,
    pub(super) at: Timestamp,
    pub(super) value: Value<'a>,
    /// Time of a sample 0 that goes before this one, in milliseconds.
    pub(super) zero_at: Option<u64>,
}

pub(super) enum Value<'a> {
    Number(f64),
    Histogram(&'a HistogramPoint),
    /// Nothing yet: a histogram's sample 0.
    Zero,
    /// There is none any more.
    Ended,
}

/// The live points of a family.
pub(super) fn points<'a>(
    family: &'a FamilySnapshot,
    at: Timestamp,
    starts: &'a Starts,
) -> Box<dyn Iterator<Item = Point<'a>> + Send + 'a> {
    // A gauge's value does not count from 0.
    let starts = (!family.family.kind.can_fall()).then_some(starts);
    let point = move |series, value| Point {
        family: family.family,
        series,
        at,
        value,
        zero_at: starts
            .and_then(|starts| starts.zero_at(series, at))
            .map(milliseconds),
    };
    match &family.points {
        Points::Sums(points) => Box::new(points.iter().enumerate().map(move |(number, sum)| {
            family.points.prefetch(number);
            point(&sum.series, Value::Number(sum.total as f64))
        })),
        Points::Values(points) => Box::new(
            points
                .iter()
                .map(move |number| point(&number.series, Value::Number(number.value))),
        ),
        Points::Histograms(points) => Box::new(points.iter().enumerate().map(move |(number, histogram)| {
            family.points.prefetch(number);
            point(&histogram.series, Value::Histogram(histogram))
        })),
    }
}

/// A family by its names in Prometheus.
pub(super) struct Metric {
    pub(super) family: &'static Family,
    pub(super) name: String,
    /// `le` of each bucket, if it has any.
    pub(super) bounds: Vec<String>,
}

impl Metric {
    pub(super) fn new(namespace: &str, family: &'static Family) -> Self {
        let bounds = match family.kind {
            // As a Prometheus stores them that scrapes, so that both ways lead to the same series.
            FamilyKind::Histogram(bounds) => bounds
                .iter()
                .map(|bound| canonical(*bound))
                .chain(["+Inf".to_owned()])
                .collect(),
            FamilyKind::Counter
            | FamilyKind::Gauge
            | FamilyKind::UpDownCounter
            | FamilyKind::ExponentialHistogram => Vec::new(),
        };
        Self {
            family,
            name: prometheus_name(namespace, family),
            bounds,
        }
    }

    /// Whether its histograms are native whatever the config: they have no classic form.
    pub(super) fn is_exponential(&self) -> bool {
        self.family.kind == FamilyKind::ExponentialHistogram
    }

    /// Number of samples of one of its points with classic histograms.
    pub(super) const fn samples(&self) -> usize {
        if self.bounds.is_empty() {
            1
        } else {
            self.bounds.len() + 2
        }
    }
}

/// A name of a metric's samples.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sampled {
    Value,
    /// The bucket with this number.
    Bucket(usize),
    Sum,
    Count,
}

/// The labels that distinguish a metric's samples, in a message's encoding, once rather than per
/// series.
#[derive(Debug)]
pub(super) struct Names {
    /// Of what is one sample.
    pub(super) value: Vec<u8>,
    pub(super) bucket: Vec<u8>,
    pub(super) sum: Vec<u8>,
    pub(super) count: Vec<u8>,
    pub(super) bounds: Vec<Vec<u8>>,
}

impl Names {
    /// Those of a metric whose points are one sample each, or of one whose points are `numbers`; `label` encodes.
    pub(super) fn new(metric: &Metric, numbers: bool, mut label: impl FnMut(&str, &str) -> Vec<u8>) -> Self {
        let mut named = |of_numbers: bool, suffix: &str| {
            if of_numbers == numbers {
                label(NAME, &format!("{}{suffix}", metric.name))
            } else {
                Vec::new()
            }
        };
        let value = named(false, "");
        let [bucket, sum, count] = ["_bucket", "_sum", "_count"].map(|suffix| named(true, suffix));
        let bounds = metric.bounds.iter().filter(|_| numbers);
        Self {
            value,
            bucket,
            sum,
            count,
            bounds: bounds.map(|bound| label(BOUND, bound)).collect(),
        }
    }

    /// The name of a sample, and its bound, if it has one.
    pub(super) fn of(&self, sampled: Sampled) -> (&[u8], &[u8]) {
        match sampled {
            Sampled::Value => (&self.value, &[]),
            Sampled::Bucket(number) => (&self.bucket, &self.bounds[number]),
            Sampled::Sum => (&self.sum, &[]),
            Sampled::Count => (&self.count, &[]),
        }
    }
}

/// The samples of a point as series of numbers, each by its name and the bits of its value.
pub(super) fn each_sample(metric: &Metric, value: &Value<'_>, mut each: impl FnMut(Sampled, u64)) {
    match value {
        Value::Number(number) => each(Sampled::Value, number.to_bits()),
        Value::Zero => {}
        Value::Ended if metric.bounds.is_empty() => each(Sampled::Value, STALE_MARKER),
        Value::Ended => {
            for number in 0..metric.bounds.len() {
                each(Sampled::Bucket(number), STALE_MARKER);
            }
            each(Sampled::Sum, STALE_MARKER);
            each(Sampled::Count, STALE_MARKER);
        }
        Value::Histogram(point) => {
            let mut count = 0;
            let counts = point.buckets.explicit().into_iter();
            for (number, in_bucket) in counts.take(metric.bounds.len()).enumerate() {
                count += in_bucket;
                each(Sampled::Bucket(number), (count as f64).to_bits());
            }
            each(Sampled::Sum, point.sum.to_bits());
            each(Sampled::Count, (count as f64).to_bits());
        }
    }
}

pub(super) fn milliseconds(at: Timestamp) -> u64 {
    at.as_nanos() / 1_000_000
}
