use flowtap_model::cluster_objects::PortProtocol;

use super::*;
use crate::policy::{PortMatch, Rule};

fn errors(text: &str) -> Vec<String> {
    let error = policies("web.yaml", text, "default").unwrap_err();
    error.0.iter().map(ToString::to_string).collect()
}

fn with_spec(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )
}

/// Checks the mistake of each spec.
fn check(cases: &[(&str, &str)]) {
    for (spec, expected) in cases {
        let expected = format!("web.yaml, document 1 (NetworkPolicy shop/p), {expected}");
        assert_eq!(errors(&with_spec(spec)), [expected], "{spec}");
    }
}

#[test]
fn keys_and_values_of_labels_are_checked() {
    check(&[
        (
            "{podSelector: {matchLabels: {app: 'web server'}}}",
            "spec.podSelector.matchLabels.app: invalid value of a label \"web server\": expected up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In, values: [b, -c]}]}}",
            "spec.podSelector.matchExpressions[0].values[1]: invalid value of a label \"-c\": expected up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
        ),
        (
            "{podSelector: {matchLabels: {app/: web}}}",
            "spec.podSelector.matchLabels.app/: invalid key of a label \"app/\": expected up to 63 letters, digits, `-`, `_` and `.`, with an optional prefix such as `example.com/`",
        ),
    ]);
}

#[test]
fn every_mistake_is_reported_with_file_document_and_key() {
    check(&[
        (
            "{podSelecter: {}}",
            "spec.podSelecter: unknown key; expected one of podSelector, ingress, egress, policyTypes",
        ),
        ("[]", "spec: expected a mapping, found a list"),
        (
            "{podSelector: {}, ingress: {}}",
            "spec.ingress: expected a list, found a mapping",
        ),
        (
            "{podSelector: {}, ingress: [{to: []}]}",
            "spec.ingress[0].to: unknown key; expected one of from, ports",
        ),
        (
            "{podSelector: {}, ingress: [{from: [{}]}]}",
            "spec.ingress[0].from[0]: empty; expected `podSelector`, `namespaceSelector` or `ipBlock`",
        ),
        (
            "{podSelector: {matchLabels: {v: 1}}}",
            "spec.podSelector.matchLabels.v: expected a string, found the number 1; hint: quote it",
        ),
        (
            "{podSelector: {app: web}}",
            "spec.podSelector.app: unknown key; expected one of matchLabels, matchExpressions",
        ),
        (
            "{podSelector: {}, policyTypes: [Ingress, Egress, Ingress]}",
            "spec.policyTypes: more than two; expected each of `Ingress` and `Egress` once",
        ),
        (
            "{podSelector: {}, policyTypes: [ingress]}",
            "spec.policyTypes[0]: expected `Ingress` or `Egress`, found \"ingress\"",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: 0}]}]}",
            "spec.ingress[0].ports[0].port: expected a port from 1 to 65535, found the number 0",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: '80'}]}]}",
            "spec.ingress[0].ports[0].port: invalid name of a port \"80\": expected up to 15 of a-z, 0-9 and `-`, a letter among them; hint: a number is not quoted",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: 90, endPort: 80}]}]}",
            "spec.ingress[0].ports[0].endPort: 80 is below `port`, which is 90",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{endPort: 80}]}]}",
            "spec.ingress[0].ports[0].endPort: needs `port`",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: web, endPort: 80}]}]}",
            "spec.ingress[0].ports[0].endPort: needs a number in `port`, not a name",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{protocol: tcp}]}]}",
            "spec.ingress[0].ports[0].protocol: expected `TCP`, `UDP` or `SCTP`, found \"tcp\"",
        ),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {}}]}]}",
            "spec.egress[0].to[0].ipBlock.cidr: missing",
        ),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.1}}]}]}",
            "spec.egress[0].to[0].ipBlock.cidr: invalid range \"10.0.0.1\": expected an address and a prefix length, such as 10.0.0.0/24",
        ),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.1.0/24]}}]}]}",
            "spec.egress[0].to[0].ipBlock.except[0]: 10.0.1.0/24 is not a part of 10.0.0.0/24",
        ),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.0/24]}}]}]}",
            "spec.egress[0].to[0].ipBlock.except[0]: 10.0.0.0/24 is all of `cidr`; expected a part of it; hint: leave this peer out, it matches nothing",
        ),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24}, podSelector: {}}]}]}",
            "spec.egress[0].to[0]: `ipBlock` excludes `podSelector` and `namespaceSelector`; hint: make it another list element",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}",
            "spec.podSelector.matchExpressions[0].operator: expected `In`, `NotIn`, `Exists` or `DoesNotExist`, found \"in\"",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "spec.podSelector.matchExpressions[0].values: `In` and `NotIn` need at least one value",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "spec.podSelector.matchExpressions[0].values: `Exists` and `DoesNotExist` have no values",
        ),
        (
            "{podSelector: {matchExpressions: [{operator: Exists}]}}",
            "spec.podSelector.matchExpressions[0].key: missing",
        ),
    ]);
}

