//! The generated references are what the code says. `make references` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use flowtap_pipeline::catalog::{Definition, FAMILIES, Label};
use flowtap_pipeline::{DROP_KINDS, DropKind, FamilyKind, LogField, Naming};

use crate::daemon::{Daemon, flowtap, read};
use crate::require;
use crate::structure::sources;

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
        FamilyKind::Counter => "counter",
        FamilyKind::Gauge | FamilyKind::UpDownCounter => "gauge",
        FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => "histogram",
    };
    let buckets = |kind: FamilyKind| match kind {
        FamilyKind::Histogram(bounds) => {
            let bounds: Vec<_> = bounds.iter().map(ToString::to_string).collect();
            format!(", buckets {}", bounds.join(", "))
        }
        _ => String::new(),
    };
    let primus_lens = match definition.only {
        Some(Naming::Otel) => "not available".to_owned(),
        _ => format!(
            "`{}`, unit `{}`{}",
            family.name,
            family.unit.as_str(),
            buckets(family.kind)
        ),
    };
    let otel = if definition.is_of(Naming::Otel) {
        let otel = &definition.otel;
        format!(
            "`{}`, unit `{}`{}",
            otel.name,
            otel.unit.as_str(),
            buckets(otel.kind)
        )
    } else {
        let udp = definition.family.name.contains("_udp_");
        let merged = if udp { "network_udp_io" } else { "network_tcp_io" };
        format!("not available; see `{merged}`")
    };
    let exposed = if definition.enabled {
        "yes"
    } else {
        "no; `enabled: true` turns it on"
    };
    let more: Vec<_> = definition
        .more
        .iter()
        .chain(definition.details)
        .copied()
        .collect();
    writeln!(
        text,
        "## `{}`\n\n{}\n\n- type: {kind}\n- exposed by default: {exposed}\n- `naming: primus_lens`: {primus_lens}\n- `naming: otel`: {otel}\n- labels: {}\n- optional labels: {}\n",
        family.name,
        family.help,
        list(definition.labels),
        list(&more)
    )
    .unwrap();
}

