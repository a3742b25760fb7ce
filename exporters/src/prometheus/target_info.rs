//! The series of an exporter that are there before any snapshot: `target_info` with the resource's attributes, and `flowtap_build_info`
//! with the version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::{
    Family, FamilyKind, FamilySnapshot, LabelValue, Naming, Points, Resource, Series, Snapshot, SumPoint,
    Timestamp, Unit,
};

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
pub(super) const TARGET: &str = "target_info";

/// A snapshot of one series, `flowtap_build_info`, as the daemon's own metrics have it.
pub(super) fn build_info(labels: &BTreeMap<String, String>) -> Arc<Snapshot> {
    static FAMILY: Family = Family {
        name: "flowtap.build.info",
        naming: Naming::Otel,
        help: "Always 1; the version is a label.",
        unit: Unit::Count(""),
        kind: FamilyKind::Gauge,
    };
    const LABEL: &str = "version";
    let version = LabelValue::Text(env!("CARGO_PKG_VERSION"));
    let pairs = [(LABEL, version)];
    let pairs = pairs.into_iter().filter(|(name, _)| !labels.contains_key(*name));
    one(&FAMILY, pairs)
}

/// A snapshot of one series, `target_info`, whose labels are the resource's attributes (OpenTelemetry specification, "Prometheus
/// and `OpenMetrics` Compatibility", "Resource Attributes"), but for those that have the name of one of `labels`, which each series
/// has: a name twice breaks the whole scrape.
pub(super) fn target_info(resource: &Resource, labels: &BTreeMap<String, String>) -> Arc<Snapshot> {
    static FAMILY: Family = Family {
        name: "target.info",
        naming: Naming::Otel,
        help: "Attributes of this flowtap and its node.",
        unit: Unit::Count(""),
        kind: FamilyKind::Gauge,
    };
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
    one(&FAMILY, pairs)
}

/// A snapshot of one series, which is 1.
fn one<'a>(
    family: &'static Family,
    pairs: impl Iterator<Item = (&'a str, LabelValue<'a>)> + Clone,
) -> Arc<Snapshot> {
    let start = Timestamp::default();
    let point = SumPoint {
        series: Series::new(family, pairs, None, start),
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
            family,
            points: Points::Sums(vec![point]),
            ended: Vec::new(),
        }],
    })
}
