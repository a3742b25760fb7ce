//! Config of the processor `window`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::Duration;

use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{
    ComponentConfig, Contract, FamilyKind, HISTOGRAM_BUCKETS, Naming, RecordField, Signal, Violation,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::buckets::FamilyBuckets;
use flowtap_pipeline::catalog::{FAMILIES, FamilyId, Label};

use crate::hops::Hops;

/// Settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Length of a window. At least 100 ms; windows end on multiples of it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Series that each family may have, the series `other` not counted.
    pub max_series: NonZeroUsize,
    /// Time without a change after which a series expires. At least `interval`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub metric_expiration: Duration,
    /// Naming of metrics and labels.
    pub naming: Naming,
    /// Whether peers on this machine and in its cluster also have round-trip times: `localhost`,
    /// `docker`, `k8sPod`, `k8sSvc`, `dns`.
    #[serde(alias = "rtt_of_near_peers")]
    pub rtt_include_local_peers: bool,
    /// Whether connections count that do not leave their network namespace: those to a sidecar, and of a sidecar to its application.
    pub hops: Hops,
    /// Labels of the peer, the process and the connection for every family that can have them, in place of its default ones. Labels
    /// of what is counted, such as `direction` and `event`, stay. The list of a family takes precedence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<Label>>,
    /// Families whose exposure differs from the default, by their names without the namespace.
    #[schemars(extend("propertyNames" = BTreeMap::from([("enum", all_family_names())])))]
    pub families: BTreeMap<String, FamilyConfig>,
}

/// Names of the families that a naming has, as a config has them.
fn family_names(naming: Naming) -> Vec<&'static str> {
    let families = FAMILIES.iter().filter(|definition| definition.is_of(naming));
    families.map(|definition| definition.family.name).collect()
}

/// A naming, as a config has it.
const fn naming_of(naming: Naming) -> &'static str {
    match naming {
        Naming::PrimusLens => "primus_lens",
        Naming::Otel => "otel",
    }
}

/// Names of all families, as a config has them.
fn all_family_names() -> Vec<&'static str> {
    FAMILIES.iter().map(|definition| definition.family.name).collect()
}

/// Exposure of a family.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FamilyConfig {
    /// Whether it is exposed. By default as in the metrics reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Its labels; series are summed over omitted labels. By default those of the metrics
    /// reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<Label>>,
    /// Its buckets. Upper bounds in its unit: a list of up to 16 numbers that rise. Or `exponential`: an exponential histogram of
    /// OpenTelemetry, which is a native histogram of Prometheus. Only of a histogram.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<FamilyBuckets>,
    /// Series that it may have, the series `other` not counted. By default `max_series` of the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_series: Option<NonZeroUsize>,
    /// Time without a change after which a series expires. By default `metric_expiration` of the window.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DurationText>")]
    pub metric_expiration: Option<Duration>,
    /// Exposes the series that rank first; changes of the others go to `other`. Only of a counter or histogram.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top: Option<Top>,
}

/// The series that a family exposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Top {
    /// Number of series to keep.
    pub n: NonZeroUsize,
    /// Their order.
    #[serde(default)]
    pub by: TopBy,
}

/// Order of series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TopBy {
    /// By their increase lately: the last window counts in full, each one before it half as much as the next.
    #[default]
    Rate,
    /// By their increase since they are known.
    Total,
}

impl FamilyConfig {
    /// The reason why the bounds of the buckets are not valid.
    fn buckets_fault(&self, kind: FamilyKind) -> Option<String> {
        let buckets = self.buckets.as_ref()?;
        if !kind.is_histogram() {
            return Some("only a histogram has buckets".to_owned());
        }
        let FamilyBuckets::Bounds(buckets) = buckets else {
            return None;
        };
        let rises = buckets.windows(2).all(|pair| pair[0] < pair[1]);
        let fits = (1..=HISTOGRAM_BUCKETS).contains(&buckets.len());
        let ok = rises && fits && buckets.iter().all(|bound| bound.is_finite());
        (!ok).then(|| {
            format!(
                "must be 1 to {HISTOGRAM_BUCKETS} finite numbers, each larger than the one before, or `exponential`"
            )
        })
    }

