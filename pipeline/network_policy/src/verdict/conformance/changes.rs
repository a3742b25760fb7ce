//! Policies, pods and namespaces that are created, changed and deleted.

use super::case;

const LABELLED: &str = "podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns2: updated}}}]}]";

#[test]
fn a_policy_that_is_replaced_or_deleted_counts_no_longer() {
    case("Netpol: should enforce updated policy")
        .apply("x/p", "podSelector: {}, policyTypes: [Ingress], ingress: [{}]")
        .expect(
            "* -> x/* | open | x/p ingress[0]
             * -> *   | open | open",
        )
        .apply("x/p", "podSelector: {}, policyTypes: [Ingress], ingress: []")
        .expect(
            "* -> x/* | open | deny x/p
             * -> *   | open | open",
        );
    case("Netpol: should stop enforcing policies after they are deleted")
        .apply("x/p", "podSelector: {}, policyTypes: [Ingress, Egress]")
        .expect(
            "x/* -> x/* | deny x/p | deny x/p
             x/* -> *   | deny x/p | open
             * -> x/*   | open     | deny x/p
             * -> *     | open     | open",
        )
        .delete("x/p")
        .expect("* -> * | open | open");
    case("cyclonus: Create/update policy")
        .apply(
            "x/p",
            "podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80}]}]",
        )
        .apply(
            "x/p",
            "podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: serve-81-udp, protocol: UDP}]}]",
        )
        .expect(
            "* -> x/a UDP 81 | open | x/p ingress[0].ports[0]
             * -> x/a        | open | deny x/p
             * -> *          | open | open",
        );
}

#[test]
fn a_namespace_is_matched_by_the_labels_that_it_has_now() {
    case("Netpol: should allow ingress access from updated namespace")
        .apply("x/p", LABELLED)
        .expect(
            "* -> x/a | open | deny x/p
             * -> *   | open | open",
        )
        .label_namespace("y", "ns2", "updated")
        .expect(
            "y/* -> x/a | open | x/p ingress[0].from[0]
             * -> x/a   | open | deny x/p
             * -> *     | open | open",
        );
    case("cyclonus: Update namespace so that policy applies, then again so it no longer applies")
        .apply("x/p", LABELLED)
        .label_namespace("y", "ns2", "updated")
        .unlabel_namespace("y", "ns2")
        .expect(
            "* -> x/a | open | deny x/p
             * -> *   | open | open",
        );
}

#[test]
fn a_pod_is_matched_and_selected_by_the_labels_that_it_has_now() {
    case("Netpol: should allow ingress access from updated pod")
        .apply(
            "x/p",
            "podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b, pod2: updated}}}]}]",
        )
        .expect(
            "* -> x/a | open | deny x/p
             * -> *   | open | open",
        )
        .label_pod("x/b", "pod2", "updated")
        .expect(
            "x/b -> x/a | open | x/p ingress[0].from[0]
             * -> x/a   | open | deny x/p
             * -> *     | open | open",
        );
    case("Netpol: should deny ingress access to updated pod")
        .apply(
            "x/p",
            "podSelector: {matchLabels: {target: isolated}}, policyTypes: [Ingress]",
        )
        .expect("* -> * | open | open")
        .label_pod("x/a", "target", "isolated")
        .expect(
            "* -> x/a | open | deny x/p
             * -> *   | open | open",
        )
        .unlabel_pod("x/a", "target")
        .expect("* -> * | open | open");
}

#[test]
fn a_pod_that_is_created_is_isolated_and_matched_and_one_that_is_deleted_is_not() {
    let spec = "podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [b, c]}]}, ingress: [{from: [{podSelector: {matchLabels: {pod: d}}}]}]";
    let mut created = case("cyclonus: Create/delete pod, Create/delete namespace").apply("x/p", spec);
    for (namespace, address) in [("x", "10.1.0.4"), ("y-2", "10.9.0.1")] {
        let mut pod = created.pod("x/a").clone();
        pod.namespace = namespace.to_owned();
        pod.name = "d".to_owned();
        pod.labels.insert("pod".to_owned(), "d".to_owned());
        pod.addresses = vec![address.parse().unwrap()];
        created.objects.pods.push(pod);
    }
    created
        .objects
        .namespaces
        .push(flowtap_model::cluster_objects::NamespaceObject {
            name: "y-2".to_owned(),
            labels: [("ns".to_owned(), "y".to_owned())].into(),
        });
    let mut created = created
        .apply(
            "z/p",
            "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}]}]",
        )
        .expect(
            "x/d -> x/a     | open | x/p ingress[0].from[0]
             * -> x/a       | open | deny x/p
             * -> x/d       | open | deny x/p
             y,y-2/* -> z/* | open | z/p ingress[0].from[0]
             * -> z/*       | open | deny z/p
             * -> *         | open | open",
        );
    created.objects.pods.retain(|pod| pod.name != "d");
    created.objects.namespaces.retain(|it| it.name != "y-2");
    created.expect(
        "* -> x/a   | open | deny x/p
         y/* -> z/* | open | z/p ingress[0].from[0]
         * -> z/*   | open | deny z/p
         * -> *     | open | open",
    );
}
