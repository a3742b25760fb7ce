//! The situations of the upstream conformance tests, each with the verdict on every pair of pods and the rule that decides it.
//!
//! A case names its source by the test's title: `Netpol` is `test/e2e/network/netpol` of kubernetes/kubernetes, `cyclonus` the
//! generator of mattfenwick/cyclonus (now the policy-assistant of kubernetes-sigs/network-policy-api). Policies, names and tables
//! are written for this cluster: all nine pods are probed over three protocols on three ports, where upstream probes fewer.

mod blocks;
mod changes;
mod ends;
mod isolation;
mod peers;
mod ports;

use std::fmt::Write as _;

use flowtap_model::cluster_objects::{ClusterObjects, PodObject, PortProtocol};

use super::Judge;
use crate::cluster::Cluster;
use crate::conversation::{Conversation, End};
use crate::manifest::policies;
use crate::policy::NetworkPolicy;
use crate::testing::{end, objects, short};

/// 79 is served by no pod and has no name.
const PORTS: [u16; 3] = [79, 80, 81];

/// A cluster and its policies, which a case changes step by step.
struct Case {
    title: &'static str,
    objects: ClusterObjects,
    policies: Vec<NetworkPolicy>,
    /// Ends in addition to the pods: nodes, and addresses outside the cluster.
    others: Vec<&'static str>,
}

/// A case without policies.
fn case(title: &'static str) -> Case {
    Case {
        title,
        objects: objects(),
        policies: Vec::new(),
        others: Vec::new(),
    }
}

