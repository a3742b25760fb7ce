//! Buckets of histograms: with bounds that are given, or exponential ones, whose bounds follow from the values.

use std::sync::Arc;

use crate::bucket_counts::BucketCounts;
use crate::family::HISTOGRAM_BUCKETS;

/// Buckets that an exponential histogram has at most, as in the OpenTelemetry SDKs.
pub const MAX_EXPONENTIAL_BUCKETS: usize = 160;

/// The finest scale: 32 buckets for each doubling, so that a bucket's bounds are 2.2 % apart. Prometheus knows scales up to 8.
pub const MAX_SCALE: i8 = 5;

/// The coarsest scale: at this one every double fits into fewer than [`MAX_EXPONENTIAL_BUCKETS`]. Prometheus knows none below.
const MIN_SCALE: i8 = -4;

/// Values up to this one are in the bucket of zeros: 2^-128, as in Prometheus' client libraries.
pub const ZERO_THRESHOLD: f64 = f64::from_bits((1023 - 128) << 52);

/// Observations by bucket, not cumulated over buckets.
#[derive(Clone, Debug, PartialEq)]
pub enum Buckets {
    /// By the upper bounds of the family.
    Explicit(BucketCounts),
    /// By powers of a base. Shared by the snapshots in which it is the same.
    Exponential(Arc<Exponential>),
}

impl Default for Buckets {
    fn default() -> Self {
        Self::Explicit(BucketCounts::default())
    }
}

impl From<[u64; HISTOGRAM_BUCKETS + 1]> for Buckets {
    fn from(counts: [u64; HISTOGRAM_BUCKETS + 1]) -> Self {
        Self::Explicit(counts.into())
    }
}

const _: () = assert!(
    size_of::<Buckets>() == size_of::<BucketCounts>(),
    "a histogram of each peer has room for an exponential one"
);

impl Buckets {
    /// Number of observed values.
    pub fn count(&self) -> u64 {
        match self {
            Self::Explicit(counts) => counts.total(),
            Self::Exponential(exponential) => exponential.count(),
        }
    }

    /// The counts by the family's bounds; all 0 if they are not by bounds.
    pub fn explicit(&self) -> [u64; HISTOGRAM_BUCKETS + 1] {
        match self {
            Self::Explicit(counts) => counts.all(),
            Self::Exponential(_) => [0; HISTOGRAM_BUCKETS + 1],
        }
    }

    /// The exponential buckets; empty if they are not exponential.
    pub fn exponential(&self) -> &Exponential {
        const NONE: &Exponential = &Exponential::new();
        match self {
            Self::Explicit(_) => NONE,
            Self::Exponential(exponential) => exponential,
        }
    }

    /// Adds a value to the bucket that it falls into, by `bounds` or exponentially.
    pub fn record(&mut self, value: f64, bounds: Option<&[f64]>) {
        match (bounds, &mut *self) {
            (Some(bounds), Self::Explicit(counts)) => {
                counts.add(bounds.partition_point(|bound| *bound < value), 1);
            }
            (None, Self::Exponential(exponential)) => Arc::make_mut(exponential).record(value),
            // The first value: a family has buckets of one kind.
            (None, Self::Explicit(_)) => {
                let mut exponential = Exponential::new();
                exponential.record(value);
                *self = Self::Exponential(Arc::new(exponential));
            }
            (Some(_), Self::Exponential(_)) => {}
        }
    }

    /// The values that have come since it was `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        match (self, before) {
            (Self::Explicit(counts), Self::Explicit(before)) => Self::Explicit(counts.since(before)),
            (Self::Exponential(now), Self::Exponential(before)) => {
                Self::Exponential(Arc::new(now.since(before)))
            }
            (now, _) => now.clone(),
        }
    }

    /// Adds the values of `other`.
    pub fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Explicit(counts), Self::Explicit(others)) => counts.merge(others),
            (Self::Exponential(exponential), Self::Exponential(other)) => {
                Arc::make_mut(exponential).merge(other);
            }
            // One of them has no value yet.
            (Self::Explicit(_), Self::Exponential(_)) => *self = other.clone(),
            (Self::Exponential(_), Self::Explicit(_)) => {}
        }
    }
}

