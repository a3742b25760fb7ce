use flowtap_network_policy::conversation::Conversations;
use flowtap_network_policy::manifest;
use flowtap_pipeline::cluster_objects::{ClusterObjects, PodObject};
use flowtap_pipeline::plain_text::is_hostile;

use super::*;

/// Two pods with these names of their namespace and workload that have a conversation.
fn observation(names: [&str; 2]) -> Observation {
    let pods = [1, 2].map(|last| PodObject {
        namespace: names[0].to_owned(),
        name: format!("{}{last}", names[1]),
        workload: names[1].to_owned(),
        addresses: vec![[10, 1, 0, last].into()],
        ..PodObject::default()
    });
    let objects = ClusterObjects {
        pods: pods.into(),
        ..ClusterObjects::default()
    };
    let cluster = Cluster::new(objects, &[]);
    let mut ends = cluster.pods().map(|(id, pod)| End {
        party: Party::Pod(id),
        address: pod.addresses[0],
    });
    let conversation = Conversation {
        client: ends.next().unwrap(),
        server: ends.next().unwrap(),
        port: 80,
        protocol: None,
    };
    drop(ends);
    let mut conversations = Conversations::default();
    conversations.seen.insert(conversation, Sides::default());
    Observation {
        conversations,
        cluster,
        left_out: 0,
        unplaced: 0,
        without_peer: 0,
        has_udp: false,
        interrupted: None,
    }
}

#[test]
fn names_are_escaped_in_text_and_json_and_those_that_do_not_show_are_in_quotes() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec: {podSelector: {}}\n";
    let policies = manifest::policies("p.yaml", policy, "default").unwrap();
    for (name, text, json) in [
        ("web", "web", "web"),
        ("a\u{200b}b", "a\\xe2\\x80\\x8bb", "a\\xe2\\x80\\x8bb"),
        ("\u{85}", "\\xc2\\x85", "\\xc2\\x85"),
        ("\u{202e}b", "\\xe2\\x80\\xaeb", "\\xe2\\x80\\xaeb"),
        ("\u{2028}", "\\xe2\\x80\\xa8", "\\xe2\\x80\\xa8"),
        ("a\nb", "a\\x0ab", "a\\x0ab"),
        ("  ", "\"  \"", "  "),
    ] {
        let observation = observation([name, name]);
        let rows = Rows::judged(&observation, &Judge::new(&policies, &observation.cluster));
        let shown = rows.text(&[""], true);
        let side = format!("{text}/{text}");
        assert!(
            shown.starts_with(&format!("allowed    {side} -> {side} other 80: ")),
            "{shown}"
        );
        let report = printed(json!({"flows": rows.json(&[""]), "notes": [name]}));
        let visible = |text: &str| !text.contains(|c| is_hostile(c) && c != '\n');
        assert!(
            visible(&shown) && visible(&report) && visible(&lines(&[name.to_owned()])),
            "{shown}{report}"
        );
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["flows"][0]["server"]["workload"], json);
        assert_eq!(report["flows"][0]["server"]["namespace"], json);
        assert_eq!(report["notes"][0], json);
    }
}