#[test]
fn the_hint_about_a_ports_name_fits() {
    check(&[
        (
            "{podSelector: {}, ingress: [{ports: [{port: HTTP}]}]}",
            "spec.ingress[0].ports[0].port: invalid name of a port \"HTTP\": expected up to 15 of a-z, 0-9 and `-`, a letter among them; hint: `http`, as the pod's containers name it",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: web_1}]}]}",
            "spec.ingress[0].ports[0].port: invalid name of a port \"web_1\": expected up to 15 of a-z, 0-9 and `-`, a letter among them",
        ),
    ]);
}

#[test]
fn all_mistakes_of_a_file_come_at_once() {
    let text = format!(
        "{}---\nkind: Service\napiVersion: v1\nmetadata: {{name: web}}\n---\n{}",
        with_spec("{ingress: [{ports: [{port: 0}, {port: 70000}]}]}"),
        with_spec("{}")
    );
    assert_eq!(
        errors(&text),
        [
            "web.yaml, document 1 (NetworkPolicy shop/p), spec.ingress[0].ports[0].port: expected a port from 1 to 65535, found the number 0",
            "web.yaml, document 1 (NetworkPolicy shop/p), spec.ingress[0].ports[1].port: expected a port from 1 to 65535, found the number 70000",
            "web.yaml, document 2 (Service web), kind: `Service` of `v1`; expected `NetworkPolicy` of `networking.k8s.io/v1`",
            "web.yaml, document 3 (NetworkPolicy shop/p), metadata.name: duplicate policy shop/p; the first is web.yaml, document 1",
        ]
    );
    assert_eq!(
        errors("{}"),
        ["web.yaml, document 1, kind: missing; expected `NetworkPolicy` of `networking.k8s.io/v1`"]
    );
    assert_eq!(errors(""), ["web.yaml: no NetworkPolicy in this file"]);
    // As `kubectl get networkpolicies -o yaml` prints it where there are none.
    let none = policies("web.yaml", "apiVersion: v1\nitems: []\nkind: List\n", "default");
    assert_eq!(none, Ok(Vec::new()));
    assert!(
        errors("a: [")[0].starts_with("web.yaml: "),
        "{:?}",
        errors("a: [")
    );
}

#[test]
fn an_empty_namespace_is_the_default_one_and_a_name_is_checked() {
    let text = |metadata: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {metadata}\nspec: {{podSelector: {{}}}}\n"
        )
    };
    let read = policies("web.yaml", &text("{name: p, namespace: ''}"), "shop").unwrap();
    assert_eq!(read[0].to_string(), "shop/p");
    assert_eq!(
        errors(&text("{name: Web_1}")),
        [
            "web.yaml, document 1 (NetworkPolicy Web_1), metadata.name: invalid name \"Web_1\": expected a-z, 0-9, `-` and `.`, with a letter or digit at both ends"
        ]
    );
}

