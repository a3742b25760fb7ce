//! A labelled day: precision and recall of each kind, over several seeds.
//!
//! The day is made up: services that are used by day and night, nightly backups, jobs, a monitor that reports every minute, a resolver,
//! time and name servers, people at work. Into a second one come scans, exfiltrations, beacons, failures and peers of the black list, at
//! times that depend on the seed. Each is labelled with the kind of the finding that it has to lead to, the ends, and the span of time.
//! A finding that no label of its kind has is false.

use std::fmt::Write as _;

use super::*;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const SEEDS: [u64; 6] = [3, 7, 11, 23, 42, 98_765];

/// A scene with chance.
struct Day {
    scene: Scene,
    random: fastrand::Rng,
}

impl Day {
    fn new(config: &Config, seed: u64) -> Self {
        Self {
            scene: Scene::new(config),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// About `amount`, by a fifth more or less.
    fn about(&mut self, amount: u64) -> u64 {
        amount * (80 + self.random.u64(0..40)) / 100
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.random.u32(0..count) == 0
    }

    /// Five seconds of ordinary traffic.
    fn ordinary(&mut self) {
        let of_day = self.scene.now % DAY;
        let hour = of_day / HOUR;
        let at_work = (8..18).contains(&hour);
        // A service with its database and a cache.
        for to in [([10, 1, 0, 5], 5432), ([10, 1, 0, 6], 6379)] {
            let sent = self.about(if at_work { 40_000 } else { 8_000 });
            let events = if self.one_in(10) {
                Events::OPENED
            } else {
                Events::NONE
            };
            self.scene.talk("shop", to, events, sent, sent * 5);
        }
        // It asks for names.
        let (opened, sent) = (self.one_in(2), self.about(100));
        self.scene
            .talk_udp("shop", ([10, 1, 0, 2], 53), opened, sent, sent * 2);
        // A payment provider, which fails now and then.
        if self.one_in(4) {
            let fails = self.one_in(100);
            let events = if fails { Events::FAILED } else { Events::OPENED };
            let bytes = if fails { 0 } else { 3_000 };
            self.scene
                .talk("shop", ([203, 0, 113, 10], 443), events, bytes, bytes);
        }
        // A monitor that reports every minute, in small, and a time server: they have always done so.
        if of_day.is_multiple_of(MINUTE) {
            self.scene
                .talk("monitor", ([198, 51, 100, 20], 443), Events::OPENED, 2_000, 300);
            self.scene
                .talk_udp("chronyd", ([192, 0, 2, 123], 123), true, 48, 48);
        }
        // A backup, every night.
        if hour == 2 {
            let sent = self.about(200_000_000);
            self.scene
                .talk("backup", ([198, 51, 100, 40], 443), Events::NONE, sent, 1_000);
        }
        // People: forty sites that they know, at irregular times, a third over QUIC.
        if at_work && self.one_in(3) {
            let site = self.random.u8(0..40);
            let received = self.random.u64(10_000..2_000_000);
            let to = ([93, 184, site, 34], 443);
            if site.is_multiple_of(3) {
                self.scene.talk_udp("browser", to, true, 4_000, received);
            } else {
                self.scene.talk("browser", to, Events::OPENED, 4_000, received);
            }
        }
        // A resolver, which asks servers that it has never asked before.
        for _ in 0..3 {
            let server = [
                self.random.u8(11..120),
                self.random.u8(..),
                self.random.u8(..),
                53,
            ];
            self.scene.talk_udp("unbound", (server, 53), true, 60, 300);
        }
        // A crawler that fetches from thirty addresses an hour, in bursts.
        if of_day % HOUR < 30 {
            for host in 0..6 {
                let to = (
                    [192, 0, 2, u8::try_from(of_day % HOUR / 5).unwrap() * 6 + host],
                    80,
                );
                self.scene.talk("crawler", to, Events::OPENED, 500, 20_000);
            }
        }
        // A program that does little.
        if of_day.is_multiple_of(HOUR) {
            self.scene
                .talk("agent", ([10, 1, 0, 5], 80), Events::OPENED, 100, 100);
        }
    }

    fn live(&mut self, seconds: u64) {
        for _ in 0..seconds / 5 {
            self.ordinary();
            self.scene.tick();
        }
    }
}

/// A change that is put into the day.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A scan of so many addresses of 10.9.`net`.0/24, in 30 s.
    Scan { net: u8, hosts: u8, udp: bool },
    /// A scan of so many ports of 10.1.0.99, in 30 s.
    Ports(u16),
    /// A lot of bytes to a new peer, within a minute.
    ToNew(u64),
    /// The same to one that is known.
    ToKnown(u64),
    /// The same in questions to the name server.
    Tunnel(u64),
    /// Connections of 500 bytes, with a pause in seconds and the most that it varies by, for four hours.
    Beacon { period: u64, jitter: u64 },
    /// The same on one connection that is silent otherwise.
    Silent { period: u64 },
    /// 25 connects a minute that fail, for half an hour: of the payment provider, or of the database.
    Failure { provider: bool },
    /// A connection with a peer on the black list.
    Listed,
    /// A site that was not visited before. It is as new as that of an attacker.
    NewSite(u8),
}

/// A finding that has to be made.
#[derive(Debug)]
struct Label {
    kind: FindingKind,
    subject: &'static str,
    object: String,
    from: u64,
    to: u64,
    found: bool,
}

/// Where `change` goes to: beacons have an end of their own each.
const BEACONS: [([u8; 4], u16); 2] = [([185, 220, 101, 1], 443), ([185, 220, 103, 1], 8443)];

impl Change {
    /// Seconds that it takes.
    const fn length(self) -> u64 {
        match self {
            Self::Scan { .. } | Self::Ports(_) => 30,
            Self::ToNew(_) | Self::ToKnown(_) | Self::Tunnel(_) => MINUTE,
            Self::Beacon { .. } | Self::Silent { .. } => 4 * HOUR,
            Self::Failure { .. } => 30 * MINUTE,
            Self::Listed | Self::NewSite(_) => 5,
        }
    }

