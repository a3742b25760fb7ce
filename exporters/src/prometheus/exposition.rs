//! Snapshots as a scraper takes them, chunk by chunk (Prometheus exposition formats, "Text-based format", version 0.0.4, and
//! "Protobuf format"; `OpenMetrics` 1.0.0).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flowtap_pipeline::labels::push_label;
use flowtap_pipeline::{
    Family, FamilyKind, FamilySnapshot, HistogramPoint, LabelValue, Naming, Points, Resource, Series,
    Snapshot, SumPoint, Timestamp, ValuePoint,
};

use super::config::{Config, CreatedTimestamps};
use super::negotiate::Format;
use super::protobuf::{self, Metric, Value};
use crate::naming::{pipeline_label, prometheus_name};

/// A chunk is handed out once it is this long.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// The label name of an attribute: what a label can't have becomes `_`, several of them one.
fn label_name(attribute: &str) -> String {
    let mut name = String::with_capacity(attribute.len() + 4);
    if attribute.starts_with(|first: char| first.is_ascii_digit()) {
        name.push_str("key_");
    }
    for c in attribute.chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.ends_with('_') {
            name.push('_');
        }
    }
    name
}

/// In place of a pipeline's name, of the snapshot that [`target_info`] returns.
const TARGET: &str = "target_info";

/// A snapshot of one series, `target_info`, whose labels are the resource's attributes (OpenTelemetry specification, "Prometheus
/// and `OpenMetrics` Compatibility", "Resource Attributes"), but for those that have the name of one of `labels`, which each series
/// has: a name twice breaks the whole scrape.
pub(super) fn target_info(resource: &Resource, labels: &BTreeMap<String, String>) -> Arc<Snapshot> {
    static FAMILY: Family = Family {
        name: "target.info",
        naming: Naming::Otel,
        help: "Attributes of this flowtap and its node.",
        unit: "",
        kind: FamilyKind::Gauge,
    };
    let start = Timestamp::default();
    // Attributes whose names become the same share the label, as the specification has it.
    let mut values: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in resource.attributes() {
        values.entry(label_name(name)).or_default().push(value);
    }
    let values: Vec<_> = values
        .into_iter()
        .filter(|(name, _)| !labels.contains_key(name))
        .map(|(name, values)| (name, values.join(";")))
        .collect();
    let pairs = values
        .iter()
        .map(|(name, value)| (name.as_str(), LabelValue::Text(value)));
    let point = SumPoint {
        series: Series::new(&FAMILY, pairs, None, start),
        total: 1,
        delta: 0,
        updated: start,
    };
    Arc::new(Snapshot {
        pipeline: TARGET.into(),
        at: start,
        window: Duration::ZERO,
        last: false,
        replaced: false,
        families: vec![FamilySnapshot {
            family: &FAMILY,
            points: Points::Sums(vec![point]),
            ended: Vec::new(),
        }],
    })
}

/// Settings of the config that apply to every line.
#[derive(Clone, Debug)]
pub(super) struct Style {
    namespace: String,
    /// Labels of every series.
    labels: Vec<(String, String)>,
    timestamps: bool,
    created: CreatedTimestamps,
    /// Whether series have a label with their pipeline's name.
    several_pipelines: bool,
}

impl Style {
    pub(super) fn new(config: &Config, several_pipelines: bool) -> Self {
        Self {
            several_pipelines,
            namespace: config.namespace.clone(),
            labels: config.labels.clone().into_iter().collect(),
            timestamps: config.timestamps,
            created: config.created_timestamps,
        }
    }
}

/// A family, and where its points are.
#[derive(Debug)]
struct Entry {
    family: &'static Family,
    /// Name of its samples.
    name: String,
    /// `le="..."} ` of each bucket, if it has any.
    bounds: Vec<String>,
    /// Number of a snapshot, and of the family in it.
    places: Vec<(usize, usize)>,
}

