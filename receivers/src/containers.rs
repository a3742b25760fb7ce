//! Which container a process is in, by the path of its cgroup.
//!
//! In: a cgroup v2 id, and a process that is or was in it. Out: the container's id: the last 64 hexadecimal digits in the path,
//! which is how containerd, CRI-O, Docker and Podman name the cgroups of their containers, whatever stands around it.
//!
//! The path comes from `<proc root>/<pid>/cgroup` and is remembered by cgroup, so that a process that is gone by the time its
//! connection is reported still has its container, unless it was the first of its cgroup. On a machine that has its
//! controllers in cgroup v1 there is nothing to be learned: all ids are the root's.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// Cgroups that are remembered; then all are forgotten and learned again.
const MAX_CGROUPS: usize = 16_384;

/// Digits of a container's id.
const ID_DIGITS: usize = 64;

/// What is known of cgroups.
#[derive(Debug)]
pub struct Containers {
    proc_root: PathBuf,
    ids_by_cgroup: HashMap<u64, Option<Arc<str>>>,
}

impl Containers {
    /// Knows of none yet. `proc_root` is `/proc`, or where the host's is mounted.
    pub fn new(proc_root: PathBuf) -> Self {
        Self {
            proc_root,
            ids_by_cgroup: HashMap::new(),
        }
    }

    /// The container of the cgroup with this id, of which `pid` is a process; `None` for none, or if it can't be known.
    pub fn id_of(&mut self, cgroup_id: u64, pid: u32) -> Option<Arc<str>> {
        if cgroup_id == 0 || pid == 0 {
            return None;
        }
        if let Some(known) = self.ids_by_cgroup.get(&cgroup_id) {
            return known.clone();
        }
        // The process is gone: perhaps the next one of its cgroup is not.
        let cgroups = fs::read_to_string(self.proc_root.join(pid.to_string()).join("cgroup")).ok()?;
        let id = unified_path(&cgroups).and_then(container_id).map(Arc::from);
        if self.ids_by_cgroup.len() >= MAX_CGROUPS {
            self.ids_by_cgroup.clear();
        }
        self.ids_by_cgroup.insert(cgroup_id, id.clone());
        id
    }
}

/// The path in the hierarchy of cgroup v2: `0::/path` (`cgroups(7)`).
fn unified_path(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| line.strip_prefix("0::"))
}

fn container_id(path: &str) -> Option<&str> {
    path.split(|c: char| !c.is_ascii_hexdigit())
        .rfind(|digits| digits.len() == ID_DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f0a1b";

    #[test]
    fn ids_are_found_in_the_paths_of_every_common_runtime() {
        let inner = "a".repeat(64);
        let paths = [
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8a_1.slice/cri-containerd-{ID}.scope"
            ),
            format!("/kubepods/besteffort/pod0123-4567/crio-{ID}"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/docker/{inner}/docker/{ID}"),
        ];
        for path in paths {
            assert_eq!(container_id(&path), Some(ID), "{path}");
        }
        for path in ["/", "/user.slice/user-0.slice/session-1.scope", "/lxc/web"] {
            assert_eq!(container_id(path), None, "{path}");
        }
        assert_eq!(unified_path("4:memory:/a\n0::/b\n"), Some("/b"));
    }

    #[test]
    fn a_cgroup_is_remembered_beyond_the_process_that_told_of_it() {
        let proc_root = tempfile::tempdir().unwrap();
        let process = proc_root.path().join("7");
        fs::create_dir(&process).unwrap();
        fs::write(process.join("cgroup"), format!("0::/docker/{ID}\n")).unwrap();
        let mut containers = Containers::new(proc_root.path().to_owned());
        assert_eq!(containers.id_of(11, 8), None, "process 8 is gone");
        assert_eq!(containers.id_of(11, 7).as_deref(), Some(ID));
        fs::remove_dir_all(&process).unwrap();
        assert_eq!(containers.id_of(11, 7).as_deref(), Some(ID));
        assert_eq!(containers.id_of(12, 7), None);
        assert_eq!(containers.id_of(0, 7), None);
    }
}
