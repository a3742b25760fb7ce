//! Addresses as the kernel side's records have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowtap_ebpf::abi::AF_INET;

/// The address of `family` that `bytes` begin with.
pub(super) fn address(family: u16, bytes: [u8; 16]) -> IpAddr {
    if family == AF_INET {
        let [a, b, c, d, ..] = bytes;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::Endpoint;

    use super::*;

    #[test]
    fn addresses_of_both_families_are_read_and_mapped_ones_folded() {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[192, 0, 2, 7]);
        assert_eq!(address(AF_INET, bytes), "192.0.2.7".parse::<IpAddr>().unwrap());
        let mapped: Ipv6Addr = "::ffff:192.0.2.7".parse().unwrap();
        let end = Endpoint::new(address(10, mapped.octets()), 80);
        assert_eq!(end.to_string(), "192.0.2.7:80");
    }
}
