//! BPF programs and maps that are loaded, as `bpftool` lists them.

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::PATIENCE;

/// Ids with names.
pub(crate) type Objects = BTreeSet<(u64, String)>;

pub(crate) fn programs() -> Objects {
    list("prog")
}

pub(crate) fn maps() -> Objects {
    list("map")
}

/// Waits until no program and no map is there that was not there before.
pub(crate) fn wait_until_only(programs_before: &Objects, maps_before: &Objects) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (programs, maps) = (programs(), maps());
        if programs.is_subset(programs_before) && maps.is_subset(maps_before) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "left: {:?} {:?}",
            programs.difference(programs_before),
            maps.difference(maps_before)
        );
        // Nothing tells when the kernel has freed them.
        thread::sleep(Duration::from_millis(50));
    }
}

fn list(kind: &str) -> Objects {
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
