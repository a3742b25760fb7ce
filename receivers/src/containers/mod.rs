//! The container of a connection, from the id of its cgroup.
//!
//! In: records with a cgroup v2 id. Out: the id of the container, as [`runtime_paths`] recognises it in the cgroup's path. The rules:
//!
//! 1. A cgroup's id is the inode number of its directory, so it is resolved by the directories themselves and by no process: a
//!    process may be gone, be in another cgroup by now, or have the id of one that is gone.
//! 2. Cgroups are learned as they appear ([`watch`]), so that those of one short command are known when its connections are
//!    reported. Where that is refused, or a bound was reached, the tree is walked when an unknown id is met.
//! 3. A process in the root of the hierarchy is in no container, unless the host has cgroup v1 hierarchies: then its process
//!    is asked ([`legacy`]).
//!
//! A record without an answer is counted (`receiver_unresolved_cgroups`).
//!
//! | module | contents |
//! |---|---|
//! | [`mount`] | where the hierarchy is mounted |
//! | [`runtime_paths`] | which paths are containers |
//! | [`tree`], [`watch`], [`table`] | the cgroups there are, by id |
//! | [`legacy`] | cgroup v1 |

mod legacy;
pub mod mount;
pub mod runtime_paths;
mod table;
mod telemetry;
mod tree;
mod watch;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_pipeline::{BuildContext, FlowRecord};

use self::legacy::Legacy;
use self::mount::{Hierarchy, ROOT_ID};
use self::table::Container;
use self::telemetry::{Telemetry, Unresolved};
use self::tree::Tree;
use self::watch::Watch;

/// Answers that are kept without a lock; then all are asked for again.
const MAX_RECENT: usize = 16_384;

/// The shortest time between two walks for unknown ids. A walk takes some 10 µs per cgroup.
const WALK_INTERVAL: Duration = Duration::from_secs(1);

/// Resolves cgroups to containers. Use [`Containers::id_of`] on one thread.
#[derive(Debug)]
pub struct Containers {
    telemetry: Arc<Telemetry>,
    recent: HashMap<u64, Container>,
    tree: Option<Arc<Tree>>,
    last_walk: Option<Instant>,
    legacy: Option<Box<Legacy>>,
    /// Last, so that it ends after nothing asks any longer.
    _watch: Option<Box<Watch>>,
}

impl Containers {
    /// Learns the cgroups that exist, and follows them from now on. `proc_root` is `/proc`, or where the host's is mounted.
    pub fn new(context: &BuildContext, proc_root: &Path) -> Self {
        let telemetry = Arc::new(Telemetry::new(&context.meter, &context.id));
        Self::over(Hierarchy::find(proc_root), Legacy::open(proc_root), telemetry)
    }

    fn over(hierarchy: Option<Hierarchy>, legacy: Option<Legacy>, telemetry: Arc<Telemetry>) -> Self {
        let tree = hierarchy.map(|hierarchy| {
            if !hierarchy.is_whole() {
                tracing::warn!(
                    mount = %hierarchy.root.display(),
                    "only a part of the cgroup hierarchy is visible: connections of other cgroups have no container_id\n  \
                     hint: mount the host's /sys/fs/cgroup into this container, read-only"
                );
            }
            Arc::new(Tree::new(hierarchy, Arc::clone(&telemetry)))
        });
        let watch = tree.as_ref().and_then(|tree| match Watch::start(tree) {
            Ok(watch) => Some(Box::new(watch)),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cgroups can't be watched: connections of short containers have no container_id\n  \
                     hint: fs.inotify.max_user_instances and fs.inotify.max_user_watches are the limits"
                );
                None
            }
        });
        Self {
            telemetry,
            recent: HashMap::new(),
            tree,
            last_walk: None,
            legacy: legacy.map(Box::new),
            _watch: watch,
        }
    }

    /// Returns the id of the container that the record's socket belongs to; `None` if it belongs to none, or if that can't be
    /// known, which is counted.
    pub fn id_of(&mut self, record: &FlowRecord) -> Option<Arc<str>> {
        match record.cgroup_id {
            0 => None,
            ROOT_ID => self.ask_process(record),
            id => {
                if let Some(container) = self.recent.get(&id) {
                    return container.clone();
                }
                self.resolve(id)
            }
        }
    }

    fn ask_process(&mut self, record: &FlowRecord) -> Option<Arc<str>> {
        // No process: a kernel's own socket, or one whose process is not known yet.
        let legacy = self.legacy.as_mut().filter(|_| record.pid != 0)?;
        let container = legacy.id_of(record);
        container.unwrap_or_else(|reason| {
            self.telemetry.unresolved(reason);
            None
        })
    }

    #[cold]
    fn resolve(&mut self, id: u64) -> Option<Arc<str>> {
        let Some(tree) = &self.tree else {
            self.telemetry.unresolved(Unresolved::Gone);
            return None;
        };
        let container = match tree.get(id) {
            Some(container) => Ok(container),
            // Not seen by the watch: created a moment ago, beyond a bound, or removed at once.
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

#[cfg(test)]
mod tests;
