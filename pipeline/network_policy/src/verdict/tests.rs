//! Verdicts by the API reference's examples and by the subjects of the upstream conformance cases
//! (`test/e2e/network/netpol`), in tables: a conversation, the client's decision, the server's.

mod unknown;

use super::*;
use crate::manifest::policies;
use crate::testing::{check, cluster, conversation};

/// A policy `name` in namespace `namespace` with the spec `spec`.
fn yaml(namespace: &str, name: &str, spec: &str) -> String {
    let spec = spec.trim_matches('\n');
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: '{namespace}'}}\nspec:\n{spec}\n"
    )
}

fn parsed(text: &str) -> Vec<NetworkPolicy> {
    policies("test.yaml", text, "default").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Checks one policy `x/p`.
fn one(title: &str, spec: &str, table: &str) {
    check(title, &parsed(&yaml("x", "p", spec)), &cluster(), table);
}

#[test]
fn without_a_policy_everything_is_open() {
    check(
        "none",
        &[],
        &cluster(),
        "x/b -> x/a TCP 80 | open | open\nx/a -> 198.51.100.7 TCP 443 | open | not_a_pod",
    );
}

#[test]
fn the_default_policies_of_the_reference() {
    one(
        "default deny all ingress traffic",
        "  podSelector: {}\n  policyTypes: [Ingress]",
        "x/b -> x/a TCP 80 | open | deny x/p
         y/a -> x/a TCP 80 | open | deny x/p
         198.51.100.7 -> x/a TCP 80 | not_a_pod | deny x/p
         x/a -> y/a TCP 80 | open | open",
    );
    one(
        "allow all ingress traffic",
        "  podSelector: {}\n  ingress: [{}]\n  policyTypes: [Ingress]",
        "x/b -> x/a TCP 80 | open | x/p ingress[0]
         198.51.100.7 -> x/a UDP 9 | not_a_pod | x/p ingress[0]",
    );
    one(
        "default deny all egress traffic",
        "  podSelector: {}\n  policyTypes: [Egress]",
        "x/b -> x/a TCP 80 | deny x/p | open
         x/b -> 198.51.100.7 TCP 80 | deny x/p | not_a_pod
         y/a -> x/a TCP 80 | open | open",
    );
    one(
        "allow all egress traffic",
        "  podSelector: {}\n  egress: [{}]\n  policyTypes: [Egress]",
        "x/b -> 198.51.100.7 TCP 80 | x/p egress[0] | not_a_pod",
    );
    one(
        "default deny all ingress and all egress traffic",
        "  podSelector: {}\n  policyTypes: [Ingress, Egress]",
        "x/b -> x/a TCP 80 | deny x/p | deny x/p
         y/a -> x/a TCP 80 | open | deny x/p
         x/a -> y/a TCP 80 | deny x/p | open
         y/a -> z/a TCP 80 | open | open",
    );
}

#[test]
fn policy_types_by_default_are_ingress_and_egress_where_it_has_rules() {
    one(
        "neither",
        "  podSelector: {}",
        "x/b -> x/a TCP 80 | open | deny x/p",
    );
    one(
        "an empty list of egress rules",
        "  podSelector: {}\n  egress: []",
        "x/b -> x/a TCP 80 | open | deny x/p",
    );
    one(
        "rules of a direction that the types leave out have no effect",
        "  podSelector: {}\n  policyTypes: [Egress]\n  ingress: [{ports: [{port: 9}]}]\n  egress: [{}]",
        "x/b -> x/a TCP 80 | x/p egress[0] | open",
    );
    one(
        "egress rules isolate both ways",
        "  podSelector: {}\n  egress: [{ports: [{port: 80}]}]",
        "x/b -> y/a TCP 80 | x/p egress[0].ports[0] | open
         x/b -> y/a TCP 81 | deny x/p | open
         y/a -> x/b TCP 80 | open | deny x/p",
    );
}

/// The reference's first example, with the addresses of this cluster.
#[test]
fn the_example_of_the_reference() {
    one(
        "test-network-policy",
        r"
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}
    - namespaceSelector: {matchLabels: {ns: 'y'}}
    - podSelector: {matchLabels: {pod: b}}
    ports: [{protocol: TCP, port: 6379}]
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.0/24}}]
    ports: [{protocol: TCP, port: 5978}]",
        "172.17.0.9 -> x/a TCP 6379 | not_a_pod | x/p ingress[0].from[0] and .ports[0]
         172.17.1.9 -> x/a TCP 6379 | not_a_pod | deny x/p
         172.17.255.9 -> x/a TCP 6379 | not_a_pod | x/p ingress[0].from[0] and .ports[0]
         172.18.0.1 -> x/a TCP 6379 | not_a_pod | deny x/p
         y/c -> x/a TCP 6379 | open | x/p ingress[0].from[1] and .ports[0]
         x/b -> x/a TCP 6379 | open | x/p ingress[0].from[2] and .ports[0]
         x/c -> x/a TCP 6379 | open | deny x/p
         z/b -> x/a TCP 6379 | open | deny x/p
         x/b -> x/a TCP 6380 | open | deny x/p
         x/b -> x/a UDP 6379 | open | deny x/p
         x/a -> 10.0.0.200 TCP 5978 | x/p egress[0].to[0] and .ports[0] | not_a_pod
         x/a -> 10.0.1.1 TCP 5978 | deny x/p | not_a_pod
         x/a -> 10.0.0.200 TCP 80 | deny x/p | not_a_pod
         x/b -> 10.0.0.200 TCP 80 | open | not_a_pod",
    );
}

