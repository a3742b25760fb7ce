//! Series that have ended since the last snapshot that was passed on.

use flowtap_pipeline::{Family, Series, Snapshot, Timestamp};

use crate::push::ended_at;

/// Series that have ended, by family: from the windows since the last that went on, so no more than there can be series in
/// that time. A family that a reload disabled, renamed or gave other buckets is in one of these windows only, so families are known
/// by themselves, not by their place in a snapshot.
#[derive(Debug, Default)]
pub(super) struct Ended(Vec<(&'static Family, Vec<(Timestamp, Series)>)>);

impl Ended {
    pub(super) fn add(&mut self, snapshot: &Snapshot) {
        let at = ended_at(snapshot);
        for family in snapshot.families.iter().filter(|family| !family.ended.is_empty()) {
            let known = self.0.iter().position(|(known, _)| *known == family.family);
            let place = known.unwrap_or_else(|| {
                self.0.push((family.family, Vec::new()));
                self.0.len() - 1
            });
            let ended = family.ended.iter().map(|series| (at, series.clone()));
            self.0[place].1.extend(ended);
        }
    }

    /// Each family of which a series has ended, with these series and the times of their ends.
    pub(super) fn families(&self) -> impl Iterator<Item = (&'static Family, &[(Timestamp, Series)])> {
        self.0.iter().map(|(family, ended)| (*family, &**ended))
    }

    pub(super) fn of(&self, family: &'static Family) -> &[(Timestamp, Series)] {
        let mut families = self.families();
        families
            .find(|(known, _)| *known == family)
            .map_or(&[], |(_, ended)| ended)
    }
}
