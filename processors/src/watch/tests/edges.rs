//! Results that were wrong at the edges: many peers, many subjects, clocks that jump, settings that change.

use flowtap_pipeline::ComponentConfig as _;

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
        "shop sent {bytes} bytes to external peers in 10 s, the largest part (at least {MUCH} bytes) to 203.0.113.7; usually 1024"
    );
    assert_eq!(
        peers(&scene, FindingKind::VolumeSurge),
        [(&*text, "203.0.113.7".to_owned())]
    );
    assert!(
        scene
            .findings
            .last()
            .unwrap()
            .numbers
            .contains(&("peer_bytes", MUCH as f64))
    );
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
        [(
            "shop tried 30 ports of 10.1.0.99 in 10 s; usually 1",
            "10.1.0.99".to_owned()
        )]
    );
}

#[test]
fn traffic_of_subjects_that_have_no_room_is_that_of_other_and_lists_and_scans_are_judged() {
    let mut config = quick();
    config.max_subjects = 100.try_into().unwrap();
    let (mut scene, counters) = counted(&config);
    for _ in 0..13 {
        for name in 0..100 {
            scene.talk(
                &format!("worker-{name}"),
                ([10, 1, 0, 5], 80),
                Events::NONE,
                10,
                10,
            );
        }
        scene.tick();
    }
    assert!(!scene.watch.is_learning());
    scene.talk("evil", ([192, 0, 2, 66], 443), Events::OPENED, 10, 10);
    scene.batch.tcp[0].flow.class = Some(PeerClass::AbnormalFlowBlackList);
    for host in 0..60 {
        scene.talk("evil", ([10, 9, 0, host], 22), Events::FAILED, 0, 0);
    }
    end_interval(&mut scene);
    let texts: Vec<_> = scene.findings.iter().map(|finding| &*finding.text).collect();
    assert_eq!(
        texts,
        [
            "other has a connection with 192.0.2.66, port 443, which is on the black list",
            "other talks to 192.0.2.0/24, port 443 for the first time (address 192.0.2.66)",
            "other tried to reach 10.9.0.0/24, port 22 for the first time (address 10.9.0.0)",
            "other tried 61 addresses in 10 s; usually 0",
        ]
    );
    assert_eq!(counters.dropped_records(SUBJECTS_FULL), 61);
}

#[test]
fn a_flood_of_subjects_makes_room_for_later_ones_and_not_of_those_that_are_settled_or_active() {
    let mut config = quick();
    config.max_subjects = 16.try_into().unwrap();
    let mut scene = Scene::new(&config);
    // `shop` is known for longer, and `agent` is active.
    for _ in 0..20 {
        scene.talk("shop", ([10, 1, 0, 5], 80), Events::OPENED, 10, 10);
        scene.tick();
    }
    for name in 0..30 {
        scene.talk(
            &format!("flood-{name}"),
            ([10, 1, 0, 5], 80),
            Events::OPENED,
            10,
            10,
        );
    }
    for _ in 0..8 {
        scene.talk("agent", ([10, 1, 0, 5], 80), Events::OPENED, 10, 10);
        scene.tick();
    }
    let memory = &scene.watch.memory;
    let named = |name: &str| {
        memory
            .subjects
            .iter()
            .flatten()
            .any(|subject| subject.name == name)
    };
    assert!(named("shop") && named("agent") && named("other"));
    assert!(memory.subjects.iter().flatten().count() <= 17);
    // An eighth of them went, with what they had.
    let floods = (0..30).filter(|name| named(&format!("flood-{name}"))).count();
    assert_eq!(floods, 13);
    assert!(memory.contacts.keys().all(|key| memory.has_subject(key.subject)));
    // The number of one that was forgotten is another's, and so is what was found.
    let said = scene.watch.outbox.said().keys();
    let mut keys = said.filter_map(|(_, key, _)| key.as_ref());
    assert!(keys.all(|key| memory.has_subject(key.subject)));
}

#[test]
fn a_state_file_may_be_named_without_a_folder() {
    let mut config = quick();
    config.state_file = Some("watch.state".into());
    assert!(config.validate().is_empty());
    assert_eq!(config.contract().writes, [Path::new(".")]);
}

