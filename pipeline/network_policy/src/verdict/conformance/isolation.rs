//! Which pods are isolated, in which direction, and by how many policies.

use super::case;

#[test]
fn a_policy_without_rules_isolates_in_its_direction_alone() {
    case("Netpol: should support a 'default-deny-ingress' policy; the same for UDP and for SCTP")
        .apply("x/deny-ingress", "podSelector: {}, policyTypes: [Ingress]")
        .expect(
            "* -> x/* | open | deny x/deny-ingress
             * -> *   | open | open",
        );
    case("Netpol: should support a 'default-deny-all' policy")
        .apply("x/deny-all", "podSelector: {}, policyTypes: [Ingress, Egress]")
        .expect(
            "x/* -> x/*   | deny x/deny-all | deny x/deny-all
             x/* -> y,z/* | deny x/deny-all | open
             y,z/* -> x/* | open            | deny x/deny-all
             * -> *       | open            | open",
        );
    case("Netpol: should deny egress from pods based on PodSelector")
        .apply(
            "x/deny",
            "podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress]",
        )
        .expect(
            "x/a -> * | deny x/deny | open
             * -> *   | open        | open",
        );
    case("Netpol: should deny egress from all pods in a namespace")
        .apply("x/deny", "podSelector: {}, policyTypes: [Egress], egress: []")
        .expect(
            "x/* -> * | deny x/deny | open
             * -> *   | open        | open",
        );
}

#[test]
fn a_rule_without_peers_and_ports_allows_everything() {
    case("Netpol: should support allow-all policy")
        .apply("x/all", "podSelector: {}, policyTypes: [Ingress], ingress: [{}]")
        .expect(
            "* -> x/* | open | x/all ingress[0]
             * -> *   | open | open",
        );
    case("cyclonus: ingress: allow all")
        .with_ends(&["198.51.100.7", "n-x", "n-y"])
        .apply("x/all", "podSelector: {}, policyTypes: [Ingress], ingress: [{}]")
        .expect(
            "* -> x/*            | open      | x/all ingress[0]
             * -> *              | open      | open
             n-x -> x/*          | not_a_pod | own_node
             n-y -> y/*          | not_a_pod | own_node
             198.51.100.7 -> x/* | not_a_pod | x/all ingress[0]
             n-y -> x/*          | not_a_pod | x/all ingress[0]
             198.51.100.7 -> *   | not_a_pod | open
             n-x -> *            | not_a_pod | open
             n-y -> *            | not_a_pod | open
             x/* -> n-x          | own_node  | not_a_pod
             y/* -> n-y          | own_node  | not_a_pod
             * -> 198.51.100.7   | open      | not_a_pod
             * -> n-x            | open      | not_a_pod
             * -> n-y            | open      | not_a_pod",
        );
    case("cyclonus: egress: allow all")
        .apply("x/all", "podSelector: {}, policyTypes: [Egress], egress: [{}]")
        .expect(
            "x/* -> * | x/all egress[0] | open
             * -> *   | open            | open",
        );
}

/// The API reads an absent, a null and an empty list alike, except for the policy types by default.
#[test]
fn an_empty_list_is_read_as_an_absent_one() {
    for (title, spec) in [
        (
            "cyclonus: ingress: empty peers",
            "ingress: [{from: [], ports: [{port: 80}]}]",
        ),
        (
            "cyclonus: ingress: empty peers",
            "ingress: [{from: null, ports: [{port: 80}]}]",
        ),
        (
            "cyclonus: ingress: empty peers",
            "ingress: [{ports: [{port: 80}]}]",
        ),
    ] {
        case(title)
            .apply(
                "x/p",
                &format!("podSelector: {{matchLabels: {{pod: a}}}}, {spec}"),
            )
            .expect(
                "* -> x/a TCP 80 | open | x/p ingress[0].ports[0]
                 * -> x/a        | open | deny x/p
                 * -> *          | open | open",
            );
    }
    for spec in ["ports: []", "ports: null"] {
        let spec = format!(
            "podSelector: {{matchLabels: {{pod: a}}}}, policyTypes: [Egress], egress: [{{to: [{{podSelector: {{}}}}], {spec}}}]"
        );
        case("cyclonus: egress: empty port/protocol")
            .apply("x/p", &spec)
            .expect(
                "x/a -> x/* | x/p egress[0].to[0] | open
                 x/a -> *   | deny x/p            | open
                 * -> *     | open                | open",
            );
    }
    for spec in [
        "ingress: []",
        "ingress: null",
        "policyTypes: []",
        "policyTypes: null, egress: []",
    ] {
        case("cyclonus: ingress: deny all")
            .apply("x/p", &format!("podSelector: {{}}, {spec}"))
            .expect(
                "* -> x/* | open | deny x/p
                 * -> *   | open | open",
            );
    }
}

#[test]
fn the_pods_of_a_policy_are_those_of_its_namespace_that_its_selector_matches() {
    for namespace in ["x", "y", "z"] {
        case("cyclonus: set namespace to x, y, z")
            .apply(
                &format!("{namespace}/base"),
                "podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress]",
            )
            .expect(&format!(
                "* -> {namespace}/a | open | deny {namespace}/base
                 * -> *             | open | open"
            ));
    }
    case("cyclonus: set pod selector to an expression")
        .apply(
            "x/base",
            "podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}, policyTypes: [Ingress]",
        )
        .expect(
            "* -> x/a,b | open | deny x/base
             * -> *     | open | open",
        );
    // A selector of pods of which the labels and the expressions must hold, and one that selects none.
    case("cyclonus: set pod selector to labels and an expression")
        .label_pod("x/b", "tier", "front")
        .apply(
            "x/both",
            "podSelector: {matchLabels: {tier: front}, matchExpressions: [{key: pod, operator: NotIn, values: [a]}]}, policyTypes: [Ingress]",
        )
        .apply("x/none", "podSelector: {matchLabels: {pod: q}}, policyTypes: [Ingress, Egress]")
        .expect(
            "* -> x/b | open | deny x/both
             * -> *   | open | open",
        );
}

#[test]
fn a_conversation_needs_its_clients_egress_and_its_servers_ingress() {
    case("Netpol: should support denying of egress traffic on the client side (even if the server explicitly allows this traffic)")
        .apply(
            "x/out",
            "podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: 'y'}}, podSelector: {matchLabels: {pod: a}}}]}]",
        )
        .apply(
            "y/in",
            "podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: a}}}]}]",
        )
        .expect(
            "x/a -> y/a   | x/out egress[0].to[0] | y/in ingress[0].from[0]
             x/a -> y/b   | deny x/out            | y/in ingress[0].from[0]
             x/a -> *     | deny x/out            | open
             * -> y/a,b   | open                  | deny y/in
             * -> *       | open                  | open",
        );
    case("Netpol: should enforce policies to check ingress and egress policies can be controlled independently based on PodSelector")
        .apply("x/out", "podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{}]")
        .expect(
            "x/a -> * | x/out egress[0] | open
             * -> *   | open            | open",
        )
        .apply("x/in", "podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress]")
        .expect(
            "x/a -> * | x/out egress[0] | open
             * -> x/a | open            | deny x/in
             * -> *   | open            | open",
        );
    case("Netpol: should work with Ingress, Egress specified together")
        .apply(
            "x/p",
            "podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress, Ingress], ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}], egress: [{ports: [{port: 80}]}]",
        )
        .expect(
            "x/a -> * TCP 80 | x/p egress[0].ports[0] | open
             x/a -> *        | deny x/p               | open
             x/b -> x/a      | open                   | x/p ingress[0].from[0]
             * -> x/a        | open                   | deny x/p
             * -> *          | open                   | open",
        );
}

#[test]
fn allowing_rules_add_up_whatever_other_policies_leave_out() {
    let to_y = |port: u16| {
        format!(
            "podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{ns: 'y'}}}}}}], ports: [{{port: {port}}}]}}]"
        )
    };
    case("Netpol: should enforce multiple, stacked policies with overlapping podSelectors")
        .apply("x/p81", &to_y(81))
        .expect(
            "y/* -> x/a TCP 81 | open | x/p81 ingress[0].from[0] and .ports[0]
             * -> x/a          | open | deny x/p81
             * -> *            | open | open",
        )
        .apply("x/p80", &to_y(80))
        .expect(
            "y/* -> x/a TCP 81 | open | x/p81 ingress[0].from[0] and .ports[0]
             y/* -> x/a TCP 80 | open | x/p80 ingress[0].from[0] and .ports[0]
             * -> x/a          | open | deny x/p81, x/p80
             * -> *            | open | open",
        );
    case("Netpol: should enforce policy to allow ingress traffic for a target")
        .apply("x/deny-all", "podSelector: {}, policyTypes: [Ingress]")
        .apply(
            "x/all-to-a",
            "podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}, namespaceSelector: {}}]}]",
        )
        .expect(
            "* -> x/a | open | x/all-to-a ingress[0].from[0]
             * -> x/* | open | deny x/deny-all
             * -> *   | open | open",
        );
    case("Netpol: should enforce multiple ingress policies with ingress allow-all policy taking precedence")
        .apply("x/p80", "podSelector: {}, ingress: [{ports: [{port: 80}]}]")
        .apply("x/all", "podSelector: {}, ingress: [{}]")
        .expect(
            "* -> x/* TCP 80 | open | x/p80 ingress[0].ports[0]
             * -> x/*        | open | x/all ingress[0]
             * -> *          | open | open",
        );
    case("Netpol: should enforce multiple egress policies with egress allow-all policy taking precedence")
        .apply(
            "x/p80",
            "podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]",
        )
        .apply("x/all", "podSelector: {}, policyTypes: [Egress], egress: [{}]")
        .expect(
            "x/* -> * TCP 80 | x/p80 egress[0].ports[0] | open
             x/* -> *        | x/all egress[0]          | open
             * -> *          | open                     | open",
        );
}

/// Two policies on x/b or on y/c, one of which denies and the other allows.
#[test]
fn a_denying_policy_beside_an_allowing_one_denies_nothing() {
    let b = "podSelector: {matchLabels: {pod: b}}";
    let c = "podSelector: {matchLabels: {pod: c}}";
    case("cyclonus: deny all from source, allow all to dest")
        .apply("x/none", &format!("{b}, policyTypes: [Egress]"))
        .apply("y/all", &format!("{c}, policyTypes: [Ingress], ingress: [{{}}]"))
        .expect(
            "x/b -> y/c | deny x/none | y/all ingress[0]
             x/b -> *   | deny x/none | open
             * -> y/c   | open        | y/all ingress[0]
             * -> *     | open        | open",
        );
    case("cyclonus: allow all from source, deny all to dest")
        .apply("x/all", &format!("{b}, policyTypes: [Egress], egress: [{{}}]"))
        .apply("y/none", &format!("{c}, policyTypes: [Ingress]"))
        .expect(
            "x/b -> y/c | x/all egress[0] | deny y/none
             x/b -> *   | x/all egress[0] | open
             * -> y/c   | open            | deny y/none
             * -> *     | open            | open",
        );
    // Each of these denies everything alone, and each of the others allows everything among pods with IPv4 addresses.
    let nothing = [
        ("no rule", "[]"),
        ("no such address", "[{PEERS: [{ipBlock: {cidr: 0.0.0.0/31}}]}]"),
        (
            "no such namespace",
            "[{PEERS: [{namespaceSelector: {matchLabels: {never: here}}}]}]",
        ),
    ];
    let everything = [
        ("", "[{}]"),
        (".PEERS[0]", "[{PEERS: [{ipBlock: {cidr: 0.0.0.0/0}}]}]"),
        (".PEERS[0]", "[{PEERS: [{namespaceSelector: {}}]}]"),
    ];
    for (_, none) in nothing {
        let (ingress, egress) = (none.replace("PEERS", "from"), none.replace("PEERS", "to"));
        case("cyclonus: egress and ingress: deny all, by IP, by pod")
            .apply("x/none", &format!("{b}, policyTypes: [Egress], egress: {egress}"))
            .apply(
                "y/none",
                &format!("{c}, policyTypes: [Ingress], ingress: {ingress}"),
            )
            .expect(
                "x/b -> y/c | deny x/none | deny y/none
                 x/b -> *   | deny x/none | open
                 * -> y/c   | open        | deny y/none
                 * -> *     | open        | open",
            );
        for (suffix, all) in everything {
            let (to, from) = (suffix.replace("PEERS", "to"), suffix.replace("PEERS", "from"));
            case("cyclonus: deny all, by IP or by pod + allow all, by pod or by IP, of the same pod")
                .apply("x/none", &format!("{b}, policyTypes: [Egress], egress: {egress}"))
                .apply(
                    "y/none",
                    &format!("{c}, policyTypes: [Ingress], ingress: {ingress}"),
                )
                .apply(
                    "x/all",
                    &format!(
                        "{b}, policyTypes: [Egress], egress: {}",
                        all.replace("PEERS", "to")
                    ),
                )
                .apply(
                    "y/all",
                    &format!(
                        "{c}, policyTypes: [Ingress], ingress: {}",
                        all.replace("PEERS", "from")
                    ),
                )
                .expect(&format!(
                    "x/b -> y/c | x/all egress[0]{to} | y/all ingress[0]{from}
                     x/b -> *   | x/all egress[0]{to} | open
                     * -> y/c   | open                | y/all ingress[0]{from}
                     * -> *     | open                | open"
                ));
        }
    }
}