/// Labels with their values, in the order of the page.
const LABELS: &[(&str, &str)] = &[
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
    ("event", "`opened`, `closed`, `failed`, `reset`, `broken`"),
    (
        "reason",
        "`refused`, `timed_out`, `unreachable`, `reset`, `no_local_port`, `no_answer` (given up by the application after the retransmission time-out of the SYN, one second), `aborted` (given up before), `other`; of a dropped packet the kernel's reason ([drops.md](drops.md))",
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
        "what owns the peer's pod, such as `Deployment/web` or `CronJob/backup`",
    ),
    ("peer_service", "the peer, as a service"),
    ("peer_node", "the peer's node"),
    ("local_namespace", "this side's Kubernetes namespace"),
    ("local_pod", "this side's pod"),
    ("local_workload", "what owns this side's pod"),
    (
        "peer_network",
        "name of the network that the peer is in, from the processor `attributes`; empty if it is in none",
    ),
    (
        "peer_asn",
        "number of the peer's autonomous system, from the processor `geoip`; empty if not known",
    ),
    ("peer_as_org", "organisation that operates it"),
    ("peer_country", "country of the peer's address, as a code: `DE`"),
    (
        "backend",
        "the address that the peer really has: the pod behind a service address, or the client behind a masquerade; empty if none is known ([translation.md](translation.md))",
    ),
    (
        "backend_port",
        "the port of the pod behind a service address; empty for clients",
    ),
    (
        "hop",
        "part of a connection in the way through a proxy: `to_proxy`, `from_application`, `at_proxy`, `loopback`; empty for any other ([translation.md](translation.md#hops))",
    ),
    (
        "local_zone",
        "topology zone of this side's node, from the processor `kubernetes`; empty if not known",
    ),
    ("peer_zone", "topology zone of the peer's node"),
    ("server_port", "port of the side that serves, whichever that is"),
    ("network_type", "`ipv4` or `ipv6`"),
    (
        "limit",
        "what the sender waited for: `network`, `answer`, `receiver`, `buffer`, `application` ([concepts](concepts.md#limits-of-a-connection))",
    ),
    (
        "queue",
        "`unsent` and `unacked` of this side's sending, `unread` of its receiving",
    ),
    (
        "reset_by",
        "the side that reset the connection: `local` or `remote`; empty for other events, and where it is not seen",
    ),
    (
        "kind",
        "of a dropped packet: `policy`, `full`, `nobody`, `broken` (loss), `tcp`, `end` (no loss), `other` ([drops.md](drops.md))",
    ),
    ("app", "application protocol of a UDP flow: `quic`, or empty"),
    (
        "icmp_type",
        "type of an ICMP message, such as `destination_unreachable`",
    ),
    (
        "qtype",
        "type of a DNS question, such as `AAAA`; `other` for types that resolvers do not ask for",
    ),
    (
        "rcode",
        "response code of a DNS answer, such as `NXDOMAIN`; `timeout` without an answer, `multicast`, `other`",
    ),
    (
        "qname",
        "name of a DNS question, as configured by `receivers.ebpf.dns.names` ([dns.md](dns.md#names))",
    ),
    (
        "peer_name",
        "name of the peer's address, from the processor `names`; empty if not known",
    ),
    ("peer_name_source", "source of `peer_name`: `dns` or `hosts`"),
    (
        "finding",
        "kind of a finding of the processor `watch` ([findings.md](findings.md))",
    ),
    (
        "policy_rule",
        "list and range that decided the class: `internal_hosts 10.0.0.0/8`; empty if none did. With `processors.policy.rules`",
    ),
    (
        "device",
        "name of an RDMA device, as the kernel has it: `mlx5_0` ([rdma.md](rdma.md))",
    ),
    (
        "port",
        "port of an RDMA device; empty for what is of the device as a whole",
    ),
    (
        "counter",
        "name of a counter, as the driver of the device has it: `out_of_sequence`",
    ),
    (
        "qp_type",
        "type of a queue pair: `RC`, `UC`, `UD`, `GSI`, `SMI`, `RAW_PACKET`, `XRC_INI`, `XRC_TGT`, `DRIVER`",
    ),
    (
        "qp_state",
        "state of a queue pair: `RESET`, `INIT`, `RTR`, `RTS`, `SQD`, `SQE`, `ERR`",
    ),
    (
        "protocol",
        "application protocol of a TCP connection, such as `http`, `tls` or `redis`; `unknown`, or empty where its first bytes were not seen. With `inspect.protocols` ([inspect.md](inspect.md))",
    ),
    (
        "server_name",
        "name that the client of a TLS connection asks for; `other` beyond `max_names`, `invalid` if no host can have it. With `inspect.server_names`",
    ),
];

/// The end of the page of metrics: names of the same quantities in proposals.
const RELATED: &str = "
## Related conventions

Names of `naming: otel` begin with `flowtap.`, since no stable convention names these quantities. Two proposals name some of them:
OpenTelemetry's [semantic-conventions#3682](https://github.com/open-telemetry/semantic-conventions/issues/3682) (open; its names may change)
and gRPC's [A80](https://github.com/grpc/proposal/blob/master/A80-tcp-telemetry.md) (experimental):

| by `naming: otel` | semantic-conventions#3682 | gRPC A80 | difference |
|---|---|---|---|
| `flowtap.tcp.io`, transmit | | `grpc.tcp.bytes_sent` | payload bytes once each; A80 counts retransmitted ones again |
| `flowtap.tcp.rtt` | `system.network.tcp.rtt` | | once per interval of connections that moved bytes |
| `flowtap.tcp.min_rtt` | | `grpc.tcp.min_rtt` | none but the interval: the kernel's `tcpi_min_rtt` |
| `flowtap.tcp.segments`, transmit | | `grpc.tcp.packets_sent` | segments without payload included; A80 has `tcpi_data_segs_out` |
| `flowtap.tcp.retransmits` | `system.network.tcp.retransmits` | `grpc.tcp.packets_retransmitted` | without `network.tcp.retransmit.type` |
| `flowtap.tcp.connection.events`, opened | | `grpc.tcp.connections_created` | of all programs, in both roles |
| `flowtap.tcp.connection.events`, reset | `system.network.tcp.resets` | | with the optional label `reset_by`, without `network.tcp.reset.cause` |
| `flowtap.tcp.connection.active` | | `grpc.tcp.connection_count` | of all programs, in both roles |
| `flowtap.tcp.connect.duration` | `system.network.tcp.handshake.duration` | | of connections that this machine opened |
| `flowtap.tcp.connection.duration` | `system.network.tcp.connection.duration` | | from the adoption on for connections that were open before flowtap |

