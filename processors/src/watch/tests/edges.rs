//! Results that were wrong at the edges: many peers, many subjects, clocks that jump, settings that change.

use super::*;

/// An interval's end, after at least one more tick.
fn end_interval(scene: &mut Scene) {
    for _ in 0..3 {
        scene.tick();
    }
}

/// The sentence and the peer's address of each finding of this kind.
fn peers(scene: &Scene, kind: FindingKind) -> Vec<(&str, String)> {
    let findings = scene.findings.iter().filter(|finding| finding.kind == kind);
    findings
        .map(|finding| (&*finding.text, finding.flow.remote.addr.to_string()))
        .collect()
}

#[test]
fn a_surge_names_the_peer_that_most_bytes_went_to() {
    const MUCH: u64 = 64 << 20;
    let mut config = quick();
    config.first_contact.enabled = false;
    let mut scene = Scene::new(&config);
    scene.learn(([93, 184, 1, 34], 443), 512);
    // Before, after and between: what is usual, and more peers than are counted one by one.
    scene.talk("shop", ([93, 184, 1, 34], 443), Events::NONE, 512, 0);
    for part in 0..4 {
        for high in 0..40 {
            scene.talk("shop", ([45, part, high, 1], 443), Events::OPENED, 100, 0);
        }
        scene.talk("shop", ([203, 0, 113, 7], 443), Events::NONE, MUCH / 4, 0);
    }
    scene.talk("shop", ([93, 184, 1, 34], 443), Events::NONE, 512, 0);
    end_interval(&mut scene);
    let bytes = MUCH + 160 * 100 + 1024;
    let text = format!(
        "shop sent {bytes} bytes to external peers, the largest part ({MUCH} bytes) to 203.0.113.7; 1024 are usual"
    );
    assert_eq!(
        peers(&scene, FindingKind::VolumeSurge),
        [(&*text, "203.0.113.7".to_owned())]
    );
    assert!(scene.findings.last().unwrap().numbers.contains(&("peer_bytes", MUCH as f64)));
}

#[test]
fn a_surge_of_a_contact_has_the_flow_of_the_address_that_moved_the_bytes() {
    let mut scene = Scene::new(&quick());
    scene.learn(([10, 1, 0, 5], 443), 512);
    scene.talk("shop", ([10, 1, 0, 5], 443), Events::NONE, 512, 0);
    for _ in 0..3 {
        scene.talk("shop", ([10, 1, 0, 99], 443), Events::NONE, 16 << 20, 0);
        scene.talk("shop", ([10, 1, 0, 6], 443), Events::NONE, 512, 0);
    }
    end_interval(&mut scene);
    assert_eq!(scene.kinds(), [FindingKind::VolumeSurge]);
    assert_eq!(scene.findings[0].flow.remote.addr.to_string(), "10.1.0.99");
}

#[test]
fn a_surge_of_failures_has_the_flow_of_an_address_that_fails() {
    let mut scene = Scene::new(&quick());
    scene.learn(([10, 1, 0, 5], 443), 512);
    for _ in 0..30 {
        scene.talk("shop", ([10, 1, 0, 5], 443), Events::OPENED, 512, 0);
        scene.talk("shop", ([10, 1, 0, 99], 443), Events::FAILED, 0, 0);
    }
    end_interval(&mut scene);
    assert_eq!(scene.kinds(), [FindingKind::FailureSurge]);
    assert_eq!(scene.findings[0].flow.remote.addr.to_string(), "10.1.0.99");
}

#[test]
fn a_scan_of_ports_has_a_flow_to_the_address_that_is_scanned() {
    let mut config = quick();
    config.first_contact.enabled = false;
    let mut scene = Scene::new(&config);
    scene.learn(([10, 1, 0, 5], 443), 512);
    for port in 0..30 {
        scene.talk("shop", ([10, 1, 0, 99], 1_000 + port), Events::FAILED, 0, 0);
    }
    scene.talk("shop", ([10, 1, 0, 7], 443), Events::OPENED, 10, 0);
    end_interval(&mut scene);
    assert_eq!(
        peers(&scene, FindingKind::FanOut),
        [("shop tried 30 ports of 10.1.0.99 in 10 s", "10.1.0.99".to_owned())]
    );
}
