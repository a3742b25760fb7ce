//! A labelled day, and each rule by itself.
//!
//! The day is made up: services that are used by day and night, nightly backups, jobs, a monitor that reports every minute, people
//! at work. Into it come a scan of a network and one of ports, an exfiltration to a new and to a known peer, a beacon, and a
//! dependency that fails, each at a known time. Findings outside of them are false.

use std::net::Ipv4Addr;
use std::path::Path;

use flowtap_pipeline::{Endpoint, FindingRecord, Flow, NodeInfo, Role};

use super::*;
use crate::testing::context;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Seconds since the epoch at which a test begins.
const START: u64 = 1_750_000_000 / DAY * DAY;

struct Scene {
    watch: Watch,
    batch: FlowBatch,
    now: u64,
    findings: Vec<FindingRecord>,
    random: fastrand::Rng,
}

fn comm(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

impl Scene {
    fn new(config: &Config) -> Self {
        Self::at(config, START)
    }

    /// A scene that begins at this second.
    fn at(config: &Config, now: u64) -> Self {
        let mut watch = Watch::new(config, &context(NodeInfo::default())).unwrap();
        watch.begin(Timestamp::from_nanos(now * 1_000_000_000));
        Self {
            watch,
            batch: FlowBatch::default(),
            now,
            findings: Vec::new(),
            random: fastrand::Rng::with_seed(7),
        }
    }

    /// Traffic of the process `name`, as a client, to an address and a port.
    fn talk(&mut self, name: &str, to: ([u8; 4], u16), events: Events, sent: u64, received: u64) {
        let local = Endpoint::new(Ipv4Addr::new(10, 0, 0, 1).into(), 40_000);
        let remote = Endpoint::new(Ipv4Addr::from(to.0).into(), to.1);
        let flow = Flow {
            comm: comm(name),
            kind: Some(FlowKind::Egress),
            role: Role::Client,
            class: Some(if to.0[0] == 10 {
                PeerClass::InternalHosts
            } else {
                PeerClass::ExternalHosts
            }),
            ..Flow::new(local, remote)
        };
        self.batch.tcp.push(TcpRecord {
            events,
            sent_bytes: sent.cast_signed(),
            received_bytes: received.cast_signed(),
            ..TcpRecord::new(flow)
        });
    }

    /// Passes what was said on, and lets five seconds pass.
    fn tick(&mut self) {
        self.watch.process(&mut self.batch);
        self.batch.clear();
        self.now += 5;
        self.watch
            .advance(Timestamp::from_nanos(self.now * 1_000_000_000), &mut self.batch);
        self.findings.append(&mut self.batch.findings);
    }

    /// About `amount`, by a fifth more or less.
    fn about(&mut self, amount: u64) -> u64 {
        amount * (80 + self.random.u64(0..40)) / 100
    }

    fn kinds(&self) -> Vec<FindingKind> {
        self.findings.iter().map(|finding| finding.kind).collect()
    }

    /// Five seconds of ordinary traffic.
    fn ordinary(&mut self) {
        let of_day = self.now % DAY;
        let hour = of_day / HOUR;
        let at_work = (8..18).contains(&hour);
        // A service with its database and a cache.
        for to in [([10, 1, 0, 5], 5432), ([10, 1, 0, 6], 6379)] {
            let sent = self.about(if at_work { 40_000 } else { 8_000 });
            let events = if self.random.u32(0..10) == 0 {
                Events::OPENED
            } else {
                Events::NONE
            };
            self.talk("shop", to, events, sent, sent * 5);
        }
        // A payment provider, which fails now and then.
        if self.random.u32(0..4) == 0 {
            let fails = self.random.u32(0..100) == 0;
            let events = if fails { Events::FAILED } else { Events::OPENED };
            let bytes = if fails { 0 } else { 3_000 };
            self.talk("shop", ([203, 0, 113, 10], 443), events, bytes, bytes);
        }
        // A monitor that reports every minute, in small: it has always done so.
        if of_day.is_multiple_of(MINUTE) {
            self.talk("monitor", ([198, 51, 100, 20], 443), Events::OPENED, 2_000, 300);
        }
        // A backup, every night.
        if hour == 2 {
            let sent = self.about(200_000_000);
            self.talk("backup", ([198, 51, 100, 40], 443), Events::NONE, sent, 1_000);
        }
        // People: forty sites that they know, at irregular times.
        if at_work && self.random.u32(0..3) == 0 {
            let site = self.random.u8(0..40);
            let received = self.random.u64(10_000..2_000_000);
            self.talk(
                "browser",
                ([93, 184, site, 34], 443),
                Events::OPENED,
                4_000,
                received,
            );
        }
        // A crawler that fetches from thirty addresses an hour, in bursts.
        if of_day % HOUR < 30 {
            for host in 0..6 {
                let to = (
                    [192, 0, 2, u8::try_from(of_day % HOUR / 5).unwrap() * 6 + host],
                    80,
                );
                self.talk("crawler", to, Events::OPENED, 500, 20_000);
            }
        }
    }

    fn live(&mut self, seconds: u64) {
        for _ in 0..seconds / 5 {
            self.ordinary();
            self.tick();
        }
    }
}

#[test]
fn a_quiet_day_after_a_day_of_learning_has_at_most_one_finding_of_a_kind() {
    let mut scene = Scene::new(&Config::default());
    scene.live(DAY);
    assert!(scene.findings.is_empty(), "while it learns: {:?}", scene.kinds());
    scene.live(DAY);
    for kind in FindingKind::ALL {
        let found = scene.findings.iter().filter(|finding| finding.kind == kind);
        let texts: Vec<_> = found.map(|finding| &finding.text).collect();
        assert!(texts.len() <= 1, "{texts:?}");
    }
}

/// Attacks that are put into the day: the kind of the expected finding, and a part of its text.
const ATTACKS: [(FindingKind, &str); 7] = [
    (FindingKind::FanOut, "malware tried 60 addresses"),
    (FindingKind::FanOut, "malware tried 30 ports of 10.1.0.99"),
    (FindingKind::FirstContact, "shop talks to 45.33.32.0/24"),
    (FindingKind::VolumeSurge, "shop sent"),
    (FindingKind::VolumeSurge, "browser moved"),
    (FindingKind::Beacon, "malware is in touch with 185.220.101.0/24"),
    (FindingKind::FailureSurge, "shop to 203.0.113.0/24"),
];

#[test]
fn attacks_and_failures_in_a_labelled_day_are_found_and_little_else_is() {
    let mut scene = Scene::new(&Config::default());
    // The day before, the program was there already, and did little.
    for _ in 0..DAY / HOUR {
        scene.talk("malware", ([10, 1, 0, 5], 80), Events::OPENED, 100, 100);
        scene.live(HOUR);
    }
    assert!(scene.findings.is_empty());
    for hour in 0..24 {
        match hour {
            3 => (0..60).for_each(|host| {
                scene.talk("malware", ([10, 9, 0, host], 22), Events::FAILED, 0, 0);
            }),
            5 => (0..30).for_each(|port| {
                scene.talk("malware", ([10, 1, 0, 99], 1000 + port), Events::FAILED, 0, 0);
            }),
            9 => scene.talk(
                "shop",
                ([45, 33, 32, 156], 443),
                Events::OPENED,
                500_000_000,
                10_000,
            ),
            11 => scene.talk(
                "browser",
                ([93, 184, 7, 34], 443),
                Events::NONE,
                900_000_000,
                10_000,
            ),
            _ => {}
        }
        if hour == 14 {
            for minute in 0..60 {
                for _ in 0..25 {
                    scene.talk("shop", ([203, 0, 113, 10], 443), Events::FAILED, 0, 0);
                }
                if minute == 30 {
                    break;
                }
                scene.live(MINUTE);
            }
            scene.live(30 * MINUTE);
            continue;
        }
        if hour >= 16 {
            for _ in 0..12 {
                let jitter = scene.random.u64(0..3) * 5;
                scene.talk("malware", ([185, 220, 101, 1], 443), Events::OPENED, 300, 200);
                scene.live(290 + jitter);
            }
            continue;
        }
        scene.live(HOUR);
    }
    let is_of = |finding: &FindingRecord, (kind, text): (FindingKind, &str)| {
        finding.kind == kind && finding.text.contains(text)
    };
    for attack in ATTACKS {
        let found = scene.findings.iter().any(|finding| is_of(finding, attack));
        let texts: Vec<_> = scene.findings.iter().map(|finding| &finding.text).collect();
        assert!(found, "{attack:?} is not among {texts:#?}");
    }
    // Findings that belong to an attack under another name: the first contacts of what the program reached.
    let belongs = |finding: &FindingRecord| {
        finding.text.contains("malware") || ATTACKS.into_iter().any(|attack| is_of(finding, attack))
    };
    let wrong: Vec<_> = scene
        .findings
        .iter()
        .filter(|finding| !belongs(finding))
        .map(|finding| &finding.text)
        .collect();
    let precision = 1.0 - wrong.len() as f64 / scene.findings.len() as f64;
    assert!(precision >= 0.9, "{precision}: {wrong:#?}");
}

fn quick() -> Config {
    Config {
        learn: std::time::Duration::from_secs(60),
        interval: std::time::Duration::from_secs(10),
        ..Config::default()
    }
}

#[test]
fn a_first_contact_is_found_once_and_not_in_traffic_that_others_opened() {
    let mut scene = Scene::new(&quick());
    for _ in 0..20 {
        scene.talk("shop", ([10, 1, 0, 5], 5432), Events::NONE, 10, 10);
        scene.tick();
    }
    for _ in 0..5 {
        scene.talk("shop", ([10, 1, 0, 7], 5432), Events::OPENED, 10, 10);
        scene.tick();
    }
    assert!(scene.findings.is_empty(), "the same /24: {:?}", scene.kinds());
    for _ in 0..5 {
        scene.talk("shop", ([10, 2, 0, 7], 5432), Events::OPENED, 10, 10);
        scene.tick();
    }
    assert_eq!(scene.kinds(), [FindingKind::FirstContact]);
    let text = "shop talks to 10.2.0.0/24, port 5432 for the first time (address 10.2.0.7)";
    assert_eq!(&*scene.findings[0].text, text);
    scene.talk("shop", ([10, 3, 0, 7], 80), Events::OPENED, 10, 10);
    scene.batch.tcp[0].flow.kind = Some(FlowKind::Ingress);
    scene.tick();
    assert_eq!(scene.findings.len(), 1, "the peer opened it");
}

#[test]
fn lists_are_judged_from_the_start_and_repeated_after_a_while() {
    let mut config = quick();
    config.repeat = std::time::Duration::from_secs(100);
    let mut scene = Scene::new(&config);
    for _ in 0..30 {
        scene.talk("shop", ([192, 0, 2, 66], 80), Events::NONE, 10, 10);
        scene.batch.tcp[0].flow.class = Some(PeerClass::AbnormalFlowBlackList);
        scene.tick();
    }
    assert_eq!(scene.kinds(), [FindingKind::BlackList; 2]);
    assert_eq!(
        &*scene.findings[0].text,
        "shop has a connection with 192.0.2.66, port 80, which is on the black list"
    );
}

#[test]
fn a_flood_of_contacts_is_bounded_and_counted() {
    let mut config = quick();
    config.max_contacts = 100.try_into().unwrap();
    config.fan_out.enabled = false;
    let mut scene = Scene::new(&config);
    for high in 0..20 {
        for low in 0..50 {
            scene.talk("shop", ([45, high, low, 1], 80), Events::OPENED, 10, 10);
        }
        scene.tick();
    }
    assert_eq!(scene.watch.memory.contacts.len(), 100);
}

#[test]
fn a_flood_of_findings_is_bounded_and_counted() {
    let mut config = quick();
    config.fan_out.enabled = false;
    let mut scene = Scene::new(&config);
    scene.tick();
    while scene.watch.is_learning() {
        scene.tick();
    }
    for high in 0..30 {
        for low in 0..50 {
            scene.talk("shop", ([45, high, low, 1], 80), Events::OPENED, 10, 10);
        }
    }
    scene.watch.process(&mut scene.batch);
    assert_eq!(scene.watch.outbox.left_out, 500);
    scene.batch.clear();
    scene.tick();
    assert_eq!((scene.findings.len(), scene.watch.outbox.left_out), (1_000, 0));
}

#[test]
fn records_before_the_first_watermark_after_a_restart_are_watched_as_those_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.state_file = Some(folder.path().join("watch.state"));
    let mut scene = Scene::new(&config);
    for _ in 0..20 {
        scene.talk("shop", ([10, 1, 0, 5], 5432), Events::OPENED, 10, 10);
        scene.talk("agent", ([198, 51, 100, 20], 443), Events::OPENED, 10, 10);
        scene.tick();
    }
    let now = scene.now + 5;
    drop(scene);
    let mut scene = Scene::at(&config, now);
    let known = scene.watch.memory.clone();
    scene.talk("shop", ([10, 1, 0, 5], 5432), Events::OPENED, 10, 10);
    scene.talk("shop", ([10, 2, 0, 5], 5432), Events::OPENED, 10, 10);
    scene.watch.process(&mut scene.batch);
    scene.batch.clear();
    for _ in 0..5 {
        scene.tick();
    }
    let texts: Vec<_> = scene.findings.iter().map(|finding| &*finding.text).collect();
    assert_eq!(
        texts,
        ["shop talks to 10.2.0.0/24, port 5432 for the first time (address 10.2.0.5)"]
    );
    let memory = &scene.watch.memory;
    assert_eq!(memory.contacts.len(), 3, "the new one, and those before");
    assert_eq!(memory.subjects.iter().flatten().count(), 2);
    for (key, contact) in &memory.contacts {
        let seen = if known.contacts.contains_key(key) && key.subject == 1 {
            known.contacts[key].last
        } else {
            u32::try_from(now).unwrap()
        };
        assert_eq!(contact.last, seen, "{key:?}");
    }
}

