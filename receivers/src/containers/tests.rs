use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use flowtap_pipeline::{ComponentId, Endpoint};

use super::*;

const ID: &str = "4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f0a1b";

/// A folder in place of a mounted hierarchy: an inode number is also an id there.
struct Fake {
    root: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { root }
    }

    fn hierarchy(&self, prefix: &str) -> Hierarchy {
        Hierarchy {
            root: self.root.path().to_owned(),
            prefix: prefix.to_owned(),
            id: ROOT_ID,
        }
    }

    fn containers(&self) -> Containers {
        Containers::over(Some(self.hierarchy("")), None, None, telemetry())
    }

    fn tree(&self) -> Arc<Tree> {
        Arc::new(Tree::new(self.hierarchy(""), telemetry()))
    }

    /// Creates a cgroup; returns its id.
    fn create(&self, path: &str) -> u64 {
        let path = self.root.path().join(path);
        fs::create_dir_all(&path).unwrap();
        fs::metadata(path).unwrap().ino()
    }

    fn remove(&self, path: &str) {
        fs::remove_dir(self.root.path().join(path)).unwrap();
    }
}

fn telemetry() -> Arc<Telemetry> {
    let id: ComponentId = "ebpf".parse().unwrap();
    Arc::new(Telemetry::new(&opentelemetry::global::meter("test"), &id))
}

fn of(cgroup_id: u64) -> Flow {
    let end = Endpoint::new([127, 0, 0, 1].into(), 1);
    Flow {
        cgroup_id,
        pid: 1,
        ..Flow::new(end, end)
    }
}

/// Waits until the thread has learned `id`.
fn learned(tree: &Tree, id: u64) -> Container {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(container) = tree.get(id) {
            return container;
        }
        assert!(Instant::now() < deadline, "cgroup {id} was not learned");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn cgroups_that_exist_are_known_from_the_start_by_their_ids_alone() {
    let fake = Fake::new();
    let container = fake.create(&format!("docker/{ID}"));
    let inside = fake.create(&format!("docker/{ID}/init.scope"));
    let service = fake.create("system.slice/ssh.service");
    let mut containers = fake.containers();
    for _ in 0..2 {
        assert_eq!(
            containers.id_of(&of(container), Duration::ZERO).as_deref(),
            Some(ID)
        );
        assert_eq!(containers.id_of(&of(inside), Duration::ZERO).as_deref(), Some(ID));
        assert_eq!(containers.id_of(&of(service), Duration::ZERO), None);
        assert_eq!(containers.id_of(&of(0), Duration::ZERO), None);
        assert_eq!(containers.id_of(&of(ROOT_ID), Duration::ZERO), None);
    }
}

#[test]
fn a_cgroup_that_is_gone_when_its_record_comes_still_has_its_container() {
    let fake = Fake::new();
    let mut containers = fake.containers();
    let id = fake.create(&format!("docker-{ID}.scope"));
    let tree = Arc::clone(containers.tree.as_ref().unwrap());
    assert_eq!(learned(&tree, id).as_deref(), Some(ID));
    fake.remove(&format!("docker-{ID}.scope"));
    assert_eq!(containers.id_of(&of(id), Duration::ZERO).as_deref(), Some(ID));
}

#[test]
fn cgroups_created_together_with_their_parents_are_learned() {
    let fake = Fake::new();
    let tree = fake.tree();
    let _watch = Watch::start(&tree).unwrap();
    for number in 0..200 {
        let id = fake.create(&format!("kubepods/pod{number}/{ID}"));
        assert_eq!(learned(&tree, id).as_deref(), Some(ID), "{number}");
    }
}

/// Inodes that this process watches (`proc_pid_fdinfo(5)`).
fn watched() -> Vec<u64> {
    // Descriptors come and go with other tests.
    let infos = fs::read_dir("/proc/self/fdinfo").unwrap();
    let texts = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
    let inodes = texts.flat_map(|text| {
        let words = text.split_whitespace();
        let digits = words.filter_map(|word| word.strip_prefix("ino:"));
        digits
            .filter_map(|digits| u64::from_str_radix(digits, 16).ok())
            .collect::<Vec<_>>()
    });
    inodes.collect()
}

#[test]
fn watches_come_and_go_with_the_cgroups_and_do_not_pile_up() {
    let fake = Fake::new();
    let tree = fake.tree();
    let _watch = Watch::start(&tree).unwrap();
    let names: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    let ids: Vec<_> = names.iter().map(|name| fake.create(name)).collect();
    let wait_for = |expected| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !ids.iter().all(|id| watched().contains(id) == expected) {
            assert!(Instant::now() < deadline, "{expected}: {:?}", watched());
            thread::sleep(Duration::from_millis(1));
        }
    };
    wait_for(true);
    for name in &names {
        fake.remove(name);
    }
    wait_for(false);
}

#[test]
fn what_the_watch_did_not_see_is_found_by_a_walk() {
    let fake = Fake::new();
    let mut containers = Containers {
        _watch: None,
        ..fake.containers()
    };
    let id = fake.create(&format!("a/docker-{ID}.scope"));
    assert_eq!(containers.id_of(&of(id), Duration::ZERO).as_deref(), Some(ID));
    // One that is nowhere is not remembered, and walks are apart.
    assert_eq!(containers.id_of(&of(u64::MAX), Duration::ZERO), None);
    let walked = containers.last_walk;
    assert_eq!(containers.id_of(&of(u64::MAX), Duration::ZERO), None);
    assert_eq!(containers.last_walk, walked);
}

#[test]
fn beyond_the_bound_on_watches_cgroups_are_found_by_a_walk() {
    let fake = Fake::new();
    fake.create("first");
    fake.create("second");
    let tree = fake.tree();
    let _watch = Watch::with_limit(&tree, 2).unwrap();
    let mut unwatched = ["first", "second"].map(|parent| fake.create(&format!("{parent}/docker-{ID}.scope")));
    // Which of the two is watched is up to the order of the directory.
    unwatched.sort_unstable();
    assert!(
        unwatched
            .into_iter()
            .all(|id| tree.walk(id).flatten().as_deref() == Some(ID))
    );
}

#[test]
fn a_mount_of_a_part_knows_what_it_is_a_part_of() {
    let fake = Fake::new();
    let inside = fake.create("system.slice/nginx.service");
    let hierarchy = fake.hierarchy(&format!("/docker/{ID}"));
    let mut containers = Containers::over(Some(hierarchy), None, None, telemetry());
    assert_eq!(containers.id_of(&of(inside), Duration::ZERO).as_deref(), Some(ID));
}

#[test]
fn without_a_hierarchy_or_with_one_that_is_gone_nothing_is_known() {
    let mut containers = Containers::over(None, None, None, telemetry());
    assert_eq!(containers.id_of(&of(7), Duration::ZERO), None);
    let gone = Hierarchy {
        root: PathBuf::from("/nowhere"),
        prefix: String::new(),
        id: ROOT_ID,
    };
    let mut containers = Containers::over(Some(gone), None, None, telemetry());
    assert_eq!(containers.id_of(&of(7), Duration::ZERO), None);
}