#[test]
fn lists_documents_and_json_are_read_alike() {
    let list = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n- metadata: {name: a}\n  spec: {podSelector: {}}\n- metadata: {name: b, namespace: shop}\n  spec: {}\n";
    let json = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"c","labels":{"x":"y"},"managedFields":[{}]},"spec":{"podSelector":{},"ingress":[{"ports":[{"port":1,"endPort":2}]}]},"status":{}}]}"#;
    let names = |text| -> Vec<String> {
        policies("web.yaml", text, "default")
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(names(list), ["default/a", "shop/b"]);
    assert_eq!(names(json), ["default/c"]);
    let policy = policies("web.yaml", json, "default").unwrap().remove(0);
    let ports = vec![crate::policy::Port {
        protocol: PortProtocol::default(),
        port: PortMatch::Range(1, 2),
    }];
    assert_eq!(
        policy.ingress,
        Some(vec![Rule {
            peers: Vec::new(),
            ports
        }])
    );
}

#[test]
fn a_policy_is_written_as_it_is_read() {
    let text = with_spec(
        "{podSelector: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: NotIn, values: [d]}, {key: e, operator: Exists}]}, policyTypes: [Ingress, Egress], ingress: [{}, {from: [{namespaceSelector: {}}, {podSelector: {}}], ports: [{port: web}, {protocol: UDP}]}], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 1, endPort: 9, protocol: SCTP}]}]}",
    );
    let before = policies("web.yaml", &text, "default").unwrap();
    let written = to_yaml(&before[0].to_value()).unwrap();
    assert_eq!(
        policies("web.yaml", &written, "default").unwrap(),
        before,
        "{written}"
    );
}

#[test]
fn objects_are_read_as_kubectl_prints_them() {
    let text = r"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata:
    name: web-6d4cf56db6-x2k4p
    namespace: shop
    labels: {app: web, pod-template-hash: 6d4cf56db6}
    ownerReferences: [{kind: ReplicaSet, name: web-6d4cf56db6, controller: true}]
  spec:
    nodeName: n1
    containers: [{name: web, ports: [{name: http, containerPort: 8080, protocol: TCP}, {containerPort: 9}]}]
    initContainers:
    - {name: setup, ports: [{name: setup, containerPort: 7}]}
    - {name: proxy, restartPolicy: Always, ports: [{name: mesh, containerPort: 15001}]}
  status:
    phase: Running
    podIP: 10.244.1.7
    podIPs: [{ip: 10.244.1.7}, {ip: 'fd00::7'}]
    hostIP: 192.0.2.1
    containerStatuses: [{containerID: 'containerd://0a1b'}]
- apiVersion: v1
  kind: Pod
  metadata: {name: done, ownerReferences: [{kind: Job, name: nightly, controller: true}]}
  spec: {hostNetwork: true}
  status: {phase: Succeeded}
- apiVersion: v1
  kind: Namespace
  metadata: {name: shop, labels: {team: a}}
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop}
  spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], selector: {app: web}, ports: [{port: 80, targetPort: http}, {port: 81}]}
- apiVersion: v1
  kind: Service
  metadata: {name: headless}
  spec: {clusterIP: None}
- apiVersion: v1
  kind: Node
  metadata: {name: n1}
  spec: {podCIDRs: [10.244.1.0/24]}
  status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: Hostname, address: n1}]}
";
    let objects = objects("all.yaml", text).unwrap();
    let web = &objects.pods[0];
    assert_eq!(
        (&*web.workload, web.addresses.len(), &*web.containers[0]),
        ("Deployment/web", 2, "0a1b")
    );
    assert_eq!(
        (web.ports.len(), web.ports[0].port, &*web.ports[0].name),
        (2, 8080, "http")
    );
    assert_eq!((web.ports[1].port, &*web.ports[1].name), (15001, "mesh"));
    assert_eq!((&*web.node, web.node_addresses.len()), ("n1", 1));
    let done = &objects.pods[1];
    assert_eq!(
        (&*done.namespace, &*done.workload, done.ended, done.host_network),
        ("default", "Job/nightly", true, true)
    );
    assert_eq!(objects.namespaces[0].labels["team"], "a");
    assert_eq!(objects.services[0].addresses.len(), 1);
    assert!(objects.services[1].addresses.is_empty());
    assert_eq!(
        (
            objects.nodes[0].addresses.len(),
            objects.nodes[0].pod_ranges.len()
        ),
        (1, 1)
    );
}