/// The reference's section on `to` and `from`: one element with both selectors, or two elements.
#[test]
fn selectors_in_one_element_both_hold_and_in_two_elements_either_does() {
    let spec = |peers: &str| format!("  podSelector: {{}}\n  ingress:\n  - from:\n{peers}");
    one(
        "one element",
        &spec(
            "    - namespaceSelector: {matchLabels: {ns: 'y'}}\n      podSelector: {matchLabels: {pod: b}}",
        ),
        "y/b -> x/a TCP 80 | open | x/p ingress[0].from[0]
         y/a -> x/a TCP 80 | open | deny x/p
         x/b -> x/a TCP 80 | open | deny x/p",
    );
    one(
        "two elements",
        &spec(
            "    - namespaceSelector: {matchLabels: {ns: 'y'}}\n    - podSelector: {matchLabels: {pod: b}}",
        ),
        "y/b -> x/a TCP 80 | open | x/p ingress[0].from[0]
         y/a -> x/a TCP 80 | open | x/p ingress[0].from[0]
         x/b -> x/a TCP 80 | open | x/p ingress[0].from[1]
         z/b -> x/a TCP 80 | open | deny x/p",
    );
}

/// The reference's section on a range of ports.
#[test]
fn end_port_is_included() {
    one(
        "multi-port-egress",
        "  podSelector: {matchLabels: {pod: a}}\n  policyTypes: [Egress]\n  egress:\n  - to: [{ipBlock: {cidr: 10.0.0.0/24}}]\n    ports: [{protocol: TCP, port: 32000, endPort: 32768}]",
        "x/a -> 10.0.0.1 TCP 31999 | deny x/p | not_a_pod
         x/a -> 10.0.0.1 TCP 32000 | x/p egress[0].to[0] and .ports[0] | not_a_pod
         x/a -> 10.0.0.1 TCP 32768 | x/p egress[0].to[0] and .ports[0] | not_a_pod
         x/a -> 10.0.0.1 TCP 32769 | deny x/p | not_a_pod
         x/a -> 10.0.0.1 UDP 32100 | deny x/p | not_a_pod",
    );
}

