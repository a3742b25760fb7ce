//! The tree of cgroups as it is: containers of all that exist, from walks over its directories.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mount::Hierarchy;
use super::runtime_paths::container_of;
use super::table::{Container, Table};
use super::telemetry::{Gap, Telemetry};

/// Known cgroups beneath a mount. Shared by the thread that watches them and the receiver's.
#[derive(Debug)]
pub(super) struct Tree {
    hierarchy: Hierarchy,
    table: Mutex<Table>,
    pub(super) telemetry: Arc<Telemetry>,
}

impl Tree {
    pub(super) fn new(hierarchy: Hierarchy, telemetry: Arc<Telemetry>) -> Self {
        Self {
            hierarchy,
            table: Mutex::default(),
            telemetry,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No change to the table is left half done by a panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the container of a cgroup that is known.
    pub(super) fn get(&self, id: u64) -> Option<Container> {
        self.table().get(id).cloned()
    }

    /// Returns the directory of the cgroup at `path` below the mount.
    pub(super) fn directory(&self, path: &Path) -> PathBuf {
        self.hierarchy.root.join(path)
    }

    /// Adds the cgroup at `path`; returns its id.
    pub(super) fn learn(&self, path: &Path) -> io::Result<u64> {
        // The inode number is the cgroup's id, of all 64 bits (`cgroup_id()`, `kernfs_ino()`; Linux 5.5).
        let id = fs::symlink_metadata(self.directory(path))?.ino();
        self.insert(id, self.container(path));
        Ok(id)
    }

    fn container(&self, path: &Path) -> Container {
        // A name that is not UTF-8 is not a container runtime's, and the replacement character is not one of a name's.
        let path = format!("{}/{}", self.hierarchy.prefix, path.to_string_lossy());
        container_of(&path).as_deref().map(Into::into)
    }

    /// Adds a cgroup.
    pub(super) fn insert(&self, id: u64, container: Container) {
        if !self.table().insert(id, container) {
            self.telemetry.gap(Gap::TableFull);
        }
    }

    /// Marks a cgroup as removed.
    pub(super) fn remove(&self, id: u64) {
        self.table().remove(id);
    }

    /// Returns the cgroups right below the one at `path`.
    pub(super) fn children(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut children = Vec::new();
        for entry in fs::read_dir(self.directory(path))? {
            let entry = entry?;
            // kernfs returns the type with the name: no look at each of the forty files.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                children.push(path.join(entry.file_name()));
            }
        }
        Ok(children)
    }

    /// Learns every cgroup there is now. Returns the container of the cgroup `wanted`, also if the table has no room for it.
    pub(super) fn walk(&self, wanted: u64) -> Option<Container> {
        let mut found = None;
        self.for_each(|id, path| {
            if id == wanted {
                found = Some(self.container(path));
            }
        });
        found
    }

    /// Learns every cgroup there is now, and marks the others as removed.
    pub(super) fn renew(&self) {
        let mut ids = HashSet::new();
        self.for_each(|id, _| {
            ids.insert(id);
        });
        self.table().remove_all_but(&ids);
    }

    fn for_each(&self, mut each: impl FnMut(u64, &Path)) {
        let mut waiting = vec![PathBuf::new()];
        while let Some(path) = waiting.pop() {
            // A cgroup that is removed meanwhile is no longer searched.
            if let Ok(id) = self.learn(&path) {
                each(id, &path);
            }
            waiting.extend(self.children(&path).unwrap_or_default());
        }
    }
}
