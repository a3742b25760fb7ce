//! The numbers of findings: on the page, rounded, and of the same intervals.

use std::collections::BTreeSet;

use flowtap_pipeline::ComponentConfig;

use super::*;
use crate::watch::numbers::Number;

/// The section of the page about a kind.
fn section(page: &str, kind: FindingKind) -> &str {
    let sections = page.split("\n### ").skip(1);
    let is_of_kind = |section: &&str| {
        let title = section.lines().next().unwrap_or_default();
        title.split(", ").any(|name| name == kind.as_str())
    };
    let found = sections.filter(is_of_kind).collect::<Vec<_>>();
    assert_eq!(found.len(), 1, "{kind}");
    found[0].split("\n## ").next().unwrap()
}

#[test]
fn the_page_has_every_number_of_each_kind_and_no_other() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/findings.md");
    let page = std::fs::read_to_string(page).unwrap();
    for kind in FindingKind::ALL {
        let rows = section(&page, kind).lines();
        let documented: BTreeSet<_> = rows
            .filter_map(|row| row.strip_prefix("| `")?.split_once("` | "))
            .map(|(name, _)| name)
            .collect();
        let numbers = Number::ALL.iter();
        let made: BTreeSet<_> = numbers
            .filter(|number| number.kinds().contains(&kind))
            .map(|number| number.name())
            .collect();
        assert_eq!(documented, made, "{kind}");
    }
}

#[test]
fn bytes_are_integers_and_ratios_have_three_digits() {
    for (number, value, rounded) in [
        (Number::UsualBytes, 39_999.992_170_723_68, 40_000.0),
        (Number::LargestUsualBytes, 0.4, 0.0),
        (Number::Ratio, 2.0 / 3.0, 0.667),
        (Number::UsualRatio, 0.000_4, 0.0),
        (Number::Usual, 4.933_333, 4.9),
        (Number::Score, 79.999_999, 80.0),
        (Number::Seconds, 0.5, 0.5),
    ] {
        assert_eq!(number.of(value), (number.name(), rounded));
    }
    // The logarithms of a history have 24 bits: 40,000 bytes come back as 39,999.99.
    let mut scene = Scene::new(&quick());
    scene.learn(([93, 184, 1, 34], 443), 20_000);
    scene.talk("shop", ([93, 184, 1, 34], 443), Events::NONE, 64 << 20, 0);
    for _ in 0..3 {
        scene.tick();
    }
    let found = scene.explained();
    assert!(!found.is_empty());
    for (text, numbers) in found {
        assert!(text.ends_with("; usually 40000"), "{text}");
        assert!(numbers.contains(&("usual_bytes", 40_000.0)), "{numbers:?}");
    }
}

fn scan(scene: &mut Scene, addresses: u8) {
    for host in 0..addresses {
        scene.talk("shop", ([10, 1, 0, host], 80), Events::OPENED, 10, 10);
    }
    scene.tick();
    scene.tick();
}

fn of(numbers: &[(&str, f64)], name: &str) -> f64 {
    numbers.iter().find(|(of, _)| *of == name).unwrap().1
}

#[test]
fn intervals_that_were_reported_are_neither_in_the_average_nor_in_the_largest_usual_number() {
    let mut config = quick();
    config.first_contact.enabled = false;
    config.repeat = Duration::from_secs(10);
    let mut scene = Scene::new(&config);
    scene.learn(([10, 1, 0, 5], 80), 10);
    for _ in 0..2 {
        scan(&mut scene, 60);
        scan(&mut scene, 1);
    }
    scene.tick();
    scene.tick();
    let scans = [
        ("destinations", 60.0),
        ("usual", 1.0),
        ("largest_usual", 1.0),
        ("seconds", 10.0),
    ];
    let text = "shop tried 60 addresses in 10 s; usually 1";
    assert_eq!(scene.explained(), [(text, &scans[..]); 2]);
    // So many in each interval are usual after a while, and are a part of both numbers then.
    scene.findings.clear();
    for _ in 0..30 {
        scan(&mut scene, 60);
    }
    let reported = scene.findings.len();
    assert!((3..8).contains(&reported), "{:?}", scene.explained());
    scene.findings.clear();
    scan(&mut scene, 250);
    scene.tick();
    scene.tick();
    let found = scene.explained();
    let [(_, numbers)] = found[..] else {
        panic!("{found:?}");
    };
    let (usual, largest) = (of(numbers, "usual"), of(numbers, "largest_usual"));
    assert!(
        usual > 30.0 && usual <= largest && (largest - 60.0).abs() < 0.5,
        "{numbers:?}"
    );
}

