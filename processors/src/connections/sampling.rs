//! The decision which connections and UDP flows have records.

/// The probability `ratio` if the flow with this identity is of the part that is kept.
///
/// The same identity is always kept or always left out.
pub(super) fn chance(identity: u64, ratio: f64) -> Option<f64> {
    if ratio >= 1.0 {
        return Some(1.0);
    }
    // An even spread of cookies, which are counted up, over 53 bits, which an f64 has.
    let spread = (splitmix(identity) >> 11) as f64 / (1_u64 << 53) as f64;
    (spread < ratio).then_some(ratio)
}

/// Finalizer of `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
pub(super) const fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