#[test]
fn an_object_of_another_kind_is_an_error_that_names_it() {
    let error = objects("pods.yaml", "kind: Secret\napiVersion: v1\nmetadata: {name: s}\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "pods.yaml, document 1 (Secret s), kind: `Secret` of `v1`; expected Pod, Namespace, Service or Node of `v1`"
    );
    assert!(objects("pods.yaml", "just text").is_err());
    // Other groups have kinds of the same name.
    for (version, found) in [
        (
            "apiVersion: serving.knative.dev/v1\n",
            "kind: `Service` of `serving.knative.dev/v1`",
        ),
        ("", "apiVersion: missing"),
    ] {
        let text = format!("{version}kind: Service\nmetadata: {{name: s}}\n");
        let error = objects("all.yaml", &text).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "all.yaml, document 1 (Service s), {found}; expected Pod, Namespace, Service or Node of `v1`"
            )
        );
    }
}

#[test]
fn an_object_that_is_there_twice_is_an_error_as_a_policy_is() {
    let pod = |namespace: &str, app: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: b, namespace: {namespace}, labels: {{app: {app}}}}}\n"
        )
    };
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: x}\n";
    let text = pod("x", "a") + &pod("z", "a") + service;
    assert!(objects("all.yaml", &text).is_ok());
    let error = objects("all.yaml", &(text + &pod("x", "c"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "all.yaml, document 4 (Pod x/b), metadata.name: duplicate Pod x/b; the first is all.yaml, document 1"
    );
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";
    let error = objects("all.yaml", &node.repeat(2)).unwrap_err();
    assert!(error.to_string().contains("duplicate Node n1"), "{error}");
}

#[test]
fn an_empty_list_of_another_kind_is_an_error() {
    let list = |version: &str, kind: &str, items: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nitems: {items}\n")
    };
    for items in ["[]", "null", ""] {
        for (version, kind) in [("v1", "List"), ("networking.k8s.io/v1", "NetworkPolicyList")] {
            let text = list(version, kind, items);
            assert_eq!(policies("web.yaml", &text, "default"), Ok(Vec::new()), "{text}");
        }
        for kind in ["List", "PodList", "NodeList"] {
            assert!(objects("all.yaml", &list("v1", kind, items)).is_ok());
        }
    }
    assert_eq!(
        errors(&list("v1", "PodList", "[]")),
        [
            "web.yaml, document 1, kind: an empty `PodList` of `v1`; expected `List` of `v1`, or `NetworkPolicyList` of `networking.k8s.io/v1`"
        ]
    );
    assert_eq!(errors(&list("v9", "List", "[]")).len(), 1);
    assert_eq!(errors(&list("v1", "NetworkPolicyList", "[]")).len(), 1);
    // Beside policies also.
    let beside = format!("{}---\n{}", with_spec("{}"), list("v9", "FooList", "[]"));
    assert_eq!(errors(&beside).len(), 1);
    let error = objects(
        "all.yaml",
        &list("networking.k8s.io/v1", "NetworkPolicyList", "[]"),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "all.yaml, document 1, kind: an empty `NetworkPolicyList` of `networking.k8s.io/v1`; expected Pod, Namespace, Service or Node of `v1`"
    );
    // Without `items` it is an object of another kind.
    assert!(policies("web.yaml", "apiVersion: v1\nkind: List\n", "default").is_err());
}

#[test]
fn json_objects_that_follow_each_other_are_read_one_by_one() {
    let object = |name: &str| {
        format!(
            r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"name":"{name}"}},"spec":{{"podSelector":{{}}}}}}"#
        )
    };
    for between in ["", "\n", " ", "\n\n  ", "\r\n"] {
        for around in ["", "\n", "\u{feff}"] {
            let text = format!("{around}{}{between}{}\n", object("a"), object("b"));
            let read = policies("web.json", &text, "default").map(|all| all.len());
            assert_eq!(read, Ok(2), "{text:?}");
        }
    }
    // Their mistakes have the line that they are in, and no key is there twice.
    let twice = object("b").replace(r#""spec""#, r#""kind":"NetworkPolicy","spec""#);
    let error = policies("web.json", &format!("{}\n{twice}\n", object("a")), "default").unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with("web.json: line 2, ") && error.contains("duplicate key `kind`"),
        "{error}"
    );
    let error = policies("web.json", &format!("{}{{", object("a")), "default");
    assert!(error.is_err());
}

