//! Which process an accepted connection belongs to: of the socket that it was accepted on, then of who accepts it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use socket2::SockRef;

use crate::daemon::Daemon;
use crate::exposition::Exposition;
use crate::require;

const INGRESS: &str = "primus_lens_network_tcp_flow_ingress";
const BY_PROCESS: &str =
    "processors.window.families.network_tcp_flow_ingress.labels=[lport, direction, pid, comm]";

/// Listens on the port of its argument, beside others; says which. For each line that it reads it accepts one connection, reads what
/// comes and says how much.
const SERVER: &str = "
import socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind(('127.0.0.1', int(sys.argv[1])))
server.listen(100)
print(server.getsockname()[1], flush=True)
held = []
for line in sys.stdin:
    server.settimeout(0.2)
    try:
        connection, _ = server.accept()
        held.append(connection)
        print(len(connection.recv(100)), flush=True)
    except TimeoutError:
        print(0, flush=True)
";

/// Listens, and lets a separate process accept one connection, read twice, and hold it until the peer resets it; says the port, that
/// process' id, and each that it has read, and that it was reset.
const PRE_FORK_SERVER: &str = "
import os, socket, sys
server = socket.create_server(('127.0.0.1', 0))
ready, go = os.pipe()
worker = os.fork()
if not worker:
    connection, _ = server.accept()
    for part in ['first', 'second']:
        connection.recv(100)
        print(part, flush=True)
    try:
        connection.recv(100)
    except ConnectionResetError:
        print('reset', flush=True)
    os.read(ready, 1)
    os._exit(0)
print(server.getsockname()[1], flush=True)
print(worker, flush=True)
sys.stdin.read()
os.write(go, b'.')
os.wait()
";

/// A separate process that is controlled by lines.
struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: Box<dyn Iterator<Item = u64>>,
}

impl Server {
    fn start(program: &str, port: u16) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", program, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self {
            input: child.stdin.take(),
            output: Box::new(lines.map(|line| line.expect("a line").parse().unwrap_or(u64::MAX))),
            child,
        }
    }

    /// The number that it says next; of a word the greatest.
    fn says(&mut self) -> u64 {
        self.output.next().expect("a line")
    }

    fn port(&mut self) -> u16 {
        u16::try_from(self.says()).expect("a port")
    }

    /// Lets it accept a connection, if one waits; returns the bytes that it read.
    fn accept(&mut self) -> u64 {
        writeln!(self.input.as_mut().expect("a pipe"), "accept").expect("it reads");
        self.says()
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn end(mut self) {
        drop(self.input.take());
        self.child.wait().expect("an end");
    }

    fn kill(mut self) {
        self.child.kill().expect("a signal");
        self.child.wait().expect("an end");
    }
}

/// Connects to `port` and sends five bytes.
fn client(port: u16) -> TcpStream {
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    client.write_all(b"12345").unwrap();
    client
}

/// Bytes that the server at `port` received, with these labels.
fn received(seen: &Exposition, port: u16, labels: &[(&str, &str)]) -> u64 {
    let port = port.to_string();
    let mut all = vec![("lport", &*port), ("direction", "inbound")];
    all.extend(labels);
    seen.sum(INGRESS, &all)
}

/// Of the modes with eBPF, those that this kernel takes; files are scanned for no owner while a test runs.
fn each_mode(test: impl Fn(&dyn Fn() -> Daemon)) {
    for mode in ["sockets", "events"] {
        if mode == "sockets" && !require::mode_sockets() {
            continue;
        }
        let mode = format!("receivers.ebpf.mode={mode}");
        test(&|| Daemon::start(&[BY_PROCESS, &mode, "receivers.ebpf.scan_listen_interval=1h"]));
    }
}

#[test]
fn a_connection_of_a_listener_from_before_the_start_has_its_process_from_the_first_record_on() {
    let Some(_machine) = require::root() else {
        return;
    };
    each_mode(|start| {
        let mut server = Server::start(SERVER, 0);
        let port = server.port();
        let daemon = start();
        let held = client(port);
        let seen = daemon.scrape_until("its bytes", |seen| received(seen, port, &[]) == 5);
        let labels = [("pid", &*server.pid()), ("comm", "python3")];
        assert_eq!(received(&seen, port, &labels), 5, "{seen:#?}");
        drop(held);
        server.end();
    });
}

#[test]
fn each_connection_has_the_process_of_the_very_socket_that_it_came_to_also_after_another_has_died() {
    const CONNECTIONS: u64 = 24;
    let Some(_machine) = require::root() else {
        return;
    };
    each_mode(|start| {
        let daemon = start();
        let mut first = Server::start(SERVER, 0);
        let port = first.port();
        let mut second = Server::start(SERVER, port);
        assert_eq!(second.port(), port);
        let mut held: Vec<_> = (0..CONNECTIONS).map(|_| client(port)).collect();
        // Nobody has accepted any of them.
        let seen = daemon.scrape_until("all bytes", |seen| received(seen, port, &[]) == 5 * CONNECTIONS);
        for server in [&mut first, &mut second] {
            let mut read = 0;
            loop {
                match server.accept() {
                    0 => break,
                    more => read += more,
                }
            }
            assert!(read > 0, "the kernel shares them out");
            assert_eq!(received(&seen, port, &[("pid", &*server.pid())]), read);
        }
        let before = received(&seen, port, &[("pid", &*first.pid())]);
        second.kill();
        held.extend((0..CONNECTIONS).map(|_| client(port)));
        let pid = first.pid();
        let seen = daemon.scrape_until("the others' bytes", |seen| {
            received(seen, port, &[]) == 10 * CONNECTIONS
        });
        assert_eq!(
            received(&seen, port, &[("pid", &*pid)]),
            before + 5 * CONNECTIONS,
            "{seen:#?}"
        );
        drop(held);
        first.end();
    });
}

/// Where no program sees accepts, as in the words of `flowtap doctor`, it is the process that listens.
#[test]
fn a_connection_that_its_peer_resets_has_the_process_that_accepted_it() {
    let Some(_machine) = require::root() else {
        return;
    };
    let accepts_are_seen = require::accepts();
    each_mode(|start| {
        let daemon = start();
        let mut server = Server::start(PRE_FORK_SERVER, 0);
        let (port, worker) = (server.port(), server.says().to_string());
        let mut client = client(port);
        assert_eq!(server.says(), u64::MAX, "it has read");
        client.write_all(b"6789012").unwrap();
        assert_eq!(server.says(), u64::MAX, "it has read again");
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(server.says(), u64::MAX, "it was reset");
        let owner = if accepts_are_seen { worker } else { server.pid() };
        daemon.scrape_until("all bytes", |seen| received(seen, port, &[]) == 12);
        let (status, window) = daemon.stop();
        assert!(status.success(), "{status}");
        let of_owner = received(&window.totals, port, &[("pid", &*owner)]);
        // Mode events reports the first segment at once, and so perhaps before the connection is accepted.
        let reports_at_once = accepts_are_seen && window.log.contains("mode=\"events\"");
        let expected = if reports_at_once { 7..=12 } else { 12..=12 };
        assert!(expected.contains(&of_owner), "{of_owner} bytes of {owner}");
        server.end();
    });
}
