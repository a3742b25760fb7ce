//! Series that have ended, until a request that says so was delivered.
//!
//! A marker that could not be delivered has the time of the window of its next request: so it is not out of order, however late.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowtap_pipeline::{BuildContext, Family, Points, Series, SeriesId, Snapshot, Timestamp};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use super::fate::Fate;
use super::{ended_at, nanos};

/// Series whose markers are kept, of all pipelines; those beyond go without, and are counted. Prometheus forgets them by itself, after
/// five minutes.
const MAX_ENDED: usize = 100_000;

/// A series that ended, and when.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) at: Timestamp,
    pub(crate) family: &'static Family,
    pub(crate) series: Series,
}

/// Markers that are due, or under way.
#[derive(Debug)]
pub(crate) struct Markers {
    /// By pipeline: those for the next request.
    due: HashMap<Arc<str>, Vec<Ended>>,
    /// By pipeline: those of requests that failed.
    late: HashMap<Arc<str>, Vec<Ended>>,
    /// Of requests on disk, with the number of those that there was no room for.
    stored: BTreeMap<u64, (Arc<str>, Vec<Ended>, usize)>,
    dropped: Dropped,
}

/// Counts markers that were dropped.
#[derive(Clone, Debug)]
struct Dropped {
    counter: Counter<u64>,
    attributes: [KeyValue; 1],
}

impl Dropped {
    fn add(&self, series: usize) {
        self.counter.add(series as u64, &self.attributes);
    }
}

impl Markers {
    pub(crate) fn new(context: &BuildContext) -> Self {
        let counter = context
            .meter
            .u64_counter("exporter_dropped_stale_markers")
            .with_description(
                "Series that ended without a marker in the store, because too many ended at a time.",
            )
            .with_unit("{series}")
            .build();
        let dropped = Dropped {
            counter,
            attributes: [KeyValue::new("exporter", context.id.to_string())],
        };
        dropped.add(0);
        Self {
            due: HashMap::new(),
            late: HashMap::new(),
            stored: BTreeMap::new(),
            dropped,
        }
    }

    fn room(&self) -> usize {
        let waiting = self.due.values().chain(self.late.values()).map(Vec::len);
        let stored = self.stored.values().map(|(_, kept, _)| kept.len());
        MAX_ENDED.saturating_sub(waiting.chain(stored).sum())
    }

    /// Keeps what ended in `snapshot`, and what ended in snapshots between it and `before` that did not come.
    pub(crate) fn note(&mut self, snapshot: &Snapshot, before: Option<&Snapshot>) {
        let at = ended_at(snapshot);
        let listed = snapshot.families.iter().flat_map(|family| {
            let ended = family.ended.iter();
            ended.map(|series| (family.family, series.clone()))
        });
        let mut ended: Vec<_> = listed
            .chain(
                before
                    .into_iter()
                    .flat_map(|before| ended_between(before, snapshot)),
            )
            .map(|(family, series)| Ended { at, family, series })
            .collect();
        if ended.is_empty() {
            return;
        }
        let room = self.room();
        self.dropped.add(ended.len().saturating_sub(room));
        ended.truncate(room);
        let due = self.due.entry(Arc::clone(&snapshot.pipeline)).or_default();
        due.extend(ended);
    }

    /// Takes the markers that go with `snapshot`, in the order of their times.
    pub(crate) fn take(&mut self, snapshot: &Snapshot) -> Vec<Ended> {
        let due = self.due.remove(&snapshot.pipeline).unwrap_or_default();
        let Some(late) = self.late.remove(&snapshot.pipeline) else {
            return due;
        };
        let mut late = without_successors(late, snapshot);
        for ended in &mut late {
            ended.at = ended.at.max(ended_at(snapshot));
        }
        let mut all = due;
        all.extend(late);
        all.sort_by_key(|ended| ended.at);
        all
    }

    /// A request of `pipeline` with the markers of `ended` has met `fate`.
    pub(crate) fn settle(&mut self, pipeline: &Arc<str>, ended: Vec<Ended>, fate: Fate) {
        if ended.is_empty() || fate == Fate::Delivered {
            return;
        }
        let room = self.room();
        let without = ended.len().saturating_sub(room);
        let mut kept = ended;
        kept.truncate(room);
        if let Fate::Stored(number) = fate {
            self.stored.insert(number, (Arc::clone(pipeline), kept, without));
            return;
        }
        self.dropped.add(without);
        self.late.entry(Arc::clone(pipeline)).or_default().extend(kept);
    }

    /// The request on disk of this `number` has met `fate`.
    pub(crate) fn settle_stored(&mut self, number: u64, fate: Fate) {
        let Some((pipeline, kept, without)) = self.stored.remove(&number) else {
            return;
        };
        if fate != Fate::Delivered {
            self.dropped.add(without);
            self.late.entry(pipeline).or_default().extend(kept);
        }
    }
}

impl Markers {
    /// Requests on disk are left there: their markers are late.
    pub(crate) fn leave_stored(&mut self) {
        while let Some((number, _)) = self.stored.first_key_value() {
            self.settle_stored(*number, Fate::Failed { content: false });
        }
    }
}

/// Those of `late` whose labels no live series of `snapshot` has that began later: its samples replace the marker.
fn without_successors(mut late: Vec<Ended>, snapshot: &Snapshot) -> Vec<Ended> {
    let Some(oldest) = late.iter().map(|ended| ended.series.start()).min() else {
        return late;
    };
    let families: HashSet<_> = late.iter().map(|ended| ended.family.name).collect();
    let mut successors = HashSet::new();
    for family in snapshot
        .families
        .iter()
        .filter(|family| families.contains(family.family.name))
    {
        each_series(&family.points, |series| {
            if series.start() > oldest {
                successors.insert((family.family.name, series.labels().concat()));
            }
        });
    }
    late.retain(|ended| !successors.contains(&(ended.family.name, ended.series.labels().concat())));
    late
}

