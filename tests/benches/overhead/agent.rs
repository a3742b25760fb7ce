//! A program under measurement: flowtap, or another.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::kernel;

/// Maximum time for a response to a scrape.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A process with its children. Stopped when dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
}

/// CPU time and memory used since its start.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub(crate) at: Instant,
    /// User and system time of all its threads. The iterators' walk through the sockets is part of it.
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_kib: u64,
    /// Run time of its programs, wherever they ran.
    pub(crate) programs_ns: u64,
}

/// `flowtap run` with the default config but for ports and `set`.
pub(crate) fn flowtap(set: &[&str]) -> Command {
    let ports = [
        "exporters.prometheus.endpoint=127.0.0.1:0",
        "service.telemetry.metrics.endpoint=127.0.0.1:0",
    ];
    bare(&[&ports, set].concat())
}

/// `flowtap run` with the default config but for the admin port and `set`.
pub(crate) fn bare(set: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowtap"));
    command
        .args(["run", "--strict"])
        .args(["--set", "service.admin.endpoint=127.0.0.1:0"])
        .args(set.iter().flat_map(|set| ["--set", set]))
        // The exporter `debug` writes there.
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// An address that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// The response of `/metrics`, if there is one.
pub(crate) fn scrape(address: SocketAddr) -> Option<String> {
    String::from_utf8(scrape_with(address, "")?).ok()
}

/// The same with these headers, each with its line ending.
pub(crate) fn scrape_with(address: SocketAddr, headers: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    write!(stream, "GET /metrics HTTP/1.0\r\n{headers}\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let first = answer.split(|byte| *byte == b'\n').next()?;
    first.ends_with(b" 200 OK\r").then_some(answer)
}

/// The sum of the samples whose name ends with `name` and whose labels hold all of `labels`, each written `name="value"`.
pub(crate) fn sum(exposition: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = exposition.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{').unwrap_or((series, ""));
        let wanted = found.ends_with(name) && labels.iter().all(|label| rest.contains(label));
        wanted.then(|| value.parse::<f64>().ok()).flatten()
    });
    // From 0, as a sum of none is -0.
    samples.fold(0.0, |sum, sample| sum + sample)
}

impl Agent {
    /// Starts flowtap and waits until it measures.
    pub(crate) fn start(set: &[&str]) -> Self {
        Self::when(flowtap(set), "measuring version")
    }

    /// Starts `command`, whose standard error is piped, and waits until it says `ready` there.
    pub(crate) fn when(mut command: Command, ready: &str) -> Self {
        let mut child = command.spawn().expect("the agent starts");
        let log = BufReader::new(child.stderr.take().expect("stderr"));
        let mut lines = log.lines().map_while(Result::ok);
        assert!(
            lines.any(|line| line.contains(ready)),
            "{command:?} never says {ready:?}"
        );
        // It must not block on its log.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn usage(&self) -> Usage {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let mut usage = Usage {
            at: Instant::now(),
            cpu_seconds: 0.0,
            rss_kib: 0,
            programs_ns: kernel::programs()
                .values()
                .map(|program| program.run_time_ns)
                .sum(),
        };
        for pid in children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .chain([pid])
        {
            usage.add_process(pid);
        }
        usage
    }
}

impl Usage {
    fn add_process(&mut self, pid: u32) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its /proc");
        // Behind the name, which may hold anything: proc_pid_stat(5), fields 14, 15 and 24.
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let field = |number: usize| fields[number - 3].parse::<u64>().expect("a number");
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
        self.cpu_seconds += (field(14) + field(15)) as f64 / ticks as f64;
        self.rss_kib += field(24) * page as u64 / 1024;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
