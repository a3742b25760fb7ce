//! The component types of this build, in one list.

use std::collections::BTreeMap;
use std::fmt::Write as _;

#[cfg(feature = "file")]
use flowtap_exporters::file;
#[cfg(feature = "ipfix")]
use flowtap_exporters::ipfix;
#[cfg(feature = "remote-write")]
use flowtap_exporters::remote_write;
use flowtap_exporters::{debug, otlp, prometheus};
use flowtap_extensions::health_check;
use flowtap_pipeline::{ComponentKind, Factory, Registry};
#[cfg(feature = "geoip")]
use flowtap_processors::geoip;
#[cfg(feature = "kubernetes")]
use flowtap_processors::kubernetes;
#[cfg(feature = "watch")]
use flowtap_processors::watch;
use flowtap_processors::{attributes, connections, direction, filter, names, policy, window};
#[cfg(feature = "generator")]
use flowtap_receivers::generator;
#[cfg(feature = "rdma")]
use flowtap_receivers::rdma;
#[cfg(feature = "analysis")]
use flowtap_receivers::replay;
use flowtap_receivers::{ebpf, sock_diag};

/// Registers the component type of a module in a build with its feature; in another one it is known by name, with that feature.
macro_rules! optional {
    ($registry:ident.$add:ident, $kind:ident, $feature:literal, $module:ident) => {
        #[cfg(feature = $feature)]
        let $registry = $registry.$add($module::FACTORY);
        #[cfg(not(feature = $feature))]
        let $registry = $registry.left_out(ComponentKind::$kind, stringify!($module), $feature);
    };
}

/// Every component type that comes with this build of flowtap; those of features that are off are known by name.
pub fn registry() -> Registry {
    let registry = Registry::new()
        .receiver(ebpf::FACTORY)
        .receiver(sock_diag::FACTORY)
        .processor(attributes::FACTORY)
        .processor(connections::FACTORY)
        .processor(direction::FACTORY)
        .processor(filter::FACTORY)
        .processor(names::FACTORY)
        .processor(policy::FACTORY)
        .processor(window::FACTORY)
        .exporter(debug::FACTORY)
        .exporter(otlp::FACTORY)
        .exporter(prometheus::FACTORY)
        .extension(health_check::FACTORY);
    optional!(registry.receiver, Receiver, "generator", generator);
    optional!(registry.receiver, Receiver, "rdma", rdma);
    optional!(registry.receiver, Receiver, "analysis", replay);
    optional!(registry.processor, Processor, "geoip", geoip);
    optional!(registry.processor, Processor, "kubernetes", kubernetes);
    optional!(registry.processor, Processor, "watch", watch);
    optional!(registry.exporter, Exporter, "file", file);
    optional!(registry.exporter, Exporter, "ipfix", ipfix);
    optional!(registry.exporter, Exporter, "remote-write", remote_write);
    registry
}

/// The list for `flowtap components`: a section per kind, a line per type; then those that this build was made without.
pub fn describe(registry: &Registry) -> String {
    let mut text = String::new();
    section(&mut text, ComponentKind::Receiver, registry.receivers());
    section(&mut text, ComponentKind::Processor, registry.processors());
    section(&mut text, ComponentKind::Exporter, registry.exporters());
    section(&mut text, ComponentKind::Extension, registry.extensions());
    let mut left_out = ComponentKind::ALL
        .into_iter()
        .flat_map(|kind| {
            registry
                .types_left_out(kind)
                .map(move |(name, feature)| (kind, name, feature))
        })
        .peekable();
    if left_out.peek().is_some() {
        text.push_str("not in this build:\n");
    }
    for (kind, name, feature) in left_out {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {name:<12} {kind}; cargo feature `{feature}`");
    }
    text
}

