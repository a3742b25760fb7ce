//! Policies that select no pod.

use std::collections::HashMap;

use flowtap_model::cluster_objects::ObjectLabels;

use super::Judge;
use crate::cluster::Cluster;
use crate::policy::NetworkPolicy;
use crate::selector::Operator;

/// A policy that selects no pod that is known: it decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle<'a> {
    /// The policy.
    pub policy: &'a NetworkPolicy,
    /// Whether its namespace has pods that are known.
    pub has_pods_there: bool,
}

impl<'a> Judge<'a> {
    /// The policies that select no pod that is known, in their order. Without any pods each is assumed to select some.
    pub fn idle(&self) -> Vec<Idle<'a>> {
        if !self.cluster.has_pods() {
            return Vec::new();
        }
        let pods = PodIndex::new(self.cluster);
        let idle = self.policies.iter().filter(|policy| !pods.any_selected(policy));
        let idle = idle.map(|policy| Idle {
            policy,
            has_pods_there: pods.in_namespace.contains_key(&*policy.namespace),
        });
        idle.collect()
    }
}

/// Labels of pods.
type Pods<'a> = Vec<&'a ObjectLabels>;

/// Pods by namespace, and by each of their labels and its key: many policies are compared with many pods.
struct PodIndex<'a> {
    in_namespace: HashMap<&'a str, Pods<'a>>,
    with_key: HashMap<(&'a str, &'a str), Pods<'a>>,
    with_label: HashMap<(&'a str, &'a str, &'a str), Pods<'a>>,
}

impl<'a> PodIndex<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let mut index = Self {
            in_namespace: HashMap::new(),
            with_key: HashMap::new(),
            with_label: HashMap::new(),
        };
        for (_, pod) in cluster.pods() {
            let (namespace, labels) = (&*pod.namespace, &pod.labels);
            index.in_namespace.entry(namespace).or_default().push(labels);
            for (key, value) in labels {
                let of_key = index.with_key.entry((namespace, &**key));
                of_key.or_default().push(labels);
                let of_label = index.with_label.entry((namespace, &**key, &**value));
                of_label.or_default().push(labels);
            }
        }
        index
    }

    fn any_selected(&self, policy: &'a NetworkPolicy) -> bool {
        let namespace = &*policy.namespace;
        let with = |key: &'a str, value: &'a str| self.with_label.get(&(namespace, key, value));
        // Each condition alone leaves some pods; those of the one that leaves the fewest are compared.
        let labels = policy.pods.labels.iter();
        let of_labels = labels.map(|(key, value)| Vec::from_iter(with(key, value)));
        let expressions = policy.pods.expressions.iter();
        let of_expressions = expressions.filter_map(|it| match &it.operator {
            Operator::In(values) => Some(values.iter().filter_map(|value| with(&it.key, value)).collect()),
            Operator::Exists => Some(Vec::from_iter(self.with_key.get(&(namespace, &*it.key)))),
            Operator::NotIn(_) | Operator::DoesNotExist => None,
        });
        let fewest = of_labels
            .chain(of_expressions)
            .min_by_key(|lists| lists.iter().map(|pods| pods.len()).sum::<usize>());
        let lists = fewest.unwrap_or_else(|| Vec::from_iter(self.in_namespace.get(namespace)));
        let mut pods = lists.into_iter().flatten();
        pods.any(|labels| policy.pods.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, objects};

    fn policy(namespace: &str, selector: &str) -> NetworkPolicy {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {{podSelector: {selector}}}\n"
        );
        crate::manifest::policies("p.yaml", &text, "default")
            .unwrap()
            .remove(0)
    }

    #[test]
    fn a_policy_is_idle_if_no_pod_of_its_namespace_has_what_it_selects_by() {
        let mut objects = objects();
        // Policies do not select a pod on its node's network.
        objects.pods[2].host_network = true;
        let with_host = Cluster::new(objects, &[]);
        for (namespace, selector, cluster, expected) in [
            ("x", "{}", &cluster(), None),
            ("x", "{matchLabels: {pod: a}}", &cluster(), None),
            ("x", "{matchLabels: {pod: A}}", &cluster(), Some(true)),
            ("x", "{matchLabels: {pod: a, tier: db}}", &cluster(), Some(true)),
            (
                "x",
                "{matchExpressions: [{key: pod, operator: NotIn, values: [a, b]}]}",
                &cluster(),
                None,
            ),
            (
                "x",
                "{matchExpressions: [{key: pod, operator: DoesNotExist}]}",
                &cluster(),
                Some(true),
            ),
            (
                "x",
                "{matchLabels: {pod: a}, matchExpressions: [{key: pod, operator: In, values: [b]}]}",
                &cluster(),
                Some(true),
            ),
            ("x", "{matchLabels: {pod: c}}", &with_host, Some(true)),
            (
                "x",
                "{matchExpressions: [{key: pod, operator: In, values: [q, c]}]}",
                &cluster(),
                None,
            ),
            (
                "x",
                "{matchExpressions: [{key: pod, operator: Exists}]}",
                &cluster(),
                None,
            ),
            (
                "x",
                "{matchExpressions: [{key: tier, operator: Exists}]}",
                &cluster(),
                Some(true),
            ),
            (
                "z",
                "{matchExpressions: [{key: pod, operator: In, values: [q]}]}",
                &cluster(),
                Some(true),
            ),
            ("shop", "{}", &cluster(), Some(false)),
            ("shop", "{matchLabels: {pod: a}}", &Cluster::default(), None),
        ] {
            let policies = [policy(namespace, selector)];
            let judge = Judge::new(&policies, cluster);
            let found: Vec<_> = judge.idle().iter().map(|idle| idle.has_pods_there).collect();
            assert_eq!(found, Vec::from_iter(expected), "{namespace} {selector}");
        }
    }
}