    /// The kinds and ends of the findings that it has to lead to.
    fn labels(self) -> Vec<(FindingKind, &'static str, String)> {
        use FindingKind::{Beacon, BlackList, FailureSurge, FanOut, FirstContact, VolumeSurge};
        let text = str::to_owned;
        match self {
            Self::Scan { net, .. } => vec![
                (FanOut, "agent", text("")),
                (FirstContact, "agent", format!("10.9.{net}.0/24")),
            ],
            Self::Ports(_) => vec![
                (FanOut, "agent", text("10.1.0.99")),
                (FirstContact, "agent", text("10.1.0.0/24")),
            ],
            Self::ToNew(_) => vec![
                (VolumeSurge, "shop", text("")),
                (FirstContact, "shop", text("45.33.32.0/24")),
            ],
            Self::ToKnown(_) => vec![
                (VolumeSurge, "browser", text("")),
                (VolumeSurge, "browser", text("93.184.7.0/24")),
            ],
            Self::Tunnel(_) => vec![(VolumeSurge, "shop", text("10.1.0.0/24"))],
            Self::Beacon { .. } => vec![
                (Beacon, "agent", text("185.220.101.0/24")),
                (FirstContact, "agent", text("185.220.101.0/24")),
            ],
            Self::Silent { .. } => vec![
                (Beacon, "agent", text("185.220.103.0/24")),
                (FirstContact, "agent", text("185.220.103.0/24")),
            ],
            Self::Failure { provider: true } => vec![(FailureSurge, "shop", text("203.0.113.0/24"))],
            Self::Failure { provider: false } => vec![(FailureSurge, "shop", text("10.1.0.0/24"))],
            Self::Listed => vec![
                (BlackList, "browser", text("198.18.7.0/24")),
                (FirstContact, "browser", text("198.18.7.0/24")),
            ],
            Self::NewSite(site) => vec![(FirstContact, "browser", format!("93.184.{site}.0/24"))],
        }
    }
}

impl Day {
    /// The traffic of a change that has been going on for `since` seconds.
    fn act(&mut self, change: Change, since: u64, next: &mut u64) {
        let scene = &mut self.scene;
        match change {
            Change::Scan { net, hosts, udp } => {
                let (first, end) = (since * u64::from(hosts) / 30, (since + 5) * u64::from(hosts) / 30);
                for host in first..end {
                    let to = ([10, 9, net, u8::try_from(host).unwrap()], 22);
                    if udp {
                        scene.talk_udp("agent", (to.0, 161), true, 40, 0);
                    } else {
                        scene.talk("agent", to, Events::FAILED, 0, 0);
                    }
                }
            }
            Change::Ports(ports) => {
                let ports = u64::from(ports);
                for port in since * ports / 30..(since + 5) * ports / 30 {
                    let to = ([10, 1, 0, 99], 1_000 + u16::try_from(port).unwrap());
                    scene.talk("agent", to, Events::FAILED, 0, 0);
                }
            }
            Change::ToNew(bytes) => {
                scene.talk(
                    "shop",
                    ([45, 33, 32, 156], 443),
                    Events::OPENED,
                    bytes / 12,
                    1_000,
                );
            }
            Change::ToKnown(bytes) => {
                scene.talk(
                    "browser",
                    ([93, 184, 7, 34], 443),
                    Events::OPENED,
                    bytes / 12,
                    1_000,
                );
            }
            Change::Tunnel(bytes) => {
                scene.talk_udp("shop", ([10, 1, 0, 2], 53), false, bytes / 12, 1_000);
            }
            Change::Beacon { period, jitter } => {
                if since >= *next {
                    scene.talk("agent", BEACONS[0], Events::OPENED, 300, 200);
                    *next = since + period - jitter + self.random.u64(0..=2 * jitter);
                }
            }
            Change::Silent { period } => {
                if since >= *next {
                    let events = if since == 0 { Events::OPENED } else { Events::NONE };
                    scene.talk("agent", BEACONS[1], events, 300, 200);
                    *next = since + period;
                }
            }
            Change::Failure { provider } => {
                let to = if provider {
                    ([203, 0, 113, 10], 443)
                } else {
                    ([10, 1, 0, 5], 5432)
                };
                for _ in 0..if since.is_multiple_of(MINUTE) { 25 } else { 0 } {
                    scene.talk("shop", to, Events::FAILED, 0, 0);
                }
            }
            Change::Listed => {
                scene.talk("browser", ([198, 18, 7, 7], 443), Events::OPENED, 500, 500);
                if let Some(record) = scene.batch.tcp.last_mut() {
                    record.flow.class = Some(PeerClass::AbnormalFlowBlackList);
                }
            }
            Change::NewSite(site) => {
                scene.talk(
                    "browser",
                    ([93, 184, site, 34], 443),
                    Events::OPENED,
                    4_000,
                    90_000,
                );
            }
        }
    }

