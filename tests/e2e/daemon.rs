//! The daemon under test: started with a config, watched by its log, stopped by a signal.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exposition::Exposition;

/// Maximum time for anything that happens by itself: far more than it needs, so that only a hang
/// fails.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The daemon's log line once it measures; with the field's name, for a receiver may log "measuring
/// by" something.
const MEASURING: &str = "measuring version=";

/// A `flowtap run` at work. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: Receiver<String>,
    /// Lines of the log that have been looked at.
    said: RefCell<String>,
    stdout: Option<JoinHandle<String>>,
    scrape: SocketAddr,
    admin: SocketAddr,
    telemetry: SocketAddr,
    dir: tempfile::TempDir,
}

/// Settings with which a daemon is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch<'a> {
    /// Exporters of the pipeline, beside `prometheus` and `debug`.
    pub(crate) list: &'a str,
    /// Further entries of the config's section `exporters`.
    pub(crate) exporters: &'a str,
    /// `key=value` for `--set`.
    pub(crate) set: &'a [&'a str],
    /// Further arguments of `flowtap run`.
    pub(crate) arguments: &'a [&'a str],
    /// Variables of its environment.
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// As a user without privileges.
    pub(crate) unprivileged: bool,
}

impl Default for Launch<'_> {
    fn default() -> Self {
        Self {
            list: "exporters: [prometheus, debug]",
            exporters: "",
            set: &[],
            arguments: &[],
            environment: &[],
            unprivileged: false,
        }
    }
}

/// A port that nobody listens on. Below those that Linux takes for connections (`net.ipv4.ip_local_port_range`): of these, one that
/// was free a moment ago may be in use by now. No two tests get the same one; another run of the tests beside this one starts
/// elsewhere.
pub(crate) fn free_address() -> SocketAddr {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Process ids of two runs are near each other; a run takes some 600 ports.
    let start = u16::try_from(std::process::id().wrapping_mul(1_009) % u32::from(PORTS.end - PORTS.start))
        .expect("a port");
    loop {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        assert!(taken < PORTS.end - PORTS.start, "no free port");
        let port = PORTS.start + (start + taken) % (PORTS.end - PORTS.start);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener.local_addr().expect("an address");
        }
    }
}

/// `flowtap`, without the variables of the tests' environment.
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

/// The command as the user `nobody`, by a copy of the binary that everybody may run: the target folder may be closed.
pub(crate) fn flowtap_of_nobody(dir: &std::path::Path) -> Command {
    let binary = dir.join("flowtap");
    // With a separate process: a file that this one has open for writing, and with it processes
    // that another test's thread starts meanwhile, can't be run ("text file busy").
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_flowtap"))
        .arg(&binary)
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "no copy");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("an open folder");
    let mut command = Command::new(binary);
    command.uid(65_534).gid(65_534).env_clear();
    command
}

impl Daemon {
    /// Starts the daemon with windows of 200 ms, exporters `prometheus` and `debug`, and whatever `set` adds as
    /// `key=value`; waits until it measures.
    pub(crate) fn start(set: &[&str]) -> Self {
        Self::launch(Launch {
            set,
            ..Launch::default()
        })
    }

    /// The same in other ways; waits until it measures.
    pub(crate) fn launch(launch: Launch<'_>) -> Self {
        crate::netns::reserve();
        let (scrape, admin, telemetry) = (free_address(), free_address(), free_address());
        let dir = tempfile::tempdir().expect("a folder");
        let config = dir.path().join("flowtap.yaml");
        let Launch { list, exporters, .. } = launch;
        let text = format!(
            "receivers:\n  ebpf: {{interval: 200ms}}\n\
             processors:\n  direction:\n  policy:\n  window: {{interval: 200ms}}\n\
             exporters:\n  prometheus: {{endpoint: \"{scrape}\"}}\n  debug: {{verbosity: normal, sampling: 100000}}\n\
             {exporters}\
             service:\n  admin: {{endpoint: \"{admin}\"}}\n  telemetry: {{metrics: {{endpoint: \"{telemetry}\"}}}}\n  \
             pipelines:\n    metrics:\n      receivers: [ebpf]\n      processors: [direction, policy, window]\n      \
             {list}\n"
        );
        fs::write(&config, text).expect("a config");
        let mut command = if launch.unprivileged {
            flowtap_of_nobody(dir.path())
        } else {
            flowtap()
        };
        command
            .arg("run")
            .arg("--config")
            .arg(config)
            .args(launch.arguments)
            .envs(launch.environment.iter().copied());
        for set in launch.set {
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
            said: RefCell::default(),
            stdout: Some(stdout),
            scrape,
            admin,
            telemetry,
            dir,
        };
        daemon.wait_for(MEASURING);
        daemon
    }