`flowtap.role` is `network.tcp.handshake.role` of that proposal, and `error.type` the same attribute with more values. flowtap has no equivalent of
`grpc.tcp.delivery_rate`, and none of A80's counts of system calls and times of writes.
";

#[test]
fn the_metrics_reference_is_what_the_code_says() {
    let mut text = String::from(
        "# Metrics\n\n\
         Generated from the code by `make references`: do not edit.\n\n\
         The metrics that the processor `window` computes. With the default `naming: primus_lens` each name is preceded by the\n\
         exporter's `namespace` and an underscore: `primus_lens_network_tcp_bytes`. With `naming: otel` names and labels follow\n\
         OpenTelemetry's semantic conventions, without a namespace; Prometheus shows underscores for dots, then the unit, then\n\
         `_total` for a counter. Ports and ids are integers there, and attributes whose value is unknown are absent.\n\n\
         `processors.window.families.<name>` configures one metric: `labels` (traffic is summed over a label that is left out),\n\
         `enabled`, and for a histogram `buckets`, up to 16 upper bounds in its unit. A config uses the names and labels of\n\
         `primus_lens` with either naming. Above `max_series`, new label combinations are counted in a series whose unbounded\n\
         labels are `other`; role, direction, class, event, reason, network type, limit, queue and kind keep their values.\n\n\
         | label | by `naming: otel` | value |\n|---|---|---|\n",
    );
    for (label, value) in LABELS {
        // The types of peers and of events share a name.
        let known = FAMILIES
            .iter()
            .flat_map(|definition| definition.possible(Naming::PrimusLens));
        let otel = known
            .filter(|known| known.name() == *label)
            .min()
            .unwrap()
            .otel_name();
        writeln!(text, "| `{label}` | `{otel}` | {value} |").unwrap();
    }
    text.push('\n');
    for definition in &FAMILIES {
        describe(&mut text, definition);
        for label in definition.possible(Naming::PrimusLens) {
            assert!(
                text.contains(&format!("| `{label}` |")),
                "{label} is not explained"
            );
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text.push_str(RELATED);
    check("docs/metrics.md", &text);
}

#[test]
fn the_page_of_drops_has_every_reason_with_its_kind() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/drops.md")).unwrap();
    for kind in DropKind::ALL {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", kind.as_str())));
        let shown: Vec<_> = row.unwrap().split('`').skip(3).step_by(2).collect();
        let patterns = DROP_KINDS.iter().filter(|(_, of)| *of == kind);
        let expected: Vec<_> = patterns.map(|(pattern, _)| *pattern).collect();
        assert_eq!(shown, expected, "{}", kind.as_str());
    }
}

#[test]
fn the_fields_of_flow_logs_are_on_their_page() {
    const NAME: &str = "docs/flow-logs.md";
    const BEGIN: &str = "<!-- fields, written by `make references` -->\n";
    const END: &str = "<!-- end of fields -->\n";
    let page = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(NAME));
    let (before, rest) = page.split_once(BEGIN).expect("the fields begin");
    let (_, after) = rest.split_once(END).expect("the fields end");
    let mut table = String::from("| attribute | column | type | meaning |\n|---|---|---|---|\n");
    for field in LogField::ALL {
        let (name, column, kind) = (field.name(), field.column(), field.value_type().as_str());
        writeln!(table, "| `{name}` | `{column}` | {kind} | {} |", field.help()).unwrap();
    }
    check(NAME, &format!("{before}{BEGIN}{table}{END}{after}"));
}