    /// A day in which each of `changes` begins at its second. Returns what had to be found.
    fn live_through(&mut self, changes: &[(u64, Change)]) -> Vec<Label> {
        let begin = self.scene.now;
        let mut next = vec![0; changes.len()];
        for _ in 0..DAY / 5 {
            self.ordinary();
            let of_day = self.scene.now - begin;
            for ((at, change), next) in changes.iter().zip(&mut next) {
                if (*at..at + change.length()).contains(&of_day) {
                    self.act(*change, of_day - at, next);
                }
            }
            self.scene.tick();
        }
        let labels = changes.iter().flat_map(|(at, change)| {
            let labels = change.labels().into_iter();
            labels.map(move |(kind, subject, object)| Label {
                kind,
                subject,
                object,
                from: begin + at,
                // An interval and a tick later at the latest.
                to: begin + at + change.length() + MINUTE + 5,
                found: false,
            })
        });
        labels.collect()
    }
}

/// The labels and the findings of a kind, and how many of each belong to the other.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    labels: usize,
    labels_found: usize,
    findings: usize,
    right: usize,
}

impl Score {
    fn precision(self) -> f64 {
        self.right as f64 / self.findings as f64
    }

    fn recall(self) -> f64 {
        self.labels_found as f64 / self.labels as f64
    }
}