    fn validate(&self, name: &str, naming: Naming) -> Vec<Violation> {
        let path = |more: &[&str]| {
            let path = ["families", name].into_iter().chain(more.iter().copied());
            path.map(str::to_owned).collect()
        };
        let Some(definition) = FAMILIES.iter().find(|definition| definition.family.name == name) else {
            return vec![Violation {
                path: path(&[]),
                message: format!(
                    "unknown metric `{name}`; available: {}",
                    family_names(naming).join(", ")
                ),
            }];
        };
        if !definition.is_of(naming) {
            let message = match naming {
                Naming::Otel if name.contains("_udp_") => {
                    "`naming: otel` has no metric of this name: `network_udp_io` has the bytes of all peers"
                }
                Naming::PrimusLens if name == "network_udp_io" => {
                    "only `naming: otel` has this metric; the bytes are in `network_udp_flow_egress`, \
                     `network_udp_flow_ingress`, `network_k8s_udp_flow` and `network_flow_dns`"
                }
                Naming::Otel => {
                    "`naming: otel` has no metric of this name: `network_tcp_io` has the bytes of all peers"
                }
                Naming::PrimusLens => {
                    "only `naming: otel` has this metric; the bytes are in `network_tcp_flow_egress`, \
                     `network_tcp_flow_ingress`, `network_k8s_tcp_flow` and `network_flow_dns`"
                }
            };
            return vec![Violation {
                path: path(&[]),
                message: message.to_owned(),
            }];
        }
        let mut faults = Vec::new();
        if self.top.is_some() && definition.named(naming).kind.can_fall() {
            faults.push(Violation {
                path: path(&["top"]),
                message: "only a counter or a histogram can have it: an open connection must stay in the series that counts it"
                    .to_owned(),
            });
        }
        if let Some(message) = self.buckets_fault(definition.named(naming).kind) {
            faults.push(Violation {
                path: path(&["buckets"]),
                message,
            });
        }
        let labels = self.labels.iter().flatten().enumerate();
        for (index, label) in labels {
            let earlier = self.labels.iter().flatten().take(index);
            let message = if !definition.possible(naming).any(|possible| possible == *label) {
                let possible: Vec<_> = definition.possible(naming).map(Label::name).collect();
                format!("not available for `{name}`; available: {}", possible.join(", "))
            } else if earlier.clone().any(|earlier| earlier == label) {
                "is a duplicate".to_owned()
            } else {
                continue;
            };
            faults.push(Violation {
                path: path(&["labels", &index.to_string()]),
                message,
            });
        }
        faults
    }
}

impl Default for Config {
    fn default() -> Self {
        const MAX_SERIES: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
        Self {
            interval: Duration::from_secs(5),
            max_series: MAX_SERIES,
            metric_expiration: Duration::from_secs(600),
            naming: Naming::default(),
            rtt_include_local_peers: false,
            hops: Hops::default(),
            labels: None,
            families: BTreeMap::new(),
        }
    }
}

impl Config {
    fn of_each<T>(&self, value: impl Fn(Option<&FamilyConfig>) -> T) -> [T; FAMILIES.len()] {
        FamilyId::ALL.map(|id| value(self.families.get(id.definition().family.name)))
    }

    /// Maximum number of series of each family.
    pub(super) fn max_series_of_each(&self) -> [usize; FAMILIES.len()] {
        let own = |family: &FamilyConfig| family.max_series;
        self.of_each(|family| family.and_then(own).unwrap_or(self.max_series).get())
    }

    /// Time without a change after which series of each family expire.
    pub(super) fn expiration_of_each(&self) -> [Duration; FAMILIES.len()] {
        let own = |family: &FamilyConfig| family.metric_expiration;
        self.of_each(|family| family.and_then(own).unwrap_or(self.metric_expiration))
    }

    /// The series that each family exposes; `None`: all.
    pub(super) fn top_of_each(&self) -> [Option<Top>; FAMILIES.len()] {
        self.of_each(|family| family.and_then(|family| family.top))
    }

    /// The labels of a family.
    pub(super) fn labels_of(&self, id: FamilyId) -> Vec<Label> {
        let definition = id.definition();
        let family = self.families.get(definition.family.name);
        if let Some(own) = family.and_then(|family| family.labels.as_ref()) {
            return own.clone();
        }
        let default = definition.labels_by_default(self.naming);
        // Families without labels of one connection are not about peers: totals, events.
        let Some(list) = self.labels.as_deref().filter(|_| !definition.details.is_empty()) else {
            return default;
        };
        let is_possible = |label: &Label| {
            definition
                .possible(self.naming)
                .any(|possible| possible == *label)
        };
        let mut labels: Vec<Label> = list.iter().copied().filter(is_possible).collect();
        let counted = default.into_iter().filter(|label| label.is_of_what_is_counted());
        for label in counted {
            if !labels.contains(&label) {
                labels.push(label);
            }
        }
        if self.naming == Naming::Otel
            && labels.contains(&Label::Raddr)
            && !labels.contains(&Label::NetworkType)
        {
            labels.push(Label::NetworkType);
        }
        labels
    }

