//! The state of the series of each pipeline at a peer, as an exporter shares it with the one that replaces it.
//!
//! A reload that changes a key of an exporter replaces it. For the peer it is the same exporter: a 0 or a stale marker that the one
//! before owes is sent by the next one, and series that began meanwhile are new to the peer.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowtap_pipeline::{BuildContext, Snapshot, Timestamp};

use super::fate::{Fate, Fates};
use super::lock;
use super::markers::{Ended, Held, Markers};
use super::zeros::{Carried, Starts, Zeros};

/// State of the series at one peer. Cloning it shares it: what an exporter that is given up still settles counts for the next one.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// The address of the peer.
    peer: String,
    /// The directory of requests on disk, whose numbers are in what follows.
    storage: Option<PathBuf>,
    /// When the exporter began, or the first of those that it goes on for, if it sends zeros.
    began: Option<Timestamp>,
    /// By pipeline.
    lanes: Arc<Mutex<HashMap<Arc<str>, Lane>>>,
    zeros: Arc<Mutex<Zeros>>,
    markers: Arc<Mutex<Markers>>,
    fates: Fates,
}

/// State of one pipeline.
#[derive(Clone, Debug, Default)]
struct Lane {
    /// When its last snapshot went on.
    passed: Option<Timestamp>,
    held: Held,
}

/// The part of a snapshot's request that depends on the requests before it.
#[derive(Debug)]
pub(crate) struct Noted {
    /// Series that have ended, in the order of their times; `None` if the snapshot does not go on.
    pub(crate) ended: Option<Vec<Ended>>,
    pub(crate) starts: Starts,
    pub(crate) held: Held,
}

impl Lane {
    /// Whether `snapshot` passes. Ticks come a moment early or late; a twentieth of the interval is
    /// tolerated.
    fn is_due(&mut self, snapshot: &Snapshot, interval: Duration) -> bool {
        let slack = interval / 20;
        let due = snapshot.last
            || snapshot.replaced
            || self
                .passed
                .is_none_or(|passed| snapshot.at < passed || snapshot.at.since(passed) + slack >= interval);
        if due {
            self.passed = Some(snapshot.at);
        }
        due
    }
}

impl Progress {
    /// Of an exporter that begins now, and sends zeros if `sends_zeros`.
    pub(crate) fn new(
        peer: String,
        storage: Option<&Path>,
        sends_zeros: bool,
        context: &BuildContext,
    ) -> Self {
        Self {
            peer,
            storage: storage.map(Path::to_owned),
            began: sends_zeros.then(Timestamp::now),
            lanes: Arc::default(),
            zeros: Arc::default(),
            markers: Arc::new(Mutex::new(Markers::new(context))),
            fates: Fates::default(),
        }
    }

    /// Goes on where `before` ends, if it has the same peer. Returns the fates of requests that were on disk, if the numbers of those
    /// that are still there mean nothing any more.
    pub(crate) fn take_over(&mut self, before: &Self) -> Option<VecDeque<(u64, Fate)>> {
        let stays = self.storage == before.storage;
        if stays {
            self.fates = before.fates.clone();
        }
        if self.peer == before.peer {
            self.began = self.began.map(|began| before.began.unwrap_or(began));
            self.lanes = Arc::clone(&before.lanes);
            self.zeros = Arc::clone(&before.zeros);
            self.markers = Arc::clone(&before.markers);
        }
        (!stays).then(|| {
            let fates = before.fates.take();
            before.settle_stored(&fates);
            lock(&before.zeros).leave_stored();
            lock(&before.markers).leave_stored();
            fates
        })
    }

    /// Where requests on disk leave their fates.
    pub(crate) const fn fates(&self) -> &Fates {
        &self.fates
    }

    /// Takes the fates of requests with points that were [stored](Fate::Stored), in the order in which it happened.
    pub(crate) fn take_fates(&self) -> VecDeque<(u64, Fate)> {
        let fates = self.fates.take();
        self.settle_stored(&fates);
        fates
    }

    fn settle_stored(&self, fates: &VecDeque<(u64, Fate)>) {
        let (mut markers, mut zeros) = (lock(&self.markers), lock(&self.zeros));
        for (number, fate) in fates {
            markers.settle_stored(*number, *fate);
            zeros.settle_stored(*number, *fate);
        }
    }

    /// Notes `snapshot`, after the fates of those before it; one per `interval` goes on.
    pub(crate) fn note(&self, snapshot: &Snapshot, interval: Duration) -> Noted {
        let mut lanes = lock(&self.lanes);
        let lane = lanes.entry(Arc::clone(&snapshot.pipeline)).or_default();
        let (mut markers, mut zeros) = (lock(&self.markers), lock(&self.zeros));
        markers.note(snapshot, lane.held.before(snapshot).as_deref());
        zeros.forget_ended(snapshot);
        let starts = self.began.map_or_else(Starts::default, |began| {
            zeros.starts(lane.passed.unwrap_or(began).max(began))
        });
        let due = lane.is_due(snapshot, interval);
        Noted {
            ended: due.then(|| markers.take(snapshot)),
            starts,
            held: lane.held.clone(),
        }
    }

    /// A request of `pipeline` with `carried` and the markers of `ended` has met `fate`.
    pub(crate) fn settle(&self, pipeline: &Arc<str>, carried: Vec<Carried>, ended: Vec<Ended>, fate: Fate) {
        lock(&self.zeros).settle(carried, fate);
        lock(&self.markers).settle(pipeline, ended, fate);
    }
}

/// The parts of a snapshot that are under way: where its exporter is given up, they have failed.
pub(crate) struct UnderWay<'a, T, F>
where
    F: FnMut() -> Option<T>,
{
    next: F,
    /// The part that was taken last, until it is settled.
    current: Option<(Vec<Carried>, Vec<Ended>)>,
    split: fn(&mut T) -> (Vec<Carried>, Vec<Ended>),
    progress: &'a Progress,
    pipeline: &'a Arc<str>,
}

impl<'a, T, F> UnderWay<'a, T, F>
where
    F: FnMut() -> Option<T>,
{
    /// The parts that `next` returns, of which `split` takes the series and the markers whose fate matters.
    pub(crate) const fn new(
        progress: &'a Progress,
        pipeline: &'a Arc<str>,
        split: fn(&mut T) -> (Vec<Carried>, Vec<Ended>),
        next: F,
    ) -> Self {
        Self {
            next,
            current: None,
            split,
            progress,
            pipeline,
        }
    }

    /// The next part; the one before must be settled.
    pub(crate) fn next(&mut self) -> Option<T> {
        let mut part = (self.next)()?;
        self.current = Some((self.split)(&mut part));
        Some(part)
    }

    /// The part that was taken last has met `fate`.
    pub(crate) fn settle(&mut self, fate: Fate) {
        if let Some((carried, ended)) = self.current.take() {
            self.progress.settle(self.pipeline, carried, ended, fate);
        }
    }
}

impl<T, F> Drop for UnderWay<'_, T, F>
where
    F: FnMut() -> Option<T>,
{
    fn drop(&mut self) {
        // The peer may have it: then it refuses the 0 that comes once more.
        self.settle(Fate::Failed { content: true });
        while self.next().is_some() {
            self.settle(Fate::Failed { content: false });
        }
    }
}
