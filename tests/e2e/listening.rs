//! Listening sockets: their queues and drops, against `ListenOverflows`, `ListenDrops` and `ss`.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, accept, bind, connect, listen, setsockopt,
    socket, sockopt,
};

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT};
use crate::drops::Counters;
use crate::exposition::Exposition;
use crate::links::run;
use crate::netns;
use crate::require;

const BACKLOG: &str = "primus_lens_network_tcp_listen_backlog";
const LIMIT: &str = "primus_lens_network_tcp_listen_backlog_limit";
const DROPS: &str = "primus_lens_network_tcp_listen_drops";
const WAIT: &str = "primus_lens_network_tcp_accept_wait";

/// Clients of each server.
const CLIENTS: usize = 20;

/// Labels of every family, by which namespaces and processes are distinguished.
const LABELS: [&str; 4] = [
    "processors.window.families.network_tcp_listen_backlog.labels=[lport, netns, comm, pid]",
    "processors.window.families.network_tcp_listen_backlog_limit.labels=[lport, netns]",
    "processors.window.families.network_tcp_listen_drops.labels=[lport, netns]",
    "processors.window.families.network_tcp_accept_wait.labels=[lport, netns]",
];

fn address(port: u16) -> SockaddrIn {
    SockaddrIn::new(127, 0, 0, 1, port)
}

/// A server that accepts nothing by itself.
pub(crate) fn server(port: u16, backlog: i32) -> OwnedFd {
    let server = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("a socket");
    setsockopt(&server, sockopt::ReuseAddr, &true).expect("an option");
    bind(std::os::fd::AsRawFd::as_raw_fd(&server), &address(port)).expect("an address");
    listen(&server, Backlog::new(backlog).expect("a backlog")).expect("it listens");
    server
}

/// Clients that begin to connect, and don't wait for it.
pub(crate) fn clients(port: u16) -> Vec<OwnedFd> {
    (0..CLIENTS)
        .map(|_| {
            let client = socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::SOCK_NONBLOCK,
                None,
            )
            .expect("a socket");
            let begun = connect(std::os::fd::AsRawFd::as_raw_fd(&client), &address(port));
            assert!(matches!(begun, Ok(()) | Err(Errno::EINPROGRESS)), "{begun:?}");
            client
        })
        .collect()
}

fn of(scrape: &Exposition, family: &str, port: u16, netns: &str) -> f64 {
    let port = port.to_string();
    let labels = [("lport", port.as_str()), ("netns", netns)];
    scrape.select(family, &labels).map(|sample| sample.value).sum()
}

pub(crate) fn require_listening() -> bool {
    let output = crate::daemon::flowtap()
        .args(["doctor", "--json"])
        .output()
        .expect("flowtap");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found = report["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .any(|finding| finding["need"] == "listening queues" && finding["verdict"] == "ok");
    if !found {
        require::skip("this test needs Linux 5.13 (flowtap doctor)");
    }
    found
}

#[test]
fn the_queue_of_a_server_that_does_not_accept_is_what_the_kernel_counts() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::mode_sockets() || !require_listening() {
        return;
    }
    for mode in ["sockets", "events"] {
        let mode_key = format!("receivers.ebpf.mode={mode}");
        let mut set = vec![mode_key.as_str()];
        set.extend(LABELS);
        let daemon = Daemon::start(&set);
        for backlog in 1..=8 {
            queue_is_exact(&daemon, mode, backlog);
        }
        drops_of_a_short_lived_server_are_exact(&daemon);
        let (status, _) = daemon.stop();
        assert!(status.success(), "{status}");
    }
}

/// One of two servers closes with its queue full; the other one accepts in the end what waits.
fn queue_is_exact(daemon: &Daemon, mode: &str, backlog: u16) {
    let (port, limit) = (7_400 + backlog, f64::from(backlog));
    let begun = Instant::now();
    let (netns, counters, server, connecting) = netns::within_new(|| {
        let server = server(port, i32::from(backlog));
        (netns::label(), Counters::open(), server, clients(port))
    });
    let is =
        |seen: &Exposition, family: &str, value: f64| (of(seen, family, port, &netns) - value).abs() < 1e-9;
    // A queue takes one more than its limit.
    let scrape = daemon.scrape_until("a full queue", |seen| of(seen, BACKLOG, port, &netns) > limit);
    assert!(is(&scrape, BACKLOG, limit + 1.0), "{mode} {backlog}: {scrape:?}");
    assert!(is(&scrape, LIMIT, limit), "{mode} {backlog}: {scrape:?}");
    let process = std::process::id().to_string();
    let labels = [("pid", process.as_str()), ("netns", netns.as_str())];
    assert!(
        scrape.select(BACKLOG, &labels).next().is_some(),
        "{mode}: {scrape:?}"
    );
    let wait = of(&scrape, WAIT, port, &netns);
    let most = begun.elapsed().as_secs_f64();
    assert!(wait > 0.0 && wait <= most, "{mode}: {wait} of {most} s");
    let longer = daemon.scrape_until("a longer wait", |seen| of(seen, WAIT, port, &netns) > wait + 0.5);
    assert!(of(&longer, WAIT, port, &netns) <= begun.elapsed().as_secs_f64());
    if backlog.is_multiple_of(2) {
        drop(connecting);
        while accept_one(&server) {}
        let drained = daemon.scrape_until("an empty queue", |seen| is(seen, BACKLOG, 0.0));
        assert!(is(&drained, WAIT, 0.0), "{mode} {backlog}: {drained:?}");
        assert!(is(&drained, LIMIT, limit), "{mode} {backlog}: {drained:?}");
    } else {
        drop(server);
        drop(connecting);
    }
    // Nobody connects any more.
    let expected = counters.get("TcpExt:", "ListenDrops");
    assert_eq!(counters.get("TcpExt:", "ListenOverflows"), expected);
    assert!(expected > 0, "{mode} {backlog}");
    let scrape = daemon.scrape_until("every drop", |seen| {
        of(seen, DROPS, port, &netns) >= expected as f64
    });
    assert!(
        is(&scrape, DROPS, expected as f64),
        "{mode} {backlog}: {expected}, {scrape:?}"
    );
}

