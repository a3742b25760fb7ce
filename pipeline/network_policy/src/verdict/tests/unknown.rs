//! Pods that are not known, and those of services.

use super::*;

#[test]
fn a_pod_that_is_not_known_is_neither_allowed_nor_denied_by_a_selector() {
    let spec = "  podSelector: {matchLabels: {pod: a}}\n  policyTypes: [Ingress, Egress]\n  ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]\n  egress: [{ports: [{port: serve-80-tcp}]}, {to: [{ipBlock: {cidr: 10.2.0.0/24}}], ports: [{port: 443}]}]";
    one(
        "unknown",
        spec,
        "?10.1.0.99 -> x/a TCP 80 | each x/p | maybe x/p ingress[0].from[0] and .ports[0]
         ?10.1.0.99 -> x/a TCP 81 | undecided | deny x/p
         x/a -> ?10.2.0.99 TCP 80 | maybe x/p egress[0].ports[0] | each x/p
         x/a -> ?10.2.0.99 TCP 443 | x/p egress[1].to[0] and .ports[0] | undecided
         x/a -> ?10.3.0.99 TCP 444 | maybe x/p egress[0].ports[0] | undecided",
    );
}

/// A pod that is not known may be selected by none of the policies, or by all of a namespace that can be at the same time.
#[test]
fn a_verdict_that_is_the_same_whichever_policies_select_a_pod_is_the_verdict() {
    let policy = |name: &str, pods: &str, rules: &str| {
        yaml(
            "x",
            name,
            &format!(
                "  podSelector: {pods}\n  policyTypes: [Ingress, Egress]\n  ingress: {rules}\n  egress: {rules}"
            ),
        )
    };
    let unknown = |ingress: &str| {
        format!(
            "x/a -> ?10.1.0.99 TCP 80 | open | {ingress}
             ?10.1.0.99 -> 198.51.100.7 TCP 80 | {ingress} | not_a_pod"
        )
    };
    let all = || policy("all", "{}", "[{}]");
    let deny = || policy("deny", "{}", "[]");
    let db = |rules: &str| policy("db", "{matchLabels: {app: db}}", rules);
    let (both, open_db) = ("each x/all", db("[{}]"));
    for (title, text, expected) in [
        ("it allows everything", all(), both),
        ("and denies what it may select", deny(), "undecided"),
        (
            "one that allows everything selects each pod that the other does",
            all() + &deny(),
            both,
        ),
        ("in any order, and of a part of them", db("[]") + &all(), both),
        ("it selects a part of them alone", deny() + &open_db, "undecided"),
        (
            "of another namespace",
            all() + &deny().replace("namespace: 'x'", "namespace: 'y'"),
            "undecided",
        ),
        (
            "two that select all together",
            deny()
                + &open_db
                + &policy(
                    "rest",
                    "{matchExpressions: [{key: app, operator: NotIn, values: [db]}]}",
                    "[{ports: [{port: 80}]}]",
                ),
            "each x/db, x/rest",
        ),
        (
            "two that leave a part",
            deny()
                + &open_db
                + &policy(
                    "rest",
                    "{matchExpressions: [{key: app, operator: Exists}, {key: app, operator: NotIn, values: [db]}]}",
                    "[{}]",
                ),
            "undecided",
        ),
        (
            "on another port",
            policy("all", "{}", "[{ports: [{port: 81}]}]"),
            "undecided",
        ),
    ] {
        // In another namespace than that of x/a, so that no policy selects it.
        let text = text.replace("namespace: 'x'", "namespace: 'z'");
        check(
            title,
            &parsed(&text),
            &cluster(),
            &unknown(expected)
                .replace("x/all", "z/all")
                .replace("x/db", "z/db")
                .replace("x/rest", "z/rest"),
        );
    }
}