#[test]
fn the_largest_usual_amount_is_not_below_the_usual_one() {
    let mut config = quick();
    config.repeat = Duration::from_secs(10);
    let mut scene = Scene::new(&config);
    scene.learn(([10, 1, 0, 5], 80), 512);
    // Within an hour these are one occasion.
    for _ in 0..40 {
        scene.talk("shop", ([10, 1, 0, 5], 80), Events::NONE, 64 << 20, 0);
        scene.tick();
        scene.tick();
    }
    scene.findings.clear();
    scene.talk("shop", ([10, 1, 0, 5], 80), Events::NONE, 1 << 30, 0);
    for _ in 0..3 {
        scene.tick();
    }
    let found = scene.explained();
    let [(_, numbers)] = found[..] else {
        panic!("{found:?}");
    };
    let is_of_each = |name| (of(numbers, name) - f64::from(64 << 20)).abs() < 0.5;
    assert!(
        is_of_each("usual_bytes") && is_of_each("largest_usual_bytes"),
        "{numbers:?}"
    );
}

#[test]
fn the_length_of_an_interval_is_up_to_the_scan_that_ends_it() {
    let mut config = quick();
    config.first_contact.enabled = false;
    config.interval = Duration::from_secs(5);
    config.learn = Duration::from_secs(1);
    config.repeat = Duration::from_secs(1);
    let mut watch = Watch::new(&config, &context(NodeInfo::default())).unwrap();
    // It begins before the receivers are attached, and these scan at whole seconds.
    watch.begin(Timestamp::from_nanos(START * 1_000_000_000 + 380_000_000));
    let mut scene = Scene {
        watch,
        batch: FlowBatch::default(),
        now: START,
        findings: Vec::new(),
    };
    for second in 0..11 {
        if [3, 8].contains(&second) {
            for host in 0..60 {
                scene.talk("shop", ([10, 1, second, host], 80), Events::OPENED, 10, 10);
            }
        }
        scene.tick_after(1);
    }
    let seconds = scene
        .findings
        .iter()
        .map(|finding| of(&finding.numbers, "seconds"));
    assert_eq!(seconds.collect::<Vec<_>>(), [6.0, 5.0], "{:?}", scene.explained());
}

#[test]
fn settings_beyond_what_is_counted_are_warned_of_by_their_key() {
    type Change = fn(&mut Config, usize);
    let keys = |change: Change, number: usize| {
        let mut config = Config::default();
        change(&mut config, number);
        let warnings = config.warnings().into_iter();
        let warnings = warnings.filter(|warning| warning.message.contains("is never reached"));
        warnings.map(|warning| warning.path.join(".")).collect::<Vec<_>>()
    };
    let bounds: [(usize, &str, Change); 4] = [
        (8192, "fan_out.destinations", |config, number| {
            config.fan_out.destinations = number.try_into().unwrap();
        }),
        (8193, "fan_out.ports", |config, number| {
            config.fan_out.ports = number.try_into().unwrap();
        }),
        (u32::MAX as usize, "failure_surge.failures", |config, number| {
            config.failure_surge.failures = number.try_into().unwrap();
        }),
        (320, "volume_surge.score", |config, number| {
            config.volume_surge.score = number as f64;
        }),
    ];
    for (most, key, change) in bounds {
        assert_eq!(keys(change, most), [""; 0], "{key}");
        assert_eq!(keys(change, most + 1), [key]);
    }
    let off: Change = |config, number| {
        config.fan_out.enabled = false;
        config.fan_out.ports = number.try_into().unwrap();
    };
    assert_eq!(keys(off, 9000), [""; 0]);
}
