//! A value for every address, such as its class, as neighbouring ranges: what a record is looked up in.
//!
//! A prefix table takes a dependent load and an unpredictable branch per level, and a class needs
//! three of them. The value of an address changes at the bounds of prefixes only, so the tables are
//! queried there once, and a record takes a binary search among the bounds that have the same first
//! bits as its address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Number of leading bits of an address that are used as an index.
const INDEX_BITS: u32 = 12;

/// An address as a number.
trait Number: Copy + Ord {
    /// Its first [`INDEX_BITS`].
    fn index(self) -> usize;
}

impl Number for u32 {
    fn index(self) -> usize {
        (self >> (Self::BITS - INDEX_BITS)) as usize
    }
}

impl Number for u128 {
    fn index(self) -> usize {
        (self >> (Self::BITS - INDEX_BITS)) as usize
    }
}

/// The addresses of one family.
#[derive(Debug)]
struct Family<N, T> {
    /// The first address of each range, ascending from the first of all.
    starts: Vec<N>,
    values: Vec<T>,
    /// By an address's first bits, where the ranges begin that start with these; one more, for where the last end.
    index: Vec<u32>,
}

impl<N: Number, T: Copy + PartialEq> Family<N, T> {
    /// From the addresses at which a value may begin, with their values.
    fn new(mut bounds: Vec<(N, T)>) -> Self {
        bounds.sort_unstable_by_key(|(start, _)| *start);
        bounds.dedup_by_key(|(start, _)| *start);
        // Neighbours of one value are one range.
        bounds.dedup_by(|(_, next), (_, before)| next == before);
        let (starts, values): (Vec<N>, Vec<_>) = bounds.into_iter().unzip();
        let before = |bits| starts.partition_point(|start| start.index() < bits);
        // Each range has taken more memory in the tables: there are not 2^32.
        let index = (0..=1 << INDEX_BITS).map(|bits| u32::try_from(before(bits)).unwrap_or(u32::MAX));
        Self {
            index: index.collect(),
            starts,
            values,
        }
    }

    fn value(&self, addr: N) -> T {
        let bits = addr.index();
        let (from, to) = (self.index[bits] as usize, self.index[bits + 1] as usize);
        let begun = from + self.starts[from..to].partition_point(|start| *start <= addr);
        // The first range starts with the first address, so at least one has begun.
        self.values[begun - 1]
    }
}

/// The addresses of both.
#[derive(Debug)]
pub(crate) struct Ranges<T> {
    v4: Family<u32, T>,
    v6: Family<u128, T>,
}

impl<T: Copy + PartialEq> Ranges<T> {
    /// `value_of` may depend only on which of `prefixes` contain an address, and on whether it is
    /// the unspecified one.
    pub(crate) fn new(prefixes: impl Iterator<Item = IpNet>, value_of: impl Fn(IpAddr) -> T) -> Self {
        let (mut v4, mut v6) = (vec![0, 1], vec![0, 1]);
        for prefix in prefixes {
            match prefix {
                IpNet::V4(net) => {
                    v4.push(net.network().to_bits());
                    v4.extend(net.broadcast().to_bits().checked_add(1));
                }
                IpNet::V6(net) => {
                    v6.push(net.network().to_bits());
                    v6.extend(net.broadcast().to_bits().checked_add(1));
                }
            }
        }
        let v4_value = |bits| (bits, value_of(Ipv4Addr::from_bits(bits).into()));
        let v6_value = |bits| (bits, value_of(Ipv6Addr::from_bits(bits).into()));
        Self {
            v4: Family::new(v4.into_iter().map(v4_value).collect()),
            v6: Family::new(v6.into_iter().map(v6_value).collect()),
        }
    }

    /// The value of a canonical address.
    pub(crate) fn value(&self, addr: IpAddr) -> T {
        match addr {
            IpAddr::V4(addr) => self.v4.value(addr.to_bits()),
            IpAddr::V6(addr) => self.v6.value(addr.to_bits()),
        }
    }
}
