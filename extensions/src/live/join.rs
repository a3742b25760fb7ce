//! From a snapshot's families to flows.

mod names;

use std::collections::{BTreeSet, HashMap};

use flowtap_pipeline::catalog::{FamilyId, Label};
use flowtap_pipeline::{Family, FamilySnapshot, Points, SeriesId, Snapshot, Unit};

use self::names::{Labels, Names};
use super::latest::{Before, Latest};
use super::{Flow, Retransmits};
use crate::verdict::Shares;

/// Families of payload bytes by peer.
const BYTES: [FamilyId; 5] = [
    FamilyId::Io,
    FamilyId::Egress,
    FamilyId::Ingress,
    FamilyId::K8s,
    FamilyId::Dns,
];

/// Every flow of the newest window, in no order. `renamed`: labels that the config gives other names, by these.
pub(super) fn flows(latest: &Latest, renamed: &[(String, Label)]) -> Vec<Flow> {
    let names = Names::new(renamed);
    let mut flows = Vec::new();
    let mut times = Vec::new();
    let mut least_times = Vec::new();
    let mut answers = Vec::new();
    let mut repeats = Vec::new();
    let mut shares = Vec::new();
    for family in &latest.snapshot.families {
        match id_of(family.family) {
            Some(id) if BYTES.contains(&id) => {
                flows.extend(rows(id, family, &latest.snapshot, &names));
            }
            Some(FamilyId::Rtt) => times = round_trips(family, latest, &names),
            Some(FamilyId::MinRtt) => least_times = round_trips(family, latest, &names),
            Some(FamilyId::ExchangeDuration) => answers = round_trips(family, latest, &names),
            Some(FamilyId::Retransmits) => repeats = retransmits(family, &names),
            Some(FamilyId::SendTime) => shares = send_times(family, latest, &names),
            _ => {}
        }
    }
    // The path to an address is the same for all of its ports.
    attach(&mut flows, &least_times, Share::ByAll, |flow, mean: Mean| {
        flow.rtt_microseconds = (mean.count > 0).then(|| mean.sum / mean.count as f64);
    });
    attach(&mut flows, &times, Share::ByOne, |flow, mean: Mean| {
        flow.smoothed_rtt_microseconds = (mean.count > 0).then(|| mean.sum / mean.count as f64);
    });
    attach(&mut flows, &answers, Share::ByOne, |flow, mean: Mean| {
        flow.exchanges = Some(mean.count);
        flow.answer_microseconds = (mean.count > 0).then(|| mean.sum / mean.count as f64);
    });
    attach(&mut flows, &repeats, Share::ByOne, |flow, seen: Retransmits| {
        flow.retransmits = Some(seen);
    });
    attach(&mut flows, &shares, Share::ByOne, |flow, seconds: Shares| {
        flow.send_time = Some(seconds);
    });
    flows
}

fn id_of(family: &Family) -> Option<FamilyId> {
    FamilyId::ALL
        .into_iter()
        .find(|id| id.definition().named(family.naming).name == family.name)
}

/// Whether a flow shows what a series of the family has grown by in the last window.
pub(super) fn is_compared(family: &Family) -> bool {
    matches!(
        id_of(family),
        Some(FamilyId::Rtt | FamilyId::MinRtt | FamilyId::SendTime | FamilyId::ExchangeDuration)
    )
}

/// The flows of one family: series that differ in their direction only, together.
fn rows(id: FamilyId, family: &FamilySnapshot, snapshot: &Snapshot, names: &Names) -> Vec<Flow> {
    let Points::Sums(points) = &family.points else {
        return Vec::new();
    };
    // A window that was cut short by a set clock can be of no length.
    let seconds = snapshot.window.as_secs_f64().max(1e-3);
    let mut rows: Vec<Flow> = Vec::new();
    let mut rows_by_labels: HashMap<Labels, usize> = HashMap::new();
    for point in points {
        let mut labels = names.labels(family.family, &point.series);
        let direction = labels.remove("direction");
        let number = *rows_by_labels.entry(labels).or_insert_with_key(|labels| {
            rows.push(Flow {
                metric: id.definition().family.name.to_owned(),
                role: match id {
                    FamilyId::Egress => Some("egress".to_owned()),
                    FamilyId::Ingress => Some("ingress".to_owned()),
                    _ => labels.get("flow").cloned(),
                },
                ..Flow::default()
            });
            rows.len() - 1
        });
        let row = &mut rows[number];
        let side = match direction.as_deref() {
            Some("outbound" | "transmit") => &mut row.outbound,
            Some("inbound" | "receive") => &mut row.inbound,
            _ => &mut row.undirected,
        };
        let bytes = side.get_or_insert_default();
        bytes.total += point.total;
        bytes.per_second += point.delta as f64 / seconds;
    }
    // Moved, not copied: there may be very many.
    for (labels, number) in rows_by_labels {
        rows[number].labels = labels;
    }
    rows
}

/// A value that can be added up over series.
trait Tally: Copy + Default {
    fn add(&mut self, other: Self);
}

/// Observations of the last window.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    count: u64,
    sum: f64,
}

impl Tally for Mean {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
    }
}

impl Tally for Retransmits {
    fn add(&mut self, other: Self) {
        self.total += other.total;
        self.last_window += other.last_window;
    }
}

impl Tally for Shares {
    fn add(&mut self, other: Self) {
        Shares::add(self, &other);
    }
}

fn by_series(latest: &Latest) -> HashMap<SeriesId, &Before> {
    latest
        .before
        .iter()
        .map(|before| (before.series.id(), before))
        .collect()
}

