//! The live view: `/flows`, `/map` and `/timeline`, the status page as a browser shows it, `top` as a terminal does.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::browser::Browser;
use crate::daemon::{Daemon, WAIT_TIMEOUT, flowtap, free_address, get};
use crate::inspect::{client_hello, converse};
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
    traffic_to((Ipv4Addr::LOCALHOST, 0).into(), name)
}

/// The same to this address.
fn traffic_to(address: SocketAddr, name: &str) -> u16 {
    let listener = TcpListener::bind(address).unwrap();
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
fn until(what: &str, mut look: impl FnMut() -> String, seen: impl Fn(&str) -> bool) -> String {
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
        Self::begin_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    fn begin_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
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

/// Starts a daemon whose pipeline has only records of the ports of `addresses`, so that sums over all records are of the test alone.
fn daemon_of(addresses: &[SocketAddr]) -> Daemon {
    let ports: Vec<_> = addresses.iter().map(SocketAddr::port).collect();
    Daemon::start(&[
        "service.pipelines.metrics.processors=[direction, policy, filter, window]",
        &format!("processors.filter={{include: [{{port: {ports:?}}}]}}"),
    ])
}

/// Sums of the time line's points.
fn sum_of_timeline(daemon: &Daemon, key: &str) -> u64 {
    let answer: serde_json::Value = serde_json::from_str(&get(daemon.admin_address(), "/timeline")).unwrap();
    let points = answer["points"].as_array().unwrap().clone();
    points.iter().map(|point| point[key].as_u64().unwrap()).sum()
}

#[test]
fn the_time_line_has_every_byte_and_failure_also_of_before_somebody_looked() {
    let Some(_machine) = require::root() else {
        return;
    };
    let served = free_address();
    let daemon = daemon_of(&[served]);
    for _ in 0..3 {
        fail_to_connect(served);
    }
    traffic_to(served, "time line");
    let seen = until(
        "the bytes at both ends",
        || get(daemon.admin_address(), "/timeline"),
        |_| sum_of_timeline(&daemon, "sent_bytes") >= SENT as u64,
    );
    // Each byte was sent by one end, and received by the other.
    until(
        "the bytes that were received",
        || sum_of_timeline(&daemon, "received_bytes").to_string(),
        |sum| sum == SENT.to_string(),
    );
    assert_eq!(sum_of_timeline(&daemon, "sent_bytes"), SENT as u64, "{seen}");
    assert_eq!(sum_of_timeline(&daemon, "failed"), 3, "{seen}");
    // A connection, as both ends see it.
    assert_eq!(sum_of_timeline(&daemon, "opened"), 2, "{seen}");
    // A reload does not forget it.
    let config = std::fs::read_to_string(daemon.config()).unwrap();
    assert!(daemon.reload(&config.replace("verbosity: normal", "verbosity: basic")));
    assert_eq!(sum_of_timeline(&daemon, "sent_bytes"), SENT as u64, "{seen}");
}

#[test]
fn the_map_has_processes_and_peers_with_the_applications_bytes_and_what_fails() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let map = || -> serde_json::Value {
        serde_json::from_str(&get(daemon.admin_address(), "/map?limit=10000")).unwrap()
    };
    // Measuring begins with a request, at the next watermark.
    map();
    until(
        "the period to begin",
        || map()["seconds"].to_string(),
        |seconds| seconds != "0.0",
    );
    let port = traffic("map client");
    let nobody = free_address();
    fail_to_connect(nobody);
    let edge = |map: &serde_json::Value, port: u16, flow: &str| {
        let edges = map["edges"].as_array().unwrap();
        let found = edges
            .iter()
            .find(|edge| edge["server_port"] == port && edge["flow"] == flow);
        found.cloned().unwrap_or_default()
    };
    let seen = until(
        "both ends and the failure",
        || map().to_string(),
        |text| {
            let map = serde_json::from_str(text).unwrap();
            edge(&map, port, "egress")["sent_bytes"] == SENT
                && edge(&map, port, "ingress")["received_bytes"] == SENT
                && edge(&map, nobody.port(), "egress")["failed"] == 1
        },
    );
    let map = serde_json::from_str(&seen).unwrap();
    let client = edge(&map, port, "egress");
    assert_eq!(
        (&client["comm"], &client["raddr"], &client["transport"]),
        (&"map client".into(), &"127.0.0.1".into(), &"tcp".into())
    );
    assert_eq!(edge(&map, nobody.port(), "egress")["cause"], "refused");
}

#[test]
fn a_row_has_the_protocol_the_server_name_and_the_hop_of_its_records_on_the_page_as_well() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let daemon =
        Daemon::start(&["receivers.ebpf.inspect={protocols: true, server_names: full, budget: 100%}"]);
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_str(&get(daemon.admin_address(), path)).unwrap()
    };
    // Records are counted by peer from the first interval after a request on.
    let seconds = || json("/verdicts")["seconds"].to_string();
    until("a verdict", seconds, |seconds| {
        seconds.parse::<f64>().unwrap() > 0.0
    });
    // First bytes can be lost, as those of the whole machine share a buffer.
    let found = (0..20).find_map(|_| {
        let port = converse(&[&client_hello(b"shop.example.test")]).to_string();
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            let flows = json("/flows?limit=10000");
            let mut rows = flows["flows"].as_array().unwrap().iter();
            let row = rows.find(|flow| flow["labels"]["rport"] == *port);
            if let Some(recent) = row.map(|row| row["recent"].clone())
                && recent["server_name"] == "shop.example.test"
            {
                return Some((port, recent));
            }
            thread::sleep(Duration::from_millis(100));
        }
        None
    });
    let (port, recent) = found.expect("the name of a TLS server");
    assert_eq!(
        (&recent["protocol"], &recent["hop"]),
        (&"tls".into(), &"loopback".into())
    );
    assert_eq!(
        (&recent["backend"], &recent["several"]),
        (&serde_json::Value::Null, &serde_json::json!([]))
    );
    if !require::program("chromium") {
        return;
    }
    let mut browser = Browser::open(&format!("http://{}/", daemon.admin_address()));
    let shown = |title: &str, port: &str| {
        format!(
            "(() => {{ const heads = [...document.querySelectorAll('#flows th')].filter((head) => !head.hidden); \
             const at = heads.findIndex((head) => head.textContent === '{title}'); \
             const rows = [...document.querySelectorAll('#flows tbody tr')]; \
             const row = rows.find((row) => row.cells[1].textContent === '{port}'); \
             return at < 0 || !row ? '' : row.cells[at].textContent; }})()"
        )
    };
    for (title, text) in [
        ("Protocol", "tls"),
        ("Server name", "shop.example.test"),
        ("Hop", "loopback"),
        ("Backend", ""),
        ("Name", ""),
    ] {
        until(
            title,
            || {
                browser
                    .evaluate(&shown(title, &port))
                    .as_str()
                    .unwrap()
                    .to_owned()
            },
            |seen| seen == text,
        );
    }
    assert!(browser.errors().is_empty(), "{:?}", browser.errors());
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
    let mut browser = Browser::open(&format!("http://{}/", daemon.admin_address()));
    let seen = until(
        "the traffic on the page",
        || browser.html(),
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
    // Neither an error of the script nor a violation of the policy.
    assert!(browser.errors().is_empty(), "{:?}", browser.errors());
}