#[test]
fn a_restart_does_not_repeat_a_finding_before_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.state_file = Some(folder.path().join("watch.state"));
    config.repeat = std::time::Duration::from_secs(100);
    let on_list = |scene: &mut Scene| {
        scene.talk("shop", ([192, 0, 2, 66], 80), Events::NONE, 10, 10);
        scene.batch.tcp[0].flow.class = Some(PeerClass::AbnormalFlowBlackList);
        scene.tick();
        std::mem::take(&mut scene.findings).len()
    };
    let mut scene = Scene::new(&config);
    assert_eq!(on_list(&mut scene), 1);
    let now = scene.now;
    drop(scene);
    let mut scene = Scene::at(&config, now + 50);
    assert_eq!(on_list(&mut scene), 0);
    drop(scene);
    let mut scene = Scene::at(&config, now + 100);
    assert_eq!(on_list(&mut scene), 1);
}

#[test]
fn what_was_learned_survives_a_restart_and_what_can_not_be_read_is_an_error_only_for_the_strict() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("watch.state");
    let mut config = quick();
    config.state_file = Some(file.clone());
    let mut scene = Scene::new(&config);
    for _ in 0..20 {
        scene.talk("shop", ([10, 1, 0, 5], 5432), Events::NONE, 10, 10);
        scene.tick();
    }
    let now = scene.now;
    drop(scene);
    let mut scene = Scene::at(&config, now);
    scene.talk("shop", ([10, 1, 0, 5], 5432), Events::OPENED, 10, 10);
    scene.tick();
    scene.talk("shop", ([10, 2, 0, 5], 5432), Events::OPENED, 10, 10);
    scene.tick();
    assert_eq!(
        scene.kinds(),
        [FindingKind::FirstContact],
        "it has learned already"
    );
    drop(scene);
    std::fs::write(Path::new(&file), "something else").unwrap();
    let mut strict = context(NodeInfo::default());
    // One that never ran, as of `flowtap validate`, leaves the file as it is.
    assert!(Watch::new(&config, &strict).is_ok());
    assert_eq!(std::fs::read(&file).unwrap(), b"something else");
    config.state_file = Some(folder.path().to_owned());
    let error = Watch::new(&config, &strict).unwrap_err().to_string();
    assert!(
        error.contains("is a directory; expected a regular file"),
        "{error}"
    );
    config.state_file = Some(file);
    strict.strict = true;
    let error = Watch::new(&config, &strict).unwrap_err().to_string();
    assert!(error.contains("state_file") && error.contains("hint:"), "{error}");
}
