//! Changes that a pipeline makes to the labels of all its series: constants, other names, labels that are left out.
//!
//! They are the same for every record, so they are not part of records: an aggregator applies them when it is built, and renders them
//! with each series.

use crate::catalog::Label;

/// The changes.
///
/// ```
/// use flowtap_model::LabelChanges;
/// use flowtap_model::catalog::Label;
/// use flowtap_model::Naming;
///
/// let changes = LabelChanges {
///     add: vec![("team".to_owned(), "payments".to_owned())],
///     rename: vec![(Label::Raddr, "peer".to_owned())],
///     drop: vec![Label::Rport],
/// };
/// assert_eq!(changes.name(Label::Raddr, Naming::PrimusLens), "peer");
/// assert_eq!(changes.name(Label::Lport, Naming::PrimusLens), "lport");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelChanges {
    /// Labels that every series has in addition: names and values.
    pub add: Vec<(String, String)>,
    /// Other names of labels.
    pub rename: Vec<(Label, String)>,
    /// Labels that series are summed over, whatever else asks for them.
    pub drop: Vec<Label>,
}

impl LabelChanges {
    /// Whether nothing changes.
    pub const fn is_empty(&self) -> bool {
        self.add.is_empty() && self.rename.is_empty() && self.drop.is_empty()
    }

    /// Adds those of `other`, which apply after its own.
    pub fn merge(&mut self, other: Self) {
        self.add.extend(other.add);
        self.rename.extend(other.rename);
        self.drop.extend(other.drop);
    }

    /// The name under which a label is exposed. Of several the last counts.
    pub fn name(&self, label: Label, naming: crate::family::Naming) -> &str {
        let mut renamed = self.rename.iter().rev();
        let renamed = renamed.find(|(of, _)| *of == label);
        renamed.map_or(label.named(naming), |(_, name)| name)
    }
}
