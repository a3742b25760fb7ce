use flowtap_model::{Events, Flow, FlowBatch, TcpRecord, Transport};
use proptest::prelude::*;

use super::*;
use crate::manifest::{policies, to_yaml};
use crate::observed::Observed;
use crate::testing::{cluster, objects, observed, record};
use crate::verdict::{Judge, Outcome};

fn conversations(records: Vec<TcpRecord>, cluster: &Cluster) -> Conversations {
    let mut conversations = Conversations::default();
    conversations.add(&observed(records), cluster, &[], false);
    conversations
}

/// The suggested policies, in YAML and read again, as the operator would apply them.
fn applied(suggestions: &Suggestions) -> Vec<NetworkPolicy> {
    let documents: Vec<_> = suggestions
        .policies
        .iter()
        .map(|suggestion| format!("---\n{}", to_yaml(&suggestion.policy.to_value()).unwrap()))
        .collect();
    let policies = policies("suggested.yaml", &documents.concat(), "default");
    policies.unwrap_or_else(|error| panic!("{error}\n{}", documents.concat()))
}

fn without_dns() -> SuggestOptions {
    SuggestOptions {
        dns: None,
        ..SuggestOptions::default()
    }
}

#[test]
fn a_policy_per_workload_with_a_rule_per_set_of_ports() {
    let cluster = cluster();
    let seen = conversations(
        vec![
            // x/a serves x/b and y/b on 80, the latter on 81 also; and calls an address outside.
            record("10.1.0.1", "10.1.0.2", 80, true),
            record("10.1.0.1", "10.2.0.2", 80, true),
            record("10.1.0.1", "10.2.0.2", 81, true),
            record("10.1.0.1", "198.51.100.7", 443, false),
            // Its own node, and itself: always allowed.
            record("10.1.0.1", "192.0.2.1", 10_250, false),
            record("10.1.0.1", "10.1.0.1", 80, false),
        ],
        &cluster,
    );
    let suggestions = suggest(&seen, &cluster, &without_dns());
    let yaml = to_yaml(&suggestions.policies[0].policy.to_value()).unwrap();
    assert_eq!(suggestions.policies.len(), 1, "{suggestions:?}");
    let expected = policies(
        "expected.yaml",
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: flowtap-a, namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {pod: b}}}]
    ports: [{protocol: TCP, port: 80}]
  - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: 'y'}}, podSelector: {matchLabels: {pod: b}}}]
    ports: [{protocol: TCP, port: 80}, {protocol: TCP, port: 81}]
  egress:
  - to: [{ipBlock: {cidr: 198.51.100.7/32}}]
    ports: [{protocol: TCP, port: 443}]
",
        "default",
    )
    .unwrap();
    assert_eq!(applied(&suggestions), expected, "{yaml}");
}

#[test]
fn a_workload_that_only_calls_is_closed_to_others_and_dns_is_allowed_unless_it_was_seen() {
    let cluster = cluster();
    let seen = conversations(vec![record("10.1.0.1", "10.1.0.2", 80, false)], &cluster);
    let suggestions = suggest(&seen, &cluster, &SuggestOptions::default());
    let policy = &suggestions.policies[0].policy;
    assert_eq!(policy.ingress, Some(Vec::new()));
    assert_eq!(policy.egress.as_ref().unwrap().len(), 2);
    assert_eq!(
        suggestions.policies[0].notes,
        ["no UDP was observed: DNS to kube-dns is allowed unseen"]
    );
}

#[test]
fn addresses_outside_are_widened_to_a_prefix_or_a_named_range() {
    let cluster = cluster();
    let records = ["198.51.100.7", "198.51.100.9", "203.0.113.4", "203.0.113.5"];
    let records = records.map(|remote| record("10.1.0.1", remote, 443, false));
    let seen = conversations(records.into(), &cluster);
    let options = SuggestOptions {
        prefix_v4: 24,
        ranges: vec![("203.0.112.0/22".parse().unwrap(), "the class partners".to_owned())],
        ..without_dns()
    };
    let suggestions = suggest(&seen, &cluster, &options);
    let egress = suggestions.policies[0].policy.egress.as_ref().unwrap();
    let block = |cidr: &str| Peer::Block {
        cidr: cidr.parse().unwrap(),
        except: Vec::new(),
    };
    assert_eq!(
        egress[0].peers,
        [block("198.51.100.0/24"), block("203.0.112.0/22")]
    );
    assert_eq!(
        suggestions.policies[0].notes,
        ["203.0.112.0/22 is the class partners"]
    );
}

