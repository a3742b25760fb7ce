//! Snapshots as a scraper takes them, chunk by chunk (Prometheus exposition formats, "Text-based format", version 0.0.4, and
//! "Protobuf format"; `OpenMetrics` 1.0.0).

use std::sync::Arc;

use bytes::Bytes;
use flowtap_pipeline::labels::push_label;
use flowtap_pipeline::{Naming, Points, Snapshot, Timestamp};

use super::config::{Config, CreatedTimestamps};
use super::entry::{CHUNK_BYTES, Entry, Place};
use super::negotiate::Format;
use super::protobuf::{self, Metric, Value};
use super::target_info::TARGET;
use super::text::{Lines, bounds, push_head, time, type_of};
use crate::naming::{pipeline_label, prometheus_name};

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
    /// Whether the family's head is written: a chunk may be full after it.
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
                let place = Place {
                    snapshot: i,
                    index,
                    family: family.family,
                    bounds: bounds(format, family.family),
                };
                match entries
                    .iter_mut()
                    .find(|known| known.family.name == family.family.name)
                {
                    Some(known) => known.places.push(place),
                    None => entries.push(Entry {
                        family: family.family,
                        name: prometheus_name(&style.namespace, family.family),
                        places: vec![place],
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
        let Some(place) = entry.places.get(self.cursor.place) else {
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
        let points = &self.snapshots[place.snapshot].families[place.index].points;
        let first = self.cursor.point;
        self.cursor.point += match self.format {
            Format::Text | Format::OpenMetrics => self.lines(entry, place).push(out, points, first),
            Format::Protobuf => {
                let mut pushed = 0;
                for metric in self.metrics(place, first) {
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

    fn lines<'a>(&'a self, entry: &'a Entry, place: &'a Place) -> Lines<'a> {
        let common = &self.common[place.snapshot];
        Lines {
            entry,
            bounds: &place.bounds,
            common: &common.labels,
            behind: &common.behind,
            // Of a type that has them: a counter by its full name, a histogram.
            created: self.created && type_of(self.format, entry) != "unknown",
        }
    }

    /// The points of a family in a snapshot, from `first` on.
    fn metrics<'a>(&'a self, place: &'a Place, first: usize) -> impl Iterator<Item = Metric<'a>> {
        let points = &self.snapshots[place.snapshot].families[place.index].points;
        let common = &self.common[place.snapshot];
        (first..points.len()).map(move |i| {
            points.prefetch(i);
            let (series, value) = match points {
                Points::Sums(points) => (&points[i].series, Value::Number(points[i].total as f64)),
                Points::Values(points) => (&points[i].series, Value::Number(points[i].value)),
                Points::Histograms(points) => (&points[i].series, Value::Histogram(&points[i])),
            };
            Metric {
                family: place.family,
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
        let places = entry.places.iter();
        let metrics = places.flat_map(|place| self.metrics(place, 0));
        metrics.map(|metric| metric.len()).sum()
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

#[cfg(test)]
mod tests;
