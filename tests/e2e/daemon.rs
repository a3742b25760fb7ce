//! The daemon under test: started with a config, watched by its log, stopped by a signal.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exposition::Exposition;

/// How long anything may take that happens by itself: far more than it needs, so that only a hang fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the daemon's log says once it measures.
const MEASURING: &str = "measuring";

/// A `flowtap run` at work. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: Receiver<String>,
    stdout: Option<JoinHandle<String>>,
    scrape: SocketAddr,
    telemetry: SocketAddr,
    _config: tempfile::NamedTempFile,
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// `flowtap`, with no environment of ours.
pub(crate) fn flowtap() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowtap"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("FLOWTAP_") || name.starts_with("OTEL_") {
            command.env_remove(&*name);
        }
    }
    command
}

impl Daemon {
    /// Starts the daemon with windows of 200 ms, exporters `prometheus` and `debug`, and whatever `more` adds as
    /// `key=value`; waits until it measures.
    pub(crate) fn start(more: &[&str]) -> Self {
        Self::start_with("exporters: [prometheus, debug]", "", more)
    }

    /// The same with other exporters: `list` for the pipeline, `exporters` for further entries of the section.
    pub(crate) fn start_with(list: &str, exporters: &str, more: &[&str]) -> Self {
        let (scrape, admin, telemetry) = (free_address(), free_address(), free_address());
        let mut config = tempfile::Builder::new()
            .suffix(".yaml")
            .tempfile()
            .expect("a file");
        let text = format!(
            "receivers:\n  ebpf: {{interval: 200ms}}\n\
             processors:\n  direction:\n  policy:\n  window: {{interval: 200ms}}\n\
             exporters:\n  prometheus: {{endpoint: \"{scrape}\"}}\n  debug: {{verbosity: detailed, sampling: 100000}}\n\
             {exporters}\
             service:\n  admin: {{endpoint: \"{admin}\"}}\n  telemetry: {{metrics: {{endpoint: \"{telemetry}\"}}}}\n  \
             pipelines:\n    flows:\n      receivers: [ebpf]\n      processors: [direction, policy, window]\n      \
             {list}\n"
        );
        config.write_all(text.as_bytes()).expect("a config");
        let mut command = flowtap();
        command.arg("run").arg("--config").arg(config.path());
        for set in more {
            command.args(["--set", set]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("flowtap starts");
        let mut stdout = child.stdout.take().expect("stdout");
        let stdout = thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.read_to_string(&mut text);
            text
        });
        let log = lines(child.stderr.take().expect("stderr"));
        let daemon = Self {
            child,
            log,
            stdout: Some(stdout),
            scrape,
            telemetry,
            _config: config,
        };
        daemon.wait_for(MEASURING);
        daemon
    }

    /// Waits for a line of the log that contains `text`; returns it.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => writeln!(seen, "{line}").expect("a String takes all"),
                Err(_) => panic!("the daemon did not say `{text}`; it said:\n{seen}"),
            }
        }
    }

    /// Where it serves `/metrics`.
    pub(crate) const fn scrape_address(&self) -> SocketAddr {
        self.scrape
    }

    /// What `/metrics` shows now.
    pub(crate) fn scrape(&self) -> Exposition {
        Exposition::parse(&get(self.scrape, "/metrics"))
    }

    /// What the daemon says of itself.
    pub(crate) fn telemetry(&self) -> Exposition {
        Exposition::parse(&get(self.telemetry, "/metrics"))
    }

    /// Scrapes, window after window, until `seen` holds; panics with the last scrape when patience is at its end.
    pub(crate) fn scrape_until(&self, what: &str, seen: impl Fn(&Exposition) -> bool) -> Exposition {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let scrape = self.scrape();
            if seen(&scrape) {
                return scrape;
            }
            assert!(Instant::now() < deadline, "never saw {what}; last: {scrape:#?}");
            // The windows of these tests are 200 ms long, and nothing tells of their end but the scrape itself.
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends SIGTERM, waits for the end, and returns the last window as the `debug` exporter printed it.
    pub(crate) fn stop(mut self) -> (ExitStatus, LastWindow) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("a signal");
        let status = self.child.wait().expect("an end");
        let stdout = self.stdout.take().expect("read once").join().expect("stdout");
        (status, LastWindow::parse(&stdout))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(10_000);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Full, or nobody listens any more: the daemon must not block on its log.
            let _ = sender.try_send(line);
        }
    });
    receiver
}

/// The totals of the last window.
#[derive(Debug)]
pub(crate) struct LastWindow(pub(crate) Exposition);

impl LastWindow {
    /// From what the `debug` exporter printed: what stands below the head that says `(last)`.
    fn parse(stdout: &str) -> Self {
        let (_, last) = stdout.rsplit_once("# window").expect("a window");
        let (head, samples) = last.split_once('\n').expect("a line");
        assert!(
            head.ends_with("(last)"),
            "the daemon stopped without a last window: {head}"
        );
        let samples: Vec<_> = samples
            .lines()
            .map(|line| line.split(" # ").next().unwrap_or(line))
            .collect();
        Self(Exposition::parse(&samples.join("\n")))
    }
}

/// GET over HTTP/1.0 with the connection closed at the end; returns the body of a 200.
pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(
        head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"),
        "{path}: {head}"
    );
    body.to_owned()
}

/// A file's text, for assertions.
pub(crate) fn read(path: &std::path::Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
