//! From a snapshot's families to flows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flowtap_pipeline::catalog::{FAMILIES, FamilyId, Label};
use flowtap_pipeline::{Family, FamilySnapshot, Naming, Points, Series, SeriesId, Snapshot, Unit};

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

type Labels = BTreeMap<String, String>;

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
                labels: labels.clone(),
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

/// Labels' names in the config.
struct Names {
    /// By OpenTelemetry's names.
    otel: HashMap<&'static str, &'static str>,
    /// By the names that a pipeline gives them, in either naming.
    renamed: HashMap<String, &'static str>,
}

impl Names {
    fn new(renamed: &[(String, Label)]) -> Self {
        // By the Go exporter's naming a family can have each label that it can have by any.
        let possible = FAMILIES
            .iter()
            .flat_map(|definition| definition.possible(Naming::PrimusLens));
        let renamed = renamed.iter();
        let mut otel = HashMap::new();
        for label in possible {
            // Of TCP and of UDP the protocol is another label; families of TCP come first, and flows are of TCP.
            otel.entry(label.otel_name()).or_insert(label.name());
        }
        Self {
            otel,
            renamed: renamed
                .map(|(name, label)| (name.clone(), label.name()))
                .collect(),
        }
    }

    fn labels(&self, family: &Family, series: &Series) -> Labels {
        let pairs = series.pairs();
        pairs
            .map(|pair| {
                let name = self.in_config(pair.name(), family.naming);
                (name.to_owned(), pair.value.text().into_owned())
            })
            .collect()
    }

