//! Continuing after a reload with the series of the window before.

use flowtap_pipeline::catalog::{FAMILIES, FamilyId};
use flowtap_pipeline::{Family, Series};

use super::Window;
use super::close::empty;

impl Window {
    /// Continues with the series of `before` that are the same here; the others end.
    pub(super) fn continue_with(&mut self, before: Self) {
        let Self {
            mut catalog,
            totals,
            mut sums,
            mut histograms,
            mut connections,
            queues,
            connecting,
            sizes,
            listening,
            readings,
            opened,
            ..
        } = before;
        let families: [&'static Family; FAMILIES.len()] = FamilyId::ALL.map(|id| catalog.family(id));
        let stays = self.catalog.continues(&catalog);
        let ended = &mut self.ended;
        let mut keep = |family: FamilyId, series: &Series, is_exposed: bool| {
            if stays[family as usize] {
                return true;
            }
            if !is_exposed {
                return false;
            }
            ended.push((family, series.clone()));
            false
        };
        let moved = sums.sweep(opened, &mut catalog, |slot, is_exposed| {
            keep(slot.key.family(), slot.series, is_exposed)
        });
        if let Some(moved) = moved {
            connections.renumber(&moved);
        }
        histograms.sweep(opened, &mut catalog, |slot, is_exposed| {
            keep(slot.key.family(), slot.series, is_exposed)
        });
        self.end_renamed(&families);
        sums.set_budgets(&self.max_series, &self.tops);
        histograms.set_budgets(&self.max_series, &self.tops);
        if stays[FamilyId::Totals as usize] {
            self.totals = totals;
        }
        self.listening = listening.of_series(|family| stays[family as usize]);
        self.readings = readings.of_series(|family| stays[family as usize]);
        // Else the gauge is made anew from a census.
        if stays[FamilyId::ConnectionsActive as usize] {
            self.connections = connections;
        }
        if stays[FamilyId::QueuedBytes as usize] {
            self.queues = queues;
        }
        if stays[FamilyId::Connecting as usize] && stays[FamilyId::ConnectingRetransmits as usize] {
            self.connecting = connecting;
        }
        if stays[FamilyId::ConnectionSize as usize] {
            self.sizes = sizes;
        }
        self.catalog.take_over(catalog);
        self.sums = sums;
        self.histograms = histograms;
    }

    /// Of a family that has another name or other buckets than in `families`, or is not exposed any more, the series end under the name
    /// and with the buckets that they had.
    fn end_renamed(&mut self, families: &[&'static Family; FAMILIES.len()]) {
        let is_exposed = |family: FamilyId| {
            let now = self.catalog.family(family);
            self.catalog.is_enabled(family) && *families[family as usize] == *now
        };
        let mut gone = FamilyId::ALL.map(|id| empty(families[id as usize]));
        self.ended.retain(|(family, series)| {
            let stays = is_exposed(*family);
            if !stays {
                gone[*family as usize].ended.push(series.clone());
            }
            stays
        });
        let gone = gone.into_iter().filter(|family| !family.ended.is_empty());
        self.gone.extend(gone);
    }
}