/// Changes at times that the seed decides, more than `repeat` apart: what a finding is about is not found twice in that time. With an
/// `offset` all begin that many seconds after the beginning of an interval.
fn changes(random: &mut fastrand::Rng, offset: Option<u64>) -> Vec<(u64, Change)> {
    let mut slots: Vec<u64> = (0..18).map(|slot| slot * (HOUR + 10 * MINUTE)).collect();
    random.shuffle(&mut slots);
    let mut changes = vec![
        Change::Scan {
            net: 1,
            hosts: random.u8(60..200),
            udp: false,
        },
        Change::Scan {
            net: 2,
            hosts: random.u8(60..200),
            udp: false,
        },
        Change::Scan {
            net: 3,
            hosts: random.u8(60..200),
            udp: true,
        },
        Change::Ports(random.u16(25..200)),
        Change::ToNew(random.u64(20_000_000..900_000_000)),
        Change::ToKnown(random.u64(20_000_000..900_000_000)),
        Change::Tunnel(random.u64(20_000_000..200_000_000)),
        Change::Failure { provider: true },
        Change::Failure { provider: false },
        Change::Listed,
        Change::NewSite(50),
        Change::NewSite(51),
        Change::NewSite(52),
    ];
    random.shuffle(&mut changes);
    let mut placed: Vec<_> = slots
        .into_iter()
        .zip(changes)
        .map(|(slot, change)| (slot + random.u64(0..12) * 5, change))
        .collect();
    for beacon in [
        Change::Beacon {
            period: random.u64(12..120) * 5,
            jitter: 5,
        },
        Change::Silent {
            period: random.u64(12..120) * 5,
        },
    ] {
        placed.push((random.u64(0..19 * HOUR / 5) * 5, beacon));
    }
    if let Some(offset) = offset {
        for (at, _) in &mut placed {
            *at = *at / MINUTE * MINUTE + offset;
        }
    }
    placed
}

fn score_of(
    kind: FindingKind,
    labels: &mut [Label],
    findings: &[FindingRecord],
    wrong: &mut String,
) -> Score {
    let mut score = Score {
        labels: labels.iter().filter(|label| label.kind == kind).count(),
        ..Score::default()
    };
    for finding in findings.iter().filter(|finding| finding.kind == kind) {
        let at = finding.at.as_nanos() / 1_000_000_000;
        score.findings += 1;
        let mut is_right = false;
        // The end of a sum is the one that got the most; a label of a sum has none, so that no finding of a contact fits it.
        let is_sum = finding.text.contains("to external peers");
        let object = if is_sum { "" } else { &*finding.object };
        for label in labels.iter_mut().filter(|label| {
            (label.kind, label.subject, &*label.object) == (kind, &*finding.subject, object)
                && (label.from..=label.to).contains(&at)
        }) {
            (label.found, is_right) = (true, true);
        }
        score.right += usize::from(is_right);
        if !is_right {
            writeln!(wrong, "false: {kind} {}", finding.text).unwrap();
        }
    }
    let of_kind = || labels.iter().filter(|label| label.kind == kind);
    score.labels_found = of_kind().filter(|label| label.found).count();
    for label in of_kind().filter(|label| !label.found) {
        writeln!(wrong, "missed: {label:?}").unwrap();
    }
    score
}

/// The least precision and recall of each kind, as in `docs/findings.md`.
const LEAST: [(FindingKind, f64, f64); 6] = [
    (FindingKind::FirstContact, 0.95, 1.0),
    (FindingKind::FanOut, 0.95, 1.0),
    (FindingKind::FailureSurge, 0.95, 1.0),
    (FindingKind::VolumeSurge, 0.9, 0.9),
    (FindingKind::Beacon, 0.9, 1.0),
    (FindingKind::BlackList, 1.0, 1.0),
];

