//! Series that have ended since the last snapshot that was passed on.

use flowtap_pipeline::{Family, HISTOGRAM_BUCKETS, Series, Snapshot, Timestamp};

use crate::push::ended_at;
use crate::push::markers::Ended as Marker;

/// Series that have ended, by family: from the windows since the last that went on, so no more than there can be series in
/// that time. A family that a reload disabled, renamed or gave other buckets is in one of these windows only, so families are known
/// by themselves, not by their place in a snapshot.
#[derive(Debug, Default)]
pub(super) struct Ended(Vec<(&'static Family, Vec<(Timestamp, Series)>)>);

impl Ended {
    /// Those of `markers`, which are in the order of their times.
    pub(super) fn new(markers: Vec<Marker>) -> Self {
        let mut ended = Self::default();
        for Marker { at, family, series } in markers {
            ended.push(family, at, series);
        }
        ended
    }

    /// Those of `snapshot`.
    pub(super) fn add(&mut self, snapshot: &Snapshot) {
        let at = ended_at(snapshot);
        for family in &snapshot.families {
            for series in &family.ended {
                self.push(family.family, at, series.clone());
            }
        }
    }

    fn push(&mut self, family: &'static Family, at: Timestamp, series: Series) {
        let known = self.0.iter().position(|(known, _)| *known == family);
        let place = known.unwrap_or_else(|| {
            self.0.push((family, Vec::new()));
            self.0.len() - 1
        });
        self.0[place].1.push((at, series));
    }

    /// Each family of which a series has ended, with these series and the times of their ends.
    pub(super) fn families(&self) -> impl Iterator<Item = (&'static Family, &[(Timestamp, Series)])> {
        self.0.iter().map(|(family, ended)| (*family, &**ended))
    }

    /// The same in the order of their times, each time and family with its series.
    pub(super) fn by_time(&self) -> Vec<(&'static Family, &[(Timestamp, Series)])> {
        let mut runs: Vec<_> = self
            .families()
            .flat_map(|(family, ended)| {
                let runs = ended.chunk_by(|(one, _), (next, _)| one == next);
                runs.map(move |run| (family, run))
            })
            .collect();
        runs.sort_by_key(|(_, run)| run[0].0);
        runs
    }

    /// Number of series, and an upper bound of the bytes of their points.
    pub(super) fn size(&self) -> (u64, usize) {
        // Times, flags, and a histogram's counts and bounds.
        const FIXED: usize = 64 + 2 * 8 * (HISTOGRAM_BUCKETS + 1);
        // Name, description and unit of a family.
        const HEAD: usize = 1024;
        let series = || self.families().flat_map(|(_, ended)| ended);
        let bytes: usize = series().map(|(_, series)| FIXED + series.attributes_len()).sum();
        (series().count() as u64, bytes + HEAD * self.families().count())
    }

    pub(super) fn of(&self, family: &'static Family) -> &[(Timestamp, Series)] {
        let mut families = self.families();
        families
            .find(|(known, _)| *known == family)
            .map_or(&[], |(_, ended)| ended)
    }
}
