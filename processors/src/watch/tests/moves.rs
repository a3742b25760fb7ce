//! A pipeline that is renamed, and a `watch` that moves to another one.

use flowtap_pipeline::ComponentConfig as _;

use super::edges::of_pipeline;
use super::*;
use crate::testing::logged;

const LATER: u64 = 1_000;

/// A config with a file that has what the `watch` of the pipeline `metrics` has learned.
fn learned(folder: &Path) -> Config {
    let mut config = quick();
    config.state_file = Some(folder.join("watch.state"));
    let (mut metrics, _) = of_pipeline(&config, "metrics", START);
    for _ in 0..24 {
        metrics.talk("shop", ([10, 1, 0, 5], 443), Events::OPENED, 10, 10);
        metrics.tick();
    }
    config
}

/// The number of contacts that a `watch` of this pipeline begins with, and the lines of its start.
fn begin(config: &Config, pipeline: &str) -> (usize, String) {
    let mut contacts = 0;
    let lines = logged(|| {
        let (scene, _) = of_pipeline(config, pipeline, START + LATER);
        contacts = scene.watch.memory.contacts.len();
        // It learns anew, and saves that.
        drop(scene);
    });
    (contacts, lines)
}

#[test]
fn a_watch_that_has_moved_says_so_with_the_pipelines_that_have_learned() {
    let folder = tempfile::tempdir().unwrap();
    let config = learned(folder.path());
    let (contacts, lines) = begin(&config, "logs/findings");
    assert_eq!(contacts, 0);
    assert!(lines.starts_with("WARN"), "{lines}");
    for part in [
        "logs/findings",
        "states_of=\"metrics\"",
        "learns anew",
        "`state_of`",
    ] {
        assert!(lines.contains(part), "{part}: {lines}");
    }
    // One whose state is there, and one without a file, say nothing.
    assert_eq!(begin(&config, "metrics"), (1, String::new()));
    let new = Config {
        state_file: Some(folder.path().join("new.state")),
        ..config
    };
    assert_eq!(begin(&new, "metrics"), (0, String::new()));
}

#[test]
fn a_watch_that_has_moved_goes_on_with_the_state_that_is_named_also_after_it_began_to_learn() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = learned(folder.path());
    // It was started without the key first.
    assert_eq!(begin(&config, "logs/findings").0, 0);
    config.state_of = Some("metrics".to_owned());
    let (contacts, lines) = begin(&config, "logs/findings");
    assert_eq!(contacts, 1);
    assert!(
        lines.starts_with("INFO") && lines.contains("state_of=\"metrics\""),
        "{lines}"
    );
    // From then on it has its own.
    assert_eq!(begin(&config, "logs/findings"), (1, String::new()));
    // A pipeline that nothing is known of.
    config.state_of = Some("metrics/none".to_owned());
    let (contacts, lines) = begin(&config, "logs/other");
    assert!(
        contacts == 0 && lines.contains("metrics, logs/findings"),
        "{lines}"
    );
}

#[test]
fn a_watch_that_has_learned_keeps_its_own_state() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = learned(folder.path());
    let (mut logs, _) = of_pipeline(&config, "logs", START);
    for network in 0..3 {
        for _ in 0..12 {
            logs.talk("shop", ([10, 2, network, 5], 443), Events::OPENED, 10, 10);
            logs.tick();
        }
    }
    drop(logs);
    config.state_of = Some("metrics".to_owned());
    assert_eq!(begin(&config, "logs"), (3, String::new()));
}

#[test]
fn the_pipeline_of_a_state_is_checked() {
    let faults = |config: &Config| {
        let faults = config.validate().into_iter();
        faults
            .map(|fault| (fault.path.join("."), fault.message))
            .collect::<Vec<_>>()
    };
    let mut config = quick();
    config.state_of = Some("metrics/a".to_owned());
    assert_eq!(
        faults(&config),
        [(
            "state_of".to_owned(),
            "needs `state_file`, in which that state is".to_owned()
        )]
    );
    config.state_file = Some("watch.state".into());
    assert_eq!(faults(&config), []);
    config.state_of = Some("metric".to_owned());
    assert_eq!(faults(&config).len(), 1);
}