#[test]
fn a_state_file_is_not_named_as_one_that_is_written_beside_another() {
    for (name, is_refused) in [
        ("w.metrics.new", true),
        ("w.corrupt", true),
        ("w.new.state", false),
        ("new", false),
        ("watch.state", false),
    ] {
        let mut config = quick();
        config.state_file = Some(Path::new("/var/lib/flowtap").join(name));
        assert_eq!(!config.validate().is_empty(), is_refused, "{name}");
    }
}

#[test]
fn a_state_file_that_is_a_link_is_that_of_its_target() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let (link, target) = (folder.path().join("watch.state"), elsewhere.join("state"));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let mut config = quick();
    config.state_file = Some(link.clone());
    let contract = config.contract();
    assert_eq!(contract.writes, [folder.path(), &elsewhere]);
    assert_eq!(contract.owns[0].path, target);
    for _ in 0..2 {
        let mut scene = Scene::new(&config);
        live(&mut scene, 300);
        drop(scene);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(target.is_file());
    }
}

/// A scene of this pipeline, and what its processor counts.
pub(super) fn of_pipeline(config: &Config, pipeline: &str, now: u64) -> (Scene, Counters) {
    let (mut context, counters) = counted_context(NodeInfo::default());
    context.pipeline = pipeline.into();
    let mut scene = Scene::at(&quick(), now);
    scene.watch = Watch::new(config, &context).unwrap();
    scene.watch.begin(Timestamp::from_nanos(now * 1_000_000_000));
    (scene, counters)
}

#[test]
fn pipelines_with_one_state_file_keep_what_each_has_learned() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.state_file = Some(folder.path().join("watch.state"));
    // A filter leaves one of them less.
    let talk = |scene: &mut Scene, contacts: u8| {
        for _ in 0..24 {
            for net in 0..contacts {
                scene.talk("shop", ([10, 1, net, 5], 443), Events::OPENED, 10, 10);
            }
            scene.tick();
        }
        scene.kinds().len()
    };
    for run in 0..4 {
        let now = START + run * 1_000;
        let (mut metrics, _) = of_pipeline(&config, "metrics", now);
        // The other one is not there in one of the runs.
        let mut logs = (run != 1).then(|| of_pipeline(&config, "logs", now));
        assert_eq!(talk(&mut metrics, 1), 0, "{run}");
        if let Some((logs, ..)) = &mut logs {
            assert_eq!(
                logs.watch.memory.contacts.len(),
                if run == 0 { 0 } else { 5 },
                "{run}"
            );
            assert_eq!(talk(logs, 5), 0, "{run}");
        }
        // Either may be the last one.
        if run.is_multiple_of(2) {
            drop(metrics);
        }
    }
}

#[test]
fn jumps_and_contacts_are_counted_by_pipeline_from_the_start() {
    let (mut scene, counters) = of_pipeline(&quick(), "logs/findings", START);
    let labels = "pipeline=logs/findings,processor=test".to_owned();
    for (name, value) in [
        ("processor_watch_clock_jumps", 0),
        ("processor_watch_contacts", 0),
    ] {
        assert_eq!(counters.series(name), [(labels.clone(), value)], "{name}");
    }
    live(&mut scene, 60);
    for _ in 0..2 {
        scene.now += 86_400;
        live(&mut scene, 30);
    }
    for (name, value) in [
        ("processor_watch_clock_jumps", 2),
        ("processor_watch_contacts", 1),
    ] {
        assert_eq!(counters.series(name), [(labels.clone(), value)], "{name}");
    }
}

/// A scene with `after`, which has what `before` has learned of steady traffic in each network of `networks`.
fn with_other_settings(before: &Config, after: &Config, networks: &[[u8; 3]]) -> (Scene, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = Some(folder.path().join("watch.state"));
    let mut scene = Scene::new(&Config {
        state_file: file.clone(),
        ..before.clone()
    });
    for _ in 0..40 {
        steady(&mut scene, networks);
    }
    assert!(scene.findings.is_empty(), "{:?}", scene.kinds());
    let now = scene.now;
    drop(scene);
    let after = Config {
        state_file: file,
        ..after.clone()
    };
    (Scene::at(&after, now), folder)
}

