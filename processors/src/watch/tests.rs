//! Each rule by itself. A labelled day is in `day`.

mod cut;
mod day;
mod edges;
mod floods;
mod lists;
mod moves;
mod numbers;
mod usual;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::{
    Endpoint, Events, FindingRecord, Flow, FlowKind, NodeInfo, Place, Role, TcpRecord, Transport, UdpRecord,
};

use super::*;
use crate::testing::{Counters, context, counted_context};

/// Seconds since the epoch at which a test begins: midnight.
const START: u64 = 1_750_000_000 / 86_400 * 86_400;

struct Scene {
    watch: Watch,
    batch: FlowBatch,
    now: u64,
    findings: Vec<FindingRecord>,
}

fn comm(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

fn flow(name: &str, to: ([u8; 4], u16)) -> Flow {
    let local = Endpoint::new(Ipv4Addr::new(10, 0, 0, 1).into(), 40_000);
    let remote = Endpoint::new(Ipv4Addr::from(to.0).into(), to.1);
    Flow {
        comm: comm(name),
        kind: Some(FlowKind::Egress),
        role: Role::Client,
        class: Some(if to.0[0] == 10 {
            PeerClass::InternalHosts
        } else {
            PeerClass::ExternalHosts
        }),
        ..Flow::new(local, remote)
    }
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
        }
    }

    /// Traffic of the process `name`, as a client, to an address and a port.
    fn talk(&mut self, name: &str, to: ([u8; 4], u16), events: Events, sent: u64, received: u64) {
        self.batch.tcp.push(TcpRecord {
            events,
            sent_bytes: sent.cast_signed(),
            received_bytes: received.cast_signed(),
            ..TcpRecord::new(flow(name, to))
        });
    }

    /// The same over UDP; `opened`: the first datagrams of a flow.
    fn talk_udp(&mut self, name: &str, to: ([u8; 4], u16), opened: bool, sent: u64, received: u64) {
        let flow = Flow {
            transport: Transport::Udp,
            ..flow(name, to)
        };
        self.batch.udp.push(UdpRecord {
            opened,
            sent_bytes: sent.cast_signed(),
            sent_datagrams: 1,
            received_bytes: received.cast_signed(),
            ..UdpRecord::new(flow)
        });
    }

    /// Ordinary traffic of `shop` to this end until there is enough of it to know what is usual, and the interval is over.
    fn learn(&mut self, to: ([u8; 4], u16), sent: u64) {
        for _ in 0..24 {
            self.talk("shop", to, Events::OPENED, sent, 0);
            self.tick();
        }
        self.tick();
        self.tick();
        self.tick();
        assert!(self.findings.is_empty(), "{:?}", self.kinds());
    }

    /// The sentences and the numbers of the findings.
    fn explained(&self) -> Vec<(&str, &[(&'static str, f64)])> {
        let findings = self.findings.iter();
        findings
            .map(|finding| (&*finding.text, &*finding.numbers))
            .collect()
    }

    /// Passes what was said on, and lets five seconds pass.
    fn tick(&mut self) {
        self.tick_after(5);
    }

    /// The same, with so many seconds between two looks at sockets.
    fn tick_after(&mut self, seconds: u64) {
        self.watch.process(&mut self.batch);
        self.batch.clear();
        self.now += seconds;
        self.watch
            .advance(Timestamp::from_nanos(self.now * 1_000_000_000), &mut self.batch);
        self.findings.append(&mut self.batch.findings);
    }

    fn kinds(&self) -> Vec<FindingKind> {
        self.findings.iter().map(|finding| finding.kind).collect()
    }
}

fn quick() -> Config {
    Config {
        learn: Duration::from_secs(60),
        interval: Duration::from_secs(10),
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
    scene.talk("shop", ([10, 4, 0, 7], 80), Events::FAILED, 0, 0);
    scene.tick();
    let text = "shop tried to reach 10.4.0.0/24, port 80 for the first time (address 10.4.0.7)";
    assert_eq!(&*scene.findings[1].text, text);
}

#[test]
fn a_first_contact_with_a_country_is_found_once_countries_are_learned() {
    let place = |country: &str| {
        Some(Arc::new(Place {
            country: country.to_owned(),
            ..Place::default()
        }))
    };
    let mut config = quick();
    config.first_contact.ipv4_prefix = 8;
    let mut scene = Scene::new(&config);
    let talk = |scene: &mut Scene, to: [u8; 4], country: Option<&str>| {
        scene.talk("shop", (to, 443), Events::OPENED, 10, 10);
        scene.batch.tcp[0].flow.peer_place = country.and_then(place);
        scene.tick();
        let texts = scene.explained();
        let texts: Vec<_> = texts
            .iter()
            .map(|(text, numbers)| ((*text).to_owned(), numbers.to_vec()))
            .collect();
        scene.findings.clear();
        texts
    };
    for _ in 0..20 {
        assert!(talk(&mut scene, [93, 1, 0, 1], None).is_empty());
    }
    // `geoip` is new: for `learn` countries are not.
    for _ in 0..11 {
        assert!(talk(&mut scene, [93, 1, 0, 1], Some("DE")).is_empty());
    }
    assert!(talk(&mut scene, [93, 2, 0, 1], Some("FR")).is_empty());
    scene.tick();
    scene.tick();
    assert!(talk(&mut scene, [93, 1, 0, 2], Some("DE")).is_empty());
    let is_new = vec![("new_country", 1.0)];
    let text = "shop talks to an address in KP for the first time (93.3.0.1)";
    assert_eq!(
        talk(&mut scene, [93, 3, 0, 1], Some("KP")),
        [(text.to_owned(), is_new.clone())]
    );
    assert!(talk(&mut scene, [93, 3, 0, 2], Some("KP")).is_empty());
    let text = "shop talks to 94.0.0.0/8, port 443 for the first time (address 94.1.0.1, its first in BR)";
    assert_eq!(
        talk(&mut scene, [94, 1, 0, 1], Some("BR")),
        [(text.to_owned(), is_new)]
    );
    let text = "shop talks to 95.0.0.0/8, port 443 for the first time (address 95.1.0.1 in DE)";
    assert_eq!(
        talk(&mut scene, [95, 1, 0, 1], Some("DE")),
        [(text.to_owned(), Vec::new())]
    );
}

#[test]
fn a_scan_is_explained_by_its_addresses_or_ports_and_what_is_usual() {
    let mut scene = Scene::new(&quick());
    scene.learn(([10, 1, 0, 5], 80), 10);
    // The network is known, so that there is no first contact.
    for host in 10..70 {
        scene.talk("shop", ([10, 1, 0, host], 80), Events::FAILED, 0, 0);
    }
    scene.tick();
    scene.tick();
    scene.tick();
    let failures = scene
        .findings
        .pop_if(|finding| finding.kind == FindingKind::FailureSurge);
    let scan = (
        "shop tried 60 addresses in 10 s; usually 1",
        &[
            ("destinations", 60.0),
            ("usual", 1.0),
            ("largest_usual", 1.0),
            ("seconds", 10.0),
        ][..],
    );
    let found = scene.explained();
    assert!(found.contains(&scan), "{found:?} {failures:?}");

    let mut config = quick();
    config.first_contact.enabled = false;
    let mut scene = Scene::new(&config);
    scene.learn(([10, 1, 0, 5], 80), 10);
    for port in 0..30 {
        scene.talk("shop", ([10, 1, 0, 5], 1_000 + port), Events::FAILED, 0, 0);
        // Over UDP it is another port.
        scene.talk_udp("shop", ([10, 1, 0, 5], 1_000 + port), true, 0, 0);
    }
    scene.tick();
    scene.tick();
    scene.tick();
    assert_eq!(
        scene.explained(),
        [(
            "shop tried 60 ports of 10.1.0.5 in 10 s; usually 1",
            &[
                ("ports", 60.0),
                ("usual", 1.0),
                ("largest_usual", 1.0),
                ("seconds", 10.0)
            ][..]
        )]
    );
}

#[test]
fn a_surge_of_failures_is_explained_by_their_part_and_what_is_usual() {
    let mut scene = Scene::new(&quick());
    scene.learn(([10, 1, 0, 5], 80), 10);
    for _ in 0..30 {
        scene.talk("shop", ([10, 1, 0, 5], 80), Events::FAILED, 0, 0);
    }
    for _ in 0..10 {
        scene.talk("shop", ([10, 1, 0, 5], 80), Events::OPENED, 10, 0);
    }
    scene.tick();
    scene.tick();
    scene.tick();
    assert_eq!(
        scene.explained(),
        [(
            "30 of 40 connects of shop to 10.1.0.0/24, port 80 (address 10.1.0.5) failed in 10 s; usually 0 %",
            &[
                ("failed", 30.0),
                ("tried", 40.0),
                ("ratio", 0.75),
                ("usual_ratio", 0.0),
                ("seconds", 10.0)
            ][..]
        )]
    );
}

#[test]
fn a_surge_of_bytes_is_explained_by_what_is_usual_of_the_contact_and_of_the_subject() {
    const MUCH: u64 = 64 << 20;
    let mut scene = Scene::new(&quick());
    // Two in each interval.
    scene.learn(([93, 184, 1, 34], 443), 512);
    scene.talk("shop", ([93, 184, 1, 34], 443), Events::NONE, MUCH, 0);
    scene.tick();
    scene.tick();
    scene.tick();
    // Sixteen doublings of 1,024, each of which is five of the least deviation.
    let numbers = [
        ("bytes", MUCH as f64),
        ("usual_bytes", 1_024.0),
        ("largest_usual_bytes", 1_024.0),
        ("score", 80.0),
        ("seconds", 10.0),
        ("peer_bytes", MUCH as f64),
    ];
    assert_eq!(
        scene.explained(),
        [
            (
                "shop moved 67108864 bytes with 93.184.1.0/24, port 443 (address 93.184.1.34) in 10 s; usually 1024",
                &numbers[..5]
            ),
            (
                "shop sent 67108864 bytes to external peers in 10 s, the largest part (67108864 bytes) to 93.184.1.34; usually 1024",
                &numbers
            ),
        ]
    );
}

#[test]
fn a_surge_of_all_external_peers_hides_none_to_another_peer() {
    const MUCH: u64 = 64 << 20;
    let mut scene = Scene::new(&quick());
    scene.learn(([93, 184, 1, 34], 443), 512);
    let mut to = |address: [u8; 4]| {
        scene.talk("shop", (address, 443), Events::OPENED, MUCH, 0);
        scene.tick();
        scene.tick();
        scene.tick();
        let found = scene.findings.drain(..);
        let of_all = found.filter(|finding| finding.text.contains("external peers"));
        of_all
            .map(|finding| finding.object.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(to([93, 184, 1, 34]), ["93.184.1.0/24"]);
    assert_eq!(to([45, 33, 32, 156]), ["45.33.32.0/24"]);
    assert!(to([45, 33, 32, 157]).is_empty(), "the same end within `repeat`");
}

/// Every 30 s 300 bytes to an external peer, with these events but for the first time.
fn regular(config: &Config, events: Events, udp_port: Option<u16>) -> Scene {
    let mut config = config.clone();
    config.first_contact.enabled = false;
    let mut scene = Scene::new(&config);
    scene.learn(([10, 1, 0, 5], 80), 10);
    for tick in 0..90 {
        if tick % 6 == 0 {
            let opens = if tick == 0 { Events::OPENED } else { events };
            match udp_port {
                Some(port) => scene.talk_udp("shop", ([185, 220, 101, 1], port), true, 200, 100),
                None => scene.talk("shop", ([185, 220, 101, 1], 443), opens, 200, 100),
            }
        }
        scene.tick();
    }
    scene
}

#[test]
fn a_beacon_is_found_on_connections_of_its_own_and_on_one_that_is_silent_otherwise() {
    for events in [Events::OPENED, Events::NONE] {
        let scene = regular(&quick(), events, None);
        assert_eq!(
            scene.explained(),
            [(
                "shop is in touch with 185.220.101.0/24, port 443 (address 185.220.101.1) every 30 s (varying by 0 %), 11 times, with at most 300 bytes",
                &[
                    ("period_seconds", 30.0),
                    ("variation", 0.0),
                    ("times", 11.0),
                    ("bytes", 300.0)
                ][..]
            )],
            "{events:?}"
        );
    }
}

#[test]
fn a_beacon_over_udp_is_found_but_for_name_and_time_servers() {
    let kinds = |port| regular(&quick(), Events::NONE, Some(port)).kinds();
    assert_eq!(kinds(4_500), [FindingKind::Beacon]);
    assert!(kinds(53).is_empty());
    assert!(kinds(123).is_empty());
}

#[test]
fn udp_is_watched_as_tcp_is_and_apart_from_it() {
    let mut scene = Scene::new(&quick());
    scene.learn(([10, 1, 0, 5], 443), 10);
    // The same port over UDP is another contact.
    scene.talk_udp("shop", ([10, 1, 0, 5], 443), true, 10, 10);
    scene.tick();
    scene.talk_udp("shop", ([10, 1, 0, 6], 443), true, 10, 10);
    scene.talk_udp("shop", ([192, 0, 2, 66], 443), false, 10, 10);
    scene.batch.udp[1].flow.class = Some(PeerClass::AbnormalFlowBlackList);
    scene.tick();
    // No peers of their own.
    for group in [[224, 0, 0, 251], [255, 255, 255, 255], [0, 0, 0, 0]] {
        scene.talk_udp("shop", (group, 5353), true, 10, 10);
    }
    scene.talk_udp("shop", ([45, 1, 1, 1], 443), true, 10, 10);
    scene.batch.udp[3].unplaced = true;
    // A client of a service here.
    scene.talk_udp("shop", ([45, 1, 1, 2], 40_001), true, 10, 10);
    scene.batch.udp[4].flow.kind = Some(FlowKind::Ingress);
    scene.tick();
    let texts: Vec<_> = scene.findings.iter().map(|finding| &*finding.text).collect();
    assert_eq!(
        texts,
        [
            "shop talks to 10.1.0.0/24, port 443/udp for the first time (address 10.1.0.5)",
            "shop exchanged datagrams with 192.0.2.66, port 443/udp, which is on the black list",
            "shop talks to 192.0.2.0/24, port 443/udp for the first time (address 192.0.2.66)",
        ]
    );
    scene.findings.clear();
    for host in 10..70 {
        scene.talk_udp("shop", ([10, 1, 0, host], 443), true, 0, 0);
    }
    scene.tick();
    scene.tick();
    scene.tick();
    assert_eq!(scene.kinds(), [FindingKind::FanOut], "empty datagrams");
}

#[test]
fn a_further_name_server_is_a_first_contact_unless_the_subject_resolves_names_itself() {
    let mut scene = Scene::new(&quick());
    for tick in 0..24 {
        scene.talk_udp("shop", ([10, 1, 0, 2], 53), true, 60, 100);
        scene.talk_udp("unbound", ([45, tick, 0, 1], 53), true, 60, 100);
        scene.tick();
    }
    for high in 0..200 {
        scene.talk_udp("unbound", ([46, high, 0, 1], 53), true, 60, 100);
    }
    scene.talk_udp("shop", ([47, 0, 0, 1], 53), true, 60, 100);
    for _ in 0..4 {
        scene.tick();
    }
    let texts: Vec<_> = scene.findings.iter().map(|finding| &*finding.text).collect();
    assert_eq!(
        texts,
        ["shop talks to 47.0.0.0/24, port 53/udp for the first time (address 47.0.0.1)"]
    );
    // Its servers are eight contacts and one of all others.
    assert_eq!(scene.watch.memory.contacts.len(), 2 + 8 + 1);
}

#[test]
fn each_name_server_of_a_resolver_that_is_on_the_black_list_is_found() {
    let mut scene = Scene::new(&quick());
    for high in 0..10 {
        scene.talk_udp("unbound", ([45, high, 0, 1], 53), true, 60, 100);
    }
    for high in 0..2 {
        scene.talk_udp("unbound", ([46, high, 0, 1], 53), true, 60, 100);
        scene.batch.udp.last_mut().unwrap().flow.class = Some(PeerClass::AbnormalFlowBlackList);
    }
    scene.tick();
    let texts: Vec<_> = scene.findings.iter().map(|finding| &*finding.text).collect();
    let on_list = |addr: &str| {
        format!("unbound exchanged datagrams with {addr}, port 53/udp, which is on the black list")
    };
    assert_eq!(texts, [on_list("46.0.0.1"), on_list("46.1.0.1")]);
}

#[test]
fn forged_clients_of_a_udp_port_take_the_place_of_one_contact() {
    let mut config = quick();
    config.max_contacts = 10.try_into().unwrap();
    let (mut scene, counters) = counted(&config);
    scene.learn(([10, 1, 0, 5], 443), 10);
    for high in 0..100 {
        scene.talk_udp("shop", ([45, high, 0, 1], 40_001), false, 0, 10);
        scene.batch.udp.last_mut().unwrap().flow.kind = Some(FlowKind::Ingress);
    }
    scene.tick();
    assert_eq!(
        (scene.watch.memory.contacts.len(), counters.dropped_records(FULL)),
        (2, 0)
    );
    scene.talk("shop", ([10, 2, 0, 5], 443), Events::OPENED, 10, 10);
    scene.tick();
    assert_eq!(scene.kinds(), [FindingKind::FirstContact]);
}

#[test]
fn with_a_prefix_of_0_ports_are_first_contacts() {
    let mut config = quick();
    config.first_contact.ipv4_prefix = 0;
    let mut scene = Scene::new(&config);
    scene.learn(([10, 1, 0, 5], 443), 10);
    scene.talk("shop", ([10, 2, 0, 5], 443), Events::OPENED, 10, 10);
    scene.talk("shop", ([10, 2, 0, 5], 80), Events::OPENED, 10, 10);
    scene.tick();
    let texts: Vec<_> = scene.findings.iter().map(|finding| &*finding.text).collect();
    assert_eq!(
        texts,
        ["shop talks to 0.0.0.0/0, port 80 for the first time (address 10.2.0.5)"]
    );
}

#[test]
fn peers_that_are_not_on_the_white_list_are_found_by_choice() {
    for chosen in [false, true] {
        let mut config = quick();
        config.lists.not_on_white_list = chosen;
        let mut scene = Scene::new(&config);
        for class in [PeerClass::ExternalHosts, PeerClass::AbnormalFlowWhiteList] {
            scene.talk("shop", ([192, 0, 2, 66], 80), Events::NONE, 10, 10);
            scene.batch.tcp[0].flow.class = Some(class);
            scene.tick();
        }
        scene.talk("shop", ([10, 0, 2, 66], 80), Events::NONE, 10, 10);
        scene.tick();
        let text = "shop has a connection with 192.0.2.66, port 80, which is not on the white list";
        let found: &[(&str, &[(&str, f64)])] = if chosen { &[(text, &[])] } else { &[] };
        assert_eq!(scene.explained(), found, "{chosen}");
        assert!(
            scene
                .findings
                .iter()
                .all(|finding| finding.kind == FindingKind::NotOnWhiteList)
        );
    }
}

#[test]
fn lists_are_judged_from_the_start_and_repeated_after_a_while() {
    let mut config = quick();
    config.repeat = Duration::from_secs(100);
    let mut scene = Scene::new(&config);
    for _ in 0..30 {
        scene.talk("shop", ([192, 0, 2, 66], 80), Events::NONE, 10, 10);
        scene.batch.tcp[0].flow.class = Some(PeerClass::AbnormalFlowBlackList);
        scene.tick();
    }
    assert_eq!(scene.kinds(), [FindingKind::BlackList; 2]);
    let text = "shop has a connection with 192.0.2.66, port 80, which is on the black list";
    assert_eq!(scene.explained(), [(text, &[][..]); 2]);
}

/// A scene whose counters are read, for as long as their provider is kept.
fn counted(config: &Config) -> (Scene, Counters) {
    let (context, counters) = counted_context(NodeInfo::default());
    let mut scene = Scene::new(config);
    scene.watch = Watch::new(config, &context).unwrap();
    scene.watch.begin(Timestamp::from_nanos(START * 1_000_000_000));
    (scene, counters)
}

#[test]
fn a_flood_of_contacts_is_bounded_and_counted() {
    let mut config = quick();
    config.max_contacts = 100.try_into().unwrap();
    config.fan_out.enabled = false;
    let (mut scene, counters) = counted(&config);
    assert_eq!(counters.dropped_records(FULL), 0);
    for high in 0..20 {
        for low in 0..50 {
            scene.talk("shop", ([45, high, low, 1], 80), Events::OPENED, 10, 10);
            scene.talk_udp("shop", ([46, high, low, 1], 80), true, 10, 10);
        }
        scene.tick();
    }
    assert_eq!(scene.watch.memory.contacts.len(), 100);
    assert_eq!(counters.dropped_records(FULL), 2 * 20 * 50 - 100);
}

#[test]
fn a_flood_of_subjects_is_bounded_and_counted() {
    let (mut scene, counters) = counted(&quick());
    let max = quick().max_subjects.get();
    let flood = max + 500;
    for name in 0..flood {
        scene.talk(
            &format!("worker-{name}"),
            ([10, 1, 0, 5], 80),
            Events::NONE,
            10,
            10,
        );
    }
    scene.tick();
    // And `other`.
    assert_eq!(scene.watch.memory.subjects.len(), max + 1);
    assert_eq!(counters.dropped_records(SUBJECTS_FULL), 500);
    assert_eq!(counters.dropped_records(FULL), 0);
}

#[test]
fn a_flood_of_findings_is_bounded_and_counted() {
    let mut config = quick();
    config.fan_out.enabled = false;
    let (mut scene, counters) = counted(&config);
    while scene.watch.is_learning() {
        scene.tick();
    }
    for high in 0..30 {
        for low in 0..50 {
            scene.talk("shop", ([45, high, low, 1], 80), Events::OPENED, 10, 10);
        }
    }
    scene.tick();
    assert_eq!(scene.findings.len(), 1_010);
    assert_eq!(counters.dropped_records(FINDINGS_FULL), 490);
    assert_eq!(counters.dropped_records(FULL), 0);
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
fn all_that_was_learned_is_in_the_state_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("watch.state");
    let mut config = quick();
    config.learn = Duration::from_secs(600);
    config.state_file = Some(file.clone());
    let mut scene = Scene::new(&config);
    for tick in 0..130 {
        let external = ([93, 184, 1, 34], 443);
        scene.talk("shop", ([10, 1, 0, 5], 5432), Events::FAILED, 0, 0);
        scene.talk("shop", ([10, 1, 0, 5], 5432), Events::OPENED, 700, 70);
        scene.talk("shop", external, Events::OPENED, 70_000, 7);
        scene.talk_udp("shop", ([10, 1, 0, 2], 53), true, 60, 100);
        if tick % 6 == 0 {
            scene.talk("agent", ([198, 51, 100, 20], 443), Events::OPENED, 10, 10);
        }
        for record in &mut scene.batch.tcp {
            record.flow.peer_place = Some(Arc::new(Place {
                country: "DE".to_owned(),
                ..Place::default()
            }));
        }
        scene.tick();
    }
    // Without an amount, which is not saved.
    scene.talk_udp("shop", ([192, 0, 2, 66], 80), true, 10, 10);
    scene.batch.udp[0].flow.class = Some(PeerClass::AbnormalFlowBlackList);
    // The open interval is not remembered.
    for _ in 0..4 {
        scene.tick();
    }
    let (mut memory, said) = (scene.watch.memory.clone(), scene.watch.outbox.said().clone());
    for contact in memory.contacts.values_mut() {
        contact.before = crate::watch::cut::Before::default();
    }
    drop(scene);

    // Every part of it has something in it.
    let any = |is: &dyn Fn(&memory::Contact) -> bool| memory.contacts.values().any(is);
    assert!(any(
        &|contact| contact.is_regular && contact.rhythm.regular(0.1, 100, Duration::ZERO).is_some()
    ));
    assert!(any(&|contact| contact.failures.get() == Some(0.5)));
    assert!(any(&|contact| contact.volume.compare(1, 1, None).is_some()));
    assert!(memory.contacts.keys().any(|key| key.is_udp));
    let shop = memory.subjects[0].as_ref().unwrap();
    assert!(shop.sent.compare(1, 1, None).is_some() && shop.destinations.is_known());
    assert_eq!(Vec::from_iter(&shop.countries), [b"DE"]);
    assert!(memory.since > 0 && memory.countries_since > 0 && !said.is_empty());

    let Found::Own(saved) = state::read(&file, "metrics").unwrap() else {
        panic!("no state");
    };
    assert_eq!(saved.memory, memory);
    assert_eq!(saved.said, said);
}

#[test]
fn a_restart_says_when_learning_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.state_file = Some(folder.path().join("watch.state"));
    let until = |scene: &Scene| {
        let watchers = scene.watch.outbox.newest().watchers();
        watchers[0].learns_until.unwrap().as_nanos() / 1_000_000_000
    };
    let mut scene = Scene::new(&config);
    assert_eq!(until(&scene), START + 60);
    scene.learn(([10, 1, 0, 5], 443), 1_000);
    drop(scene);
    let scene = Scene::at(&config, START + 86_400);
    assert_eq!(until(&scene), START + 60);
    // With a longer period it learns on; the stop of 10 s does not count.
    drop(scene);
    config.learn = Duration::from_secs(2 * 86_400);
    assert_eq!(
        until(&Scene::at(&config, START + 86_410)),
        START + 10 + 2 * 86_400
    );
}

#[test]
fn an_end_of_learning_that_was_reached_stays_when_the_clock_jumps() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.state_file = Some(folder.path().join("watch.state"));
    let mut scene = Scene::new(&config);
    let assert_learned = |scene: &Scene| {
        let watcher = &scene.watch.outbox.newest().watchers()[0];
        let until = watcher.learns_until.unwrap().as_nanos() / 1_000_000_000;
        assert_eq!((until, watcher.has_learned), (START + 60, true));
    };
    for _ in 0..20 {
        scene.tick();
    }
    assert_learned(&scene);
    for jump in [-315_360_000, 630_720_000, -86_400] {
        scene.now = scene.now.checked_add_signed(jump).unwrap();
        scene.tick();
        assert_learned(&scene);
        // And after a restart with that clock.
        let now = scene.now;
        drop(scene);
        scene = Scene::at(&config, now);
        assert_learned(&scene);
        scene.tick();
    }
}

#[test]
fn a_state_file_that_another_process_uses_is_refused_for_now() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.state_file = Some(folder.path().join("a").join("watch.state"));
    // Processors of one process share it, as before and after a reload.
    let scenes = [Scene::new(&config), Scene::new(&config)];
    let lock = folder.path().join("a/watch.state.lock");
    let other = std::fs::File::open(&lock).unwrap();
    assert!(other.try_lock().is_err());
    drop(scenes);
    other.try_lock().unwrap();
    let error = Watch::new(&config, &context(NodeInfo::default())).unwrap_err();
    assert!(error.is_temporary);
    let text = error.to_string();
    assert!(
        text.contains("state_file: another process uses") && text.contains("hint: stop the other flowtap"),
        "{text}"
    );
    // A recording uses none.
    let mut replay = context(NodeInfo::default());
    replay.is_replay = true;
    assert!(Watch::new(&config, &replay).is_ok());
    other.unlock().unwrap();
    assert!(Watch::new(&config, &context(NodeInfo::default())).is_ok());
    // Where there can be no lock nothing is saved either: that is reported when it is tried.
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    assert!(Watch::new(&config, &context(NodeInfo::default())).is_ok());
}

#[test]
fn a_restart_does_not_repeat_a_finding_before_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.state_file = Some(folder.path().join("watch.state"));
    config.repeat = Duration::from_secs(100);
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
    // One that runs keeps it under another name before it writes its own, also if there is an older one of that name.
    let kept = folder.path().join("watch.state.corrupt");
    std::fs::write(&kept, "older").unwrap();
    for _ in 0..2 {
        let mut scene = Scene::at(&config, now);
        scene.tick();
        drop(scene);
        assert_eq!(std::fs::read(&kept).unwrap(), b"something else");
        assert!(Watch::new(&config, &strict).is_ok());
    }
    std::fs::write(Path::new(&file), "something else").unwrap();
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
