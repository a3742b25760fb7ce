//! Sets of numbers and addresses that are given as ranges: a binary search among ranges that don't overlap.

use std::net::IpAddr;

use ipnet::IpNet;

/// Numbers in ascending ranges that don't overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet<N>(Box<[(N, N)]>);

impl<N: Copy + Ord> RangeSet<N> {
    /// The numbers of all `ranges`, from the first to the last of each.
    pub(crate) fn new(ranges: impl IntoIterator<Item = (N, N)>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, before| {
            let joins = next.0 <= before.1;
            if joins {
                before.1 = before.1.max(next.1);
            }
            joins
        });
        Self(ranges.into())
    }

    /// Whether `number` is in one of them.
    pub(crate) fn contains(&self, number: N) -> bool {
        let begun = self.0.partition_point(|(first, _)| *first <= number);
        begun > 0 && number <= self.0[begun - 1].1
    }
}

/// Addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressSet {
    v4: RangeSet<u32>,
    v6: RangeSet<u128>,
}

impl AddressSet {
    /// The addresses of all `networks`.
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self {
            v4: RangeSet::new(v4),
            v6: RangeSet::new(v6),
        }
    }

    /// Whether a canonical address is in one of them.
    pub(crate) fn contains(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => self.v4.contains(addr.to_bits()),
            IpAddr::V6(addr) => self.v6.contains(addr.to_bits()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_contains_what_one_of_its_ranges_does(
            ranges in prop::collection::vec((any::<u8>(), any::<u8>()), 0..8),
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            let set = RangeSet::new(ranges.clone());
            for number in 0..=u8::MAX {
                let expected = ranges.iter().any(|(first, last)| (*first..=*last).contains(&number));
                prop_assert_eq!(set.contains(number), expected, "{} in {:?}", number, &ranges);
            }
        }
    }

    #[test]
    fn addresses_of_both_families_are_found_to_the_last_of_a_network() {
        let networks = [
            "10.0.0.0/8",
            "10.1.0.0/16",
            "0.0.0.0/32",
            "2001:db8::/32",
            "ffff::/16",
        ];
        let set = AddressSet::new(networks.map(|text| text.parse().unwrap()));
        for (addr, expected) in [
            ("0.0.0.0", true),
            ("0.0.0.1", false),
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", true),
            ("2001:db9::", false),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true),
        ] {
            assert_eq!(set.contains(addr.parse().unwrap()), expected, "{addr}");
        }
        assert!(!AddressSet::default().contains("10.0.0.1".parse().unwrap()));
    }
}