/// The reference's sections on several namespaces, and on a namespace by its name.
#[test]
fn namespaces_by_label_and_by_the_name_that_the_api_server_sets() {
    one(
        "egress-namespaces",
        "  podSelector: {matchLabels: {pod: a}}\n  policyTypes: [Egress]\n  egress:\n  - to:\n    - namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: ['y', z]}]}",
        "x/a -> y/a TCP 80 | x/p egress[0].to[0] | open
         x/a -> z/b UDP 80 | x/p egress[0].to[0] | open
         x/a -> x/b TCP 80 | deny x/p | open",
    );
    one(
        "by name",
        "  podSelector: {}\n  ingress:\n  - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: 'y'}}}]",
        "y/a -> x/a TCP 80 | open | x/p ingress[0].from[0]
         x/b -> x/a TCP 80 | open | deny x/p",
    );
}

#[test]
fn empty_selectors_match_all_and_absent_ones_the_own_namespace() {
    let spec =
        |peer: &str| format!("  podSelector: {{matchLabels: {{pod: a}}}}\n  ingress: [{{from: [{peer}]}}]");
    one(
        "podSelector: {}",
        &spec("{podSelector: {}}"),
        "x/c -> x/a TCP 80 | open | x/p ingress[0].from[0]
         y/c -> x/a TCP 80 | open | deny x/p
         198.51.100.7 -> x/a TCP 80 | not_a_pod | deny x/p",
    );
    one(
        "namespaceSelector: {}",
        &spec("{namespaceSelector: {}}"),
        "x/c -> x/a TCP 80 | open | x/p ingress[0].from[0]
         y/c -> x/a TCP 80 | open | x/p ingress[0].from[0]
         198.51.100.7 -> x/a TCP 80 | not_a_pod | deny x/p
         n-y -> x/a TCP 80 | not_a_pod | deny x/p",
    );
    one(
        "both",
        &spec("{namespaceSelector: {}, podSelector: {}}"),
        "y/c -> x/a TCP 80 | open | x/p ingress[0].from[0]",
    );
}

#[test]
fn match_expressions_of_pods_and_namespaces() {
    let spec =
        |peer: &str| format!("  podSelector: {{matchLabels: {{pod: a}}}}\n  ingress: [{{from: [{peer}]}}]");
    one(
        "pod in b, c of namespaces other than x",
        &spec(
            "{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}, podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}",
        ),
        "x/b -> x/a TCP 80 | open | deny x/p
         y/a -> x/a TCP 80 | open | deny x/p
         y/b -> x/a TCP 80 | open | x/p ingress[0].from[0]
         z/c -> x/a TCP 80 | open | x/p ingress[0].from[0]",
    );
    one(
        "any of two pod selectors",
        &spec("{podSelector: {matchLabels: {pod: b}}}, {podSelector: {matchLabels: {pod: c}}}"),
        "x/b -> x/a TCP 80 | open | x/p ingress[0].from[0]
         x/c -> x/a TCP 80 | open | x/p ingress[0].from[1]
         y/c -> x/a TCP 80 | open | deny x/p",
    );
    one(
        "a key that does not exist",
        &spec(
            "{podSelector: {matchExpressions: [{key: pod, operator: Exists}, {key: tier, operator: DoesNotExist}]}}",
        ),
        "x/b -> x/a TCP 80 | open | x/p ingress[0].from[0]",
    );
}

