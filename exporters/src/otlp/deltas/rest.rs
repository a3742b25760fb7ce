//! Requests of what series that have ended still owe.

use std::ops::Range;
use std::sync::Arc;

use flowtap_pipeline::{FamilySnapshot, HistogramPoint, Points, Snapshot, SumPoint, ValuePoint};

use super::Deltas;
use super::increase::{Amount, Increase};
use super::total::{Delivered, HistogramTotals};
use crate::push::ended_at;
use crate::push::fate::Fate;

/// The increases that ended series still owe, as a snapshot that they would have been in, and the deltas that it is encoded with.
#[derive(Debug)]
pub(in crate::otlp) struct Rest {
    pub(in crate::otlp) snapshot: Snapshot,
    pub(in crate::otlp) deltas: Deltas,
    /// By family of that snapshot.
    increases: Vec<Vec<Increase>>,
}

impl Deltas {
    /// Takes what ended series of the pipeline of `snapshot` owe, as points of the start of its window: theirs are not after it.
    pub(in crate::otlp) fn take_rest(&mut self, snapshot: &Snapshot) -> Rest {
        let mut rest = Rest {
            snapshot: Snapshot {
                pipeline: Arc::clone(&snapshot.pipeline),
                at: ended_at(snapshot),
                window: snapshot.window,
                last: snapshot.last,
                replaced: false,
                families: Vec::new(),
            },
            deltas: Self::new(self.began),
            increases: Vec::new(),
        };
        let owed = self.rest.remove(&snapshot.pipeline).unwrap_or_default();
        for increase in owed.into_values() {
            rest.add(increase);
        }
        rest
    }

    /// These points of `rest` have met `fate`.
    pub(in crate::otlp) fn settle_rest(
        &mut self,
        rest: &Rest,
        reported: &[(usize, Range<usize>)],
        fate: Fate,
    ) {
        if fate == Fate::Delivered {
            return;
        }
        let increases = reported
            .iter()
            .flat_map(|(family, range)| rest.increases[*family][range.clone()].iter().cloned());
        if let Fate::Stored(number) = fate {
            self.keep(number, &rest.snapshot.pipeline, increases.collect());
        } else {
            for increase in increases {
                self.leave(&rest.snapshot.pipeline, increase);
            }
        }
    }
}

impl Rest {
    /// Adds a point that reports `increase`.
    fn add(&mut self, increase: Increase) {
        let place = self.place_of(&increase);
        let Increase {
            series,
            start,
            amount,
            ..
        } = increase.clone();
        let (id, updated) = (series.id(), self.snapshot.at);
        match (&mut self.snapshot.families[place].points, amount) {
            (Points::Sums(points), Amount::Sum(total)) => {
                let delivered = Delivered::new(&series, start, 0);
                self.deltas.sums.insert(id, delivered);
                points.push(SumPoint {
                    series,
                    total,
                    delta: total,
                    updated,
                });
            }
            (Points::Values(points), Amount::Value(value)) => {
                let delivered = Delivered::new(&series, start, 0.0);
                self.deltas.values.insert(id, delivered);
                points.push(ValuePoint {
                    series,
                    value,
                    updated,
                });
            }
            (Points::Histograms(points), Amount::Histogram(totals)) => {
                let delivered = Delivered::new(&series, start, HistogramTotals::default());
                self.deltas.histograms.insert(id, delivered);
                let HistogramTotals { buckets, sum } = *totals;
                points.push(HistogramPoint {
                    series,
                    buckets,
                    sum,
                    updated,
                });
            }
            // A family has values of one kind.
            _ => return,
        }
        self.increases[place].push(increase);
    }

    /// The index of the family of `increase`, which is added if it is not there yet.
    fn place_of(&mut self, increase: &Increase) -> usize {
        let families = &mut self.snapshot.families;
        let known = families.iter().position(|known| known.family == increase.family);
        known.unwrap_or_else(|| {
            let points = match increase.amount {
                Amount::Sum(_) => Points::Sums(Vec::new()),
                Amount::Value(_) => Points::Values(Vec::new()),
                Amount::Histogram(_) => Points::Histograms(Vec::new()),
            };
            families.push(FamilySnapshot {
                family: increase.family,
                points,
                ended: Vec::new(),
            });
            self.increases.push(Vec::new());
            families.len() - 1
        })
    }
}
