//! Config of the processor `window`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{
    ComponentConfig, Contract, FamilyKind, HISTOGRAM_BUCKETS, Naming, RecordField, Signal, Violation,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use flowtap_pipeline::catalog::{FAMILIES, FamilyId, Label};

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
    /// Families whose exposure differs from the default, by their names without the namespace.
    #[schemars(extend("propertyNames" = BTreeMap::from([("enum", all_family_names())])))]
    pub families: BTreeMap<String, FamilyConfig>,
}

/// Names of the families that a naming has, as a config has them.
fn family_names(naming: Naming) -> Vec<&'static str> {
    let families = FAMILIES.iter().filter(|definition| definition.is_of(naming));
    families.map(|definition| definition.family.name).collect()
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
    /// Upper bounds of its buckets, in its unit: up to 16 numbers that rise. Only of a histogram.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Vec<f64>>,
}

impl FamilyConfig {
    /// The reason why the bounds of the buckets are not valid.
    fn buckets_fault(&self, kind: FamilyKind) -> Option<String> {
        let buckets = self.buckets.as_deref()?;
        if !matches!(kind, FamilyKind::Histogram(_)) {
            return Some("only a histogram has buckets".to_owned());
        }
        let rises = buckets.windows(2).all(|pair| pair[0] < pair[1]);
        let fits = (1..=HISTOGRAM_BUCKETS).contains(&buckets.len());
        let ok = rises && fits && buckets.iter().all(|bound| bound.is_finite());
        (!ok).then(|| {
            format!("must be 1 to {HISTOGRAM_BUCKETS} finite numbers, each larger than the one before")
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
            families: BTreeMap::new(),
        }
    }
}

impl Config {
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
        let mut contract = Contract::default().gives([Signal::Metrics]).every(self.interval);
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
            let labels =
                asked_for.map_or_else(|| definition.labels_by_default(self.naming), <[Label]>::to_vec);
            // Prometheus has underscores where OpenTelemetry has dots.
            let names = labels
                .iter()
                .map(|label| label.named(self.naming).replace('.', "_"));
            contract = contract.series_labels(names);
            for (index, label) in asked_for.unwrap_or_default().iter().enumerate() {
                if let Some(field) = label.field() {
                    let index = index.to_string();
                    contract = contract.needs_for(field, &["families", name, "labels", &index]);
                }
            }
            if asked_for.is_none() {
                let fields = definition.labels.iter().filter_map(|label| label.field());
                contract = fields.fold(contract, Contract::needs);
            }
        }
        contract
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
    fn families_and_labels_that_do_not_exist_are_told_with_what_does() {
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
                buckets: Some(buckets.to_vec()),
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
