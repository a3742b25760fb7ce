//! The address of the peer in the key of a series.

use std::net::{IpAddr, Ipv6Addr};

/// An address as 16 bytes, which are aligned to 8; IPv4 as IPv4-mapped, which no canonical address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Addr {
    pub(super) high: u64,
    pub(super) low: u64,
}

impl Addr {
    /// Where a family has no label for the peer.
    pub(super) const NONE: Self = Self { high: 0, low: 0 };

    /// Of what has no flow: the label is `other`, or empty. Both are multicast addresses that the registry has reserved.
    pub(super) const OTHER: Self = Self {
        high: u64::MAX,
        low: 0,
    };
    pub(super) const EMPTY: Self = Self {
        high: u64::MAX,
        low: 1,
    };

    pub(super) fn new(addr: IpAddr) -> Self {
        let addr = match addr {
            IpAddr::V4(addr) => addr.to_ipv6_mapped(),
            IpAddr::V6(addr) => addr,
        };
        let word = |half: &[u16]| {
            half.iter()
                .fold(0, |word, &segment| word << 16 | u64::from(segment))
        };
        let segments = addr.segments();
        let (high, low) = segments.split_at(4);
        Self {
            high: word(high),
            low: word(low),
        }
    }

    pub(super) fn is_other(self) -> bool {
        self == Self::OTHER
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    pub(super) fn get(self) -> IpAddr {
        let bits = u128::from(self.high) << 64 | u128::from(self.low);
        IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_come_back_as_they_went_in() {
        for text in ["192.0.2.7", "0.0.0.0", "::", "2001:db8::1", "::1"] {
            let addr: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::new(addr).get(), addr);
        }
        assert_ne!(
            Addr::new("0.0.0.0".parse().unwrap()),
            Addr::new("::".parse().unwrap())
        );
    }
}
