use flowtap_model::cluster_objects::ClusterChange;
use flowtap_model::cluster_objects::{ClusterObjects, ServiceObject, ServicePort, TargetPort};

use super::*;
use crate::testing::{cluster, objects, observed, record};

fn seen(records: Vec<flowtap_model::TcpRecord>, cluster: &Cluster) -> Vec<(Conversation, Sides)> {
    let mut conversations = Conversations::default();
    // In two parts, as of two recordings.
    for record in records {
        conversations.add(&observed(vec![record]), cluster, &[], false);
    }
    conversations.seen.into_iter().collect()
}

#[test]
fn a_conversation_that_both_ends_have_seen_is_one() {
    let nothing = Cluster::new(ClusterObjects::default(), &[]);
    let [client, server] = ["10.77.0.1", "10.77.0.2"];
    let views = || {
        vec![
            record(client, server, 80, false),
            record(server, client, 80, true),
        ]
    };
    let found = seen(views(), &nothing);
    let parties: Vec<_> = found
        .iter()
        .map(|(it, sides)| {
            (
                &it.client.party,
                &it.server.party,
                sides.client.records,
                sides.server.records,
            )
        })
        .collect();
    assert_eq!(parties, [(&Party::Assumed, &Party::Assumed, 1, 1)]);
    // Again, and in the other order.
    let found = seen([views(), views().into_iter().rev().collect()].concat(), &nothing);
    assert_eq!((found.len(), found[0].1.client.records), (1, 2));
    // Another port is another conversation, and one end alone knows nothing of the other.
    let found = seen(
        vec![
            record(client, server, 80, false),
            record(server, client, 81, true),
        ],
        &nothing,
    );
    assert_eq!(found.len(), 2);
    assert!(found.iter().any(|(it, _)| it.server.party == Party::Anything));
}

#[test]
fn an_end_of_the_node_that_is_seen_from_outside_is_one_conversation() {
    // A process in a namespace of the node whose address no object names: its peer takes it for outside.
    let [pod, process] = ["10.1.0.1", "198.51.100.7"];
    let records = vec![record(process, pod, 80, false), record(pod, process, 80, true)];
    let found = seen(records, &cluster());
    let parties: Vec<_> = found.iter().map(|(it, _)| &it.client.party).collect();
    assert_eq!(parties, [&Party::Node(String::new())], "{found:?}");
}

#[test]
fn the_pods_of_a_service_that_selects_none_that_is_known_are_unknown() {
    let service = |selector: &[(&str, &str)], target| ServiceObject {
        namespace: "x".to_owned(),
        name: "web".to_owned(),
        addresses: ["10.96.0.1", "fd00:96::1"]
            .map(|address| address.parse().unwrap())
            .into(),
        selector: selector
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ports: vec![ServicePort {
            port: 8080,
            protocol: PortProtocol::Tcp,
            target: TargetPort::Number(target),
        }],
    };
    // The server, and numbers of services without a selector, without a pod and without the port.
    let server = |selector: &[(&str, &str)], call: (&str, u16)| {
        let mut objects = objects();
        objects.services.push(service(selector, 80));
        let client = if call.0.contains(':') {
            "fd00:1::1"
        } else {
            "10.1.0.1"
        };
        let records = || vec![record(client, call.0, call.1, false)];
        // Of files, and as a recording has listed them.
        let mut listed = Observed::new(1_000);
        listed.list(ClusterChange {
            objects: objects.clone(),
            ..ClusterChange::default()
        });
        listed.fold(&flowtap_model::FlowBatch {
            tcp: records(),
            ..Default::default()
        });
        listed.finish();
        let found = [observed(records()), listed].map(|mut observed| {
            let mut cluster = Cluster::new(objects.clone(), &[]);
            observed.keep_pods(&mut cluster);
            let mut found = Conversations::default();
            found.add(&observed, &cluster, &[], false);
            let server = found.seen.keys().next().unwrap().server.clone();
            let party = match server.party {
                Party::Pod(id) => cluster.pod(id).name.clone(),
                other => format!("{other:?}"),
            };
            (
                party,
                [found.unresolved_services, found.without_pods, found.without_port],
            )
        });
        assert_eq!(found[0], found[1], "{selector:?} {call:?}");
        let [(party, counts), _] = found;
        (party, counts)
    };
    let [v4, v6] = ["10.96.0.1", "fd00:96::1"];
    for (selector, call, party, counts) in [
        (&[("pod", "b")][..], (v4, 8080), "b", [0, 0, 0]),
        (&[("pod", "none")], (v4, 8080), "UnknownBackend", [0, 1, 0]),
        // Its pods have no address of this family.
        (&[("pod", "b")], (v6, 8080), "UnknownBackend", [0, 1, 0]),
        (&[], (v4, 8080), "Outside", [1, 0, 0]),
        (&[("pod", "b")], (v4, 9090), "UnknownBackend", [0, 0, 1]),
    ] {
        assert_eq!(
            server(selector, call),
            (party.to_owned(), counts),
            "{selector:?} {call:?}"
        );
    }
}
