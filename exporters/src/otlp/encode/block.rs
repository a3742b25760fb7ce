//! The points of one metric: those of series that have ended, then the live ones.

use flowtap_pipeline::{Family, FamilySnapshot, Points, Series, Snapshot, Timestamp};

use crate::otlp::ended::Ended;

/// The points of one `Metric`: the series of a family that have ended, then its live points. A series of the same labels may have
/// begun since one ended, and points of one stream have to come in the order of their times.
pub(super) struct Block<'a> {
    pub(super) family: &'static Family,
    pub(super) points: &'a Points,
    pub(super) ended: &'a [(Timestamp, Series)],
}

/// The live points of a family that has none.
static NO_POINTS: Points = Points::Sums(Vec::new());

impl<'a> Block<'a> {
    /// Of a snapshot's families, each in its place; differences have no ends.
    pub(super) fn of_deltas(snapshot: &'a Snapshot) -> Vec<Self> {
        let families = snapshot.families.iter();
        families.map(|family| Self::new(family, &[])).collect()
    }

    /// Families that have ended series only come first: one of them may be as a live one was before a reload.
    pub(super) fn of_totals(snapshot: &'a Snapshot, ended: &'a Ended) -> Vec<Self> {
        let live = || {
            snapshot
                .families
                .iter()
                .filter(|family| !family.points.is_empty())
        };
        let is_live = |gone: &'static Family| live().any(|family| family.family == gone);
        let gone = ended.families().filter(|(family, _)| !is_live(family));
        let gone = gone.map(|(family, ended)| Self {
            family,
            points: &NO_POINTS,
            ended,
        });
        gone.chain(live().map(|family| Self::new(family, ended.of(family.family))))
            .collect()
    }

    /// Of series that have ended alone, in the order of time, then of the live ones: for so many that some requests have none but these.
    ///
    /// A Prometheus writes a sample of `target_info` for each request, at its newest point, and refuses the request if it has a later
    /// one: an earlier request may not have a later point.
    pub(super) fn of_totals_apart(snapshot: &'a Snapshot, ended: &'a Ended) -> Vec<Self> {
        let gone = ended.by_time().into_iter().map(|(family, ended)| Self {
            family,
            points: &NO_POINTS,
            ended,
        });
        gone.chain(Self::of_deltas(snapshot)).collect()
    }

    const fn new(family: &'a FamilySnapshot, ended: &'a [(Timestamp, Series)]) -> Self {
        Self {
            family: family.family,
            points: &family.points,
            ended,
        }
    }

    /// Maximum number of points.
    pub(super) fn count(&self) -> usize {
        self.ended.len() + self.points.len()
    }
}
