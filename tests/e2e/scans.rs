//! Scans through a small ring: they end, whatever else comes into it.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use flowtap_ebpf::{Event, Sockets, SocketsOptions};

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
