//! The container of a connection, from the id of its cgroup.
//!
//! In: records with a cgroup v2 id. Out: the id of the container, as [`runtime_paths`] recognises it in the cgroup's path. The rules:
//!
//! 1. A cgroup's id is the inode number of its directory, so it is resolved by the directories themselves and by no process: a
//!    process may be gone, be in another cgroup by now, or have the id of one that is gone.
//! 2. Cgroups are learned as they are created ([`kernel`]), so that those of one short command are
//!    known when its connections are reported. Where the kernel refuses the programs for that,
//!    directories are watched ([`watch`]). Where that is also refused, or a bound was reached, the
//!    tree is walked when an unknown id is met.
//! 3. A process in the root of the hierarchy is in no container, unless the host has cgroup v1 hierarchies: then its process
//!    is asked ([`legacy`]).
//!
//! A record without an answer is counted (`receiver_unresolved_cgroups`).
//!
//! | module | contents |
//! |---|---|
//! | [`mount`] | where the hierarchy is mounted |
//! | [`runtime_paths`] | which paths are containers |
//! | [`tree`], [`table`] | the cgroups there are, by id |
//! | [`kernel`], [`watch`] | cgroups as they come and go: by programs, or by inotify |
//! | [`legacy`] | cgroup v1 |

mod kernel;
mod legacy;
pub mod mount;
pub mod runtime_paths;
mod table;
mod telemetry;
mod tree;
mod watch;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_ebpf::{Cgroups, RingWatch};
use flowtap_pipeline::{BuildContext, Flow};

use self::kernel::{Kernel, WALK_INTERVAL};
use self::legacy::Legacy;
use self::mount::{Hierarchy, ROOT_ID};
use self::table::Container;
use self::telemetry::{Telemetry, Unresolved};
use self::tree::Tree;
use self::watch::Watch;

/// Answers that are kept without a lock; then all are asked for again.
const MAX_RECENT: usize = 16_384;

/// Resolves cgroups to containers. Use [`Containers::id_of`] on one thread.
#[derive(Debug)]
pub struct Containers {
    telemetry: Arc<Telemetry>,
    recent: HashMap<u64, Container>,
    tree: Option<Arc<Tree>>,
    last_walk: Option<Instant>,
    legacy: Option<Box<Legacy>>,
    kernel: Option<Box<Kernel>>,
    /// Last, so that it ends after nothing asks any longer.
    _watch: Option<Box<Watch>>,
}

impl Containers {
    /// Learns the cgroups that exist, and follows them from now on. `proc_root` is `/proc`, or where the host's is mounted.
    pub fn new(context: &BuildContext, proc_root: &Path) -> Self {
        let telemetry = Arc::new(Telemetry::new(&context.meter, &context.id));
        let programs = match Cgroups::load() {
            Ok(programs) => Some(programs),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cgroups are watched by inotify: where all processors are busy, a container that lives for some milliseconds may \
                     have no container_id\n  \
                     hint: run `flowtap doctor`, which shows what the programs at cgroup_mkdir and cgroup_rmdir need"
                );
                None
            }
        };
        Self::over(
            Hierarchy::find(proc_root),
            Legacy::open(proc_root),
            programs,
            telemetry,
        )
    }

    fn over(
        hierarchy: Option<Hierarchy>,
        legacy: Option<Legacy>,
        programs: Option<Cgroups>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let tree = hierarchy.map(|hierarchy| {
            if !hierarchy.is_whole() {
                tracing::warn!(
                    mount = %hierarchy.root.display(),
                    "only a part of the cgroup hierarchy is visible: connections of other cgroups that exist already have no \
                     container_id\n  \
                     hint: mount the host's /sys/fs/cgroup into this container, read-only"
                );
            }
            Arc::new(Tree::new(hierarchy, Arc::clone(&telemetry)))
        });
        // The programs are attached: cgroups that are created during the walk are also in their
        // ring.
        let kernel = tree
            .as_ref()
            .zip(programs)
            .map(|(tree, programs)| Box::new(Kernel::start(programs, tree)));
        let watch = if kernel.is_some() {
            None
        } else {
            tree.as_ref().and_then(start_watch)
        };
        Self {
            telemetry,
            recent: HashMap::new(),
            tree,
            last_walk: None,
            legacy: legacy.map(Box::new),
            kernel,
            _watch: watch,
        }
    }

    /// Waits for the moment when [`Containers::catch_up`] is due; `None` if it never is. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn events(&self) -> io::Result<Option<RingWatch>> {
        self.kernel.as_ref().map(|kernel| kernel.events()).transpose()
    }

    /// Learns the cgroups that were created since the last time.
    pub fn catch_up(&mut self) {
        if let (Some(kernel), Some(tree)) = (&mut self.kernel, &self.tree) {
            kernel.catch_up(tree);
        }
    }

    /// Returns the id of the container that the flow's socket belongs to; `None` if it belongs to none, or if that can't be
    /// known, which is counted. The socket has existed for `age` at least.
    pub fn id_of(&mut self, flow: &Flow, age: Duration) -> Option<Arc<str>> {
        match flow.cgroup_id {
            0 => None,
            ROOT_ID => self.ask_process(flow, age),
            id => {
                if let Some(container) = self.recent.get(&id) {
                    return container.clone();
                }
                self.resolve(id)
            }
        }
    }

    fn ask_process(&mut self, flow: &Flow, age: Duration) -> Option<Arc<str>> {
        // No process: a kernel's own socket, or one whose process is not known yet.
        let legacy = self.legacy.as_mut().filter(|_| flow.pid != 0)?;
        let container = legacy.id_of(flow, age);
        container.unwrap_or_else(|reason| {
            self.telemetry.unresolved(reason);
            None
        })
    }

    #[cold]
    fn resolve(&mut self, id: u64) -> Option<Arc<str>> {
        self.catch_up();
        let Some(tree) = &self.tree else {
            self.telemetry.unresolved(Unresolved::Gone);
            return None;
        };
        let container = match tree.get(id) {
            Some(container) => Ok(container),
            // Not seen coming: created before flowtap where it is out of sight, lost by a full ring, or what a watch may miss.
            None if self.last_walk.is_none_or(|last| last.elapsed() >= WALK_INTERVAL) => {
                let found = tree.walk(id).ok_or(Unresolved::Gone);
                self.last_walk = Some(Instant::now());
                found
            }
            None => Err(Unresolved::Limited),
        };
        match container {
            Ok(container) => {
                // Ids are not used again, so what is kept stays true; this only bounds it.
                if self.recent.len() >= MAX_RECENT {
                    self.recent.clear();
                }
                self.recent.insert(id, container.clone());
                container
            }
            Err(reason) => {
                self.telemetry.unresolved(reason);
                None
            }
        }
    }
}

fn start_watch(tree: &Arc<Tree>) -> Option<Box<Watch>> {
    match Watch::start(tree) {
        Ok(watch) => Some(Box::new(watch)),
        Err(error) => {
            tracing::warn!(
                %error,
                "cgroups can't be watched: connections of short containers have no container_id\n  \
                 hint: raise fs.inotify.max_user_instances and fs.inotify.max_user_watches, with `sysctl -w`"
            );
            None
        }
    }
}

/// Waits for `events`, or for ever where there are none.
///
/// # Errors
/// If the runtime is shutting down.
pub async fn filled(events: Option<&RingWatch>) -> io::Result<()> {
    match events {
        Some(events) => events.filled().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
