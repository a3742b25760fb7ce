//! The generated references are what the code says. `make references` writes them anew.

use std::fmt::Write as _;
use std::path::Path;

use flowtap_pipeline::FamilyKind;
use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::catalog::{Definition, FAMILIES};

use crate::daemon::{Daemon, flowtap, read};
use crate::require;

/// Compares the file `name` with what it should be, or writes it.
fn check(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("FLOWTAP_UPDATE_REFERENCES").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    assert!(
        read(&path) == expected,
        "{name} is not what the code says: run `make references`"
    );
}

fn list(labels: &[Label]) -> String {
    let names: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn describe(text: &mut String, definition: &Definition) {
    let family = &definition.family;
    let kind = match family.kind {
        FamilyKind::Counter => "counter".to_owned(),
        FamilyKind::Gauge => "gauge".to_owned(),
        FamilyKind::Histogram(bounds) => {
            let bounds: Vec<_> = bounds.iter().map(ToString::to_string).collect();
            format!("histogram, buckets {}", bounds.join(", "))
        }
    };
    let more: Vec<_> = definition
        .more
        .iter()
        .chain(definition.details)
        .copied()
        .collect();
    writeln!(
        text,
        "## `{}`\n\n{}\n\n- type: {kind}\n- unit: `{}`\n- by `naming: otel`: `{}`, unit `{}`\n- labels: {}\n- optional labels: {}\n",
        family.name,
        family.help,
        family.unit,
        definition.otel.name,
        definition.otel.unit,
        list(definition.labels),
        list(&more)
    )
    .unwrap();
}

#[test]
fn the_metrics_reference_is_what_the_code_says() {
    let mut text = String::from(
        "# Metrics\n\n\
         Generated from the code by `make references`: do not edit.\n\n\
         Metrics of the processor `window`. Each name is preceded by the exporter's `namespace` and an underscore, `primus_lens_` by default.\n\
         The config selects labels, `processors.window.families.<name>.labels`; series are summed over omitted labels,\n\
         and `enabled: false` disables the whole metric. With `processors.window.naming: otel` names are those of\n\
         OpenTelemetry's semantic conventions, without a namespace; in Prometheus with underscores for dots, followed by the unit\n\
         and, for a counter, `_total`. Ports and ids are integers there, and unknown values are omitted.\n\n\
         | label | by `naming: otel` | value |\n|---|---|---|\n",
    );
    for (label, value) in [
        ("raddr", "the peer's address"),
        ("rport", "the peer's port"),
        ("laddr", "this side's address"),
        ("lport", "this side's port"),
        (
            "direction",
            "`outbound` for what this side sent, `inbound` for what it received; by `naming: otel` `transmit` and `receive`",
        ),
        (
            "type",
            "class of the peer's address, from the processor `policy`; of events: `tcpflow`, `tcpconn`",
        ),
        (
            "flow",
            "`ingress` if this side serves, `egress` if it is the client",
        ),
        ("event", "`opened`, `closed`, `failed`, `reset`"),
        (
            "reason",
            "`refused`, `timed_out`, `unreachable`, `reset`, `no_local_port`, `aborted` (by the application), `other`",
        ),
        (
            "role_source",
            "what `flow` rests on: `handshake`, `counters`, `listener`, `ports`, `assumed`",
        ),
        ("netns", "inode number of the network namespace"),
        (
            "pid",
            "process id in the initial pid namespace; empty if not known",
        ),
        (
            "comm",
            "name of the process, which it chooses itself; control characters as `\\xNN`, what is not UTF-8 as U+FFFD; empty if not known",
        ),
        (
            "cgroup_id",
            "cgroup v2 id of the process: the inode number of the cgroup's directory; empty if not known",
        ),
        (
            "container_id",
            "id of its container, or its name (LXC, systemd-nspawn), from the path of the cgroup; empty if not in one",
        ),
        (
            "peer_namespace",
            "the peer's Kubernetes namespace, from the processor `kubernetes`; empty if not known",
        ),
        ("peer_pod", "the peer's pod"),
        (
            "peer_workload",
            "what owns the peer's pod, such as `Deployment/web`",
        ),
        ("peer_service", "the peer, as a service"),
        ("peer_node", "the peer's node"),
        ("namespace", "this side's Kubernetes namespace"),
        ("pod", "this side's pod"),
        ("workload", "what owns this side's pod"),
        ("network_type", "`ipv4` or `ipv6`"),
    ] {
        // The types of peers and of events share a name.
        let known = FAMILIES.iter().flat_map(Definition::possible);
        let otel = known
            .filter(|known| known.name() == label)
            .min()
            .unwrap()
            .otel_name();
        writeln!(text, "| `{label}` | `{otel}` | {value} |").unwrap();
    }
    text.push('\n');
    for definition in &FAMILIES {
        describe(&mut text, definition);
        for label in definition.possible() {
            assert!(
                text.contains(&format!("| `{label}` |")),
                "{label} is not explained"
            );
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    check("docs/metrics.md", &text);
}

#[test]
fn the_schema_of_the_config_is_what_the_code_says() {
    let output = flowtap().arg("schema").output().unwrap();
    assert!(output.status.success());
    check(
        "config/flowtap.schema.json",
        &String::from_utf8(output.stdout).unwrap(),
    );
}

#[test]
fn every_metric_that_the_daemon_has_of_itself_is_on_its_page() {
    let Some(_machine) = require::root() else {
        return;
    };
    let page = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/self-metrics.md"));
    let daemon = Daemon::start(&[]);
    for sample in &daemon.telemetry().0 {
        assert!(
            page.contains(&format!("`{}`", sample.name)),
            "`{}` is not documented",
            sample.name
        );
    }
}
