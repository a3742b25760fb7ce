//! Snapshots as text, chunk by chunk (Prometheus exposition formats, "Text-based format", version 0.0.4).

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use flowtap_pipeline::series::push_label;
use flowtap_pipeline::{Family, FamilyKind, HistogramPoint, Points, Snapshot, SumPoint};

use crate::naming::prometheus_name;

/// A chunk is handed out once it is this long.
const CHUNK_BYTES: usize = 64 * 1024;

/// An iterator over the chunks of one scrape.
#[derive(Debug)]
pub(super) struct Exposition {
    namespace: String,
    snapshots: Vec<Arc<Snapshot>>,
    /// `pipeline="..."` by snapshot; empty if there is but one.
    pipelines: Vec<String>,
    /// Every family once, as (family, its places in the snapshots).
    families: Vec<(&'static Family, Vec<(usize, usize)>)>,
    cursor: Cursor,
}

/// Where the next chunk begins.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    family: usize,
    place: usize,
    point: usize,
}

impl Exposition {
    pub(super) fn new(namespace: &str, snapshots: Vec<Arc<Snapshot>>) -> Self {
        let label = |snapshot: &Arc<Snapshot>| {
            let mut label = String::new();
            if snapshots.len() > 1 {
                push_label(&mut label, "pipeline", &snapshot.pipeline);
            }
            label
        };
        let pipelines = snapshots.iter().map(label).collect();
        let mut families: Vec<(&'static Family, Vec<(usize, usize)>)> = Vec::new();
        for (number, snapshot) in snapshots.iter().enumerate() {
            for (index, family) in snapshot.families.iter().enumerate() {
                if family.points.is_empty() {
                    continue;
                }
                match families
                    .iter_mut()
                    .find(|(known, _)| known.name == family.family.name)
                {
                    Some((_, places)) => places.push((number, index)),
                    None => families.push((family.family, vec![(number, index)])),
                }
            }
        }
        Self {
            namespace: namespace.to_owned(),
            snapshots,
            pipelines,
            families,
            cursor: Cursor::default(),
        }
    }

    /// Appends the next line or lines; false at the end.
    fn step(&mut self, out: &mut String) -> bool {
        let Some((family, places)) = self.families.get(self.cursor.family) else {
            return false;
        };
        let Some(&(number, index)) = places.get(self.cursor.place) else {
            self.cursor = Cursor {
                family: self.cursor.family + 1,
                ..Cursor::default()
            };
            return true;
        };
        let name = prometheus_name(&self.namespace, family);
        if self.cursor.place == 0 && self.cursor.point == 0 {
            push_head(out, &name, family);
        }
        let points = &self.snapshots[number].families[index].points;
        let pipeline = &self.pipelines[number];
        let first = self.cursor.point;
        while self.cursor.point < points.len() && out.len() < CHUNK_BYTES {
            match points {
                Points::Sums(points) => push_sum(out, &name, pipeline, &points[self.cursor.point]),
                Points::Histograms(points) => {
                    push_histogram(out, &name, pipeline, family, &points[self.cursor.point]);
                }
            }
            self.cursor.point += 1;
        }
        if self.cursor.point == points.len() {
            self.cursor = Cursor {
                place: self.cursor.place + 1,
                point: 0,
                ..self.cursor
            };
        }
        debug_assert!(self.cursor.point != first || first == 0, "a step goes on");
        true
    }
}

impl Iterator for Exposition {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = String::with_capacity(CHUNK_BYTES + 1024);
        while out.len() < CHUNK_BYTES && self.step(&mut out) {}
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}

fn push_head(out: &mut String, name: &str, family: &Family) {
    let kind = match family.kind {
        FamilyKind::Counter => "counter",
        FamilyKind::Gauge => "gauge",
        FamilyKind::Histogram(_) => "histogram",
    };
    let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
    // Writing to a String does not fail.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// `name{labels}`, with up to two label lists and one label more.
fn push_name(out: &mut String, name: &str, labels: [&str; 3]) {
    out.push_str(name);
    let mut open = '{';
    for labels in labels.into_iter().filter(|labels| !labels.is_empty()) {
        out.push(open);
        out.push_str(labels);
        open = ',';
    }
    if open == ',' {
        out.push('}');
    }
    out.push(' ');
}

fn push_sum(out: &mut String, name: &str, pipeline: &str, point: &SumPoint) {
    push_name(out, name, [pipeline, &point.series.labels, ""]);
    push_integer(out, point.total);
}

fn push_histogram(out: &mut String, name: &str, pipeline: &str, family: &Family, point: &HistogramPoint) {
    let FamilyKind::Histogram(bounds) = family.kind else {
        return;
    };
    let labels = &point.series.labels;
    let (bucket, mut le, mut count) = (format!("{name}_bucket"), String::new(), 0);
    for (number, in_bucket) in point.buckets.iter().enumerate() {
        count += in_bucket;
        le.clear();
        let _ = match bounds.get(number) {
            Some(bound) => write!(le, "le=\"{bound}\""),
            None => write!(le, "le=\"+Inf\""),
        };
        push_name(out, &bucket, [pipeline, labels, &le]);
        push_integer(out, count);
    }
    push_name(out, &format!("{name}_sum"), [pipeline, labels, ""]);
    let _ = writeln!(out, "{}", point.sum);
    push_name(out, &format!("{name}_count"), [pipeline, labels, ""]);
    push_integer(out, count);
}

fn push_integer(out: &mut String, value: u64) {
    out.push_str(itoa::Buffer::new().format(value));
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{many, snapshot};

    fn text(snapshots: Vec<Arc<Snapshot>>) -> String {
        Exposition::new("primus_lens", snapshots)
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
        assert!(rendered.contains("primus_lens_network_bytes{pipeline=\"flows\",raddr=\"192.0.2.7\"} 1\n"));
        assert!(rendered.contains("primus_lens_network_bytes{pipeline=\"other\",raddr=\"192.0.2.7\"} 2\n"));
    }

    #[test]
    fn a_long_scrape_comes_in_chunks_and_every_series_once() {
        let chunks: Vec<_> = Exposition::new("x", vec![Arc::new(many(20_000))]).collect();
        assert!(chunks.len() > 5, "{} chunks", chunks.len());
        assert!(chunks.iter().all(|chunk| chunk.len() < CHUNK_BYTES + 1024));
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
}
