//! The live view: `/flows`, the status page as a browser shows it, `top` as a terminal does.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, WAIT_TIMEOUT, flowtap, free_address, get};
use crate::require;

/// Bytes that the client of [`traffic`] sends: `7.65 MB` on a page or a terminal.
const SENT: usize = 7_654_321;

/// Egress with the process's name.
const WITH_PROCESSES: &str =
    "processors.window.families.network_tcp_flow_egress.labels=[raddr, rport, direction, type, comm]";

/// Takes its name from the first argument, connects to the port that is the second, and sends as many bytes as the third.
const CLIENT: &str = "\
import socket, sys
open('/proc/self/comm', 'w').write(sys.argv[1])
s = socket.create_connection(('127.0.0.1', int(sys.argv[2]))); s.sendall(b'x' * int(sys.argv[3])); s.shutdown(socket.SHUT_WR)
while s.recv(1): pass
";

/// Sends [`SENT`] bytes to this process, from one whose name is `name`; returns the port.
fn traffic(name: &str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = Command::new("python3")
        .args(["-c", CLIENT, name, &port.to_string(), &SENT.to_string()])
        .spawn()
        .unwrap();
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(io::copy(&mut server, &mut io::sink()).unwrap(), SENT as u64);
    drop(server);
    assert!(client.wait().unwrap().success());
    port
}

