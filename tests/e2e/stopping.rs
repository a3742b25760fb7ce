//! The end of the daemon: within `shutdown_timeout` and a second, whatever its peers do, and with all that was lost counted.

use std::fs;
use std::io::{BufRead, PipeReader, Read, Write, pipe};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, WAIT_TIMEOUT, flowtap, free_address};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Time that this machine takes for a stop that has nothing to wait for: the signal, the last window, the end of the process, the
/// wake-up of this test.
static ALLOWANCE: LazyLock<Duration> = LazyLock::new(|| {
    let exporters = format!("  prometheus: {{endpoint: \"{}\"}}\n", free_address());
    let stop = || {
        let running = Running::start(&exporters, "prometheus", "", Stdio::null(), Stdio::null());
        let (took, code) = running.stop();
        assert_eq!(code, Some(0));
        took
    };
    // The longest of several: other tests run beside this one, and may begin later.
    let longest = (0..3).map(|_| stop()).max().unwrap();
    assert!(
        longest < Duration::from_secs(10),
        "a stop that waits for nothing took {longest:?}"
    );
    longest.max(Duration::from_secs(2))
});

/// Asserts that a stop ended within the timeout and a second, beside the time that any stop takes here.
#[track_caller]
fn assert_bounded(took: Duration, context: &dyn std::fmt::Display) {
    let bound = TIMEOUT + Duration::from_secs(1);
    let allowance = *ALLOWANCE;
    assert!(
        took < bound + allowance,
        "{context}: {took:?} of {bound:?} and {allowance:?}"
    );
}

/// The exit code of a stop that left something undelivered (`EX_TEMPFAIL`).
const UNDELIVERED: i32 = 75;

/// A peer that takes connections and requests, and never answers.
fn silent_peer() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let held: Vec<_> = listener.incoming().take(1000).collect();
        drop(held);
    });
    address
}

/// A daemon on generated flows, with a separate config.
struct Running {
    child: Child,
    dir: tempfile::TempDir,
    logs: &'static str,
    admin: SocketAddr,
    telemetry: SocketAddr,
}

impl Running {
    /// `exporters` is the section of that name; `list` what the pipeline has of them.
    fn start(exporters: &str, list: &str, window: &str, stdout: Stdio, stderr: Stdio) -> Self {
        Self::start_with_logs("{level: info}", exporters, list, window, stdout, stderr)
    }

    /// `logs` is the section `service.telemetry.logs`.
    fn start_with_logs(
        logs: &'static str,
        exporters: &str,
        list: &str,
        window: &str,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Self {
        let (admin, telemetry) = (free_address(), free_address());
        let dir = tempfile::tempdir().unwrap();
        let mut running = Self {
            child: flowtap()
                .args(["run", "--config"])
                .arg(dir.path().join("flowtap.yaml"))
                .stdin(Stdio::null())
                .stdout(stdout)
                .stderr(stderr)
                .spawn_after(|| write_config(dir.path(), (admin, telemetry), logs, exporters, list, window)),
            dir,
            logs,
            admin,
            telemetry,
        };
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !answers(admin, "/readyz").contains(" 200 ") {
            let ended = running.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}");
            assert!(Instant::now() < deadline, "it never measured");
            thread::sleep(Duration::from_millis(50));
        }
        running
    }

