//! Readings: what a counter or a gauge of a device shows, for receivers whose data is not of connections.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::{FamilyId, Label, LabelSet};

/// A change of one series of a family. It has no flow: no processor classifies or names it, and `filter` keeps it.
///
/// ```
/// use flowtap_model::catalog::{FamilyId, Label};
/// use flowtap_model::{ReadingLabels, ReadingRecord, ReadingValue};
///
/// let labels = ReadingLabels::new([(Label::Port, "1"), (Label::Device, "mlx5_0")]);
/// let record = ReadingRecord::new(FamilyId::RdmaLinkUp, labels, ReadingValue::Level(1));
/// assert_eq!(record.family, "network_rdma_link_up");
/// assert_eq!(record.labels.get(Label::Device), Some("mlx5_0"));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadingRecord {
    /// Name of the family by the Go exporter's naming. Ids differ between versions, so only names leave a receiver.
    pub family: Cow<'static, str>,
    /// Labels of the series; a label of the family that is not among them is empty.
    pub labels: ReadingLabels,
    /// The change.
    pub value: ReadingValue,
}

impl ReadingRecord {
    /// A reading of a family of the catalogue.
    pub const fn new(family: FamilyId, labels: ReadingLabels, value: ReadingValue) -> Self {
        Self {
            family: Cow::Borrowed(family.definition().family.name),
            labels,
            value,
        }
    }
}

/// The value of a reading.
///
/// Of a counter it is the increase, not the total: only the receiver can distinguish a counter that has wrapped from one that was reset, and
/// windows that are added, replaced or fed by several receivers need no value to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadingValue {
    /// The increase of a counter since its last reading; 0 opens the series, or keeps it from expiring.
    Increase(u64),
    /// The value of a gauge, until the next reading with the same labels.
    Level(u64),
    /// The gauge with these labels has no value any more.
    Ended,
}

/// Labels of a reading, each at most once. Cheap to clone: a receiver makes them once per counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<(Label, Box<str>)>")]
pub struct ReadingLabels(Arc<[(Label, Box<str>)]>);

impl ReadingLabels {
    /// The labels `pairs`, in whatever order; of several with one name the first.
    pub fn new(pairs: impl IntoIterator<Item = (Label, impl Into<Box<str>>)>) -> Self {
        let pairs = pairs.into_iter().map(|(label, value)| (label, value.into()));
        Self::from(pairs.collect::<Vec<_>>())
    }

    /// The value of `label`, if it is among them.
    pub fn get(&self, label: Label) -> Option<&str> {
        let index = self.0.binary_search_by_key(&label, |(label, _)| *label).ok()?;
        self.0.get(index).map(|(_, value)| &**value)
    }

    /// Those that are in `labels` and have a value: an empty one is the same as none.
    #[must_use]
    pub fn within(&self, labels: LabelSet) -> Self {
        let pairs = self.0.iter();
        let within = pairs.filter(|(label, value)| labels.has(*label) && !value.is_empty());
        Self(within.cloned().collect())
    }

    /// The labels with their values, in the order of [`Label`].
    pub fn iter(&self) -> impl Iterator<Item = (Label, &str)> {
        self.0.iter().map(|(label, value)| (*label, &**value))
    }
}

impl From<Vec<(Label, Box<str>)>> for ReadingLabels {
    fn from(mut pairs: Vec<(Label, Box<str>)>) -> Self {
        pairs.sort_by_key(|(label, _)| *label);
        pairs.dedup_by_key(|(label, _)| *label);
        Self(pairs.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_same_in_whatever_order_they_are_given() {
        let one = ReadingLabels::new([(Label::Device, "a"), (Label::Counter, "b")]);
        let other = ReadingLabels::new([(Label::Counter, "b"), (Label::Device, "a"), (Label::Device, "c")]);
        assert_eq!(one, other);
        assert_eq!(other.get(Label::Device), Some("a"));
        assert_eq!(other.get(Label::Port), None);
        let within = LabelSet::new(&[Label::Device, Label::Port]);
        let port = ReadingLabels::new([(Label::Device, "a"), (Label::Port, "")]);
        assert_eq!(other.within(within), port.within(within));
    }

    #[test]
    fn every_family_that_takes_readings_is_found_by_its_name_and_is_not_a_histogram() {
        let families = FamilyId::ALL.into_iter().filter(|id| id.takes_readings());
        let mut count = 0;
        for id in families {
            let definition = id.definition();
            assert_eq!(FamilyId::from_name(definition.family.name), Some(id));
            assert!(!definition.family.kind.is_histogram());
            // Labels for all peers, such as `labels` of a window, are not theirs.
            assert!(definition.details.is_empty());
            count += 1;
        }
        assert!(count > 0);
        assert_eq!(FamilyId::from_name("network_rdma"), None);
    }
}