/// Five seconds in which `shop` sends 2 MiB to an address of each network.
fn steady(scene: &mut Scene, networks: &[[u8; 3]]) {
    for [a, b, c] in networks {
        scene.talk("shop", ([*a, *b, *c, 5], 443), Events::OPENED, 2 << 20, 0);
    }
    scene.tick();
}

#[test]
fn a_longer_or_shorter_interval_is_not_a_surge_and_one_is_found_with_it() {
    let networks = [[93, 184, 1], [10, 1, 0]];
    for seconds in [5, 120] {
        let mut config = quick();
        config.interval = Duration::from_secs(seconds);
        let (mut scene, _folder) = with_other_settings(&quick(), &config, &networks);
        for _ in 0..80 {
            steady(&mut scene, &networks);
        }
        assert!(scene.findings.is_empty(), "{seconds} s: {:?}", scene.explained());
        scene.talk("shop", ([10, 1, 0, 5], 443), Events::NONE, 64 << 30, 0);
        for _ in 0..=seconds / 5 {
            scene.tick();
        }
        assert_eq!(scene.kinds(), [FindingKind::VolumeSurge], "{seconds} s");
        assert!(scene.findings[0].text.contains(&format!(" in {seconds} s; ")));
    }
}

#[test]
fn with_a_shorter_prefix_contacts_are_merged_and_with_a_longer_one_their_parts_are_known() {
    let networks = [[93, 184, 1], [93, 184, 2], [10, 1, 0]];
    for (before, after) in [(24, 16), (24, 0), (16, 24), (0, 24), (24, 32)] {
        let prefix = |length| {
            let mut config = quick();
            config.first_contact.ipv4_prefix = length;
            config
        };
        let (mut scene, _folder) = with_other_settings(&prefix(before), &prefix(after), &networks);
        if after < before {
            // One or two contacts, and no others.
            let contacts = &scene.watch.memory.contacts;
            assert_eq!(contacts.len(), if after == 0 { 1 } else { 2 }, "{contacts:?}");
        }
        for _ in 0..40 {
            steady(&mut scene, &networks);
        }
        assert!(
            scene.findings.is_empty(),
            "{before} to {after}: {:?}",
            scene.explained()
        );
        scene.talk("shop", ([172, 16, 0, 5], 80), Events::OPENED, 10, 0);
        scene.tick();
        assert_eq!(scene.kinds(), [FindingKind::FirstContact], "{before} to {after}");
    }
}

/// The kinds of findings about traffic at these seconds, with looks at sockets every `looks` seconds for six hours.
fn seen_by_looks(looks: u64, mut pause: impl FnMut() -> u64) -> Vec<FindingKind> {
    let mut config = quick();
    config.first_contact.enabled = false;
    let mut scene = Scene::new(&config);
    while scene.watch.is_learning() {
        scene.tick_after(looks);
    }
    let (end, mut next) = (scene.now + 6 * 3600, scene.now);
    while scene.now < end {
        while next < scene.now + looks {
            scene.talk("shop", ([185, 220, 101, 1], 443), Events::NONE, 100, 0);
            next += pause();
        }
        scene.tick_after(looks);
    }
    scene.kinds()
}

#[test]
fn looks_at_sockets_make_no_beacon_of_a_chat_at_any_interval_of_a_receiver() {
    for looks in [1, 5, 10, 20, 30, 60, 120] {
        let mut random = fastrand::Rng::with_seed(looks);
        let chat = seen_by_looks(looks, || random.u64(1..16));
        assert!(chat.is_empty(), "{looks} s: {chat:?}");
        let busy = seen_by_looks(looks, || random.u64(1..3));
        assert!(busy.is_empty(), "{looks} s: {busy:?}");
        let slow = seen_by_looks(looks, || random.u64(40..100));
        assert!(slow.is_empty(), "{looks} s: {slow:?}");
        // A beacon whose pause has four looks is found.
        let period = 60.max(looks * 5);
        let beacon = seen_by_looks(looks, || period);
        assert!(beacon.contains(&FindingKind::Beacon), "{looks} s");
    }
}