/// The blocks and notes of the only policy that is made for what `x/a` has called.
fn blocks(remotes: &[&str], cluster: &Cluster, options: &SuggestOptions) -> (Vec<String>, Vec<String>) {
    let records = remotes
        .iter()
        .map(|remote| record("10.1.0.1", remote, 443, false));
    let suggestions = suggest(&conversations(records.collect(), cluster), cluster, options);
    let [Suggestion { policy, notes }] = &suggestions.policies[..] else {
        panic!("{suggestions:?}");
    };
    let rules = policy.egress.iter().flatten();
    let peers = rules.flat_map(|rule| &rule.peers).map(|peer| match peer {
        Peer::Block { cidr, .. } => cidr.to_string(),
        Peer::Pods { .. } => panic!("{peer:?}"),
    });
    (peers.collect(), notes.clone())
}

#[test]
fn no_address_of_the_cluster_is_widened_and_a_pod_that_is_not_known_is_doubtful() {
    let options = SuggestOptions {
        prefix_v4: 24,
        ranges: vec![("10.0.0.0/8".parse().unwrap(), "the class all".to_owned())],
        pod_ranges: vec!["172.20.0.0/16".parse().unwrap()],
        service_ranges: vec!["172.21.0.0/16".parse().unwrap()],
        ..without_dns()
    };
    // Of a node's range, of a range of the config, a node, and a service's address.
    let remotes = [
        "10.2.0.99",
        "172.20.3.4",
        "192.0.2.2",
        "172.21.0.10",
        "198.51.100.7",
    ];
    let (blocks_of, notes) = blocks(&remotes, &cluster(), &options);
    assert_eq!(
        blocks_of,
        [
            "10.2.0.99/32",
            "172.20.3.4/32",
            "172.21.0.10/32",
            "192.0.2.2/32",
            "198.51.100.0/24"
        ]
    );
    let doubt = |address: &str| {
        format!(
            "doubtful: {address} is in the cluster's range of pods, and no pod that is known has it; another pod can have this \
             address later"
        )
    };
    assert_eq!(notes, [doubt("10.2.0.99"), doubt("172.20.3.4")]);
}

#[test]
fn no_named_range_opens_an_address_of_the_cluster() {
    let mut objects = objects();
    objects
        .services
        .push(flowtap_model::cluster_objects::ServiceObject {
            addresses: vec![[10, 96, 0, 1].into()],
            ..Default::default()
        });
    let cluster = Cluster::new(objects, &[]);
    let options = SuggestOptions {
        prefix_v4: 24,
        // The most specific first, as `policy suggest` sorts them.
        ranges: vec![
            ("10.200.0.0/16".parse().unwrap(), "the class lab".to_owned()),
            ("10.0.0.0/8".parse().unwrap(), "the class corp".to_owned()),
        ],
        ..without_dns()
    };
    // Pods are in 10.1.0.0/24 to 10.3.0.0/24, and a service has 10.96.0.1.
    let (found, notes) = blocks(&["10.100.0.7", "10.200.0.7", "10.240.0.7"], &cluster, &options);
    assert_eq!(found, ["10.100.0.0/14", "10.128.0.0/9", "10.200.0.0/16"]);
    let instead = |cidr: &str| {
        format!("{cidr} instead of 10.0.0.0/8, which is the class corp and has addresses of the cluster")
    };
    assert_eq!(
        notes,
        [
            instead("10.100.0.0/14"),
            "10.200.0.0/16 is the class lab".to_owned(),
            instead("10.128.0.0/9"),
        ]
    );
    for cidr in found {
        let cidr: IpNet = cidr.parse().unwrap();
        assert!(
            !cluster.addresses().iter().any(|inside| cidr.contains(inside)),
            "{cidr}"
        );
    }
}