/// An exponential histogram of values that are not negative.
///
/// Bucket `i` holds the values above `base^i` up to `base^(i + 1)`, with `base = 2^(2^-scale)`. The scale begins at [`MAX_SCALE`] and
/// falls by one, which joins buckets in pairs, whenever the values need more than [`MAX_EXPONENTIAL_BUCKETS`].
///
/// OpenTelemetry has the same buckets. Prometheus calls the scale a schema, and counts buckets by their upper bound: its index
/// is larger by one.
///
/// ```
/// use flowtap_model::Exponential;
///
/// let mut times = Exponential::new();
/// for milliseconds in [1.0, 20.0, 20.5, 30.0] {
///     times.record(milliseconds);
/// }
/// assert_eq!(times.count(), 4);
/// let (lower, upper) = times.bounds(times.offset());
/// assert!(lower < 1.0 && 1.0 <= upper && upper / lower < 1.03);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Exponential {
    scale: i8,
    zero_count: u64,
    offset: i32,
    counts: Vec<u64>,
}

impl Default for Exponential {
    fn default() -> Self {
        Self::new()
    }
}

impl Exponential {
    /// One without values.
    pub const fn new() -> Self {
        Self {
            scale: MAX_SCALE,
            zero_count: 0,
            offset: 0,
            counts: Vec::new(),
        }
    }

    /// Binary logarithm of the buckets for each doubling.
    pub const fn scale(&self) -> i8 {
        self.scale
    }

    /// Number of values up to [`ZERO_THRESHOLD`].
    pub const fn zero_count(&self) -> u64 {
        self.zero_count
    }

    /// Index of the first of [`Self::counts`].
    pub const fn offset(&self) -> i32 {
        self.offset
    }

