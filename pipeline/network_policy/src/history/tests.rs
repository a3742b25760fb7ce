use flowtap_model::cluster_objects::{ClusterObjects, NamespaceObject, ServicePort, TargetPort};
use flowtap_model::{FlowBatch, TcpRecord};

use super::*;
use crate::cluster::Cluster;
use crate::conversation::{Conversations, Party};
use crate::manifest::{objects, policies, starts_of};
use crate::observed::Observed;
use crate::policy::NetworkPolicy;
use crate::suggest::{SuggestOptions, suggest};
use crate::testing::{record, short};
use crate::verdict::{Judge, Outcome};

const DB: &str = "10.1.0.2";

/// A pod in the namespace `x` with a label `app`.
fn pod(name: &str, last: u8, app: &str) -> PodObject {
    PodObject {
        namespace: "x".to_owned(),
        name: name.to_owned(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        addresses: vec![[10, 1, 0, last].into()],
        node: "n1".to_owned(),
        ..PodObject::default()
    }
}

fn ended(name: &str, last: u8, app: &str) -> PodObject {
    PodObject {
        ended: true,
        ..pod(name, last, app)
    }
}

fn listing(pods: Vec<PodObject>) -> ClusterChange {
    ClusterChange {
        objects: ClusterObjects {
            namespaces: vec![NamespaceObject {
                name: "x".to_owned(),
                ..NamespaceObject::default()
            }],
            pods,
            ..ClusterObjects::default()
        },
        ..ClusterChange::default()
    }
}

fn gone(names: &[&str]) -> ClusterChange {
    ClusterChange {
        gone: names
            .iter()
            .map(|name| ("x".to_owned(), (*name).to_owned()))
            .collect(),
        ..ClusterChange::default()
    }
}

/// A step of an observation.
enum Step {
    /// Flows from 10.1.0.N to a port of the database, as it sees them.
    Flow(u8, u16),
    Record(Box<TcpRecord>),
    Listing(ClusterChange),
    /// A listing that the next step ends.
    Pending(ClusterChange),
    /// A watermark, in seconds.
    Time(u64),
}

use Step::{Flow, Listing, Pending, Record, Time};

impl Step {
    fn change(self) -> ClusterChange {
        match self {
            Listing(change) | Pending(change) => change,
            _ => ClusterChange::default(),
        }
    }
}

/// The conversations, in the cluster as it is at the end with the pods that are gone.
fn observe(steps: Vec<Step>) -> (Conversations, Cluster) {
    observe_all(vec![steps])
}

/// The same, of several recordings.
fn observe_all(recordings: Vec<Vec<Step>>) -> (Conversations, Cluster) {
    let mut all = ClusterObjects::default();
    let mut views = Vec::new();
    for steps in recordings {
        let (observed, last) = play(steps);
        all.merge(last);
        views.push(observed);
    }
    let mut cluster = Cluster::new(all, &[]);
    for observed in &mut views {
        observed.keep_pods(&mut cluster);
    }
    let mut conversations = Conversations::default();
    for observed in &views {
        conversations.add(observed, &cluster, &[], false);
    }
    (conversations, cluster)
}

fn play(steps: Vec<Step>) -> (Observed, ClusterObjects) {
    let mut observed = Observed::new(1_000);
    let mut last = ClusterObjects::default();
    let mut now = Timestamp::default();
    let fold = |observed: &mut Observed, record| {
        observed.fold(&FlowBatch {
            tcp: vec![record],
            ..FlowBatch::default()
        });
    };
    for step in steps {
        match step {
            Flow(client, port) => fold(&mut observed, record(DB, &format!("10.1.0.{client}"), port, true)),
            Record(record) => fold(&mut observed, *record),
            Pending(change) => {
                last.merge(change.objects.clone());
                observed.list(change);
            }
            Listing(change) => {
                last.merge(change.objects.clone());
                observed.list(change);
                observed.advance(now);
            }
            Time(seconds) => {
                now = Timestamp::from_nanos(seconds * 1_000_000_000);
                observed.advance(now);
            }
        }
    }
    observed.finish();
    (observed, last)
}

/// Each client with its labels, by port.
fn clients(steps: Vec<Step>) -> Vec<String> {
    clients_of(observe(steps))
}

fn clients_of((conversations, cluster): (Conversations, Cluster)) -> Vec<String> {
    let mut clients: Vec<_> = conversations
        .seen
        .iter()
        .map(|(it, sides)| {
            let client = match &it.client.party {
                Party::Pod(id) => format!("{} {}", cluster.pod(*id).name, cluster.pod(*id).labels["app"]),
                Party::UnknownPod => "?".to_owned(),
                other => format!("{other:?}"),
            };
            let seen_by_client = if sides.client.records > 0 {
                format!(" {}", sides.client.records)
            } else {
                String::new()
            };
            format!("{} {client} {}{seen_by_client}", it.port, sides.server.records)
        })
        .collect();
    clients.sort();
    clients
}

fn time(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

/// The start of a pod: created at the one second, and with a container at the other.
fn start(name: &str, created: u64, started: Option<u64>) -> PodStart {
    PodStart {
        namespace: "x".to_owned(),
        name: name.to_owned(),
        created: time(created),
        started: started.map(time),
    }
}

fn with_db(pods: Vec<PodObject>) -> Step {
    Listing(listing([vec![pod("db-0", 2, "db")], pods].concat()))
}

#[test]
fn a_flow_is_of_the_pod_that_had_the_address_then() {
    // A finished job, one that was replaced, and one that came and ended within 30 seconds.
    let found = clients(vec![
        with_db(vec![pod("job", 1, "job"), pod("old", 3, "old")]),
        Flow(1, 1),
        Flow(3, 2),
        Listing(ClusterChange::default()),
        Flow(1, 1),
        Listing(listing(vec![ended("job", 1, "job")])),
        Flow(3, 2),
        Listing(gone(&["old"])),
        Listing(listing(vec![pod("new", 3, "new")])),
        Flow(3, 2),
        Flow(4, 3),
        Listing(listing(vec![ended("short", 4, "short")])),
    ]);
    assert_eq!(
        found,
        ["1 job job 2", "2 new new 1", "2 old old 2", "3 short short 1"]
    );
}

#[test]
fn a_pod_that_is_listed_after_its_first_flow_is_its_owner() {
    let found = clients(vec![Flow(1, 1), with_db(vec![pod("web", 1, "web")]), Flow(1, 1)]);
    assert_eq!(found, ["1 web web 2"]);
}

#[test]
fn an_address_that_two_pods_had_between_two_listings_is_of_neither() {
    let found = clients(vec![
        with_db(vec![pod("old", 3, "old")]),
        Flow(3, 1),
        Listing(ClusterChange::default()),
        Flow(3, 2),
        Listing(listing(vec![pod("new", 3, "new")])),
        Flow(3, 3),
    ]);
    assert_eq!(found, ["1 old old 1", "2 ? 1", "3 new new 1"]);
}

#[test]
fn the_start_of_the_second_pod_decides_where_it_can() {
    let found = |created, started| {
        clients(vec![
            // The time before the first listing does not count.
            Time(50),
            Pending(with_db(vec![pod("old", 3, "old")]).change()),
            Time(100),
            Time(101),
            Flow(3, 1),
            Time(102),
            Time(120),
            Flow(3, 2),
            Time(121),
            Listing(ClusterChange {
                starts: vec![start("new", created, started)],
                ..listing(vec![pod("new", 3, "new")])
            }),
            Time(130),
        ])
    };
    // The watermarks are up to 18 seconds apart, so that the first flow is of 119 at the latest.
    assert_eq!(found(122, None), ["1 old old 1", "2 ? 1"]);
    assert_eq!(found(110, Some(115)), ["1 ? 1", "2 new new 1"]);
    assert_eq!(found(110, None), ["1 ? 1", "2 ? 1"]);
}

#[test]
fn an_address_whose_pod_has_ended_or_is_gone_is_of_a_pod_that_is_not_known() {
    let steps = || {
        vec![
            with_db(vec![
                pod("job", 1, "job"),
                pod("old", 3, "old"),
                ended("past", 4, "past"),
            ]),
            Listing(ClusterChange {
                gone: gone(&["old"]).gone,
                ..listing(vec![ended("job", 1, "job")])
            }),
            Flow(1, 1),
            Flow(3, 2),
            Flow(4, 3),
            Flow(9, 4),
        ]
    };
    assert_eq!(clients(steps()), ["1 ? 1", "2 ? 1", "3 ? 1", "4 Outside 1"]);
    assert_eq!(observe(steps()).0.unclear, 3);
}

#[test]
fn of_several_pods_between_two_listings_the_starts_decide_where_they_can() {
    // The flow is of 110 to 115.
    let found = |before: Vec<PodObject>, pods: Vec<PodObject>, starts: Vec<PodStart>| {
        clients(vec![
            Time(100),
            with_db(before),
            Time(105),
            Time(110),
            Flow(3, 1),
            Time(115),
            Time(120),
            Listing(ClusterChange {
                starts,
                ..listing(pods)
            }),
        ])
    };
    let old = || vec![pod("old", 3, "old")];
    let job = || ended("job", 3, "job");
    let new = || pod("new", 3, "new");
    // A pod came and ended, and another came with its address: the flow is before the other was there, or perhaps not.
    let both = |created, started| {
        let starts = vec![start("job", 101, Some(103)), start("new", created, started)];
        found(Vec::new(), vec![job(), new()], starts)
    };
    assert_eq!(both(118, None), ["1 job job 1"]);
    assert_eq!(both(104, Some(118)), ["1 ? 1"]);
    assert_eq!(both(104, None), ["1 ? 1"]);
    assert_eq!(both(104, Some(106)), ["1 new new 1"]);
    // The order in which a listing has them does not count.
    let starts = vec![start("job", 101, Some(103)), start("new", 104, Some(118))];
    assert_eq!(found(Vec::new(), vec![new(), job()], starts), ["1 ? 1"]);
    // Three in turn, of which the one in the middle came and ended.
    let three = |job_started, new_created| {
        let starts = vec![
            start("job", job_started - 1, Some(job_started)),
            start("new", new_created, None),
        ];
        found(old(), vec![ended("old", 3, "old"), job(), new()], starts)
    };
    assert_eq!(three(107, 118), ["1 job job 1"]);
    assert_eq!(three(109, 118), ["1 ? 1"]);
    assert_eq!(three(119, 119), ["1 old old 1"]);
    assert_eq!(three(107, 108), ["1 ? 1"]);
    // Two came and ended.
    let two = vec![job(), ended("other", 3, "other")];
    assert_eq!(found(Vec::new(), two.clone(), Vec::new()), ["1 ? 1"]);
    let starts = vec![start("job", 101, Some(103)), start("other", 104, Some(106))];
    assert_eq!(found(Vec::new(), two, starts), ["1 other other 1"]);
    // A pod of which no container had started sent nothing: the flow was of one that no listing had.
    assert_eq!(
        found(Vec::new(), vec![new()], vec![start("new", 104, Some(119))]),
        ["1 ? 1"]
    );
    assert_eq!(found(Vec::new(), vec![new()], Vec::new()), ["1 new new 1"]);
    // Two have it at one listing.
    assert_eq!(
        found([old(), vec![new()]].concat(), Vec::new(), Vec::new()),
        ["1 ? 1"]
    );
    // It had ended before, and is listed again for its labels.
    assert_eq!(
        found(vec![job()], vec![ended("job", 3, "again"), new()], Vec::new()),
        ["1 new new 1"]
    );
}

#[test]
fn a_pod_that_another_recording_saw_later_does_not_replace_the_one_before() {
    let web = || vec![pod("web", 1, "web")];
    let call = || Record(Box::new(record("10.1.0.1", DB, 80, false)));
    let served = || Flow(1, 80);
    let servers = |recordings| {
        let (conversations, cluster) = observe_all(recordings);
        let seen = conversations.seen.iter();
        let mut servers: Vec<_> = seen
            .map(|(it, sides)| {
                let server = match &it.server.party {
                    Party::Pod(id) => &cluster.pod(*id).labels["app"],
                    _ => "?",
                };
                format!("{server} {} {}", sides.client.records, sides.server.records)
            })
            .collect();
        servers.sort();
        servers
    };
    // The client's node has seen two servers in turn, or one with other labels; the recording of the server's begins later.
    for second in ["db-0", "db-1"] {
        let first = || {
            vec![
                Time(100),
                with_db(web()),
                call(),
                Listing(ClusterChange::default()),
                Time(105),
                Listing(ClusterChange {
                    gone: if second == "db-1" {
                        gone(&["db-0"]).gone
                    } else {
                        Vec::new()
                    },
                    ..listing(vec![pod(second, 2, "second")])
                }),
                Time(160),
                call(),
                Time(165),
            ]
        };
        let later = || {
            vec![
                Time(160),
                Listing(listing([vec![pod(second, 2, "second")], web()].concat())),
                served(),
                Time(165),
            ]
        };
        assert_eq!(
            servers(vec![first(), later()]),
            ["db 1 0", "second 1 1"],
            "{second}"
        );
        assert_eq!(
            servers(vec![later(), first()]),
            ["db 1 0", "second 1 1"],
            "{second}"
        );
    }
    // A server that the client's node does not know is what the server's node knows, at the same time and not later.
    let unknown = |at| {
        vec![
            Time(100),
            Listing(listing([web(), vec![ended("past", 2, "past")]].concat())),
            Time(at),
            call(),
            Time(at + 5),
        ]
    };
    let known = || vec![Time(160), with_db(web()), served(), Time(165)];
    assert_eq!(servers(vec![unknown(159), known()]), ["db 1 1"]);
    assert_eq!(servers(vec![unknown(120), known()]), ["? 1 0", "db 0 1"]);
    assert_eq!(servers(vec![known(), unknown(120)]), ["? 1 0", "db 0 1"]);
    // The other way round: of the client that is known there nothing is lost where it is not known itself.
    let itself = || {
        vec![
            Time(160),
            Listing(listing(vec![ended("past", 1, "past"), pod("db-0", 2, "db")])),
            call(),
            Time(165),
        ]
    };
    assert_eq!(servers(vec![itself(), known()]), ["db 0 1", "db 1 0"]);
}

#[test]
fn labels_are_those_of_the_flows_time_in_both_directions() {
    let found = clients(vec![
        with_db(vec![pod("web", 1, "v1")]),
        Flow(1, 1),
        Listing(listing(vec![pod("web", 1, "v2")])),
        Flow(1, 1),
        // It comes again with other labels and another address, as a pod of a StatefulSet.
        Listing(listing(vec![pod("web", 5, "v3")])),
        Flow(5, 1),
        Flow(1, 2),
    ]);
    assert_eq!(found, ["1 web v1 1", "1 web v2 1", "1 web v3 1", "2 ? 1"]);
}

#[test]
fn a_container_is_of_its_pod_also_after_its_end() {
    let job = |pod: PodObject| PodObject {
        containers: vec!["c1".to_owned()],
        ..pod
    };
    let mut call = record("10.1.0.1", DB, 5432, false);
    call.flow.container_id = Some("c1".into());
    let (conversations, cluster) = observe(vec![
        with_db(vec![job(pod("job", 1, "job"))]),
        Listing(listing(vec![job(ended("job", 1, "job")), pod("new", 1, "new")])),
        Record(Box::new(call)),
    ]);
    let (found, _) = conversations.seen.first_key_value().unwrap();
    let Party::Pod(id) = found.client.party else {
        panic!("{found:?}")
    };
    assert_eq!(cluster.pod(id).name, "job");
}

#[test]
fn a_service_has_the_pods_of_the_flows_time() {
    let service = ServiceObject {
        namespace: "x".to_owned(),
        name: "db".to_owned(),
        addresses: vec!["10.96.0.1".parse().unwrap()],
        selector: [("app".to_owned(), "db".to_owned())].into(),
        ports: vec![ServicePort {
            port: 80,
            protocol: PortProtocol::Tcp,
            target: TargetPort::Number(5432),
        }],
    };
    let mut first = listing(vec![pod("web", 1, "web"), pod("db-a", 2, "db")]);
    first.objects.services.push(service);
    let call = || Record(Box::new(record("10.1.0.1", "10.96.0.1", 80, false)));
    let servers = |steps| {
        let (conversations, cluster) = observe(steps);
        let servers = conversations.seen.into_keys().map(|it| {
            let Party::Pod(id) = it.server.party else {
                panic!("{it:?}")
            };
            assert_eq!(it.port, 5432);
            cluster.pod(id).name.clone()
        });
        let mut servers: Vec<_> = servers.collect();
        servers.sort();
        servers
    };
    let rollout = || {
        Listing(ClusterChange {
            gone: gone(&["db-a"]).gone,
            ..listing(vec![pod("db-b", 3, "db")])
        })
    };
    let same = || Listing(ClusterChange::default());
    assert_eq!(
        servers(vec![Listing(first.clone()), call(), same(), rollout()]),
        ["db-a"]
    );
    assert_eq!(
        servers(vec![Listing(first.clone()), rollout(), call(), same()]),
        ["db-b"]
    );
    assert_eq!(
        servers(vec![Listing(first), same(), call(), rollout()]),
        ["db-a", "db-b"]
    );
}

#[test]
fn a_service_has_the_selector_of_either_listing() {
    let service = |app: &str, address: &str, target| ServiceObject {
        namespace: "x".to_owned(),
        name: "web".to_owned(),
        addresses: vec![address.parse().unwrap()],
        selector: [("app".to_owned(), app.to_owned())].into(),
        ports: vec![ServicePort {
            port: 80,
            protocol: PortProtocol::Tcp,
            target: TargetPort::Number(target),
        }],
    };
    let pods = || {
        listing(vec![
            pod("web", 1, "web"),
            pod("blue", 2, "blue"),
            pod("green", 3, "green"),
        ])
    };
    let with = |mut change: ClusterChange, service| {
        change.objects.services.push(service);
        Listing(change)
    };
    let call = || Record(Box::new(record("10.1.0.1", "10.96.0.1", 80, false)));
    let servers = |steps| {
        let (conversations, cluster) = observe(steps);
        let servers = conversations.seen.into_keys().map(|it| match it.server.party {
            Party::Pod(id) => format!("{} {}", cluster.pod(id).labels["app"], it.port),
            other => format!("{other:?}"),
        });
        let mut servers: Vec<_> = servers.collect();
        servers.sort();
        servers
    };
    let same = || Listing(ClusterChange::default());
    let blue = || with(pods(), service("blue", "10.96.0.1", 1));
    let green = || with(ClusterChange::default(), service("green", "10.96.0.1", 1));
    // The first listing that has it is that before the flow, and so for the pods of it.
    assert_eq!(servers(vec![call(), blue()]), ["blue 1"]);
    assert_eq!(servers(vec![blue(), call(), same(), green()]), ["blue 1"]);
    assert_eq!(servers(vec![blue(), call(), green()]), ["blue 1", "green 1"]);
    assert_eq!(servers(vec![blue(), green(), call(), same()]), ["green 1"]);
    // So for its ports and its address, and for the labels of its pods.
    let port = with(ClusterChange::default(), service("blue", "10.96.0.1", 2));
    assert_eq!(servers(vec![blue(), call(), port]), ["blue 1", "blue 2"]);
    let moved = || with(ClusterChange::default(), service("blue", "10.96.0.2", 1));
    assert_eq!(servers(vec![blue(), call(), moved()]), ["blue 1"]);
    assert_eq!(servers(vec![blue(), moved(), call()]), ["Outside"]);
    let relabelled = Listing(listing(vec![pod("green", 3, "blue")]));
    assert_eq!(servers(vec![blue(), call(), relabelled]), ["blue 1", "blue 1"]);
}

#[test]
fn services_that_share_an_address_have_the_pods_of_their_own_ports() {
    let service = |name: &str, port, protocol, target| ServiceObject {
        namespace: "x".to_owned(),
        name: name.to_owned(),
        addresses: vec!["203.0.113.5".parse().unwrap()],
        selector: [("app".to_owned(), name.to_owned())].into(),
        ports: vec![ServicePort {
            port,
            protocol,
            target: TargetPort::Number(target),
        }],
    };
    let (tcp, udp) = (PortProtocol::Tcp, PortProtocol::Udp);
    let shared = [
        service("web", 443, tcp, 8443),
        service("mail", 25, tcp, 2525),
        service("quic", 443, udp, 8444),
    ];
    let call = |port| Record(Box::new(record("10.1.0.9", "203.0.113.5", port, false)));
    let servers = |steps| {
        let (conversations, cluster) = observe(steps);
        let servers = conversations.seen.keys().map(|it| match &it.server.party {
            Party::Pod(id) => format!("{} {}", cluster.pod(*id).name, it.port),
            other => format!("{other:?} {}", it.port),
        });
        let mut servers: Vec<_> = servers.collect();
        servers.sort();
        (servers.join(", "), conversations.without_port)
    };
    let with = |services: &[ServiceObject]| {
        let pods = (1..).zip(["web", "mail", "quic", "late"]);
        let mut change = listing(pods.map(|(last, name)| pod(name, last, name)).collect());
        change.objects.pods.push(pod("client", 9, "client"));
        change.objects.services = services.to_vec();
        Listing(change)
    };
    let change = |service: ServiceObject| {
        let mut change = ClusterChange::default();
        change.objects.services = vec![service];
        Listing(change)
    };
    let reversed: Vec<_> = shared.iter().rev().cloned().collect();
    for services in [&shared[..], &reversed] {
        let found = servers(vec![with(services), call(443), call(25)]);
        assert_eq!(found, ("mail 2525, web 8443".to_owned(), 0));
        // The pods behind a port that none of them has are not known.
        let found = servers(vec![with(services), call(80)]);
        assert_eq!(found, ("UnknownBackend 80".to_owned(), 1));
        // One that changes takes nothing from the others.
        let moved = change(service("web", 444, tcp, 8443));
        let found = servers(vec![with(services), moved, call(444), call(25), call(443)]);
        assert_eq!(found, ("UnknownBackend 443, mail 2525, web 8443".to_owned(), 1));
        // One that is gone is not reported: another that has its port later has taken its place.
        let late = change(service("late", 443, tcp, 1));
        let found = servers(vec![with(services), late, call(443), call(25)]);
        assert_eq!(found, ("late 1, mail 2525".to_owned(), 0));
    }
    // In one listing each of two may be meant.
    let twice = [service("web", 443, tcp, 8443), service("mail", 443, tcp, 2525)];
    assert_eq!(servers(vec![with(&twice), call(443)]).0, "mail 2525, web 8443");
    // The same of objects without a history.
    let Listing(change) = with(&twice) else {
        unreachable!()
    };
    let mut objects = change.objects;
    objects.services.extend(shared.iter().skip(2).cloned());
    let cluster = Cluster::new(objects, &[]);
    let address = "203.0.113.5".parse().unwrap();
    let ports = |port, protocol| {
        let backends = cluster.backends(address, port, protocol)?;
        Some(backends.into_iter().map(|(_, port)| port).collect::<Vec<_>>())
    };
    assert_eq!(ports(443, tcp), Some(vec![8443, 2525]));
    assert_eq!(ports(443, udp), Some(vec![8444]));
    assert_eq!(ports(25, tcp), None);
}

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: x}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - {from: [{podSelector: {matchLabels: {app: job}}}], ports: [{port: 5432}]}
  - {from: [{namespaceSelector: {matchLabels: {team: a}}}], ports: [{port: 5433}]}
";

fn judged(policies: &[NetworkPolicy], (conversations, cluster): &(Conversations, Cluster)) -> Vec<String> {
    let judge = Judge::new(policies, cluster);
    let seen = conversations.seen.keys();
    seen.map(|it| format!("{} {}", it.port, short(&judge.judge(it).ingress)))
        .collect()
}

#[test]
fn verdicts_are_those_of_the_flows_time_and_suggested_policies_allow_them() {
    let namespace = |team: &str| {
        let mut change = listing(Vec::new());
        change.objects.namespaces[0].labels = [("team".to_owned(), team.to_owned())].into();
        change
    };
    let observed = observe(vec![
        with_db(vec![pod("job", 1, "job"), pod("other", 4, "other")]),
        Listing(namespace("a")),
        Flow(1, 5432),
        Flow(4, 5433),
        Listing(ClusterChange::default()),
        Listing(listing(vec![ended("job", 1, "job"), pod("new", 1, "new")])),
        Flow(1, 5432),
        Listing(namespace("b")),
        Flow(4, 5433),
    ]);
    let policies = policies("p.yaml", POLICY, "default").unwrap();
    let mut found = judged(&policies, &observed);
    found.sort();
    assert_eq!(
        found,
        [
            "5432 deny x/db",
            "5432 x/db ingress[0].from[0] and .ports[0]",
            "5433 deny x/db",
            "5433 x/db ingress[1].from[0] and .ports[0]",
        ]
    );
    let (conversations, cluster) = &observed;
    let suggested = suggest(conversations, cluster, &SuggestOptions::default());
    let suggested: Vec<_> = suggested.policies.into_iter().map(|it| it.policy).collect();
    let judge = Judge::new(&suggested, cluster);
    for conversation in conversations.seen.keys() {
        assert_eq!(
            judge.judge(conversation).outcome(),
            Outcome::Allowed,
            "{conversation:?}"
        );
    }
}

#[test]
fn a_pods_start_is_read_from_the_api() {
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let pod = value(
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "x", "creationTimestamp": "1970-01-01T00:00:10Z"},
            "status": {"containerStatuses": [
                {"state": {"running": {"startedAt": "1970-01-01T00:00:30Z"}},
                 "lastState": {"terminated": {"startedAt": "1970-01-01T00:00:14Z"}}}]}}"#,
    );
    let [start] = &starts_of([&pod])[..] else { panic!() };
    let seconds = |time: Timestamp| time.as_nanos() / 1_000_000_000;
    assert_eq!(
        (seconds(start.created), start.started.map(seconds)),
        (10, Some(15))
    );
    assert!(starts_of([&value(r#"{"kind": "Pod", "metadata": {"name": "web"}}"#)]).is_empty());
    assert!(objects("p.json", &pod.to_string()).is_ok());
}
