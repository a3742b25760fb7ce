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

/// The sentences and numbers of this kind.
fn of_kind(scene: &Scene, kind: FindingKind) -> Vec<(&str, &[(&'static str, f64)])> {
    let findings = scene.findings.iter().filter(|finding| finding.kind == kind);
    findings
        .map(|finding| (&*finding.text, &*finding.numbers))
        .collect()
}

#[test]
fn a_flood_of_one_kind_or_subject_leaves_room_for_others_and_what_is_left_out_is_counted_by_kind() {
    let (mut scene, counters) = counted(&quick());
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
fn a_decoy_of_ports_hides_no_addresses_and_a_number_beyond_the_bound_is_at_least_that() {
    let mut config = quick();
    config.first_contact.enabled = false;
    config.failure_surge.enabled = false;
    let (mut scene, counters) = counted(&config);
    scene.learn(([93, 184, 1, 34], 443), 512);
    for port in 1..=20_000 {
        scene.talk("sh", ([127, 0, 0, 1], port), Events::FAILED, 0, 0);
    }
    for port in 1..=30 {
        scene.talk("sh", ([10, 8, 0, 1], port), Events::FAILED, 0, 0);
    }
    flood(&mut scene, "sh", 0..10_000);
    end_interval(&mut scene);
    let numbers = |name, count| {
        [
            (name, count),
            ("usual", 0.0),
            ("largest_usual", 0.0),
            ("seconds", 10.0),
            ("at_least", 1.0),
        ]
    };
    let (addresses, ports) = (numbers("destinations", 8_192.0), numbers("ports", 8_193.0));
    assert_eq!(
        of_kind(&scene, FindingKind::FanOut),
        [
            (
                "sh tried at least 8192 addresses in 10 s; usually 0",
                &addresses[..]
            ),
            (
                "sh tried at least 8193 ports of 127.0.0.1 in 10 s; usually 0",
                &ports[..]
            ),
        ]
    );
    let beyond = 20_000 - 8_193 + 10_002 - 8_192;
    let uncounted = counters.series("processor_watch_uncounted_attempts");
    assert_eq!(uncounted[0].1, beyond);
}

#[test]
fn a_decoy_of_ports_leaves_room_for_those_of_other_addresses() {
    let mut tried = Tried::default();
    let mut push = |address: u8, port: u16| tried.push(&flow("sh", ([127, 0, 0, address], port)), false);
    for address in 1..=20 {
        for port in 0..5_000 {
            push(address, port);
        }
    }
    assert!(push(99, 1) && push(99, 2), "there is room");
    for port in 0..20_000 {
        push(99, port);
    }
    let (most, newest) = tried.most.as_ref().unwrap();
    assert!(most.count >= 5_000 && most.is_least, "{most:?}");
    assert_eq!(newest.remote.addr.to_string(), "127.0.0.99");
    assert!(!tried.destinations().is_least);
}

#[test]
fn a_scan_by_a_subject_of_few_intervals_is_compared_with_their_average() {
    let mut config = quick();
    config.first_contact.enabled = false;
    config.failure_surge.enabled = false;
    for (intervals, then, is_found) in [(2, 100, false), (3, 179, false), (3, 180, true), (7, 180, true)] {
        let mut scene = Scene::new(&config);
        scene.learn(([93, 184, 1, 34], 443), 512);
        for _ in 0..intervals {
            flood(&mut scene, "job", 0..45);
            scene.tick();
            scene.tick();
        }
        assert!(scene.findings.is_empty(), "{:?}", scene.explained());
        flood(&mut scene, "job", 0..then);
        end_interval(&mut scene);
        let text = format!("job tried {then} addresses in 10 s; usually 45");
        let expected: &[&str] = if is_found { &[&text] } else { &[] };
        let texts = scene.explained().into_iter().map(|(text, _)| text);
        assert_eq!(texts.collect::<Vec<_>>(), expected, "{intervals}");
    }
    // A scan that was reported is not usual.
    config.repeat = Duration::from_secs(10);
    let mut scene = Scene::new(&config);
    scene.learn(([93, 184, 1, 34], 443), 512);
    for _ in 0..3 {
        flood(&mut scene, "nmap", 0..300);
        scene.tick();
        scene.tick();
    }
    end_interval(&mut scene);
    assert_eq!(count(&scene, FindingKind::FanOut), 3, "{:?}", scene.explained());
}

#[test]
fn one_address_or_port_is_one() {
    let mut config = quick();
    config.first_contact.enabled = false;
    config.fan_out.destinations = 1.try_into().unwrap();
    config.fan_out.ports = 1.try_into().unwrap();
    let mut scene = Scene::new(&config);
    scene.learn(([93, 184, 1, 34], 443), 512);
    scene.talk("sh", ([10, 8, 0, 1], 80), Events::OPENED, 10, 10);
    end_interval(&mut scene);
    let texts: Vec<_> = scene.explained().into_iter().map(|(text, _)| text).collect();
    assert_eq!(
        texts,
        [
            "sh tried 1 address in 10 s; usually 0",
            "sh tried 1 port of 10.8.0.1 in 10 s; usually 0"
        ]
    );
}

/// A surge of all external peers: so many looks, in each of which 198.51.100.99 gets `large` bytes and 16 others, which come once, `small`.
fn sent_surge(large: u64, small: u64) -> (String, Vec<(&'static str, f64)>, String) {
    let mut config = quick();
    config.first_contact.enabled = false;
    config.interval = Duration::from_secs(60);
    let mut scene = Scene::new(&config);
    for _ in 0..200 {
        scene.talk("shop", ([93, 184, 1, 34], 443), Events::NONE, 512, 0);
        scene.tick();
    }
    while scene.watch.now() != scene.watch.opened {
        scene.tick();
    }
    for look in 0..11 {
        scene.talk("shop", ([198, 51, 100, 99], 443), Events::OPENED, large, 0);
        for other in 0..16 {
            scene.talk("shop", ([198, 52, look, other], 443), Events::OPENED, small, 0);
        }
        scene.tick();
    }
    scene.tick();
    let mut found = scene
        .findings
        .into_iter()
        .filter(|finding| finding.text.contains("external peers"));
    let finding = found.next().unwrap();
    (
        finding.text.to_string(),
        finding.numbers,
        finding.object.to_string(),
    )
}

#[test]
fn the_peer_that_got_the_most_is_named_where_that_is_known_and_its_bytes_are_a_lower_bound_where_they_are() {
    let (text, numbers, object) = sent_surge(1_000_000, 1_100_000);
    assert_eq!(object, "", "{text}");
    assert!(!text.contains("largest part"), "{text}");
    assert!(text.contains("to too many to know which one got the most, at least 1100000 bytes to "));
    assert!(numbers.contains(&("at_least", 1.0)), "{numbers:?}");
    let (text, numbers, object) = sent_surge(3_000_000, 1_100_000);
    assert_eq!(object, "198.51.100.0/24", "{text}");
    assert!(
        text.contains("the largest part (33000000 bytes) to 198.51.100.99"),
        "{text}"
    );
    assert!(!numbers.contains(&("at_least", 1.0)), "{numbers:?}");
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
            "sh tried 60 addresses in 10 s; usually 0",
            "sh tried 240 addresses in 10 s; usually 0"
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

#[test]
fn a_server_that_only_refuses_is_tried_and_not_in_touch() {
    let mut config = quick();
    config.first_contact.enabled = false;
    let mut scene = Scene::new(&config);
    scene.learn(([10, 1, 0, 5], 80), 10);
    for tick in 0..90 {
        if tick % 6 == 0 {
            scene.talk("imp", ([185, 220, 101, 1], 443), Events::FAILED, 0, 0);
        }
        scene.tick();
    }
    let text = "imp tries to reach 185.220.101.0/24, port 443 (address 185.220.101.1) every 30 s (varying by 0 %), 11 times, and no bytes move";
    assert_eq!(of_kind(&scene, FindingKind::Beacon)[0].0, text);
}

#[test]
fn a_beacon_over_several_ports_and_protocols_of_a_range_is_found_once() {
    let mut config = quick();
    config.first_contact.enabled = false;
    // Ports at random, of which none is regular, and UDP likewise.
    let mut random = fastrand::Rng::with_seed(1);
    for learned in [false, true] {
        let mut scene = Scene::new(&config);
        scene.learn(([10, 1, 0, 5], 80), 10);
        if learned {
            scene = Scene::new(&Config {
                learn: Duration::from_secs(700),
                ..config.clone()
            });
        }
        for tick in 0..300 {
            if tick % 6 == 0 {
                match random.u8(0..3) {
                    0 => scene.talk_udp("imp", ([185, 220, 101, 1], 443), true, 200, 100),
                    1 => scene.talk("imp", ([185, 220, 101, 1], 443), Events::OPENED, 200, 100),
                    _ => scene.talk("imp", ([185, 220, 101, 9], 80), Events::OPENED, 200, 100),
                }
                // Chats are irregular, together too.
                let port = 5_000 + random.u16(0..2);
                if random.bool() {
                    scene.talk("chat", ([185, 220, 102, 1], port), Events::OPENED, 200, 100);
                }
            }
            scene.tick();
        }
        let texts: Vec<_> = scene.explained().into_iter().map(|(text, _)| text).collect();
        if learned {
            assert!(texts.is_empty(), "{texts:?}");
            continue;
        }
        let [text] = texts[..] else {
            panic!("{texts:?}");
        };
        assert!(
            text.starts_with("imp is in touch with 185.220.101.0/24 over 3 ports (the newest: 185.220.101."),
            "{text}"
        );
        assert!(
            text.ends_with(" every 30 s (varying by 0 %), 11 times, with at most 300 bytes"),
            "{text}"
        );
        assert!(scene.findings[0].numbers.contains(&("ports", 3.0)));
    }
}