impl Case {
    /// Applies the policy `namespace/name` with `spec`: creates it or replaces it.
    fn apply(mut self, name: &str, spec: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap();
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: '{namespace}'}}\nspec: {{{spec}}}\n"
        );
        let mut read =
            policies("test.yaml", &text, "default").unwrap_or_else(|error| panic!("{error}\n{text}"));
        let policy = read.remove(0);
        let same = self
            .policies
            .iter_mut()
            .find(|it| it.to_string() == policy.to_string());
        match same {
            Some(before) => *before = policy,
            None => self.policies.push(policy),
        }
        self
    }

    fn delete(mut self, name: &str) -> Self {
        self.policies.retain(|policy| policy.to_string() != name);
        self
    }

    fn pod(&mut self, name: &str) -> &mut PodObject {
        let (namespace, name) = name.split_once('/').unwrap();
        let mut pods = self.objects.pods.iter_mut();
        pods.find(|pod| pod.namespace == namespace && pod.name == name)
            .unwrap()
    }

    fn label_pod(mut self, name: &str, key: &str, value: &str) -> Self {
        self.pod(name).labels.insert(key.to_owned(), value.to_owned());
        self
    }

    fn unlabel_pod(mut self, name: &str, key: &str) -> Self {
        self.pod(name).labels.remove(key);
        self
    }

    fn label_namespace(mut self, name: &str, key: &str, value: &str) -> Self {
        let mut namespaces = self.objects.namespaces.iter_mut();
        let namespace = namespaces.find(|it| it.name == name).unwrap();
        namespace.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    fn unlabel_namespace(mut self, name: &str, key: &str) -> Self {
        let mut namespaces = self.objects.namespaces.iter_mut();
        namespaces.find(|it| it.name == name).unwrap().labels.remove(key);
        self
    }

    fn with_ends(mut self, others: &[&'static str]) -> Self {
        self.others.extend(others);
        self
    }

    /// Gives each pod an IPv6 address in place of its IPv4 address: `2001:db8:1::1` to `x/a`, `2001:db8:2::3` to `y/c`.
    fn ipv6(mut self) -> Self {
        for (index, pod) in (0..).zip(&mut self.objects.pods) {
            let (third, last) = (index / 3 + 1, index % 3 + 1);
            pod.addresses = vec![format!("2001:db8:{third}::{last}").parse().unwrap()];
        }
        self
    }

    /// Probes every pair of different ends. Of a probe's lines `CLIENT -> SERVER [PROTOCOLS [PORTS]] | egress | ingress` the
    /// first one that matches counts. An end is `NAMESPACES/PODS`, lists that are separated by commas, or the text of another
    /// end; `*` stands for all of them, and alone for every pod. Each line must count for a probe, and each probe have a line.
    fn expect(self, table: &str) -> Self {
        let cluster = Cluster::new(self.objects.clone(), &[]);
        let judge = Judge::new(&self.policies, &cluster);
        let pods = cluster
            .pods()
            .map(|(_, pod)| format!("{}/{}", pod.namespace, pod.name));
        let names: Vec<_> = pods.chain(self.others.iter().map(ToString::to_string)).collect();
        let ends: Vec<(&str, End)> = names.iter().map(|name| (&**name, end(name, &cluster))).collect();
        let lines: Vec<Line<'_>> = table.lines().filter_map(Line::parse).collect();
        let mut used = vec![false; lines.len()];
        let mut wrong = String::new();
        for (client_name, client) in &ends {
            for (server_name, server) in &ends {
                let is_between_others = !client_name.contains('/') && !server_name.contains('/');
                if client == server || is_between_others {
                    continue;
                }
                for (protocol, port) in PortProtocol::ALL
                    .iter()
                    .flat_map(|it| PORTS.map(|port| (*it, port)))
                {
                    let conversation = Conversation {
                        client: client.clone(),
                        server: server.clone(),
                        port,
                        protocol: Some(protocol),
                    };
                    let probe = format!("{client_name} -> {server_name} {} {port}", protocol.as_str());
                    let matching = |line: &Line<'_>| line.matches(client_name, server_name, protocol, port);
                    let Some(index) = lines.iter().position(matching) else {
                        let _ = writeln!(wrong, "{probe}: no line");
                        continue;
                    };
                    used[index] = true;
                    let verdict = judge.judge(&conversation);
                    let found = [short(&verdict.egress), short(&verdict.ingress)];
                    if found != lines[index].decisions {
                        let expected = lines[index].decisions.join(" | ");
                        let _ = writeln!(wrong, "{probe}: found {}, expected {expected}", found.join(" | "));
                    }
                }
            }
        }
        for (line, _) in lines.iter().zip(&used).filter(|(_, used)| !**used) {
            let _ = writeln!(wrong, "no probe for the line {}", line.text);
        }
        assert!(wrong.is_empty(), "{}:\n{wrong}", self.title);
        self
    }
}

/// A line of a table.
struct Line<'a> {
    text: &'a str,
    client: &'a str,
    server: &'a str,
    protocols: &'a str,
    ports: &'a str,
    decisions: [&'a str; 2],
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        let [probe, egress, ingress] = text.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("not three cells: {text}");
        };
        let mut words = probe.split_whitespace();
        let mut next = || words.next();
        let (client, arrow, server) = (next()?, next()?, next()?);
        assert_eq!(arrow, "->", "{text}");
        Some(Self {
            text,
            client,
            server,
            protocols: next().unwrap_or("*"),
            ports: next().unwrap_or("*"),
            decisions: [egress, ingress],
        })
    }

    fn matches(&self, client: &str, server: &str, protocol: PortProtocol, port: u16) -> bool {
        is_end(self.client, client)
            && is_end(self.server, server)
            && is_listed(self.protocols, protocol.as_str())
            && is_listed(self.ports, &port.to_string())
    }
}

fn is_end(pattern: &str, name: &str) -> bool {
    match (pattern.split_once('/'), name.split_once('/')) {
        (Some((namespaces, pods)), Some((namespace, pod))) => {
            is_listed(namespaces, namespace) && is_listed(pods, pod)
        }
        (None, Some(_)) => pattern == "*",
        _ => pattern == name,
    }
}

fn is_listed(list: &str, element: &str) -> bool {
    list == "*" || list.split(',').any(|it| it == element)
}