#[test]
fn the_status_page_shows_a_finding_and_no_markup_of_its_subject() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("chromium") {
        return;
    }
    let daemon = Daemon::start(&[
        "processors.watch={learn: 0s, interval: 1s}",
        "service.pipelines.metrics.processors=[direction, policy, watch, window]",
    ]);
    let mut browser = Browser::open(&format!("http://{}/", daemon.admin_address()));
    let subject =
        "<strong>first_contact</strong> <span>&lt;b id=pwn&gt;x&lt;/b&gt; talks to 127.0.0.0/24, port ";
    let seen = until(
        "the finding on the page",
        || {
            // Each is a new port, and not an ephemeral one: other programs of the machine have findings also, and the page shows the newest.
            traffic_to(free_address(), "<b id=pwn>x</b>");
            browser.html()
        },
        |dom| dom.contains(subject) && dom.contains("since the start"),
    );
    let (_, list) = seen.split_once("id=\"findings\"").unwrap();
    let (_, rest) = list.split_once(subject).unwrap();
    let (sentence, _) = rest.split_once("</span>").unwrap();
    assert!(
        sentence.ends_with(" for the first time (address 127.0.0.1)"),
        "{sentence}"
    );
    assert!(!seen.contains("id=\"pwn\""), "{seen}");
    assert!(browser.errors().is_empty(), "{:?}", browser.errors());
}

