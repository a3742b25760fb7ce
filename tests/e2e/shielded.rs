//! State changes and segments that no eBPF program was run for, on machines that shield their process 1.
//!
//! There are sandboxes whose kernel runs no tracing program while a thread of process 1 is current, be it only because an
//! interrupt came at that moment: a timer that ends a connect there ends it unseen, in no counter of misses either. The kernel's
//! own tracing (`Documentation/trace/events.rst`) shows such changes with the thread that was current. A test that waits for
//! timers, or has some hundred thousand changes, begins anew when there was one; anything else that is missing is still missing.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Events of the kernel's tracing.
const STATES: &str = "sock/inet_sock_set_state";
const SEGMENTS: &str = "tcp/tcp_probe";

/// An instance of the kernel's tracing.
pub(crate) struct Watch {
    mounted: tempfile::TempDir,
    instance: PathBuf,
}

impl Watch {
    /// Traces state changes of sockets whose remote port is one of `ports`; `None` where tracing can't be had.
    pub(crate) fn start(ports: &[u16]) -> Option<Self> {
        let filter: Vec<_> = ports.iter().map(|port| format!("dport=={port}")).collect();
        Self::with_filter(&filter.join("||"), &[STATES])
    }

    /// Traces state changes while a thread of process 1 is current, of sockets of which either port is between these.
    fn start_hidden(first: u16, last: u16) -> Option<Self> {
        let ports = format!("(sport>={first}&&sport<={last})||(dport>={first}&&dport<={last})");
        Self::with_filter(&format!("({ports})&&({})", in_process_1()?), &[STATES])
    }

    /// Traces state changes and received segments, of any socket, while a thread of process 1 is current: `inspect` follows both.
    pub(crate) fn start_hidden_segments() -> Option<Self> {
        Self::with_filter(&in_process_1()?, &[STATES, SEGMENTS])
    }

    fn with_filter(filter: &str, events: &[&str]) -> Option<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);

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
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("flowtap-test-{}-{number}", std::process::id());
        let watch = Self {
            instance: mounted.path().join("instances").join(name),
            mounted,
        };
        fs::create_dir(&watch.instance).ok()?;
        fs::write(watch.instance.join("options/record-tgid"), "1").ok()?;
        for event in events {
            let event = watch.instance.join("events").join(event);
            fs::write(event.join("filter"), filter)
                .and_then(|()| fs::write(event.join("enable"), "1"))
                .ok()?;
        }
        Some(watch)
    }

    /// Number of events while a thread of process 1 was current, of a watch for these alone.
    pub(crate) fn hidden(&self) -> usize {
        self.lines().filter(|line| is_of_process_1(line)).count()
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let trace = fs::read_to_string(self.instance.join("trace")).expect("a trace");
        let lines: Vec<_> = trace.lines().map(str::to_owned).collect();
        lines.into_iter().filter(|line| !line.starts_with('#'))
    }

    /// Number of changes, and of those while a thread of process 1 was current.
    pub(crate) fn changes(&self) -> (usize, usize) {
        (self.lines().count(), self.hidden())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.instance);
        let _ = umount2(self.mounted.path(), MntFlags::MNT_DETACH);
    }
}

/// A filter for events while a thread of process 1 is current, and few others: by the names of its threads too, as it starts new ones.
fn in_process_1() -> Option<String> {
    let mut conditions = BTreeSet::new();
    for thread in fs::read_dir("/proc/1/task").ok()?.flatten() {
        conditions.insert(format!("common_pid=={}", thread.file_name().to_string_lossy()));
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if !name.is_empty() && !name.contains(['"', '\\']) {
            conditions.insert(format!("COMM==\"{}\"", name.trim_end()));
        }
    }
    Some(Vec::from_iter(conditions).join("||"))
}

/// Runs `test`, which makes connections of ports between these; once more, at most twice, if it fails after a change of theirs was
/// hidden.
pub(crate) fn again_if_hidden(first: u16, last: u16, test: impl Fn()) {
    again_if(|| Watch::start_hidden(first, last), test);
}

/// The same of a test of `inspect`, with any segment on the machine that was hidden.
pub(crate) fn again_if_segments_hidden(test: impl Fn()) {
    again_if(Watch::start_hidden_segments, test);
}

fn again_if(start: impl Fn() -> Option<Watch>, test: impl Fn()) {
    for attempts_left in (0..3).rev() {
        let watch = start();
        let Err(failure) = panic::catch_unwind(AssertUnwindSafe(&test)) else {
            return;
        };
        let hidden = watch.map_or(0, |watch| watch.hidden());
        if hidden == 0 || attempts_left == 0 {
            panic::resume_unwind(failure);
        }
        eprintln!("once more: {hidden} events were hidden from eBPF programs");
    }
}

/// Of a line `   name-of-thread-75   (      1) [000] ..s1. 41790.243663: inet_sock_set_state: …`, with the process in brackets, or
/// `(-------)` if the kernel has not noted it.
fn is_of_process_1(line: &str) -> bool {
    let ids = line.split_once(") [").and_then(|(ids, _)| ids.rsplit_once('('));
    let Some((task, process)) = ids else {
        return false;
    };
    if let Ok(process) = process.trim().parse::<u32>() {
        return process == 1;
    }
    let thread = task
        .trim()
        .rsplit_once('-')
        .and_then(|(_, thread)| thread.parse::<u32>().ok());
    // The idle task is not a thread of any process.
    thread.is_some_and(|thread| thread > 0 && Path::new(&format!("/proc/1/task/{thread}")).exists())
}

#[test]
fn a_line_of_a_thread_of_process_1_is_distinguished_from_others() {
    let line = |task: &str, process: &str| {
        format!("          {task}   ({process:>7}) [001] ..s1. 41790.243663: inet_sock_set_state: dport=7002")
    };
    assert!(is_of_process_1(&line("systemd-1", "1")));
    assert!(is_of_process_1(&line("a worker (2)-4711", "1")));
    assert!(is_of_process_1(&line("systemd-1", "-------")));
    assert!(!is_of_process_1(&line("<idle>-0", "-------")));
    let own = std::process::id();
    assert!(!is_of_process_1(&line(&format!("e2e-{own}"), &own.to_string())));
    assert!(!is_of_process_1(&line(&format!("e2e-{own}"), "-------")));
    assert!(!is_of_process_1("# tracer: nop"));
}
