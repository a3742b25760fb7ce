//! The end of an interval cuts what goes on: it is found all the same, whenever it begins.

use super::*;

const MINUTE: u64 = 60;

/// Offsets from the beginning of an interval at which something begins: each look at sockets.
const OFFSETS: u8 = 12;

/// Looks at sockets in half of an interval.
const HALF: u64 = 6;

fn config() -> Config {
    let mut config = Config {
        learn: Duration::from_secs(MINUTE),
        ..Config::default()
    };
    config.first_contact.enabled = false;
    config.beacon.enabled = false;
    config
}

/// Waits for the next interval, and then for so many looks.
fn wait_for(scene: &mut Scene, offset: u8) {
    while !(scene.now - START).is_multiple_of(MINUTE) {
        scene.tick();
    }
    for _ in 0..offset {
        scene.tick();
    }
}

/// Something that takes half of an interval: the part of `count` that comes in each look.
fn spread(count: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..HALF).map(move |look| look * count / HALF..(look + 1) * count / HALF)
}

/// The findings since the last call, of which only the first is about as much as that: each further one is about four times as much.
fn found(scene: &mut Scene, number: &str) -> Vec<f64> {
    for _ in 0..3 * MINUTE / 5 {
        scene.tick();
    }
    let findings = std::mem::take(&mut scene.findings).into_iter();
    let amounts: Vec<_> = findings
        .map(|finding| {
            let mut numbers = finding.numbers.iter();
            numbers.find(|(name, _)| *name == number).unwrap().1
        })
        .collect();
    assert!(
        amounts.windows(2).all(|two| two[1] >= two[0] * 4.0),
        "{amounts:?}"
    );
    amounts
}

#[derive(Clone, Copy, Debug)]
enum Scan {
    Addresses(u64),
    Ports(u64),
}

/// Scans in half of an interval by a process each, which is `known` for so many intervals: the largest number that is found of each.
fn scans(scan: Scan, known: u64) -> Vec<f64> {
    let mut scene = Scene::new(&config());
    let mut largest = Vec::new();
    for offset in 0..OFFSETS {
        let name = format!("scanner{offset}");
        for _ in 0..known {
            scene.talk(&name, ([10, 8, 0, 1], 80), Events::OPENED, 10, 10);
            for _ in 0..MINUTE / 5 {
                scene.tick();
            }
        }
        wait_for(&mut scene, offset);
        let (Scan::Addresses(count) | Scan::Ports(count)) = scan;
        for part in spread(count) {
            for number in part {
                let to = match scan {
                    Scan::Addresses(_) => ([10, 50, 0, u8::try_from(number).unwrap()], 22),
                    Scan::Ports(_) => ([10, 50, 0, 1], 1_000 + u16::try_from(number).unwrap()),
                };
                scene.talk(&name, to, Events::FAILED, 0, 0);
            }
            scene.tick();
        }
        let number = match scan {
            Scan::Addresses(_) => "destinations",
            Scan::Ports(_) => "ports",
        };
        largest.push(found(&mut scene, number).last().copied().unwrap_or(0.0));
    }
    largest
}

#[test]
fn a_scan_in_half_of_an_interval_is_found_whenever_it_begins() {
    for scan in [
        Scan::Addresses(50),
        Scan::Addresses(60),
        Scan::Addresses(100),
        Scan::Addresses(200),
        Scan::Ports(20),
        Scan::Ports(25),
        Scan::Ports(80),
        Scan::Ports(200),
    ] {
        for known in [0, 12] {
            let largest = scans(scan, known);
            let (Scan::Addresses(least) | Scan::Ports(least)) = scan;
            // If its beginning was reported, that is a quarter of it at least.
            let is_found = |largest: &f64| *largest * 4.0 >= least as f64;
            assert!(largest.iter().all(is_found), "{scan:?}, {known}: {largest:?}");
        }
    }
}

#[test]
fn a_scan_that_takes_an_interval_is_found_if_three_quarters_of_it_are_many() {
    let mut missed = [0; 2];
    for (missed, count) in missed.iter_mut().zip([60, 67]) {
        for offset in 0..OFFSETS {
            let mut scene = Scene::new(&config());
            for _ in 0..2 * MINUTE / 5 {
                scene.tick();
            }
            wait_for(&mut scene, offset);
            for look in 0..2 * HALF {
                for host in look * count / (2 * HALF)..(look + 1) * count / (2 * HALF) {
                    let to = ([10, 50, 0, u8::try_from(host).unwrap()], 22);
                    scene.talk("scanner", to, Events::FAILED, 0, 0);
                }
                scene.tick();
            }
            *missed += u32::from(found(&mut scene, "destinations").is_empty());
        }
    }
    assert_eq!(missed, [2, 0]);
}