/// Series that were live in `before`, and are not in `now`, nor among those that ended in its window.
fn ended_between(before: &Snapshot, now: &Snapshot) -> Vec<(&'static Family, Series)> {
    let mut known: HashSet<SeriesId> = HashSet::new();
    for family in &now.families {
        each_series(&family.points, |series| {
            known.insert(series.id());
        });
        known.extend(family.ended.iter().map(Series::id));
    }
    let mut ended = Vec::new();
    for family in &before.families {
        each_series(&family.points, |series| {
            if !known.contains(&series.id()) {
                ended.push((family.family, series.clone()));
            }
        });
    }
    ended
}

fn each_series(points: &Points, mut each: impl FnMut(&Series)) {
    match points {
        Points::Sums(points) => points.iter().for_each(|point| each(&point.series)),
        Points::Values(points) => points.iter().for_each(|point| each(&point.series)),
        Points::Histograms(points) => points.iter().for_each(|point| each(&point.series)),
    }
}

/// The last snapshot of a pipeline, if its requests took so long that a queue may have dropped later ones. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<Mutex<Option<Arc<Snapshot>>>>);

impl Held {
    /// The requests of `snapshot` have taken this long.
    pub(crate) fn note(&self, snapshot: Arc<Snapshot>, took: Duration) {
        if took >= snapshot.window {
            *super::lock(&self.0) = Some(snapshot);
        }
    }

    /// The one before `snapshot`, if snapshots between them did not come.
    pub(crate) fn before(&self, snapshot: &Snapshot) -> Option<Arc<Snapshot>> {
        let before = super::lock(&self.0).take()?;
        // A window is of its length but for a moment.
        let opened = snapshot.at.as_nanos().saturating_sub(nanos(snapshot.window));
        let slack = nanos(snapshot.window / 2);
        (opened > before.at.as_nanos().saturating_add(slack)).then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, many};

    fn at(mut snapshot: Snapshot, second: u64) -> Snapshot {
        snapshot.at = Timestamp::from_nanos(second * 1_000_000_000);
        snapshot
    }

    fn times(ended: &[Ended]) -> Vec<u64> {
        let milliseconds = |ended: &Ended| ended.at.as_nanos() / 1_000_000;
        ended.iter().map(milliseconds).collect()
    }

    #[test]
    fn a_marker_is_kept_until_its_request_is_delivered_and_is_never_out_of_order() {
        let mut markers = Markers::new(&context());
        let mut first = at(many(1), 10);
        let Points::Sums(points) = &mut first.families[0].points else {
            panic!("sums")
        };
        let gone = points.pop().unwrap().series;
        first.families[0].ended.push(gone);
        markers.note(&first, None);
        let ended = markers.take(&first);
        assert_eq!(times(&ended), [5_001]);
        let away = Fate::Failed { content: false };
        markers.settle(&first.pipeline, ended, away);
        let next = at(
            Snapshot {
                families: Vec::new(),
                ..many(0)
            },
            20,
        );
        markers.note(&next, None);
        let ended = markers.take(&next);
        assert_eq!(times(&ended), [15_001]);
        markers.settle(&first.pipeline, ended.clone(), Fate::Stored(3));
        assert!(markers.take(&next).is_empty());
        markers.settle_stored(3, away);
        // A series of the same labels has begun since.
        let mut successor = at(many(1), 25);
        let family = successor.families[0].family;
        let Points::Sums(points) = &mut successor.families[0].points else {
            panic!("sums")
        };
        let labels = [("raddr", flowtap_pipeline::LabelValue::Text("peer-0"))];
        let start = Timestamp::from_nanos(21_000_000_000);
        points[0].series = Series::new(family, labels, None, start);
        assert!(markers.take(&successor).is_empty());
        markers.settle(&first.pipeline, ended, away);
        assert_eq!(times(&markers.take(&next)), [15_001]);
    }

    #[test]
    fn markers_beyond_the_bound_are_dropped() {
        let mut markers = Markers::new(&context());
        let mut window = at(many(1), 10);
        let Points::Sums(points) = &window.families[0].points else {
            panic!("sums")
        };
        let gone = points[0].series.clone();
        window.families[0].ended = vec![gone; 60_000];
        markers.note(&window, None);
        markers.note(&window, None);
        assert_eq!(markers.take(&window).len(), MAX_ENDED);
    }

    #[test]
    fn series_that_end_in_snapshots_that_did_not_come_are_ended() {
        let (held, mut markers) = (Held::default(), Markers::new(&context()));
        let before = Arc::new(at(many(3), 10));
        held.note(Arc::clone(&before), Duration::from_secs(4));
        assert!(held.before(&at(many(0), 40)).is_none(), "it took no window");
        held.note(Arc::clone(&before), Duration::from_secs(30));
        assert!(held.before(&at(many(0), 15)).is_none(), "the next one has come");
        held.note(Arc::clone(&before), Duration::from_secs(30));
        let mut now = Snapshot::clone(&before);
        now = at(now, 40);
        if let Points::Sums(points) = &mut now.families[0].points {
            points.truncate(1);
        }
        markers.note(&now, held.before(&now).as_deref());
        assert_eq!(times(&markers.take(&now)), [35_001, 35_001]);
    }
}