#[test]
fn a_number_that_is_not_written_as_one_has_a_hint() {
    for (port, found) in [("0100", "100.0"), ("80.0", "80.0"), ("8e1", "80.0")] {
        let spec = format!("{{podSelector: {{}}, ingress: [{{ports: [{{port: {port}}}]}}]}}");
        let error = errors(&with_spec(&spec)).concat();
        let expected = format!(
            "spec.ingress[0].ports[0].port: expected a port from 1 to 65535, found the number {found}; hint: digits alone, without a \
             leading 0, a point or an exponent; `0100` is octal for kubectl, which reads 64"
        );
        assert!(error.ends_with(&expected), "{error}");
    }
}

#[test]
fn a_key_that_is_there_twice_is_named_with_its_place_and_no_setting_of_a_library() {
    let text = with_spec("\n  podSelector: {}\n  podSelector: {}");
    assert_eq!(
        errors(&text),
        ["web.yaml: line 6, column 3: duplicate key `podSelector`; hint: keep one of the two"]
    );
}

#[test]
fn a_namespace_is_checked_as_a_name_is() {
    let text = with_spec("{podSelector: {}}").replace("namespace: shop", "namespace: 'a b'");
    assert_eq!(
        errors(&text),
        [
            "web.yaml, document 1 (NetworkPolicy a b/p), metadata.namespace: invalid namespace \"a b\": expected up to 63 of a-z, \
          0-9 and `-`, with a letter or digit at both ends"
        ]
    );
}

#[test]
fn metadata_is_checked_as_the_api_server_does() {
    let of = |metadata: &str| {
        let text = with_spec("{podSelector: {}}");
        let text = text.replace("{name: p, namespace: shop}", metadata);
        policies("web.yaml", &text, "default").map_err(|error| {
            let errors = error.0.into_iter();
            errors
                .map(|it| format!("{}: {}", it.key, it.message))
                .collect::<Vec<_>>()
        })
    };
    let known = METADATA_OF_THE_API.join(", ");
    assert_eq!(
        of("{name: p, namespce: shop}").unwrap_err(),
        [format!("metadata.namespce: unknown key; expected one of {known}")]
    );
    let label = "expected up to 63 letters, digits, `-`, `_` and `.`";
    assert_eq!(
        of("{name: p, labels: {'a b': 'c d', version: 1}, annotations: {'a b': c, d: 1}}").unwrap_err(),
        [
            "metadata.labels.version: expected a string, found the number 1; hint: quote it".to_owned(),
            format!(
                "metadata.labels.a b: invalid key of a label \"a b\": {label}, with an optional prefix such as `example.com/`"
            ),
            format!(
                "metadata.labels.a b: invalid value of a label \"c d\": {label}, with a letter or digit at both ends"
            ),
            "metadata.annotations.d: expected a string, found the number 1; hint: quote it".to_owned(),
            format!(
                "metadata.annotations: invalid key of an annotation \"a b\": {label}, with an optional prefix such as `example.com/`"
            ),
        ]
    );
    assert_eq!(
        of("p").unwrap_err()[0],
        "metadata: expected a mapping, found \"p\""
    );
    let exported = "{name: p, uid: u, resourceVersion: '1', generation: 1, creationTimestamp: '2026-01-01T00:00:00Z', labels: {app: web}, \
                    annotations: {Example.com/note: 'free text'}, managedFields: [{}, {manager: kubectl, operation: Update, apiVersion: networking.k8s.io/v1, time: '2026-01-01T00:00:00Z', \
                    fieldsType: FieldsV1, fieldsV1: {'f:spec': {}}}], ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: u, \
                    controller: true}], finalizers: [example.com/x]}";
    assert_eq!(of(exported).map(|_| ()), Ok(()));
    let wrong = "{name: p, uid: 5, generation: '1', creationTimestamp: yesterday, deletionTimestamp: 5, finalizers: x, ownerReferences: \
                 [{kind: Deployment, name: '', uid: u, controller: 'yes', owner: web}, x], managedFields: [{manager: 1, time: now}]}";
    assert_eq!(
        of(wrong).unwrap_err(),
        [
            "metadata.uid: expected a string, found the number 5; hint: quote it",
            "metadata.generation: expected a whole number, found \"1\"",
            "metadata.creationTimestamp: expected a time such as 2026-01-01T00:00:00Z, found \"yesterday\"",
            "metadata.deletionTimestamp: expected a string, found the number 5; hint: quote it",
            "metadata.finalizers: expected a list, found \"x\"",
            "metadata.ownerReferences[0].owner: unknown key; expected one of apiVersion, kind, name, uid, controller, blockOwnerDeletion",
            "metadata.ownerReferences[0].apiVersion: missing",
            "metadata.ownerReferences[0].name: missing",
            "metadata.ownerReferences[0].controller: expected true or false, found \"yes\"",
            "metadata.ownerReferences[1]: expected a mapping, found \"x\"",
            "metadata.managedFields[0].manager: expected a string, found the number 1; hint: quote it",
            "metadata.managedFields[0].time: expected a time such as 2026-01-01T00:00:00Z, found \"now\"",
        ]
    );
    for (metadata, key) in [
        (
            "{name: p, finalizers: ['a b']}",
            "metadata.finalizers[0]: invalid key of a finalizer",
        ),
        (
            "{name: p, resourceVersion: 1}",
            "metadata.resourceVersion: expected a string",
        ),
        (
            "{name: p, ownerReferences: [&o {apiVersion: v1, kind: A, name: a, uid: u, controller: true}, *o]}",
            "metadata.ownerReferences: more than one",
        ),
    ] {
        let errors = of(metadata).unwrap_err();
        assert!(errors.len() == 1 && errors[0].starts_with(key), "{errors:?}");
    }
    for time in [
        "2026-02-28T24:00:00.5+02:00",
        "2026-02-30T00:00:00Z",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+2:00",
        "2026-01-01T00:00:00.Z",
    ] {
        let text = format!("{{name: p, creationTimestamp: '{time}'}}");
        assert!(of(&text).is_err(), "{time}");
    }
    assert!(of("{name: p, creationTimestamp: '2026-02-28T23:59:59.25-03:30'}").is_ok());
}

