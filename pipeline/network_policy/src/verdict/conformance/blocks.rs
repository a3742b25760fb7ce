//! Blocks of addresses, with exceptions, of both families.

use super::case;

fn to(peers: &str) -> String {
    format!("podSelector: {{matchLabels: {{pod: a}}}}, policyTypes: [Egress], egress: [{{to: [{peers}]}}]")
}

#[test]
fn a_block_matches_the_addresses_of_pods() {
    case("Netpol: should allow egress access to server in CIDR block")
        .apply("x/p", &to("{ipBlock: {cidr: 10.2.0.2/32}}"))
        .expect(
            "x/a -> y/b | x/p egress[0].to[0] | open
             x/a -> *   | deny x/p            | open
             * -> *     | open                | open",
        );
    case("Netpol: should allow egress access to server in CIDR block (IPv6)")
        .ipv6()
        .apply("x/p", &to("{ipBlock: {cidr: '2001:db8:2::2/128'}}"))
        .expect(
            "x/a -> y/b | x/p egress[0].to[0] | open
             x/a -> *   | deny x/p            | open
             * -> *     | open                | open",
        );
}

#[test]
fn an_exception_is_taken_out_of_its_own_block_alone() {
    case("Netpol: should enforce except clause while egress access to server in CIDR block")
        .apply("x/p", &to("{ipBlock: {cidr: 0.0.0.0/4, except: [10.1.0.2/32]}}"))
        .expect(
            "x/a -> x/b | deny x/p            | open
             x/a -> *   | x/p egress[0].to[0] | open
             * -> *     | open                | open",
        );
    case("Netpol: should enforce except clause while egress access to server in CIDR block (IPv6)")
        .ipv6()
        .apply(
            "x/p",
            &to("{ipBlock: {cidr: '2000::/4', except: ['2001:db8:1::2/128', '2001:db8:3::/48']}}"),
        )
        .expect(
            "x/a -> x/b | deny x/p            | open
             x/a -> z/* | deny x/p            | open
             x/a -> *   | x/p egress[0].to[0] | open
             * -> *     | open                | open",
        );
    case("Netpol: should ensure an IP overlapping both IPBlock.CIDR and IPBlock.Except is allowed")
        .apply("x/p", &to("{ipBlock: {cidr: 0.0.0.0/4, except: [10.1.0.2/32]}}"))
        .expect(
            "x/a -> x/b | deny x/p            | open
             x/a -> *   | x/p egress[0].to[0] | open
             * -> *     | open                | open",
        )
        .apply("x/q", &to("{ipBlock: {cidr: 10.1.0.2/32}}"))
        .expect(
            "x/a -> x/b | x/q egress[0].to[0] | open
             x/a -> *   | x/p egress[0].to[0] | open
             * -> *     | open                | open",
        )
        .apply("x/p", &to("{ipBlock: {cidr: 10.1.0.2/32}}"))
        .delete("x/q")
        .expect(
            "x/a -> x/b | x/p egress[0].to[0] | open
             x/a -> *   | deny x/p            | open
             * -> *     | open                | open",
        );
}

#[test]
fn a_block_of_one_family_matches_no_address_of_the_other() {
    let all = [
        ("{ipBlock: {cidr: 0.0.0.0/0}}", "deny x/p", "x/p egress[0].to[0]"),
        ("{ipBlock: {cidr: '::/0'}}", "x/p egress[0].to[0]", "deny x/p"),
        (
            "{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: '::/0'}}",
            "x/p egress[0].to[1]",
            "x/p egress[0].to[0]",
        ),
    ];
    for (peers, v6, v4) in all {
        let table = |decision| format!("x/a -> * | {decision} | open\n* -> * | open | open");
        case("cyclonus: allow all by IP")
            .apply("x/p", &to(peers))
            .expect(&table(v4));
        case("cyclonus: allow all by IP (IPv6)")
            .ipv6()
            .apply("x/p", &to(peers))
            .expect(&table(v6));
    }
}

#[test]
fn nodes_and_addresses_outside_match_blocks_and_no_selector() {
    case("API reference: behavior of to and from selectors, ipBlock")
        .with_ends(&["n-x", "n-y", "n-z", "198.51.100.7", "198.51.100.9", "2001:db8:9::1"])
        .apply(
            "x/p",
            "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.8/30]}}, {ipBlock: {cidr: 192.0.2.2/32}}, {ipBlock: {cidr: '2001:db8:9::/64'}}]}, {from: [{namespaceSelector: {}, podSelector: {}}]}]",
        )
        .apply("y/p", "podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]")
        .apply("z/p", "podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]")
        .expect(
            "198.51.100.7 -> x/*  | not_a_pod | x/p ingress[0].from[0]
             198.51.100.9 -> x/*  | not_a_pod | deny x/p
             2001:db8:9::1 -> x/* | not_a_pod | x/p ingress[0].from[2]
             n-x -> x/*           | not_a_pod | own_node
             n-y -> x/*           | not_a_pod | x/p ingress[0].from[1]
             n-z -> x/*           | not_a_pod | deny x/p
             198.51.100.7 -> y/*  | not_a_pod | deny y/p
             198.51.100.9 -> y/*  | not_a_pod | deny y/p
             2001:db8:9::1 -> y/* | not_a_pod | deny y/p
             n-y -> y/*           | not_a_pod | own_node
             n-x -> y/*           | not_a_pod | deny y/p
             n-z -> y/*           | not_a_pod | deny y/p
             198.51.100.7 -> z/*  | not_a_pod | open
             198.51.100.9 -> z/*  | not_a_pod | open
             2001:db8:9::1 -> z/* | not_a_pod | open
             n-x -> z/*           | not_a_pod | open
             n-y -> z/*           | not_a_pod | open
             n-z -> z/*           | not_a_pod | own_node
             z/* -> x/*           | deny z/p  | x/p ingress[1].from[0]
             z/* -> y/*           | deny z/p  | y/p ingress[0].from[0]
             z/* -> z/*           | deny z/p  | open
             * -> x/*             | open      | x/p ingress[1].from[0]
             * -> y/*             | open      | y/p ingress[0].from[0]
             * -> z/*             | open      | open
             z/* -> n-z           | own_node  | not_a_pod
             z/* -> n-x           | z/p egress[0].to[0] | not_a_pod
             z/* -> n-y           | z/p egress[0].to[0] | not_a_pod
             z/* -> 198.51.100.7  | deny z/p  | not_a_pod
             z/* -> 198.51.100.9  | deny z/p  | not_a_pod
             z/* -> 2001:db8:9::1 | deny z/p  | not_a_pod
             x/* -> n-x           | own_node  | not_a_pod
             y/* -> n-y           | own_node  | not_a_pod
             x,y/* -> n-x         | open      | not_a_pod
             x,y/* -> n-y         | open      | not_a_pod
             * -> n-z             | open      | not_a_pod
             * -> 198.51.100.7    | open      | not_a_pod
             * -> 198.51.100.9    | open      | not_a_pod
             * -> 2001:db8:9::1   | open      | not_a_pod",
        );
}