    fn reload(&self, exporters: &str, list: &str, window: &str) {
        write_config(
            self.dir.path(),
            (self.admin, self.telemetry),
            self.logs,
            exporters,
            list,
            window,
        );
        kill(self.pid(), Signal::SIGHUP).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn metric(&self, name: &str) -> f64 {
        let text = answers(self.telemetry, "/metrics");
        let values = text.lines().filter(|line| line.starts_with(name));
        values
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Sends SIGTERM; returns how long the end took, and the exit code.
    fn stop(mut self) -> (Duration, Option<i32>) {
        let began = Instant::now();
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        (began.elapsed(), status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

trait SpawnAfter {
    /// Spawns the command once `prepare` is done.
    fn spawn_after(&mut self, prepare: impl FnOnce()) -> Child;
}

impl SpawnAfter for std::process::Command {
    fn spawn_after(&mut self, prepare: impl FnOnce()) -> Child {
        prepare();
        self.spawn().unwrap()
    }
}

fn write_config(
    dir: &std::path::Path,
    (admin, telemetry): (SocketAddr, SocketAddr),
    logs: &str,
    exporters: &str,
    list: &str,
    window: &str,
) {
    let text = format!(
        "receivers:\n  generator: {{flows: 500, interval: 200ms}}\n\
         processors:\n  direction:\n  policy:\n  window: {{interval: 200ms{window}}}\n\
         exporters:\n{exporters}\
         service:\n  shutdown_timeout: 2s\n  admin: {{endpoint: \"{admin}\"}}\n  \
         telemetry: {{metrics: {{endpoint: \"{telemetry}\"}}, logs: {logs}}}\n  \
         pipelines: {{metrics: {{receivers: [generator], processors: [direction, policy, window], exporters: [{list}]}}}}\n"
    );
    fs::write(dir.join("flowtap.yaml"), text).unwrap();
}

fn until(what: &str, seen: impl Fn() -> bool) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !seen() {
        assert!(Instant::now() < deadline, "never {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Response to `GET path`; empty without one.
fn answers(address: SocketAddr, path: &str) -> String {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    ask().unwrap_or_default()
}

/// Points that the log calls lost at the deadline.
fn lost(log: &str) -> u64 {
    let (_, after) = log.split_once("items=").expect(log);
    let number = after.split_whitespace().next();
    number.and_then(|number| number.parse().ok()).expect("a number")
}

/// A pipe whose reader is kept and never read.
fn unread() -> (PipeReader, Stdio) {
    let (reader, writer) = pipe().unwrap();
    (reader, writer.into())
}

#[test]
fn half_requests_and_answers_that_are_not_read_do_not_delay_the_end() {
    let scrape = free_address();
    let exporters = format!("  prometheus: {{endpoint: \"{scrape}\"}}\n");
    let running = Running::start(&exporters, "prometheus", "", Stdio::null(), Stdio::null());
    let mut held = Vec::new();
    for address in [running.admin, running.telemetry, scrape] {
        for request in [
            &b""[..],
            b"GET /hea",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n",
            &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000),
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream
                .set_write_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            // The server stops reading once its answers are not taken.
            let _ = stream.write_all(request);
            held.push(stream);
        }
    }
    let (took, code) = running.stop();
    assert_bounded(took, &"");
    assert_eq!(code, Some(0), "nothing was left undelivered");
}

#[test]
fn a_signal_during_a_reload_is_heard_and_what_its_exporters_had_is_counted() {
    let peer = silent_peer();
    let exporters = |header: &str| -> String {
        ["a", "b", "c", "d"]
            .map(|name| {
                format!(
                    "  otlp/{name}: {{endpoint: \"http://{peer}\", protocol: http/protobuf, interval: 200ms, \
                     headers: {{x: \"{header}\"}}}}\n"
                )
            })
            .concat()
    };
    let list = "otlp/a, otlp/b, otlp/c, otlp/d";
    let (mut log, stderr) = unread();
    let running = Running::start(&exporters("1"), list, "", Stdio::null(), stderr);
    until("under way", || {
        running.metric("flowtap_exporter_queue_size") > 3.0
    });
    running.reload(&exporters("2"), list, "");
    thread::sleep(Duration::from_millis(500));
    let (took, code) = running.stop();
    assert_bounded(took, &"");
    assert_eq!(code, Some(UNDELIVERED));
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    let points = lost(&text);
    // Each exporter had a snapshot of 500 flows under way, at least.
    assert!(points > 4 * 500, "{points}");
}

#[test]
fn an_exporter_that_blocks_delays_neither_a_reload_nor_the_end() {
    let peer = silent_peer();
    let exporters = format!(
        "  otlp: {{endpoint: \"http://{peer}\", protocol: http/protobuf, interval: 200ms, \
         sending_queue: {{size: 1, when_full: block}}}}\n"
    );
    for reload in [false, true] {
        let running = Running::start(&exporters, "otlp", "", Stdio::null(), Stdio::null());
        until("full", || {
            running.metric("flowtap_exporter_queue_size{exporter=\"otlp\"") >= 1.0
        });
        // Long enough for the next window to wait for room.
        thread::sleep(Duration::from_secs(1));
        if !reload {
            // Meanwhile nobody says that all is well, and nobody restarts it: that would lose what waits.
            until("not ready", || {
                answers(running.admin, "/readyz").contains(" 503 ")
            });
            let status = answers(running.admin, "/status");
            assert!(
                status.contains("waits for an exporter with when_full: block"),
                "{status}"
            );
            assert!(answers(running.admin, "/healthz").contains(" 200 "));
            assert!(running.metric("flowtap_receiver_last_scan_timestamp_seconds") > 1e9);
            assert!(running.metric("flowtap_window_last_close_timestamp_seconds") > 1e9);
        }
        if reload {
            running.reload(&exporters, "otlp", ", max_series: 1001");
            let applied = || answers(running.admin, "/status").contains("\"applied\":1");
            until("reloaded", applied);
            let dropped = "flowtap_exporter_enqueue_failed_metric_points_total{exporter=\"otlp\"";
            assert!(running.metric(dropped) > 0.0, "what made room is counted");
        }
        let (took, code) = running.stop();
        assert_bounded(took, &format_args!("reload {reload}"));
        assert_eq!(code, Some(UNDELIVERED), "reload {reload}");
    }
}

#[test]
fn what_is_under_way_at_the_deadline_is_counted_as_lost() {
    let peer = silent_peer();
    let exporters = format!(
        "  otlp: {{endpoint: \"http://{peer}\", protocol: http/protobuf, interval: 10m, timeout: 10m}}\n"
    );
    let (mut log, stderr) = unread();
    let running = Running::start(&exporters, "otlp", "", Stdio::null(), stderr);
    let (took, code) = running.stop();
    assert_bounded(took, &"");
    assert_eq!(code, Some(UNDELIVERED));
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(lost(&text) > 0, "{text}");
}

/// Items that warnings of this exporter name as lost.
fn named_as_lost(log: &str) -> u64 {
    let lines = log
        .lines()
        .filter(|line| line.contains("were not delivered") && line.contains("exporter=otlp"));
    lines.map(lost).sum()
}

#[test]
fn what_is_given_up_before_the_deadline_is_logged_to_the_last_item_and_is_the_exit_code() {
    let refused = free_address();
    for retry in ["enabled: false", "max_elapsed_time: 100ms"] {
        // Its last window, of the stop, fails with the cause of the warning of its first one, which is a short while ago.
        let exporters = format!(
            "  otlp: {{endpoint: \"http://{refused}\", protocol: http/protobuf, interval: 200ms, retry: {{{retry}}}}}\n"
        );
        let (mut log, stderr) = unread();
        let running = Running::start(&exporters, "otlp", "", Stdio::null(), stderr);
        let failed = "flowtap_exporter_send_failed_metric_points_total{exporter=\"otlp\"";
        until("given up", || running.metric(failed) > 0.0);
        let before = running.metric(failed);
        let (_, code) = running.stop();
        assert_eq!(code, Some(UNDELIVERED), "{retry}");
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        let named = named_as_lost(&text);
        assert!(
            named as f64 >= before + 500.0,
            "{named} of more than {before} are named: {text}"
        );
        assert!(
            text.contains("exporters gave up requests while flowtap stopped"),
            "{text}"
        );
    }
}

#[test]
fn a_recording_into_a_pipe_that_nobody_reads_ends() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("flowtap.yaml");
    let text = "receivers:\n  generator: {flows: 5000, interval: 100ms}\n\
        processors:\n  direction:\n  policy:\n  window:\nexporters:\n  debug:\n\
        service:\n  shutdown_timeout: 2s\n  kubernetes: {enabled: false}\n  \
        pipelines: {metrics: {receivers: [generator], processors: [direction, policy, window], exporters: [debug]}}\n";
    fs::write(&config, text).unwrap();
    let fifo = dir.path().join("recording");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let record = || {
        let mut command = flowtap();
        command.arg("record").arg("--config").arg(&config);
        command.args(["--for", "1s"]).arg(&fifo).stdin(Stdio::null());
        command
    };
    // Without a reader the file can't be written.
    let output = record().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(73), "{said}");
    assert!(said.contains("no process reads this FIFO; hint:"), "{said}");
    // With one that reads nothing the writes wait, and neither `--for` nor a signal waits for them.
    for signal in [None, Some(Signal::SIGTERM)] {
        let mut reader = fs::File::options()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(&fifo)
            .unwrap();
        let mut child = record().spawn().unwrap();
        while !matches!(reader.read(&mut [0]), Ok(1)) {
            assert!(child.try_wait().unwrap().is_none(), "{signal:?}");
            thread::sleep(Duration::from_millis(5));
        }
        let began = Instant::now();
        if let Some(signal) = signal {
            // It is in the middle of a frame by then, and `--for` has not struck.
            thread::sleep(Duration::from_millis(500));
            kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        }
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > WAIT_TIMEOUT {
                child.kill().unwrap();
                panic!("it never ended: {signal:?}");
            }
            thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(ended.code(), Some(UNDELIVERED), "{signal:?}");
        drop(reader);
    }
}

#[test]
fn a_pipe_that_nobody_reads_blocks_only_what_is_printed_there() {
    let scrape = free_address();
    let exporters =
        format!("  prometheus: {{endpoint: \"{scrape}\"}}\n  debug: {{verbosity: normal, sampling: 5000}}\n");
    let (_stdout_reader, stdout) = unread();
    // A tenth of a second of this fills the pipe.
    let running = Running::start(&exporters, "prometheus, debug", "", stdout, Stdio::null());
    until("printing waits", || {
        running.metric("flowtap_exporter_enqueue_failed_metric_points_total{exporter=\"debug\"") > 0.0
    });
    for (address, path) in [
        (scrape, "/metrics"),
        (running.telemetry, "/metrics"),
        (running.admin, "/healthz"),
    ] {
        assert!(answers(address, path).contains(" 200 "), "{address}{path}");
    }
    let (took, code) = running.stop();
    assert_bounded(took, &"");
    assert_eq!(code, Some(UNDELIVERED), "what was not printed is lost");
}

#[test]
fn a_log_that_nobody_reads_blocks_nothing_and_its_lines_are_counted() {
    let scrape = free_address();
    let exporters = format!("  prometheus: {{endpoint: \"{scrape}\"}}\n");
    let (reader, writer) = pipe().unwrap();
    // A page: some lines fill it.
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let logs = "{level: trace, sampling: {enabled: false}}";
    let running = Running::start_with_logs(logs, &exporters, "prometheus", "", Stdio::null(), writer.into());
    until("lines are dropped", || {
        // A scrape is also traced.
        assert!(answers(scrape, "/metrics").contains(" 200 "));
        running.metric("flowtap_log_dropped_lines_total") > 0.0
    });
    for (address, path) in [
        (scrape, "/metrics"),
        (running.telemetry, "/metrics"),
        (running.admin, "/healthz"),
    ] {
        assert!(answers(address, path).contains(" 200 "), "{address}{path}");
    }
    let (took, code) = running.stop();
    assert_bounded(took, &"");
    assert_eq!(code, Some(0), "the log is not what is measured");
    drop(reader);
}

#[test]
fn requests_on_disk_of_a_silent_collector_do_not_delay_the_end_and_are_kept() {
    let peer = silent_peer();
    // An attempt that ends within the timeout of the stop, and a second one that would not, and one that outlasts it.
    for timeout in ["1500ms", "10m"] {
        let storage = tempfile::tempdir().unwrap();
        let exporters = format!(
            "  otlp: {{endpoint: \"http://{peer}\", protocol: http/protobuf, interval: 200ms, timeout: {timeout}, \
             storage: {{directory: \"{}\"}}}}\n",
            storage.path().display()
        );
        let (mut log, stderr) = unread();
        let running = Running::start(&exporters, "otlp", "", Stdio::null(), stderr);
        until("on disk", || {
            running.metric("flowtap_exporter_storage_requests{exporter=\"otlp\"") >= 1.0
        });
        let (took, code) = running.stop();
        assert_bounded(took, &timeout);
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        assert_eq!(code, Some(0), "{timeout}: nothing is lost: {text}");
        assert!(text.contains("the next start"), "{timeout}: {text}");
    }
}

#[test]
fn a_name_server_that_is_silent_does_not_delay_the_end() {
    if crate::require::root().is_none() || !["unshare", "ip"].into_iter().all(crate::require::program) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = "receivers:\n  generator: {flows: 500, interval: 200ms}\n\
        processors:\n  direction:\n  policy:\n  window: {interval: 200ms}\n\
        exporters:\n  otlp: {endpoint: \"http://collector.example.com:4318\", protocol: http/protobuf, interval: 200ms}\n\
        service:\n  shutdown_timeout: 2s\n  kubernetes: {enabled: false}\n  \
        pipelines: {metrics: {receivers: [generator], processors: [direction, policy, window], exporters: [otlp]}}\n";
    fs::write(dir.path().join("flowtap.yaml"), config).unwrap();
    // As Kubernetes writes it: each name is tried with each domain.
    let resolv = "nameserver 192.0.2.1\nnameserver 192.0.2.3\n\
        search flowtap.svc.cluster.local svc.cluster.local cluster.local example.com\noptions ndots:5\n";
    fs::write(dir.path().join("resolv.conf"), resolv).unwrap();
    // The other end of the link drops packets for addresses that it does not have, without an error.
    let script = "ip link set lo up && ip link add quiet type veth peer name other && ip link set other up \
        && ip address add 192.0.2.2/24 dev quiet && ip link set quiet up \
        && ip neighbour add 192.0.2.1 lladdr 02:00:00:00:00:01 dev quiet \
        && ip neighbour add 192.0.2.3 lladdr 02:00:00:00:00:03 dev quiet \
        && mount --bind \"$1/resolv.conf\" /etc/resolv.conf && exec \"$0\" run --config \"$1/flowtap.yaml\"";
    let mut child = std::process::Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script])
        .arg(env!("CARGO_BIN_EXE_flowtap"))
        .arg(dir.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("measuring version=") {
        assert!(log.read_line(&mut text).unwrap() > 0, "{text}");
    }
    // Windows close, and the first request waits for the name.
    thread::sleep(TIMEOUT);
    let began = Instant::now();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    assert_bounded(began.elapsed(), &"");
    log.read_to_string(&mut text).unwrap();
    assert_eq!(status.code(), Some(UNDELIVERED), "{text}");
    assert!(lost(&text) > 500, "{text}");
}

/// Whether a thread of the process holds `signal` back.
fn holds(pid: Pid, signal: Signal) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let mut statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    statuses.any(|status| {
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let mask = blocked.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & (1 << (signal as u32 - 1)) != 0)
    })
}

#[test]
fn a_signal_that_comes_before_the_config_is_read_is_answered_once_flowtap_is_ready() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let dir = tempfile::tempdir().unwrap();
        let exporters = format!("  prometheus: {{endpoint: \"{}\"}}\n", free_address());
        let (admin, log) = (free_address(), dir.path().join("log"));
        let mut child = flowtap()
            .args(["run", "--config"])
            .arg(dir.path().join("flowtap.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn_after(|| {
                write_config(
                    dir.path(),
                    (admin, free_address()),
                    "{level: info}",
                    &exporters,
                    "prometheus",
                    "",
                );
            });
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !holds(pid, Signal::SIGHUP) {
            assert!(
                Instant::now() < deadline && child.try_wait().unwrap().is_none(),
                "SIGHUP is not held"
            );
        }
        kill(pid, signal).unwrap();
        if signal == Signal::SIGHUP {
            let deadline = Instant::now() + WAIT_TIMEOUT;
            while !fs::read_to_string(&log)
                .unwrap()
                .contains("the new config is in use")
            {
                assert!(
                    Instant::now() < deadline && child.try_wait().unwrap().is_none(),
                    "no reload"
                );
                thread::sleep(Duration::from_millis(50));
            }
            kill(pid, Signal::SIGTERM).unwrap();
        }
        let status = child.wait().unwrap();
        assert_eq!(
            status.code(),
            Some(0),
            "{signal}: {status}: {}",
            fs::read_to_string(&log).unwrap()
        );
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let peer = silent_peer();
    let exporters =
        format!("  otlp: {{endpoint: \"http://{peer}\", protocol: http/protobuf, interval: 200ms}}\n");
    let (mut log, stderr) = unread();
    let running = Running::start(&exporters, "otlp", "", Stdio::null(), stderr);
    until("under way", || {
        running.metric("flowtap_exporter_queue_size{exporter=\"otlp\"") >= 1.0
    });
    let pid = running.pid();
    let second = thread::spawn(move || {
        // Signals within half a second are one.
        thread::sleep(Duration::from_secs(1));
        kill(pid, Signal::SIGTERM).unwrap();
    });
    let (took, code) = running.stop();
    second.join().unwrap();
    assert!(took < TIMEOUT, "{took:?}");
    assert_eq!(code, Some(UNDELIVERED));
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(
        text.contains("second signal: data in memory is lost; requests on disk (`storage`) are sent after the next start"),
        "{text}"
    );
}

