//! A metric family as the files of the catalogue state it, and the definition that follows from it.

use super::definition::Definition;
use super::label::Label;
use crate::family::{Family, FamilyKind, Naming};
use crate::unit::Unit;

/// A family for both namings. Help and unit are written once: OpenTelemetry's naming has the same, unless the entry states another.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Names by the Go exporter's naming and by OpenTelemetry's.
    pub(super) names: [&'static str; 2],
    pub(super) help: &'static str,
    /// Another help by OpenTelemetry's naming, where its name has the unit, or where it counts otherwise.
    pub(super) otel_help: Option<&'static str>,
    pub(super) unit: Unit,
    /// Another unit by OpenTelemetry's naming.
    pub(super) otel_unit: Option<Unit>,
    /// Types by the Go exporter's naming and by OpenTelemetry's.
    pub(super) kinds: [FamilyKind; 2],
    pub(super) labels: &'static [Label],
    pub(super) more: &'static [Label],
    pub(super) details: &'static [Label],
    pub(super) enabled: bool,
    pub(super) only: Option<Naming>,
}

/// A sum that only grows.
pub(super) const COUNTER: [FamilyKind; 2] = [FamilyKind::Counter; 2];
/// A value that has no meaning as a sum of series.
pub(super) const GAUGE: [FamilyKind; 2] = [FamilyKind::Gauge; 2];
/// A number of things that there are now, which series can be added up for.
pub(super) const COUNT: [FamilyKind; 2] = [FamilyKind::Gauge, FamilyKind::UpDownCounter];

/// Observations in buckets with these upper bounds.
pub(super) const fn histogram(bounds: &'static [f64]) -> [FamilyKind; 2] {
    [FamilyKind::Histogram(bounds); 2]
}

impl Entry {
    /// A counter without a name, a help or a label, for the fields that an entry leaves out.
    pub(super) const EMPTY: Self = Self {
        names: [""; 2],
        help: "",
        otel_help: None,
        unit: Unit::Bytes,
        otel_unit: None,
        kinds: COUNTER,
        labels: &[],
        more: &[],
        details: &[],
        enabled: true,
        only: None,
    };

    pub(super) const fn definition(&self) -> Definition {
        let help = match self.otel_help {
            Some(help) => help,
            None => self.help,
        };
        let unit = match self.otel_unit {
            Some(unit) => unit,
            None => self.unit,
        };
        Definition {
            family: Family {
                name: self.names[0],
                naming: Naming::PrimusLens,
                help: self.help,
                unit: self.unit,
                kind: self.kinds[0],
            },
            otel: Family {
                name: self.names[1],
                naming: Naming::Otel,
                help,
                unit,
                kind: self.kinds[1],
            },
            labels: self.labels,
            more: self.more,
            details: self.details,
            enabled: self.enabled,
            only: self.only,
        }
    }
}
