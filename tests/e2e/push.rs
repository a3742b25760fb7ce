//! Exporters that push: Unix sockets, proxies, renewed certificates, and what the log and `/status` say of failures.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::connections::{Fault, Peer};
use crate::daemon::{Daemon, Launch, free_address};
use crate::peers::ask_until;
use crate::require;

/// Synthetic flows: what is exported does not matter here.
const GENERATOR: [&str; 3] = [
    "service.pipelines.metrics.receivers=[generator]",
    "receivers.generator.interval=100ms",
    "receivers.generator.flows=4",
];

/// A daemon with the exporters of `text`, whose names are `names`.
fn launch(names: &str, text: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Daemon {
    Daemon::launch(Launch {
        list: &format!("exporters: [debug, prometheus, {names}]"),
        exporters: text,
        set: &GENERATOR,
        environment,
        arguments,
        ..Launch::default()
    })
}

/// A peer that takes everything, on 127.0.0.1.
fn peer() -> (Arc<Peer>, u16) {
    Peer::start(Fault::Close, 0)
}

fn takes(peer: &Peer, what: &str) {
    ask_until(what, || (peer.taken.load(Ordering::SeqCst) > 1).then_some(()));
}

/// Copies bytes both ways until either side ends.
fn bridge<A, B>(mut near: (A, A), mut far: (B, B))
where
    A: Read + Write + Send + 'static,
    B: Read + Write + Send + 'static,
{
    thread::spawn(move || io::copy(&mut near.0, &mut far.0));
    thread::spawn(move || io::copy(&mut far.1, &mut near.1));
}

fn both(stream: TcpStream) -> (TcpStream, TcpStream) {
    (stream.try_clone().unwrap(), stream)
}

#[test]
fn a_unix_socket_is_pushed_to_by_every_exporter() {
    let dir = tempfile::tempdir().unwrap();
    let (mut text, mut names, mut peers) = (String::new(), Vec::new(), Vec::new());
    for (name, more) in [
        ("otlp/grpc", ""),
        ("otlp/http", ", protocol: http/protobuf"),
        ("remote_write", ""),
    ] {
        let (peer, port) = peer();
        let path = dir.path().join(name.replace('/', "-"));
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
                bridge((near.try_clone().unwrap(), near), both(far));
            }
        });
        let _ = writeln!(
            text,
            "  {name}: {{endpoint: \"unix://{}\", interval: 200ms{more}}}",
            path.display()
        );
        names.push(name);
        peers.push(peer);
    }
    let _daemon = launch(&names.join(", "), &text, &[], &[]);
    for (peer, name) in peers.iter().zip(names) {
        takes(peer, name);
    }
}

/// A proxy: passes on requests and tunnels, whatever host they name, to `port` of this machine. Keeps the heads that it was sent.
fn proxy(port: u16) -> (Arc<Mutex<Vec<String>>>, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let own = listener.local_addr().unwrap().port();
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&heads);
    thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.unwrap();
            let mut reader = BufReader::new(near.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).unwrap_or(0) == 0 {
                    break;
                }
            }
            let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            let mut answer = near.try_clone().unwrap();
            if head.starts_with("CONNECT ") {
                answer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            } else {
                far.write_all(head.as_bytes()).unwrap();
                far.write_all(reader.buffer()).unwrap();
            }
            seen.lock().unwrap().push(head);
            bridge(both(near), both(far));
        }
    });
    (heads, own)
}