#[test]
fn a_prefix_is_as_short_as_the_clusters_addresses_let_it_be() {
    let options = SuggestOptions {
        prefix_v4: 8,
        prefix_v6: 16,
        ..without_dns()
    };
    // 10.1.0.0/24 to 10.3.0.0/24 are of pods, 192.0.2.1 to 192.0.2.3 of nodes.
    let remotes = [
        "10.200.0.1",
        "10.4.0.1",
        "192.0.2.4",
        "198.51.100.7",
        "2001:db8::1",
    ];
    let (blocks_of, notes) = blocks(&remotes, &cluster(), &options);
    assert_eq!(
        blocks_of,
        [
            "10.4.0.0/14",
            "10.128.0.0/9",
            "192.0.2.4/30",
            "198.0.0.0/8",
            "2001::/16"
        ]
    );
    assert_eq!(
        notes,
        ["10.4.0.0/14", "10.128.0.0/9", "192.0.2.4/30"]
            .map(|cidr| format!("{cidr} instead of a /8, which has addresses of the cluster"))
    );
}

#[test]
fn pods_that_share_labels_are_not_isolated_without_their_own_traffic() {
    let mut objects = objects();
    // y/b gets the labels of y/a: a policy for one selects the other.
    objects.pods[4].labels = objects.pods[3].labels.clone();
    let cluster = Cluster::new(objects, &[]);
    let seen = conversations(
        vec![
            record("10.2.0.1", "10.1.0.1", 80, true),
            record("10.2.0.2", "10.3.0.1", 81, true),
        ],
        &cluster,
    );
    let suggestions = suggest(&seen, &cluster, &without_dns());
    assert_eq!(suggestions.policies.len(), 1, "one selector, one policy");
    assert_eq!(
        suggestions.policies[0].notes,
        ["its labels also select Deployment/b"]
    );
    assert_eq!(suggestions.policies[0].policy.ingress.as_ref().unwrap().len(), 2);
}

#[test]
fn a_workload_without_labels_has_no_policy_and_is_named() {
    let mut objects = objects();
    objects.pods[0].labels.clear();
    let cluster = Cluster::new(objects, &[]);
    let seen = conversations(vec![record("10.1.0.1", "10.1.0.2", 80, true)], &cluster);
    let suggestions = suggest(&seen, &cluster, &without_dns());
    assert!(suggestions.policies.is_empty());
    assert_eq!(
        suggestions.without,
        ["x/Deployment/a: its pods share no label that a policy could select them by"]
    );
}

#[test]
fn labels_that_change_with_a_revision_select_nothing() {
    let mut objects = objects();
    let labels = [
        ("pod-template-hash", "1"),
        ("app", "web"),
        ("tier", "front"),
        ("version", "2"),
    ];
    objects.pods[0].labels = labels
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let cluster = Cluster::new(objects, &[]);
    let seen = conversations(vec![record("10.1.0.1", "10.1.0.2", 80, true)], &cluster);
    let suggestions = suggest(&seen, &cluster, &without_dns());
    let labels = &suggestions.policies[0].policy.pods.labels;
    assert_eq!(
        labels.iter().collect::<Vec<_>>(),
        [(&"app".to_owned(), &"web".to_owned())]
    );
}

#[test]
fn without_pods_addresses_alone_are_allowed() {
    let cluster = Cluster::default();
    let seen = conversations(
        vec![
            record("10.1.0.1", "198.51.100.7", 443, false),
            record("10.1.0.1", "198.51.100.8", 80, true),
            // Itself, which needs no rule.
            record("10.1.0.1", "10.1.0.1", 81, true),
        ],
        &cluster,
    );
    let suggestions = suggest(&seen, &cluster, &without_dns());
    let policies = applied(&suggestions);
    let judge = Judge::new(&policies, &cluster);
    for conversation in seen.seen.keys() {
        assert_eq!(
            judge.judge(conversation).outcome(),
            Outcome::Allowed,
            "{conversation:?}"
        );
    }
    let other = conversations(vec![record("10.1.0.1", "198.51.100.9", 443, false)], &cluster);
    let conversation = other.seen.keys().next().unwrap();
    assert_eq!(judge.judge(conversation).outcome(), Outcome::Denied);
}

