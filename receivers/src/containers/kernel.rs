//! Cgroups as they come and go, by programs at the kernel's tracepoints.
//!
//! In: records of creations, with the path, and of removals. Out: the table of the tree. A record
//! is in the ring before a process can be in the cgroup, so a reader that meets an unknown id reads
//! the ring first and finds it there, however short the cgroup lived and however late the look is.
//! Paths begin at the root of the hierarchy, also of cgroups that are outside of what is mounted
//! here.
//!
//! Where the ring had no room, what exists is learned by a walk, at most once per second.

use std::io;
use std::time::{Duration, Instant};

use flowtap_ebpf::{CgroupEvent, Cgroups, RingWatch};

use super::runtime_paths::container_of;
use super::telemetry::Gap;
use super::tree::Tree;

/// The shortest time between two walks for unknown ids. A walk takes some 10 µs per cgroup.
pub(super) const WALK_INTERVAL: Duration = Duration::from_secs(1);

/// The programs, and what is known of their losses.
#[derive(Debug)]
pub(super) struct Kernel {
    programs: Cgroups,
    /// Records lost that a walk has made up for.
    lost: u64,
    last_walk: Option<Instant>,
    is_broken: bool,
}

impl Kernel {
    /// Learns the cgroups that exist; `programs` see those that come from now on.
    pub(super) fn start(programs: Cgroups, tree: &Tree) -> Self {
        tree.walk(0);
        Self {
            programs,
            lost: 0,
            last_walk: None,
            is_broken: false,
        }
    }

    pub(super) fn events(&self) -> io::Result<RingWatch> {
        self.programs.watch()
    }

    /// Learns what has happened since the last call.
    pub(super) fn catch_up(&mut self, tree: &Tree) {
        let drained = self.programs.drain(|event| match event {
            CgroupEvent::Created { id, path } => {
                // As in a walk: a name that is not UTF-8 is not a container runtime's.
                let path = String::from_utf8_lossy(path);
                tree.insert(id, container_of(&path).as_deref().map(Into::into));
            }
            CgroupEvent::Removed { id } => tree.remove(id),
        });
        if let Err(error) = drained
            && !std::mem::replace(&mut self.is_broken, true)
        {
            tracing::error!(%error, "records of cgroups can't be read: those created from now on are found by walks; \
                hint: restart flowtap; report this if it comes again");
        }
        self.make_up(tree);
    }

    /// Learns what exists once records were lost.
    fn make_up(&mut self, tree: &Tree) {
        let lost = match self.programs.lost() {
            Ok(lost) if lost > self.lost => lost,
            _ => return,
        };
        if self.last_walk.is_some_and(|last| last.elapsed() < WALK_INTERVAL) {
            return;
        }
        tree.telemetry.gaps(Gap::RingFull, lost - self.lost);
        self.lost = lost;
        self.last_walk = Some(Instant::now());
        tree.renew();
    }
}