#[test]
fn ports_by_number_name_and_protocol() {
    let spec = |ports: &str| {
        format!("  podSelector: {{matchLabels: {{pod: a}}}}\n  ingress: [{{ports: [{ports}]}}]")
    };
    one(
        "a number",
        &spec("{port: 81}"),
        "x/b -> x/a TCP 81 | open | x/p ingress[0].ports[0]
         x/b -> x/a TCP 80 | open | deny x/p
         x/b -> x/a UDP 81 | open | deny x/p
         198.51.100.7 -> x/a TCP 81 | not_a_pod | x/p ingress[0].ports[0]",
    );
    one(
        "a name, of the destination",
        &spec("{port: serve-81-tcp}"),
        "x/b -> x/a TCP 81 | open | x/p ingress[0].ports[0]
         x/b -> x/a TCP 80 | open | deny x/p",
    );
    one(
        "a name with another protocol is another port",
        &spec("{port: serve-81-tcp, protocol: UDP}"),
        "x/b -> x/a UDP 81 | open | deny x/p\nx/b -> x/a TCP 81 | open | deny x/p",
    );
    one(
        "protocols are not mixed up",
        &spec("{port: 81, protocol: SCTP}, {port: 80, protocol: UDP}"),
        "x/b -> x/a TCP 81 | open | deny x/p
         x/b -> x/a SCTP 81 | open | x/p ingress[0].ports[0]
         x/b -> x/a UDP 80 | open | x/p ingress[0].ports[1]
         x/b -> x/a TCP 80 | open | deny x/p",
    );
    one(
        "all ports of a protocol",
        &spec("{protocol: UDP}"),
        "x/b -> x/a UDP 5353 | open | x/p ingress[0].ports[0]\nx/b -> x/a TCP 80 | open | deny x/p",
    );
    one(
        "a protocol that policies do not know matches no port",
        &spec("{protocol: UDP}"),
        "x/b -> x/a UDPLITE 80 | open | deny x/p",
    );
    one(
        "no port",
        "  podSelector: {}\n  ingress: [{}]",
        "x/b -> x/a UDPLITE 80 | open | x/p ingress[0]",
    );
    one(
        "a name in egress is that of the peer's pod, and nothing outside has one",
        "  podSelector: {matchLabels: {pod: a}}\n  policyTypes: [Egress]\n  egress: [{ports: [{port: serve-80-tcp}]}]",
        "x/a -> y/b TCP 80 | x/p egress[0].ports[0] | open
         x/a -> y/b TCP 81 | deny x/p | open
         x/a -> 198.51.100.7 TCP 80 | deny x/p | not_a_pod",
    );
}

#[test]
fn ip_blocks_match_pods_as_well_and_overlaps_add_up() {
    let spec = |peers: &str| {
        format!(
            "  podSelector: {{matchLabels: {{pod: a}}}}\n  policyTypes: [Egress]\n  egress: [{{to: [{peers}]}}]"
        )
    };
    one(
        "a pod's address",
        &spec("{ipBlock: {cidr: 10.2.0.2/32}}"),
        "x/a -> y/b TCP 80 | x/p egress[0].to[0] | open
         x/a -> y/a TCP 80 | deny x/p | open",
    );
    one(
        "except",
        &spec("{ipBlock: {cidr: 10.2.0.0/24, except: [10.2.0.2/32]}}"),
        "x/a -> y/a TCP 80 | x/p egress[0].to[0] | open
         x/a -> y/b TCP 80 | deny x/p | open",
    );
    one(
        "an exception of one block that another holds",
        &spec("{ipBlock: {cidr: 10.2.0.0/24, except: [10.2.0.2/32]}}, {ipBlock: {cidr: 10.2.0.2/32}}"),
        "x/a -> y/b TCP 80 | x/p egress[0].to[1] | open",
    );
    one(
        "IPv6",
        &spec("{ipBlock: {cidr: '2001:db8::/64', except: ['2001:db8::8000/113']}}"),
        "x/a -> 2001:db8::1 TCP 80 | x/p egress[0].to[0] | not_a_pod
         x/a -> 2001:db8::9000 TCP 80 | deny x/p | not_a_pod
         x/a -> 2001:db8:1::1 TCP 80 | deny x/p | not_a_pod
         x/a -> 10.0.0.1 TCP 80 | deny x/p | not_a_pod",
    );
}