#[test]
fn a_beacon_of_four_looks_and_more_is_found_whatever_part_of_a_look_its_pause_has() {
    for (looks, periods) in [
        (5, 20..32),
        (10, 40..62),
        (15, 60..92),
        (30, 120..182),
        (60, 240..362),
    ] {
        for period in periods {
            // Not at whole looks, as a beacon begins when it does.
            let mut begins = std::iter::once(period + looks / 2);
            let beacon = seen_by_looks(looks, || begins.next().unwrap_or(period));
            assert_eq!(beacon, [FindingKind::Beacon], "{period} s, {looks} s");
        }
    }
}

#[test]
fn bytes_that_leave_on_a_connection_that_the_peer_opened_are_a_part_of_what_a_subject_sends() {
    const MUCH: u64 = 50 << 20;
    let served = |scene: &mut Scene, to: [u8; 4], udp: bool, sent: u64| {
        if udp {
            scene.talk_udp("shop", (to, 40_001), true, sent, 10);
            scene.batch.udp.last_mut().unwrap().flow.kind = Some(FlowKind::Ingress);
        } else {
            scene.talk("shop", (to, 40_001), Events::OPENED, sent, 10);
            scene.batch.tcp.last_mut().unwrap().flow.kind = Some(FlowKind::Ingress);
        }
    };
    for udp in [false, true] {
        let mut scene = Scene::new(&quick());
        for _ in 0..24 {
            served(&mut scene, [198, 51, 100, 1], udp, 2_000);
            scene.tick();
        }
        assert!(scene.findings.is_empty(), "{:?}", scene.explained());
        served(&mut scene, [203, 0, 113, 7], udp, MUCH);
        end_interval(&mut scene);
        let texts = peers(&scene, FindingKind::VolumeSurge);
        // In 10 s with the end of an interval in the middle.
        let all = MUCH + 2_000;
        let of_subject = format!(
            "shop sent {all} bytes to external peers in 10 s, the largest part ({MUCH} bytes) to 203.0.113.7; usually 4000"
        );
        assert!(
            texts.contains(&(&*of_subject, "203.0.113.7".to_owned())),
            "{texts:?}"
        );
    }
}

/// Steady traffic for so many seconds.
fn live(scene: &mut Scene, seconds: u64) {
    for _ in 0..seconds / 5 {
        scene.talk("shop", ([10, 1, 0, 5], 443), Events::OPENED, 1_000, 0);
        scene.tick();
    }
}

/// A scan and a new contact are found within an interval, of the length that it has.
fn assert_watches(scene: &mut Scene, network: u8) {
    assert!(scene.findings.is_empty(), "{:?}", scene.explained());
    for host in 0..60 {
        scene.talk("shop", ([10, 9, network, host], 22), Events::FAILED, 0, 0);
    }
    live(scene, 15);
    let texts: Vec<_> = scene.findings.iter().map(|finding| &*finding.text).collect();
    let texts = texts.iter().map(|text| text.split(';').next().unwrap());
    assert_eq!(
        texts.collect::<Vec<_>>(),
        [
            format!(
                "shop tried to reach 10.9.{network}.0/24, port 22 for the first time (address 10.9.{network}.0)"
            ),
            "shop tried 61 addresses in 10 s".to_owned(),
        ]
    );
    let at = scene.findings[1].at.as_nanos() / 1_000_000_000;
    assert!(scene.now - at <= 15, "by the system's clock");
    scene.findings.clear();
}

#[test]
fn a_clock_that_is_set_back_or_ahead_changes_neither_intervals_nor_what_was_learned() {
    const DAYS: i64 = 86_400;
    for jumps in [
        &[-3_600][..],
        &[-90, -90],
        &[15 * DAYS, -15 * DAYS],
        &[20 * DAYS],
        &[-5 * 365 * DAYS],
    ] {
        let (mut scene, _) = counted(&quick());
        live(&mut scene, 300);
        for jump in jumps {
            scene.now = scene.now.checked_add_signed(*jump).unwrap();
            live(&mut scene, 120);
        }
        assert_watches(&mut scene, 1);
    }
}

