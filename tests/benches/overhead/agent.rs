//! The daemon under measurement.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::kernel;

/// A `flowtap run` with the default config but for ports. Stopped when dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
}

/// What it has used since its start.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub(crate) at: Instant,
    /// User and system time of all its threads. The iterators' walk through the sockets is part of it.
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_kib: u64,
    /// Run time of its programs, wherever they ran.
    pub(crate) programs_ns: u64,
}

impl Agent {
    /// Starts it and waits until it measures.
    pub(crate) fn start(set: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_flowtap"))
            .args(["run", "--strict", "--set", set])
            .args(["--set", "exporters.prometheus.endpoint=127.0.0.1:0"])
            .args(["--set", "service.admin.endpoint=127.0.0.1:0"])
            .args(["--set", "service.telemetry.metrics.endpoint=127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("flowtap starts");
        let log = BufReader::new(child.stderr.take().expect("stderr"));
        let mut lines = log.lines().map_while(Result::ok);
        assert!(
            lines.any(|line| line.contains("measuring")),
            "flowtap does not measure"
        );
        // It must not block on its log.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child }
    }

    pub(crate) fn usage(&self) -> Usage {
        let pid = self.child.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its /proc");
        // Behind the name, which may hold anything: proc_pid_stat(5), fields 14, 15 and 24.
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let field = |number: usize| fields[number - 3].parse::<u64>().expect("a number");
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
        Usage {
            at: Instant::now(),
            cpu_seconds: (field(14) + field(15)) as f64 / ticks as f64,
            rss_kib: field(24) * page as u64 / 1024,
            programs_ns: kernel::programs()
                .values()
                .map(|program| program.run_time_ns)
                .sum(),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