/// The part of docs/config.md before the lists of keys.
const CONFIG_HEAD: &str = "# Config

Generated from the code by `make references`: do not edit.

Every key of every component, with its default. A key whose default is `required` has to be given
where its component or section is used. A config has the sections `receivers`, `processors`,
`exporters`, `extensions` and `service`, in YAML or TOML. A component's id is its type, or
`type/name` for more than one of a type; a component runs only if a pipeline in `service.pipelines`
names it, an extension only if `service.extensions` does.
[config/default.yaml](../config/default.yaml) is the config that runs without a file, and
[config/examples](../config/examples) has others.

Layers are merged key by key, later ones over earlier ones: the defaults, files (`--config`, in
their order), the environment (`FLOWTAP_RECEIVERS__EBPF__INTERVAL=1s`),
`--set receivers.ebpf.interval=1s`. Lists are replaced, not merged. Defining any pipeline removes the
default one, `metrics`, unless it is among them. `${env:NAME}`, `${env:NAME:-default}` and
`${file:PATH}` are substituted in values of files and of `--set`; a dollar sign is `$$`. Values of
the environment are used as they are. Where a key wants text, the text of a number is used; where it
wants a number, list or mapping, the environment and `--set` are read as YAML.

Durations are written `500ms`, `5s`, `1m30s`, at most `100y`; sizes in bytes, or with a unit: `16MiB`, `4M`. Addresses to listen on are
`127.0.0.1:9464`, `[fe80::1%eth0]:9464`, `localhost:9464`, or `:9464` for every address; those to push to are URLs, or `host:port`. A
key without a value has its default. YAML may have anchors, aliases and merge keys (`<<: *name`); a top-level key that begins with `x-` is ignored, so that
anchors have a place. In TOML an id with a name needs quotes: `[exporters.'otlp/backup']`.

An unknown key that the OpenTelemetry Collector, Prometheus or Vector has is reported with flowtap's
equivalent. `flowtap validate` reports every mistake at once and lists the addresses and paths that
components use; `flowtap print-config` prints the merged layers. The files are read again on SIGHUP
and when one changes ([operations.md](operations.md#reloading-the-config)).
";

#[test]
fn the_config_reference_is_generated_from_the_schema() {
    let registry = flowtap::components::registry();
    let page = flowtap_config::reference::page(&registry, CONFIG_HEAD);
    check("docs/config.md", &page);
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

/// Endings that the exposition adds to the name of an instrument.
const ENDINGS: [&str; 9] = [
    "",
    "_total",
    "_bytes",
    "_bytes_total",
    "_seconds",
    "_seconds_total",
    "_bucket",
    "_seconds_bucket",
    "_ratio",
];

/// A daemon has only the metrics of the components that its config and its kernel let run; the sources have all.
#[test]
fn every_instrument_of_the_sources_is_on_the_page_of_own_metrics() {
    let page = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/self-metrics.md"));
    let mut names = BTreeSet::new();
    for folder in [
        "receivers/src",
        "processors/src",
        "exporters/src",
        "extensions/src",
        "pipeline",
        "src",
    ] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut |path| {
            names.extend(instruments(&read(path)));
        });
    }
    assert!(
        names.len() > 50,
        "the sources read otherwise than this: {names:?}"
    );
    let is_listed = |name: &&String| {
        let mut rows = ENDINGS
            .iter()
            .map(|ending| format!("| `flowtap_{name}{ending}` |"));
        rows.any(|row| page.contains(&row))
    };
    let missing: Vec<_> = names.iter().filter(|name| !is_listed(name)).collect();
    assert!(missing.is_empty(), "not in docs/self-metrics.md: {missing:?}");
}

/// Names of the instruments that a source file makes, up to its tests.
fn instruments(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let calls = ["counter(", "gauge(", "histogram("];
    let after = calls.iter().flat_map(|call| code.split(call).skip(1));
    let names = after.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split_once('"'));
    names.map(|(name, _)| name.to_owned()).collect()
}
