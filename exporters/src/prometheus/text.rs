//! The lines of both text formats.

use std::io::Write as _;

use flowtap_pipeline::{
    Buckets, Family, FamilyKind, HistogramPoint, Points, Series, SumPoint, Timestamp, ValuePoint,
};

use super::entry::{CHUNK_BYTES, Entry};
use super::negotiate::Format;
use crate::naming::unit_of;

/// In milliseconds, or in seconds.
pub(super) fn time(format: Format, at: Timestamp) -> String {
    let millis = at.as_nanos() / 1_000_000;
    match format {
        Format::Text | Format::Protobuf => millis.to_string(),
        Format::OpenMetrics => format!("{}.{:03}", millis / 1_000, millis % 1_000),
    }
}

/// A bound as `OpenMetrics` wants it ("Canonical Numbers").
pub(crate) fn canonical(bound: f64) -> String {
    if bound != 0.0 && bound.abs() < 1e-4 {
        let text = format!("{bound:e}");
        match text.split_once("e-") {
            Some((mantissa, exponent)) => format!("{mantissa}e-{exponent:0>2}"),
            None => text,
        }
    } else {
        format!("{bound:?}")
    }
}

pub(super) fn bounds(format: Format, family: &Family) -> Vec<String> {
    let bounds: &[f64] = match family.kind {
        FamilyKind::Histogram(bounds) => bounds,
        // In text there is only the number of all values: exponential buckets are for protobuf.
        FamilyKind::ExponentialHistogram => &[],
        FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::UpDownCounter => return Vec::new(),
    };
    let bound = |bound: &f64| match format {
        Format::Text | Format::Protobuf => format!("le=\"{bound}\"}} "),
        Format::OpenMetrics => format!("le=\"{}\"}} ", canonical(*bound)),
    };
    bounds
        .iter()
        .map(bound)
        .chain(["le=\"+Inf\"} ".to_owned()])
        .collect()
}

pub(super) fn type_of(format: Format, entry: &Entry) -> &'static str {
    match entry.family.kind {
        FamilyKind::Counter if format == Format::OpenMetrics && !entry.name.ends_with("_total") => "unknown",
        FamilyKind::Counter => "counter",
        FamilyKind::Gauge | FamilyKind::UpDownCounter => "gauge",
        FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => "histogram",
    }
}

pub(super) fn push_head(out: &mut Vec<u8>, format: Format, entry: &Entry) {
    let kind = type_of(format, entry);
    let mut help = entry.family.help.replace('\\', "\\\\").replace('\n', "\\n");
    let mut name = entry.name.as_str();
    let mut unit = None;
    if format == Format::OpenMetrics {
        help = help.replace('"', "\\\"");
        // There a family's name lacks the suffix of its samples.
        name = name.strip_suffix("_total").unwrap_or(name);
        unit = unit_of(name);
    }
    // Writing to memory does not fail.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    if let Some(unit) = unit {
        let _ = writeln!(out, "# UNIT {name} {unit}");
    }
}

/// `name<suffix>{labels,`, or `name<suffix>{` without any: up to where one more label goes.
fn push_open(out: &mut Vec<u8>, name: &str, suffix: &str, labels: [&[u8]; 3]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(suffix.as_bytes());
    out.push(b'{');
    for labels in labels.into_iter().filter(|labels| !labels.is_empty()) {
        out.extend_from_slice(labels);
        out.push(b',');
    }
}

/// `name<suffix>{labels} `, without braces if there are none.
fn push_name(out: &mut Vec<u8>, name: &str, suffix: &str, labels: [&[u8]; 3]) {
    push_open(out, name, suffix, labels);
    if out.pop() == Some(b',') {
        out.push(b'}');
    }
    out.push(b' ');
}

/// Parts shared by the lines of a family in one snapshot.
pub(super) struct Lines<'a> {
    pub(super) entry: &'a Entry,
    pub(super) bounds: &'a [String],
    pub(super) common: &'a [u8],
    pub(super) behind: &'a str,
    pub(super) created: bool,
}

impl Lines<'_> {
    /// Appends points from `first` on, until the chunk is full; how many.
    pub(super) fn push(&self, out: &mut Vec<u8>, points: &Points, first: usize) -> usize {
        let mut i = first;
        while i < points.len() && out.len() < CHUNK_BYTES {
            points.prefetch(i);
            match points {
                Points::Sums(points) => self.push_sum(out, &points[i]),
                Points::Values(points) => self.push_value(out, &points[i]),
                Points::Histograms(points) => self.push_histogram(out, &points[i]),
            }
            i += 1;
        }
        i - first
    }

    fn push_sum(&self, out: &mut Vec<u8>, point: &SumPoint) {
        let [own, shared] = point.series.labels();
        push_name(out, &self.entry.name, "", [self.common, own, shared]);
        self.push_integer(out, point.total);
        self.push_created_of_counter(out, &point.series);
    }

    fn push_value(&self, out: &mut Vec<u8>, point: &ValuePoint) {
        let [own, shared] = point.series.labels();
        push_name(out, &self.entry.name, "", [self.common, own, shared]);
        let _ = writeln!(out, "{}{}", point.value, self.behind);
        self.push_created_of_counter(out, &point.series);
    }

    fn push_created_of_counter(&self, out: &mut Vec<u8>, series: &Series) {
        if self.created && self.entry.family.kind == FamilyKind::Counter {
            self.push_created(out, self.entry.name.trim_end_matches("_total"), series);
        }
    }

    fn push_histogram(&self, out: &mut Vec<u8>, point: &HistogramPoint) {
        let name = &self.entry.name;
        let [own, shared] = point.series.labels();
        let mut count = 0;
        // Most of a scrape is these lines, which are the same up to the bound.
        let begins = out.len();
        push_open(out, name, "_bucket", [self.common, own, shared]);
        let same = begins..out.len();
        let mut counts = point.buckets.explicit();
        if let Buckets::Exponential(buckets) = &point.buckets {
            counts[0] = buckets.count();
        }
        for (i, (in_bucket, bound)) in counts.iter().zip(self.bounds).enumerate() {
            if i > 0 {
                out.extend_from_within(same.clone());
            }
            count += in_bucket;
            out.extend_from_slice(bound.as_bytes());
            self.push_integer(out, count);
        }
        push_name(out, name, "_sum", [self.common, own, shared]);
        let _ = writeln!(out, "{}{}", point.sum, self.behind);
        push_name(out, name, "_count", [self.common, own, shared]);
        self.push_integer(out, count);
        if self.created {
            self.push_created(out, name, &point.series);
        }
    }

    fn push_created(&self, out: &mut Vec<u8>, name: &str, series: &Series) {
        let [own, shared] = series.labels();
        push_name(out, name, "_created", [self.common, own, shared]);
        let start = time(Format::OpenMetrics, series.start());
        let _ = writeln!(out, "{start}{}", self.behind);
    }

    fn push_integer(&self, out: &mut Vec<u8>, value: u64) {
        out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        out.extend_from_slice(self.behind.as_bytes());
        out.push(b'\n');
    }
}
