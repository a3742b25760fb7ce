//! The labels of a series, sorted.

use flowtap_pipeline::{Pair, PairValue, Series};

use super::sample::{BOUND, NAME};

/// Labels of one series but for the metric's name and a bucket's bound. Used for one after the other, so that none allocates.
#[derive(Debug, Default)]
pub(super) struct Labels<'a>(Vec<Pair<'a>>);

impl<'a> Labels<'a> {
    /// Those of `series`, and `more`; the series' own count for more, as in Prometheus.
    pub(super) fn set(&mut self, series: &'a Series, more: impl Iterator<Item = (&'a str, &'a str)>) {
        let pairs = &mut self.0;
        pairs.clear();
        pairs.extend(series.pairs());
        for (name, value) in more {
            let name = name.as_bytes();
            if pairs.iter().all(|known| !exposed(known.name).eq(exposed(name))) {
                let value = PairValue::Text(value.as_bytes());
                pairs.push(Pair { name, value });
            }
        }
        // By bytes, as the specification has it: capitals come before `__name__`.
        pairs.sort_unstable_by(|a, b| exposed(a.name).cmp(exposed(b.name)));
    }

    /// In their order. An empty label is the same as none, and must not be sent.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair<'a>> {
        self.0.iter().filter(|pair| pair.value != PairValue::Text(b""))
    }
}

/// The labels of a series in a message's encoding, once for all its samples; in between come the name, and a bucket's bound.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub(super) before_name: Vec<u8>,
    pub(super) before_bound: Vec<u8>,
    pub(super) behind: Vec<u8>,
}

impl Encoded {
    /// Sets the labels to `labels`, each appended by `push`, which is given its position.
    pub(super) fn set(&mut self, labels: &Labels<'_>, mut push: impl FnMut(&mut Vec<u8>, usize, &Pair<'_>)) {
        self.before_name.clear();
        self.before_bound.clear();
        self.behind.clear();
        for (position, label) in labels.iter().enumerate() {
            let before = |other: &str| exposed(label.name).lt(other.bytes());
            let part = if before(NAME) {
                &mut self.before_name
            } else if before(BOUND) {
                &mut self.before_bound
            } else {
                &mut self.behind
            };
            push(part, position, label);
        }
    }
}

/// A name as Prometheus has it. One byte after the other: names differ in the first few.
fn exposed(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(|&byte| if byte == b'.' { b'_' } else { byte })
}

/// Hands a value to `to` as the text that it is in Prometheus.
pub(super) fn with_text<T>(value: PairValue<'_>, to: impl FnOnce(&[u8]) -> T) -> T {
    match value {
        PairValue::Text(text) => to(text),
        PairValue::Integer(number) => to(itoa::Buffer::new().format(number).as_bytes()),
    }
}