#[test]
fn steps_of_the_clock_at_successive_looks_are_neither_learning_nor_time() {
    const DAYS: i64 = 86_400;
    let mut config = quick();
    config.learn = Duration::from_secs(600);
    for jumps in [
        // It boots in the past, has a saved time, and is set.
        &[6 * 365 * DAYS, DAYS + 60][..],
        &[20 * DAYS, 20 * DAYS, -40 * DAYS],
        &[
            20 * DAYS,
            -20 * DAYS,
            20 * DAYS,
            -20 * DAYS,
            20 * DAYS,
            -20 * DAYS,
        ],
        // It sleeps, and wakes for one look at a time.
        &[3 * 3_600; 10],
    ] {
        let mut scene = Scene::at(&config, 1_577_836_800);
        live(&mut scene, 60);
        for jump in jumps {
            scene.now = scene.now.checked_add_signed(*jump).unwrap();
            scene.tick();
        }
        live(&mut scene, 520);
        assert!(scene.watch.is_learning(), "{jumps:?}");
        live(&mut scene, 100);
        for jump in jumps {
            scene.now = scene.now.checked_add_signed(*jump).unwrap();
            scene.tick();
        }
        let contacts = scene.watch.memory.contacts.len();
        live(&mut scene, 20);
        assert_eq!((contacts, scene.watch.memory.contacts.len()), (1, 1), "{jumps:?}");
        assert_watches(&mut scene, 1);
    }
}

#[test]
fn boots_without_a_clock_forget_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.state_file = Some(folder.path().join("watch.state"));
    let mut scene = Scene::at(&config, START);
    live(&mut scene, 300);
    for boot in 1..6 {
        for at in [1_577_836_800, START + 3_600 * boot] {
            drop(scene);
            scene = Scene::at(&config, at);
            // Another contact than the first.
            for _ in 0..6 {
                scene.talk("agent", ([10, 2, 0, 5], 80), Events::NONE, 10, 10);
                scene.tick();
            }
        }
    }
    assert_eq!(scene.watch.memory.contacts.len(), 2);
}

#[test]
fn learning_goes_on_when_a_clock_without_a_battery_is_set() {
    let mut scene = Scene::at(&quick(), 20);
    live(&mut scene, 30);
    scene.now = START;
    live(&mut scene, 20);
    assert!(scene.watch.is_learning());
    let learns_until = scene.watch.outbox.newest().watchers()[0].learns_until.unwrap();
    assert!((START..START + 60).contains(&(learns_until.as_nanos() / 1_000_000_000)));
    live(&mut scene, 300);
    assert_watches(&mut scene, 1);
}

#[test]
fn a_restart_with_a_clock_of_another_time_keeps_what_was_learned() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.state_file = Some(folder.path().join("watch.state"));
    config.repeat = Duration::from_secs(10);
    let mut scene = Scene::at(&config, START);
    live(&mut scene, 300);
    for (network, at) in [20, START + 100_000, START - 100_000_000, START + 100_000_000]
        .into_iter()
        .enumerate()
    {
        drop(scene);
        scene = Scene::at(&config, at);
        live(&mut scene, 60);
        // NTP sets it.
        scene.now = START + 1_000;
        live(&mut scene, 60);
        assert!(!scene.watch.is_learning());
        assert_watches(&mut scene, u8::try_from(network).unwrap());
    }
}

#[test]
fn the_time_between_a_stop_and_a_start_is_not_learning() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.state_file = Some(folder.path().join("watch.state"));
    let mut scene = Scene::at(&config, START);
    live(&mut scene, 20);
    drop(scene);
    let mut scene = Scene::at(&config, START + 3_600);
    live(&mut scene, 20);
    scene.talk("shop", ([10, 9, 0, 5], 22), Events::OPENED, 10, 0);
    scene.tick();
    assert!(scene.watch.is_learning() && scene.findings.is_empty());
    live(&mut scene, 60);
    assert_watches(&mut scene, 1);
}

