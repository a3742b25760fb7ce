//! BPF programs and maps of one process. Others on the machine load theirs at any time, other flowtaps among them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::daemon::WAIT_TIMEOUT;

/// Ids of programs and of maps that a process holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) programs: BTreeSet<u64>,
    pub(crate) maps: BTreeSet<u64>,
}

/// Returns what the process holds by its descriptors: programs, maps, and programs of links (`bpf_link_show_fdinfo()`).
pub(crate) fn of(process: Pid) -> Objects {
    let mut objects = Objects::default();
    let infos = fs::read_dir(format!("/proc/{process}/fdinfo")).expect("descriptors");
    // Descriptors come and go with connections.
    for text in infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok()) {
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let ids = match key {
                "prog_id" => &mut objects.programs,
                "map_id" => &mut objects.maps,
                _ => continue,
            };
            ids.extend(value.trim().parse::<u64>());
        }
    }
    objects
}

/// Names of those programs, as `bpftool` lists them.
pub(crate) fn names(programs: &BTreeSet<u64>) -> Vec<String> {
    let listed = list("prog");
    let ours = listed.into_iter().filter(|(id, _)| programs.contains(id));
    ours.map(|(_, name)| name).collect()
}

/// Waits until the kernel has none of them any longer.
pub(crate) fn wait_until_gone(objects: &Objects) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let left = |kind, ids: &BTreeSet<u64>| {
            let listed = list(kind).into_iter();
            listed.filter(|(id, _)| ids.contains(id)).collect::<Vec<_>>()
        };
        let (programs, maps) = (left("prog", &objects.programs), left("map", &objects.maps));
        if programs.is_empty() && maps.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left: {programs:?} {maps:?}");
        // There is no event when the kernel has freed them.
        thread::sleep(Duration::from_millis(50));
    }
}

/// Ids with names.
fn list(kind: &str) -> Vec<(u64, String)> {
    let output = Command::new("bpftool")
        .args(["--json", kind, "show"])
        .output()
        .expect("bpftool");
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let objects = listed.as_array().expect("a list");
    objects
        .iter()
        .map(|object| {
            let name = object["name"].as_str().unwrap_or_default();
            (object["id"].as_u64().expect("an id"), name.to_owned())
        })
        .collect()
}