/// An address of any kind: pods, nodes, addresses in a pods' range without a pod, others, IPv6.
fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (1..=3_u8, 1..=3_u8).prop_map(|(third, last)| format!("10.{third}.0.{last}")),
        1 => (1..=3_u8).prop_map(|last| format!("192.0.2.{last}")),
        1 => (1..=3_u8, 90..=99_u8).prop_map(|(third, last)| format!("10.{third}.0.{last}")),
        2 => (0..=255_u8).prop_map(|last| format!("198.51.100.{last}")),
        1 => (0..=9_u8).prop_map(|last| format!("2001:db8::{last}")),
    ]
}

fn label() -> impl Strategy<Value = (String, String)> {
    (
        prop::sample::select(vec!["app", "tier", "pod-template-hash", "k8s-app"]),
        "[a-b]",
    )
        .prop_map(|(key, value)| (key.to_owned(), value))
}

proptest! {
    /// Whatever the labels, owners and flows: what was suggested for an observation denies nothing of it.
    #[test]
    fn suggested_policies_deny_nothing_that_was_observed(
        flows in prop::collection::vec((address(), address(), 1..4_u16, any::<bool>(), 0..3_u8), 1..60),
        labels in prop::collection::vec(prop::collection::vec(label(), 0..3), 9),
        owners in prop::collection::vec("[a-c]", 9),
        prefix in 8..=32_u8,
        with_pods in any::<bool>(),
        dns in any::<bool>(),
    ) {
        let mut objects = objects();
        for ((pod, labels), owner) in objects.pods.iter_mut().zip(labels).zip(owners) {
            pod.labels = labels.into_iter().collect();
            pod.workload = format!("Deployment/{owner}");
        }
        if !with_pods {
            objects.pods.clear();
        }
        let cluster = Cluster::new(objects, &[]);
        let records = flows.iter().map(|(local, remote, port, serves, transport)| {
            record(local, remote, *port, *serves).with_flow(|flow| Flow {
                transport: [Transport::Tcp, Transport::Udp, Transport::UdpLite][usize::from(*transport)],
                ..flow
            })
        });
        let seen = conversations(records.collect(), &cluster);
        let dns = dns.then_some("no UDP was observed");
        let options = SuggestOptions { prefix_v4: prefix, dns, ..SuggestOptions::default() };
        let suggestions = suggest(&seen, &cluster, &options);
        if suggestions.policies.is_empty() {
            return Ok(());
        }
        let policies = applied(&suggestions);
        let judge = Judge::new(&policies, &cluster);
        for conversation in seen.seen.keys() {
            let verdict = judge.judge(conversation);
            prop_assert_ne!(verdict.outcome(), Outcome::Denied, "{:?}\n{:?}\n{:#?}", conversation, verdict, policies);
        }
    }
}

/// Names as files and recordings may have them.
fn hostile_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,300}",
        "[a-z.A-Z_é-]{0,12}",
        Just("é".repeat(150)),
        Just("a\n---\nkind: Pod".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the names and labels of the objects: `policy check` reads what `policy suggest` writes, and no two have one name.
    #[test]
    fn suggested_policies_are_accepted_whatever_the_names(
        workloads in prop::collection::vec(hostile_name(), 9),
        names in prop::collection::vec(hostile_name(), 9),
        labels in prop::collection::vec((hostile_name(), hostile_name()), 9),
        namespaces in prop::collection::vec(prop_oneof![3 => Just("x".to_owned()), 1 => hostile_name()], 9),
        owned in any::<bool>(),
    ) {
        let mut objects = objects();
        for (index, pod) in objects.pods.iter_mut().enumerate() {
            pod.workload = if owned { format!("ReplicaSet/{}", workloads[index]) } else { String::new() };
            pod.name.clone_from(&names[index]);
            pod.namespace.clone_from(&namespaces[index]);
            pod.labels.insert(labels[index].0.clone(), labels[index].1.clone());
        }
        let addresses: Vec<_> = objects.pods.iter().map(|pod| pod.addresses[0].to_string()).collect();
        let cluster = Cluster::new(objects, &[]);
        let records = addresses.iter().flat_map(|local| {
            addresses.iter().map(move |remote| record(local, remote, 80, true))
        });
        let seen = conversations(records.collect(), &cluster);
        let suggestions = suggest(&seen, &cluster, &without_dns());
        if !suggestions.policies.is_empty() {
            prop_assert_eq!(applied(&suggestions).len(), suggestions.policies.len());
        }
    }
}

