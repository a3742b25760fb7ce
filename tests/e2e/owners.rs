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

    fn below(&self, name: &str) -> Self {
        Self::create(self.path.join(name)).expect("a cgroup")
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

#[test]
fn twenty_containers_have_their_ids_although_their_cgroups_are_gone_when_their_records_are_made() {
    const CONTAINERS: usize = 20;
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(parent) = Cgroup::new(&format!("flowtap-test-{}", fastrand::u32(..))) else {
        return;
    };
    // Longer than all of it takes: nothing is read before the last cgroup is gone, unless the machine is very busy.
    let daemon = Daemon::start(&[BY_CONTAINER, "receivers.ebpf.interval=5s"]);
    let (listener, port) = listener();
    let ids: Vec<_> = (0..CONTAINERS).map(|_| container_id()).collect();
    for (number, id) in ids.iter().enumerate() {
        // Some with a parent that is as new.
        let pod = (number % 2 == 0).then(|| parent.below(&format!("pod{number}")));
        let cgroup = pod
            .as_ref()
            .unwrap_or(&parent)
            .below(&format!("docker-{id}.scope"));
        let mut client = client(port);
        cgroup.take(&client);
        drop(connect(&mut client, &listener));
        // A moment after its creation; most often long before this.
        await_watches(&daemon, "the cgroup is not watched", &|watched| {
            watched.contains(&cgroup.id())
        });
        end(client);
    }
    let all = 5 * CONTAINERS as u64;
    let seen = daemon.scrape_until("each connection", |scrape| sent(scrape, port, &[]) == all);
    let without: Vec<_> = ids
        .iter()
        .filter(|id| sent(&seen, port, &[("container_id", id)]) != 5)
        .collect();
    assert!(without.is_empty(), "{without:?}: {:#?}", daemon.telemetry());
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

/// Ids of the cgroups that the daemon watches: inodes in the descriptors of its inotify instances (`proc_pid_fdinfo(5)`).
fn watched(daemon: &Daemon) -> Vec<String> {
    let infos = fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid())).expect("descriptors");
    // Descriptors come and go with connections.
    let texts = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
    let inodes = texts.flat_map(|text| {
        let words = text.split_whitespace();
        let digits = words.filter_map(|word| word.strip_prefix("ino:"));
        digits
            .map(|digits| u64::from_str_radix(digits, 16))
            .collect::<Vec<_>>()
    });
    inodes.filter_map(|inode| Some(inode.ok()?.to_string())).collect()
}

fn await_watches(daemon: &Daemon, what: &str, fits: &dyn Fn(&[String]) -> bool) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !fits(&watched(daemon)) {
        assert!(Instant::now() < deadline, "{what}: {:?}", watched(daemon));
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn watches_come_and_go_with_the_cgroups_and_do_not_pile_up() {
    const CGROUPS: usize = 50;
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(parent) = Cgroup::new(&format!("flowtap-test-{}", fastrand::u32(..))) else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let cgroups: Vec<_> = (0..CGROUPS)
        .map(|number| parent.below(&number.to_string()))
        .collect();
    let ids: Vec<_> = cgroups.iter().map(Cgroup::id).collect();
    let each_is = |expected: bool| {
        let ids = &ids;
        move |watched: &[String]| ids.iter().all(|id| watched.contains(id) == expected)
    };
    await_watches(&daemon, "a cgroup is not watched", &each_is(true));
    drop(cgroups);
    await_watches(&daemon, "watches are left", &each_is(false));
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
    let daemon = Daemon::start(&[BY_CONTAINER]);
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
}