    /// The labels that a family about peers can have.
    fn labels_of_peers(&self) -> impl Iterator<Item = Label> {
        let mut labels: Vec<Label> = Vec::new();
        let peers = FAMILIES
            .iter()
            .filter(|definition| definition.is_of(self.naming) && !definition.details.is_empty());
        for label in peers.flat_map(|definition| definition.possible(self.naming)) {
            if !labels.contains(&label) {
                labels.push(label);
            }
        }
        labels.into_iter()
    }

    /// Declares the key that lists a label of each field: that of all metrics about peers where they can have it, else that of the
    /// first family that can.
    fn uses_with_labels(&self, mut contract: Contract) -> Contract {
        let mut declared = BTreeSet::new();
        for label in self.labels_of_peers() {
            if let Some(field) = label.field().filter(|field| declared.insert(*field)) {
                contract = contract.uses_with(field, &["labels"], label.name());
            }
        }
        for definition in FAMILIES.iter().filter(|definition| definition.is_of(self.naming)) {
            for label in definition.possible(self.naming) {
                if let Some(field) = label.field().filter(|field| declared.insert(*field)) {
                    let path = ["families", definition.family.name, "labels"];
                    contract = contract.uses_with(field, &path, label.name());
                }
            }
        }
        contract
    }

    /// The fields of a record that decide whether it enters a family, whatever the labels.
    fn always_needed(&self, id: FamilyId) -> Option<RecordField> {
        match id {
            FamilyId::Egress | FamilyId::Ingress => Some(RecordField::Role),
            FamilyId::K8s | FamilyId::Dns => Some(RecordField::Class),
            // Near peers are left out by their class.
            FamilyId::Rtt | FamilyId::MinRtt if !self.rtt_include_local_peers => Some(RecordField::Class),
            _ => None,
        }
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        let contract = Contract::default().gives([Signal::Metrics]).every(self.interval);
        let mut contract = self.uses_with_labels(contract);
        for id in FamilyId::ALL {
            let definition = id.definition();
            let name = definition.family.name;
            let family = self.families.get(name);
            let enabled = family
                .and_then(|family| family.enabled)
                .unwrap_or(definition.enabled);
            if !enabled || !definition.is_of(self.naming) {
                continue;
            }
            if let Some(field) = self.always_needed(id) {
                contract = contract.needs(field);
            }
            let asked_for = family.and_then(|family| family.labels.as_deref());
            let labels = self.labels_of(id);
            // Prometheus has underscores where OpenTelemetry has dots.
            let names = labels
                .iter()
                .map(|label| label.named(self.naming).replace('.', "_"));
            contract = contract.series_labels(names);
            if id.takes_readings() {
                // Labels of a reading are its own: no component fills them.
                continue;
            }
            for (index, label) in asked_for.unwrap_or_default().iter().enumerate() {
                if let Some(field) = label.field() {
                    let index = index.to_string();
                    contract = contract.needs_for(field, &["families", name, "labels", &index]);
                }
            }
            if asked_for.is_none() && (self.labels.is_none() || definition.details.is_empty()) {
                let fields = definition.labels.iter().filter_map(|label| label.field());
                contract = fields.fold(contract, Contract::needs);
            }
        }
        for (index, label) in self.labels.iter().flatten().enumerate() {
            if let Some(field) = label.field() {
                contract = contract.needs_for(field, &["labels", &index.to_string()]);
            }
        }
        contract
    }

