//! Ports by number, range and name, of each protocol.

use super::case;

/// A policy on x/a that accepts everything on `ports`.
fn accept(ports: &str) -> String {
    format!("podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{ports: [{ports}]}}]")
}

/// A policy on x/a that opens connections to `ports` alone.
fn call(ports: &str) -> String {
    format!("podSelector: {{matchLabels: {{pod: a}}}}, policyTypes: [Egress], egress: [{{ports: [{ports}]}}]")
}

#[test]
fn a_port_and_a_peer_must_both_match() {
    for (title, protocol) in [
        ("Netpol: should enforce policy based on Ports", "TCP"),
        (
            "Netpol [LinuxOnly] using UDP: should enforce policy based on Ports",
            "UDP",
        ),
        (
            "Netpol [LinuxOnly] using SCTP: should enforce policy based on Ports",
            "SCTP",
        ),
    ] {
        case(title)
            .apply(
                "x/p",
                &format!("podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{ns: 'y'}}}}}}], ports: [{{port: 81, protocol: {protocol}}}]}}]"),
            )
            .expect(&format!(
                "y/* -> x/a {protocol} 81 | open | x/p ingress[0].from[0] and .ports[0]
                 * -> x/a                 | open | deny x/p
                 * -> *                   | open | open"
            ));
    }
}

