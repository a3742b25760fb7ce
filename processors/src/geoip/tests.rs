//! Against databases that are written here, by the format's specification (MaxMind DB 2.0) and without the reader's code.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use flowtap_pipeline::Place;
use flowtap_pipeline::testing::{ProcessorTest, config, record};
use ipnet::IpNet;

use super::*;

/// A value in a database.
#[derive(Clone)]
enum Item {
    Text(&'static str),
    Number(u32),
    /// Of 16 bits, without leading zeros.
    Short(u16),
    /// Of 32 bits with a sign.
    Signed(i32),
    /// Of 64 bits.
    Long(u64),
    Map(Vec<(&'static str, Item)>),
}

use Item::{Long, Map, Number, Short, Signed, Text};

/// Control bytes: the type in the first three bits, or 0 and 7 less in the next byte; the size in the other five.
fn control(out: &mut Vec<u8>, kind: u8, size: usize) {
    let (first, extended) = if kind < 8 {
        (kind << 5, None)
    } else {
        (0, Some(kind - 7))
    };
    let size = u8::try_from(size).unwrap();
    out.push(first | size.min(29));
    out.extend(extended);
    out.extend(size.checked_sub(29));
}

fn encode(out: &mut Vec<u8>, item: &Item) {
    match item {
        Text(text) => {
            control(out, 2, text.len());
            out.extend_from_slice(text.as_bytes());
        }
        Number(number) => {
            control(out, 6, 4);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Short(number) => {
            let bytes = number.to_be_bytes();
            let used = &bytes[usize::from(*number < 256)..];
            control(out, 5, used.len());
            out.extend_from_slice(used);
        }
        Signed(number) => {
            control(out, 8, 4);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Long(number) => {
            control(out, 9, 8);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Map(pairs) => {
            control(out, 7, pairs.len());
            for (key, value) in pairs {
                encode(out, &Text(key));
                encode(out, value);
            }
        }
    }
}

/// A database with a record for each network, of IPv6 with IPv4 below `::/96`.
fn database(records: &[(&str, Item)]) -> Vec<u8> {
    #[derive(Clone, Copy)]
    enum Child {
        Nothing,
        Node(usize),
        Data(usize),
    }
    let mut nodes = vec![[Child::Nothing; 2]];
    let mut data = Vec::new();
    for (network, item) in records {
        let net: IpNet = network.parse().unwrap();
        let (bits, length) = match net {
            IpNet::V4(net) => (u128::from(net.network().to_bits()), 96 + net.prefix_len()),
            IpNet::V6(net) => (net.network().to_bits(), net.prefix_len()),
        };
        let mut node = 0;
        for depth in 0..length {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == length {
                nodes[node][side] = Child::Data(data.len());
            } else if let Child::Node(next) = nodes[node][side] {
                node = next;
            } else {
                nodes.push([Child::Nothing; 2]);
                nodes[node][side] = Child::Node(nodes.len() - 1);
                node = nodes.len() - 1;
            }
        }
        encode(&mut data, item);
    }
    let mut out = Vec::new();
    let count = nodes.len();
    for child in nodes.iter().flatten() {
        let record = match child {
            Child::Nothing => count,
            Child::Node(index) => *index,
            Child::Data(offset) => count + 16 + offset,
        };
        out.extend_from_slice(&u32::try_from(record).unwrap().to_be_bytes());
    }
    out.extend_from_slice(&[0; 16]);
    out.append(&mut data);
    out.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    control(&mut out, 7, 9);
    let short = |out: &mut Vec<u8>, key: &'static str, kind: u8, bytes: &[u8]| {
        encode(out, &Text(key));
        control(out, kind, bytes.len());
        out.extend_from_slice(bytes);
    };
    encode(&mut out, &Text("node_count"));
    encode(&mut out, &Number(u32::try_from(count).unwrap()));
    short(&mut out, "record_size", 5, &32_u16.to_be_bytes());
    short(&mut out, "ip_version", 5, &6_u16.to_be_bytes());
    short(&mut out, "binary_format_major_version", 5, &2_u16.to_be_bytes());
    short(&mut out, "binary_format_minor_version", 5, &[]);
    short(&mut out, "build_epoch", 9, &1_700_000_000_u64.to_be_bytes());
    encode(&mut out, &Text("database_type"));
    encode(&mut out, &Text("Test"));
    encode(&mut out, &Text("languages"));
    control(&mut out, 11, 0);
    encode(&mut out, &Text("description"));
    control(&mut out, 7, 0);
    out
}

fn asn(number: u32, org: &'static str) -> Item {
    Map(vec![
        ("autonomous_system_number", Number(number)),
        ("autonomous_system_organization", Text(org)),
    ])
}

fn country(code: &'static str) -> Item {
    Map(vec![(
        "country",
        Map(vec![("geoname_id", Number(1)), ("iso_code", Text(code))]),
    )])
}

fn write(folder: &Path, name: &str, records: &[(&str, Item)]) -> String {
    let path = folder.join(name);
    // Whole at once, as a program that updates databases does.
    let temporary = folder.join("new");
    fs::write(&temporary, database(records)).unwrap();
    fs::rename(&temporary, &path).unwrap();
    path.display().to_string()
}

fn places(geoip: &mut ProcessorTest, remotes: &[&str]) -> Vec<Option<(u32, String, String)>> {
    let records = remotes.iter().map(|remote| record("192.0.2.1:40000", remote));
    let passed = geoip.process(records.collect::<Vec<_>>());
    let place = |place: &Place| (place.asn, place.as_org.clone(), place.country.clone());
    passed
        .iter()
        .map(|record| record.flow.peer_place.as_deref().map(place))
        .collect()
}

fn known(asn: u32, org: &str, country: &str) -> (u32, String, String) {
    (asn, org.to_owned(), country.to_owned())
}

#[test]
fn an_operators_number_is_of_any_width_that_a_writer_chose() {
    let folder = tempfile::tempdir().unwrap();
    let of = |number: Item| Map(vec![("autonomous_system_number", number)]);
    let records = [
        ("203.0.113.1/32", of(Short(64_496))),
        ("203.0.113.2/32", of(Short(13))),
        ("203.0.113.3/32", of(Signed(64_497))),
        ("203.0.113.4/32", of(Long(4_200_000_001))),
        // No number of an operator.
        ("203.0.113.5/32", of(Long(1 << 32))),
        ("203.0.113.6/32", of(Signed(-1))),
    ];
    let file = write(folder.path(), "asn.mmdb", &records);
    let mut geoip = ProcessorTest::new(FACTORY, &format!("databases: [{file}]"));
    let remotes: Vec<_> = (1..7).map(|last| format!("203.0.113.{last}:443")).collect();
    let remotes: Vec<_> = remotes.iter().map(String::as_str).collect();
    let number = |number| Some(known(number, "", ""));
    assert_eq!(
        places(&mut geoip, &remotes),
        [
            number(64_496),
            number(13),
            number(64_497),
            number(4_200_000_001),
            None,
            None
        ]
    );
}

#[test]
fn operator_and_country_come_from_whichever_database_knows_them() {
    let folder = tempfile::tempdir().unwrap();
    let operators = write(
        folder.path(),
        "asn.mmdb",
        &[
            ("203.0.113.0/24", asn(64_496, "Example Net")),
            ("2001:db8::/32", asn(64_497, "Example Six")),
        ],
    );
    let countries = write(
        folder.path(),
        "country.mmdb",
        &[
            ("203.0.113.0/25", country("DE")),
            ("198.51.100.0/24", country("FR")),
            ("2001:db8:1::/48", country("JP")),
        ],
    );
    let mut geoip = ProcessorTest::new(FACTORY, &format!("databases: [{operators}, {countries}]"));
    let remotes = [
        "203.0.113.9:443",
        "203.0.113.200:443",
        "198.51.100.7:443",
        "10.0.0.1:443",
        "[2001:db8:1::5]:443",
        "[2001:db8:2::5]:443",
        "[2001:db9::1]:443",
    ];
    let expected = [
        Some(known(64_496, "Example Net", "DE")),
        Some(known(64_496, "Example Net", "")),
        Some(known(0, "", "FR")),
        None,
        Some(known(64_497, "Example Six", "JP")),
        Some(known(64_497, "Example Six", "")),
        None,
    ];
    assert_eq!(places(&mut geoip, &remotes), expected);
    assert_eq!(places(&mut geoip, &remotes), expected, "from the cache");
}

#[test]
fn records_of_ipinfo_have_the_same_parts_under_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let lite = Map(vec![
        ("asn", Text("AS64499")),
        ("as_name", Text("Example Lite")),
        ("country", Text("Germany")),
        ("country_code", Text("DE")),
    ]);
    let path = write(folder.path(), "lite.mmdb", &[("203.0.113.0/24", lite)]);
    let mut geoip = ProcessorTest::new(FACTORY, &format!("databases: [{path}]"));
    assert_eq!(
        places(&mut geoip, &["203.0.113.9:443"]),
        [Some(known(64_499, "Example Lite", "DE"))]
    );
}

#[test]
fn a_database_that_changes_is_read_again_and_one_that_is_wrong_leaves_what_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "asn.mmdb", &[("203.0.113.0/24", asn(1, "One"))]);
    let mut geoip = ProcessorTest::new(FACTORY, &format!("databases: [{path}]"));
    let mut wait_for = |expected| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while places(&mut geoip, &["203.0.113.9:443"]) != [Some(known(expected, "", ""))]
            && places(&mut geoip, &["203.0.113.9:443"])[0]
                .as_ref()
                .map(|place| place.0)
                != Some(expected)
        {
            assert!(Instant::now() < deadline, "AS {expected} never came");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for(1);
    write(
        folder.path(),
        "asn.mmdb",
        &[("203.0.113.0/24", asn(2, "The second"))],
    );
    wait_for(2);
    fs::write(folder.path().join("asn.mmdb"), "not a database").unwrap();
    std::thread::sleep(Duration::from_secs(5));
    wait_for(2);
    write(
        folder.path(),
        "asn.mmdb",
        &[("203.0.113.0/24", asn(3, "The third and last"))],
    );
    wait_for(3);
}

#[test]
fn a_file_that_is_no_database_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.mmdb");
    fs::write(&path, "text").unwrap();
    for path in [path.display().to_string(), "/nowhere/asn.mmdb".to_owned()] {
        let parsed = config(FACTORY, &format!("databases: [{path}]")).unwrap();
        let error = parsed
            .build(&crate::testing::context(flowtap_pipeline::NodeInfo::default()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&path) && error.contains("hint: a file in the MMDB format"),
            "{error}"
        );
    }
    let error = config(FACTORY, "").unwrap_err();
    assert!(
        error.starts_with("databases: must be set: a list of files"),
        "{error}"
    );
    let error = config(FACTORY, "databases: [/a, /a]").unwrap_err();
    assert!(error.starts_with("databases.1: is a duplicate"), "{error}");
}

#[test]
fn the_tests_own_databases_hold_ipv4_where_the_format_has_it() {
    let reader = maxminddb::Reader::from_source(database(&[("203.0.113.0/24", asn(1, "One"))])).unwrap();
    let mapped: IpAddr = Ipv6Addr::from_bits(0xcb00_7109).into();
    assert!(reader.lookup(mapped).unwrap().has_data());
    assert_eq!(reader.metadata().database_type, "Test");
}
