//! A point of a snapshot: its value as a total or as a difference, its length and its bytes.

use flowtap_pipeline::{
    Buckets, Exponential, HistogramPoint, Points, Series, Snapshot, SumPoint, Timestamp, ValuePoint,
};

use super::block::Block;
use super::data_point::{
    ended_len, exponential_len, histogram_len, number_len, push_ended, push_exponential, push_histogram,
    push_number,
};
use super::head::Head;
use crate::otlp::deltas::{Deltas, HistogramPart, SumPart, ValuePart};
use crate::push::zeros::{Carried, Starts};

/// Writes points of a snapshot.
pub(super) struct PointWriter<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) blocks: &'a [Block<'a>],
    pub(super) deltas: Option<&'a Deltas>,
    pub(super) starts: &'a Starts,
}

impl PointWriter<'_> {
    fn sum_part(&self, head: &Head<'_>, point: &SumPoint) -> Option<SumPart> {
        match self.deltas.filter(|_| !head.family.kind.can_fall()) {
            Some(deltas) => deltas.of_sum(point),
            None => Some(SumPart {
                start: point.series.start(),
                value: point.total,
            }),
        }
    }

    fn value_part(&self, head: &Head<'_>, point: &ValuePoint) -> Option<ValuePart> {
        match self.deltas.filter(|_| !head.family.kind.can_fall()) {
            Some(deltas) => deltas.of_value(point),
            None => Some(ValuePart {
                start: point.series.start(),
                value: point.value,
            }),
        }
    }

    fn histogram_part(&self, point: &HistogramPoint) -> Option<HistogramPart> {
        match self.deltas {
            Some(deltas) => deltas.of_histogram(point),
            None => Some(HistogramPart {
                start: point.series.start(),
                buckets: point.buckets.clone(),
                sum: point.sum,
            }),
        }
    }

    /// The time of the point 0 that goes before this one, if one does. A gauge does not count from 0.
    pub(super) fn zero_at(&self, head: &Head<'_>, block: &Block<'_>, i: usize) -> Option<Timestamp> {
        if head.family.kind.can_fall() {
            return None;
        }
        self.starts.zero_at(series(block, i)?, self.snapshot.at)
    }

    /// The series of a point, with or without a `zero`, when its request has met its fate.
    pub(super) fn carried(&self, block: &Block<'_>, i: usize, zero: bool) -> Option<Carried> {
        self.starts.carried(series(block, i)?, zero)
    }

    /// Length of a point 0 before a point of `len` bytes, without key and length: the same, but for exponential buckets.
    pub(super) fn zero_len(head: &Head<'_>, block: &Block<'_>, i: usize, len: usize) -> usize {
        let live = i.checked_sub(block.ended.len());
        match (block.points, live) {
            (Points::Histograms(points), Some(i)) if head.is_exponential => {
                exponential_len(head, &points[i].series, &Exponential::new())
            }
            _ => len,
        }
    }

    /// Length of the output of [`Self::push`] for a point itself, without key and length; `None` if the point is not sent.
    pub(super) fn len(&self, head: &Head<'_>, block: &Block<'_>, i: usize) -> Option<usize> {
        let Some(i) = i.checked_sub(block.ended.len()) else {
            return Some(ended_len(head, &block.ended[i].1));
        };
        match block.points {
            Points::Sums(points) => {
                self.sum_part(head, &points[i])?;
                Some(number_len(head, &points[i].series))
            }
            Points::Values(points) => {
                self.value_part(head, &points[i])?;
                Some(number_len(head, &points[i].series))
            }
            Points::Histograms(points) => {
                let part = self.histogram_part(&points[i])?;
                let series = &points[i].series;
                Some(if head.is_exponential {
                    exponential_len(head, series, part.buckets.exponential())
                } else {
                    histogram_len(head, series)
                })
            }
        }
    }

    /// Appends a point, unless it is not sent, and the 0 before it where there is one.
    pub(super) fn push(&self, out: &mut Vec<u8>, head: &Head<'_>, block: &Block<'_>, i: usize) {
        let (at, zero_at) = (self.snapshot.at, self.zero_at(head, block, i));
        let Some(i) = i.checked_sub(block.ended.len()) else {
            push_ended(out, head, &block.ended[i]);
            return;
        };
        match block.points {
            Points::Sums(points) => {
                let point = &points[i];
                if let Some(part) = self.sum_part(head, point) {
                    // `as_int` 6, sfixed64; a total beyond 2^63 is not reached in the life of a machine.
                    for (at, value) in zero_at.map(|at| (at, 0)).into_iter().chain([(at, part.value)]) {
                        push_number(out, head, &point.series, [part.start.min(at), at], (6, value));
                    }
                }
            }
            Points::Values(points) => {
                let point = &points[i];
                if let Some(part) = self.value_part(head, point) {
                    // `as_double` 4.
                    for (at, value) in zero_at.map(|at| (at, 0.0)).into_iter().chain([(at, part.value)]) {
                        push_number(
                            out,
                            head,
                            &point.series,
                            [part.start.min(at), at],
                            (4, value.to_bits()),
                        );
                    }
                }
            }
            Points::Histograms(points) => {
                let point = &points[i];
                if let Some(part) = self.histogram_part(point) {
                    let zero = HistogramPart {
                        start: part.start.min(zero_at.unwrap_or(part.start)),
                        buckets: Buckets::default(),
                        sum: 0.0,
                    };
                    for (at, part) in zero_at.map(|at| (at, &zero)).into_iter().chain([(at, &part)]) {
                        if head.is_exponential {
                            push_exponential(out, head, &point.series, at, part);
                        } else {
                            push_histogram(out, head, &point.series, at, part);
                        }
                    }
                }
            }
        }
    }
}

/// The series of a live point.
fn series<'a>(block: &Block<'a>, i: usize) -> Option<&'a Series> {
    let i = i.checked_sub(block.ended.len())?;
    Some(match block.points {
        Points::Sums(points) => &points[i].series,
        Points::Values(points) => &points[i].series,
        Points::Histograms(points) => &points[i].series,
    })
}