/// Polls until `seen` holds; a change has no event.
fn until(what: &str, look: impl Fn() -> String, seen: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let looked = look();
        if seen(&looked) {
            return looked;
        }
        assert!(Instant::now() < deadline, "never saw {what}; last:\n{looked}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn flows_has_the_bytes_of_a_connection_both_ends_and_the_owner() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[WITH_PROCESSES]);
    let port = traffic("live client").to_string();
    let of_port = |text: &str, label: &str| {
        let answer: serde_json::Value = serde_json::from_str(text).unwrap();
        let flows = answer["flows"].as_array().unwrap().clone();
        flows.into_iter().find(|flow| flow["labels"][label] == *port)
    };
    let sent = |flow: &Option<serde_json::Value>, side: &str| {
        flow.as_ref()
            .is_some_and(|flow| flow[side]["total"] == SENT as u64)
    };
    let seen = until(
        "the connection at both ends",
        || get(daemon.admin_address(), "/flows?limit=10000&sort=total"),
        |text| sent(&of_port(text, "rport"), "outbound") && sent(&of_port(text, "lport"), "inbound"),
    );
    let (egress, ingress) = (of_port(&seen, "rport").unwrap(), of_port(&seen, "lport").unwrap());
    assert_eq!(
        (&egress["role"], &ingress["role"]),
        (&"egress".into(), &"ingress".into())
    );
    assert_eq!(egress["labels"]["comm"], "live client");
    assert_eq!(egress["labels"]["type"], "localhost");
}

/// A connection to this process, which never reads: its client writes until the receive window is full, and waits.
struct SlowReader {
    port: u16,
    _ends: [TcpStream; 2],
}

impl SlowReader {
    fn begin() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.set_nonblocking(true).unwrap();
        let bytes = vec![1; 1 << 16];
        let full = loop {
            match client.write(&bytes) {
                Ok(_written) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        Self {
            port: address.port(),
            _ends: [client, server],
        }
    }
}

/// A connect to an address where nobody listens.
fn fail_to_connect(address: SocketAddr) {
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn the_newest_records_say_why_a_peer_is_slow_and_which_refuse() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let slow = SlowReader::begin();
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_str(&get(daemon.admin_address(), path)).unwrap()
    };
    // Measuring begins with a request.
    assert_eq!(json("/verdicts")["seconds"], 0.0);
    let nobody = free_address();
    let refuses = nobody.port();
    let of_port = |answer: &serde_json::Value, port: u16| {
        let peers = answer["peers"].as_array().unwrap().clone();
        peers
            .into_iter()
            .find(|peer| peer["server_port"] == port && peer["flow"] == "egress")
            .unwrap_or_default()
    };
    let seen = until(
        "both causes",
        || {
            fail_to_connect(nobody);
            get(daemon.admin_address(), "/verdicts?limit=10000")
        },
        |text| {
            let answer = serde_json::from_str(text).unwrap();
            of_port(&answer, slow.port)["cause"] == "receiver"
                && of_port(&answer, refuses)["cause"] == "refused"
        },
    );
    let answer: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let verdict = of_port(&answer, slow.port);
    assert_eq!(verdict["raddr"], "127.0.0.1");
    let sentence = verdict["sentence"].as_str().unwrap();
    assert!(sentence.contains("its receive window was full"), "{verdict}");
    assert!(
        verdict["evidence"][0].as_str().unwrap().contains("receiver"),
        "{verdict}"
    );
    assert!(answer["seconds"].as_f64().unwrap() > 0.0);
    // A row each of `/flows`, also of the peer that moved no byte.
    let flows = json("/flows?limit=10000&sort=cause");
    let row = |port: u16| {
        let mut rows = flows["flows"].as_array().unwrap().iter();
        let port = port.to_string();
        rows.find(|flow| flow["labels"]["rport"] == port.as_str())
            .unwrap_or_else(|| panic!("no row of {port}: {flows}"))
    };
    assert_eq!(row(slow.port)["recent"]["cause"], "receiver");
    assert_eq!(row(slow.port)["recent"]["sentence"], verdict["sentence"]);
    assert_eq!(row(refuses)["recent"]["cause"], "refused");
    assert!(row(refuses)["recent"]["failed"].as_u64() >= Some(1));
}

/// The page as a browser has it once its script has run for some seconds of the browser's own clock.
fn page(address: SocketAddr, profile: &Path) -> String {
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--no-proxy-server",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(["--virtual-time-budget=3000", "--dump-dom"])
        .arg(format!("http://{address}/"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_status_page_shows_flows_stages_queues_and_states_and_no_markup_of_a_process() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("chromium") {
        return;
    }
    let daemon = Daemon::start(&[WITH_PROCESSES]);
    let port = traffic("<b id=pwn>x</b>");
    let slow = SlowReader::begin();
    get(daemon.admin_address(), "/verdicts");
    let profile = tempfile::tempdir().unwrap();
    let seen = until(
        "the traffic on the page",
        || page(daemon.admin_address(), profile.path()),
        |dom| {
            let rows = dom.split("<tr>").filter(|row| row.contains(&format!(">{port}<")));
            let moved = rows.filter(|row| row.contains("title=\"7654321 bytes\">7.65 MB<"));
            moved.count() == 2 && dom.contains(&format!("data-key=\"127.0.0.1 {} egress\"", slow.port))
        },
    );
    for part in [
        "&lt;b id=pwn&gt;x&lt;/b&gt;",
        "class=\"state good\">measuring<",
        "data-pipeline=\"metrics\"",
        "data-kind=\"receiver\" data-component=\"ebpf\"",
        "data-kind=\"processor\" data-component=\"window\"",
        "data-kind=\"exporter\" data-component=\"prometheus\"",
        "<meter ",
        "data-health=\"exporter prometheus\"",
        "<span class=\"cause warn\">receiver</span>",
        "its receive window was full",
        "<summary>Evidence</summary><ul><li>of ",
        "None. The processor watch makes findings",
        "records</span>",
        "id=\"trouble\" class=\"bad\" role=\"status\"></span>",
    ] {
        assert!(seen.contains(part), "no {part} in:\n{seen}");
    }
    assert!(!seen.contains("id=\"pwn\""), "{seen}");
}

/// A separate terminal with a shell in it. Ended when dropped.
struct Terminal {
    dir: tempfile::TempDir,
}

impl Terminal {
    fn open(columns: u16, rows: u16) -> Self {
        let terminal = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            "env PS1='$ ' sh",
        ]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(self.dir.path().join("tmux"))
            .args(arguments)
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types `text` as it stands.
    fn press(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    fn run(&self, line: &str) {
        self.press(line);
        self.tmux(&["send-keys", "Enter"]);
    }

    /// Starts `flowtap top` with these arguments.
    fn top(&self, arguments: &str) {
        let program = flowtap().get_program().to_string_lossy().into_owned();
        self.run(&format!("{program} top {arguments}"));
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn shows(&self, what: &str) -> String {
        until(what, || self.screen(), |screen| screen.contains(what))
    }

    fn asks(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", format]).trim().to_owned()
    }

    /// The process that the shell has started.
    fn child(&self) -> Pid {
        let shell = self.asks("#{pane_pid}");
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        Pid::from_raw(children.split_whitespace().next().unwrap().parse().unwrap())
    }

    /// The shell's screen is back, with a cursor, and lines and echo as they were.
    fn is_as_before(&self) {
        until(
            "the shell's screen",
            || self.asks("alternate #{alternate_on} cursor #{cursor_flag}"),
            |flags| flags == "alternate 0 cursor 1",
        );
        // Input that is typed before the shell has the terminal again is not read by it.
        until(
            "the shell",
            || self.asks("#{pane_current_command}"),
            |command| command == "sh",
        );
        self.run("stty -a | grep -ow -e '-*icanon' -e '-*echo' -e '-*isig' | tr '\\n' ' '; echo got");
        let screen = self.shows("isig icanon echo got");
        assert!(!screen.contains("-icanon"), "{screen}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(self.dir.path().join("tmux"))
            .arg("kill-server")
            .status();
    }
}

#[test]
fn top_shows_a_daemons_flows_takes_keys_and_gives_the_terminal_back() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("tmux") {
        return;
    }
    let daemon = Daemon::start(&[WITH_PROCESSES]);
    let port = traffic("\u{1b}[31mred\u{7}").to_string();
    let slow = SlowReader::begin();
    let terminal = Terminal::open(120, 30);
    terminal.top(&format!("--admin {}", daemon.admin_address()));
    terminal.shows("q quit");
    terminal.press(&format!("/{port}"));
    terminal.tmux(&["send-keys", "Enter"]);
    let of_role = |screen: &str, role: &str| {
        let mut lines = screen.lines();
        let line = lines.find(|line| line.contains(&port) && line.contains(role));
        line.is_some_and(|line| line.contains("7.65 MB"))
    };
    let screen = until(
        "the traffic",
        || terminal.screen(),
        |screen| {
            let filtered = screen.contains(&format!("filter: {port}")) && screen.contains("q quit");
            filtered && of_role(screen, "egress") && of_role(screen, "ingress")
        },
    );
    assert!(
        screen.contains("localhost") && screen.contains("\\x1b[31mred"),
        "{screen}"
    );

    // The first row is marked: by cause, the worst. Below the table is why.
    terminal.press("S");
    terminal.shows("by cause");
    terminal.press("/");
    for _ in 0..port.len() {
        terminal.tmux(&["send-keys", "BSpace"]);
    }
    terminal.press(&slow.port.to_string());
    terminal.tmux(&["send-keys", "Enter"]);
    terminal.shows("its receive window was full");

    terminal.press("p");
    terminal.shows("PAUSED");
    terminal.press("h");
    terminal.shows("what limits the traffic");
    terminal.press("x");
    terminal.press("s");
    terminal.shows("by ");
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    let screen = until(
        "80 columns",
        || terminal.screen(),
        |screen| screen.contains("q quit") && screen.contains("RETR") && !screen.contains("TOTAL"),
    );
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    terminal.press("q");
    terminal.is_as_before();
}

#[test]
fn top_measures_by_itself_where_no_daemon_answers_and_a_signal_gives_the_terminal_back() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("tmux") {
        return;
    }
    let terminal = Terminal::open(120, 30);
    terminal.top(&format!("--set service.admin.endpoint={}", free_address()));
    terminal.shows("this machine");
    let port = traffic("by itself").to_string();
    terminal.press(&format!("/{port}"));
    terminal.tmux(&["send-keys", "Enter"]);
    until(
        "the traffic",
        || terminal.screen(),
        |screen| {
            let mut lines = screen.lines();
            lines.any(|line| line.contains(&port) && line.contains("by itself") && line.contains("7.65 MB"))
        },
    );
    kill(terminal.child(), Signal::SIGTERM).unwrap();
    terminal.is_as_before();
}
