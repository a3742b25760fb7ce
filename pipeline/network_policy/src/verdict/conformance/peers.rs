//! Peers by their own labels and by those of their namespaces.

use std::fmt::Write as _;

use super::case;

/// A policy on x/a with one ingress rule for `peers`.
fn from(peers: &str) -> String {
    format!("podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{from: [{peers}]}}]")
}

/// A policy on x/a with one egress rule for `peers`.
fn to(peers: &str) -> String {
    format!("podSelector: {{matchLabels: {{pod: a}}}}, policyTypes: [Egress], egress: [{{to: [{peers}]}}]")
}

/// Checks that x/a accepts the pods `clients` by the first peer of `peers`, and no others.
fn accepts(title: &'static str, peers: &str, clients: &str) {
    case(title).apply("x/p", &from(peers)).expect(&format!(
        "{clients} -> x/a | open | x/p ingress[0].from[0]
         * -> x/a         | open | deny x/p
         * -> *           | open | open"
    ));
}

#[test]
fn pods_of_the_policys_own_namespace() {
    accepts(
        "Netpol: should enforce policy to allow traffic from pods within server namespace based on PodSelector",
        "{podSelector: {matchLabels: {pod: b}}}",
        "x/b",
    );
    accepts(
        "Netpol: should enforce policy based on PodSelector with MatchExpressions",
        "{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b]}]}}",
        "x/b",
    );
    case("Netpol: should deny ingress from pods on other namespaces")
        .apply(
            "x/p",
            "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {}}}]}]",
        )
        .expect(
            "x/* -> x/* | open | x/p ingress[0].from[0]
             * -> x/*   | open | deny x/p
             * -> *     | open | open",
        );
    case("Netpol: should enforce policy based on any PodSelectors")
        .apply(
            "x/p",
            &from("{podSelector: {matchLabels: {pod: b}}}, {podSelector: {matchLabels: {pod: c}}}"),
        )
        .expect(
            "x/b -> x/a | open | x/p ingress[0].from[0]
             x/c -> x/a | open | x/p ingress[0].from[1]
             * -> x/a   | open | deny x/p
             * -> *     | open | open",
        );
}

#[test]
fn pods_of_other_namespaces() {
    case("Netpol: should enforce policy to allow ingress traffic from pods in all namespaces")
        .apply("x/p", &from("{namespaceSelector: {matchLabels: {}}}"))
        .expect(
            "* -> x/a | open | x/p ingress[0].from[0]
             * -> *   | open | open",
        );
    for (title, selector) in [
        (
            "Netpol: should enforce policy to allow traffic only from a different namespace, based on NamespaceSelector",
            "{matchLabels: {ns: 'y'}}",
        ),
        (
            "Netpol: should enforce policy based on NamespaceSelector with MatchExpressions",
            "{matchExpressions: [{key: ns, operator: In, values: ['y']}]}",
        ),
        (
            "Netpol: should enforce policy to allow traffic based on NamespaceSelector with MatchLabels using default ns label",
            "{matchLabels: {kubernetes.io/metadata.name: 'y'}}",
        ),
    ] {
        accepts(title, &format!("{{namespaceSelector: {selector}}}"), "y/*");
    }
    let default_label = "{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: ['y']}]}}";
    case("Netpol: should enforce policy based on NamespaceSelector with MatchExpressions using default ns label")
        .apply("x/p", &to(default_label))
        .expect(
            "x/a -> x,z/* | x/p egress[0].to[0] | open
             x/a -> y/*   | deny x/p            | open
             * -> *       | open                | open",
        );
    case("cyclonus: ingress and egress: select namespace by default label")
        .apply(
            "x/in",
            &from("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}"),
        )
        .apply(
            "x/out",
            &to("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}"),
        )
        .expect(
            "z/* -> x/a | open                  | x/in ingress[0].from[0]
             * -> x/a   | open                  | deny x/in
             x/a -> z/* | x/out egress[0].to[0] | open
             x/a -> *   | deny x/out            | open
             * -> *     | open                  | open",
        );
}

#[test]
fn both_selectors_in_one_peer_or_each_in_its_own() {
    case("Netpol: should enforce policy based on PodSelector or NamespaceSelector")
        .apply(
            "x/p",
            &from("{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}}, {podSelector: {matchLabels: {pod: b}}}"),
        )
        .expect(
            "y,z/* -> x/a | open | x/p ingress[0].from[0]
             x/b -> x/a   | open | x/p ingress[0].from[1]
             * -> x/a     | open | deny x/p
             * -> *       | open | open",
        );
    accepts(
        "Netpol: should enforce policy based on PodSelector and NamespaceSelector",
        "{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}, podSelector: {matchLabels: {pod: b}}}",
        "y,z/b",
    );
    accepts(
        "Netpol: should enforce policy based on Multiple PodSelectors and NamespaceSelectors",
        "{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}, podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}",
        "y,z/b,c",
    );
    accepts(
        "Netpol: should enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector; the same for UDP and for SCTP",
        "{namespaceSelector: {matchLabels: {ns: 'y'}}, podSelector: {matchLabels: {pod: a}}}",
        "y/a",
    );
    case("Netpol: should enforce egress policy allowing traffic to a server in a different namespace based on PodSelector and NamespaceSelector")
        .apply(
            "x/p",
            &to("{namespaceSelector: {matchLabels: {ns: 'y'}}, podSelector: {matchLabels: {pod: a}}}"),
        )
        .expect(
            "x/a -> y/a | x/p egress[0].to[0] | open
             x/a -> *   | deny x/p            | open
             * -> *     | open                | open",
        );
}

/// A peer, by its upstream name, and the namespaces and pods that it matches.
type PeerCase = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const ALL_NAMESPACES: &[&str] = &["x", "y", "z"];
const ALL_PODS: &[&str] = &["a", "b", "c"];

const PEERS: [PeerCase; 10] = [
    ("empty pods + nil ns", "{podSelector: {}}", &["x"], ALL_PODS),
    (
        "pods by label + nil ns",
        "{podSelector: {matchLabels: {pod: c}}}",
        &["x"],
        &["c"],
    ),
    (
        "nil pods + empty ns",
        "{namespaceSelector: {}}",
        ALL_NAMESPACES,
        ALL_PODS,
    ),
    (
        "empty pods + empty ns",
        "{namespaceSelector: {}, podSelector: {}}",
        ALL_NAMESPACES,
        ALL_PODS,
    ),
    (
        "pods by label + empty ns",
        "{namespaceSelector: {}, podSelector: {matchLabels: {pod: c}}}",
        ALL_NAMESPACES,
        &["c"],
    ),
    (
        "nil pods + ns by label",
        "{namespaceSelector: {matchLabels: {ns: 'y'}}}",
        &["y"],
        ALL_PODS,
    ),
    (
        "empty pods + ns by label",
        "{namespaceSelector: {matchLabels: {ns: 'y'}}, podSelector: {}}",
        &["y"],
        ALL_PODS,
    ),
    (
        "pods by label + ns by label",
        "{namespaceSelector: {matchLabels: {ns: 'y'}}, podSelector: {matchLabels: {pod: c}}}",
        &["y"],
        &["c"],
    ),
    (
        "simple ipblock",
        "{ipBlock: {cidr: 10.2.0.0/24}}",
        &["y"],
        ALL_PODS,
    ),
    (
        "ipblock with except",
        "{ipBlock: {cidr: 10.2.0.0/24, except: [10.2.0.2/31]}}",
        &["y"],
        &["a"],
    ),
];

#[test]
fn each_peer_alone_in_both_directions() {
    for (title, peer, namespaces, pods) in PEERS {
        let ends = format!("{}/{}", namespaces.join(","), pods.join(","));
        let is_all = namespaces.len() * pods.len() == 9;
        // A line without a probe is an error.
        let rest = |line: &'static str| if is_all { "" } else { line };
        case(title)
            .apply("x/in", &from(peer))
            .apply("x/out", &to(peer))
            .expect(&format!(
                "{ends} -> x/a | open | x/in ingress[0].from[0]
                 {}
                 x/a -> {ends} | x/out egress[0].to[0] | open
                 {}
                 * -> * | open | open",
                rest("* -> x/a | open | deny x/in"),
                rest("x/a -> * | deny x/out | open"),
            ));
    }
}

/// The first of two peers that matches is named.
#[test]
fn each_pair_of_peers_in_both_directions() {
    for (index, first) in PEERS.into_iter().enumerate() {
        for second in PEERS.into_iter().skip(index + 1) {
            let mut table = String::new();
            for (namespace, pod) in ALL_NAMESPACES
                .iter()
                .flat_map(|it| ALL_PODS.iter().map(move |pod| (it, pod)))
            {
                if (*namespace, *pod) == ("x", "a") {
                    continue;
                }
                let is_in = |peer: PeerCase| peer.2.contains(namespace) && peer.3.contains(pod);
                let (egress, ingress) = if is_in(first) {
                    ("x/out egress[0].to[0]", "x/in ingress[0].from[0]")
                } else if is_in(second) {
                    ("x/out egress[0].to[1]", "x/in ingress[0].from[1]")
                } else {
                    ("deny x/out", "deny x/in")
                };
                let _ = writeln!(table, "{namespace}/{pod} -> x/a | open | {ingress}");
                let _ = writeln!(table, "x/a -> {namespace}/{pod} | {egress} | open");
            }
            let peers = format!("{}, {}", first.1, second.1);
            case("cyclonus: 2-peer")
                .apply("x/in", &from(&peers))
                .apply("x/out", &to(&peers))
                .expect(&format!("{table}* -> * | open | open"));
        }
    }
}

#[test]
fn each_operator_of_an_expression() {
    // x/b has the label with another value, x/c and the pods of y and z do not have it.
    let expression = |expression: &str| {
        format!("{{namespaceSelector: {{}}, podSelector: {{matchExpressions: [{expression}]}}}}")
    };
    for (peer, clients) in [
        (
            expression("{key: tier, operator: In, values: [front, back]}"),
            "x/b",
        ),
        (expression("{key: tier, operator: In, values: [front]}"), "no/one"),
        (expression("{key: tier, operator: NotIn, values: [front]}"), "*/*"),
        (
            expression("{key: tier, operator: NotIn, values: [back]}"),
            "x/c -> x/a | open | x/p ingress[0].from[0]\ny,z/*",
        ),
        (expression("{key: tier, operator: Exists}"), "x/b"),
        (
            expression("{key: tier, operator: DoesNotExist}"),
            "x/c -> x/a | open | x/p ingress[0].from[0]\ny,z/*",
        ),
        (
            expression("{key: tier, operator: Exists}, {key: pod, operator: NotIn, values: [b]}"),
            "no/one",
        ),
    ] {
        let allowed = match clients {
            "no/one" => String::new(),
            clients => format!("{clients} -> x/a | open | x/p ingress[0].from[0]"),
        };
        let denied = if clients == "*/*" {
            ""
        } else {
            "* -> x/a | open | deny x/p"
        };
        case("API reference: LabelSelectorRequirement")
            .label_pod("x/b", "tier", "back")
            .apply("x/p", &from(&peer))
            .expect(&format!("{allowed}\n{denied}\n* -> * | open | open"));
    }
}