#[test]
fn policies_add_up_and_the_first_rule_that_allows_is_named() {
    let text = [
        yaml("x", "deny", "  podSelector: {}\n  policyTypes: [Ingress]"),
        yaml("x", "p80", "  podSelector: {matchLabels: {pod: a}}\n  ingress: [{ports: [{port: 80}]}]"),
        yaml("x", "p81", "  podSelector: {matchLabels: {pod: a}}\n  ingress: [{ports: [{port: 82}]}, {ports: [{port: 81}]}]"),
        yaml("y", "other", "  podSelector: {}\n  policyTypes: [Egress]\n  egress: [{to: [{namespaceSelector: {matchLabels: {ns: x}}}]}]"),
    ]
    .concat();
    check(
        "stacked",
        &parsed(&text),
        &cluster(),
        "x/b -> x/a TCP 80 | open | x/p80 ingress[0].ports[0]
         x/b -> x/a TCP 81 | open | x/p81 ingress[1].ports[0]
         x/b -> x/a TCP 83 | open | deny x/deny, x/p80, x/p81
         x/a -> x/b TCP 80 | open | deny x/deny
         y/a -> x/a TCP 80 | y/other egress[0].to[0] | x/p80 ingress[0].ports[0]
         y/a -> z/a TCP 80 | deny y/other | open
         x/a -> y/a TCP 80 | open | open",
    );
}

#[test]
fn both_ends_must_allow_it() {
    let text = [
        yaml("x", "in", "  podSelector: {matchLabels: {pod: a}}\n  ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}]}]"),
        yaml("y", "out", "  podSelector: {matchLabels: {pod: a}}\n  policyTypes: [Egress]\n  egress: [{ports: [{port: 80}]}]"),
    ]
    .concat();
    let (policies, cluster) = (parsed(&text), cluster());
    check(
        "both",
        &policies,
        &cluster,
        "y/a -> x/a TCP 80 | y/out egress[0].ports[0] | x/in ingress[0].from[0]
         y/a -> x/a TCP 81 | deny y/out | x/in ingress[0].from[0]
         z/a -> x/a TCP 80 | open | deny x/in",
    );
    let judge = Judge::new(&policies, &cluster);
    for (text, expected) in [
        ("y/a -> x/a TCP 80", Outcome::Allowed),
        ("y/a -> x/a TCP 81", Outcome::Denied),
        ("z/a -> x/a TCP 80", Outcome::Denied),
    ] {
        assert_eq!(
            judge.judge(&conversation(text, &cluster)).outcome(),
            expected,
            "{text}"
        );
    }
}

/// "traffic to and from the node where a Pod is running is always allowed", "a Pod cannot block access to itself".
#[test]
fn a_pod_reaches_itself_and_its_own_node_whatever_the_policies() {
    one(
        "deny all",
        "  podSelector: {}\n  policyTypes: [Ingress, Egress]",
        "x/a -> x/a TCP 80 | same_pod | same_pod
         n-x -> x/a TCP 80 | not_a_pod | own_node
         x/a -> n-x TCP 10250 | own_node | not_a_pod
         n-y -> x/a TCP 80 | not_a_pod | deny x/p
         x/a -> n-y TCP 10250 | deny x/p | not_a_pod",
    );
    one(
        "another node is an address",
        "  podSelector: {}\n  ingress: [{from: [{ipBlock: {cidr: 192.0.2.2/32}}]}]",
        "n-y -> x/a TCP 80 | not_a_pod | x/p ingress[0].from[0]
         n-z -> x/a TCP 80 | not_a_pod | deny x/p",
    );
}

#[test]
fn a_denial_names_the_rule_that_allows_the_peer_on_other_ports() {
    let spec = "  podSelector: {}\n  ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 80}, {port: 90, endPort: 99}, {port: dns, protocol: UDP}]}]";
    let (policies, cluster) = (parsed(&yaml("x", "p", spec)), cluster());
    let verdict = Judge::new(&policies, &cluster).judge(&conversation("x/b -> x/a TCP 81", &cluster));
    assert_eq!(
        verdict.ingress.to_string(),
        "isolated by x/p, no rule of which allows it; x/p spec.ingress[0].from[0] allows the peer on TCP 80, TCP 90-99, UDP dns"
    );
}