/// The increase in the last window of each series of send times, in seconds.
fn send_times(family: &FamilySnapshot, latest: &Latest, names: &Names) -> Vec<(Labels, Shares)> {
    let Points::Values(points) = &family.points else {
        return Vec::new();
    };
    let before = by_series(latest);
    let fresh = points.iter().filter(|point| point.updated == latest.snapshot.at);
    let increase = |point: &flowtap_pipeline::ValuePoint| {
        let before = before.get(&point.series.id()).map_or(0.0, |before| before.sum);
        let mut labels = names.labels(family.family, &point.series);
        let mut shares = Shares::default();
        let share = match labels.remove("limit").as_deref() {
            Some("network") => &mut shares.network,
            Some("answer") => &mut shares.answer,
            Some("receiver") => &mut shares.receiver,
            Some("buffer") => &mut shares.buffer,
            Some("application") => &mut shares.application,
            // The window sums the limits away.
            _ => return None,
        };
        *share = (point.value - before).max(0.0);
        Some((labels, shares))
    };
    fresh.filter_map(increase).collect()
}

/// The increase in the last window of each series of round-trip times, in microseconds.
fn round_trips(family: &FamilySnapshot, latest: &Latest, names: &Names) -> Vec<(Labels, Mean)> {
    let Points::Histograms(points) = &family.points else {
        return Vec::new();
    };
    let scale = if family.family.unit == Unit::Seconds {
        1e6
    } else {
        1.0
    };
    let before = by_series(latest);
    let fresh = points.iter().filter(|point| point.updated == latest.snapshot.at);
    let mean = |point: &flowtap_pipeline::HistogramPoint| {
        let (count, sum) = before
            .get(&point.series.id())
            .map_or((0, 0.0), |before| (before.count, before.sum));
        Mean {
            count: point.count().saturating_sub(count),
            sum: (point.sum - sum).max(0.0) * scale,
        }
    };
    fresh
        .map(|point| (names.labels(family.family, &point.series), mean(point)))
        .collect()
}

fn retransmits(family: &FamilySnapshot, names: &Names) -> Vec<(Labels, Retransmits)> {
    let Points::Sums(points) = &family.points else {
        return Vec::new();
    };
    let seen = points.iter().map(|point| {
        let seen = Retransmits {
            total: point.total,
            last_window: point.delta,
        };
        (names.labels(family.family, &point.series), seen)
    });
    seen.collect()
}

/// The flows that may show a value of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    /// All of them.
    ByAll,
    /// None: only a flow that no other shares the value with.
    ByOne,
}

/// Labels of a flow that an observation has as well, and their values.
type Key<'a> = Vec<(&'a str, &'a str)>;

/// Gives each flow the sum of what agrees with it in the labels that both have.
fn attach<T: Tally>(flows: &mut [Flow], observed: &[(Labels, T)], share: Share, set: impl Fn(&mut Flow, T)) {
    let theirs: BTreeSet<&str> = observed
        .iter()
        .flat_map(|(labels, _)| labels.keys())
        .map(String::as_str)
        .collect();
    let shared: Vec<_> = BYTES.map(|id| shared(flows, id, &theirs)).into();
    let mut found = Vec::new();
    {
        let mut flows_by_key: HashMap<Key<'_>, usize> = HashMap::new();
        let mut keys = Vec::new();
        for (index, flow) in flows.iter().enumerate() {
            let names = shared.iter().find(|(metric, _)| flow.metric == *metric);
            let Some((_, names)) = names.filter(|(_, names)| names.contains(&"raddr")) else {
                continue;
            };
            let value = |name: &str| match (name, &flow.role) {
                ("flow", Some(role)) => role.as_str(),
                (name, _) => flow.label(name),
            };
            let key: Key<'_> = names.iter().map(|name| (*name, value(name))).collect();
            *flows_by_key.entry(key.clone()).or_default() += 1;
            keys.push((index, key));
        }
        let mut sums: HashMap<Key<'_>, T> = HashMap::new();
        let of_metrics: BTreeSet<_> = shared.iter().map(|(_, names)| names).collect();
        for names in of_metrics {
            for (labels, value) in observed {
                let value_of = |name: &str| labels.get(name).map_or("", String::as_str);
                let key = names.iter().map(|name| (*name, value_of(name)));
                sums.entry(key.collect()).or_default().add(*value);
            }
        }
        for (index, key) in keys {
            let is_alone = flows_by_key.get(&key) == Some(&1);
            if let Some(value) = sums.get(&key).filter(|_| is_alone || share == Share::ByAll) {
                found.push((index, *value));
            }
        }
    }
    for (index, value) in found {
        set(&mut flows[index], value);
    }
}

/// The labels of `theirs` that flows of a metric have, with the metric's name.
fn shared<'a>(flows: &[Flow], id: FamilyId, theirs: &BTreeSet<&'a str>) -> (&'static str, Vec<&'a str>) {
    let metric = id.definition().family.name;
    let mut ours: BTreeSet<&str> = flows
        .iter()
        .filter(|flow| flow.metric == metric)
        .flat_map(|flow| flow.labels.keys().map(String::as_str))
        .collect();
    if matches!(id, FamilyId::Egress | FamilyId::Ingress) {
        ours.insert("flow");
    }
    // Directions are together in a flow.
    ours.remove("direction");
    let names = theirs.iter().copied().filter(|name| ours.contains(name));
    (metric, names.collect())
}

#[cfg(test)]
mod tests;