/// A daemon with a slow peer, one that refuses, a process with markup in its name, and a page that shows them in its map.
fn busy_page() -> (Daemon, SlowReader, SocketAddr, Browser) {
    let [served, slow, nobody] = [free_address(), free_address(), free_address()];
    let daemon = daemon_of(&[served, slow, nobody]);
    get(daemon.admin_address(), "/map");
    let slow = SlowReader::begin_at(slow);
    let mut browser = Browser::open(&format!("http://{}/", daemon.admin_address()));
    let edge = |port: u16, state: &str| {
        format!(
            "[...document.querySelectorAll('#map .edge.{state}')].some((edge) => \
             edge.parentNode.querySelector('title').textContent.includes(':{port}:'))"
        )
    };
    let look = format!("{} && {}", edge(slow.port, "warn"), edge(nobody.port(), "bad"));
    until(
        "both on the map",
        || {
            // Markup in a name, and a connect that fails while the page looks.
            traffic_to(served, "<i id=pwn>y</i>");
            fail_to_connect(nobody);
            browser.evaluate(&look).to_string()
        },
        |seen| seen == "true",
    );
    (daemon, slow, nobody, browser)
}

#[test]
fn the_map_and_the_time_line_are_drawn_and_their_tables_have_the_same() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("chromium") {
        return;
    }
    let (_daemon, slow, nobody, mut browser) = busy_page();
    let text = |browser: &mut Browser, selector: &str| {
        let value = browser.evaluate(&format!(
            "[...document.querySelectorAll('{selector}')].map((part) => part.textContent)"
        ));
        serde_json::from_value::<Vec<String>>(value).unwrap()
    };
    let rows = text(&mut browser, "#map-table tbody tr");
    let row = |port: u16| {
        let port = port.to_string();
        let found = rows.iter().find(|row| row.contains(&port));
        found.unwrap_or_else(|| panic!("no row of {port}: {rows:#?}"))
    };
    assert!(
        row(slow.port).contains("its receive window was full"),
        "{rows:#?}"
    );
    assert!(row(nobody.port()).contains("refused"), "{rows:#?}");
    // A state is not shown by its colour alone: there is a word on the edge.
    let marks = text(&mut browser, "#map text.bad");
    assert!(marks.iter().any(|mark| mark.starts_with("refused")), "{marks:?}");
    // A name is a node, and its text.
    let nodes = text(&mut browser, "#map g title");
    assert!(nodes.iter().any(|name| name == "<i id=pwn>y</i>"), "{nodes:?}");
    assert_eq!(
        browser.evaluate("document.getElementById('pwn')"),
        serde_json::Value::Null
    );

    // Failures of the page's own time line, in the drawing, in its description and in the table.
    until(
        "failures on the time line",
        || {
            browser
                .evaluate("document.querySelectorAll('#timeline .failures').length")
                .to_string()
        },
        |bars| bars != "0",
    );
    let description = browser.evaluate("document.getElementById('timeline').getAttribute('aria-label')");
    let description = description.as_str().unwrap().to_owned();
    assert!(description.contains(" failed connects"), "{description}");
    let failed = text(&mut browser, "#timeline-table tbody td:nth-child(5)");
    assert!(failed.iter().any(|count| count != "0"), "{failed:?}");
    let path = browser.evaluate("document.querySelector('#timeline .received').getAttribute('d')");
    assert!(path.as_str().unwrap().ends_with('Z'), "{path}");
    assert!(browser.errors().is_empty(), "{:?}", browser.errors());
}

