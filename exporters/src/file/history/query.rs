//! The conditions on rows.

use std::net::IpAddr;

use flowtap_pipeline::Timestamp;

use super::row::Row;
use super::statistics::Statistics;

/// The conditions on rows.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Records that end at this moment or later.
    pub from: Option<Timestamp>,
    /// Records that end before this moment.
    pub to: Option<Timestamp>,
    /// Records whose peer is in this range.
    pub peer: Option<Network>,
    /// Connections that were never established or have an error, and UDP flows with an error.
    pub failed: bool,
    /// Records that this pipeline wrote.
    pub pipeline: Option<String>,
}

impl Query {
    const fn has_conditions(&self) -> bool {
        self.from.is_some()
            || self.to.is_some()
            || self.peer.is_some()
            || self.failed
            || self.pipeline.is_some()
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// The range of `address` by its first `bits`. `None` if it has not that many.
    pub const fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let all = if address.is_ipv4() { 32 } else { 128 };
        if bits > all {
            return None;
        }
        Some(Self { address, bits })
    }

    /// The address that is the whole range.
    pub const fn single(&self) -> Option<IpAddr> {
        let all = if self.address.is_ipv4() { 32 } else { 128 };
        if self.bits == all {
            Some(self.address)
        } else {
            None
        }
    }

    /// Whether it has `address` in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differs = match (self.address, address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        differs >= u32::from(self.bits)
    }

    /// The same of an address as files have it.
    pub(super) fn contains_text(&self, address: &str) -> bool {
        address.parse().is_ok_and(|address| self.contains(address))
    }
}

/// Whether a record that ends at `at` (microseconds) is asked for.
pub(super) fn is_in_time(query: &Query, at: i64) -> bool {
    query.from.is_none_or(|from| at >= micros(from)) && query.to.is_none_or(|to| at < micros(to))
}

/// Whether a whole row is asked for: one of a connection or UDP flow, and by the conditions.
fn matches(query: &Query, row: &Row<'_>) -> bool {
    is_in_time(query, row.at)
        && query.peer.is_none_or(|peer| peer.contains_text(row.peer_address))
        && (!query.failed || row.has_failed())
        && is_of_pipeline(query, row)
}

/// Whether a row of this pipeline is asked for.
pub(super) fn is_of_pipeline(query: &Query, row: &Row<'_>) -> bool {
    query
        .pipeline
        .as_ref()
        .is_none_or(|pipeline| pipeline == row.pipeline)
}

/// Counts a row, and calls `each` with it if it is asked for.
pub(super) fn offer(
    query: &Query,
    row: &Row<'_>,
    statistics: &mut Statistics,
    each: &mut impl FnMut(&Row<'_>),
) {
    if row.is_flow() {
        if matches(query, row) {
            statistics.matching += 1;
            each(row);
        }
    } else if !query.has_conditions() {
        // With conditions not every record is read.
        statistics.other(row.event);
    }
}

pub(super) fn micros(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanos() / 1000).unwrap_or(i64::MAX)
}