    /// The labels of a family, not those of all.
    fn words_at(&self, path: &[String]) -> Option<Vec<&'static str>> {
        let parts: Vec<_> = path.iter().map(String::as_str).collect();
        let names = |labels: Vec<Label>| Some(labels.into_iter().map(Label::name).collect());
        match parts[..] {
            ["families", name, "labels", _] => {
                let definition = FAMILIES
                    .iter()
                    .find(|definition| definition.family.name == name)?;
                names(definition.possible(self.naming).collect())
            }
            ["labels", _] => names(self.labels_of_peers().collect()),
            _ => None,
        }
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if self.interval < Duration::from_millis(100) {
            faults.push(Violation::new("interval", "must be at least 100ms"));
        }
        if self.metric_expiration < self.interval {
            let message = "must be at least `interval`, or series would expire between two changes";
            faults.push(Violation::new("metric_expiration", message));
        }
        for (name, family) in &self.families {
            let mut fault = |key: &str, message: String| {
                let path = ["families", name, key].map(str::to_owned).into();
                faults.push(Violation { path, message });
            };
            if family.metric_expiration.is_some_and(|time| time < self.interval) {
                let message = "must be at least `interval`, or series would expire between two changes";
                fault("metric_expiration", message.to_owned());
            }
            let max = family.max_series.unwrap_or(self.max_series);
            if let Some(top) = family.top.filter(|top| top.n > max) {
                let message = format!(
                    "{} series are more than `max_series`, which is {max}; hint: raise `max_series`, from which they are chosen",
                    top.n
                );
                fault("top", message);
            }
        }
        let labels = self.labels.as_deref().unwrap_or_default();
        for (index, label) in labels.iter().enumerate() {
            let message = if !self.labels_of_peers().any(|possible| possible == *label) {
                format!(
                    "no metric of `naming: {}` can have `{label}`; hint: remove it",
                    naming_of(self.naming)
                )
            } else if labels[..index].contains(label) {
                "is a duplicate".to_owned()
            } else {
                continue;
            };
            faults.push(Violation::new(&format!("labels.{index}"), message));
        }
        faults.extend(
            self.families
                .iter()
                .flat_map(|(name, own)| own.validate(name, self.naming)),
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_former_name_of_a_key_is_accepted() {
        let former = figment::value::Value::serialize(BTreeMap::from([("rtt_of_near_peers", true)])).unwrap();
        assert!(former.deserialize::<Config>().unwrap().rtt_include_local_peers);
    }

    #[test]
    fn families_and_labels_that_do_not_exist_are_reported_with_what_does() {
        let family = |labels: &[Label]| FamilyConfig {
            labels: Some(labels.to_vec()),
            ..FamilyConfig::default()
        };
        let config = Config {
            families: BTreeMap::from([
                ("network_tcp_flow".to_owned(), family(&[])),
                (
                    "network_flow_dns".to_owned(),
                    family(&[Label::Raddr, Label::Reason, Label::Raddr]),
                ),
            ]),
            ..Config::default()
        };
        let faults: Vec<_> = config
            .validate()
            .into_iter()
            .map(|fault| (fault.path.join("."), fault.message))
            .collect();
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert_eq!(faults[0].0, "families.network_flow_dns.labels.1");
        assert!(faults[0].1.contains("available: raddr"), "{faults:?}");
        assert_eq!(
            faults[1],
            (
                "families.network_flow_dns.labels.2".to_owned(),
                "is a duplicate".to_owned()
            )
        );
        assert_eq!(faults[2].0, "families.network_tcp_flow");
        assert!(faults[2].1.contains("network_tcp_flow_egress"), "{faults:?}");
    }

    #[test]
    fn buckets_rise_are_finite_and_few_and_only_histograms_have_any() {
        let fault = |name: &str, buckets: &[f64]| {
            let own = FamilyConfig {
                buckets: Some(FamilyBuckets::Bounds(buckets.to_vec())),
                ..FamilyConfig::default()
            };
            let config = Config {
                families: BTreeMap::from([(name.to_owned(), own)]),
                ..Config::default()
            };
            let faults = config.validate();
            assert!(faults.len() < 2, "{faults:?}");
            faults
                .into_iter()
                .next()
                .map(|fault| (fault.path.join("."), fault.message))
        };
        let rtt = "network_tcp_flow_rtt";
        assert_eq!(fault(rtt, &[0.5, 1.0]), None);
        for wrong in [
            &[][..],
            &[1.0, 1.0],
            &[2.0, 1.0],
            &[f64::NAN],
            &[f64::INFINITY],
            &[1.0; 17],
        ] {
            let (path, message) = fault(rtt, wrong).unwrap();
            assert_eq!(path, "families.network_tcp_flow_rtt.buckets");
            assert!(message.contains("1 to 16 finite numbers"), "{message}");
        }
        let (_, message) = fault("network_tcp_retransmits", &[1.0]).unwrap();
        assert_eq!(message, "only a histogram has buckets");
    }

    #[test]
    fn a_metric_that_the_naming_does_not_have_is_named_with_the_one_that_it_has() {
        for (naming, name, instead) in [
            (Naming::Otel, "network_tcp_flow_egress", "network_tcp_io"),
            (Naming::PrimusLens, "network_tcp_io", "network_tcp_flow_egress"),
        ] {
            let config = Config {
                naming,
                families: BTreeMap::from([(name.to_owned(), FamilyConfig::default())]),
                ..Config::default()
            };
            let faults = config.validate();
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].message.contains(instead), "{faults:?}");
        }
    }
}