#[test]
fn the_page_fits_360_pixels_and_any_scheme_and_axe_finds_nothing_that_bars_people() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("chromium") {
        return;
    }
    let Some(axe) = require::axe() else {
        return;
    };
    let (_daemon, _slow, _nobody, mut browser) = busy_page();
    browser.evaluate("for (const one of document.querySelectorAll('details')) one.open = true");
    browser.evaluate(&axe);
    for (width, scheme) in [(360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")] {
        browser.resize(width, 900, scheme);
        // Drawings follow the width when the browser has laid the page out.
        until(
            "the map in this width",
            || {
                browser
                    .evaluate("document.getElementById('map').viewBox.baseVal.width")
                    .to_string()
            },
            |drawn| drawn.parse::<f64>().is_ok_and(|drawn| drawn <= f64::from(width)),
        );
        let wide = browser.evaluate(
            "[...document.querySelectorAll('body *')].filter((part) => !part.closest('.scroll :scope, svg') \
             && part.getBoundingClientRect().right > innerWidth + 0.5 && !part.parentNode.closest('.scroll')) \
             .map((part) => part.outerHTML.slice(0, 200))",
        );
        assert_eq!(wide, serde_json::json!([]), "{width}");
        let scrolls = browser.evaluate("document.documentElement.scrollWidth <= innerWidth");
        assert_eq!(scrolls, true, "{width}");
        let violations = browser.evaluate(
            "axe.run().then(({ violations }) => violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]))",
        );
        assert_eq!(
            violations,
            serde_json::json!([]),
            "{width} {scheme}: {violations:#}"
        );
    }
    assert!(browser.errors().is_empty(), "{:?}", browser.errors());
}

#[test]
fn the_page_can_be_used_by_keyboard_alone() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("chromium") {
        return;
    }
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::open(&format!("http://{}/", daemon.admin_address()));
    until(
        "rows",
        || {
            browser
                .evaluate("document.querySelectorAll('#flows tbody tr').length")
                .to_string()
        },
        |rows| rows != "0",
    );
    // Paused, so that the page stands still.
    browser.press("Tab", 9);
    assert_eq!(browser.evaluate("document.activeElement.id"), "pause");
    browser.press("Enter", 13);
    assert_eq!(
        browser.evaluate("document.activeElement.getAttribute('aria-pressed')"),
        "true"
    );
    // Tab stops at everything that can be used, in the order of the document, and each stop is visible.
    let stops = browser.evaluate(
        "window.stops = [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex=\"0\"]')] \
         .filter((part) => part.checkVisibility()); stops.length",
    );
    for place in 0..stops.as_u64().unwrap() {
        let here = browser.evaluate(&format!("document.activeElement === stops[{place}]"));
        assert_eq!(here, true, "stop {place}");
        let outline = browser.evaluate(
            "(({ outlineStyle, outlineWidth }) => [outlineStyle !== 'none', parseFloat(outlineWidth) >= 2]) \
             (getComputedStyle(document.activeElement))",
        );
        let part = browser.evaluate("document.activeElement.outerHTML.slice(0, 200)");
        assert_eq!(outline, serde_json::json!([true, true]), "{part}");
        browser.press("Tab", 9);
    }
    // A column's title sorts, and says so.
    browser.evaluate(
        "[...document.querySelectorAll('#flows th button')].find((one) => one.textContent === 'Total').focus()",
    );
    browser.press("Enter", 13);
    let sorted = browser.evaluate("document.activeElement.parentNode.getAttribute('aria-sort')");
    assert_eq!(sorted, "descending");
    // The table of the map opens.
    browser.evaluate("document.querySelector('#map ~ details summary').focus()");
    browser.press("Enter", 13);
    assert_eq!(
        browser.evaluate("document.querySelector('#map ~ details').open"),
        true
    );
    assert!(browser.errors().is_empty(), "{:?}", browser.errors());
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
