//! A network namespace of the test's own.

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

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

/// Runs `work` on a thread in a new network namespace whose loopback is up. Threads that `work`
/// starts are also in it; it ends with the last of them.
pub(crate) fn within_new<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
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
