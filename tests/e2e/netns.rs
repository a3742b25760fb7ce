//! A network namespace of the test's own.
//!
//! Namespaces are distinguished by their inode numbers, and the kernel gives the number of one that
//! has gone to the next one, which may be another test's with the same ports. So each namespace is
//! kept until this process ends, and those for a daemon's test exist before that daemon.

use std::fs::File;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// Namespaces that nobody has used yet.
static SPARE: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Namespaces that were used, kept for their numbers.
static USED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// More than one test uses after it has started a daemon.
const SPARES: usize = 4;

/// For a daemon whose counts of connections are distinguished by namespace: other programs on the
/// machine also have connections.
pub(crate) const BY_NETNS: &str =
    "processors.window.families.network_tcp_connections.labels=[flow, event, type, netns]";

/// For a daemon whose bytes are distinguished likewise: another namespace may have the same port.
pub(crate) const FLOWS_BY_NETNS: [&str; 2] = [
    "processors.window.families.network_tcp_flow_egress.labels=[raddr, rport, direction, type, netns]",
    "processors.window.families.network_tcp_flow_ingress.labels=[lport, raddr, direction, type, netns]",
];

/// The label `netns` of this thread's namespace.
pub(crate) fn label() -> String {
    let namespace = std::fs::metadata("/proc/thread-self/ns/net").expect("a namespace");
    std::os::unix::fs::MetadataExt::ino(&namespace).to_string()
}

/// Settings with which a daemon drops the flows of other namespaces than that of this thread. Its exports are then of this test, and
/// its work does not grow with that of other tests and programs.
pub(crate) fn own_flows() -> [String; 2] {
    let own = label();
    [
        format!("processors.filter={{include: [{{netns: [{own}]}}]}}"),
        "service.pipelines.metrics.processors=[direction, policy, filter, window]".to_owned(),
    ]
}

/// A new namespace; `None` without the privilege.
fn create() -> Option<File> {
    let creator = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        File::open("/proc/thread-self/ns/net").ok()
    });
    creator.join().expect("no panic")
}

/// Creates namespaces for [`within_new`]. Called before a daemon starts, so that it has seen nobody else's of their numbers.
pub(crate) fn reserve() {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    while spare.len() < SPARES
        && let Some(namespace) = create()
    {
        spare.push(namespace);
    }
}

/// Runs `work` on a thread in a network namespace that nobody has used, whose loopback is up.
/// Threads that `work` starts are also in it.
pub(crate) fn within_new<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let namespace = spare.or_else(create).expect("a new network namespace");
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("in the namespace");
            USED.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(namespace);
            let up = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .expect("ip");
            assert!(up.success(), "ip link set lo up: {up}");
            work()
        });
        inside.join().expect("the work panicked")
    })
}

/// A namespace with a name of its own in the test, and the test's work in it.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, whose loopback is up.
    pub(crate) fn new() -> Self {
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let file = spare.or_else(create).expect("a new network namespace");
        let kept = file.try_clone().expect("a descriptor");
        USED.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        let namespace = Self { file };
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Its name for `ip link set netns`.
    pub(crate) fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            std::os::fd::AsRawFd::as_raw_fd(&self.file)
        )
    }

    /// Runs `work` on a thread in it.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("in the namespace");
                work()
            });
            inside.join().expect("the work panicked")
        })
    }

    /// Runs a command in it; returns its output.
    pub(crate) fn sh(&self, command: &str) -> String {
        self.run(|| crate::links::run(command))
    }

    /// The label `netns` of its sockets.
    pub(crate) fn label(&self) -> String {
        self.run(label)
    }
}

#[test]
fn no_two_namespaces_of_a_run_have_one_number() {
    let Some(_machine) = crate::require::root() else {
        return;
    };
    let labels: Vec<_> = (0..100).map(|_| within_new(label)).collect();
    let unique: std::collections::HashSet<_> = labels.iter().collect();
    assert_eq!(unique.len(), labels.len(), "{labels:?}");
}
