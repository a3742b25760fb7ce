//! Scans: through a small ring they end, whatever else comes into it; and they find connections that have gone unseen.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;

use flowtap_ebpf::{Event, Sockets, SocketsOptions};
use serde_json::Value;

use crate::require;
use crate::traffic::Held;

/// Opens and closes a connection, which makes a record at each of its ends at least.
fn come_and_go(listener: &TcpListener) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap();
    drop(client);
    drop(server);
}

/// A scan whose reader is never done with the ring: for each record that it reads another connection comes and goes. Returns how many
/// did, and the number of ends of open connections that the scan has shown.
fn scan_while_the_ring_is_filled(per_segment: bool, census: bool) -> (usize, usize) {
    let options = SocketsOptions {
        // The smallest: it holds some twenty records.
        ring_buffer_bytes: 4096,
        max_sockets: 100_000,
        per_segment,
        translation: false,
    };
    let mut sockets = Sockets::load(&options).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _held = Held::open(&listener, HELD).unwrap();
    let mut came = 0;
    let mut shown = HashSet::new();
    for _ in 0..50 {
        come_and_go(&other);
    }
    let each = |event: Event, _| {
        if let Event::Flow(flow) = event
            && [flow.tuple.local_port, flow.tuple.remote_port].contains(&port)
        {
            shown.insert(flow.cookie);
        }
        if came < PATIENCE {
            came += 1;
            come_and_go(&other);
        }
    };
    let scanned = if census {
        sockets.scan_census(each)
    } else {
        sockets.scan(each)
    };
    scanned.unwrap();
    (came, shown.len())
}

/// Connections that are open.
const HELD: usize = 200;

/// Connections that come and go after which a scan has no end.
const PATIENCE: usize = 10_000;

#[test]
fn a_scan_ends_with_every_open_connection_although_the_ring_is_filled_as_quickly_as_it_is_read() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::mode_sockets() {
        return;
    }
    for (per_segment, census) in [(false, false), (false, true), (true, true)] {
        let (came, shown) = scan_while_the_ring_is_filled(per_segment, census);
        let case = format!("per_segment: {per_segment}, census: {census}");
        assert!(came < PATIENCE, "{case}: no end after {came}, with {shown} shown");
        assert_eq!(shown, 2 * HELD, "{case}");
    }
}

#[test]
fn a_connection_whose_close_no_program_has_seen_is_taken_out_and_counted() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::mode_sockets() || !require::program("bpftool") {
        return;
    }
    let options = SocketsOptions {
        ring_buffer_bytes: 1 << 20,
        max_sockets: 100_000,
        per_segment: true,
        translation: false,
    };
    let mut sockets = Sockets::load(&options).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let _held = Held::open(&listener, 1).unwrap();
    let Some((table, [key, value])) = own_tables().find_map(|id| Some((id, open_entry(id)?))) else {
        eprintln!("skipped: this kernel keeps connections in socket storage");
        return;
    };
    // A socket of another cookie is at the address by now.
    let mut gone = key.clone();
    gone[6] ^= 0x55;
    let update = ["map", "update", "id", &table.to_string()].map(str::to_owned);
    let arguments = update
        .into_iter()
        .chain(["key".into(), "hex".into()])
        .chain(hex(&gone))
        .chain(["value".into(), "hex".into()])
        .chain(hex(&value));
    bpftool(arguments);
    assert!(entries(table).iter().any(|entry| entry[0] == gone));

    sockets.sweep().unwrap();
    let keys: Vec<_> = entries(table).into_iter().map(|[key, _]| key).collect();
    assert!(!keys.contains(&gone));
    assert_eq!(sockets.losses().unwrap().missed_closes, 1);
    sockets.sweep().unwrap();
    assert_eq!(sockets.losses().unwrap().missed_closes, 1);
}

/// Ids of the maps named `table` that this process has open.
fn own_tables() -> impl Iterator<Item = u32> {
    let files = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let infos = files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok());
    let ids = infos.filter_map(|info| {
        let line = info.lines().find_map(|line| line.strip_prefix("map_id:"))?;
        line.trim().parse().ok()
    });
    ids.filter(|id: &u32| {
        bpftool(["-j", "map", "show", "id", &id.to_string()].map(str::to_owned))["name"] == "table"
    })
}

/// Key and value of an entry whose connection is established and has not closed (`enum mark` of `socket_state.h`).
fn open_entry(table: u32) -> Option<[Vec<u8>; 2]> {
    let is_open = |value: &[u8]| value[0] & (1 << 1) != 0 && value[0] & (1 << 2) == 0;
    entries(table).into_iter().find(|[_, value]| is_open(value))
}

fn entries(table: u32) -> Vec<[Vec<u8>; 2]> {
    let dumped = bpftool(["-j", "map", "dump", "id", &table.to_string()].map(str::to_owned));
    let bytes = |bytes: &Value| {
        let bytes = bytes.as_array().unwrap().iter();
        bytes
            .map(|byte| u8::from_str_radix(byte.as_str().unwrap().trim_start_matches("0x"), 16).unwrap())
            .collect()
    };
    let entries = dumped.as_array().unwrap().iter();
    entries
        .map(|entry| [bytes(&entry["key"]), bytes(&entry["value"])])
        .collect()
}

fn hex(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs `bpftool`; returns its output as JSON, `Null` if it has none.
fn bpftool(arguments: impl IntoIterator<Item = String>) -> Value {
    let output = Command::new("bpftool").args(arguments).output().expect("bpftool");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}