#[test]
fn a_server_whose_port_the_kernel_chose_is_one_contact_at_every_port() {
    for udp in [false, true] {
        let mut scene = Scene::new(&quick());
        let talk = |scene: &mut Scene, port| {
            if udp {
                scene.talk_udp("shop", ([10, 1, 0, 5], port), true, 10, 10);
            } else {
                scene.talk("shop", ([10, 1, 0, 5], port), Events::OPENED, 10, 10);
            }
            scene.tick();
        };
        for _ in 0..20 {
            talk(&mut scene, 443);
        }
        for port in 0..100 {
            talk(&mut scene, 33_000 + port * 100);
        }
        let kind = if udp { " of UDP" } else { "" };
        let text = format!(
            "shop talks to 10.1.0.0/24, an ephemeral port{kind} for the first time (address 10.1.0.5, port 33000)"
        );
        assert_eq!(scene.explained(), [(&*text, &[][..])]);
        assert_eq!(scene.watch.memory.contacts.len(), 2);
        // Others are ports of their own.
        scene.findings.clear();
        talk(&mut scene, 8_080);
        assert_eq!(scene.kinds(), [FindingKind::FirstContact]);
    }
}

#[test]
fn a_peer_on_a_list_is_named_with_its_ephemeral_port() {
    let mut scene = Scene::new(&quick());
    scene.talk("shop", ([192, 0, 2, 66], 50_051), Events::OPENED, 10, 10);
    scene.batch.tcp[0].flow.class = Some(PeerClass::AbnormalFlowBlackList);
    scene.tick();
    let text = "shop has a connection with 192.0.2.66, port 50051, which is on the black list";
    assert_eq!(scene.explained(), [(text, &[][..])]);
}

#[test]
fn a_state_file_that_can_not_be_saved_is_a_warning_and_its_folder_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let warnings = |file: &Path| {
        let config = Config {
            state_file: Some(file.to_owned()),
            ..Config::default()
        };
        let warnings = config.warnings().into_iter();
        warnings.map(|warning| warning.message).collect::<Vec<_>>()
    };
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("a-file"), "").unwrap();
    for name in ["watch.state", "new/watch.state"] {
        assert_eq!(warnings(&file(name)), [""; 0], "{name}");
    }
    assert_eq!(warnings(Path::new("watch.state")), [""; 0]);
    for (name, reason) in [
        ("no/folder/watch.state", "neither the folder"),
        ("a-file/watch.state", "is not a folder"),
        ("a-file/folder/watch.state", "is not in a folder"),
    ] {
        let found = warnings(&file(name));
        assert!(found.len() == 1 && found[0].contains(reason), "{name}: {found:?}");
    }
    let mut config = quick();
    config.state_file = Some(file("new/watch.state"));
    drop(Scene::new(&config));
    assert!(file("new/watch.state").is_file());
}

#[test]
fn limits_of_numbers_are_in_the_messages() {
    let message = |text| {
        flowtap_pipeline::testing::config(FACTORY, text)
            .err()
            .unwrap_or_default()
    };
    for (text, expected) in [
        (
            "{first_contact: {ipv4_prefix: 33}}",
            "a whole number from 0 to 32",
        ),
        (
            "{first_contact: {ipv4_prefix: 300}}",
            "a whole number from 0 to 32",
        ),
        (
            "{first_contact: {ipv4_prefix: -1}}",
            "a whole number from 0 to 32",
        ),
        (
            "{first_contact: {ipv6_prefix: 300}}",
            "a whole number from 0 to 128",
        ),
        ("{volume_surge: {score: 0}}", "must be a finite number above 0"),
    ] {
        let found = message(text);
        assert!(found.contains(expected), "{text}: {found}");
    }
    for text in [
        "{first_contact: {ipv4_prefix: 0}}",
        "{first_contact: {ipv4_prefix: 32, ipv6_prefix: 128}}",
    ] {
        assert_eq!(message(text), "", "{text}");
    }
    let mut config = Config::default();
    config.volume_surge.score = f64::INFINITY;
    assert_eq!(config.validate()[0].message, "must be a finite number above 0");
}