#[test]
fn connects_that_fail_for_half_of_an_interval_are_found_whenever_they_begin() {
    let mut scene = Scene::new(&config());
    let end = |number: u8| ([10, 1, number, 5], 443);
    let talk = |scene: &mut Scene| {
        for number in 0..OFFSETS {
            scene.talk("shop", end(number), Events::OPENED, 10, 10);
        }
    };
    for _ in 0..20 * MINUTE / 5 {
        if scene.now.is_multiple_of(MINUTE) {
            talk(&mut scene);
        }
        scene.tick();
    }
    for offset in 0..OFFSETS {
        wait_for(&mut scene, offset);
        for part in spread(25) {
            for _ in part {
                scene.talk("shop", end(offset), Events::FAILED, 0, 0);
            }
            scene.tick();
        }
        let failed = found(&mut scene, "failed");
        assert_eq!(failed.len(), 1, "{offset}: {failed:?}");
    }
}

#[test]
fn bytes_that_move_in_half_of_an_interval_are_found_whenever_they_begin() {
    let mut scene = Scene::new(&config());
    for offset in 0..OFFSETS {
        let (name, to) = (format!("sender{offset}"), ([198, 51, 100 + offset, 5], 443));
        for _ in 0..12 {
            scene.talk(&name, to, Events::NONE, 1_000, 10);
            for _ in 0..MINUTE / 5 {
                scene.tick();
            }
        }
        wait_for(&mut scene, offset);
        for part in spread(12_000_000) {
            scene.talk(&name, to, Events::NONE, part.end - part.start, 0);
            scene.tick();
        }
        for _ in 0..3 * MINUTE / 5 {
            scene.tick();
        }
        // Of the contact, and of all that it sends, with the part of the peer.
        let findings = std::mem::take(&mut scene.findings);
        let texts: Vec<_> = findings.iter().map(|finding| &*finding.text).collect();
        assert_eq!(texts.len(), 2, "{offset}: {texts:?}");
        let of_peer = findings.iter().flat_map(|finding| &finding.numbers);
        let of_peer: Vec<_> = of_peer.filter(|(name, _)| *name == "peer_bytes").collect();
        assert!(
            matches!(of_peer[..], [(_, bytes)] if *bytes > 10_485_760.0),
            "{offset}: {texts:?}"
        );
    }
}

#[test]
fn as_many_other_addresses_in_each_interval_are_usual() {
    let mut scene = Scene::new(&config());
    let mut next = 0;
    for tick in 0..60 * MINUTE / 5 {
        // 36 addresses an interval, each another one.
        for _ in 0..3 {
            next += 1;
            let to = (
                [
                    10,
                    60,
                    u8::try_from(next / 250).unwrap(),
                    u8::try_from(next % 250).unwrap(),
                ],
                80,
            );
            scene.talk("crawler", to, Events::OPENED, 10, 10);
        }
        // And ports, in bursts of 19 at any time.
        if tick % 19 == 0 {
            for port in 0..19 {
                scene.talk("checker", ([10, 61, 0, 1], 1_000 + port), Events::OPENED, 10, 10);
            }
        }
        scene.tick();
    }
    assert!(scene.findings.is_empty(), "{:?}", scene.explained());
}

#[test]
fn a_job_that_was_cut_while_it_was_learned_is_usual_where_it_is_not() {
    let mut config = config();
    config.learn = Duration::from_secs(3600);
    config.volume_surge.bytes = 1_000_000;
    let mut scene = Scene::new(&config);
    for run in 0..6 {
        for _ in 0..20 * MINUTE / 5 {
            if scene.now.is_multiple_of(MINUTE) {
                scene.talk("job", ([10, 8, 0, 1], 80), Events::OPENED, 10, 10);
                scene.talk("job", ([198, 51, 100, 1], 80), Events::NONE, 10, 10);
            }
            scene.tick();
        }
        // Cut in two equal parts in the first hour, and whole later.
        wait_for(&mut scene, if run < 3 { 9 } else { 1 });
        for part in spread(80) {
            for host in part {
                let to = ([10, 9, 0, u8::try_from(host).unwrap()], 80);
                scene.talk("job", to, Events::OPENED, 10, 10);
                scene.talk("job", ([198, 51, 100, 1], 80), Events::NONE, 100_000, 10);
            }
            scene.tick();
        }
    }
    assert!(scene.findings.is_empty(), "{:?}", scene.explained());
}