    fn in_config<'a>(&'a self, name: &'a str, naming: Naming) -> &'a str {
        let renamed = self.renamed.get(name);
        let otel = || match naming {
            Naming::PrimusLens => None,
            Naming::Otel => self.otel.get(name),
        };
        renamed.or_else(otel).copied().unwrap_or(name)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::live::Bytes;
    use flowtap_pipeline::{HISTOGRAM_BUCKETS, HistogramPoint, LabelValue, SumPoint, Timestamp, ValuePoint};
    use std::time::Duration;

    const AT: Timestamp = Timestamp::from_nanos(10_000_000_000);

    /// The labels of a series.
    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn series(id: FamilyId, naming: Naming, labels: &[(&str, &str)]) -> Series {
        let pairs = labels
            .iter()
            .map(|(name, value)| (*name, LabelValue::Text(value)));
        Series::new(id.definition().named(naming), pairs, None, Timestamp::default())
    }

    fn sums(id: FamilyId, naming: Naming, rows: &[(Pairs<'_>, u64, u64)]) -> FamilySnapshot {
        let points = rows.iter().map(|(labels, total, delta)| SumPoint {
            series: series(id, naming, labels),
            total: *total,
            delta: *delta,
            updated: AT,
        });
        FamilySnapshot {
            family: id.definition().named(naming),
            points: Points::Sums(points.collect()),
            ended: Vec::new(),
        }
    }

    fn times(naming: Naming, rows: &[(Pairs<'_>, u64, f64)]) -> FamilySnapshot {
        let points = rows.iter().map(|(labels, count, sum)| {
            let mut buckets = [0; HISTOGRAM_BUCKETS + 1];
            buckets[3] = *count;
            HistogramPoint {
                series: series(FamilyId::Rtt, naming, labels),
                buckets: buckets.into(),
                sum: *sum,
                updated: AT,
            }
        });
        FamilySnapshot {
            family: FamilyId::Rtt.definition().named(naming),
            points: Points::Histograms(points.collect()),
            ended: Vec::new(),
        }
    }

    fn latest(families: Vec<FamilySnapshot>) -> Latest {
        Latest {
            snapshot: Arc::new(Snapshot {
                pipeline: "metrics".into(),
                at: AT,
                window: Duration::from_secs(2),
                last: false,
                replaced: false,
                families,
            }),
            before: Vec::new(),
        }
    }

    #[test]
    fn both_directions_are_one_flow_with_the_peers_round_trip_time_and_retransmits() {
        let out: &[_] = &[
            ("raddr", "192.0.2.7"),
            ("rport", "443"),
            ("direction", "outbound"),
        ];
        let back: &[_] = &[("raddr", "192.0.2.7"), ("rport", "443"), ("direction", "inbound")];
        let other: &[_] = &[
            ("raddr", "192.0.2.8"),
            ("rport", "443"),
            ("direction", "outbound"),
        ];
        let mut latest = latest(vec![
            sums(
                FamilyId::Egress,
                Naming::PrimusLens,
                &[(out, 100, 10), (back, 7, 0), (other, 5, 0)],
            ),
            times(
                Naming::PrimusLens,
                &[
                    (&[("raddr", "192.0.2.7"), ("direction", "outbound")], 2, 300.0),
                    (&[("raddr", "192.0.2.7"), ("direction", "inbound")], 3, 600.0),
                ],
            ),
            sums(
                FamilyId::Retransmits,
                Naming::PrimusLens,
                &[(&[("raddr", "192.0.2.7"), ("type", "externalHosts")], 9, 1)],
            ),
        ]);
        let Points::Histograms(points) = &latest.snapshot.families[1].points else {
            panic!("histograms");
        };
        latest.before = vec![Before {
            series: points[1].series.clone(),
            count: 1,
            sum: 100.0,
        }];
        let flows = flows(&latest, &[]);
        assert_eq!(flows.len(), 2);
        let flow = &flows[0];
        assert_eq!((flow.peer(), flow.port()), ("192.0.2.7", "443"));
        assert_eq!(flow.role.as_deref(), Some("egress"));
        assert!(!flow.labels.contains_key("direction"));
        let bytes = |total, per_second| Some(Bytes { total, per_second });
        assert_eq!(
            (flow.outbound, flow.inbound, flow.undirected),
            (bytes(100, 5.0), bytes(7, 0.0), None)
        );
        // (300 + 600 - 100) / (2 + 3 - 1)
        assert_eq!(flow.smoothed_rtt_microseconds, Some(200.0));
        assert_eq!(flow.rtt_microseconds, None, "a mean is not the smallest");
        let seen = Retransmits {
            total: 9,
            last_window: 1,
        };
        assert_eq!(flow.retransmits, Some(seen));
        assert_eq!(
            (flows[1].smoothed_rtt_microseconds, flows[1].retransmits),
            (None, None)
        );
    }

    #[test]
    fn retransmits_of_an_address_are_shown_at_none_of_its_ports_if_there_are_several() {
        let peer = ("raddr", "192.0.2.7");
        let retransmits =
            |labels: Pairs<'_>| sums(FamilyId::Retransmits, Naming::PrimusLens, &[(labels, 9, 1)]);
        let egress = |rows: &[(Pairs<'_>, u64, u64)]| sums(FamilyId::Egress, Naming::PrimusLens, rows);
        let ingress = |rows: &[(Pairs<'_>, u64, u64)]| sums(FamilyId::Ingress, Naming::PrimusLens, rows);
        let shown = |families| {
            let flows = flows(&latest(families), &[]);
            let totals = flows.iter().map(|flow| flow.retransmits.map(|seen| seen.total));
            totals.collect::<Vec<_>>()
        };
        let two_ports: &[(Pairs<'_>, _, _)] = &[
            (&[peer, ("rport", "80")], 1, 1),
            (&[peer, ("rport", "443")], 1, 1),
        ];
        assert_eq!(shown(vec![egress(two_ports), retransmits(&[peer])]), [None, None]);
        let of_a_port = retransmits(&[peer, ("rport", "443")]);
        assert_eq!(shown(vec![egress(two_ports), of_a_port]), [None, Some(9)]);
        let one: &[(Pairs<'_>, _, _)] = &[(&[peer], 1, 1)];
        assert_eq!(
            shown(vec![egress(one), ingress(one), retransmits(&[peer])]),
            [None, None]
        );
        assert_eq!(shown(vec![egress(one), retransmits(&[peer])]), [Some(9)]);
    }

    #[test]
    fn a_flow_shows_the_answers_of_its_peer_and_its_protocol_by_either_naming() {
        for (naming, bytes, protocol) in [
            (Naming::PrimusLens, FamilyId::Egress, "protocol"),
            (Naming::Otel, FamilyId::Io, "network.protocol.name"),
        ] {
            let raddr = if naming == Naming::Otel {
                "network.peer.address"
            } else {
                "raddr"
            };
            let mut answers = times(naming, &[(&[(raddr, "192.0.2.7")], 4, 0.01)]);
            answers.family = FamilyId::ExchangeDuration.definition().named(naming);
            let latest = latest(vec![
                sums(
                    bytes,
                    naming,
                    &[(&[(raddr, "192.0.2.7"), (protocol, "http")], 9, 9)],
                ),
                answers,
            ]);
            let flow = flows(&latest, &[]).remove(0);
            assert_eq!(flow.label("protocol"), "http", "{naming:?}");
            assert_eq!(flow.exchanges, Some(4));
            assert!((flow.answer_microseconds.unwrap() - 2_500.0).abs() < 1e-6);
            assert_eq!(flow.smoothed_rtt_microseconds, None);
        }
    }

    #[test]
    fn a_flow_shows_what_its_senders_waited_for_in_the_last_window() {
        let peer = ("raddr", "192.0.2.7");
        let point = |limit, value| ValuePoint {
            series: series(FamilyId::SendTime, Naming::PrimusLens, &[peer, ("limit", limit)]),
            value,
            updated: AT,
        };
        let points = vec![point("network", 3.5), point("answer", 1.0)];
        let before = Before {
            series: points[0].series.clone(),
            count: 0,
            sum: 3.0,
        };
        let mut latest = latest(vec![
            sums(FamilyId::Egress, Naming::PrimusLens, &[(&[peer], 1, 1)]),
            FamilySnapshot {
                family: FamilyId::SendTime.definition().named(Naming::PrimusLens),
                points: Points::Values(points),
                ended: Vec::new(),
            },
        ]);
        latest.before = vec![before];
        let expected = Shares {
            network: 0.5,
            answer: 1.0,
            ..Shares::default()
        };
        assert_eq!(flows(&latest, &[])[0].send_time, Some(expected));
    }

    #[test]
    fn the_smallest_and_the_smoothed_times_are_kept_apart() {
        let peer = ("raddr", "192.0.2.7");
        let mut least = times(Naming::PrimusLens, &[(&[peer], 1, 15.0)]);
        least.family = FamilyId::MinRtt.definition().named(Naming::PrimusLens);
        let latest = latest(vec![
            sums(FamilyId::Egress, Naming::PrimusLens, &[(&[peer], 1, 1)]),
            times(Naming::PrimusLens, &[(&[peer], 1, 20_000.0)]),
            least,
        ]);
        let flow = &flows(&latest, &[])[0];
        assert_eq!(
            (flow.rtt_microseconds, flow.smoothed_rtt_microseconds),
            (Some(15.0), Some(20_000.0))
        );
    }

    #[test]
    fn times_are_separate_by_role_where_they_have_one() {
        let peer = ("raddr", "192.0.2.7");
        let latest = latest(vec![
            sums(FamilyId::Egress, Naming::PrimusLens, &[(&[peer], 1, 1)]),
            sums(FamilyId::Ingress, Naming::PrimusLens, &[(&[peer], 1, 1)]),
            times(
                Naming::PrimusLens,
                &[
                    (&[peer, ("flow", "egress")], 1, 10.0),
                    (&[peer, ("flow", "ingress")], 1, 20.0),
                ],
            ),
        ]);
        let times: Vec<_> = flows(&latest, &[])
            .iter()
            .map(|flow| flow.smoothed_rtt_microseconds)
            .collect();
        assert_eq!(times, [Some(10.0), Some(20.0)]);
    }

    #[test]
    fn opentelemetrys_naming_gives_the_same_flows_in_the_configs_words() {
        let latest = latest(vec![
            sums(
                FamilyId::Io,
                Naming::Otel,
                &[(
                    &[
                        ("network.peer.address", "192.0.2.7"),
                        ("flowtap.role", "ingress"),
                        ("server.port", "80"),
                        ("network.io.direction", "receive"),
                        ("flowtap.peer.class", "externalHosts"),
                        ("process.executable.name", "nginx"),
                    ],
                    4,
                    2,
                )],
            ),
            times(
                Naming::Otel,
                &[(&[("network.peer.address", "192.0.2.7")], 1, 0.000_25)],
            ),
        ]);
        let flows = flows(&latest, &[]);
        let flow = &flows[0];
        assert_eq!(
            (
                flow.peer(),
                flow.port(),
                flow.class(),
                flow.process().as_str(),
                flow.metric.as_str()
            ),
            ("192.0.2.7", "80", "externalHosts", "nginx", "network_tcp_io")
        );
        assert_eq!(flow.inbound.map(|bytes| bytes.total), Some(4));
        assert!((flow.smoothed_rtt_microseconds.unwrap() - 250.0).abs() < 1e-6);
    }

    #[test]
    fn labels_that_a_pipeline_renames_join_by_their_names_in_the_config() {
        for naming in [Naming::PrimusLens, Naming::Otel] {
            let peer = ("who", "192.0.2.7");
            let id = match naming {
                Naming::PrimusLens => FamilyId::Egress,
                Naming::Otel => FamilyId::Io,
            };
            let latest = latest(vec![
                sums(id, naming, &[(&[peer], 10, 10)]),
                times(naming, &[(&[peer], 2, 300.0)]),
            ]);
            let renamed = [("who".to_owned(), Label::Raddr)];
            let flows = flows(&latest, &renamed);
            assert_eq!(flows[0].peer(), "192.0.2.7");
            assert!(flows[0].smoothed_rtt_microseconds.is_some(), "{naming:?}");
        }
    }

    #[test]
    fn a_window_without_the_peers_address_shows_no_time_that_may_be_anothers() {
        let latest = latest(vec![
            sums(FamilyId::Dns, Naming::PrimusLens, &[(&[], 3, 3)]),
            times(Naming::PrimusLens, &[(&[("raddr", "192.0.2.7")], 1, 10.0)]),
        ]);
        let flows = flows(&latest, &[]);
        assert_eq!((flows[0].peer(), flows[0].class()), ("(all)", "dns"));
        assert_eq!(flows[0].undirected.map(|bytes| bytes.total), Some(3));
        assert_eq!(flows[0].smoothed_rtt_microseconds, None);
    }
}
