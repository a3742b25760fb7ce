//! The exposed families with their labels.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use flowtap_pipeline::{
    Endpoint, Family, Flow, LabelChanges, LabelValue, Naming, ReadingLabels, Rendered, Series, Timestamp,
    Unit,
};

use super::config::Config;
use super::details::Details;
use super::key::{Cell, Key, KeyInputs};
use flowtap_pipeline::catalog::{FAMILIES, FamilyId};
use flowtap_pipeline::catalog::{Label, LabelSet};

/// One family.
#[derive(Debug)]
struct Exposed {
    family: &'static Family,
    enabled: bool,
    labels: Vec<Label>,
    /// Number of leading labels that distinguish series; the remaining ones have few values.
    own: usize,
    set: LabelSet,
}

/// Every family, and the rows of details that keys point to.
#[derive(Debug)]
pub(super) struct Catalog {
    families: [Exposed; FAMILIES.len()],
    naming: Naming,
    changes: Arc<LabelChanges>,
    details: Details,
    /// Labels that series share.
    shared: HashSet<Arc<Rendered>>,
}

impl Catalog {
    pub(super) fn new(config: &Config, changes: &Arc<LabelChanges>) -> Self {
        let exposed = |id: FamilyId| {
            let definition = &FAMILIES[id as usize];
            let own = config.families.get(definition.family.name);
            let mut labels = config.labels_of(id);
            labels.retain(|label| !changes.drop.contains(label));
            let last_of_its_own = labels.iter().rposition(|label| !label.has_few_values());
            Exposed {
                family: match own.and_then(|own| own.buckets.as_ref()) {
                    Some(buckets) => definition.named(config.naming).with_kind(buckets.kind()),
                    None => definition.named(config.naming),
                },
                own: last_of_its_own.map_or(0, |last| last + 1),
                enabled: definition.is_of(config.naming)
                    && own.and_then(|own| own.enabled).unwrap_or(definition.enabled),
                set: LabelSet::new(&labels),
                labels,
            }
        };
        Self {
            families: FamilyId::ALL.map(exposed),
            naming: config.naming,
            changes: Arc::clone(changes),
            details: Details::default(),
            shared: HashSet::new(),
        }
    }

    /// Whether series of each family are the same here as in `before`: it is exposed under the same name, with the same labels, in
    /// whatever order, and buckets.
    pub(super) fn continues(&self, before: &Self) -> [bool; FAMILIES.len()] {
        let same_names = before.changes == self.changes;
        std::array::from_fn(|family| {
            let (before, now) = (&before.families[family], &self.families[family]);
            before.enabled
                && now.enabled
                && before.set == now.set
                && *before.family == *now.family
                && same_names
        })
    }

    /// Takes over the rows of details and the shared labels that series of `before` have.
    pub(super) fn take_over(&mut self, before: Self) {
        self.details = before.details;
        self.shared = before.shared;
    }

