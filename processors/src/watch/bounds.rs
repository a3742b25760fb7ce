//! Settings that no traffic reaches, as something is counted up to a lower bound. These are warnings: a large number may stand for never.

use std::num::NonZeroUsize;

use flowtap_pipeline::Violation;

use super::attempts::{MAX_ADDRESSES, MAX_PORTS_OF_ADDRESS};
use super::history::MAX_SCORE;

/// A warning if `least` is beyond the `most` that are counted in an interval.
fn counted(key: &str, least: NonZeroUsize, most: usize, of: &str) -> Option<Violation> {
    (least.get() > most).then(|| {
        let message = format!(
            "`{least}` is never reached, and nothing is found by it: {most} {of} are counted in an interval; hint: {most} at most"
        );
        Violation::new(key, message)
    })
}

/// About `fan_out.destinations`.
pub(super) fn addresses(least: NonZeroUsize) -> Option<Violation> {
    counted(
        "fan_out.destinations",
        least,
        MAX_ADDRESSES,
        "addresses of a subject",
    )
}

/// About `fan_out.ports`.
pub(super) fn ports(least: NonZeroUsize) -> Option<Violation> {
    counted(
        "fan_out.ports",
        least,
        MAX_PORTS_OF_ADDRESS,
        "ports of an address",
    )
}

/// About `failure_surge.failures`.
pub(super) fn failures(least: NonZeroUsize) -> Option<Violation> {
    counted(
        "failure_surge.failures",
        least,
        u32::MAX as usize,
        "failed connects of a contact",
    )
}

/// About `volume_surge.score`.
pub(super) fn score(score: f64) -> Option<Violation> {
    (score.is_finite() && score > MAX_SCORE).then(|| {
        let message = format!(
            "`{score}` is never reached, and nothing is found by it: no amount has a score above {MAX_SCORE}; hint: 6, the default, or \
             somewhat more"
        );
        Violation::new("volume_surge.score", message)
    })
}