fn drops_of_a_short_lived_server_are_exact(daemon: &Daemon) {
    const PORT: u16 = 7_450;
    let (netns, counters) = daemon.while_paused(|| {
        netns::within_new(|| {
            let server = server(PORT, 1);
            let connecting = clients(PORT);
            // No look while it lives.
            thread::sleep(Duration::from_millis(100));
            drop(server);
            drop(connecting);
            (netns::label(), Counters::open())
        })
    });
    let expected = counters.get("TcpExt:", "ListenDrops") as f64;
    assert!(expected > 0.0);
    let scrape = daemon.scrape_until("the drops of a short-lived server", |seen| {
        of(seen, DROPS, PORT, &netns) >= expected
    });
    assert!(
        (of(&scrape, DROPS, PORT, &netns) - expected).abs() < 1e-9,
        "{expected}: {scrape:?}"
    );
}

/// Accepts a connection that waits.
fn accept_one(server: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(server, nix::fcntl::FcntlArg::F_SETFL(flags)).expect("a flag");
    accept(server.as_raw_fd()).map(nix::unistd::close).is_ok()
}

#[test]
fn sock_diag_sees_the_queues_of_its_namespace_as_ss_does() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("ss") {
        return;
    }
    netns::within_new(|| {
        let list = "exporters: [prometheus, debug]\n    metrics/own:\n      receivers: [sock_diag]\n      processors: [direction/d, policy/d, window/d]\n      exporters: [prometheus/d]";
        let scrape = crate::daemon::free_address();
        let exporters = format!("  prometheus/d: {{endpoint: \"{scrape}\"}}\n");
        let set = [
            "receivers.sock_diag.interval=200ms",
            "processors.direction/d={}",
            "processors.policy/d={}",
            "processors.window/d.interval=200ms",
        ];
        let daemon = Daemon::launch(Launch {
            list,
            exporters: &exporters,
            set: &set,
            ..Launch::default()
        });
        let read = || Exposition::parse(&crate::daemon::get(scrape, "/metrics"));
        let server = server(7_500, 3);
        let connecting = clients(7_500);
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let value = |seen: &Exposition, family: &str| {
            let labels = [("lport", "7500")];
            seen.select(family, &labels)
                .map(|sample| sample.value)
                .sum::<f64>()
        };
        while value(&read(), BACKLOG) < 4.0 {
            assert!(Instant::now() < deadline, "{:?}", read());
            thread::sleep(Duration::from_millis(20));
        }
        drop(connecting);
        let dropped = Counters::open().get("TcpExt:", "ListenDrops") as f64;
        while value(&read(), DROPS) < dropped {
            assert!(Instant::now() < deadline, "{:?}", read());
            thread::sleep(Duration::from_millis(20));
        }
        let seen = read();
        assert!((value(&seen, DROPS) - dropped).abs() < 1e-9);
        // State, Recv-Q, Send-Q, ..., skmem:(...,d<drops>)
        let shown = run("ss -Hltnm 'sport = :7500'");
        let fields: Vec<_> = shown.split_whitespace().collect();
        let number = |text: &str| text.parse::<f64>().unwrap();
        assert!(
            (value(&seen, BACKLOG) - number(fields[1])).abs() < 1e-9,
            "{shown}"
        );
        assert!((value(&seen, LIMIT) - number(fields[2])).abs() < 1e-9, "{shown}");
        let (_, drops) = shown.rsplit_once(",d").unwrap();
        let drops = drops.split(|c: char| !c.is_ascii_digit()).next().unwrap();
        assert!((value(&seen, DROPS) - number(drops)).abs() < 1e-9, "{shown}");
        let labels = [("lport", "7500")];
        assert!(seen.select(WAIT, &labels).next().is_none(), "it can't be known");
        drop(server);
        let (status, _) = daemon.stop();
        assert!(status.success(), "{status}");
    });
}