/// An iterator over the chunks of one scrape.
#[derive(Debug)]
pub(super) struct Exposition {
    format: Format,
    created: bool,
    snapshots: Vec<Arc<Snapshot>>,
    common: Vec<Common>,
    entries: Vec<Entry>,
    cursor: Cursor,
    ended: bool,
}

/// Parts shared by all series of a snapshot.
#[derive(Debug)]
struct Common {
    /// Labels, as the format has them.
    labels: Vec<u8>,
    /// Text after every value of the text formats.
    behind: String,
    /// The time of every value, if it is exported.
    at: Option<Timestamp>,
}

impl Common {
    /// With the pipeline's name if there are several pipelines, and this is of one.
    fn new(style: &Style, format: Format, snapshot: &Snapshot) -> Self {
        let own = style.labels.iter().map(|(name, value)| (&**name, &**value));
        let naming = snapshot
            .families
            .first()
            .map_or(Naming::default(), |first| first.family.naming);
        let several = style.several_pipelines && !snapshot.is_telemetry() && &*snapshot.pipeline != TARGET;
        let pipeline = several.then_some((pipeline_label(naming), &*snapshot.pipeline));
        let (mut text, mut pairs) = (String::new(), Vec::new());
        for (name, value) in own.chain(pipeline) {
            if !text.is_empty() {
                text.push(',');
            }
            push_label(&mut text, name, value);
            protobuf::push_label(&mut pairs, name, value);
        }
        let at = (style.timestamps && &*snapshot.pipeline != TARGET).then_some(snapshot.at);
        Self {
            labels: match format {
                Format::Text | Format::OpenMetrics => text.into_bytes(),
                Format::Protobuf => pairs,
            },
            behind: at.map_or_else(String::new, |at| format!(" {}", time(format, at))),
            at,
        }
    }
}

/// Where the next chunk begins.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    entry: usize,
    place: usize,
    point: usize,
    /// Whether the family's head is written: a chunk may be full behind it.
    headed: bool,
}

impl Exposition {
    pub(super) fn new(style: &Style, format: Format, snapshots: Vec<Arc<Snapshot>>) -> Self {
        let common = |snapshot: &Arc<Snapshot>| Common::new(style, format, snapshot);
        let common = snapshots.iter().map(common).collect();
        let mut entries: Vec<Entry> = Vec::new();
        for (i, snapshot) in snapshots.iter().enumerate() {
            for (index, family) in snapshot.families.iter().enumerate() {
                if family.points.is_empty() {
                    continue;
                }
                match entries
                    .iter_mut()
                    .find(|known| known.family.name == family.family.name)
                {
                    Some(known) => known.places.push((i, index)),
                    None => entries.push(Entry {
                        family: family.family,
                        name: prometheus_name(&style.namespace, family.family),
                        bounds: bounds(format, family.family),
                        places: vec![(i, index)],
                    }),
                }
            }
        }
        Self {
            format,
            created: match format {
                Format::Text => false,
                Format::OpenMetrics => style.created == CreatedTimestamps::All,
                Format::Protobuf => style.created != CreatedTimestamps::None,
            },
            snapshots,
            common,
            entries,
            cursor: Cursor::default(),
            ended: false,
        }
    }

    /// Appends the next series; false at the end.
    fn step(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(entry) = self.entries.get(self.cursor.entry) else {
            if self.format == Format::OpenMetrics && !self.ended {
                out.extend_from_slice(b"# EOF\n");
            }
            self.ended = true;
            return false;
        };
        let Some(&(i, index)) = entry.places.get(self.cursor.place) else {
            self.cursor = Cursor {
                entry: self.cursor.entry + 1,
                ..Cursor::default()
            };
            return true;
        };
        if !self.cursor.headed {
            self.cursor.headed = true;
            match self.format {
                Format::Text | Format::OpenMetrics => push_head(out, self.format, entry),
                Format::Protobuf => {
                    protobuf::push_head(out, &entry.name, entry.family, self.metrics_len(entry));
                }
            }
        }
        let points = &self.snapshots[i].families[index].points;
        let common = &self.common[i];
        let first = self.cursor.point;
        self.cursor.point += match self.format {
            Format::Text | Format::OpenMetrics => self.lines(entry, common).push(out, points, first),
            Format::Protobuf => {
                let mut pushed = 0;
                for metric in self.metrics(entry, common, points, first) {
                    if out.len() >= CHUNK_BYTES {
                        break;
                    }
                    metric.push(out);
                    pushed += 1;
                }
                pushed
            }
        };
        if self.cursor.point == points.len() {
            self.cursor = Cursor {
                place: self.cursor.place + 1,
                point: 0,
                ..self.cursor
            };
        }
        true
    }