#[test]
fn a_generated_name_is_its_prefix_and_no_duplicate() {
    let text =
        |metadata: &str| with_spec("{podSelector: {}}").replace("{name: p, namespace: shop}", metadata);
    let two = format!("{0}---\n{0}", text("{generateName: web-, namespace: shop}"));
    let found = policies("web.yaml", &two, "default").unwrap();
    let names: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["shop/web-*", "shop/web-*"]);
    let named = policies("web.yaml", &text("{name: web, generateName: web-}"), "default").unwrap();
    assert_eq!(named[0].name, "web");
    for (metadata, key) in [
        ("{generateName: 'Web_'}", "metadata.generateName"),
        ("{generateName: 5}", "metadata.generateName"),
        ("{generateName: '-'}", "metadata.generateName"),
        ("{name: ''}", "metadata.name"),
        ("{labels: {}}", "metadata.name"),
    ] {
        let error = policies("web.yaml", &text(metadata), "default").unwrap_err();
        assert!(error.0.len() == 1 && error.0[0].key == key, "{metadata}: {error}");
    }
}

const METADATA_OF_THE_API: [&str; 15] = [
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
];

#[test]
fn a_value_of_an_object_that_cannot_be_read_is_an_error_with_its_place() {
    let cases = [
        (
            "kind: Pod\nmetadata: {name: a, labels: {version: 1}}",
            "(Pod a), metadata.labels.version: expected a string, found the number 1; hint: quote it",
        ),
        (
            "kind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.1.0.2/32}",
            "(Pod a), status.podIP: expected an address such as 10.244.1.7, found \"10.1.0.2/32\"",
        ),
        (
            "kind: Pod\nmetadata: {name: a}\nstatus: {podIPs: [{ip: fd00::1}, {ip: 7}], hostIP: ''}",
            "(Pod a), status.podIPs[1].ip: expected an address such as 10.244.1.7, found the number 7",
        ),
        (
            "kind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: 'true'}",
            "(Pod a), spec.hostNetwork: expected true or false, found \"true\"",
        ),
        (
            "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{ports: [{name: web, containerPort: '80'}]}]}",
            "(Pod a), spec.containers[0].ports[0].containerPort: expected a port from 1 to 65535, found \"80\"",
        ),
        (
            "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{}, {ports: [{name: 5, containerPort: 80}]}]}",
            "(Pod a), spec.containers[1].ports[0].name: expected a string, found the number 5; hint: quote it",
        ),
        (
            "kind: Namespace\nmetadata: {name: a, labels: [team]}",
            "(Namespace a), metadata.labels: expected a mapping, found a list",
        ),
        (
            "kind: Service\nmetadata: {name: a}\nspec: {clusterIP: None, selector: {version: true}}",
            "(Service a), spec.selector.version: expected a string, found the boolean true; hint: quote it",
        ),
        (
            "kind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, targetPort: web, protocol: tcp}]}",
            "(Service a), spec.ports[0].protocol: expected `TCP`, `UDP` or `SCTP`, found \"tcp\"",
        ),
        (
            "kind: Node\nmetadata: {name: a}\nspec: {podCIDRs: [10.1.0.0]}",
            "(Node a), spec.podCIDRs[0]: expected a range such as 10.244.1.0/24, found \"10.1.0.0\"",
        ),
        (
            "kind: Node\nmetadata: {name: a}\nstatus: {addresses: [{type: Hostname, address: a}, {type: InternalIP, address: a}]}",
            "(Node a), status.addresses[1].address: expected an address such as 10.244.1.7, found \"a\"",
        ),
    ];
    for (text, expected) in cases {
        let error = objects("all.yaml", &format!("apiVersion: v1\n{text}\n")).unwrap_err();
        assert_eq!(error.to_string(), format!("all.yaml, document 1 {expected}"));
    }
}

