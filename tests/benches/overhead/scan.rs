//! Cost of the scan per socket: 1,000 to 100,000 open sockets, idle and changed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::agent::Agent;
use crate::kernel;

/// Argument with which this program holds connections.
pub(crate) const ARGUMENT: &str = "--hold";

/// Connections per process: each has two sockets, and a process may open some ten thousand files.
const PER_PROCESS: usize = 5_000;

/// Scans per measurement.
const SCANS: usize = 3;

/// Interval of flowtap's scans, in seconds: long enough for a byte on every connection in between.
const INTERVAL: u64 = 8;

pub(crate) fn run() {
    println!("scan, per live socket (both ends of each connection are on this machine):");
    println!(
        "{:>8} {:>16} {:>18} {:>22} {:>22}",
        "sockets", "idle: program", "changed: program", "idle: agent's CPU", "changed: agent's CPU"
    );
    for sockets in [1_000, 10_000, 100_000] {
        let mut holders = Holders::start(sockets / 2);
        let agent = Agent::start(&[&format!("receivers.ebpf.interval={INTERVAL}s")]);
        // The first scan shows every adopted socket once.
        next_scan(&agent, sockets);
        let idle = measure(&agent, sockets, || {});
        let changed = measure(&agent, sockets, || holders.exchange());
        println!(
            "{sockets:>8} {:>13.3} us {:>15.3} us {:>19.3} us {:>19.3} us",
            idle.0, changed.0, idle.1, changed.1
        );
    }
}

/// Run time of the scan's program, and CPU time of the agent, per live socket and scan; in µs.
fn measure(agent: &Agent, sockets: usize, mut before_scan: impl FnMut()) -> (f64, f64) {
    let (mut program_us, mut cpu_us) = (0.0, 0.0);
    for _ in 0..SCANS {
        before_scan();
        let (program_ns, cpu_seconds) = next_scan(agent, sockets);
        program_us += program_ns / 1e3;
        cpu_us += cpu_seconds * 1e6;
    }
    let per_socket = 1.0 / (SCANS * sockets) as f64;
    (program_us * per_socket, cpu_us * per_socket)
}

/// Waits until the next scan has come through; returns the program's run time in it and the agent's CPU time meanwhile.
fn next_scan(agent: &Agent, sockets: usize) -> (f64, f64) {
    // An iterator over storage runs once for each socket, a scan of the table for some thousand; only one of them does any work.
    let scan = || {
        let programs = kernel::programs();
        let by_socket = ["scan_by_cast", "scan_sockets"]
            .iter()
            .find_map(|name| programs.get(*name));
        let table = programs.get("scan_table").copied().unwrap_or_default();
        by_socket.map_or((table, 1), |program| (*program, sockets as u64))
    };
    let ((before, least_runs), usage) = (scan(), agent.usage());
    let mut now = before;
    loop {
        thread::sleep(Duration::from_millis(400));
        let (later, _) = scan();
        let whole = later.runs >= before.runs + least_runs;
        if whole && later.runs == now.runs {
            let cpu_seconds = agent.usage().cpu_seconds - usage.cpu_seconds;
            return ((later.run_time_ns - before.run_time_ns) as f64, cpu_seconds);
        }
        now = later;
    }
}

/// Processes that hold connections.
pub(crate) struct Holders(Vec<(Child, ChildStdin, BufReader<ChildStdout>)>);

impl Holders {
    pub(crate) fn start(connections: usize) -> Self {
        let shares = (0..connections.div_ceil(PER_PROCESS))
            .map(|number| PER_PROCESS.min(connections - number * PER_PROCESS));
        let mut holders: Vec<_> = shares.map(start_holder).collect();
        for (_, _, stdout) in &mut holders {
            expect(stdout, "held");
        }
        Self(holders)
    }

    /// One byte each way on every connection.
    pub(crate) fn exchange(&mut self) {
        for (_, stdin, stdout) in &mut self.0 {
            writeln!(stdin, "go").expect("a holder");
            expect(stdout, "moved");
        }
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        for (child, _, _) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_holder(connections: usize) -> (Child, ChildStdin, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args([ARGUMENT, &connections.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a holder");
    let (stdin, stdout) = (
        child.stdin.take().expect("stdin"),
        child.stdout.take().expect("stdout"),
    );
    (child, stdin, BufReader::new(stdout))
}

fn expect(stdout: &mut BufReader<ChildStdout>, word: &str) {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a holder");
    assert_eq!(line.trim(), word);
}

/// A holder's life: opens its connections, and moves a byte each way on all of them for each line that it reads.
pub(crate) fn hold(connections: usize) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a limit");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let SocketAddr::V4(address) = listener.local_addr().expect("an address") else {
        panic!("not IPv4");
    };
    let mut held: Vec<_> = (0..connections)
        .map(|_| {
            let client = TcpStream::connect(address).expect("a connection");
            (client, listener.accept().expect("a connection").0)
        })
        .collect();
    println!("held");
    let mut byte = [0];
    for _ in std::io::stdin().lines().map_while(Result::ok) {
        for (client, server) in &mut held {
            client.write_all(b"x").expect("sent");
            server.read_exact(&mut byte).expect("received");
            server.write_all(b"y").expect("sent");
            client.read_exact(&mut byte).expect("received");
        }
        println!("moved");
    }
}