    fn lines<'a>(&self, entry: &'a Entry, common: &'a Common) -> Lines<'a> {
        Lines {
            entry,
            common: &common.labels,
            behind: &common.behind,
            // Of a type that has them: a counter by its full name, a histogram.
            created: self.created && type_of(self.format, entry) != "unknown",
        }
    }

    /// The points of a family in a snapshot, from `first` on.
    fn metrics<'a>(
        &'a self,
        entry: &'a Entry,
        common: &'a Common,
        points: &'a Points,
        first: usize,
    ) -> impl Iterator<Item = Metric<'a>> {
        (first..points.len()).map(move |i| {
            points.prefetch(i);
            let (series, value) = match points {
                Points::Sums(points) => (&points[i].series, Value::Number(points[i].total as f64)),
                Points::Values(points) => (&points[i].series, Value::Number(points[i].value)),
                Points::Histograms(points) => (&points[i].series, Value::Histogram(&points[i])),
            };
            Metric {
                family: entry.family,
                common: &common.labels,
                series,
                value,
                at: common.at,
                created: self.created,
            }
        })
    }

    /// Bytes of the metrics of a family.
    fn metrics_len(&self, entry: &Entry) -> usize {
        let places = entry.places.iter().map(|&(i, index)| {
            let points = &self.snapshots[i].families[index].points;
            let metrics = self.metrics(entry, &self.common[i], points, 0);
            metrics.map(|metric| metric.len()).sum::<usize>()
        });
        places.sum()
    }
}

impl Iterator for Exposition {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = Vec::with_capacity(CHUNK_BYTES + 4096);
        while out.len() < CHUNK_BYTES && self.step(&mut out) {}
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}

