//! The option `inspect` with programs that are not of this project: gRPC by grpcio, without TLS and with it, against its own count and
//! clock at both ends; Chromium, whose first message has a key share of post-quantum size, against nginx.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT, read};
use crate::exposition::Exposition;
use crate::{netns, require};

const CONNECTIONS: &str = "primus_lens_network_tcp_connections";
const EXCHANGES: &str = "primus_lens_network_tcp_exchanges";
const DURATION_SUM: &str = "primus_lens_network_tcp_exchange_duration_sum";

const ALL: [&str; 7] = [
    "receivers.ebpf.inspect.protocols=true",
    "receivers.ebpf.inspect.server_names=full",
    "receivers.ebpf.inspect.exchanges=true",
    "receivers.ebpf.inspect.budget=100%",
    "processors.window.families.network_tcp_connections.labels=[flow, event, netns, protocol, server_name]",
    "processors.window.families.network_tcp_exchanges.labels=[flow, server_port, netns, protocol]",
    "processors.window.families.network_tcp_exchange_duration.labels=[flow, server_port, netns]",
];

const BOTH_ENDS: [&str; 2] = ["egress", "ingress"];

/// A program that reads and writes lines. Killed when dropped.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.expect("the program");
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        assert!(!line.is_empty(), "the program has ended");
        line
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connections that a gRPC client has open.
const CHANNELS: u64 = 2;

/// Calls on each connection in a round.
const CALLS: u64 = 200;

/// Seconds that a server thinks about a call, as requests have them.
const AT_ONCE: &str = "0";
const THOUGHT: &str = "0.005";

/// Number and seconds of calls, by the time that they asked for.
type Calls = BTreeMap<String, (u64, f64)>;

