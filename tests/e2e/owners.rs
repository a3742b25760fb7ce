//! Owner of a connection: the container of its cgroup, and the name of its process as text.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, WAIT_TIMEOUT};
use crate::exposition::Exposition;
use crate::flow_logs::{launch_with, of_port, records};
use crate::require;

const EGRESS: &str = "primus_lens_network_tcp_flow_egress";
const BY_CONTAINER: &str = "processors.window.families.network_tcp_flow_egress.labels=[rport, direction, pid, comm, cgroup_id, container_id]";

/// Connects to the port `$0`, sends five bytes, and waits for the end of its input. First it waits for a line of it.
const CLIENT: &str = "read go; exec 3<>/dev/tcp/127.0.0.1/$0; printf 12345 >&3; read end";

fn container_id() -> String {
    format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..))
}

/// Where cgroups of this type are mounted; of v1, the first controller that can be written.
fn mounted(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let point = mounts.find(|fields| {
        // A cpuset has no processors at first, and lets nobody in.
        let fits = |fields: &Vec<&str>| !fields.get(3).is_some_and(|options| options.contains("cpuset"));
        fields.get(2) == Some(&kind) && fits(fields)
    })?;
    Some(PathBuf::from(point[1]))
}

/// Cgroups as a container runtime makes them, removed at the end with everything below.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn create(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).ok()?;
        Some(Self { path })
    }

    /// Below the root of cgroup v2; without one the test is skipped.
    fn new(name: &str) -> Option<Self> {
        let cgroup = mounted("cgroup2").and_then(|root| Self::create(root.join(name)));
        if cgroup.is_none() {
            require::skip("this test needs a cgroup v2 file system that can be written");
        }
        cgroup
    }

    fn id(&self) -> String {
        fs::metadata(&self.path).expect("a cgroup").ino().to_string()
    }

    fn take(&self, process: &Child) {
        fs::write(self.path.join("cgroup.procs"), process.id().to_string()).expect("a process moves");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        // A process that was waited for leaves its cgroup a moment later.
        while fs::remove_dir(&self.path).is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy)
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A client that waits to be let go.
fn client(port: u16) -> Child {
    let mut command = Command::new("bash");
    command
        .args(["-c", CLIENT, &port.to_string()])
        .stdin(Stdio::piped());
    command.spawn().expect("bash")
}

/// Lets the client connect, and reads its bytes.
fn connect(client: &mut Child, listener: &TcpListener) -> std::net::TcpStream {
    writeln!(client.stdin.as_mut().expect("a pipe"), "go").expect("it reads");
    let (mut server, _) = listener.accept().expect("a connection");
    server.set_read_timeout(Some(WAIT_TIMEOUT)).expect("a timeout");
    server.read_exact(&mut [0; 5]).expect("its bytes");
    server
}

fn end(mut client: Child) {
    drop(client.stdin.take());
    client.wait().expect("an end");
}

/// Bytes that the clients of `port` sent, with these labels.
fn sent(scrape: &Exposition, port: u16, labels: &[(&str, &str)]) -> u64 {
    let port = port.to_string();
    let mut all = vec![("rport", &*port), ("direction", "outbound")];
    all.extend(labels);
    scrape.sum(EGRESS, &all)
}

#[test]
fn a_process_in_a_containers_cgroup_shows_the_containers_id() {
    let Some(_machine) = require::root() else {
        return;
    };
    let id = container_id();
    let Some(cgroup) = Cgroup::new(&format!("docker-{id}.scope")) else {
        return;
    };
    let daemon = Daemon::start(&[BY_CONTAINER]);
    let (listener, port) = listener();
    let mut client = client(port);
    cgroup.take(&client);
    let _server = connect(&mut client, &listener);
    let pid = client.id().to_string();
    let labels = [("container_id", &*id), ("comm", "bash"), ("pid", &*pid)];
    let seen = daemon.scrape_until("the container", |scrape| sent(scrape, port, &labels) > 0);
    assert_eq!(sent(&seen, port, &labels), 5);
    end(client);
}

/// For each cgroup that it is given, in turn: creates it, also its parent if that is new; lets a
/// process in it connect to the port, send five bytes and end; removes it.
const SHORT_CONTAINERS: &str = "
import os, socket, sys
for path in sys.argv[2:]:
    parent = os.path.dirname(path)
    is_new = not os.path.exists(parent)
    os.makedirs(path)
    child = os.fork()
    if not child:
        with open(path + '/cgroup.procs', 'w') as processes:
            processes.write('0')
        socket.create_connection(('127.0.0.1', int(sys.argv[1]))).sendall(b'12345')
        os._exit(0)
    os.waitpid(child, 0)
    for directory in [path, parent] if is_new else [path]:
        while True:
            try:
                os.rmdir(directory)
                break
            except OSError:
                pass
";

