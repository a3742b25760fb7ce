//! The increase that a point reports, apart from its series.

use flowtap_pipeline::{Family, Series, Timestamp};

use super::total::{HistogramTotals, Total};

/// The increase that a point reports.
#[derive(Clone, Debug)]
pub(super) struct Increase {
    pub(super) family: &'static Family,
    pub(super) series: Series,
    pub(super) start: Timestamp,
    pub(super) amount: Amount,
}

#[derive(Clone, Debug)]
pub(super) enum Amount {
    Sum(u64),
    Value(f64),
    Histogram(Box<HistogramTotals>),
}

impl Amount {
    pub(super) fn is_nothing(&self) -> bool {
        match self {
            Self::Sum(value) => *value == 0,
            Self::Value(value) => *value <= 0.0,
            Self::Histogram(totals) => totals.buckets.count() == 0,
        }
    }

    pub(super) fn add(&mut self, more: &Self) {
        match (self, more) {
            (Self::Sum(value), Self::Sum(more)) => value.add(more),
            (Self::Value(value), Self::Value(more)) => value.add(more),
            (Self::Histogram(totals), Self::Histogram(more)) => totals.add(more),
            // A series has values of one kind.
            _ => {}
        }
    }
}
