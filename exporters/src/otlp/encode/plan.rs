//! The points of one request, with every length: so each byte is written once, to where it stays.

use std::ops::Range;

use super::head::Head;
use crate::push::markers::Ended;
use crate::push::zeros::Carried;
use crate::wire::len_delimited;

/// Where the next request begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    pub(super) family: usize,
    pub(super) point: usize,
}

/// Plan of one request.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) metrics: Vec<PlannedMetric>,
    pub(super) metrics_len: usize,
    pub(super) points: u64,
    pub(super) carried: Vec<Carried>,
    pub(super) ended: Vec<Ended>,
}

impl Plan {
    pub(super) fn push(&mut self, metric: PlannedMetric, head: &Head<'_>) {
        if metric.points > 0 {
            self.metrics_len += metric.len(head);
            self.points += metric.points;
        }
        if !metric.range.is_empty() {
            self.metrics.push(metric);
        }
    }
}

/// Some points of a family, as one `Metric`.
#[derive(Debug)]
pub(super) struct PlannedMetric {
    pub(super) family: usize,
    /// Includes points that are not sent.
    pub(super) range: Range<usize>,
    /// Those that do.
    pub(super) points: u64,
    pub(super) data_len: usize,
}

impl PlannedMetric {
    pub(super) const fn new(family: usize, first: usize) -> Self {
        Self {
            family,
            range: first..first,
            points: 0,
            data_len: 0,
        }
    }

    pub(super) fn content_len(&self, head: &Head<'_>) -> usize {
        head.bytes.len() + len_delimited(self.data_len + head.behind.len())
    }

    pub(super) fn len(&self, head: &Head<'_>) -> usize {
        len_delimited(self.content_len(head))
    }
}