/// Descriptors of a process with a soft limit of 1024, but for its own.
const IDLE: u64 = 1_010;

#[test]
fn idle_connections_lock_nobody_out_of_any_listener() {
    if crate::require::root().is_none() {
        return;
    }
    // systemd's and Docker's soft limit; the hard one is higher.
    let daemon = Daemon::start(&[]);
    let telemetry = daemon.telemetry_address();
    let limit = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let files: Vec<_> = limit
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(files[3], files[4], "the soft limit is the hard one: {files:?}");
    // This test holds as many as a process may have by default.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let scanned = || {
        let own = daemon.telemetry();
        own.sum("flowtap_receiver_last_scan_timestamp_seconds", &[])
    };
    let mut idle = Vec::new();
    for address in [daemon.scrape_address(), daemon.admin_address(), telemetry] {
        idle.extend((0..IDLE).map(|_| TcpStream::connect(address)));
        assert!(answers(daemon.scrape_address(), "/metrics").contains(" 200 "));
        assert!(answers(daemon.admin_address(), "/healthz").contains(" 200 "));
        assert!(answers(telemetry, "/metrics").contains(" 200 "));
    }
    let before = scanned();
    until("scanned again", || scanned() > before);
    let name = "flowtap_listener_closed_connections_total";
    for listener in [
        "exporters/prometheus",
        "service/admin",
        "service/telemetry/metrics",
    ] {
        let closed = daemon
            .telemetry()
            .sum(name, &[("listener", listener), ("reason", "idle")]);
        assert!(closed >= IDLE - 64, "{listener}: {closed}");
    }
    daemon.wait_for("a listener is at its limit of connections");
}
