//! The cgroup v2 file system: where it is mounted, and how much of the hierarchy is in sight.
//!
//! In: `mountinfo` of this process, and of the host's process 1 if its proc file system is mounted
//! here. Out: the mount that shows the most. A container with a private cgroup namespace has a
//! mount whose root is the container; a mount of the host's beside it shows every cgroup.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Id of the hierarchy's root: the first inode of its file system (`kernfs_create_root()`). A process there is in no cgroup.
pub(super) const ROOT_ID: u64 = 1;

/// A mounted part of the cgroup v2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The directory to open.
    pub root: PathBuf,
    /// Path of that directory in the hierarchy; empty if it is the root, or above this process's own.
    pub prefix: String,
    /// Its id.
    pub id: u64,
}

impl Hierarchy {
    /// Returns the part that shows the most; `None` if no cgroup v2 file system can be read. `proc_root` is `/proc`, or where
    /// the host's is mounted.
    pub fn find(proc_root: &Path) -> Option<Self> {
        let own = (PathBuf::from("/proc/self/mountinfo"), PathBuf::new());
        // Its mounts are reached through its root, which takes CAP_SYS_PTRACE.
        let host = (proc_root.join("1/mountinfo"), proc_root.join("1/root"));
        let sources = if proc_root == Path::new("/proc") {
            vec![own]
        } else {
            vec![own, host]
        };
        let mounts = sources.into_iter().flat_map(|(mountinfo, base)| {
            let text = fs::read_to_string(mountinfo).unwrap_or_default();
            parse(&text).into_iter().map(move |(point, prefix)| {
                let root = if base.as_os_str().is_empty() {
                    point
                } else {
                    beneath(&base, &point)
                };
                (root, prefix)
            })
        });
        mounts
            .filter_map(|(root, prefix)| Self::open(root, prefix))
            .min_by_key(|part| part.id)
    }

    fn open(root: PathBuf, prefix: String) -> Option<Self> {
        fs::read_dir(&root).ok()?;
        let id = fs::metadata(&root).ok()?.ino();
        Some(Self { root, prefix, id })
    }

    /// Whether every cgroup of the machine is in sight.
    pub fn is_whole(&self) -> bool {
        self.id == ROOT_ID
    }
}

/// Returns where this process has cgroup v2 file systems mounted, readable or not.
pub fn mount_points() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse(&text).into_iter().map(|(point, _)| point).collect()
}

fn beneath(base: &Path, point: &Path) -> PathBuf {
    base.join(point.strip_prefix("/").unwrap_or(point))
}

/// Mount points of type `cgroup2`, each with the path of its root in the hierarchy (`proc_pid_mountinfo(5)`).
fn parse(mountinfo: &str) -> Vec<(PathBuf, String)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        if file_system.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        // "/../.." is seen from a cgroup namespace, and what it is above that is not known.
        let is_above = root == "/" || root.starts_with("/..");
        Some((PathBuf::from(point), if is_above { String::new() } else { root }))
    });
    mounts.collect()
}

/// Undoes the octal escapes of space, tab, line feed and backslash.
fn unescape(field: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let unescape = |text: String, (escape, plain): (&str, &str)| text.replace(escape, plain);
    escapes.into_iter().fold(field.to_owned(), unescape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unified_and_hybrid_layouts_and_mounts_of_a_part_are_found() {
        let text = "\
24 30 0:22 / /proc rw - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755
38 31 0:37 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw
39 31 0:38 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
50 23 0:37 /docker/abc /mnt/a\\040b rw - cgroup2 cgroup rw,nsdelegate
51 23 0:37 /../.. /host-cgroup ro - cgroup2 cgroup2 rw
broken
";
        let expected = [
            ("/sys/fs/cgroup/unified", ""),
            ("/mnt/a b", "/docker/abc"),
            ("/host-cgroup", ""),
        ];
        assert_eq!(
            parse(text),
            expected.map(|(point, root)| (point.into(), root.to_owned()))
        );
        assert_eq!(
            beneath(Path::new("/host-proc/1/root"), Path::new("/sys/fs/cgroup")).to_str(),
            Some("/host-proc/1/root/sys/fs/cgroup")
        );
    }

    #[test]
    fn without_a_mount_that_can_be_read_there_is_none() {
        let proc_root = tempfile::tempdir().unwrap();
        fs::create_dir(proc_root.path().join("1")).unwrap();
        let line = "38 31 0:37 / /nowhere rw - cgroup2 cgroup2 rw\n";
        fs::write(proc_root.path().join("1/mountinfo"), line).unwrap();
        let found = Hierarchy::find(proc_root.path());
        assert!(found.is_none_or(|part| !part.root.starts_with(proc_root.path())));
        assert_eq!(Hierarchy::open("/nowhere".into(), String::new()), None);
    }
}