/// The tests' Python environment, if it has grpcio.
fn grpcio() -> Option<PathBuf> {
    let python = require::python()?;
    let found = Command::new(&python).args(["-c", "import grpc"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    require::skip("PyPI's grpcio is not in target/venv (make setup-test)");
    None
}

/// A gRPC server and a client with connections to it.
struct Grpc {
    server: Program,
    client: Program,
    port: String,
}

impl Grpc {
    /// Starts both in this thread's namespace; with TLS if there is a folder for a certificate.
    fn start(python: &Path, certificate_in: Option<&Path>) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/unary_grpc.py");
        let command = |end: &str| {
            let mut command = Command::new(python);
            command.arg("-B").arg(&script).arg(end);
            command
        };
        let (mut server, mut client) = (command("server"), command("client"));
        let files = certificate_in.map(|folder| {
            let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let [certificate, key] = ["certificate.pem", "key.pem"].map(|file| folder.join(file));
            fs::write(&certificate, issued.cert.pem()).unwrap();
            fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
            [certificate, key]
        });
        server.args(files.iter().flatten());
        let mut server = Program::start(&mut server);
        let port = server.line().trim().to_owned();
        client.args([&port, &CHANNELS.to_string()]);
        client.args(files.iter().map(|[certificate, _]| certificate));
        Self {
            server,
            client: Program::start(&mut client),
            port,
        }
    }

    /// Makes calls on each connection; returns those of the client so far.
    fn call(&mut self, calls: u64, thought: &str) -> Calls {
        let input = self.client.input.as_mut().unwrap();
        writeln!(input, "{calls} {thought}").unwrap();
        serde_json::from_str(&self.client.line()).unwrap()
    }

    /// Ends both; returns the calls of the server.
    fn end(mut self) -> Calls {
        drop(self.client.input.take());
        assert!(self.client.child.wait().unwrap().success());
        drop(self.server.input.take());
        serde_json::from_str(&self.server.line()).unwrap()
    }
}

/// Number and seconds of exchanges, at the client and at the server.
type Seen = [(u64, f64); 2];

fn exchanges(seen: &Exposition, netns: &str, port: &str) -> Seen {
    BOTH_ENDS.map(|flow| {
        let labels = [("netns", netns), ("server_port", port), ("flow", flow)];
        let seconds = seen.select(DURATION_SUM, &labels).map(|sample| sample.value);
        (seen.sum(EXCHANGES, &labels), seconds.sum())
    })
}

/// Data that the daemon has counted as lost, on a machine that is too busy for it: the counters cover the whole machine.
fn lost(daemon: &Daemon) -> u64 {
    let own = daemon.telemetry();
    let inspect = "flowtap_receiver_inspect_lost_total";
    // Handshakes and names are left out by design.
    let by_design = ["tls_handshake", "invalid_name", "folded_name"];
    let by_design = by_design.map(|reason| own.sum(inspect, &[("reason", reason)]));
    let ring = [("reason", "ring_full")];
    own.sum(inspect, &[]) - by_design.iter().sum::<u64>()
        + own.sum("flowtap_receiver_refused_records_total", &ring)
}

/// Returns the part of a scrape that `show` picks, once there is one; an error if the daemon has counted losses since there were `lost_before`.
fn shown<T>(
    daemon: &Daemon,
    lost_before: u64,
    what: &str,
    show: impl Fn(&Exposition) -> Option<T>,
) -> Result<T, String> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let seen = daemon.scrape();
        if let Some(shown) = show(&seen) {
            return Ok(shown);
        }
        if lost(daemon) > lost_before {
            return Err(format!("data was lost before {what}"));
        }
        assert!(Instant::now() < deadline, "never saw {what}; last: {seen:#?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Seconds of a round at one end.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Of its calls, by the application's clock and by the kernel's.
    application: f64,
    kernel: f64,
    /// That threads of the application were ready to run, and waited for a processor.
    waited: f64,
}

/// Seconds that the threads of a process have waited for a processor (`/proc/PID/task/TID/schedstat`).
fn waited(program: &Program) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", program.child.id())).unwrap();
    let waited = tasks.filter_map(|task| {
        // A thread may end.
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    waited.sum::<u64>() as f64 / 1e9
}

/// Makes calls on new connections; returns what the client and the server took, or what was lost.
///
/// Counts are compared once the connections have closed: an exchange waits for the next record of its connection, and a server's is known
/// when its answer is acknowledged.
fn round(
    daemon: &Daemon,
    python: &Path,
    certificate_in: Option<&Path>,
    thought: &str,
) -> Result<[Round; 2], String> {
    let protocol = if certificate_in.is_some() { "tls" } else { "grpc" };
    let lost_before = lost(daemon);
    let (netns, mut grpc) = netns::within_new(|| (netns::label(), Grpc::start(python, certificate_in)));
    let port = grpc.port.clone();
    let before = [waited(&grpc.client), waited(&grpc.server)];
    let client = grpc.call(CALLS, thought)[thought];
    let waited = [waited(&grpc.client) - before[0], waited(&grpc.server) - before[1]];
    let server = grpc.end()[thought];
    let calls = CHANNELS * CALLS;
    assert_eq!((client.0, server.0), (calls, calls));
    let seen = shown(daemon, lost_before, "the closes with their protocol", |seen| {
        let has_closed = |flow: &&str| closed(seen, &netns, flow, protocol, "") == CHANNELS;
        BOTH_ENDS
            .iter()
            .all(has_closed)
            .then(|| exchanges(seen, &netns, &port))
    })?;
    // SETTINGS of either end and their acknowledgement may count. With TLS the first call may be part of the handshake.
    let least = if protocol == "tls" {
        calls - CHANNELS
    } else {
        calls
    };
    let is_right = |(count, _): &(u64, f64)| (least..=calls + 2 * CHANNELS).contains(count);
    if !seen.iter().all(is_right) {
        assert!(
            lost(daemon) > lost_before,
            "{protocol}: {seen:?} of {calls} calls"
        );
        return Err(format!("data was lost: {seen:?} of {calls} calls"));
    }
    Ok([0, 1].map(|end| Round {
        application: [client, server][end].1,
        kernel: seen[end].1,
        waited: waited[end],
    }))
}

/// Connections that closed, of a protocol, at an end; with a name, those that ask for it.
fn closed(seen: &Exposition, netns: &str, flow: &str, protocol: &str, name: &str) -> u64 {
    let labels = [
        ("netns", netns),
        ("flow", flow),
        ("protocol", protocol),
        ("event", "closed"),
        ("server_name", name),
    ];
    let named = labels.len() - usize::from(name.is_empty());
    seen.sum(CONNECTIONS, &labels[..named])
}

#[test]
fn calls_of_grpc_are_exchanges_of_its_own_time_with_and_without_tls() {
    /// Seconds per call that the two clocks may differ by.
    const DIFFERENCE: f64 = 200e-6;
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let Some(python) = grpcio() else {
        return;
    };
    let daemon = Daemon::start(&ALL);
    let folder = tempfile::tempdir().unwrap();
    for (certificate_in, protocol) in [(None, "grpc"), (Some(folder.path()), "tls")] {
        let calls = (CHANNELS * CALLS) as f64;
        let mut rejected = Vec::new();
        // A busy machine gets further rounds: data may be lost, and a thread that waits for a processor is late by its own clock alone.
        loop {
            assert!(rejected.len() < 10, "{protocol}: {rejected:#?}");
            let round = |thought| round(&daemon, &python, certificate_in, thought);
            let (at_once, thought) = match round(AT_ONCE).and_then(|first| Ok((first, round(THOUGHT)?))) {
                Ok(rounds) => rounds,
                Err(lost) => {
                    rejected.push(lost);
                    continue;
                }
            };
            // Whatever the scheduler does, the kernel sees a request before the server and the answer after it. Times are rounded
            // to microseconds; with TLS the time of a call is left out where it may be the handshake's.
            let server = thought[1];
            assert!(
                certificate_in.is_some() || server.application <= server.kernel + calls * 1e-6,
                "{protocol}: {server:?}"
            );
            // Between the kernel's clock and the application's a call passes through grpcio, which takes as long with and without
            // thought, but for the time in which its threads wait for a processor.
            let differences = [0, 1].map(|end| {
                let (at_once, thought) = (at_once[end], thought[end]);
                let kernel = thought.kernel - at_once.kernel;
                let application = thought.application - at_once.application;
                let unexplained = (application - kernel).abs() - at_once.waited - thought.waited;
                unexplained.max(0.0) / calls
            });
            let measured = format!("{at_once:?} {thought:?}: the clocks differ by {differences:?} s a call");
            eprintln!("{protocol}: {measured}");
            if differences.iter().all(|difference| *difference <= DIFFERENCE) {
                break;
            }
            rejected.push(measured);
        }
    }
}

/// Connections that this namespace has accepted, by the kernel.
fn accepted() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("Tcp: "))
        .map(|line| line.split_whitespace());
    let (names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.into_iter().position(|name| name == "PassiveOpens").unwrap();
    values.nth(at).unwrap().parse().unwrap()
}

const NAME: &str = "quantum.example.test";

const LOGS: &str = "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, connections], exporters: [file]}";

/// nginx with TLS at 8443. Its log has the name that clients ask for, the protocol that it chose, and the groups for the key exchange that they
/// offer, by name or as numbers.
fn nginx(folder: &Path) -> Program {
    let issued = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    fs::write(folder.join("certificate.pem"), issued.cert.pem()).unwrap();
    fs::write(folder.join("key.pem"), issued.signing_key.serialize_pem()).unwrap();
    let at = folder.display();
    let config = format!(
        "daemon off; user root; worker_processes 1; pid {at}/pid; error_log stderr;
         events {{}}
         http {{
           log_format offered '$ssl_server_name $ssl_alpn_protocol $ssl_curves';
           access_log {at}/access.log offered;
           server {{ listen 127.0.0.1:8443 ssl http2; return 200 ok;
                     ssl_certificate {at}/certificate.pem; ssl_certificate_key {at}/key.pem; }}
         }}"
    );
    fs::write(folder.join("nginx.conf"), config).unwrap();
    let mut command = Command::new("nginx");
    command
        .args(["-e", "stderr", "-c"])
        .arg(folder.join("nginx.conf"));
    let server = Program::start(command.stderr(Stdio::null()));
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while TcpStream::connect(("127.0.0.1", 8443)).is_err() {
        assert!(Instant::now() < deadline, "nginx does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    server
}

/// Opens a page; returns it.
fn chromium(folder: &Path) -> String {
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--no-proxy-server",
            "--ignore-certificate-errors",
        ])
        .arg(format!("--host-resolver-rules=MAP {NAME} 127.0.0.1"))
        .arg(format!("--user-data-dir={}", folder.display()))
        .args(["--dump-dom", &format!("https://{NAME}:8443/")])
        .stdin(Stdio::null())
        .output()
        .expect("chromium");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_browser_with_a_post_quantum_key_share_has_its_name_and_protocol_at_both_ends() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !["nginx", "chromium"]
        .map(require::program)
        .into_iter()
        .all(|found| found)
    {
        return;
    }
    let logs = tempfile::tempdir().unwrap();
    let daemon = Daemon::launch(Launch {
        exporters: &format!("  file: {{path: \"{}\"}}\n", logs.path().display()),
        set: &[&ALL[..], &[LOGS, "processors.connections={interval: 200ms}"]].concat(),
        ..Launch::default()
    });
    let (netns, connections) = netns::within_new(|| {
        let (folder, profile) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let _server = nginx(folder.path());
        let before = accepted();
        let page = chromium(profile.path());
        assert!(page.contains("ok"), "{page}");
        let log = fs::read_to_string(folder.path().join("access.log")).unwrap();
        // X25519MLKEM768 is group 0x11ec; libraries from before do not know its name.
        let is_post_quantum = |line: &str| line.contains("0x11ec") || line.contains("X25519MLKEM768");
        assert!(!log.is_empty() && log.lines().all(is_post_quantum), "{log}");
        let chosen = format!("{NAME} h2 ");
        assert!(log.lines().all(|line| line.starts_with(&chosen)), "{log}");
        (netns::label(), accepted() - before)
    });
    assert_ne!(connections, 0);
    daemon.scrape_until("the name of each connection at both ends", |seen| {
        BOTH_ENDS
            .iter()
            .all(|flow| closed(seen, &netns, flow, "tls", NAME) == connections)
    });
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
    // nginx chooses of what the client offers. Both ends have a record.
    let records = records_of_name(logs.path());
    assert_eq!(records.len() as u64, 2 * connections, "{records:#?}");
    for record in records {
        let offered = record["alpn"].as_str().unwrap();
        assert!(offered.split(',').any(|protocol| protocol == "h2"), "{record}");
        assert_eq!(record["protocol"], "tls", "{record}");
    }
}

/// Log records of connections whose client asks for the name.
fn records_of_name(folder: &Path) -> Vec<Value> {
    let files = fs::read_dir(folder).unwrap();
    let text: String = files.map(|file| read(&file.unwrap().path())).collect();
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.filter(|record| record["server_name"] == NAME).collect()
}