#[test]
fn names_of_policies_are_subdomains() {
    let mut taken = BTreeSet::new();
    let long = "é".repeat(150);
    let cut = "n".repeat(300);
    for (workload, expected) in [
        ("Deployment/web", "flowtap-web"),
        ("StatefulSet/web", "flowtap-web-2"),
        ("Deployment/web-2", "flowtap-web-2-2"),
        ("Pod/Web_1..b.", "flowtap-web-1.b"),
        ("Pod/a_.-b", "flowtap-a.b"),
        ("Pod/größe", "flowtap-gr--e"),
        ("Pod/__", "flowtap"),
        (long.as_str(), "flowtap-2"),
        (cut.as_str(), &format!("flowtap-{}", "n".repeat(230))),
    ] {
        let name = unique_name("x", workload, &mut taken);
        assert_eq!(name, expected);
        assert!(crate::manifest::names::is_subdomain(&name), "{name}");
    }
    assert_eq!(unique_name("y", "Deployment/web", &mut taken), "flowtap-web");
}

#[test]
fn a_service_is_judged_by_the_pods_behind_it_at_their_own_port() {
    use flowtap_model::cluster_objects::{ServiceObject, ServicePort, TargetPort};
    let mut objects = objects();
    let port = |port, name: &str| ServicePort {
        port,
        protocol: PortProtocol::Tcp,
        target: TargetPort::Name(name.to_owned()),
    };
    objects.services.push(ServiceObject {
        namespace: "y".to_owned(),
        name: "s".to_owned(),
        addresses: vec![[10, 96, 0, 1].into()],
        selector: [("pod".to_owned(), "b".to_owned())].into(),
        ports: vec![port(8080, "serve-80-tcp")],
    });
    let cluster = Cluster::new(objects, &[]);
    let seen = conversations(vec![record("10.1.0.1", "10.96.0.1", 8080, false)], &cluster);
    let conversation = seen.seen.keys().next().unwrap();
    let Party::Pod(id) = conversation.server.party else {
        panic!("{conversation:?}");
    };
    assert_eq!(
        (
            &*cluster.pod(id).namespace,
            &*cluster.pod(id).name,
            conversation.port
        ),
        ("y", "b", 80)
    );
    // The pods behind a port that no service of the address has are not known: the flow is counted.
    let seen = conversations(vec![record("10.1.0.1", "10.96.0.1", 9999, false)], &cluster);
    assert_eq!(
        (
            seen.seen.keys().next().unwrap().server.party.clone(),
            seen.unresolved_services,
            seen.without_port,
        ),
        (Party::UnknownBackend, 0, 1)
    );
}

#[test]
fn an_address_of_two_pods_is_of_neither() {
    let mut objects = objects();
    let mut twin = objects.pods[1].clone();
    assert_eq!(twin.addresses[0].to_string(), "10.1.0.2");
    twin.name = "twin".to_owned();
    twin.labels = [("pod".to_owned(), "twin".to_owned())].into();
    objects.pods.push(twin);
    for _ in 0..2 {
        objects.pods.reverse();
        let cluster = Cluster::new(objects.clone(), &[]);
        // Seen from either end.
        for (local, remote, serves) in [("10.1.0.1", "10.1.0.2", false), ("10.1.0.2", "10.1.0.1", true)] {
            let seen = conversations(vec![record(local, remote, 80, serves)], &cluster);
            let Conversation { client, server, .. } = seen.seen.keys().next().unwrap();
            assert_eq!((&server.party, seen.unclear), (&Party::UnknownPod, 1));
            assert!(matches!(client.party, Party::Pod(_)));
        }
    }
    // A container is of one pod.
    for (pod, id) in objects.pods.iter_mut().zip(0..) {
        pod.containers = vec![format!("c{id}")];
    }
    let index = objects.pods.iter().position(|pod| pod.name == "twin").unwrap();
    let mut own = record("10.1.0.2", "10.1.0.1", 80, true);
    own.flow.container_id = Some(format!("c{index}").into());
    let cluster = Cluster::new(objects, &[]);
    let seen = conversations(vec![own], &cluster);
    let server = &seen.seen.keys().next().unwrap().server.party;
    assert!(
        matches!(server, Party::Pod(id) if cluster.pod(*id).name == "twin") && seen.unclear == 0,
        "{server:?}"
    );
}

