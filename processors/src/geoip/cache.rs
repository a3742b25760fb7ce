//! Places by address, bounded: a look-up in a database decodes a record, and most records are of few peers.
//!
//! Two generations: when the younger is full it becomes the older, which is forgotten. So what is asked for often stays, and a scan of
//! many addresses costs at most twice the bound.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use flowtap_pipeline::Place;
use foldhash::fast::RandomState;

/// A place, or that there is none.
type Known = Option<Arc<Place>>;

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    young: HashMap<IpAddr, Known, RandomState>,
    old: HashMap<IpAddr, Known, RandomState>,
    /// Addresses of a generation.
    max: usize,
}

impl Cache {
    /// An empty cache for `max` addresses.
    pub(super) fn new(max: usize) -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            max: max.div_ceil(2),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    /// The place of `addr`, which `look_up` finds if it is not known.
    pub(super) fn get(&mut self, addr: IpAddr, look_up: impl FnOnce(IpAddr) -> Known) -> Known {
        if let Some(known) = self.young.get(&addr) {
            return known.clone();
        }
        let known = self.old.remove(&addr).unwrap_or_else(|| look_up(addr));
        if self.young.len() >= self.max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(addr, known.clone());
        known
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn addresses_that_are_asked_for_often_stay_and_the_rest_is_bounded() {
        let mut cache = Cache::new(64);
        let mut looked_up = 0;
        let mut get = |bits: u32| {
            cache.get(Ipv4Addr::from_bits(bits).into(), |_| {
                looked_up += 1;
                bits.is_multiple_of(2).then(|| {
                    Arc::new(Place {
                        asn: bits,
                        ..Place::default()
                    })
                })
            })
        };
        for bits in 0..1_000 {
            assert_eq!(
                get(bits).map(|place| place.asn),
                bits.is_multiple_of(2).then_some(bits)
            );
            assert_eq!(get(7), None);
            assert_eq!(get(8).unwrap().asn, 8);
        }
        assert_eq!(looked_up, 1_000);
        assert!(cache.young.len() + cache.old.len() <= 64);
    }
}
