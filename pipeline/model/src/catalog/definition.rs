//! The definition of a metric family: its names, and its labels.

use super::label::Label;
use crate::family::{Family, Naming};

/// A family, and the labels that it has and can have.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Name, unit and help by the Go exporter's naming. This name identifies the family in a
    /// config.
    pub family: Family,
    /// The same by OpenTelemetry's naming.
    pub otel: Family,
    /// Labels unless the config says otherwise, in the order in which they are rendered.
    pub labels: &'static [Label],
    /// Further labels that the config can select.
    pub more: &'static [Label],
    /// The same, of one connection or process.
    pub details: &'static [Label],
    /// Whether it is exposed unless the config says otherwise.
    pub enabled: bool,
    /// The only naming that has it; `None` if each has.
    pub only: Option<Naming>,
}

/// Labels that do not change while a connection lives. Others would let a gauge count up in one
/// series and down in another.
pub(super) const STABLE_LABELS: &[Label] = &[Label::Laddr, Label::Netns];

impl Definition {
    /// Name, unit and help, shared by all its series.
    pub const fn named(&self, naming: Naming) -> &Family {
        match naming {
            Naming::PrimusLens => &self.family,
            Naming::Otel => &self.otel,
        }
    }

    /// Its labels unless the config says otherwise. By OpenTelemetry's naming an address has its type beside it.
    pub fn labels_by_default(&self, naming: Naming) -> Vec<Label> {
        let mut labels = self.labels.to_vec();
        labels.retain(|label| self.possible(naming).any(|possible| possible == *label));
        if naming == Naming::Otel && labels.contains(&Label::Raddr) {
            labels.push(Label::NetworkType);
        }
        labels
    }

    /// Every label that it can have. OpenTelemetry's round-trip time is of a connection, so it has no direction.
    pub fn possible(&self, naming: Naming) -> impl Iterator<Item = Label> {
        let is_rtt = self.family.name == "network_tcp_flow_rtt";
        let without = (is_rtt && naming == Naming::Otel).then_some(Label::Direction);
        [self.labels, self.more, self.details]
            .into_iter()
            .flatten()
            .copied()
            .filter(move |label| Some(*label) != without)
    }

    /// Whether a naming has the family.
    pub fn is_of(&self, naming: Naming) -> bool {
        self.only.is_none_or(|only| only == naming)
    }
}