    /// Name, unit and help, shared by all series of a family.
    pub(super) const fn family(&self, id: FamilyId) -> &'static Family {
        self.families[id as usize].family
    }

    /// Naming of metrics and labels.
    pub(super) const fn naming(&self) -> Naming {
        self.naming
    }

    /// `microseconds` in the unit of a family.
    pub(super) fn duration(&self, id: FamilyId, microseconds: u32) -> f64 {
        match self.family(id).unit {
            Unit::Seconds => f64::from(microseconds) / 1e6,
            _ => f64::from(microseconds),
        }
    }

    /// Whether a family is exposed at all.
    pub(super) const fn is_enabled(&self, family: FamilyId) -> bool {
        self.families[family as usize].enabled
    }

    /// Whether all labels of a family have few values: its series are never folded, since there would be as many `other`.
    pub(super) const fn has_few_series(&self, family: FamilyId) -> bool {
        self.families[family as usize].own == 0
    }

    /// The key of `flow`'s series in `family`; `None` if the family is not exposed.
    pub(super) fn key(&mut self, family: FamilyId, flow: &Flow, inputs: KeyInputs<'_>) -> Option<Key> {
        let exposed = &self.families[family as usize];
        exposed.enabled.then(|| {
            let details = self.details.index(exposed.set, flow, inputs.qname);
            Key::new(family, exposed.set, flow, inputs, details)
        })
    }

    /// The key of a series of what has no flow, but a namespace: see [`Key::without_flow`].
    pub(super) fn key_without_flow(
        &mut self,
        family: FamilyId,
        netns: u32,
        inputs: KeyInputs,
        is_unattributed: bool,
    ) -> Option<Key> {
        let exposed = &self.families[family as usize];
        exposed.enabled.then(|| {
            let nobody = Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), 0);
            let flow = Flow {
                netns,
                ..Flow::new(nobody, nobody)
            };
            let details = self.details.index(exposed.set, &flow, None);
            Key::without_flow(family, exposed.set, inputs, details, is_unattributed)
        })
    }

    /// The key of the series of a reading; `None` if the family is not exposed.
    pub(super) fn key_of_reading(&mut self, family: FamilyId, labels: &ReadingLabels) -> Option<Key> {
        let exposed = &self.families[family as usize];
        exposed.enabled.then(|| {
            let details = self.details.index_of_reading(exposed.set, labels);
            Key::of_reading(family, exposed.set, labels, details)
        })
    }

    /// The labels of a family; `None` if the family is not exposed.
    pub(super) fn labels_of(&self, family: FamilyId) -> Option<LabelSet> {
        let exposed = &self.families[family as usize];
        exposed.enabled.then_some(exposed.set)
    }

    /// The key of the series of a count of all connections; `None` if the family is not exposed.
    pub(super) fn key_of_total(&self, cell: Cell) -> Option<Key> {
        let exposed = &self.families[FamilyId::Totals as usize];
        exposed.enabled.then(|| Key::of_total(exposed.set, cell))
    }

    /// The key of a series that counts events; `None` if the family is not exposed.
    pub(super) fn key_of_events(
        &self,
        family: FamilyId,
        event_type: flowtap_pipeline::EventType,
    ) -> Option<Key> {
        let exposed = &self.families[family as usize];
        exposed
            .enabled
            .then(|| Key::of_events(family, exposed.set, event_type))
    }

    /// The series of a key that is new in a store, rendered: done once in its life.
    pub(super) fn open(&mut self, key: &Key, start: Timestamp) -> Series {
        self.details.take(key.details());
        self.render(key, start)
    }

    /// The series of a key that has its row already.
    pub(super) fn render(&mut self, key: &Key, start: Timestamp) -> Series {
        let (family, naming) = (self.family(key.family()), self.naming);
        let exposed = &self.families[key.family() as usize];
        let (own, shared) = exposed.labels.split_at(exposed.own);
        let value = |label: &Label| {
            (
                self.changes.name(*label, naming),
                key.value(*label, naming, &self.details),
            )
        };
        let constants = self.changes.add.iter();
        let constants = constants.map(|(name, value)| (&**name, LabelValue::Text(value)));
        let rendered = Rendered::new(family, shared.iter().map(value).chain(constants));
        let shared = if let Some(known) = self.shared.get(&rendered) {
            Arc::clone(known)
        } else {
            let new = Arc::new(rendered);
            self.shared.insert(Arc::clone(&new));
            new
        };
        Series::new(family, own.iter().map(value), Some(shared), start)
    }

    /// The key's series has left its store.
    pub(super) fn close(&mut self, key: &Key) {
        self.details.release(key.details());
    }

    /// Frees what no series needs any more.
    pub(super) fn sweep(&mut self) {
        self.details.sweep();
        self.shared.retain(|shared| Arc::strong_count(shared) > 1);
        if self.shared.capacity() > self.shared.len() * 4 {
            self.shared.shrink_to(self.shared.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packed::Direction;
    use super::*;
    use crate::testing::record;
    use crate::window::config::FamilyConfig;
    use flowtap_pipeline::{FlowKind, PeerClass};

    fn labels_of(config: &Config, family: FamilyId) -> Option<String> {
        let mut catalog = Catalog::new(config, &Arc::default());
        let record = record("192.0.2.1:443", "198.51.100.7:40000").with_flow(|flow| Flow {
            kind: Some(FlowKind::Ingress),
            class: Some(PeerClass::ExternalHosts),
            pid: 7,
            ..flow
        });
        let inputs = KeyInputs {
            direction: Some(Direction::Inbound),
            ..KeyInputs::default()
        };
        let key = catalog.key(family, &record.flow, inputs)?;
        Some(catalog.open(&key, Timestamp::from_nanos(1)).joined_labels())
    }

    #[test]
    fn labels_are_the_go_exporters_unless_the_config_says_otherwise() {
        let mut config = Config::default();
        assert_eq!(
            labels_of(&config, FamilyId::Ingress).unwrap(),
            r#"lport="443",raddr="198.51.100.7",direction="inbound",type="externalHosts""#
        );
        let own = FamilyConfig {
            labels: Some(vec![Label::Type, Label::Pid, Label::Laddr]),
            ..FamilyConfig::default()
        };
        config.families.insert("network_tcp_flow_ingress".to_owned(), own);
        assert_eq!(
            labels_of(&config, FamilyId::Ingress).unwrap(),
            r#"type="externalHosts",pid="7",laddr="192.0.2.1""#
        );
        assert_eq!(labels_of(&config, FamilyId::Dns).unwrap(), "");
    }

    #[test]
    fn by_opentelemetrys_naming_labels_are_of_the_semantic_conventions() {
        let config = Config {
            naming: Naming::Otel,
            ..Config::default()
        };
        assert_eq!(
            labels_of(&config, FamilyId::Io).unwrap(),
            r#"network_peer_address="198.51.100.7",server_port="443",network_io_direction="receive",flowtap_role="ingress",flowtap_peer_class="externalHosts",network_type="ipv4""#
        );
        assert_eq!(labels_of(&config, FamilyId::Ingress), None);
        assert_eq!(labels_of(&Config::default(), FamilyId::Io), None);
    }

    #[test]
    fn a_family_that_is_not_enabled_has_no_series() {
        let mut config = Config::default();
        let own = FamilyConfig {
            enabled: Some(false),
            ..FamilyConfig::default()
        };
        config.families.insert("network_flow_dns".to_owned(), own);
        assert_eq!(labels_of(&config, FamilyId::Dns), None);
    }

    #[test]
    fn a_folded_series_keeps_the_labels_of_few_values() {
        let mut catalog = Catalog::new(&Config::default(), &Arc::default());
        let record = record("192.0.2.1:40000", "198.51.100.7:443").with_flow(|flow| Flow {
            class: Some(PeerClass::Docker),
            ..flow
        });
        let inputs = KeyInputs {
            direction: Some(Direction::Inbound),
            ..KeyInputs::default()
        };
        let key = catalog.key(FamilyId::Egress, &record.flow, inputs).unwrap();
        let series = catalog.open(&key.folded(), Timestamp::from_nanos(1));
        assert_eq!(
            series.joined_labels(),
            r#"raddr="other",rport="other",direction="inbound",type="docker""#
        );
    }
}
