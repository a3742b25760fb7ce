//! Cgroups as they come and go, by inotify on every directory of the tree.
//!
//! A container of one short command has a cgroup for some milliseconds, and its connections are reported up to an interval later. So
//! a thread waits for new directories and reads their ids at once; the receiver's own thread may be in the middle of a scan.
//!
//! A directory that is created with its parent, before the parent is watched, makes no event: each new directory is watched
//! first and listed then. kernfs reports the end of a directory to its parent's watch only, and keeps its inode for as long as it is
//! watched, so a watch is removed by hand.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::telemetry::Gap;
use super::tree::Tree;

/// Watches of one tree. Each takes about 1 KiB of kernel memory, and counts against the user's
/// `fs.inotify.max_user_watches`.
const MAX_WATCHES: usize = 1 << 14;

/// A thread that follows a tree; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Arc<Inotify>,
    root: WatchDescriptor,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Learns the cgroups that exist, and follows the tree from now on.
    ///
    /// # Errors
    /// The kernel refuses an inotify instance (`fs.inotify.max_user_instances`), a watch of the root, or a thread.
    pub(super) fn start(tree: &Arc<Tree>) -> io::Result<Self> {
        Self::with_limit(tree, MAX_WATCHES)
    }

    pub(super) fn with_limit(tree: &Arc<Tree>, max_watches: usize) -> io::Result<Self> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
        let stop = Arc::new(AtomicBool::new(false));
        let mut follower = Follower {
            tree: Arc::clone(tree),
            inotify: Arc::clone(&inotify),
            max_watches,
            directories: HashMap::new(),
            watches: HashMap::new(),
            is_full: false,
        };
        let root = follower.watch(&Arc::from(Path::new("")))?;
        follower.discover(PathBuf::new());
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("cgroup-watch".to_owned())
            .spawn(move || follower.run(&stopped))?;
        Ok(Self {
            inotify,
            root,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The removal itself is an event (IN_IGNORED), and so ends the thread's wait for one.
        let _ = self.inotify.rm_watch(self.root);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A directory that is watched.
#[derive(Debug)]
struct Directory {
    path: Arc<Path>,
    id: u64,
}

/// The thread's side.
#[derive(Debug)]
struct Follower {
    tree: Arc<Tree>,
    inotify: Arc<Inotify>,
    max_watches: usize,
    directories: HashMap<WatchDescriptor, Directory>,
    watches: HashMap<Arc<Path>, WatchDescriptor>,
    /// Whether a bound was reached and reported.
    is_full: bool,
}

impl Follower {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            match self.inotify.read_events() {
                Ok(events) => self.take(&events),
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "cgroups are no longer watched: connections of short processes may have no container_id; \
                hint: raise fs.inotify.max_user_watches, then restart flowtap");
                    return;
                }
            }
        }
    }

    fn take(&mut self, events: &[InotifyEvent]) {
        let is_new = |event: &&InotifyEvent| {
            event
                .mask
                .contains(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ISDIR)
        };
        // Ids first: these directories may be about to be removed. Watches can wait.
        for event in events.iter().filter(is_new) {
            if let Some(path) = self.path_of(event)
                && let Err(error) = self.tree.learn(&path)
            {
                self.tree
                    .telemetry
                    .gap(if error.kind() == io::ErrorKind::NotFound {
                        Gap::RemovedBefore
                    } else {
                        Gap::Unreadable
                    });
            }
        }
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.tree.telemetry.gap(Gap::QueueOverflow);
                self.prune();
                self.discover(PathBuf::new());
            } else if is_new(&event) {
                if let Some(path) = self.path_of(event) {
                    self.discover(path);
                }
            } else if event
                .mask
                .contains(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ISDIR)
                && let Some(path) = self.path_of(event)
            {
                self.forget(&path);
            }
        }
    }

    fn path_of(&self, event: &InotifyEvent) -> Option<PathBuf> {
        let parent = self.directories.get(&event.wd)?;
        let name: &OsString = event.name.as_ref()?;
        Some(parent.path.join(name))
    }

    /// Learns and watches the directory at `path` and all below it.
    fn discover(&mut self, path: PathBuf) {
        let mut waiting = vec![path];
        while let Some(path) = waiting.pop() {
            let path: Arc<Path> = path.into();
            let watched = self.watch(&path);
            match watched {
                Ok(_) => {}
                // Removed meanwhile: its end is also an event.
                Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
                Err(Errno::ENOSPC | Errno::ENOMEM) => self.report_limit(),
                Err(_) => self.tree.telemetry.gap(Gap::Unreadable),
            }
            let children = self.tree.children(&path).unwrap_or_default();
            // Without a watch on the parent nobody else learns them.
            waiting.extend(children);
        }
    }

    /// Learns the directory at `path`, and watches it.
    fn watch(&mut self, path: &Arc<Path>) -> nix::Result<WatchDescriptor> {
        let id = self
            .tree
            .learn(path)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)))?;
        if self.watches.len() >= self.max_watches && !self.watches.contains_key(path) {
            return Err(Errno::ENOSPC);
        }
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        let watch = self.inotify.add_watch(&self.tree.directory(path), flags)?;
        if let Some(before) = self.watches.insert(Arc::clone(path), watch)
            && before != watch
        {
            // Another directory of the same path, whose end is yet to be read.
            self.drop_watch(before);
        }
        self.directories.insert(
            watch,
            Directory {
                path: Arc::clone(path),
                id,
            },
        );
        Ok(watch)
    }

    fn report_limit(&mut self) {
        self.tree.telemetry.gap(Gap::WatchLimit);
        if !std::mem::replace(&mut self.is_full, true) {
            tracing::warn!(
                watches = self.watches.len(),
                "no more cgroups can be watched: connections of short processes may have no container_id\n  \
                 hint: run `sysctl -w fs.inotify.max_user_watches={}`",
                2 * MAX_WATCHES
            );
        }
    }

    /// Forgets the directories whose end was not read.
    fn prune(&mut self) {
        let exists = |path: &Path, id| self.tree.learn(path).is_ok_and(|now| now == id);
        let gone: Vec<_> = self
            .directories
            .values()
            .filter(|directory| !exists(&directory.path, directory.id))
            .map(|directory| Arc::clone(&directory.path))
            .collect();
        for path in gone {
            self.forget(&path);
        }
    }

    fn forget(&mut self, path: &Path) {
        if let Some(watch) = self.watches.remove(path) {
            self.drop_watch(watch);
        }
    }

    fn drop_watch(&mut self, watch: WatchDescriptor) {
        if let Some(directory) = self.directories.remove(&watch) {
            self.tree.remove(directory.id);
        }
        // An error means that the kernel has removed it already.
        let _ = self.inotify.rm_watch(watch);
    }
}
