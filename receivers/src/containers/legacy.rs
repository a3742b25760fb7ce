//! Containers on hosts whose processes are in cgroup v1 hierarchies: there each process is in the root of cgroup v2, or in
//! none, and only its process id leads to its cgroup.
//!
//! The id belongs to another process once the first has ended and ids have come around. So the process must have started before
//! the connection opened. Nothing is remembered for longer than [`FRESH`], as a process may be moved. In a proc file system of
//! another pid namespace than the initial one ids would mean other processes; it is not read.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_pipeline::Flow;

use super::runtime_paths::container_of;
use super::table::Container;
use super::telemetry::Unresolved;
use crate::listen_scan::process_dir;

/// For how long what was read holds.
const FRESH: Duration = Duration::from_secs(1);

/// Processes that are read in that time.
const MAX_PROCESSES: usize = 1024;

/// Of `/proc/<pid>/stat`; `USER_HZ`, which is 100 on every architecture that flowtap runs on.
const TICK: Duration = Duration::from_millis(10);

/// A process, as it was when it was read.
#[derive(Clone, Debug)]
struct Process {
    /// Since boot.
    started: Duration,
    container: Container,
}

/// Reads processes.
#[derive(Debug)]
pub(super) struct Legacy {
    proc_root: PathBuf,
    /// `None` for one that has ended.
    processes: HashMap<u32, Option<Process>>,
    read_at: Instant,
    uptime: Duration,
}

impl Legacy {
    /// `None` if the host has no cgroup v1 hierarchy, or its processes can't be read at `proc_root`.
    pub(super) fn open(proc_root: &Path) -> Option<Self> {
        let own = fs::read_to_string(process_dir(proc_root).join("cgroup")).ok()?;
        let has_v1 = own.lines().any(|line| !line.starts_with("0::"));
        // The kernel's first thread has this id in the initial pid namespace, and no other.
        let kthreadd = fs::read_to_string(proc_root.join("2/comm")).ok()?;
        (has_v1 && kthreadd == "kthreadd\n").then_some(())?;
        Some(Self {
            processes: HashMap::new(),
            read_at: Instant::now(),
            uptime: uptime(proc_root)?,
            proc_root: proc_root.to_owned(),
        })
    }

    /// Returns the container of the flow's process, whose socket has existed for `open_for` at least.
    pub(super) fn id_of(&mut self, flow: &Flow, open_for: Duration) -> Result<Option<Arc<str>>, Unresolved> {
        let mut age = self.read_at.elapsed();
        if age > FRESH {
            self.processes.clear();
            self.uptime = uptime(&self.proc_root).ok_or(Unresolved::NoProcess)?;
            self.read_at = Instant::now();
            age = Duration::ZERO;
        }
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&flow.pid) {
            return Err(Unresolved::Limited);
        }
        let proc_root = &self.proc_root;
        let process = self
            .processes
            .entry(flow.pid)
            .or_insert_with(|| read(proc_root, flow.pid));
        let process = process.as_ref().ok_or(Unresolved::NoProcess)?;
        let opened = (self.uptime + age).saturating_sub(open_for);
        if process.started > opened + TICK {
            return Err(Unresolved::NoProcess);
        }
        Ok(process.container.clone())
    }
}

fn read(proc_root: &Path, pid: u32) -> Option<Process> {
    let folder = proc_root.join(pid.to_string());
    let cgroups = fs::read_to_string(folder.join("cgroup")).ok()?;
    let started = start_of(&fs::read_to_string(folder.join("stat")).ok()?)?;
    Some(Process {
        started,
        container: container_in(&cgroups),
    })
}

/// The container in the first hierarchy that has one; not every runtime uses every controller (cgroups(7)).
fn container_in(cgroups: &str) -> Container {
    let mut paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.find_map(|path| container_of(path).map(|id| Arc::from(&*id)))
}

/// Field 22 of `stat`, counted from after the name, which may hold anything (`proc_pid_stat(5)`).
fn start_of(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u32 = rest.split_whitespace().nth(19)?.parse().ok()?;
    Some(TICK * ticks)
}

fn uptime(proc_root: &Path) -> Option<Duration> {
    let text = fs::read_to_string(proc_root.join("uptime")).ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowtap_pipeline::Endpoint;

    const ID: &str = "4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f0a1b";

    /// A host that has been up for 1,000 s.
    fn host(cgroup: &str) -> tempfile::TempDir {
        let proc_root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = proc_root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("uptime", "1000.00 1900.00\n");
        write("1/cgroup", cgroup);
        write("2/comm", "kthreadd\n");
        proc_root
    }

    fn process(proc_root: &Path, pid: u32, started: u32, cgroup: &str) {
        let folder = proc_root.join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        let stat = format!("{pid} (a) b) S 1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 {started}00 1 1");
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("cgroup"), cgroup).unwrap();
    }

    fn of(pid: u32) -> Flow {
        let end = Endpoint::new([127, 0, 0, 1].into(), 1);
        Flow {
            pid,
            ..Flow::new(end, end)
        }
    }

    #[test]
    fn the_first_hierarchy_with_a_container_has_it() {
        let v1 = format!("9:name=systemd:/docker/{ID}\n8:pids:/\n0::/\n");
        assert_eq!(container_in(&v1).as_deref(), Some(ID));
        let only_memory = format!("8:pids:/a:b\n4:memory,cpu:/kubepods/besteffort/podx/{ID}\n0::/\n");
        assert_eq!(container_in(&only_memory).as_deref(), Some(ID));
        assert_eq!(container_in("8:pids:/user.slice\n0::/\n"), None);
    }

    #[test]
    fn a_process_that_started_after_the_connection_opened_is_another_one() {
        let host = host("8:pids:/\n0::/\n");
        process(host.path(), 7, 900, &format!("8:pids:/docker/{ID}\n0::/\n"));
        let mut legacy = Legacy::open(host.path()).unwrap();
        let container = |legacy: &mut Legacy, pid, age| legacy.id_of(&of(pid), Duration::from_secs(age));
        assert_eq!(container(&mut legacy, 7, 99), Ok(Some(ID.into())));
        assert_eq!(container(&mut legacy, 7, 101), Err(Unresolved::NoProcess));
        assert_eq!(container(&mut legacy, 8, 0), Err(Unresolved::NoProcess));
    }

    #[test]
    fn reads_are_bounded() {
        let host = host("8:pids:/\n0::/\n");
        let mut legacy = Legacy::open(host.path()).unwrap();
        let many = u32::try_from(MAX_PROCESSES).unwrap();
        for pid in 10..10 + many {
            assert_eq!(legacy.id_of(&of(pid), FRESH), Err(Unresolved::NoProcess));
        }
        assert_eq!(legacy.id_of(&of(5), FRESH), Err(Unresolved::Limited));
    }

    #[test]
    fn unified_hosts_and_other_pid_namespaces_are_left_alone() {
        assert!(Legacy::open(host("0::/init.scope\n").path()).is_none());
        let other = host("8:pids:/\n0::/\n");
        fs::write(other.path().join("2/comm"), "bash\n").unwrap();
        assert!(Legacy::open(other.path()).is_none());
        assert!(Legacy::open(Path::new("/nowhere")).is_none());
    }
}