#[test]
fn a_proxy_of_the_config_or_the_environment_is_used_with_its_credentials() {
    let (taking, port) = peer();
    let (heads, proxy_port) = proxy(port);
    // No such host: only the proxy can reach it.
    let key = format!("http://me:hunter2@127.0.0.1:{proxy_port}");
    let of_key = format!(
        "  otlp/grpc: {{endpoint: \"http://grpc.test:4317\", interval: 200ms, proxy_url: \"{key}\"}}\n  \
           otlp/http: {{endpoint: \"http://http.test:4318\", protocol: http/protobuf, interval: 200ms, proxy_url: \"{key}\"}}\n  \
           remote_write: {{endpoint: \"http://write.test/api\", interval: 200ms, proxy_url: \"{key}\"}}\n"
    );
    let heads_of = |daemon: &Daemon, hosts: &[&str]| {
        ask_until("requests through the proxy", || {
            let heads = heads.lock().unwrap().join("");
            hosts.iter().all(|host| heads.contains(host)).then_some(heads)
        });
        takes(&taking, "deliveries");
        daemon.telemetry_until("no failure", |own| {
            own.sum("flowtap_exporter_sent_metric_points_total", &[]) > 0
        });
        std::mem::take(&mut *heads.lock().unwrap())
    };
    let daemon = launch("otlp/grpc, otlp/http, remote_write", &of_key, &[], &[]);
    let seen = heads_of(&daemon, &["grpc.test", "http.test", "write.test"]);
    drop(daemon);
    for head in &seen {
        let wanted = if head.contains("grpc.test") {
            "CONNECT grpc.test:4317 HTTP/1.1"
        } else if head.contains("http.test") {
            "POST http://http.test:4318/v1/metrics HTTP/1.1"
        } else {
            "POST http://write.test/api HTTP/1.1"
        };
        assert!(head.starts_with(wanted), "{head}");
        // me:hunter2
        let credentials = "proxy-authorization: basic bwu6ahvudgvymg==";
        assert!(head.to_lowercase().contains(credentials), "{head}");
    }

    let of_environment = of_key.replace(&format!(", proxy_url: \"{key}\""), "");
    let address = format!("http://127.0.0.1:{proxy_port}");
    for variables in [
        [("HTTP_PROXY", &*address), ("NO_PROXY", "elsewhere.test")],
        [("http_proxy", &*address), ("no_proxy", "elsewhere.test")],
        [("ALL_PROXY", &*address), ("NO_PROXY", "")],
    ] {
        let daemon = launch(
            "otlp/grpc, otlp/http, remote_write",
            &of_environment,
            &variables,
            &[],
        );
        heads_of(&daemon, &["CONNECT grpc.test:4317", "http.test", "write.test"]);
    }
    // Addresses of this machine, and those of NO_PROXY, are reached directly.
    let (direct, port) = peer();
    let text = format!(
        "  otlp/local: {{endpoint: \"http://127.0.0.1:{port}\", interval: 200ms}}\n  \
           otlp/no: {{endpoint: \"http://grpc.test:4317\", interval: 200ms, retry: {{initial_interval: 10ms}}}}\n"
    );
    let variables = [("HTTP_PROXY", &*address), ("NO_PROXY", ".test")];
    heads.lock().unwrap().clear();
    let daemon = launch("otlp/local, otlp/no", &text, &variables, &[]);
    takes(&direct, "a delivery beside the proxy");
    daemon.wait_for("dns error");
    assert_eq!(*heads.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn a_proxy_that_is_away_or_refuses_is_named_in_status_with_its_answer_and_without_its_password() {
    let away = free_address();
    let refusing = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = refusing.local_addr().unwrap().port();
    thread::spawn(move || {
        for near in refusing.incoming() {
            let mut near = near.unwrap();
            // So that the answer is not lost with a reset.
            let _ = near.read(&mut [0; 4096]);
            let _ = near.write_all(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
    });
    let text = format!(
        "  otlp/away: {{endpoint: \"http://grpc.test:4317\", interval: 200ms, proxy_url: \"http://{away}\"}}\n  \
           otlp/tunnel: {{endpoint: \"http://grpc.test:4317\", interval: 200ms, proxy_url: \"http://me:hunter2@127.0.0.1:{port}\"}}\n  \
           otlp/forward: {{endpoint: \"http://http.test:4318\", protocol: http/protobuf, interval: 200ms, proxy_url: \"http://me:hunter2@127.0.0.1:{port}\"}}\n"
    );
    let daemon = launch("otlp/away, otlp/tunnel, otlp/forward", &text, &[], &[]);
    for (name, proxy, answer) in [
        ("away", away.to_string(), "Connection refused"),
        ("tunnel", format!("127.0.0.1:{port}"), "HTTP status 407"),
        ("forward", format!("127.0.0.1:{port}"), "HTTP status 407"),
    ] {
        let error = ask_until(name, || {
            let status = daemon.status();
            let error = status["components"][format!("exporters/otlp/{name}")]["error"].as_str();
            error.map(str::to_owned)
        });
        assert!(error.contains(&format!("proxy http://{proxy}")), "{error}");
        assert!(error.contains(answer) && error.contains("hint: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_failure_names_exporter_address_and_cause_in_the_log_and_in_status() {
    let dir = tempfile::tempdir().unwrap();
    let refused = free_address();
    if !require::program("python3") {
        return;
    }
    certificate(&dir.path().join("server"), "elsewhere.test");
    let server = TlsServer::start(dir.path(), None);
    let tls_port = server.port;
    let ca = dir.path().join("server.crt").display().to_string();
    let cases = [
        ("refused", format!("http://{refused}"), "Connection refused", ""),
        (
            "unknown",
            "http://collector.invalid:4318".to_owned(),
            "dns error",
            "",
        ),
        (
            "authority",
            format!("https://127.0.0.1:{tls_port}"),
            "UnknownIssuer",
            "",
        ),
        (
            "name",
            format!("https://127.0.0.1:{tls_port}"),
            "not valid for name",
            &*format!(", tls: {{ca_file: {ca}}}"),
        ),
    ];
    for protocol in ["grpc", "http/protobuf"] {
        let (mut text, mut names) = (String::new(), Vec::new());
        for (name, endpoint, _, more) in &cases {
            for storage in ["", "-disk"] {
                let name = format!("otlp/{name}{storage}");
                let stored = match storage {
                    "" => String::new(),
                    _ => format!(
                        ", storage: {{directory: {}}}",
                        dir.path().join(protocol).join(&name).display()
                    ),
                };
                let _ = writeln!(
                    text,
                    "  {name}: {{endpoint: \"{endpoint}\", protocol: {protocol}, interval: 200ms{more}{stored}}}"
                );
                names.push(name);
            }
        }
        let daemon = launch(&names.join(", "), &text, &[], &[]);
        for (name, endpoint, cause, _) in &cases {
            for storage in ["", "-disk"] {
                let component = format!("exporters/otlp/{name}{storage}");
                let error = ask_until(&format!("{component} failing"), || {
                    let status = daemon.status();
                    let status = &status["components"][&component];
                    (status["state"] == "recoverable_error").then(|| status["error"].to_string())
                });
                assert!(
                    error.contains(cause) && error.contains(endpoint),
                    "{protocol} {component}: {error}"
                );
            }
        }
        let (_, end) = daemon.stop();
        for (name, endpoint, cause, _) in &cases {
            let warned = end.log.lines().any(|line| {
                line.contains("WARN")
                    && line.contains(&format!("otlp/{name}"))
                    && line.contains(endpoint)
                    && line.contains(cause)
            });
            assert!(warned, "{protocol} {name}: {}", end.log);
        }
    }
}

#[test]
fn of_two_endpoints_of_an_exporter_the_one_that_fails_is_named() {
    let (peer, port) = peer();
    let (metrics, refused) = (format!("http://127.0.0.1:{port}/m"), free_address());
    let daemon = Daemon::launch(Launch {
        list: "exporters: [debug, prometheus, otlp]",
        exporters: &format!(
            "  otlp: {{metrics_endpoint: \"{metrics}\", logs_endpoint: \"http://{refused}/l\", protocol: http/protobuf, \
             interval: 200ms, retry: {{enabled: false}}}}\n"
        ),
        set: &[
            &GENERATOR[..],
            &[
                "processors.connections={interval: 200ms, active_timeout: 200ms}",
                "service.pipelines.logs={receivers: [generator], processors: [direction, policy, connections], exporters: [otlp]}",
            ],
        ]
        .concat(),
        ..Launch::default()
    });
    let error = ask_until("the exporter failing", || {
        let status = daemon.status();
        let status = &status["components"]["exporters/otlp"];
        (status["state"] == "recoverable_error").then(|| status["error"].to_string())
    });
    assert!(
        error.contains(&format!("http://{refused}/l")) && !error.contains(&metrics),
        "{error}"
    );
    // Metrics that are delivered meanwhile do not make it well.
    let before = peer.taken.load(Ordering::SeqCst);
    ask_until("more metrics", || {
        (peer.taken.load(Ordering::SeqCst) > before + 3).then_some(())
    });
    let status = daemon.status();
    assert_eq!(
        status["components"]["exporters/otlp"]["state"], "recoverable_error",
        "{status}"
    );
    let (status, end) = daemon.stop();
    let warned = end
        .log
        .lines()
        .find(|line| line.contains("log records were not delivered"));
    let warned = warned.unwrap_or_else(|| panic!("{}", end.log));
    assert!(
        warned.contains(&format!("http://{refused}/l")) && !warned.contains(&metrics),
        "{warned}"
    );
    // The last records of the open connections were lost by the stop.
    assert_eq!(status.code(), Some(75), "{}", end.log);
}

/// Ends TLS as OpenSSL has it, with the certificates that are in the files when a client comes; connections of before a change of
/// them are closed. Passes bytes on to a port of this machine.
const TLS_SERVER: &str = r"
import os, select, socket, ssl, sys, threading
port, plain, base, ca = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
def stamp(): return os.stat(base + '.crt').st_mtime_ns
def serve(near):
    since = stamp()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(base + '.crt', base + '.key')
    context.set_alpn_protocols(['h2', 'http/1.1'])
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca)
    near = context.wrap_socket(near, server_side=True)
    far = socket.create_connection(('127.0.0.1', plain))
    while since == stamp():
        ready = [near] if near.pending() else select.select([near, far], [], [], 0.05)[0]
        for one in ready:
            data = one.recv(65536)
            if not data: return
            (far if one is near else near).sendall(data)
def guarded(near):
    try: serve(near)
    except OSError: pass
    finally: near.close()
server = socket.create_server(('127.0.0.1', port))
print('ready', flush=True)
while True: threading.Thread(target=guarded, args=(server.accept()[0],), daemon=True).start()
";

/// A TLS server; ends when dropped.
struct TlsServer {
    child: Child,
    port: u16,
    peer: Arc<Peer>,
}

impl TlsServer {
    /// With the certificate in `dir` that is named `server`; wants a client's that is in `client_ca`, if that is given.
    fn start(dir: &Path, client_ca: Option<&Path>) -> Self {
        let (peer, plain) = peer();
        let port = free_address().port();
        let ca = client_ca.map_or(String::new(), |path| path.display().to_string());
        let mut child = Command::new("python3")
            .args(["-c", TLS_SERVER, &port.to_string(), &plain.to_string()])
            .args([dir.join("server").display().to_string(), ca])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        assert_eq!(ready, "ready\n");
        Self { child, port, peer }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn renewed_certificates_and_authorities_are_used_without_a_restart() {
    if !require::program("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let renew = || {
        certificate(&dir.path().join("client"), "flowtap");
        certificate(&dir.path().join("server"), "localhost");
    };
    renew();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let client = dir.path().join("client.crt");
    let (mut text, mut names, mut servers) = (String::new(), Vec::new(), Vec::new());
    for (name, more) in [
        ("otlp/grpc", ""),
        ("otlp/http", ", protocol: http/protobuf"),
        ("remote_write", ""),
    ] {
        let server = TlsServer::start(dir.path(), Some(&client));
        let _ = writeln!(
            text,
            "  {name}: {{endpoint: \"https://localhost:{}\", interval: 200ms, retry: {{initial_interval: 50ms}}{more}, \
             tls: {{ca_file: {}, cert_file: {}, key_file: {}}}}}",
            server.port,
            path("server.crt"),
            path("client.crt"),
            path("client.key")
        );
        names.push(name);
        servers.push(server);
    }
    let daemon = launch(&names.join(", "), &text, &[], &[]);
    for server in &servers {
        takes(&server.peer, "deliveries with the first certificates");
    }
    renew();
    for server in &servers {
        server.peer.taken.store(0, Ordering::SeqCst);
        takes(&server.peer, "deliveries with the renewed certificates");
    }
    let (_, end) = daemon.stop();
    assert!(end.log.contains("read again"), "{}", end.log);
}

#[test]
fn authorities_of_ssl_cert_file_are_used_in_the_sandbox_and_none_at_all_is_an_error() {
    if !require::program("python3") {
        return;
    }
    // Not below a directory that the sandbox leaves open by itself.
    let dir = tempfile::tempdir_in("/opt").unwrap();
    certificate(&dir.path().join("server"), "localhost");
    let server = TlsServer::start(dir.path(), None);
    let text = format!(
        "  otlp: {{endpoint: \"https://localhost:{}\", interval: 200ms}}\n",
        server.port
    );
    let ca = dir.path().join("server.crt").display().to_string();
    let daemon = launch("otlp", &text, &[("SSL_CERT_FILE", &ca)], &[]);
    takes(&server.peer, "deliveries");
    drop(daemon);
    let output = crate::daemon::flowtap()
        .env("SSL_CERT_FILE", dir.path().join("nothing.crt"))
        .env_remove("SSL_CERT_DIR")
        .args(["run", "--set", "exporters.otlp.endpoint=https://localhost:1"])
        .args(["--set", "service.pipelines.metrics.exporters=[otlp]"])
        .args(["--set", GENERATOR[0], "--set", GENERATOR[2]])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("nothing.crt") && said.contains("no usable certificate authorities"),
        "{said}"
    );
}

#[test]
fn no_log_at_any_level_shows_a_secret_of_an_endpoint_a_header_or_a_proxy() {
    let secrets = ["hunter1", "hunter2", "hunter3", "hunter4", "hunter5", "hunter6"];
    let (taking, port) = peer();
    let (_, proxy_port) = proxy(port);
    let (direct, direct_port) = peer();
    let text = format!(
        "  otlp/header: {{endpoint: \"http://127.0.0.1:{direct_port}\", interval: 200ms, headers: {{authorization: hunter1, x-key: hunter2}}}}\n  \
           otlp/query: {{endpoint: \"http://127.0.0.1:{direct_port}/?token=hunter3\", protocol: http/protobuf, interval: 200ms}}\n  \
           otlp/refused: {{endpoint: \"http://127.0.0.1:9/?token=hunter3\", protocol: http/json, interval: 200ms}}\n  \
           otlp/proxy: {{endpoint: \"http://grpc.test:4317\", interval: 200ms, proxy_url: \"http://me:hunter4@127.0.0.1:{proxy_port}\"}}\n  \
           remote_write/basic: {{endpoint: \"http://127.0.0.1:{direct_port}/w\", interval: 200ms, basic_auth: {{username: me, password: hunter5}}}}\n  \
           remote_write/bearer: {{endpoint: \"http://127.0.0.1:9/w\", interval: 200ms, bearer_token: hunter6}}\n"
    );
    let daemon = launch(
        "otlp/header, otlp/query, otlp/refused, otlp/proxy, remote_write/basic, remote_write/bearer",
        &text,
        &[("FLOWTAP_LOG", "trace")],
        &[],
    );
    takes(&taking, "deliveries through the proxy");
    takes(&direct, "direct deliveries");
    let (status, own) = (daemon.status().to_string(), format!("{:?}", daemon.telemetry()));
    let (_, end) = daemon.stop();
    assert!(end.log.contains("token=REDACTED"), "the address is shown");
    for secret in secrets {
        let shown = end.log.lines().find(|line| line.contains(secret));
        assert_eq!(shown, None, "{secret}");
        assert!(!status.contains(secret) && !own.contains(secret), "{secret}");
    }
}

fn certificate(base: &Path, name: &str) {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(base.with_extension("key"), certified.signing_key.serialize_pem()).unwrap();
    std::fs::write(base.with_extension("crt"), certified.cert.pem()).unwrap();
}
