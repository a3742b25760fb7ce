//! Floods and decoys hide nothing else, or are said to be what they are.

use flowtap_pipeline::ComponentConfig as _;

use super::*;

/// Seconds of two looks, and one more, after which the interval has ended.
fn end_interval(scene: &mut Scene) {
    for _ in 0..3 {
        scene.tick();
    }
}

/// `count` connects of `name` that fail, each to another /24.
fn flood(scene: &mut Scene, name: &str, networks: std::ops::Range<u32>) {
    for network in networks {
        let [_, high, middle, low] = network.to_be_bytes();
        scene.talk(name, ([45 + high, middle, low, 1], 22), Events::FAILED, 0, 0);
    }
}

fn count(scene: &Scene, kind: FindingKind) -> usize {
    scene.kinds().into_iter().filter(|found| *found == kind).count()
}

#[test]
fn a_flood_of_one_kind_or_subject_leaves_room_for_others_and_what_is_left_out_is_counted_by_kind() {
    let (mut scene, counters, _provider) = counted(&quick());
    scene.learn(([93, 184, 1, 34], 443), 512);
    flood(&mut scene, "sh", 0..5_000);
    scene.talk("evil", ([46, 9, 9, 9], 443), Events::OPENED, 10, 10);
    scene.talk("evil", ([192, 0, 2, 66], 443), Events::OPENED, 10, 10);
    let listed = scene.batch.tcp.last_mut().unwrap();
    listed.flow.class = Some(PeerClass::AbnormalFlowBlackList);
    scene.talk("shop", ([93, 184, 1, 34], 443), Events::NONE, 64 << 20, 0);
    scene.tick();
    flood(&mut scene, "sh", 5_000..10_000);
    end_interval(&mut scene);
    let kinds = [
        FindingKind::BlackList,
        FindingKind::FanOut,
        FindingKind::VolumeSurge,
    ];
    assert_eq!(kinds.map(|kind| count(&scene, kind)), [1, 1, 2]);
    let first = scene.findings.iter();
    let of_evil =
        first.filter(|finding| finding.kind == FindingKind::FirstContact && &*finding.subject == "evil");
    assert_eq!(of_evil.count(), 2, "of another subject than the flood");
    // The room of all, and a tenth of that of the kind, in two looks; in the first `evil` has two.
    let made = count(&scene, FindingKind::FirstContact) as u64;
    assert_eq!(made, 2 * 1_010 + 2);
    let left_out = counters.series("processor_watch_left_out_findings");
    let of_kind = |kind: &str| {
        let label = format!("finding={kind},");
        let found = left_out.iter().find(|(labels, _)| labels.starts_with(&label));
        found.map(|(_, count)| *count)
    };
    assert_eq!(of_kind("first_contact"), Some(10_002 - made));
    assert_eq!(of_kind("black_list"), Some(0), "{left_out:?}");
    assert_eq!(counters.dropped_records(FINDINGS_FULL), 10_002 - made);
}

#[test]
fn forged_peers_of_a_list_hide_none_of_another_subject() {
    let mut scene = Scene::new(&quick());
    scene.learn(([93, 184, 1, 34], 443), 512);
    for network in 0..2_000_u32 {
        let [_, _, high, low] = network.to_be_bytes();
        scene.talk_udp("named", ([198, high, low, 66], 53), true, 0, 60);
        let flow = &mut scene.batch.udp.last_mut().unwrap().flow;
        flow.class = Some(PeerClass::AbnormalFlowBlackList);
        flow.kind = Some(FlowKind::Ingress);
    }
    scene.talk("evil", ([192, 0, 2, 66], 443), Events::OPENED, 10, 10);
    scene.batch.tcp[0].flow.class = Some(PeerClass::AbnormalFlowBlackList);
    scene.watch.process(&mut FlowBatch {
        udp: std::mem::take(&mut scene.batch.udp),
        ..FlowBatch::default()
    });
    scene.tick();
    let of_evil = scene
        .findings
        .iter()
        .filter(|finding| &*finding.subject == "evil");
    let kinds: Vec<_> = of_evil.map(|finding| finding.kind).collect();
    assert_eq!(kinds, [FindingKind::BlackList, FindingKind::FirstContact]);
}

#[test]
fn a_flood_of_one_kind_lets_no_other_one_be_repeated() {
    let config = Config {
        learn: Duration::ZERO,
        max_contacts: 100_000.try_into().unwrap(),
        ..quick()
    };
    let mut scene = Scene::new(&config);
    for look in 0..60 {
        flood(&mut scene, "sh", look * 900..(look + 1) * 900);
        scene.talk("evil", ([192, 0, 2, 66], 443), Events::OPENED, 10, 10);
        scene.batch.tcp.last_mut().unwrap().flow.class = Some(PeerClass::AbnormalFlowBlackList);
        scene.tick();
    }
    // More than findings whose repetition is watched for.
    assert!(count(&scene, FindingKind::FirstContact) > 50_000);
    assert_eq!(count(&scene, FindingKind::BlackList), 1);
    assert_eq!(count(&scene, FindingKind::FanOut), 1);
    assert!(scene.watch.outbox.said().len() > 14_000, "not all are forgotten");
}

#[test]
fn four_times_as_much_as_was_reported_is_reported_within_repeat() {
    let mut config = quick();
    config.first_contact.enabled = false;
    config.failure_surge.enabled = false;
    let mut scene = Scene::new(&config);
    scene.learn(([93, 184, 1, 34], 443), 512);
    let mut found = |megabytes: u64| {
        scene.talk("shop", ([93, 184, 1, 34], 443), Events::NONE, megabytes << 20, 0);
        scene.tick();
        scene.tick();
        count(&scene, FindingKind::VolumeSurge)
    };
    // Of the contact, and of all external peers.
    assert_eq!([11, 43, 44, 175, 176].map(&mut found), [2, 2, 4, 4, 6]);
    scene.findings.clear();
    for addresses in [60, 239, 240] {
        flood(&mut scene, "sh", 0..addresses);
        scene.tick();
        scene.tick();
    }
    scene.tick();
    let texts: Vec<_> = scene.explained().into_iter().map(|(text, _)| text).collect();
    assert_eq!(
        texts,
        [
            "sh tried 60 addresses in 10 s; 0 are usual",
            "sh tried 240 addresses in 10 s; 0 are usual"
        ]
    );
}

#[test]
fn forgetting_before_an_interval_has_ended_is_refused() {
    let faults = |forget, interval| {
        let config = Config {
            learn: Duration::ZERO,
            forget: Duration::from_secs(forget),
            interval: Duration::from_secs(interval),
            ..Config::default()
        };
        let faults = config.validate().into_iter();
        faults
            .map(|fault| (fault.path.join("."), fault.message))
            .collect::<Vec<_>>()
    };
    let message = "must be at least `interval`, or all contacts would be forgotten at the end of each";
    let fault = [("forget".to_owned(), message.to_owned())];
    assert_eq!(faults(0, 60), fault);
    assert_eq!(faults(59, 60), fault);
    assert!(faults(60, 60).is_empty());
}
