//! UDP of programs that are not ours, against their own counts: `iperf3`, and HTTP/3 by aioquic.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::daemon::{Daemon, LastWindow};
use crate::{netns, require};

const EGRESS: &str = "primus_lens_network_udp_flow_egress";
const INGRESS: &str = "primus_lens_network_udp_flow_ingress";
const DATAGRAMS: &str = "primus_lens_network_udp_datagrams";
const DROPS: &str = "primus_lens_network_udp_drops";

fn daemon(hooks: &str) -> Daemon {
    let hooks = format!("receivers.ebpf.udp.hooks={hooks}");
    Daemon::start(&[
        &hooks,
        "processors.window.families.network_udp_flow_egress.labels=[lport, rport, direction, app, netns]",
        "processors.window.families.network_udp_flow_ingress.labels=[lport, direction, app, netns]",
        "processors.window.families.network_udp_datagrams.labels=[lport, rport, direction, app, netns]",
        "processors.window.families.network_udp_drops.labels=[lport, netns]",
    ])
}

/// A child that is killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Program {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    Program(spawned.expect("the program"))
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("the program");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Sums of a port, by family and direction.
struct Seen<'a> {
    window: &'a LastWindow,
    port: String,
    netns: &'a str,
}

impl Seen<'_> {
    fn sum(&self, family: &str, port: &str, more: &[(&str, &str)]) -> u64 {
        let own = [(port, self.port.as_str()), ("netns", self.netns)];
        self.window.totals.sum(family, &[&own, more].concat())
    }
}

/// iperf3's first datagram, with which a client begins a stream, and the server's answer (`UDP_CONNECT_MSG`, `_REPLY`).
const IPERF3_CONNECT: u64 = 4;

const IPERF3_DATAGRAM: u64 = 1000;

/// Bytes that the client sent, and that the server took, without those at the begin, as iperf3 reports them.
fn iperf3(port: u16) -> (u64, u64) {
    let arguments = ["-J", "-p", &port.to_string()];
    let mut server = start(Command::new("iperf3").args(["-s", "-1"]).args(arguments));
    // It listens on TCP as well, for its control connection; a connection that sends nothing is not a test.
    let listening = || {
        let listeners = output(Command::new("ss").args(["-Hltn", &format!("sport = :{port}")]));
        !listeners.trim().is_empty()
    };
    while !listening() {
        std::thread::yield_now();
    }
    let client = output(
        Command::new("iperf3")
            .args([
                "-c",
                "127.0.0.1",
                "-u",
                "-b",
                "8M",
                "-n",
                "1M",
                "-l",
                &IPERF3_DATAGRAM.to_string(),
            ])
            .args(arguments),
    );
    let mut text = String::new();
    server
        .0
        .stdout
        .take()
        .expect("a pipe")
        .read_to_string(&mut text)
        .unwrap();
    let bytes = |text: &str, which: &str| {
        let report: Value = serde_json::from_str(text).unwrap();
        report["end"][which]["bytes"].as_u64().unwrap()
    };
    (bytes(&client, "sum_sent"), bytes(&text, "sum_received"))
}

#[test]
fn iperf3_sent_and_received_as_many_bytes_and_datagrams_as_it_reports() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("iperf3") {
        return;
    }
    for hooks in ["cgroup", "tracepoints"] {
        let daemon = daemon(hooks);
        let port = 28_100;
        let (netns, (sent, received)) = netns::within_new(|| (netns::label(), iperf3(port)));
        let (status, window) = daemon.stop();
        assert!(status.success(), "{status}");
        let seen = Seen {
            window: &window,
            port: port.to_string(),
            netns: &netns,
        };
        let (outbound, inbound) = (("direction", "outbound"), ("direction", "inbound"));
        assert_eq!(
            seen.sum(EGRESS, "rport", &[outbound]),
            sent + IPERF3_CONNECT,
            "{hooks}"
        );
        assert_eq!(
            seen.sum(DATAGRAMS, "rport", &[outbound]),
            sent / IPERF3_DATAGRAM + 1,
            "{hooks}"
        );
        assert_eq!(seen.sum(EGRESS, "rport", &[inbound]), IPERF3_CONNECT, "{hooks}");
        // Of a server that connects its socket, only `cgroup` sees that the client began.
        let of_server =
            |direction| seen.sum(INGRESS, "lport", &[direction]) + seen.sum(EGRESS, "lport", &[direction]);
        assert_eq!(of_server(outbound), IPERF3_CONNECT, "{hooks}");
        let taken = of_server(inbound);
        let dropped = seen.sum(DROPS, "lport", &[]);
        if hooks == "cgroup" {
            // Counts what is queued: also datagrams that iperf3 left in the queue at its end.
            assert_eq!(taken + dropped * IPERF3_DATAGRAM, sent + IPERF3_CONNECT);
        } else {
            assert_eq!(taken, received + IPERF3_CONNECT);
        }
    }
}

/// Datagrams and bytes as aioquic sent and received them.
fn counts(line: &str) -> [[u64; 2]; 2] {
    let counts: Value = serde_json::from_str(line).unwrap();
    ["sent", "received"].map(|which| [0, 1].map(|index| counts[which][index].as_u64().unwrap()))
}

fn http3(python: &Path, directory: &Path) -> (u16, [[u64; 2]; 2], [[u64; 2]; 2]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/http3.py");
    let command = || {
        let mut command = Command::new(python);
        command.arg("-B").arg(&script);
        command
    };
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|file| directory.join(file));
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let mut server = start(command().arg("server").arg(&certificate).arg(&key));
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let port: u16 = lines.next().unwrap().unwrap().parse().unwrap();
    let client = output(command().args(["client", &port.to_string(), "/0", "/1000", "/300000"]));
    assert!(client.contains("301000"), "the bodies: {client}");
    drop(server.0.stdin.take());
    let server = lines.next().unwrap().unwrap();
    (port, counts(&server), counts(&client))
}

#[test]
fn http3_is_labelled_quic_and_counted_as_both_of_its_ends_count_it() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(python) = require::python() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let daemon = daemon("cgroup");
    let (netns, (port, server, client)) =
        netns::within_new(|| (netns::label(), http3(&python, directory.path())));
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(client[0], server[1], "nothing is lost on loopback");
    let seen = Seen {
        window: &window,
        port: port.to_string(),
        netns: &netns,
    };
    for (end, bytes, label) in [(client, EGRESS, "rport"), (server, INGRESS, "lport")] {
        for (counted, direction) in end.into_iter().zip(["outbound", "inbound"]) {
            let labels = [("direction", direction), ("app", "quic")];
            let found = [
                seen.sum(DATAGRAMS, label, &labels),
                seen.sum(bytes, label, &labels),
            ];
            assert_eq!(found, counted, "{direction} of {label}");
        }
    }
}
