//! Counts of a histogram's buckets, as small as they can be.

use std::sync::Arc;

use crate::family::HISTOGRAM_BUCKETS;

/// Number of buckets, with the one that has no upper bound.
const BUCKETS: usize = HISTOGRAM_BUCKETS + 1;

/// Buckets that are counted in place.
const FEW: usize = 3;

/// Observations by bucket, for buckets by the bounds of a family.
///
/// The times of a peer fall into few buckets, and there are as many histograms as peers: so up to three buckets are counted in
/// place. More of them, or a count of 2^32, move to the heap, where the snapshots in which they are the same share them.
///
/// ```
/// use flowtap_model::BucketCounts;
///
/// let mut counts = BucketCounts::default();
/// counts.add(2, 1);
/// counts.add(2, 4);
/// assert_eq!(counts.total(), 5);
/// assert_eq!(counts.all()[2], 5);
/// assert_eq!(size_of::<BucketCounts>(), 16);
/// ```
#[derive(Clone, Debug)]
pub struct BucketCounts(Repr);

#[derive(Clone, Debug)]
enum Repr {
    /// Numbers of buckets, and their counts as bytes, which need no alignment. Places with a count of 0 are free.
    Few {
        buckets: [u8; FEW],
        counts: [[u8; 4]; FEW],
    },
    Many(Arc<[u64; BUCKETS]>),
}

const _: () = assert!(
    size_of::<BucketCounts>() == 16,
    "the counts in place are larger than a pointer and its tag"
);

impl Default for BucketCounts {
    fn default() -> Self {
        Self(Repr::Few {
            buckets: [0; FEW],
            counts: [[0; 4]; FEW],
        })
    }
}

impl PartialEq for BucketCounts {
    fn eq(&self, other: &Self) -> bool {
        self.all() == other.all()
    }
}

impl From<[u64; BUCKETS]> for BucketCounts {
    fn from(all: [u64; BUCKETS]) -> Self {
        let mut counts = Self::default();
        for (bucket, count) in all.into_iter().enumerate() {
            counts.add(bucket, count);
        }
        counts
    }
}

impl BucketCounts {
    /// Counts `more` observations in a bucket.
    pub fn add(&mut self, bucket: usize, more: u64) {
        if more == 0 || self.add_in_place(bucket, more) {
            return;
        }
        if let Repr::Many(all) = &mut self.0 {
            let count = &mut Arc::make_mut(all)[bucket];
            *count = count.saturating_add(more);
        } else {
            let mut all = self.all();
            all[bucket] += more;
            self.0 = Repr::Many(Arc::new(all));
        }
    }

    fn add_in_place(&mut self, bucket: usize, more: u64) -> bool {
        let (Repr::Few { buckets, counts }, Ok(number)) = (&mut self.0, u8::try_from(bucket)) else {
            return false;
        };
        let is_free = |place: &usize| counts[*place] == [0; 4];
        let own = (0..FEW).find(|place| buckets[*place] == number && !is_free(place));
        let Some(place) = own.or_else(|| (0..FEW).find(is_free)) else {
            return false;
        };
        let sum = u64::from(u32::from_ne_bytes(counts[place])) + more.min(u64::from(u32::MAX) + 1);
        let Ok(sum) = u32::try_from(sum) else {
            return false;
        };
        buckets[place] = number;
        counts[place] = sum.to_ne_bytes();
        true
    }

    /// The counts of all buckets. The bucket after the last bound has no upper bound; those after it are 0.
    pub fn all(&self) -> [u64; BUCKETS] {
        match &self.0 {
            Repr::Many(all) => **all,
            Repr::Few { buckets, counts } => {
                let mut all = [0; BUCKETS];
                for (bucket, count) in buckets.iter().zip(counts) {
                    all[usize::from(*bucket)] += u64::from(u32::from_ne_bytes(*count));
                }
                all
            }
        }
    }

    /// Number of observations.
    pub fn total(&self) -> u64 {
        match &self.0 {
            Repr::Many(all) => all.iter().sum(),
            Repr::Few { counts, .. } => counts
                .iter()
                .map(|count| u64::from(u32::from_ne_bytes(*count)))
                .sum(),
        }
    }

    /// The observations that have come since they were `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut all = self.all();
        for (count, before) in all.iter_mut().zip(before.all()) {
            *count = count.saturating_sub(before);
        }
        all.into()
    }

    /// Adds those of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.all().into_iter().enumerate() {
            self.add(bucket, count);
        }
    }

    /// Bytes on the heap, which snapshots share.
    pub(crate) fn heap_bytes(&self) -> usize {
        match &self.0 {
            Repr::Few { .. } => 0,
            Repr::Many(_) => size_of::<[u64; BUCKETS]>() + 2 * size_of::<usize>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_count_beyond_32_bits_is_kept() {
        for first in [u64::from(u32::MAX), u64::from(u32::MAX) - 1, u64::MAX / 2] {
            let mut counts = BucketCounts::default();
            counts.add(16, first);
            counts.add(16, 2);
            assert_eq!((counts.all()[16], counts.total()), (first + 2, first + 2));
        }
    }

    #[test]
    fn a_snapshot_keeps_what_it_had() {
        let mut counts = BucketCounts::default();
        for bucket in 0..5 {
            counts.add(bucket, 1);
        }
        let snapshot = counts.clone();
        counts.add(0, 1);
        assert_eq!((snapshot.total(), counts.total()), (5, 6));
        assert_ne!(snapshot, counts);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_plain_array(
            changes in prop::collection::vec((0..BUCKETS, prop_oneof![0..3u64, 0..u64::from(u32::MAX) * 2]), 0..40),
            cut in 0..40usize,
        ) {
            let mut counts = BucketCounts::default();
            let mut plain = [0; BUCKETS];
            let mut early = (counts.clone(), plain);
            for (number, (bucket, more)) in changes.into_iter().enumerate() {
                if number == cut {
                    early = (counts.clone(), plain);
                }
                counts.add(bucket, more);
                plain[bucket] += more;
            }
            prop_assert_eq!(counts.all(), plain);
            prop_assert_eq!(counts.total(), plain.iter().sum::<u64>());
            prop_assert_eq!(early.0.all(), early.1);
            let mut whole = early.0.clone();
            whole.merge(&counts.since(&early.0));
            prop_assert_eq!(&whole, &counts);
            prop_assert_eq!(BucketCounts::from(plain), counts);
        }
    }
}