fn section<C: ?Sized>(text: &mut String, kind: ComponentKind, types: &BTreeMap<&'static str, Factory<C>>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{}:", kind.section());
    for factory in types.values() {
        let (name, stability) = (factory.type_name, factory.stability);
        let _ = writeln!(text, "  {name:<12} {stability:<6} {}", factory.summary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(set: &[&str]) -> Result<flowtap_config::Config, flowtap_config::ConfigErrors> {
        let layers = flowtap_config::Layers {
            set: set.iter().map(|&text| text.to_owned()).collect(),
            ..flowtap_config::Layers::default()
        };
        flowtap_config::load(&layers, &registry())
    }

    #[test]
    fn two_exporters_or_processors_on_one_place_are_an_error_with_both_keys() {
        let clash = |set: &[&str], key: &str, other: &str| {
            let errors = load(set).expect_err(key).to_string();
            assert!(errors.contains(&format!("{key}: ")), "{errors}");
            assert!(
                errors.contains(&format!("is already used by {other}")),
                "{errors}"
            );
        };
        let files = [
            "exporters.file.path=/x/flows",
            "service.pipelines.metrics.exporters=[file, file/b]",
        ];
        clash(
            &[&files[..], &["exporters.file/b.path=/x/flows/"]].concat(),
            "exporters.file/b.path",
            "exporters.file.path",
        );
        for free in ["/x/b", "/x/flows/b-{time}.jsonl"] {
            let set = format!("exporters.file/b.path={free}");
            let read = load(&[&files[..], &[&set]].concat());
            assert!(read.is_ok(), "{free}: {}", read.unwrap_err());
        }
        let parquet = [
            "exporters.file/b.path=/x/flows",
            "exporters.file/b.format=parquet",
        ];
        assert!(load(&[&files[..], &parquet].concat()).is_ok(), "other names");
        // Files of series and of log records have different names.
        let logs = [
            "exporters.file.path=/x/flows",
            "exporters.file/b.path=/x/flows",
            "service.pipelines.metrics.exporters=[file]",
            "processors.connections={}",
            "service.pipelines.logs={receivers: [ebpf], processors: [connections], exporters: [file/b]}",
        ];
        let read = load(&logs);
        assert!(read.is_ok(), "{}", read.unwrap_err());
        clash(
            &[
                "exporters.otlp.storage.directory=/x/queue",
                "exporters.remote_write={endpoint: 'http://127.0.0.1:1', storage: {directory: /x/./queue}}",
                "service.pipelines.metrics.exporters=[otlp, remote_write]",
            ],
            "exporters.remote_write.storage.directory",
            "exporters.otlp.storage.directory",
        );
        clash(
            &[
                "processors.watch.state_file=/x/watch.state",
                "processors.watch/b.state_file=/x/watch.state",
                "service.pipelines.metrics.processors=[direction, policy, watch, watch/b, window]",
            ],
            "processors.watch/b.state_file",
            "processors.watch.state_file",
        );
        // One id in both pipelines has a state for each.
        let read = load(&[
            "processors.watch.state_file=/x/watch.state",
            "processors.connections={}",
            "exporters.file.path=/x/flows",
            "service.pipelines.metrics.processors=[direction, policy, watch, window]",
            "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, watch, connections], exporters: [file]}",
        ]);
        assert!(read.is_ok(), "{}", read.unwrap_err());
    }

    #[test]
    fn every_type_has_its_line_with_its_stability() {
        let registry = registry();
        let text = describe(&registry);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let receivers = registry
            .receivers()
            .iter()
            .map(|(name, factory)| (name, factory.stability));
        let processors = registry
            .processors()
            .iter()
            .map(|(name, factory)| (name, factory.stability));
        let exporters = registry
            .exporters()
            .iter()
            .map(|(name, factory)| (name, factory.stability));
        let extensions = registry
            .extensions()
            .iter()
            .map(|(name, factory)| (name, factory.stability));
        for (name, stability) in receivers.chain(processors).chain(exporters).chain(extensions) {
            let line = lines.iter().find(|line| line.first() == Some(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in:\n{text}"));
            assert_eq!(line[1], stability.to_string(), "{line:?}");
        }
    }

    #[test]
    fn types_of_features_that_are_off_are_listed_with_the_feature() {
        let registry = registry().left_out(ComponentKind::Receiver, "hardware", "hardware-counters");
        let text = describe(&registry);
        let (there, left_out) = text.split_once("not in this build:\n").expect(&text);
        assert!(!there.contains("hardware"), "{text}");
        assert!(
            left_out.contains("  hardware     receiver; cargo feature `hardware-counters`\n"),
            "{text}"
        );
        // The same type is never in both parts.
        for line in left_out.lines() {
            let name = line.split_whitespace().next().expect(&text);
            assert!(!there.contains(&format!("  {name} ")), "{text}");
        }
    }

    #[test]
    fn the_default_pipeline_keeps_every_contract_without_a_warning() {
        assert_eq!(load(&[]).unwrap().warnings, []);
    }

    #[test]
    fn a_pipeline_without_direction_or_policy_is_warned_of_with_the_consequence() {
        let config = load(&["service.pipelines.metrics.processors=[window]"]).unwrap();
        let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), 2, "{warnings:#?}");
        for (warning, consequence, remedy) in [
            (
                &warnings[1],
                "peer is of class `unknown`",
                "put `policy` before `window`",
            ),
            (
                &warnings[0],
                "treated as one that this machine opened",
                "put `direction` before `window`",
            ),
        ] {
            assert!(
                warning.contains("service.pipelines.metrics.processors[0]"),
                "{warning}"
            );
            assert!(
                warning.contains(consequence) && warning.contains(remedy),
                "{warning}"
            );
        }
    }

    #[test]
    fn devices_have_no_peers_and_so_no_warning_about_them() {
        let devices = "service.pipelines.metrics/rdma={receivers: [rdma], processors: [window/rdma], exporters: [prometheus]}";
        let own = [
            "receivers.rdma={interval: 5s}",
            "processors.window/rdma={interval: 5s}",
            devices,
        ];
        assert_eq!(load(&own).unwrap().warnings, []);
        let both = "service.pipelines.metrics={receivers: [ebpf, rdma], processors: [window], exporters: [prometheus]}";
        assert_eq!(
            load(&["receivers.rdma={interval: 5s}", both])
                .unwrap()
                .warnings
                .len(),
            2
        );
    }

    #[test]
    fn dns_names_that_the_receiver_does_not_give_are_an_error_with_the_setting_or_a_warning() {
        let label = "processors.window.families.network_dns_queries.labels=[qname]";
        let errors = load(&[label]).unwrap_err().to_string();
        assert!(
            errors.contains("families.network_dns_queries.labels[0]"),
            "{errors}"
        );
        assert!(errors.contains("set `receivers.ebpf.dns.names`"), "{errors}");
        let full = "receivers.ebpf.dns.names=full";
        assert_eq!(load(&[label, full]).unwrap().warnings, []);
        let names = [
            "processors.names={}",
            "service.pipelines.metrics.processors=[direction, policy, names, window]",
        ];
        let warnings = load(&names).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].to_string().contains("set `receivers.ebpf.dns.names`"));
        assert_eq!(load(&[&names[..], &[full]].concat()).unwrap().warnings, []);
    }

    #[test]
    fn fields_that_are_asked_for_and_not_used_are_warned_of() {
        for (key, value, label) in [
            ("receivers.ebpf.dns.names", "full", "qname"),
            ("processors.policy.rules", "true", "policy_rule"),
        ] {
            let set = format!("{key}={value}");
            let warnings = load(&[&set]).unwrap().warnings;
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert_eq!(warnings[0].key, key);
            let warning = warnings[0].to_string();
            assert!(warning.contains(&format!("list `{label}`")), "{warning}");
            // Flow log records have them.
            let logs = [
                &*set,
                "processors.connections={dns: true}",
                "service.pipelines.logs.receivers=[ebpf]",
                "service.pipelines.logs.processors=[direction, policy, connections]",
                "service.pipelines.logs.exporters=[debug]",
                "exporters.debug={}",
            ];
            assert_eq!(load(&logs).unwrap().warnings, []);
        }
    }

    #[cfg(feature = "geoip")]
    #[test]
    fn a_label_that_a_processor_drops_is_one_that_no_metric_has() {
        let drops = |labels: &str, listed: &str| {
            unused(&[
                "processors.geoip={databases: [/nowhere/a.mmdb]}",
                &format!("processors.attributes.drop=[{labels}]"),
                &format!("processors.window.labels=[type, {listed}]"),
                "service.pipelines.metrics.processors=[direction, policy, attributes, geoip, window]",
            ])
        };
        let warnings = drops("peer_asn", "peer_asn");
        assert_eq!(warnings.len(), 1);
        let text = warnings[0].to_string();
        assert!(
            text.contains("hint: remove `peer_asn` from `processors.attributes.drop`"),
            "{text}"
        );
        assert_eq!(drops("peer_asn", "peer_asn, peer_country"), []);
        assert_eq!(drops("peer_asn, peer_country", "peer_asn, peer_country").len(), 1);
        assert_eq!(drops("rport", "peer_asn"), []);
    }

    #[test]
    fn processors_that_fill_the_same_have_one_warning_at_the_list_that_counts() {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        let list = "service:\n  pipelines:\n    metrics:\n      processors: [direction, policy, window]\n";
        std::fs::write(file.path(), list).unwrap();
        let layers = flowtap_config::Layers {
            files: vec![file.path().to_owned()],
            set: [
                "processors.names={sources: [hosts]}",
                "processors.names/2={sources: [hosts]}",
                "service.pipelines.metrics.processors=[direction, policy, names, names/2, window]",
            ]
            .map(str::to_owned)
            .to_vec(),
            ..flowtap_config::Layers::default()
        };
        let warnings = flowtap_config::load(&layers, &registry())
            .unwrap()
            .unused_processors();
        let [warning] = &*warnings else {
            panic!("{warnings:?}");
        };
        let text = warning.to_string();
        let place = "--set service.pipelines.metrics.processors: service.pipelines.metrics.processors[2]: ";
        assert!(text.starts_with(place), "{text}");
        assert!(
            text.contains("`names`, `names/2` fill the labels `peer_name`"),
            "{text}"
        );
    }

    fn unused(set: &[&str]) -> Vec<flowtap_config::Diagnostic> {
        load(set)
            .unwrap_or_else(|errors| panic!("{errors}"))
            .unused_processors()
    }

    #[test]
    fn a_processor_whose_labels_no_metric_has_is_warned_of_with_them_and_the_key_to_add() {
        let names = [
            "processors.names={sources: [hosts]}",
            "service.pipelines.metrics.processors=[direction, policy, names, window/own]",
            "processors.window/own={}",
        ];
        let warnings = unused(&names);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].key, "service.pipelines.metrics.processors[2]");
        let text = warnings[0].to_string();
        for words in [
            "`names` fills the labels `peer_name`, `peer_name_source`, and no metric of the pipeline `metrics` has",
            "in `processors.window/own.families.NAME.labels` of a metric, or in `processors.window/own.labels`",
        ] {
            assert!(text.contains(words), "{text}");
        }
        // null is not a list: the default labels stay.
        let with_null = unused(&[&names[..], &["processors.window/own.labels=null"]].concat());
        assert_eq!(with_null[0].help, warnings[0].help);
        let with_list = unused(&[&names[..], &["processors.window/own.labels=[type]"]].concat());
        let text = with_list[0].to_string();
        assert!(
            text.contains("hint: add one of them to `processors.window/own.labels`"),
            "{text}"
        );
        for used in [
            "processors.window/own.labels=[type, peer_name_source]",
            "processors.window/own.families.network_tcp_flow_egress.labels=[peer_name]",
        ] {
            assert_eq!(unused(&[&names[..], &[used]].concat()), [], "{used}");
        }
        // A metric that is not exposed has no labels.
        let off =
            "processors.window/own.families.network_tcp_flow_egress={enabled: false, labels: [peer_name]}";
        assert_eq!(unused(&[&names[..], &[off]].concat()).len(), 1);
        // Each pipeline is warned of; flow logs have all fields.
        let logs = [
            "exporters.debug={}",
            "processors.connections={}",
            "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, names, connections], exporters: [debug]}",
        ];
        assert_eq!(unused(&[&names[..], &logs].concat()).len(), 1);
    }

    #[test]
    fn changes_of_labels_that_only_log_records_would_have_are_warned_of_with_their_keys() {
        let only_logs = [
            "processors.attributes={add: {team: a}, rename: {raddr: peer}, drop: [role_source], networks: [{name: a, cidrs: [192.0.2.0/24]}]}",
            "processors.connections={}",
            "exporters.debug={}",
            "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, attributes, connections], exporters: [debug]}",
        ];
        let keys = |set: &[&str]| -> Vec<_> {
            let warnings = unused(set).into_iter();
            warnings.map(|warning| warning.key.clone()).collect()
        };
        assert_eq!(
            keys(&only_logs),
            [
                "processors.attributes.add",
                "processors.attributes.drop",
                "processors.attributes.rename"
            ]
        );
        let text = unused(&only_logs)[0].to_string();
        assert!(text.contains("has no effect on log records"), "{text}");
        // It changes the series of the other pipeline.
        let both = "service.pipelines.metrics.processors=[direction, policy, attributes, window]";
        let label = "processors.window.labels=[raddr, peer_network]";
        assert_eq!(keys(&[&only_logs[..], &[both, label]].concat()), [""; 0]);
    }

    #[test]
    fn processors_that_are_used_otherwise_than_by_labels_are_not_warned_of() {
        assert_eq!(unused(&[]), []);
        assert_eq!(unused(&["processors.window.labels=[comm]"]), []);
        let networks = [
            "processors.attributes.networks=[{name: a, cidrs: [192.0.2.0/24]}]",
            "service.pipelines.metrics.processors=[direction, policy, attributes, window]",
        ];
        let warnings = unused(&networks);
        assert!(
            warnings[0]
                .to_string()
                .contains("the label `peer_network`, and no metric of the pipeline `metrics` has it"),
            "{warnings:?}"
        );
        let shortens = [
            "processors.attributes.truncate={ipv4: 24}",
            "service.pipelines.metrics.processors=[direction, policy, attributes, window]",
        ];
        assert_eq!(unused(&shortens), []);
    }

    #[cfg(all(feature = "kubernetes", feature = "watch"))]
    #[test]
    fn names_of_a_cluster_are_used_by_labels_filters_and_findings() {
        let names = |processors: &str| {
            let list = format!("service.pipelines.metrics.processors=[direction, policy, {processors}]");
            let own = [
                "processors.kubernetes={}",
                "processors.watch={}",
                "processors.filter={exclude: [{peer_namespace: [kube-system]}]}",
                &list,
            ];
            unused(&own).len()
        };
        assert_eq!(names("kubernetes, window"), 1);
        assert_eq!(names("watch, kubernetes, window"), 1);
        assert_eq!(names("kubernetes, watch, window"), 0);
        assert_eq!(names("kubernetes, filter, window"), 0);
    }

    #[cfg(feature = "kubernetes")]
    #[test]
    fn names_that_no_watcher_keeps_are_warned_of() {
        let used = "processors.kubernetes={}";
        let names = "service.pipelines.metrics.processors=[direction, policy, kubernetes, window]";
        assert_eq!(load(&[used, names]).unwrap().warnings, []);
        let config = load(&[used, names, "service.kubernetes.enabled=false"]).unwrap();
        assert_eq!(config.warnings.len(), 1);
        assert_eq!(config.warnings[0].key, "service.kubernetes.enabled");
    }
}