    /// Waits for a line of the log that contains `text`; returns it.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.log.recv_timeout(left) else {
                panic!("the daemon did not say `{text}`; it said:\n{}", self.said());
            };
            let mut said = self.said.borrow_mut();
            said.push_str(&line);
            said.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The log up to the last awaited line.
    pub(crate) fn said(&self) -> String {
        self.said.borrow().clone()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// Where it serves `/metrics`.
    pub(crate) const fn scrape_address(&self) -> SocketAddr {
        self.scrape
    }

    /// Where its admin listener is.
    pub(crate) const fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Where it serves its own metrics.
    pub(crate) const fn telemetry_address(&self) -> SocketAddr {
        self.telemetry
    }

    /// Its config file.
    pub(crate) fn config(&self) -> std::path::PathBuf {
        self.dir.path().join("flowtap.yaml")
    }

    /// The response of `/status`.
    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&get(self.admin, "/status")).expect("JSON")
    }

    /// Writes `text` in place of the config and has it read again; waits for what comes of it: whether it is at work.
    pub(crate) fn reload(&self, text: &str) -> bool {
        let counts = || {
            let config = &self.status()["config"];
            let count = |key: &str| config[key].as_u64().expect("a count");
            (count("applied"), count("refused"))
        };
        let before = counts();
        fs::write(self.config(), text).expect("a config");
        kill(self.pid(), Signal::SIGHUP).expect("a signal");
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let now = counts();
            if now != before {
                return now.0 > before.0;
            }
            assert!(Instant::now() < deadline, "the config was not read again");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The current exposition at `/metrics`.
    pub(crate) fn scrape(&self) -> Exposition {
        Exposition::parse(&get(self.scrape, "/metrics"))
    }

    /// The daemon's own metrics.
    pub(crate) fn telemetry(&self) -> Exposition {
        Exposition::parse(&get(self.telemetry, "/metrics"))
    }

    /// Scrapes, window after window, until `seen` holds; panics with the last scrape when patience is at its end.
    pub(crate) fn scrape_until(&self, what: &str, seen: impl Fn(&Exposition) -> bool) -> Exposition {
        until(what, || self.scrape(), seen)
    }

    /// Scrapes, window after window, until `missing` names nothing; panics with what it names when patience is at its
    /// end, and with what the daemon counts of itself.
    pub(crate) fn scrape_until_none(&self, what: &str, missing: impl Fn(&Exposition) -> Vec<String>) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let missing = missing(&self.scrape());
            if missing.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "never saw {what}; missing: {missing:#?}; all metrics:\n{}\nthe daemon's own:\n{}",
                get(self.scrape, "/metrics"),
                get(self.telemetry, "/metrics")
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The same with what the daemon says of itself.
    pub(crate) fn telemetry_until(&self, what: &str, seen: impl Fn(&Exposition) -> bool) -> Exposition {
        until(what, || self.telemetry(), seen)
    }

    /// Runs `work` while the daemon is suspended: the kernel side continues without a reader.
    pub(crate) fn while_paused<T>(&self, work: impl FnOnce() -> T) -> T {
        kill(self.pid(), Signal::SIGSTOP).expect("a signal");
        let result = work();
        kill(self.pid(), Signal::SIGCONT).expect("a signal");
        result
    }

    /// Sends SIGTERM, waits for the end, and returns the last window as the `debug` exporter printed it, with the log.
    pub(crate) fn stop(mut self) -> (ExitStatus, LastWindow) {
        kill(self.pid(), Signal::SIGTERM).expect("a signal");
        let status = self.child.wait().expect("an end");
        let stdout = self.stdout.take().expect("read once").join().expect("stdout");
        let mut log = self.said();
        for line in &self.log {
            log.push_str(&line);
            log.push('\n');
        }
        let totals = last_window(&stdout);
        let window = LastWindow { totals, stdout, log };
        (status, window)
    }

    /// Sends SIGTERM, and waits for the end, of one that has no exporter `debug`. Returns its log.
    pub(crate) fn stop_quietly(mut self) -> (ExitStatus, String) {
        kill(self.pid(), Signal::SIGTERM).expect("a signal");
        let status = self.child.wait().expect("an end");
        let mut log = self.said();
        for line in &self.log {
            log.push_str(&line);
            log.push('\n');
        }
        (status, log)
    }

    /// Sends SIGKILL, and waits for the end.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a signal");
        self.child.wait().expect("an end");
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

/// State that a daemon leaves when it ends.
#[derive(Debug)]
pub(crate) struct LastWindow {
    /// The totals of the last window.
    pub(crate) totals: Exposition,
    /// All that the `debug` exporter printed.
    pub(crate) stdout: String,
    /// The whole log.
    pub(crate) log: String,
}

/// From what the `debug` exporter printed: what stands below the head that says `(last)`.
fn last_window(stdout: &str) -> Exposition {
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
    Exposition::parse(&samples.join("\n"))
}

fn until(what: &str, scrape: impl Fn() -> Exposition, seen: impl Fn(&Exposition) -> bool) -> Exposition {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let scrape = scrape();
        if seen(&scrape) {
            return scrape;
        }
        assert!(Instant::now() < deadline, "never saw {what}; last: {scrape:#?}");
        // The windows of these tests are 200 ms long, and only the scrape itself shows their end.
        thread::sleep(Duration::from_millis(50));
    }
}

/// GET over HTTP/1.0 with the connection closed at the end; returns the body of a 200.
pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    get_with(address, path, "")
}

/// The same with `headers`, each with its line's end.
pub(crate) fn get_with(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).expect("a timeout");
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\n{headers}Connection: close\r\n\r\n"
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
