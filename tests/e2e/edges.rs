//! Connections that few programs make: each in a separate network namespace, in both modes with
//! eBPF, by a Python program whose own count is the oracle.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::daemon::{Daemon, read};
use crate::exposition::Exposition;
use crate::handover::Stops;
use crate::netns;
use crate::require;
use crate::traffic::{Counted, Held, exchange};

const MODES: [&str; 2] = ["sockets", "events"];
const EVENTS: &str = "primus_lens_network_tcp_connections";
const FAILURES: &str = "primus_lens_network_tcp_connect_failures";

/// For every program: sockets and their ends. Lines that a program prints are its counts.
const COMMON: &str = r#"
import os, socket, struct, subprocess, threading, time
def listen(port, *options):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option in options: s.setsockopt(*option)
    s.bind(("127.0.0.1", port)); s.listen(64); return s
def pair(listener):
    c = socket.create_connection(listener.getsockname()); return c, listener.accept()[0]
def read(s, count):
    got = 0
    while got < count:
        chunk = s.recv(min(65536, count - got))
        if not chunk: break
        got += len(chunk)
    return got
def reset_on_close(s): s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
def run(*command): subprocess.run(command, check=True)
"#;

/// Runs `program` in the namespace of this thread.
fn python(program: &str) -> String {
    let output = Command::new("python3")
        .args(["-c", &format!("{COMMON}{program}")])
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

fn daemon(mode: &str, set: &[&str]) -> Daemon {
    let mode = format!("receivers.ebpf.mode={mode}");
    let mut all = vec![
        mode.as_str(),
        "receivers.ebpf.ring_buffer_bytes=67108864",
        "processors.window.families.network_tcp_connections.labels=[flow, event, type, lport, rport, netns]",
        "processors.window.families.network_tcp_connect_failures.labels=[reason, type, netns]",
    ];
    all.extend(netns::FLOWS_BY_NETNS);
    all.extend(set);
    Daemon::start(&all)
}

/// In each mode: runs `program` in a separate namespace, then checks the daemon's counts when it
/// stops.
fn in_each_mode(set: &[&str], program: &str, check: impl Fn(&str, &Exposition, &str)) {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("python3") || !require::program("nft") {
        return;
    }
    for mode in MODES {
        if mode == "sockets" && !require::mode_sockets() {
            continue;
        }
        let daemon = daemon(mode, set);
        let (netns, said) = netns::within_new(|| (netns::label(), python(program)));
        let (status, window) = daemon.stop();
        assert!(status.success(), "{status}");
        eprintln!("{mode}: {said}");
        check(&netns, &window.totals, &said);
    }
}

fn events(seen: &Exposition, netns: &str, flow: &str, event: &str) -> u64 {
    seen.sum(EVENTS, &[("flow", flow), ("event", event), ("netns", netns)])
}

#[test]
fn a_fast_open_connection_that_is_reset_before_its_handshake_ends_is_counted() {
    const PROGRAM: &str = r#"
run("sysctl", "-qw", "net.ipv4.tcp_fastopen=0x607")
l = listen(7001, (socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16))
run("nft", "table inet t { chain i { type filter hook input priority 0; tcp sport 7001 tcp flags & syn == syn drop; }; }")
c = socket.socket(); c.setblocking(False)
try: c.sendto(b"s" * 777, socket.MSG_FASTOPEN, l.getsockname())
except BlockingIOError: pass
s = l.accept()[0]
assert read(s, 777) == 777
s.sendall(b"a" * 333)
assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 3, "SYN_RECV"
reset_on_close(s); s.close()
"#;
    in_each_mode(&[], PROGRAM, |netns, seen, _| {
        let counted = Counted::of_port_in(seen, 7001, netns);
        assert_eq!((counted.server_received, counted.server_sent), (777, 333));
        assert_eq!(events(seen, netns, "ingress", "closed"), 1);
        assert_eq!(events(seen, netns, "ingress", "reset"), 1);
    });
}

#[test]
fn a_reset_shows_at_the_end_that_resets_whatever_was_closed_before() {
    const PROGRAM: &str = r#"
l = listen(7001)
# Half-closed, then closed with unread data: a reset from FIN_WAIT2.
c, s = pair(l); c.sendall(b"x" * 100); c.shutdown(socket.SHUT_WR); assert read(s, 200) == 100
s.sendall(b"y" * 50)
while not c.recv(1, socket.MSG_PEEK): pass
c.close()
# Half-closed, then an abortive close.
d, t = pair(l); d.shutdown(socket.SHUT_WR); assert t.recv(1) == b""; reset_on_close(d); d.close()
# By the operator.
e, u = pair(l); port = e.getsockname()[1]
run("ss", "-K", "-n", "src", "127.0.0.1:%d" % port)
for end in (s, t, u):
    try:
        while end.recv(1000): pass
    except OSError: pass
    end.close()
e.close()
# In good order, from either end and by both: no resets.
for first in (0, 1):
    ends = pair(l)
    ends[first].close(); assert ends[1 - first].recv(1) == b""; ends[1 - first].close()
f, v = pair(l); f.shutdown(socket.SHUT_WR); v.shutdown(socket.SHUT_WR); assert f.recv(1) == v.recv(1) == b""; f.close(); v.close()
"#;
    in_each_mode(&[], PROGRAM, |netns, seen, _| {
        assert_eq!(events(seen, netns, "egress", "closed"), 6);
        assert_eq!(events(seen, netns, "egress", "reset"), 3, "the ends that reset");
        assert_eq!(events(seen, netns, "ingress", "reset"), 3, "their peers");
    });
}

#[test]
fn connections_whose_sockets_get_no_storage_are_counted_to_the_byte() {
    const PROGRAM: &str = r#"
open("/proc/sys/net/core/optmem_max", "w").write("100")
l = listen(7001)
for _ in range(20):
    c, s = pair(l); c.sendall(b"x" * 1000); assert read(s, 1000) == 1000
    s.sendall(b"y" * 500); assert read(c, 500) == 500; c.close(); s.close()
"#;
    in_each_mode(&[], PROGRAM, |netns, seen, _| {
        let expected = Counted {
            client_sent: 20_000,
            client_received: 10_000,
            server_sent: 10_000,
            server_received: 20_000,
        };
        assert_eq!(Counted::of_port_in(seen, 7001, netns), expected);
    });
}

#[test]
fn a_connect_without_a_local_port_fails_for_that_reason() {
    const PROGRAM: &str = r#"
run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40001")
l = listen(7001)
held = [pair(l) for _ in range(2)]
for _ in range(3):
    try: socket.create_connection(l.getsockname()); raise SystemExit("connected")
    except OSError as error: assert error.errno == 99, error
"#;
    in_each_mode(&[], PROGRAM, |netns, seen, _| {
        let labels = [("reason", "no_local_port"), ("netns", netns)];
        assert_eq!(seen.sum(FAILURES, &labels), 3);
    });
}

#[test]
fn a_connection_belongs_to_its_process_and_not_to_a_thread_and_from_its_first_record_on() {
    const BY_PROCESS: [&str; 2] = [
        "processors.window.families.network_tcp_flow_egress.labels=[rport, direction, comm, pid, netns]",
        "processors.window.families.network_tcp_flow_ingress.labels=[lport, direction, comm, pid, netns]",
    ];
    // The server's end is never closed by its process: its peer resets it.
    const PROGRAM: &str = r#"
open("/proc/self/comm", "w").write("the-process")
l = listen(7001)
def client():
    open("/proc/thread-self/comm", "w").write("pool-7-thread-3")
    c = socket.create_connection(l.getsockname()); c.sendall(b"x" * 1000); assert read(c, 500) == 500
    reset_on_close(c); c.close()
def server():
    open("/proc/thread-self/comm", "w").write("acceptor-9")
    s = l.accept()[0]; assert read(s, 1000) == 1000; s.sendall(b"y" * 500)
    try: s.recv(1)
    except ConnectionResetError: pass
threads = [threading.Thread(target=f) for f in (client, server)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(os.getpid())
"#;
    in_each_mode(&BY_PROCESS, PROGRAM, |netns, seen, said| {
        let labels = [("comm", "the-process"), ("pid", said.trim()), ("netns", netns)];
        let sum = |family| seen.sum(family, &labels);
        assert_eq!(sum("primus_lens_network_tcp_flow_egress"), 1500);
        assert_eq!(sum("primus_lens_network_tcp_flow_ingress"), 1500);
    });
}

#[test]
fn connections_beyond_a_full_table_are_counted_with_their_bytes() {
    const PROGRAM: &str = r#"
l = listen(7001); held = [pair(l) for _ in range(64)]
for c, s in held: c.sendall(b"x" * 2000); assert read(s, 2000) == 2000
for c, s in held: c.close(); s.close()
"#;
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let daemon = daemon("events", &["receivers.ebpf.max_sockets=20"]);
    let netns = netns::within_new(|| {
        python(PROGRAM);
        netns::label()
    });
    let lost = |seen: &Exposition, direction| {
        seen.sum(
            "flowtap_receiver_refused_bytes_total",
            &[("direction", direction)],
        )
    };
    // Other programs' connections find no place either, or have taken every place.
    let telemetry = daemon.telemetry_until("the bytes, seen or counted as lost", |seen| {
        let shown = Counted::of_port_in(&daemon.scrape(), 7001, &netns);
        shown.client_sent + lost(seen, "outbound") >= 128_000
            && shown.server_received + lost(seen, "inbound") >= 128_000
    });
    let reason = [("reason", "no_kernel_memory")];
    let untracked = telemetry.sum("flowtap_receiver_refused_records_total", &reason);
    if crate::modes::storage_can_be_scanned() {
        // Connections are followed in their sockets' storage, which `max_sockets` does not bound.
        assert_eq!(untracked, 0);
    } else {
        assert!(untracked >= 128 - 20, "{untracked} connections without a place");
    }
}

#[test]
fn with_a_full_table_every_end_is_shown_or_counted_as_refused_over_thirteen_changes_of_the_mode() {
    const SWITCHES: usize = 13;
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::mode_sockets() {
        return;
    }
    let limit = ["receivers.ebpf.max_sockets=20", netns::BY_NETNS];
    let daemon = Daemon::start(&[&limit[..], &netns::FLOWS_BY_NETNS].concat());
    let config = read(&daemon.config());
    let stop = AtomicBool::new(false);
    let (netns, connections, sent) = thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            netns::within_new(|| {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7011)).unwrap();
                // They take every place.
                let mut held = Held::open(&listener, 30).unwrap();
                let (mut sent, mut count) = (held.exchange(100).unwrap(), 30);
                while !stop.load(Ordering::Relaxed) {
                    sent += exchange(&listener, 20, count).unwrap();
                    count += 20;
                }
                drop(held);
                (netns::label(), count, sent)
            })
        });
        let stops = Stops(&stop);
        for round in 0..SWITCHES {
            let mode = ["events", "sockets"][round % 2];
            assert!(daemon.reload(&config.replace("ebpf: {", &format!("ebpf: {{mode: {mode}, "))));
        }
        drop(stops);
        traffic.join().unwrap()
    });
    let refused = |seen: &Exposition| {
        let reason = [("reason", "no_kernel_memory")];
        let bytes = ["outbound", "inbound"].map(|direction| {
            let labels = [("direction", direction)];
            seen.sum("flowtap_receiver_refused_bytes_total", &labels)
        });
        (seen.sum("flowtap_receiver_refused_records_total", &reason), bytes)
    };
    // Other programs' connections find no place either.
    daemon.telemetry_until("every end, shown or counted as refused", |seen| {
        let shown = daemon.scrape();
        let opened = shown.sum(
            "primus_lens_network_tcp_connections",
            &[("event", "opened"), ("netns", &netns)],
        );
        let bytes = Counted::of_port_in(&shown, 7011, &netns);
        let (ends, [outbound, inbound]) = refused(seen);
        opened + ends >= 2 * connections
            && bytes.client_sent + bytes.server_sent + outbound >= sent.client_sent + sent.server_sent
            && bytes.client_received + bytes.server_received + inbound
                >= sent.client_received + sent.server_received
    });
}
