//! State changes that no eBPF program was run for, on machines that shield their process 1.
//!
//! There are sandboxes whose kernel runs no tracing program while a thread of process 1 is current, be it only because an
//! interrupt came at that moment: a timer that ends a connect there ends it unseen, in no counter of misses either. The kernel's
//! own tracing (`Documentation/trace/events.rst`) shows such changes with the thread that was current. A test that waits for
//! timers begins anew when there was one; anything else that is missing is still missing.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// An instance of the kernel's tracing.
pub(crate) struct Watch {
    mounted: tempfile::TempDir,
    instance: PathBuf,
}

impl Watch {
    /// Traces state changes of sockets whose remote port is one of `ports`; `None` where tracing can't be had.
    pub(crate) fn start(ports: &[u16]) -> Option<Self> {
        let mounted = tempfile::tempdir().expect("a folder");
        let none = None::<&str>;
        mount(
            Some("none"),
            mounted.path(),
            Some("tracefs"),
            MsFlags::empty(),
            none,
        )
        .ok()?;
        let name = format!("flowtap-test-{}", std::process::id());
        let watch = Self {
            instance: mounted.path().join("instances").join(name),
            mounted,
        };
        let filter: Vec<_> = ports.iter().map(|port| format!("dport=={port}")).collect();
        let event = watch.instance.join("events/sock/inet_sock_set_state");
        let traces = fs::create_dir(&watch.instance)
            .and_then(|()| fs::write(event.join("filter"), filter.join("||")))
            .and_then(|()| fs::write(event.join("enable"), "1"));
        traces.is_ok().then_some(watch)
    }

    /// Number of changes, and of those while a thread of process 1 was current.
    pub(crate) fn changes(&self) -> (usize, usize) {
        let trace = fs::read_to_string(self.instance.join("trace")).expect("a trace");
        let changes = || trace.lines().filter(|line| line.contains("inet_sock_set_state"));
        (
            changes().count(),
            changes().filter(|line| is_of_process_1(line)).count(),
        )
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.instance);
        let _ = umount2(self.mounted.path(), MntFlags::MNT_DETACH);
    }
}

/// Of a line `   name-of-thread-75      [000] ..s1. 41790.243663: inet_sock_set_state: …`.
fn is_of_process_1(line: &str) -> bool {
    let thread = line
        .split_once(" [")
        .and_then(|(task, _)| task.trim().rsplit_once('-'));
    let thread = thread.and_then(|(_, thread)| thread.parse::<u32>().ok());
    // The idle task is not a thread of any process.
    thread.is_some_and(|thread| thread > 0 && Path::new(&format!("/proc/1/task/{thread}")).exists())
}

#[test]
fn a_line_of_a_thread_of_process_1_is_distinguished_from_others() {
    let line = |task: &str| {
        format!("          {task}     [001] ..s1. 41790.243663: inet_sock_set_state: dport=7002")
    };
    assert!(is_of_process_1(&line("systemd-1")));
    assert!(!is_of_process_1(&line("<idle>-0")));
    assert!(!is_of_process_1(&line(&format!("e2e-{}", std::process::id()))));
    assert!(!is_of_process_1("# tracer: nop"));
}
