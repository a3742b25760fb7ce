//! Traffic that has come now and then since the beginning is usual, however seldom it comes.

use super::*;

fn without_first_contacts() -> Config {
    let mut config = quick();
    config.first_contact.enabled = false;
    config
}

/// Tries so many ports of one address, or addresses.
fn try_many(scene: &mut Scene, name: &str, ports: u16, addresses: u8) {
    for port in 0..ports {
        scene.talk(name, ([10, 4, 0, 4], 8_000 + port), Events::OPENED, 10, 10);
    }
    for host in 0..addresses {
        scene.talk(name, ([10, 5, 0, host], 80), Events::OPENED, 10, 10);
    }
}

#[test]
fn many_ports_or_addresses_in_each_interval_are_usual_and_a_scan_by_the_same_subject_is_found() {
    let mut scene = Scene::new(&without_first_contacts());
    for _ in 0..60 {
        try_many(&mut scene, "checker", 25, 0);
        try_many(&mut scene, "crawler", 0, 60);
        scene.tick();
    }
    assert!(scene.findings.is_empty(), "{:?}", scene.explained());
    try_many(&mut scene, "checker", 100, 0);
    for _ in 0..3 {
        scene.tick();
    }
    assert_eq!(
        scene.explained(),
        [(
            "checker tried 100 ports of 10.4.0.4 in 10 s; 25 are usual",
            &[
                ("ports", 100.0),
                ("usual", 25.0),
                ("largest_usual", 25.0),
                ("seconds", 10.0)
            ][..]
        )]
    );
}

#[test]
fn a_job_that_tries_many_ports_or_addresses_seldom_is_usual_once_it_was_learned() {
    let mut scene = Scene::new(&without_first_contacts());
    for tick in 0..2_000 {
        // One address in each interval, and now and then many.
        scene.talk("job", ([10, 4, 0, 4], 80), Events::OPENED, 10, 10);
        if tick % 500 == 4 {
            try_many(&mut scene, "job", 30, 0);
            try_many(&mut scene, "job", 0, 60);
        }
        scene.tick();
    }
    assert!(scene.findings.is_empty(), "{:?}", scene.explained());
    try_many(&mut scene, "job", 70, 150);
    for _ in 0..3 {
        scene.tick();
    }
    assert_eq!(scene.kinds(), [FindingKind::FanOut; 2]);
}
