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
            "checker tried 100 ports of 10.4.0.4 in 10 s; usually 25",
            &[
                ("ports", 100.0),
                ("usual", 25.0),
                ("largest_usual", 25.0),
                ("seconds", 10.0)
            ][..]
        )]
    );
}

/// Nights of a contact that is kept alive, with a job in each of `jobs`; the kinds of findings in each.
fn nights(jobs: &[u64], config: &Config) -> Vec<usize> {
    let mut scene = Scene::new(config);
    let mut found = Vec::new();
    for job in jobs {
        for tick in 0..86_400 / 60 {
            let sent = if (120..130).contains(&tick) { *job } else { 150 };
            // One each of all that a subject sends to external peers, and of a contact.
            scene.talk("backup", ([10, 9, 0, 5], 9_000), Events::NONE, sent, 150);
            scene.talk("uploader", ([203, 0, 113, 5], 443), Events::NONE, sent, 150);
            scene.tick_after(60);
        }
        found.push(std::mem::take(&mut scene.findings).len());
    }
    found
}

#[test]
fn a_nightly_job_on_a_contact_that_is_kept_alive_is_usual_once_it_was_learned() {
    const MUCH: u64 = 200 << 20;
    let mut config = without_first_contacts();
    config.interval = Duration::from_secs(60);
    config.beacon.enabled = false;
    config.learn = Duration::from_secs(86_400);
    assert_eq!(nights(&[MUCH; 5], &config), [0; 5]);
    // A contact and what its subject sends, and a contact: three findings on the first occasion after learning, and on the second.
    assert_eq!(nights(&[150, MUCH, MUCH, MUCH, MUCH], &config), [0, 3, 3, 0, 0]);
    // Twice as much is a surge, and a weekly job is usual.
    assert_eq!(nights(&[MUCH, MUCH, MUCH * 3], &config), [0, 0, 3]);
    let weekly = [MUCH, 150, 150, 150, 150, 150, 150, MUCH * 5 / 4, 150];
    assert_eq!(nights(&weekly, &config), [0; 9]);
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

/// Checks at an external peer each, with a pause in seconds each, for so many days; the sentences of what is found of them.
fn checks(pauses: &[u64], days: u64, config: &Config) -> Vec<String> {
    let mut scene = Scene::new(config);
    for tick in 0..days * 86_400 / 60 {
        for (peer, pause) in (1..).zip(pauses) {
            if (tick * 60).is_multiple_of(*pause) {
                let to = ([198, 51, peer, 7], 443);
                scene.talk("updater", to, Events::OPENED | Events::CLOSED, 2_000, 5_000);
            }
        }
        scene.tick_after(60);
    }
    let findings = scene.findings.into_iter();
    findings.map(|finding| finding.text.to_string()).collect()
}

const HOUR: u64 = 3600;

#[test]
fn a_pause_of_hours_that_was_learned_is_no_beacon() {
    let mut config = without_first_contacts();
    config.learn = Duration::from_secs(24 * HOUR);
    config.interval = Duration::from_secs(60);
    let pauses = [
        HOUR,
        2 * HOUR,
        3 * HOUR,
        4 * HOUR,
        6 * HOUR,
        8 * HOUR,
        12 * HOUR - 60,
    ];
    assert_eq!(checks(&pauses, 9, &config), [""; 0]);
}

#[test]
fn a_beacon_is_found_once_however_long_it_goes_on() {
    let mut config = without_first_contacts();
    config.learn = Duration::from_secs(HOUR);
    config.interval = Duration::from_secs(60);
    let found = checks(&[300, HOUR + 600, 4 * HOUR], 4, &config);
    // The first was regular while `watch` learned.
    assert_eq!(found.len(), 2, "{found:?}");
    for (text, pause) in found.iter().zip(["4200", "14400"]) {
        assert!(text.contains(&format!(" every {pause} s ")), "{text}");
    }
}

#[test]
fn a_contact_with_another_pause_than_while_it_was_learned_is_a_beacon() {
    let mut config = without_first_contacts();
    config.learn = Duration::from_secs(HOUR);
    let mut scene = Scene::new(&config);
    for second in (0..20 * HOUR).step_by(5) {
        let pause = if second < HOUR { 1_200 } else { 600 };
        if second.is_multiple_of(pause) {
            scene.talk("shop", ([185, 220, 101, 1], 443), Events::OPENED, 200, 100);
        }
        scene.tick();
    }
    assert_eq!(scene.kinds(), [FindingKind::Beacon]);
}