#[test]
fn runs_of_a_cron_job_are_one_workload_and_have_one_policy() {
    let pods = [29_000_060, 29_000_070].map(|minute| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: backup-{minute}-q, namespace: shop, labels: {{app: backup, job-name: \
             backup-{minute}}}, ownerReferences: [{{kind: Job, name: backup-{minute}, controller: true}}]}}\n\
             status: {{podIP: 10.1.0.{}}}\n",
            minute / 10 % 10
        )
    });
    let cluster = Cluster::new(
        crate::manifest::objects("pods.yaml", &pods.concat()).unwrap(),
        &[],
    );
    let records = ["10.1.0.6", "10.1.0.7"].map(|run| record(run, "198.51.100.7", 443, false));
    let suggestions = suggest(&conversations(records.into(), &cluster), &cluster, &without_dns());
    let policies: Vec<_> = suggestions.policies.iter().map(|it| &it.policy).collect();
    assert_eq!(policies.len(), 1, "{policies:?}");
    assert_eq!(policies[0].to_string(), "shop/flowtap-backup");
    assert_eq!(
        policies[0].pods.labels,
        [("app".to_owned(), "backup".to_owned())].into()
    );
}

#[test]
fn both_ends_on_one_machine_are_one_conversation_and_attempts_are_none() {
    let cluster = cluster();
    let mut failed = record("10.1.0.1", "10.3.0.1", 80, false);
    failed.events = Events::FAILED;
    let records = vec![
        record("10.1.0.1", "10.1.0.2", 80, false),
        record("10.1.0.2", "10.1.0.1", 80, true),
        record("127.0.0.1", "127.0.0.1", 80, true),
        failed,
    ];
    let seen = conversations(records.clone(), &cluster);
    let tally: Vec<_> = seen
        .seen
        .values()
        .map(|sides| sides.tally().connections)
        .collect();
    assert_eq!((tally, seen.loopback, seen.attempts), (vec![1], 1, 1));
    let mut with_attempts = Conversations::default();
    with_attempts.add(&observed(records), &cluster, &[], true);
    assert_eq!(with_attempts.seen.len(), 2);
}

#[test]
fn connects_that_wait_are_attempts_however_many_records_they_have() {
    let cluster = cluster();
    let flow = |events: &[Events]| {
        let records = events.iter().map(|events| TcpRecord {
            events: *events,
            ..record("10.1.0.1", "10.3.0.1", 80, false)
        });
        let seen = conversations(records.collect(), &cluster);
        (seen.seen.len(), seen.attempts)
    };
    let (waits, failed) = (Events::CONNECTING, Events::FAILED | Events::UNANSWERED);
    for attempt in [
        &[failed][..],
        &[waits, failed],
        &[waits, waits, waits, failed],
        // It waits at the end of the recording.
        &[waits],
        &[failed, waits, failed],
    ] {
        assert_eq!(flow(attempt), (0, 1), "{attempt:?}");
    }
    for connection in [
        &[waits, Events::OPENED][..],
        &[failed, failed, failed, Events::OPENED | Events::CLOSED],
        &[waits, Events::ADOPTED],
        // Of one that was open before the recording: traffic, a census, the close.
        &[Events::NONE, failed],
        &[Events::OPEN],
        &[Events::CLOSED],
    ] {
        assert_eq!(flow(connection), (1, 0), "{connection:?}");
    }
}

