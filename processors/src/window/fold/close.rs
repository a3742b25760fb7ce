//! The snapshot of a window that closes.

use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::catalog::{FAMILIES, FamilyId};
use flowtap_pipeline::{
    Family, FamilyKind, FamilySnapshot, HistogramPoint, Points, Snapshot, SumPoint, Timestamp, Unit,
    ValuePoint,
};

use super::super::store::Live;
use super::super::value::{Histogram, Sum};
use super::Window;

impl Window {
    /// The series that exist from the start, all of which are at 0 in a window that has just begun.
    pub fn opening(&self) -> Snapshot {
        let mut families: Vec<_> = FamilyId::ALL.map(|id| empty(self.catalog.family(id))).into();
        let is_permanent = self.permanent();
        for (key, series) in self.sums.series() {
            let family = key.family();
            if is_permanent(family)
                && let Points::Sums(points) = &mut families[family as usize].points
            {
                points.push(SumPoint {
                    series: series.clone(),
                    total: 0,
                    delta: 0,
                    updated: self.opened,
                });
            }
        }
        Snapshot {
            pipeline: Arc::clone(&self.pipeline),
            at: self.opened,
            window: Duration::ZERO,
            last: false,
            replaced: false,
            families,
        }
    }

    /// Which families have all their series from the start, and keep them.
    fn permanent(&self) -> impl Fn(FamilyId) -> bool + use<> {
        let keeps_findings = self.keeps_findings();
        move |family| family.is_permanent() || family == FamilyId::Findings && keeps_findings
    }

    /// Closes the window if `to` has reached its end.
    pub fn advance(&mut self, to: Timestamp) -> Option<Snapshot> {
        if to < self.opened {
            // The clock was set back: a window that waits for the old time would wait as long as it was set back by.
            tracing::warn!(now = %to, before = %self.opened, "the clock was set back; windows follow it; \
                hint: let the time service slew the clock");
            return Some(self.close(to, false));
        }
        (to >= self.closes).then(|| self.close(to, false))
    }

    /// Closes the window, however short; nothing follows.
    pub fn finish(&mut self, at: Timestamp) -> Snapshot {
        let snapshot = self.close(at.max(self.opened), true);
        // Its replacement has separate series.
        self.telemetry.record_series(|_| 0, &[[0; FAMILIES.len()]; 2]);
        self.telemetry.record_connections(0);
        snapshot
    }

    /// Number of points that a family has room for when a window closes: a list that grows step by step leaves holes in the heap as
    /// large as itself. A series `other` or two may come on top.
    const fn series_of(&self, family: FamilyId) -> usize {
        let live = self.sums.live()[family as usize] + self.histograms.live()[family as usize];
        live + live / 64
    }

    fn close(&mut self, at: Timestamp, last: bool) -> Snapshot {
        self.fold_levels(at);
        self.open_findings();
        self.fold_totals();
        self.show_listening();
        self.show_readings(at);
        let mut families: Vec<_> = FamilyId::ALL
            .map(|id| {
                let mut family = empty(self.catalog.family(id));
                family.points.reserve(self.series_of(id));
                family
            })
            .into();
        for (family, series) in self.ended.drain(..) {
            families[family as usize].ended.push(series);
        }
        let outranked = [
            self.sums.rank(self.opened, &mut self.catalog),
            self.histograms.rank(self.opened, &mut self.catalog),
        ];
        for (family, series) in outranked.into_iter().flatten() {
            families[family as usize].ended.push(series);
        }
        families.append(&mut self.gone);
        self.close_series(at, &mut families);
        self.catalog.sweep();
        self.connections.shrink();
        self.record();
        let window = at.since(self.opened);
        self.opened = at;
        self.closes = at.next_multiple(self.interval);
        Snapshot {
            pipeline: Arc::clone(&self.pipeline),
            at,
            window,
            last,
            replaced: false,
            families,
        }
    }

    /// Adds a point of each series to its family, and removes those that have expired.
    fn close_series(&mut self, at: Timestamp, families: &mut [FamilySnapshot]) {
        let expiration = self.expiration;
        let expired = |family: FamilyId, updated: Timestamp| at.since(updated) >= expiration[family as usize];
        let is_permanent = self.permanent();
        let moved = self.sums.sweep(at, &mut self.catalog, |mut slot, is_exposed| {
            let family = slot.key.family();
            let expired = |updated| expired(family, updated);
            if !is_exposed {
                return !expired(slot.updated);
            }
            close_sum(
                &mut families[family as usize],
                &mut slot,
                is_permanent(family),
                expired,
            )
        });
        if let Some(moved) = moved {
            self.connections.renumber(&moved);
        }
        self.histograms.sweep(at, &mut self.catalog, |slot, is_exposed| {
            let family = slot.key.family();
            let expired = |updated| expired(family, updated);
            if !is_exposed {
                return !expired(slot.updated);
            }
            close_histogram(&mut families[family as usize], &slot, expired)
        });
    }

    fn record(&mut self) {
        let folded = [self.sums.take_folded(), self.histograms.take_folded()];
        // A family is in one of the two.
        let live = |family: usize| (self.sums.live()[family] + self.histograms.live()[family]) as u64;
        self.telemetry.record_series(live, &folded);
        let outranked = [self.sums.take_outranked(), self.histograms.take_outranked()];
        self.telemetry.record_outranked(&outranked);
        self.telemetry.record_connections(self.connections.len() as u64);
    }
}

/// In a second: sums of times are kept in whole numbers of these.
const MICROSECONDS: f64 = 1e6;

/// Whether a counter or a gauge is of seconds.
fn is_time(family: &Family) -> bool {
    family.unit == Unit::Seconds && !family.kind.is_histogram()
}

pub(super) fn empty(family: &'static Family) -> FamilySnapshot {
    let points = match family.kind {
        _ if is_time(family) => Points::Values(Vec::new()),
        FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::UpDownCounter => Points::Sums(Vec::new()),
        FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => Points::Histograms(Vec::new()),
    };
    FamilySnapshot {
        family,
        points,
        ended: Vec::new(),
    }
}

fn close_sum(
    family: &mut FamilySnapshot,
    slot: &mut Live<'_, Sum>,
    is_permanent: bool,
    expired: impl Fn(Timestamp) -> bool,
) -> bool {
    let gauge = family.family.kind.can_fall();
    let (total, delta) = if gauge {
        (slot.value.level(), 0)
    } else {
        slot.value.total()
    };
    // A connection that is open for long changes nothing, and yet it is open.
    let stays = gauge && total > 0 || is_permanent;
    if expired(slot.updated) && !stays {
        family.ended.push(slot.series.clone());
        return false;
    }
    let (series, updated) = (slot.series.clone(), slot.updated);
    match &mut family.points {
        Points::Sums(points) => points.push(SumPoint {
            series,
            total,
            delta,
            updated,
        }),
        Points::Values(points) => points.push(ValuePoint {
            series,
            value: total as f64 / MICROSECONDS,
            updated,
        }),
        Points::Histograms(_) => {}
    }
    true
}

fn close_histogram(
    family: &mut FamilySnapshot,
    slot: &Live<'_, Histogram>,
    expired: impl Fn(Timestamp) -> bool,
) -> bool {
    if expired(slot.updated) {
        family.ended.push(slot.series.clone());
        return false;
    }
    if let Points::Histograms(points) = &mut family.points {
        let Histogram { buckets, sum } = slot.value.clone();
        points.push(HistogramPoint {
            series: slot.series.clone(),
            buckets,
            sum,
            updated: slot.updated,
        });
    }
    true
}
