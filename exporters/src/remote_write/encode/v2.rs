//! `io.prometheus.write.v2.Request` (`prometheus/prompb/io/prometheus/write/v2/types.proto`), of remote write 2.0. Field numbers
//! stand beside the fields.
//!
//! Every text occurs in it once and is referenced by its index, and a histogram can be one sample
//! with its own buckets ("native histogram with custom buckets") rather than 19: together that is a
//! tenth of the size of 1.0.

use std::hash::BuildHasher;
use std::ops::Range;

use flowtap_pipeline::FamilyKind;
use flowtap_pipeline::labels::push_label_name;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::labels::{Encoded, Labels, with_text};
use super::native::{Layout, push_histogram};
use super::sample::{Metric, Names, Point, Value, each_sample, milliseconds};
use crate::naming::unit_of;
use crate::wire::{
    FIXED64_BYTES, begin, len_delimited, push_bytes, push_fixed64, push_packed, push_varint, varint_len,
};

/// A message that is being written.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) native_histograms: bool,
    symbols: Symbols,
    /// Encoded `TimeSeries`.
    series: Vec<u8>,
    /// References of metrics, by their number; of those that have come in this request.
    metrics: Vec<Option<References>>,
    /// Bounds of every histogram of a metric, by its index.
    bounds: Vec<Vec<u8>>,
    /// References of a series' own labels.
    own: Encoded,
    /// A series that is being written: its labels, its samples, and one of these.
    refs: Vec<u8>,
    samples: Vec<u8>,
    sample: Vec<u8>,
}

/// A metric's texts in one request, encoded.
#[derive(Debug)]
struct References {
    names: Names,
    /// `TimeSeries.metadata` 5 (`Metadata`: type 1, `help_ref` 3, `unit_ref` 4).
    metadata: Vec<u8>,
}

impl References {
    fn new(metric: &Metric, symbols: &mut Symbols, native_histograms: bool) -> Self {
        let numbers = !native_histograms && !metric.bounds.is_empty();
        let names = Names::new(metric, numbers, |name, value| {
            let mut out = Vec::new();
            push_packed(&mut out, symbols.number(name.as_bytes()).into());
            push_packed(&mut out, symbols.number(value.as_bytes()).into());
            out
        });
        let mut content = Vec::new();
        let kind = match metric.family.kind {
            FamilyKind::Counter => 1,
            FamilyKind::Gauge | FamilyKind::UpDownCounter => 2,
            FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => 3,
        };
        push_varint(&mut content, 1, kind);
        push_varint(
            &mut content,
            3,
            symbols.number(metric.family.help.as_bytes()).into(),
        );
        if let Some(unit) = unit_of(&metric.name) {
            push_varint(&mut content, 4, symbols.number(unit.as_bytes()).into());
        }
        let mut metadata = Vec::new();
        push_bytes(&mut metadata, 5, &content);
        Self { names, metadata }
    }
}