#[test]
fn containers_that_are_gone_before_flowtap_gets_a_processor_all_have_their_ids() {
    const CONTAINERS: usize = 300;
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(parent) = Cgroup::new(&format!("flowtap-test-{}", fastrand::u32(..))) else {
        return;
    };
    let daemon = Daemon::start(&[BY_CONTAINER, "receivers.ebpf.ring_buffer_bytes=67108864"]);
    let (listener, port) = listener();
    let ids: Vec<_> = (0..CONTAINERS).map(|_| container_id()).collect();
    let paths = ids.iter().enumerate().map(|(number, id)| {
        // Some with a parent that is as new.
        let parent = if number % 2 == 0 {
            parent.path.join(format!("pod{number}"))
        } else {
            parent.path.clone()
        };
        parent.join(format!("docker-{id}.scope"))
    });
    let paths: Vec<_> = paths.collect();
    // As on a machine whose processors are all busy with others.
    daemon.while_paused(|| {
        let mut clients = Command::new("python3")
            .args(["-c", SHORT_CONTAINERS, &port.to_string()])
            .args(paths)
            .spawn()
            .expect("python3");
        for _ in 0..CONTAINERS {
            let (mut server, _) = listener.accept().expect("a connection");
            server.read_exact(&mut [0; 5]).expect("its bytes");
        }
        assert!(clients.wait().expect("an end").success());
    });
    let all = 5 * CONTAINERS as u64;
    let seen = daemon.scrape_until("each connection", |scrape| sent(scrape, port, &[]) == all);
    let without: Vec<_> = ids
        .iter()
        .filter(|id| sent(&seen, port, &[("container_id", id)]) != 5)
        .collect();
    assert!(without.is_empty(), "{}: {:#?}", without.len(), daemon.telemetry());
}

#[test]
fn a_container_id_does_not_stick_to_the_cgroup_that_a_process_has_left_for_it() {
    let Some(_machine) = require::root() else {
        return;
    };
    let id = container_id();
    let name = fastrand::u32(..);
    let (Some(service), Some(container)) = (
        Cgroup::new(&format!("flowtap-test-{name}.service")),
        Cgroup::new(&format!("cri-containerd-{id}.scope")),
    ) else {
        return;
    };
    let daemon = Daemon::start(&[BY_CONTAINER]);
    let (listener, port) = listener();
    // Connects as a process of the service, and is the container's when its record is made.
    let mut moved = client(port);
    service.take(&moved);
    let _first = connect(&mut moved, &listener);
    container.take(&moved);
    let mut stays = client(port);
    service.take(&stays);
    let _second = connect(&mut stays, &listener);
    let seen = daemon.scrape_until("both connections", |scrape| sent(scrape, port, &[]) == 10);
    assert_eq!(
        sent(&seen, port, &[("cgroup_id", &*service.id())]),
        10,
        "{seen:#?}"
    );
    assert_eq!(sent(&seen, port, &[("container_id", &*id)]), 0, "{seen:#?}");
    end(moved);
    end(stays);
}

#[test]
fn where_cgroup_v1_is_in_use_the_process_leads_to_its_container() {
    let Some(_machine) = require::root() else {
        return;
    };
    let id = container_id();
    // A process of the root of cgroup v2, as runtimes leave it there.
    let Some(cgroup) = mounted("cgroup").and_then(|root| Cgroup::create(root.join(&id))) else {
        require::skip("this test needs a cgroup v1 file system that can be written");
        return;
    };
    let daemon = Daemon::start(&[BY_CONTAINER]);
    let (listener, port) = listener();
    let mut client = client(port);
    cgroup.take(&client);
    let _server = connect(&mut client, &listener);
    daemon.scrape_until("the container", |scrape| {
        sent(scrape, port, &[("container_id", &*id)]) == 5
    });
    end(client);
}

/// Names itself as its second argument says, in hexadecimal digits, and sends five bytes to the port.
const NAMED_CLIENT: &str = "
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[2]) + b'\\0', 0, 0, 0)
client = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
client.sendall(b'12345')
";

#[test]
fn hostile_names_of_processes_reach_no_exporter_raw() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let daemon = launch_with(dir.path(), &[BY_CONTAINER]);
    let (listener, port) = listener();
    let names: [(&[u8], &str); 6] = [
        (b"\x01\x1b[31m", "\\x01\\x1b[31m"),
        (b"a\nb", "a\\x0ab"),
        (b"a\tb\rc", "a\\x09b\\x0dc"),
        (b"\xff\xfe\x80", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"a\x7f\xc2\x9b2J", "a\\x7f\\xc2\\x9b2J"),
        ("日本語日本".as_bytes(), "日本語日本"),
    ];
    for (name, _) in names {
        let digits = name.iter().map(|byte| format!("{byte:02x}"));
        let digits = digits.collect::<Vec<_>>().concat();
        let ended = Command::new("python3")
            .args(["-c", NAMED_CLIENT, &port.to_string(), &digits])
            .status()
            .unwrap();
        assert!(ended.success());
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
    }
    daemon.scrape_until("each name", |scrape| {
        // As Prometheus' text has a backslash.
        let exposed = names.map(|(_, shown)| shown.replace('\\', "\\\\"));
        exposed
            .iter()
            .all(|comm| sent(scrape, port, &[("comm", comm)]) == 5)
    });
    let exposed = crate::daemon::get(daemon.scrape_address(), "/metrics");
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    for (what, text) in [
        ("prometheus", &exposed),
        ("debug", &window.stdout),
        ("the log", &window.log),
    ] {
        let raw = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(raw, None, "{what}");
    }
    // Flow logs have the names of the metrics, so the two join.
    let records = records(dir.path());
    let connections = of_port(&records, port);
    let logged: Vec<_> = connections
        .values()
        .flatten()
        .filter_map(|record| record["comm"].as_str())
        .collect();
    for (_, shown) in names {
        assert!(logged.contains(&shown), "no {shown} in {logged:?}");
    }
}