const DEPLOYMENT: &str = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";

#[test]
fn of_a_folder_of_manifests_other_kinds_are_left_out_and_named() {
    let text = with_spec("{}") + DEPLOYMENT;
    assert_eq!(errors(&text).len(), 1, "a file that is named is of policies");
    let found = policies_among("web.yaml", &text, "default").unwrap();
    assert_eq!((found.policies.len(), found.says_none), (1, false));
    assert_eq!(Vec::from_iter(found.others), ["Deployment"]);
    let calico = "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: c}\n";
    let found = policies_among("web.yaml", calico, "default").unwrap();
    assert_eq!((found.policies.len(), found.others.len()), (0, 1));
    let none = "apiVersion: v1\nkind: List\nitems: []\n";
    let found = policies_among("web.yaml", none, "default").unwrap();
    assert!(found.policies.is_empty() && found.says_none);
    // A policy that is not valid, one of another version, and an object without a kind are mistakes as ever.
    for text in [
        with_spec("{podSelecter: {}}"),
        with_spec("{}").replace("networking.k8s.io/v1", "networking.k8s.io/v2"),
        "metadata: {name: web}\n".to_owned(),
    ] {
        let found = policies_among("web.yaml", &(text + DEPLOYMENT), "default");
        assert_eq!(found.unwrap_err().0.len(), 1);
    }
}

#[test]
fn of_a_folder_of_manifests_the_objects_of_a_cluster_are_read() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\n";
    let text = format!("{pod}{DEPLOYMENT}");
    assert!(objects("all.yaml", &text).is_err());
    assert_eq!(objects_among("all.yaml", &text).unwrap().pods.len(), 1);
    assert_eq!(objects_among("all.yaml", DEPLOYMENT).unwrap().pods.len(), 0);
    let twice = format!("{text}---\n{pod}");
    assert!(objects_among("all.yaml", &twice).is_err());
}