#[test]
fn protocols_are_not_mixed_up() {
    case(
        "Netpol: should enforce ingress policy allowing any port traffic to a server on a specific protocol",
    )
    .apply("x/p", &accept("{protocol: TCP}"))
    .expect(
        "* -> x/a TCP | open | x/p ingress[0].ports[0]
             * -> x/a     | open | deny x/p
             * -> *       | open | open",
    );
    case("Netpol: should not mistakenly treat 'protocol: SCTP' as 'protocol: TCP', even if the plugin doesn't support SCTP")
        .apply("x/none", "podSelector: {}, policyTypes: [Ingress]")
        .apply("x/sctp", &accept("{port: 81, protocol: SCTP}"))
        .expect(
            "* -> x/a SCTP 81 | open | x/sctp ingress[0].ports[0]
             * -> x/a         | open | deny x/none, x/sctp
             * -> x/*         | open | deny x/none
             * -> *           | open | open",
        );
    for (title, protocol) in [
        (
            "Netpol: should properly isolate pods that are selected by a policy allowing SCTP, even if the plugin doesn't support SCTP",
            "SCTP",
        ),
        (
            "Netpol: should not allow access by TCP when a policy specifies only UDP",
            "UDP",
        ),
    ] {
        case(title)
            .apply("x/p", &accept(&format!("{{port: 80, protocol: {protocol}}}")))
            .expect(&format!(
                "* -> x/a {protocol} 80 | open | x/p ingress[0].ports[0]
                 * -> x/a               | open | deny x/p
                 * -> *                 | open | open"
            ));
    }
}

/// Each kind of port alone, in both directions: the protocol and the numbers that it stands for.
#[test]
fn each_port_alone_in_both_directions() {
    for (port, protocol, numbers) in [
        ("{}", "TCP", "*"),
        ("{protocol: null, port: null}", "TCP", "*"),
        ("{port: 80}", "TCP", "80"),
        ("{port: 81, protocol: TCP}", "TCP", "81"),
        ("{protocol: UDP}", "UDP", "*"),
        ("{port: 80, protocol: UDP}", "UDP", "80"),
        ("{protocol: SCTP}", "SCTP", "*"),
        ("{port: 81, protocol: SCTP}", "SCTP", "81"),
        ("{port: serve-80-tcp}", "TCP", "80"),
        ("{port: serve-81-udp, protocol: UDP}", "UDP", "81"),
        ("{port: serve-80-sctp, protocol: SCTP}", "SCTP", "80"),
        // A range contains its ends; one of a single port is valid ("Netpol API: ... with endport field").
        ("{port: 53, endPort: 80}", "TCP", "79,80"),
        ("{port: 80, endPort: 84}", "TCP", "80,81"),
        ("{port: 81, endPort: 81}", "TCP", "81"),
        ("{port: 1, endPort: 65535, protocol: UDP}", "UDP", "*"),
        ("{port: 53, endPort: 79, protocol: SCTP}", "SCTP", "79"),
    ] {
        case("cyclonus: single port/protocol, ingress and egress")
            .apply("x/in", &accept(port))
            .apply("x/out", &call(port))
            .expect(&format!(
                "* -> x/a {protocol} {numbers} | open                   | x/in ingress[0].ports[0]
                 * -> x/a                      | open                   | deny x/in
                 x/a -> * {protocol} {numbers} | x/out egress[0].ports[0] | open
                 x/a -> *                      | deny x/out             | open
                 * -> *                        | open                   | open"
            ));
    }
    for (title, port) in [
        (
            "cyclonus: open a named port that doesn't match its protocol",
            "{port: serve-81-udp, protocol: TCP}",
        ),
        (
            "cyclonus: open a named port that isn't served",
            "{port: serve-7981-udp, protocol: TCP}",
        ),
        ("cyclonus: open a numbered port that isn't served", "{port: 7981}"),
        (
            "cyclonus: a range that no probed port is in",
            "{port: 82, endPort: 84}",
        ),
    ] {
        case(title)
            .apply("x/in", &accept(port))
            .apply("x/out", &call(port))
            .expect(
                "* -> x/a | open       | deny x/in
                 x/a -> * | deny x/out | open
                 * -> *   | open       | open",
            );
    }
}

#[test]
fn of_two_ports_the_first_that_matches_is_named() {
    for (ports, first, second) in [
        ("{}, {port: 80}", "TCP", "no probe"),
        ("{}, {protocol: UDP}", "TCP", "UDP"),
        ("{port: 80}, {port: 81}", "TCP 80", "TCP 81"),
        ("{port: 80}, {port: serve-81-tcp}", "TCP 80", "TCP 81"),
        (
            "{port: 80}, {port: serve-81-udp, protocol: UDP}",
            "TCP 80",
            "UDP 81",
        ),
        ("{port: 80, endPort: 81}, {port: 79}", "TCP 80,81", "TCP 79"),
    ] {
        let second_line = |ends: &str, decisions: &str| match second {
            "no probe" => String::new(),
            second => format!("{ends} {second} | {decisions}"),
        };
        case("cyclonus: two port/protocols, ingress and egress")
            .apply("x/in", &accept(ports))
            .apply("x/out", &call(ports))
            .expect(&format!(
                "* -> x/a {first} | open | x/in ingress[0].ports[0]
                 {}
                 * -> x/a | open | deny x/in
                 x/a -> * {first} | x/out egress[0].ports[0] | open
                 {}
                 x/a -> * | deny x/out | open
                 * -> * | open | open",
                second_line("* -> x/a", "open | x/in ingress[0].ports[1]"),
                second_line("x/a -> *", "x/out egress[0].ports[1] | open"),
            ));
    }
}

#[test]
fn a_name_stands_for_the_number_that_the_pod_gives_it_which_is_connected_to() {
    case("Netpol: should allow ingress access on one named port")
        .apply(
            "x/p",
            "podSelector: {matchLabels: {}}, ingress: [{ports: [{port: serve-81-tcp}]}]",
        )
        .expect(
            "* -> x/* TCP 81 | open | x/p ingress[0].ports[0]
             * -> x/*        | open | deny x/p
             * -> *          | open | open",
        );
    case("Netpol: should allow ingress access from namespace on one named port")
        .apply(
            "x/p",
            "podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}], ports: [{port: serve-80-tcp, protocol: TCP}]}]",
        )
        .expect(
            "y/* -> x/a TCP 80 | open | x/p ingress[0].from[0] and .ports[0]
             * -> x/a          | open | deny x/p
             * -> *            | open | open",
        );
    case("Netpol: should allow egress access on one named port")
        .with_ends(&["198.51.100.7", "n-y"])
        .apply(
            "x/p",
            "podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: serve-80-tcp}]}]",
        )
        .expect(
            "x/* -> * TCP 80    | x/p egress[0].ports[0] | open
             x/* -> *           | deny x/p               | open
             x/* -> 198.51.100.7 | deny x/p              | not_a_pod
             x/* -> n-y         | deny x/p               | not_a_pod
             y/* -> n-y         | own_node               | not_a_pod
             z/* -> n-y         | open                   | not_a_pod
             n-y -> y/*         | not_a_pod              | own_node
             n-y -> *           | not_a_pod              | open
             * -> 198.51.100.7  | open                   | not_a_pod
             198.51.100.7 -> *  | not_a_pod              | open
             * -> *             | open                   | open",
        );
    let port = |name: &str, port| flowtap_model::cluster_objects::NamedPort {
        name: name.to_owned(),
        port,
        protocol: flowtap_model::cluster_objects::PortProtocol::Tcp,
    };
    // web is 80 in the pods a, 81 in the pods b, both in y/c (two containers), and no name elsewhere.
    let mut pods = case("cyclonus: named port (pods with different numbers of one name)");
    for (name, numbers) in [("a", [80].as_slice()), ("b", &[81])] {
        for namespace in ["x", "y", "z"] {
            let named = numbers.iter().map(|number| port("web", *number));
            pods.pod(&format!("{namespace}/{name}")).ports = named.collect();
        }
    }
    pods.pod("y/c").ports = vec![port("web", 80), port("admin", 79), port("web", 81)];
    pods.apply(
        "x/out",
        "podSelector: {matchLabels: {pod: c}}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]",
    )
    .apply("y/in", "podSelector: {}, ingress: [{ports: [{port: web}]}]")
    .expect(
        "x/c -> y/a TCP 80    | x/out egress[0].ports[0] | y/in ingress[0].ports[0]
             x/c -> y/b TCP 81    | x/out egress[0].ports[0] | y/in ingress[0].ports[0]
             x/c -> y/c TCP 80,81 | x/out egress[0].ports[0] | y/in ingress[0].ports[0]
             x/c -> y/*           | deny x/out               | deny y/in
             x/c -> x,z/a TCP 80  | x/out egress[0].ports[0] | open
             x/c -> x,z/b TCP 81  | x/out egress[0].ports[0] | open
             x/c -> *             | deny x/out               | open
             * -> y/a TCP 80      | open                     | y/in ingress[0].ports[0]
             * -> y/b TCP 81      | open                     | y/in ingress[0].ports[0]
             * -> y/c TCP 80,81   | open                     | y/in ingress[0].ports[0]
             * -> y/*             | open                     | deny y/in
             * -> *               | open                     | open",
    );
}