#[test]
fn the_policies_that_a_verdict_depends_on_are_those_that_do_not_allow_it() {
    let text = yaml(
        "x",
        "open",
        "  podSelector: {matchLabels: {app: web}}\n  ingress: [{}]",
    ) + &yaml("x", "closed", "  podSelector: {matchLabels: {app: db}}")
        + &yaml("y", "shut", "  podSelector: {}");
    let (policies, cluster) = (parsed(&text), cluster());
    let judge = |policies: &[NetworkPolicy]| {
        Judge::new(policies, &cluster)
            .judge(&conversation("z/a -> ?10.1.0.99 TCP 80", &cluster))
            .ingress
            .to_string()
    };
    assert_eq!(
        judge(&policies),
        "depends on whether x/closed, y/shut select the unknown pod"
    );
    assert_eq!(
        judge(&policies[..2]),
        "depends on whether x/closed selects the unknown pod"
    );
    assert_eq!(
        judge(&policies[..1]),
        "allowed whether or not x/open selects the unknown pod"
    );
}

/// Policies apply after the translation: neither the service's address nor its port is the pod's.
#[test]
fn the_address_and_the_port_of_a_service_decide_nothing_about_its_unknown_pods() {
    let spec = |rule: &str| {
        format!("  podSelector: {{matchLabels: {{pod: a}}}}\n  policyTypes: [Egress]\n  egress: [{rule}]")
    };
    for (rule, expected) in [
        ("{ports: [{port: 9090}]}", "maybe x/p egress[0].ports[0]"),
        ("{ports: [{port: 80}]}", "maybe x/p egress[0].ports[0]"),
        ("{ports: [{port: 1, endPort: 65535}]}", "x/p egress[0].ports[0]"),
        ("{ports: [{protocol: TCP}]}", "x/p egress[0].ports[0]"),
        ("{ports: [{protocol: UDP}]}", "deny x/p"),
        (
            "{to: [{ipBlock: {cidr: 10.96.0.0/16}}]}",
            "maybe x/p egress[0].to[0]",
        ),
        (
            "{to: [{ipBlock: {cidr: 10.1.0.0/16}}]}",
            "maybe x/p egress[0].to[0]",
        ),
        ("{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}", "x/p egress[0].to[0]"),
        ("{to: [{ipBlock: {cidr: '::/0'}}]}", "deny x/p"),
        (
            "{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.96.0.0/16]}}]}",
            "maybe x/p egress[0].to[0]",
        ),
        ("{to: [{podSelector: {}}]}", "maybe x/p egress[0].to[0]"),
        ("{}", "x/p egress[0]"),
        ("", "deny x/p"),
    ] {
        let table = format!("x/a -> ??10.96.0.1 TCP 9090 | {expected} | open");
        one(rule, &spec(rule), &table);
    }
    let ingress = |port| format!("  podSelector: {{}}\n  ingress: [{{ports: [{{port: {port}}}]}}]");
    for port in [80, 9090] {
        one(
            "its own port",
            &ingress(port),
            "y/a -> ??10.96.0.1 TCP 9090 | open | undecided",
        );
    }
}

#[test]
fn labels_that_are_not_known_do_not_matter_where_the_rules_select_each_namespace() {
    let mut objects = crate::testing::objects();
    objects.namespaces.retain(|namespace| namespace.name != "y");
    let cluster = Cluster::new(objects, &[]);
    let expression =
        |operator: &str| format!("{{namespaceSelector: {{matchExpressions: [{{key: team, {operator}}}]}}}}");
    let (yes, no) = (
        expression("operator: In, values: [a]"),
        expression("operator: NotIn, values: [a]"),
    );
    for (peers, expected) in [
        (yes.clone(), "maybe x/p ingress[0].from[0]"),
        (format!("{yes}, {no}"), "x/p ingress[0].from[0]"),
        (
            format!("{yes}, {}", expression("operator: DoesNotExist")),
            "maybe x/p ingress[0].from[0]",
        ),
    ] {
        let spec = format!("  podSelector: {{matchLabels: {{pod: a}}}}\n  ingress: [{{from: [{peers}]}}]");
        let table = format!("y/a -> x/a TCP 80 | open | {expected}");
        check(&peers, &parsed(&yaml("x", "p", &spec)), &cluster, &table);
    }
}
