//! A database of places, and look-ups in it: of the addresses at the end of the input, and of a few constant ones.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowtap_processors::geoip::places_in;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut addresses = vec![
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::BROADCAST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    if let Some((_, end)) = bytes.split_last_chunk::<16>() {
        let [a, b, c, d, ..] = *end;
        addresses.extend([IpAddr::from(*end), IpAddr::from([a, b, c, d])]);
    }
    for place in places_in(bytes.to_vec(), &addresses) {
        let is_code = |code: &str| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        assert!(place.country.is_empty() || is_code(&place.country), "{place:?}");
    }
});