    /// The values in each bucket from the first to the last that has any.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.zero_count + self.counts.iter().sum::<u64>()
    }

    /// Bytes on the heap.
    pub const fn heap_bytes(&self) -> usize {
        self.counts.capacity() * size_of::<u64>() + size_of::<Self>()
    }

    /// Lower and upper bound of the bucket with this index.
    pub fn bounds(&self, index: i32) -> (f64, f64) {
        (
            bound(self.scale, index),
            bound(self.scale, index.saturating_add(1)),
        )
    }

    /// The same values by upper bounds, for formats without exponential buckets: the bounds, and one count more. The first bucket
    /// has the zeros, the second and the last are empty.
    pub fn to_explicit(&self) -> (Vec<f64>, Vec<u64>) {
        let mut bounds = vec![ZERO_THRESHOLD];
        let mut counts = vec![self.zero_count];
        if !self.counts.is_empty() {
            bounds.push(bound(self.scale, self.offset));
            counts.push(0);
            for (index, count) in (self.offset..).zip(&self.counts) {
                bounds.push(self.bounds(index).1);
                counts.push(*count);
            }
        }
        counts.push(0);
        (bounds, counts)
    }

    /// Adds a value; NaN counts as zero.
    pub fn record(&mut self, value: f64) {
        if value.is_nan() || value <= ZERO_THRESHOLD {
            self.zero_count += 1;
            return;
        }
        let value = value.min(f64::MAX);
        let index = self.make_room(|scale| {
            let index = index_of(scale, value);
            (index, index)
        });
        self.counts[index] += 1;
    }

    /// Adds the values of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.zero_count += other.zero_count;
        if other.counts.is_empty() {
            return;
        }
        let mut other = other.clone();
        other.reduce_to(self.scale);
        self.reduce_to(other.scale);
        let (from, first) = (other.scale, other.offset);
        let last = other.last().unwrap_or(first);
        let place = self.make_room(|scale| {
            let shift = shift(from, scale);
            (first >> shift, last >> shift)
        });
        other.reduce_to(self.scale);
        for (count, more) in self.counts[place..].iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// The values that have come since it was `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let (mut difference, mut before) = (self.clone(), before.clone());
        before.reduce_to(self.scale);
        difference.reduce_to(before.scale);
        difference.zero_count = self.zero_count.saturating_sub(before.zero_count);
        for (index, count) in (before.offset..).zip(&before.counts) {
            let place = index
                .checked_sub(difference.offset)
                .and_then(|place| usize::try_from(place).ok());
            if let Some(now) = place.and_then(|place| difference.counts.get_mut(place)) {
                *now = now.saturating_sub(*count);
            }
        }
        difference.trim();
        difference
    }

    fn last(&self) -> Option<i32> {
        let more = i32::try_from(self.counts.len()).ok()?.checked_sub(1)?;
        (!self.counts.is_empty()).then(|| self.offset + more)
    }

    /// Makes room for the buckets from the first to the last of `range`, which gives them for a scale; returns where the first is.
    fn make_room(&mut self, range: impl Fn(i8) -> (i32, i32)) -> usize {
        loop {
            let (first, last) = range(self.scale);
            let (low, high) = match self.last() {
                None => (first, last),
                Some(end) => (first.min(self.offset), last.max(end)),
            };
            let width = usize::try_from(i64::from(high) - i64::from(low) + 1).unwrap_or(usize::MAX);
            if width > MAX_EXPONENTIAL_BUCKETS && self.scale > MIN_SCALE {
                self.reduce_to(self.scale - 1);
                continue;
            }
            if self.counts.is_empty() {
                self.offset = low;
            }
            let before = usize::try_from(self.offset - low).unwrap_or_default();
            if before > 0 {
                self.counts.splice(0..0, std::iter::repeat_n(0, before));
                self.offset = low;
            }
            self.counts.resize(width, 0);
            return usize::try_from(first - low).unwrap_or_default();
        }
    }

    /// Joins buckets until the scale is `scale` at most.
    fn reduce_to(&mut self, scale: i8) {
        let shift = shift(self.scale, scale);
        if shift == 0 {
            return;
        }
        self.scale = scale;
        let Some(last) = self.last() else {
            return;
        };
        let first = self.offset >> shift;
        let width = usize::try_from((last >> shift) - first + 1).unwrap_or_default();
        let mut counts = vec![0; width];
        for (index, count) in (self.offset..).zip(&self.counts) {
            if let Some(joined) = usize::try_from((index >> shift) - first)
                .ok()
                .and_then(|place| counts.get_mut(place))
            {
                *joined += count;
            }
        }
        (self.offset, self.counts) = (first, counts);
    }

    /// Leaves out empty buckets at both ends.
    fn trim(&mut self) {
        let end = self
            .counts
            .iter()
            .rposition(|count| *count > 0)
            .map_or(0, |last| last + 1);
        self.counts.truncate(end);
        let empty = self.counts.iter().take_while(|count| **count == 0).count();
        self.counts.drain(..empty);
        self.offset = if self.counts.is_empty() {
            0
        } else {
            self.offset + i32::try_from(empty).unwrap_or_default()
        };
    }
}

/// By how many bits an index shrinks from one scale to a coarser one.
fn shift(from: i8, to: i8) -> u32 {
    u32::try_from(i32::from(from) - i32::from(to)).unwrap_or(0)
}

/// `base^index`.
fn bound(scale: i8, index: i32) -> f64 {
    (f64::from(index) * f64::from(-i32::from(scale)).exp2()).exp2()
}