impl Request {
    pub(super) fn new(native_histograms: bool) -> Self {
        Self {
            native_histograms,
            symbols: Symbols::new(),
            series: Vec::new(),
            metrics: Vec::new(),
            bounds: Vec::new(),
            own: Encoded::default(),
            refs: Vec::new(),
            samples: Vec::new(),
            sample: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.series.clear();
        self.metrics.fill_with(|| None);
    }

    /// Symbols 4, timeseries 5.
    pub(super) fn bytes(&mut self) -> &[u8] {
        self.symbols.fields.append(&mut self.series);
        &self.symbols.fields
    }

    pub(super) fn push(&mut self, number: usize, metric: &Metric, labels: &Labels<'_>, point: &Point<'_>) {
        if number == self.metrics.len() {
            self.metrics.push(None);
            self.bounds.push(custom_values(metric));
        }
        let native = self.native_histograms;
        let References { names, metadata } =
            self.metrics[number].get_or_insert_with(|| References::new(metric, &mut self.symbols, native));
        let symbols = &mut self.symbols;
        self.own.set(labels, |out, position, label| {
            push_packed(out, symbols.name(position, label.name).into());
            let value = with_text(label.value, |value| symbols.value(position, value));
            push_packed(out, value.into());
        });
        let at = milliseconds(point.at);
        let start = match metric.family.kind {
            FamilyKind::Gauge | FamilyKind::UpDownCounter => None,
            FamilyKind::Counter | FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => {
                Some(milliseconds(point.series.start()))
            }
        };
        let Encoded {
            before_name,
            before_bound,
            behind,
        } = &self.own;
        let (out, refs, samples) = (&mut self.series, &mut self.refs, &mut self.samples);
        if metric.is_exponential() || native && !metric.bounds.is_empty() {
            join(refs, [before_name, &names.value, before_bound, &[], behind]);
            samples.clear();
            let layout = if metric.is_exponential() {
                Layout::Exponential
            } else {
                Layout::Custom(&self.bounds[number])
            };
            let content = &mut self.sample;
            let zero = point.zero_at.map(|at| (&Value::Zero, at));
            for (value, at) in zero.into_iter().chain([(&point.value, at)]) {
                push_histogram(content, value, layout, at, start);
                push_bytes(samples, 3, content);
            }
            push_series(out, refs, samples, metadata);
            return;
        }
        each_sample(metric, &point.value, |sampled, value| {
            let (name, bound) = names.of(sampled);
            join(refs, [before_name, name, before_bound, bound, behind]);
            samples.clear();
            let zero = point.zero_at.map(|at| (0, at));
            for (value, at) in zero.into_iter().chain([(value, at)]) {
                // `TimeSeries.samples` 2 (`Sample`: value 1, timestamp 2, `start_timestamp` 3).
                let start_len = start.map_or(0, varint_len);
                begin(samples, 2, FIXED64_BYTES + varint_len(at) + start_len);
                push_fixed64(samples, 1, value);
                push_varint(samples, 2, at);
                if let Some(start) = start {
                    push_varint(samples, 3, start);
                }
            }
            push_series(out, refs, samples, metadata);
        });
    }
}

fn join(out: &mut Vec<u8>, parts: [&[u8]; 5]) {
    out.clear();
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// `Request.timeseries` 5. `TimeSeries`: `labels_refs` 1, samples 2, histograms 3, metadata 5. `samples` are of either kind, encoded.
fn push_series(out: &mut Vec<u8>, refs: &[u8], samples: &[u8], metadata: &[u8]) {
    begin(out, 5, len_delimited(refs.len()) + samples.len() + metadata.len());
    push_bytes(out, 1, refs);
    out.extend_from_slice(samples);
    out.extend_from_slice(metadata);
}

/// `Histogram.custom_values` 16: the upper bounds of all buckets but the last.
fn custom_values(metric: &Metric) -> Vec<u8> {
    let mut out = Vec::new();
    if let FamilyKind::Histogram(bounds) = metric.family.kind {
        let packed: Vec<u8> = bounds.iter().flat_map(|bound| bound.to_le_bytes()).collect();
        push_bytes(&mut out, 16, &packed);
    }
    out
}

/// The texts of a request, each once; the first is the empty one.
#[derive(Debug)]
struct Symbols {
    /// `Request.symbols` 4.
    fields: Vec<u8>,
    count: u32,
    known: HashTable<Symbol>,
    hasher: FixedState,
    /// The last name and value at each position: nearly every series has the same names, and some values, as the one before it.
    recent: Vec<[Symbol; 2]>,
    /// A name as Prometheus has it.
    mapped: Vec<u8>,
}

/// A text by its place in the fields.
#[derive(Clone, Debug, Default)]
struct Symbol {
    text: Range<usize>,
    number: u32,
}

impl Symbols {
    fn new() -> Self {
        let mut symbols = Self {
            fields: Vec::new(),
            count: 0,
            known: HashTable::new(),
            hasher: FixedState::default(),
            recent: Vec::new(),
            mapped: Vec::new(),
        };
        symbols.clear();
        symbols
    }

    fn clear(&mut self) {
        self.fields.clear();
        self.known.clear();
        self.recent.clear();
        self.count = 0;
        self.number(b"");
    }

    /// The number of an attribute's name as Prometheus has it.
    fn name(&mut self, position: usize, name: &[u8]) -> u32 {
        if let Some(number) = self.seen(position, 0, name) {
            return number;
        }
        let mut mapped = std::mem::take(&mut self.mapped);
        mapped.clear();
        push_label_name(&mut mapped, name);
        let number = self.see(position, 0, &mapped);
        self.mapped = mapped;
        number
    }

    /// The number of a label's value.
    fn value(&mut self, position: usize, value: &[u8]) -> u32 {
        self.seen(position, 1, value)
            .unwrap_or_else(|| self.see(position, 1, value))
    }

    fn seen(&self, position: usize, which: usize, text: &[u8]) -> Option<u32> {
        let symbol = &self.recent.get(position)?[which];
        (self.fields[symbol.text.clone()] == *text).then_some(symbol.number)
    }

    fn see(&mut self, position: usize, which: usize, text: &[u8]) -> u32 {
        let symbol = self.symbol(text);
        let number = symbol.number;
        if self.recent.len() <= position {
            self.recent.resize_with(position + 1, Default::default);
        }
        self.recent[position][which] = symbol;
        number
    }

    fn number(&mut self, text: &[u8]) -> u32 {
        self.symbol(text).number
    }

    fn symbol(&mut self, text: &[u8]) -> Symbol {
        let hash = self.hasher.hash_one(text);
        let fields = &mut self.fields;
        if let Some(known) = self
            .known
            .find(hash, |symbol| fields[symbol.text.clone()] == *text)
        {
            return known.clone();
        }
        push_bytes(fields, 4, text);
        let symbol = Symbol {
            text: fields.len() - text.len()..fields.len(),
            number: self.count,
        };
        self.known.insert_unique(hash, symbol.clone(), |symbol| {
            self.hasher.hash_one(&fields[symbol.text.clone()])
        });
        self.count += 1;
        symbol
    }
}
