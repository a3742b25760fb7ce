//! Reading the Prometheus text format: just enough to add up samples by name and labels.

use std::collections::BTreeMap;

/// One sample line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// A scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exposition(pub(crate) Vec<Sample>);

impl Exposition {
    /// Reads sample lines; panics on what is none.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(parse_sample).collect())
    }

    /// Samples of `name` that have all of `labels`.
    pub(crate) fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            let has = |(key, value): &(&str, &str)| sample.labels.get(*key).is_some_and(|v| v == value);
            sample.name == name && labels.iter().all(has)
        })
    }

    /// Their sum. Counts of bytes stay far below 2^53, where a float is exact.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts are whole and positive"
    )]
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.select(name, labels).map(|sample| sample.value as u64).sum()
    }
}

fn parse_sample(line: &str) -> Sample {
    let expected = &format!("a sample, not: {line}");
    let (name_and_labels, value) = line.rsplit_once(' ').expect(expected);
    let (name, labels) = match name_and_labels.split_once('{') {
        Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}').expect(expected))),
        None => (name_and_labels, BTreeMap::new()),
    };
    Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().expect(expected),
    }
}

/// Label values of these tests hold no escapes; one that did would show as a test failure.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    text.split("\",")
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| pair.trim_end_matches('"').split_once("=\""))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
