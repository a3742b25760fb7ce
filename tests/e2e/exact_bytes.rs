//! The sums of client and server, both directions, equal what the applications counted, to the byte.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use crate::daemon::Daemon;
use crate::netns;
use crate::require;
use crate::traffic::{Counted, Held, exchange};

const CONNECTIONS: usize = 3_000;

fn exact_on(set: &[&str], listener: &TcpListener, seed: u64) {
    let port = listener.local_addr().unwrap().port();
    let daemon = Daemon::start(set);
    let sent = exchange(listener, CONNECTIONS, seed).unwrap();
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(Counted::of_port(&window.totals, port), sent);
}

#[test]
fn three_thousand_ipv4_connections_are_counted_to_the_byte_at_both_ends() {
    let Some(_machine) = require::root() else {
        return;
    };
    exact_on(&[], &TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), 4);
}

#[test]
fn three_thousand_ipv6_connections_are_counted_to_the_byte_at_both_ends() {
    let Some(_machine) = require::root() else {
        return;
    };
    exact_on(&[], &TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap(), 6);
}

#[test]
fn three_thousand_connections_in_another_network_namespace_are_counted_to_the_byte() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let (port, sent) = netns::within_new(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        (
            listener.local_addr().unwrap().port(),
            exchange(&listener, CONNECTIONS, 9).unwrap(),
        )
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(Counted::of_port(&window.totals, port), sent);
}

#[test]
fn connections_that_were_open_before_are_counted_from_the_start_on_in_every_namespace() {
    let Some(_machine) = require::root() else {
        return;
    };
    let mut daemon = None;
    let ports_and_counts = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut here = Held::open(&listener, 100).unwrap();
        here.exchange(5_000).unwrap();
        netns::within_new(|| {
            let other = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
            let mut there = Held::open(&other, 100).unwrap();
            there.exchange(7_000).unwrap();
            daemon = Some(Daemon::start(&[]));
            let adopted = [
                (
                    listener.local_addr().unwrap().port(),
                    here.exchange(40_000).unwrap(),
                ),
                (
                    other.local_addr().unwrap().port(),
                    there.exchange(60_000).unwrap(),
                ),
            ];
            // Still open when the last window closes: the scan alone has to find the bytes.
            let (status, window) = daemon.take().unwrap().stop();
            assert!(status.success(), "{status}");
            adopted.map(|(port, sent)| (Counted::of_port(&window.totals, port), sent))
        })
    };
    for (seen, sent) in ports_and_counts {
        assert_eq!(seen, sent);
    }
}