#[test]
fn a_document_without_a_kind_or_a_version_is_named_without_them() {
    const EXPECTED: &str = "expected `NetworkPolicy` of `networking.k8s.io/v1`";
    for (text, expected) in [
        ("metadata: {name: a}", "document 1 (a), kind: missing; "),
        (
            "kind: ''\nmetadata: {name: a, namespace: ''}",
            "document 1 (a), kind: missing; ",
        ),
        (
            "kind: NetworkPolicy\nmetadata: {name: a, namespace: x}",
            "document 1 (NetworkPolicy x/a), apiVersion: missing; ",
        ),
        (
            "kind: [Pod]\nmetadata: {name: a}",
            "document 1 (a), kind: expected a string, found a list; ",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: []}]",
            "document 1, items[0], kind: `List` of `v1`; ",
        ),
    ] {
        assert_eq!(
            errors(text),
            [format!("web.yaml, {expected}{EXPECTED}")],
            "{text}"
        );
    }
    let error = objects("pods.yaml", "metadata: {name: a}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "pods.yaml, document 1 (a), kind: missing; expected Pod, Namespace, Service or Node of `v1`"
    );
    let error = objects("pods.yaml", "kind: SecretList\nitems: []").unwrap_err();
    assert_eq!(
        error.to_string(),
        "pods.yaml, document 1, kind: an empty `SecretList` without `apiVersion`; expected Pod, Namespace, Service or Node of `v1`"
    );
}

/// Wherever it stands in a file, a text of any length is in a message up to a bound.
#[test]
fn a_message_has_the_beginning_of_a_long_text() {
    let long = "x".repeat(1 << 20) + "!";
    let policy = |metadata: &str, spec: &str| {
        format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {metadata}\nspec: {spec}\n")
    };
    let with = |spec: String| policy("{name: p}", &spec);
    let policies_of = |text: &str| policies("web.yaml", text, "default").map(|_| ());
    let objects_of = |text: &str| objects("pods.yaml", text).map(|_| ());
    let mut found = Vec::new();
    for text in [
        with(format!("{{podSelector: {{matchLabels: {{a: '{long}'}}}}}}")),
        with(format!("{{podSelector: {{matchLabels: {{'{long}': a}}}}}}")),
        with(format!("{{'{long}': a}}")),
        with(format!("{{podSelector: '{long}'}}")),
        with(format!("{{policyTypes: ['{long}']}}")),
        with(format!(
            "{{podSelector: {{}}, ingress: [{{ports: [{{port: '{long}'}}]}}]}}"
        )),
        with(format!(
            "{{podSelector: {{}}, ingress: [{{ports: [{{protocol: '{long}'}}]}}]}}"
        )),
        with(format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {{cidr: '{long}'}}}}]}}]}}"
        )),
        with(format!(
            "{{podSelector: {{matchExpressions: [{{key: a, operator: '{long}'}}]}}}}"
        )),
        with(format!("{{a: &{long} 1, b: *{long}b}}")),
        with(format!("{{'{long}': 1, '{long}': 2}}")),
        policy(&format!("{{name: '{long}'}}"), "{}"),
        policy(&format!("{{generateName: '{long}'}}"), "{}"),
        policy(&format!("{{name: p, namespace: '{long}'}}"), "{}"),
        policy(&format!("{{name: p, annotations: {{'{long}': a}}}}"), "{}"),
        policy(&format!("{{name: p, creationTimestamp: '{long}'}}"), "{}"),
        format!("kind: '{long}'\napiVersion: '{long}'\nmetadata: {{name: '{long}', namespace: '{long}'}}"),
        format!("kind: '{long}List'\napiVersion: '{long}'\nitems: []"),
        format!("a: [{long}"),
    ] {
        found.push(policies_of(&text));
        found.push(objects_of(
            &text
                .replace("networking.k8s.io/", "")
                .replace("NetworkPolicy", "Pod"),
        ));
    }
    let pod = format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: '{long}', namespace: '{long}'}}\n");
    found.push(objects_of(&format!("{pod}{pod}")));
    found.push(objects_of(&format!("{pod}status: {{podIP: '{long}'}}")));
    let mut refused = 0;
    for error in found.into_iter().filter_map(Result::err) {
        let message = error.to_string();
        assert!(
            message.len() < 8_000,
            "{} bytes: {}",
            message.len(),
            &message[..2_000]
        );
        refused += 1;
    }
    assert!(refused > 20, "{refused}");
    // And as many mistakes as a reader looks at.
    let keys: Vec<_> = (0..1_000).map(|index| format!("k{index}: 1")).collect();
    let error = policies_of(&with(format!("{{{}}}", keys.join(", ")))).unwrap_err();
    assert_eq!(error.0.len(), 1_000);
    let message = error.to_string();
    assert_eq!(message.lines().count(), 101, "{message}");
    assert!(message.ends_with("\nand 900 more mistakes"), "{message}");
}