/// Lives through a pair of days each, and holds what the docs say of precision and recall.
fn assert_precision_and_recall(days: impl Iterator<Item = (u64, Option<u64>)>) {
    let mut scores = [Score::default(); LEAST.len()];
    let mut wrong = String::new();
    for (seed, offset) in days {
        let mut day = Day::new(&Config::default(), seed);
        day.live(DAY);
        assert!(
            day.scene.findings.is_empty(),
            "while it learns: {:?}",
            day.scene.kinds()
        );
        let changes = changes(&mut day.random, offset);
        let mut labels = day.live_through(&changes);
        for (sum, (kind, ..)) in scores.iter_mut().zip(LEAST) {
            let score = score_of(kind, &mut labels, &day.scene.findings, &mut wrong);
            sum.labels += score.labels;
            sum.labels_found += score.labels_found;
            sum.findings += score.findings;
            sum.right += score.right;
        }
    }
    println!("| kind | labels | found | recall | findings | right | precision |");
    for (score, (kind, ..)) in scores.iter().zip(LEAST) {
        println!(
            "| `{kind}` | {} | {} | {:.2} | {} | {} | {:.2} |",
            score.labels,
            score.labels_found,
            score.recall(),
            score.findings,
            score.right,
            score.precision()
        );
    }
    println!("{wrong}");
    for (score, (kind, precision, recall)) in scores.iter().zip(LEAST) {
        assert!(score.precision() >= precision, "{kind}: {score:?}\n{wrong}");
        assert!(score.recall() >= recall, "{kind}: {score:?}\n{wrong}");
    }
}

/// The first table of `docs/findings.md` is the output of this, with `--nocapture`.
#[test]
fn precision_and_recall_of_each_kind_in_labelled_days_are_what_the_docs_say() {
    assert_precision_and_recall(SEEDS.into_iter().map(|seed| (seed, None)));
}

/// The second table likewise: pairs of days in which all changes begin at one offset of the interval, for each look at sockets in it.
#[test]
fn precision_and_recall_are_the_same_at_each_offset_of_the_interval() {
    let offsets = (0..MINUTE).step_by(5);
    assert_precision_and_recall(offsets.map(|offset| (1_000 + offset, Some(offset))));
}

#[test]
fn a_quiet_day_after_a_day_of_learning_has_at_most_one_finding_of_a_kind() {
    for seed in &SEEDS {
        let mut day = Day::new(&Config::default(), *seed);
        day.live(2 * DAY);
        for kind in FindingKind::ALL {
            let found = day.scene.findings.iter().filter(|finding| finding.kind == kind);
            let texts: Vec<_> = found.map(|finding| &finding.text).collect();
            assert!(texts.len() <= 1, "seed {seed}: {texts:?}");
        }
    }
}

/// The ways around each kind that `docs/findings.md` names: they are not found, and the docs say so.
#[test]
fn slow_small_and_irregular_changes_are_not_found_as_the_docs_say() {
    let mut day = Day::new(&Config::default(), SEEDS[0]);
    day.live(DAY);
    let mut next = day.scene.now;
    for tick in 0..4 * HOUR / 5 {
        day.ordinary();
        // 48 addresses a minute, of a network and a port that it knows.
        for host in 0..4 {
            let host = u8::try_from((tick * 4 + host) % 250).unwrap();
            day.scene
                .talk("agent", ([10, 1, 0, host], 80), Events::OPENED, 40, 0);
        }
        // Pauses that vary by more than a tenth.
        if day.scene.now >= next {
            day.scene.talk("agent", BEACONS[0], Events::OPENED, 300, 200);
            next = day.scene.now + day.random.u64(100..500);
        }
        // Half a megabyte a minute more, to a peer that is known.
        day.scene
            .talk("shop", ([203, 0, 113, 10], 443), Events::NONE, 40_000, 0);
        day.scene.tick();
    }
    let texts: Vec<_> = day.scene.findings.iter().map(|finding| &*finding.text).collect();
    assert_eq!(
        texts,
        ["agent talks to 185.220.101.0/24, port 443 for the first time (address 185.220.101.1)"]
    );
}