#[test]
fn an_address_of_the_machine_is_its_own_node_for_pods_there() {
    let objects = objects();
    let bridge = "10.1.0.254".parse().unwrap();
    let machine = ["192.0.2.1".parse().unwrap(), bridge];
    let cluster = Cluster::new(objects, &machine);
    let mut seen = Conversations::default();
    seen.add(
        &observed(vec![record("10.1.0.1", "10.1.0.254", 80, true)]),
        &cluster,
        &machine,
        false,
    );
    let client = &seen.seen.keys().next().unwrap().client.party;
    assert_eq!(*client, Party::Node("n-x".to_owned()));
    assert_eq!(cluster.node_at(bridge), Some("n-x"));
}

#[test]
fn udp_without_a_peer_and_udp_without_a_place_are_counted_apart() {
    let none = flowtap_model::Endpoint::new([0, 0, 0, 0].into(), 0);
    let local = flowtap_model::Endpoint::new([10, 1, 0, 1].into(), 5353);
    let record = |sent_bytes, unplaced| flowtap_model::UdpRecord {
        sent_bytes,
        unplaced,
        ..flowtap_model::UdpRecord::new(Flow {
            transport: Transport::Udp,
            ..Flow::new(local, none)
        })
    };
    let mut observed = Observed::new(1);
    observed.fold(&FlowBatch {
        // The last one is of a drop.
        udp: vec![
            record(9, true),
            record(9, false),
            record(9, false),
            record(0, false),
        ],
        ..FlowBatch::default()
    });
    assert_eq!(
        (observed.left_out, observed.unplaced, observed.without_peer),
        (0, 1, 2)
    );
}

#[test]
fn flows_beyond_the_bound_are_counted() {
    let mut observed = Observed::new(1);
    let records = vec![
        record("10.1.0.1", "10.1.0.2", 80, false),
        record("10.1.0.1", "10.1.0.3", 80, false),
        record("10.1.0.1", "10.1.0.2", 80, false),
    ];
    observed.fold(&FlowBatch {
        tcp: records,
        ..FlowBatch::default()
    });
    assert_eq!((observed.iter().count(), observed.left_out), (1, 1));
    // Those over loopback are never judged, and take no place.
    let mut observed = Observed::new(1);
    let records = ["127.0.0.1", "127.0.0.2", "10.1.0.2"];
    observed.fold(&FlowBatch {
        tcp: records.map(|remote| record("10.1.0.1", remote, 80, false)).into(),
        ..FlowBatch::default()
    });
    assert_eq!(
        (observed.iter().count(), observed.left_out, observed.loopback),
        (1, 0, 2)
    );
}

#[test]
fn an_end_on_a_recorded_node_is_not_widened_and_in_no_prefix_where_no_pods_are_known() {
    let nothing = Cluster::default();
    // Both ends of the first are on the node; the others are beside it, and elsewhere.
    let records = vec![
        record("10.77.0.1", "10.77.0.2", 80, false),
        record("10.77.0.2", "10.77.0.1", 80, true),
        record("10.77.0.1", "10.77.0.9", 80, false),
        record("10.77.0.1", "198.51.100.7", 80, false),
    ];
    let seen = conversations(records, &nothing);
    let options = SuggestOptions {
        prefix_v4: 24,
        ..without_dns()
    };
    let suggestions = suggest(&seen, &nothing, &options);
    let [Suggestion { policy, notes }] = &suggestions.policies[..] else {
        panic!("{suggestions:?}");
    };
    let blocks = |rules: &Option<Vec<Rule>>| -> Vec<String> {
        let peers = rules.iter().flatten().flat_map(|rule| &rule.peers);
        peers
            .map(|peer| match peer {
                Peer::Block { cidr, .. } => cidr.to_string(),
                Peer::Pods { .. } => panic!("{peer:?}"),
            })
            .collect()
    };
    assert_eq!(
        blocks(&policy.egress),
        ["10.77.0.2/32", "10.77.0.8/29", "198.51.100.0/24"]
    );
    assert_eq!(blocks(&policy.ingress), ["10.77.0.1/32"]);
    assert!(
        notes.contains(&"10.77.0.8/29 instead of a /24, which has addresses of the cluster or of ends on a recorded node".to_owned()),
        "{notes:?}"
    );
}
