//! The processor `geoip` with databases that a program not of this project has written: PyPI's mmdb-writer.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::Daemon;
use crate::netns::Namespace;
use crate::require;

const EGRESS: &str = "primus_lens_network_tcp_flow_egress";

/// Writes databases of operators and of countries: the numbers of the operators are the arguments.
const WRITER: &str = "\
import os, sys
from mmdb_writer import MMDBWriter
from netaddr import IPSet
folder, first, second = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
operators = MMDBWriter(6, 'GeoLite2-ASN', languages=['en'], ipv4_compatible=True)
operators.insert_network(IPSet(['203.0.113.0/24']), {'autonomous_system_number': first, 'autonomous_system_organization': 'First Example'})
operators.insert_network(IPSet(['2001:db8:7::/48']), {'autonomous_system_number': second, 'autonomous_system_organization': 'Second Example'})
countries = MMDBWriter(6, 'GeoLite2-Country', languages=['en'], ipv4_compatible=True)
countries.insert_network(IPSet(['203.0.113.0/25']), {'country': {'iso_code': 'DE'}, 'registered_country': {'iso_code': 'US'}})
countries.insert_network(IPSet(['2001:db8::/32']), {'registered_country': {'iso_code': 'NZ'}})
for name, database in [('asn', operators), ('country', countries)]:
    database.to_db_file(f'{folder}/{name}.new')
    os.rename(f'{folder}/{name}.new', f'{folder}/{name}.mmdb')
";

/// The tests' Python environment, if it has mmdb-writer.
fn writer() -> Option<PathBuf> {
    let python = require::python()?;
    let found = Command::new(&python).args(["-c", "import mmdb_writer"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    require::skip("PyPI's mmdb-writer is not in target/venv (make setup-test)");
    None
}

fn write(python: &Path, folder: &Path, numbers: [u32; 2]) {
    let output = Command::new(python)
        .args(["-c", WRITER])
        .arg(folder)
        .args(numbers.map(|number| number.to_string()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A connection to each address, all of this thread's namespace, with 100 bytes.
fn connect_to(addresses: &[&str]) {
    for address in addresses {
        let listener = TcpListener::bind((*address, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(&[7; 100]).unwrap();
        drop(client);
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), 100);
    }
}

#[test]
fn peers_have_the_operator_and_the_country_of_files_that_another_program_wrote() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(python) = writer() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    write(&python, folder.path(), [64_496, 4_200_000_001]);
    let databases = format!(
        "processors.geoip.databases=[{0}/asn.mmdb, {0}/country.mmdb]",
        folder.path().display()
    );
    let daemon = Daemon::start(&[
        &databases,
        "service.pipelines.metrics.processors=[direction, policy, geoip, window]",
        "processors.window.families.network_tcp_flow_egress.labels=[raddr, peer_asn, peer_as_org, peer_country, direction, netns]",
    ]);
    let addresses = ["203.0.113.9", "203.0.113.200", "2001:db8:7::9", "198.51.100.9"];
    let net = Namespace::new();
    for address in addresses {
        let rest = if address.contains(':') {
            "/128 dev lo nodad"
        } else {
            "/32 dev lo"
        };
        net.sh(&format!("ip addr add {address}{rest}"));
    }
    net.run(|| connect_to(&addresses));
    let netns = net.label();
    let places = [
        ("203.0.113.9", "64496", "First Example", "DE"),
        ("203.0.113.200", "64496", "First Example", ""),
        ("2001:db8:7::9", "4200000001", "Second Example", "NZ"),
        ("198.51.100.9", "", "", ""),
    ];
    daemon.scrape_until_none("the places of peers", |seen| {
        let mut missing = Vec::new();
        for (raddr, asn, org, country) in places {
            let labels = [("raddr", raddr), ("netns", &netns), ("direction", "outbound")];
            let series = seen.select(EGRESS, &labels).map(|sample| {
                let label = |name: &str| sample.labels.get(name).map_or("", String::as_str);
                [label("peer_asn"), label("peer_as_org"), label("peer_country")]
            });
            let series: Vec<_> = series.collect();
            if series != [[asn, org, country]] {
                missing.push(format!("{raddr}: {series:?}"));
            }
        }
        missing
    });
    // A file that was replaced is read again.
    write(&python, folder.path(), [64_511, 4_200_000_001]);
    let renumbered = [("raddr", "203.0.113.9"), ("netns", &netns), ("peer_asn", "64511")];
    daemon.scrape_until("the new number", |seen| {
        net.run(|| connect_to(&addresses[..1]));
        seen.sum(EGRESS, &renumbered) > 0
    });
    let unreadable = daemon
        .telemetry()
        .sum("flowtap_processor_geoip_unreadable_records_total", &[]);
    assert_eq!(unreadable, 0);
}