/// The index of the bucket of `value`, which is above [`ZERO_THRESHOLD`], and so not subnormal.
fn index_of(scale: i8, value: f64) -> i32 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = value.to_bits();
    // 11 bits, less the bias.
    let exponent = i32::try_from(bits >> 52).unwrap_or_default() - 1023;
    let is_power_of_two = bits & MANTISSA == 0;
    if scale <= 0 {
        // An upper bound belongs to the bucket below.
        let exponent = if is_power_of_two { exponent - 1 } else { exponent };
        return exponent >> -i32::from(scale);
    }
    if is_power_of_two {
        return (exponent << scale) - 1;
    }
    // Only the powers of two are bounds that a double can hit, so that rounding matters nowhere else.
    let index = value.log2() * f64::from(scale).exp2();
    let index = index.ceil() - 1.0;
    let (least, most) = (
        f64::from(exponent << scale),
        f64::from((exponent + 1) << scale) - 1.0,
    );
    let index = index.clamp(least, most);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a whole number between two of 32 bits"
    )]
    let index = index as i32;
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_between_the_bounds_of_its_bucket() {
        for value in [
            1e-9,
            0.000_05,
            0.06,
            0.5,
            1.0,
            1.5,
            2.0,
            3.0,
            4.0,
            60_400.0,
            1e12,
            f64::MAX,
        ] {
            for scale in MIN_SCALE..=MAX_SCALE {
                let index = index_of(scale, value);
                let (lower, upper) = (bound(scale, index), bound(scale, index + 1));
                assert!(
                    lower < value && value <= upper,
                    "{value} at {scale}: {lower} {upper}"
                );
                // One scale coarser it is the bucket that holds this one.
                if scale > MIN_SCALE {
                    assert_eq!(index_of(scale - 1, value), index >> 1, "{value} at {scale}");
                }
            }
        }
    }

    /// Values over many powers, in an order that is none.
    fn values(count: u32) -> Vec<f64> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24)
        };
        (0..count).map(|_| (next() * 30.0 - 10.0).exp2()).collect()
    }

    fn of(values: &[f64]) -> Exponential {
        let mut histogram = Exponential::new();
        for value in values {
            histogram.record(*value);
        }
        histogram
    }

    #[test]
    fn the_buckets_are_bounded_and_each_holds_the_values_between_its_bounds() {
        let values = values(10_000);
        let histogram = of(&values);
        assert!(histogram.counts().len() <= MAX_EXPONENTIAL_BUCKETS);
        assert_eq!(histogram.count(), 10_000);
        // 30 doublings: 4 buckets each.
        assert_eq!(histogram.scale(), 2);
        for (index, count) in (histogram.offset()..).zip(histogram.counts()) {
            let (lower, upper) = histogram.bounds(index);
            let expected = values
                .iter()
                .filter(|value| **value > lower && **value <= upper)
                .count();
            assert_eq!(*count, expected as u64, "{lower} {upper}");
        }
    }

    #[test]
    fn the_order_of_values_and_merging_make_no_difference() {
        let values = values(2_000);
        let all = of(&values);
        let mut reversed = values.clone();
        reversed.reverse();
        assert_eq!(of(&reversed), all);
        let (first, second) = values.split_at(700);
        let mut merged = of(first);
        merged.merge(&of(second));
        assert_eq!(merged, all);
        let mut from_nothing = Exponential::new();
        from_nothing.merge(&all);
        assert_eq!(from_nothing, all);
    }

    #[test]
    fn a_difference_is_what_has_come_since_also_over_a_change_of_scale() {
        let mut now = of(&[1.0, 1.0, 1.1]);
        let before = now.clone();
        for value in [1.0, 1e-6, 1e6, 0.0, f64::NAN] {
            now.record(value);
        }
        assert!(now.scale() < before.scale());
        let difference = now.since(&before);
        assert_eq!((difference.count(), difference.zero_count()), (5, 2));
        let mut expected = of(&[1.0, 1e-6, 1e6]);
        expected.reduce_to(now.scale());
        assert_eq!(difference.counts(), expected.counts());
        assert_eq!(difference.offset(), expected.offset());
        assert_eq!(now.since(&now).counts(), [0_u64; 0]);
    }

    #[test]
    fn as_bounds_every_value_is_where_it_was() {
        let histogram = of(&[0.0, 3.0, 3.0, 5.0]);
        let (bounds, counts) = histogram.to_explicit();
        assert_eq!(counts.len(), bounds.len() + 1);
        assert_eq!(counts.iter().sum::<u64>(), 4);
        assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
        let three = bounds.partition_point(|bound| *bound < 3.0);
        assert_eq!((counts[0], counts[three], counts.last()), (1, 2, Some(&0)));
    }

    #[test]
    fn buckets_of_either_kind_count_subtract_and_merge() {
        for bounds in [Some(&[1.0, 10.0][..]), None] {
            let mut buckets = Buckets::default();
            buckets.record(5.0, bounds);
            let before = buckets.clone();
            buckets.record(50.0, bounds);
            assert_eq!((buckets.count(), buckets.since(&before).count()), (2, 1));
            assert_eq!(buckets.since(&Buckets::default()).count(), 2);
            let mut other = Buckets::default();
            other.merge(&buckets);
            other.merge(&before);
            assert_eq!(other.count(), 3);
        }
    }
}