/// In milliseconds, or in seconds.
fn time(format: Format, at: Timestamp) -> String {
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

fn bounds(format: Format, family: &Family) -> Vec<String> {
    let FamilyKind::Histogram(bounds) = family.kind else {
        return Vec::new();
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

fn type_of(format: Format, entry: &Entry) -> &'static str {
    match entry.family.kind {
        FamilyKind::Counter if format == Format::OpenMetrics && !entry.name.ends_with("_total") => "unknown",
        FamilyKind::Counter => "counter",
        FamilyKind::Gauge | FamilyKind::UpDownCounter => "gauge",
        FamilyKind::Histogram(_) => "histogram",
    }
}

fn push_head(out: &mut Vec<u8>, format: Format, entry: &Entry) {
    let kind = type_of(format, entry);
    let mut help = entry.family.help.replace('\\', "\\\\").replace('\n', "\\n");
    let mut name = entry.name.as_str();
    let mut unit = None;
    if format == Format::OpenMetrics {
        help = help.replace('"', "\\\"");
        // There a family's name lacks the suffix of its samples.
        name = name.strip_suffix("_total").unwrap_or(name);
        unit = ["bytes", "seconds"]
            .into_iter()
            .find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')));
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
struct Lines<'a> {
    entry: &'a Entry,
    common: &'a [u8],
    behind: &'a str,
    created: bool,
}

impl Lines<'_> {
    /// Appends points from `first` on, until the chunk is full; how many.
    fn push(&self, out: &mut Vec<u8>, points: &Points, first: usize) -> usize {
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
        for (i, (in_bucket, bound)) in point.buckets.iter().zip(&self.entry.bounds).enumerate() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{many, otel_snapshot, snapshot};

    #[test]
    fn the_target_has_each_label_once_under_a_name_that_a_label_can_have() {
        let attributes = [
            ("a.b", "1"),
            ("a_b", "2"),
            ("9x", "3"),
            ("\u{fc}.x", "4"),
            ("host.name", "node1"),
            ("zone", "q"),
        ];
        let owned = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let labels = BTreeMap::from([("zone".to_owned(), "z".to_owned())]);
        let target = target_info(&Resource::new(owned, "node1"), &labels);
        let config = Config {
            labels,
            ..Config::default()
        };
        let rendered = written(&config, Format::Text, vec![target]);
        let line = rendered.lines().find(|line| !line.starts_with('#')).unwrap();
        assert_eq!(
            line,
            r#"target_info{zone="z",_x="4",a_b="1;2",host_name="node1",key_9x="3"} 1"#
        );
    }

    fn text(snapshots: Vec<Arc<Snapshot>>) -> String {
        written(&Config::default(), Format::Text, snapshots)
    }

    fn written(config: &Config, format: Format, snapshots: Vec<Arc<Snapshot>>) -> String {
        Exposition::new(&Style::new(config, snapshots.len() > 1), format, snapshots)
            .map(|chunk| String::from_utf8(chunk.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn a_snapshot_is_rendered_line_by_line_with_cumulated_buckets() {
        let rendered = text(vec![Arc::new(snapshot(42))]);
        let expected = "\
# HELP primus_lens_network_bytes Bytes of a test.
# TYPE primus_lens_network_bytes counter
primus_lens_network_bytes{raddr=\"192.0.2.7\"} 42
# HELP primus_lens_network_rtt Times of a test.
# TYPE primus_lens_network_rtt histogram
primus_lens_network_rtt_bucket{raddr=\"a\\\"b\\\\c\\nd\",le=\"0.5\"} 1
primus_lens_network_rtt_bucket{raddr=\"a\\\"b\\\\c\\nd\",le=\"1\"} 3
";
        assert!(rendered.starts_with(expected), "{rendered}");
        assert!(rendered.contains("le=\"+Inf\"} 7\n"), "{rendered}");
        assert!(rendered.ends_with("_sum{raddr=\"a\\\"b\\\\c\\nd\"} 12.5\nprimus_lens_network_rtt_count{raddr=\"a\\\"b\\\\c\\nd\"} 7\n"), "{rendered}");
    }

    #[test]
    fn series_of_two_pipelines_are_told_apart_under_one_head() {
        let other = Snapshot {
            pipeline: "other".into(),
            ..snapshot(2)
        };
        let rendered = text(vec![Arc::new(snapshot(1)), Arc::new(other)]);
        assert_eq!(
            rendered
                .matches("# TYPE primus_lens_network_bytes counter")
                .count(),
            1
        );
        assert!(rendered.contains("primus_lens_network_bytes{pipeline=\"metrics\",raddr=\"192.0.2.7\"} 1\n"));
        assert!(rendered.contains("primus_lens_network_bytes{pipeline=\"other\",raddr=\"192.0.2.7\"} 2\n"));
    }

    #[test]
    fn a_head_is_written_once_wherever_a_chunk_ends() {
        // Of so many lengths of the first family, one fills a chunk with the head of the second.
        for series in 1200..1900 {
            for format in [Format::Text, Format::Protobuf] {
                let style = Style::new(&Config::default(), false);
                let families = Exposition::new(
                    &style,
                    format,
                    vec![Arc::new(many(series)), Arc::new(snapshot(1))],
                );
                let bytes = families.collect::<Vec<_>>().concat();
                let help = b"Times of a test.";
                let heads = bytes.windows(help.len()).filter(|bytes| bytes == help);
                assert_eq!(heads.count(), 1, "{series} series, {format:?}");
            }
        }
    }

    #[test]
    fn a_long_scrape_comes_in_chunks_and_every_series_once() {
        let config = Config {
            namespace: "x".to_owned(),
            ..Config::default()
        };
        let chunks: Vec<_> = Exposition::new(
            &Style::new(&config, false),
            Format::Text,
            vec![Arc::new(many(20_000))],
        )
        .collect();
        assert!(chunks.len() > 5, "{} chunks", chunks.len());
        assert!(chunks.iter().all(|chunk| chunk.len() < CHUNK_BYTES + 4096));
        let text: String = chunks
            .iter()
            .map(|chunk| str::from_utf8(chunk).unwrap())
            .collect();
        assert_eq!(
            text.lines()
                .filter(|line| line.starts_with("x_network_bytes{"))
                .count(),
            20_000
        );
        assert_eq!(text.lines().filter(|line| line.starts_with('#')).count(), 2);
    }

    #[test]
    fn openmetrics_keeps_names_tells_no_counter_without_total_and_ends() {
        let rendered = written(
            &Config::default(),
            Format::OpenMetrics,
            vec![Arc::new(snapshot(42))],
        );
        let expected = "\
# HELP primus_lens_network_bytes Bytes of a test.
# TYPE primus_lens_network_bytes unknown
# UNIT primus_lens_network_bytes bytes
primus_lens_network_bytes{raddr=\"192.0.2.7\"} 42
# HELP primus_lens_network_rtt Times of a test.
# TYPE primus_lens_network_rtt histogram
primus_lens_network_rtt_bucket{raddr=\"a\\\"b\\\\c\\nd\",le=\"0.5\"} 1
primus_lens_network_rtt_bucket{raddr=\"a\\\"b\\\\c\\nd\",le=\"1.0\"} 3
";
        assert!(rendered.starts_with(expected), "{rendered}");
        assert!(rendered.ends_with("} 7\n# EOF\n"), "{rendered}");
        let empty = written(&Config::default(), Format::OpenMetrics, Vec::new());
        assert_eq!(empty, "# EOF\n");
    }

    #[test]
    fn openmetrics_tells_units_and_creation_where_names_allow_it() {
        let config = Config {
            created_timestamps: CreatedTimestamps::All,
            ..Config::default()
        };
        let rendered = written(&config, Format::OpenMetrics, vec![Arc::new(otel_snapshot(42))]);
        let expected = "\
# HELP flowtap_io_bytes Bytes of a test.
# TYPE flowtap_io_bytes counter
# UNIT flowtap_io_bytes bytes
flowtap_io_bytes_total{raddr=\"192.0.2.7\"} 42
flowtap_io_bytes_created{raddr=\"192.0.2.7\"} 0.000
# EOF
";
        assert_eq!(rendered, expected);
        // Of no use to a scraper of the text format.
        assert!(!written(&config, Format::Text, vec![Arc::new(snapshot(1))]).contains("_created"));
    }

    #[test]
    fn labels_and_times_of_the_config_are_on_every_line() {
        let config = Config {
            labels: [("cluster".to_owned(), "b\"lue".to_owned())].into(),
            timestamps: true,
            ..Config::default()
        };
        let at = Snapshot {
            at: Timestamp::from_nanos(1_700_000_000_123_456_789),
            ..snapshot(42)
        };
        let rendered = written(&config, Format::Text, vec![Arc::new(at.clone())]);
        for line in rendered.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.contains("{cluster=\"b\\\"lue\",raddr="), "{line}");
            assert!(line.ends_with(" 1700000000123"), "{line}");
        }
        let rendered = written(&config, Format::OpenMetrics, vec![Arc::new(at)]);
        assert!(rendered.contains("} 42 1700000000.123\n"), "{rendered}");
    }

    #[test]
    fn bounds_are_canonical() {
        for (bound, text) in [
            (50.0, "50.0"),
            (10_000.0, "10000.0"),
            (0.000_05, "5e-05"),
            (0.0001, "0.0001"),
            (0.25, "0.25"),
        ] {
            assert_eq!(canonical(bound), text);
        }
    }
}
