//! Spellings of other programs, each with the one that flowtap has: keys of the OpenTelemetry Collector and its SDKs, of
//! Prometheus, Vector, OBI and Beyla.
//!
//! A test compares the table with the real components: what it suggests exists, and what it explains does not.

use std::fmt;

/// Replacement of a spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    /// A key of the same mapping.
    Key(&'static str),
    /// A key of the same mapping, and how to write it.
    Written(&'static str, &'static str),
    /// A key elsewhere, from the top; `NAME` stands for any name.
    At(&'static str),
    /// No key; what to do instead.
    Note(&'static str),
}

use Meant::{At, Key, Note, Written};

/// A spelling of another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The program.
    pub of: &'static str,
    /// The mapping that it is in: keys joined by dots, of components their types, `*` for any.
    pub at: &'static str,
    /// The key.
    pub name: &'static str,
    /// Its replacement.
    pub meant: Meant,
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, name, .. } = self;
        match self.meant {
            Key(key) | At(key) if *of == OTHER => write!(f, "did you mean `{key}`?"),
            Key(key) | At(key) => write!(f, "did you mean `{key}`? {of} `{name}` is `{key}` here"),
            Note(note) | Written(_, note) => f.write_str(note),
        }
    }
}

const COLLECTOR: &str = "The Collector's";
const PROMETHEUS: &str = "Prometheus'";
const VECTOR: &str = "Vector's";
const OBI: &str = "OBI's";
/// More than one.
const OTHER: &str = "";

const SKIP_VERIFY: Meant =
    Note("certificates are always verified: name the authority of the peer's certificate in `ca_file`");
const PASSWORD_FILE: Meant = Written(
    "password",
    "write `password: ${file:/path}`: any value can come from a file",
);
const TOKEN_FILE: Meant = Written(
    "bearer_token",
    "write `bearer_token: ${file:/path}`: any value can come from a file",
);
const EXCLUDE: Meant = At("processors.filter.exclude");
const INTERFACES: Meant = Note(
    "flowtap counts in sockets, which belong to no interface; drop records by address, port or network namespace with the processor `filter`",
);
const NO_SAMPLING: Meant = Note("nothing is sampled: totals are exact; remove it");
const LABELS: Meant = At("processors.window.families.NAME.labels");
const WIRED: Meant = Note(
    "name the components of a pipeline in `service.pipelines.NAME.receivers`, `.processors` and `.exporters`",
);
const NO_BATCH: Meant = Note(
    "not needed: exporters send whole windows; `max_points_per_request` of `otlp` and `max_samples_per_send` of `remote_write` limit a request",
);
const MEMORY_LIMITER: Meant = At("service.memory_limiter");
const RESOURCE: Meant = At("service.telemetry.resource");
const HTTP: Meant = Note("use `otlp` with `protocol: http/protobuf`");
const BUCKETS: Meant = At("processors.window.families.NAME.buckets");

const fn alias(of: &'static str, at: &'static str, name: &'static str, meant: Meant) -> Alias {
    Alias { of, at, name, meant }
}

/// Every spelling that is known. Of those that match, the first counts.
pub const ALIASES: &[Alias] = &[
    // Sections.
    alias(VECTOR, "", "sources", Key("receivers")),
    alias(VECTOR, "", "transforms", Key("processors")),
    alias(VECTOR, "", "sinks", Key("exporters")),
    alias(VECTOR, "", "api", At("service.admin")),
    alias(VECTOR, "", "data_dir", At("exporters.otlp.storage.directory")),
    alias(OTHER, "", "inputs", Key("receivers")),
    alias(OTHER, "", "outputs", Key("exporters")),
    alias(
        COLLECTOR,
        "",
        "extensions",
        Note(
            "not supported: `health_check` is `service.admin`, `memory_limiter` is `service.memory_limiter`, `file_storage` is `exporters.otlp.storage`",
        ),
    ),
    alias(
        COLLECTOR,
        "",
        "connectors",
        Note("not supported: a pipeline ends in its exporters"),
    ),
    alias(COLLECTOR, "", "pipelines", At("service.pipelines")),
    alias(COLLECTOR, "", "telemetry", At("service.telemetry")),
    alias(
        PROMETHEUS,
        "",
        "global",
        Note(
            "intervals are `processors.window.interval` and `exporters.remote_write.interval`; `external_labels` are a key of `exporters.remote_write`",
        ),
    ),
    alias(
        PROMETHEUS,
        "",
        "scrape_configs",
        Note("flowtap is scraped, it does not scrape: `exporters.prometheus.endpoint` is where"),
    ),
    alias(PROMETHEUS, "", "remote_write", At("exporters.remote_write")),
    alias(
        PROMETHEUS,
        "",
        "external_labels",
        At("exporters.remote_write.external_labels"),
    ),
    alias(OBI, "", "otel_metrics_export", At("exporters.otlp")),
    alias(OBI, "", "prometheus_export", At("exporters.prometheus")),
    alias(OBI, "", "log_level", At("service.telemetry.logs.level")),
    alias(OBI, "", "attributes", LABELS),
    alias(OBI, "", "filter", EXCLUDE),
    alias(OTHER, "", "logging", At("service.telemetry.logs")),
    alias(OTHER, "", "log", At("service.telemetry.logs")),
    // The service.
    alias(
        COLLECTOR,
        "service",
        "extensions",
        Note(
            "not supported: `health_check` is `service.admin`, `memory_limiter` is `service.memory_limiter`, `file_storage` is `exporters.otlp.storage`",
        ),
    ),
    alias(COLLECTOR, "service", "logs", At("service.telemetry.logs")),
    alias(COLLECTOR, "service", "metrics", At("service.telemetry.metrics")),
    alias(
        COLLECTOR,
        "service.telemetry",
        "traces",
        Note("flowtap makes no traces; remove it"),
    ),
    alias(COLLECTOR, "service.telemetry.metrics", "address", Key("endpoint")),
    alias(
        COLLECTOR,
        "service.telemetry.metrics",
        "level",
        Note("its own metrics have no levels; remove it"),
    ),
    alias(
        COLLECTOR,
        "service.telemetry.metrics",
        "readers",
        Note("a pull reader is `endpoint`; a periodic one is an exporter, named in `exporters`"),
    ),
    alias(COLLECTOR, "service.telemetry.logs", "encoding", Key("format")),
    alias(
        COLLECTOR,
        "service.telemetry.logs",
        "output_paths",
        Note("logs go to standard error; remove it"),
    ),
    alias(
        COLLECTOR,
        "service.telemetry.logs",
        "development",
        Note("write `level: debug`"),
    ),
    alias(
        COLLECTOR,
        "service.telemetry.logs.sampling",
        "thereafter",
        Note("after `initial` messages the rest of the `tick` is counted, not written; remove it"),
    ),
    alias(
        COLLECTOR,
        "service.memory_limiter",
        "limit_percentage",
        Key("limit_mib"),
    ),
    alias(
        COLLECTOR,
        "service.memory_limiter",
        "spike_limit_percentage",
        Key("spike_limit_mib"),
    ),
    alias(OTHER, "service.admin", "address", Key("endpoint")),
    alias(OTHER, "service.admin", "port", Key("endpoint")),
    alias(
        COLLECTOR,
        "service.kubernetes",
        "auth_type",
        Note("the pod's service account is used, or `kubeconfig`; remove it"),
    ),
    alias(
        COLLECTOR,
        "service.kubernetes",
        "node_from_env_var",
        Key("node_name"),
    ),
    alias(OTHER, "service.kubernetes", "node", Key("node_name")),
    alias(COLLECTOR, "service.pipelines.*", "inputs", Key("receivers")),
    alias(VECTOR, "service.pipelines.*", "sources", Key("receivers")),
    alias(VECTOR, "service.pipelines.*", "sinks", Key("exporters")),
    // Component types.
    alias(OTHER, "receivers", "sockdiag", Key("sock_diag")),
    alias(OTHER, "receivers", "netlink", Key("sock_diag")),
    alias(OTHER, "receivers", "bpf", Key("ebpf")),
    alias(
        COLLECTOR,
        "receivers",
        "otlp",
        Note("flowtap takes no telemetry of others: its receivers measure this machine, such as `ebpf`"),
    ),
    alias(
        COLLECTOR,
        "receivers",
        "hostmetrics",
        Note("flowtap measures TCP flows alone: `ebpf`"),
    ),
    alias(
        COLLECTOR,
        "receivers",
        "prometheus",
        Note("flowtap is scraped, it does not scrape: `exporters.prometheus.endpoint` is where"),
    ),
    alias(COLLECTOR, "processors", "batch", NO_BATCH),
    alias(COLLECTOR, "processors", "memory_limiter", MEMORY_LIMITER),
    alias(COLLECTOR, "processors", "resource", RESOURCE),
    alias(
        COLLECTOR,
        "processors",
        "resourcedetection",
        Note("not needed: host and node are detected; more is in `service.telemetry.resource`"),
    ),
    alias(COLLECTOR, "processors", "k8sattributes", Key("kubernetes")),
    alias(COLLECTOR, "processors", "k8s_attributes", Key("kubernetes")),
    alias(COLLECTOR, "processors", "probabilistic_sampler", NO_SAMPLING),
    alias(VECTOR, "processors", "sample", NO_SAMPLING),
    alias(COLLECTOR, "processors", "metricstransform", Key("attributes")),
    alias(PROMETHEUS, "processors", "relabel", Key("attributes")),
    alias(OTHER, "processors", "enrich", Key("attributes")),
    alias(COLLECTOR, "processors", "transform", Key("attributes")),
    alias(
        COLLECTOR,
        "processors",
        "cumulativetodelta",
        Note("write `temporality: delta` in `exporters.otlp`"),
    ),
    alias(VECTOR, "processors", "remap", Key("attributes")),
    alias(VECTOR, "processors", "aggregate", Key("window")),
    alias(COLLECTOR, "exporters", "otlphttp", HTTP),
    alias(COLLECTOR, "exporters", "otlp_http", HTTP),
    alias(COLLECTOR, "exporters", "otlp_grpc", Key("otlp")),
    alias(
        COLLECTOR,
        "exporters",
        "prometheusremotewrite",
        Key("remote_write"),
    ),
    alias(
        VECTOR,
        "exporters",
        "prometheus_remote_write",
        Key("remote_write"),
    ),
    alias(VECTOR, "exporters", "prometheus_exporter", Key("prometheus")),
    alias(VECTOR, "exporters", "opentelemetry", Key("otlp")),
    alias(VECTOR, "exporters", "console", Key("debug")),
    alias(COLLECTOR, "exporters", "logging", Key("debug")),
    // Receivers.
    alias(PROMETHEUS, "receivers.*", "scrape_interval", Key("interval")),
    alias(COLLECTOR, "receivers.*", "collection_interval", Key("interval")),
    alias(VECTOR, "receivers.*", "scrape_interval_secs", Key("interval")),
    alias(
        OTHER,
        "receivers.ebpf",
        "ring_buffer_size",
        Key("ring_buffer_bytes"),
    ),
    alias(COLLECTOR, "receivers.ebpf", "root_path", Key("proc_root")),
    alias(OTHER, "receivers.ebpf", "procfs", Key("proc_root")),
    alias(OTHER, "receivers.ebpf", "sampling", NO_SAMPLING),
    alias(OTHER, "receivers.*", "interfaces", INTERFACES),
    alias(OTHER, "receivers.*", "exclude_interfaces", INTERFACES),
    alias(OTHER, "receivers.*", "exclude_ports", EXCLUDE),
    alias(OTHER, "receivers.*", "netns", At("processors.filter.include")),
    // Processors.
    alias(
        OTHER,
        "processors.window",
        "drop_labels",
        At("processors.attributes.drop"),
    ),
    alias(OTHER, "processors.window", "buckets", BUCKETS),
    alias(OTHER, "processors.window.families.*", "exclude", Key("labels")),
    alias(
        COLLECTOR,
        "processors.window",
        "cardinality_limit",
        Key("max_series"),
    ),
    alias(OTHER, "processors.window", "series_limit", Key("max_series")),
    alias(
        VECTOR,
        "processors.window",
        "expire_metrics_secs",
        Key("metric_expiration"),
    ),
    alias(OBI, "processors.window", "ttl", Key("metric_expiration")),
    alias(VECTOR, "processors.window", "interval_ms", Key("interval")),
    alias(
        PROMETHEUS,
        "processors.window",
        "metric_relabel_configs",
        At("processors.attributes.rename"),
    ),
    alias(
        OTHER,
        "processors.policy",
        "blacklist",
        Key("abnormal_black_list"),
    ),
    alias(
        OTHER,
        "processors.policy",
        "black_list",
        Key("abnormal_black_list"),
    ),
    alias(
        OTHER,
        "processors.policy",
        "whitelist",
        Key("abnormal_white_list"),
    ),
    alias(
        OTHER,
        "processors.policy",
        "white_list",
        Key("abnormal_white_list"),
    ),
    alias(
        OTHER,
        "processors.policy",
        "abnormal_blacklist",
        Key("abnormal_black_list"),
    ),
    alias(
        OTHER,
        "processors.policy",
        "abnormal_whitelist",
        Key("abnormal_white_list"),
    ),
    alias(OTHER, "processors.policy", "pod_cidrs", Key("k8s_pod")),
    alias(OTHER, "processors.policy", "service_cidrs", Key("k8s_svc")),
    alias(OTHER, "processors.policy", "internal", Key("internal_hosts")),
    alias(OBI, "processors.policy", "cidrs", Key("classes")),
    alias(
        COLLECTOR,
        "processors.kubernetes",
        "auth_type",
        Note("the cluster is set in `service.kubernetes`; no keys are available here"),
    ),
    alias(
        COLLECTOR,
        "processors.kubernetes",
        "extract",
        Note("choose labels in `processors.window.families.NAME.labels`; no keys are available here"),
    ),
    alias(
        COLLECTOR,
        "processors.kubernetes",
        "filter",
        Note("pods of this node are watched, and the ends of its flows; no keys are available here"),
    ),
    alias(
        OTHER,
        "processors.kubernetes",
        "namespaces",
        At("processors.filter.include"),
    ),
    alias(OTHER, "processors.kubernetes", "exclude_namespaces", EXCLUDE),
    // The processor `filter`.
    alias(COLLECTOR, "processors.filter", "metrics", EXCLUDE),
    alias(
        COLLECTOR,
        "processors.filter",
        "error_mode",
        Note("a matcher can't fail; remove it"),
    ),
    alias(VECTOR, "processors.filter", "condition", Key("include")),
    alias(OTHER, "processors.filter", "drop", Key("exclude")),
    alias(OTHER, "processors.filter", "keep", Key("include")),
    alias(OTHER, "processors.filter", "allow", Key("include")),
    alias(OTHER, "processors.filter", "deny", Key("exclude")),
    alias(OTHER, "processors.filter", "rules", Key("exclude")),
    alias(
        OTHER,
        "processors.filter",
        "exclude_self",
        Written("self", "write `self: exclude`"),
    ),
    alias(OTHER, "processors.filter.*.*", "raddr", Key("remote_address")),
    alias(
        OTHER,
        "processors.filter.*.*",
        "dst_address",
        Key("remote_address"),
    ),
    alias(
        OTHER,
        "processors.filter.*.*",
        "peer_address",
        Key("remote_address"),
    ),
    alias(OTHER, "processors.filter.*.*", "peer", Key("remote_address")),
    alias(OTHER, "processors.filter.*.*", "remote", Key("remote_address")),
    alias(OTHER, "processors.filter.*.*", "dst_ip", Key("remote_address")),
    alias(
        OTHER,
        "processors.filter.*.*",
        "remote_cidr",
        Key("remote_address"),
    ),
    alias(OTHER, "processors.filter.*.*", "laddr", Key("local_address")),
    alias(
        OTHER,
        "processors.filter.*.*",
        "src_address",
        Key("local_address"),
    ),
    alias(OTHER, "processors.filter.*.*", "local", Key("local_address")),
    alias(OTHER, "processors.filter.*.*", "src_ip", Key("local_address")),
    alias(OTHER, "processors.filter.*.*", "local_cidr", Key("local_address")),
    alias(OTHER, "processors.filter.*.*", "cidr", Key("address")),
    alias(OTHER, "processors.filter.*.*", "cidrs", Key("address")),
    alias(OTHER, "processors.filter.*.*", "ip", Key("address")),
    alias(OTHER, "processors.filter.*.*", "host", Key("address")),
    alias(OTHER, "processors.filter.*.*", "addr", Key("address")),
    alias(OTHER, "processors.filter.*.*", "network", Key("address")),
    alias(OTHER, "processors.filter.*.*", "rport", Key("remote_port")),
    alias(OTHER, "processors.filter.*.*", "dst_port", Key("remote_port")),
    alias(OTHER, "processors.filter.*.*", "peer_port", Key("remote_port")),
    alias(OTHER, "processors.filter.*.*", "lport", Key("local_port")),
    alias(OTHER, "processors.filter.*.*", "src_port", Key("local_port")),
    alias(OTHER, "processors.filter.*.*", "ports", Key("port")),
    alias(OTHER, "processors.filter.*.*", "service_port", Key("server_port")),
    alias(OTHER, "processors.filter.*.*", "type", Key("class")),
    alias(OTHER, "processors.filter.*.*", "classes", Key("class")),
    alias(OTHER, "processors.filter.*.*", "peer_class", Key("class")),
    alias(OTHER, "processors.filter.*.*", "flow", Key("role")),
    alias(OTHER, "processors.filter.*.*", "direction", Key("role")),
    alias(OTHER, "processors.filter.*.*", "kind", Key("role")),
    alias(OTHER, "processors.filter.*.*", "protocol", Key("transport")),
    alias(OTHER, "processors.filter.*.*", "proto", Key("transport")),
    alias(OTHER, "processors.filter.*.*", "network_namespace", Key("netns")),
    alias(OTHER, "processors.filter.*.*", "process", Key("comm")),
    alias(OTHER, "processors.filter.*.*", "process_name", Key("comm")),
    alias(OTHER, "processors.filter.*.*", "exe", Key("comm")),
    alias(OTHER, "processors.filter.*.*", "executable", Key("comm")),
    alias(OTHER, "processors.filter.*.*", "container", Key("container_id")),
    alias(OTHER, "processors.filter.*.*", "namespace", Key("peer_namespace")),
    alias(
        OTHER,
        "processors.filter.*.*",
        "k8s_namespace",
        Key("peer_namespace"),
    ),
    alias(OTHER, "processors.filter.*.*", "pod", Key("peer_pod")),
    alias(OTHER, "processors.filter.*.*", "workload", Key("peer_workload")),
    alias(OTHER, "processors.filter.*.*", "deployment", Key("peer_workload")),
    alias(OTHER, "processors.filter.*.*", "service", Key("peer_service")),
    alias(OTHER, "processors.filter.*.*", "node", Key("peer_node")),
    // The processor `attributes`.
    alias(
        COLLECTOR,
        "processors.attributes",
        "actions",
        Note("write `add: {NAME: VALUE}`, `rename: {LABEL: NAME}` and `drop: [LABEL]`"),
    ),
    alias(
        COLLECTOR,
        "processors.attributes",
        "include",
        At("processors.filter.include"),
    ),
    alias(
        COLLECTOR,
        "processors.attributes",
        "exclude",
        At("processors.filter.exclude"),
    ),
    alias(OTHER, "processors.attributes", "insert", Key("add")),
    alias(OTHER, "processors.attributes", "set", Key("add")),
    alias(OTHER, "processors.attributes", "labels", Key("add")),
    alias(OTHER, "processors.attributes", "constants", Key("add")),
    alias(OTHER, "processors.attributes", "static_labels", Key("add")),
    alias(OTHER, "processors.attributes", "delete", Key("drop")),
    alias(OTHER, "processors.attributes", "remove", Key("drop")),
    alias(OTHER, "processors.attributes", "labeldrop", Key("drop")),
    alias(OTHER, "processors.attributes", "drop_labels", Key("drop")),
    alias(OTHER, "processors.attributes", "labelmap", Key("rename")),
    alias(OTHER, "processors.attributes", "rename_labels", Key("rename")),
    alias(OTHER, "processors.attributes", "anonymize", Key("truncate")),
    alias(OTHER, "processors.attributes", "mask", Key("truncate")),
    alias(OTHER, "processors.attributes", "cidrs", Key("networks")),
    alias(OTHER, "processors.attributes", "subnets", Key("networks")),
    alias(OTHER, "processors.attributes", "names", Key("networks")),
    // The processor `geoip`, and budgets of families.
    alias(COLLECTOR, "processors.geoip", "providers", Key("databases")),
    alias(VECTOR, "processors.geoip", "path", Key("databases")),
    alias(OTHER, "processors.geoip", "database", Key("databases")),
    alias(OTHER, "processors.geoip", "files", Key("databases")),
    alias(
        VECTOR,
        "processors.geoip",
        "locale",
        Note("labels are numbers, codes and names of organisations, which no language changes; remove it"),
    ),
    alias(OTHER, "processors.window.families.*", "limit", Key("max_series")),
    alias(OTHER, "processors.window.families.*", "topk", Key("top")),
    alias(
        OTHER,
        "processors.window.families.*",
        "ttl",
        Key("metric_expiration"),
    ),
    alias(OTHER, "processors.window.families.*.top", "k", Key("n")),
    alias(OTHER, "processors.window.families.*.top", "limit", Key("n")),
    // The exporter `prometheus`.
    alias(
        PROMETHEUS,
        "exporters.prometheus",
        "listen_address",
        Key("endpoint"),
    ),
    alias(VECTOR, "exporters.prometheus", "address", Key("endpoint")),
    alias(OTHER, "exporters.prometheus", "listen", Key("endpoint")),
    alias(OBI, "exporters.prometheus", "port", Key("endpoint")),
    alias(OTHER, "exporters.prometheus", "host", Key("endpoint")),
    alias(COLLECTOR, "exporters.prometheus", "const_labels", Key("labels")),
    alias(
        PROMETHEUS,
        "exporters.prometheus",
        "external_labels",
        Key("labels"),
    ),
    alias(
        COLLECTOR,
        "exporters.prometheus",
        "send_timestamps",
        Key("timestamps"),
    ),
    alias(
        COLLECTOR,
        "exporters.prometheus",
        "metric_expiration",
        At("processors.window.metric_expiration"),
    ),
    alias(
        VECTOR,
        "exporters.prometheus",
        "flush_period_secs",
        At("processors.window.metric_expiration"),
    ),
    alias(
        COLLECTOR,
        "exporters.prometheus",
        "enable_open_metrics",
        Note("not needed: the scraper chooses the format; remove it"),
    ),
    alias(
        COLLECTOR,
        "exporters.prometheus",
        "add_metric_suffixes",
        Note("`processors.window.naming: otel` gives names with units and `_total`"),
    ),
    alias(
        COLLECTOR,
        "exporters.prometheus",
        "resource_to_telemetry_conversion",
        Key("labels"),
    ),
    alias(
        PROMETHEUS,
        "exporters.prometheus",
        "metrics_path",
        Note("the path is /metrics; remove it"),
    ),
    alias(
        OBI,
        "exporters.prometheus",
        "path",
        Note("the path is /metrics; remove it"),
    ),
    alias(OBI, "exporters.prometheus", "buckets", BUCKETS),
    alias(
        PROMETHEUS,
        "exporters.prometheus",
        "metric_relabel_configs",
        LABELS,
    ),
    alias(VECTOR, "exporters.*", "default_namespace", Key("namespace")),
    alias(OTHER, "exporters.*", "prefix", Key("namespace")),
    alias(OTHER, "exporters.*", "metric_prefix", Key("namespace")),
    // Exporters that push.
    alias(COLLECTOR, "exporters.*", "retry_on_failure", Key("retry")),
    alias(VECTOR, "exporters.*", "inputs", WIRED),
    alias(VECTOR, "exporters.*", "uri", Key("endpoint")),
    alias(PROMETHEUS, "exporters.remote_write", "url", Key("endpoint")),
    alias(
        PROMETHEUS,
        "exporters.remote_write",
        "remote_timeout",
        Key("timeout"),
    ),
    alias(
        PROMETHEUS,
        "exporters.remote_write",
        "queue_config",
        Key("sending_queue"),
    ),
    alias(
        COLLECTOR,
        "exporters.remote_write",
        "remote_write_queue",
        Key("sending_queue"),
    ),
    alias(
        PROMETHEUS,
        "exporters.remote_write",
        "write_relabel_configs",
        LABELS,
    ),
    alias(
        PROMETHEUS,
        "exporters.remote_write",
        "bearer_token_file",
        TOKEN_FILE,
    ),
    alias(
        PROMETHEUS,
        "exporters.remote_write",
        "authorization",
        Key("bearer_token"),
    ),
    alias(
        PROMETHEUS,
        "exporters.remote_write",
        "send_exemplars",
        Note("not supported; remove it"),
    ),
    alias(
        PROMETHEUS,
        "exporters.remote_write",
        "metadata_config",
        Note("metadata is part of `protobuf_message: io.prometheus.write.v2.Request`; remove it"),
    ),
    alias(
        COLLECTOR,
        "exporters.remote_write",
        "resource_to_telemetry_conversion",
        Key("resource_labels"),
    ),
    alias(
        COLLECTOR,
        "exporters.remote_write",
        "const_labels",
        Key("external_labels"),
    ),
    alias(OTHER, "exporters.remote_write", "labels", Key("external_labels")),
    alias(PROMETHEUS, "exporters.*", "tls_config", Key("tls")),
    alias(OTHER, "exporters.otlp", "url", Key("endpoint")),
    alias(OTHER, "exporters.otlp", "address", Key("endpoint")),
    alias(OTHER, "exporters.otlp", "host", Key("endpoint")),
    alias(COLLECTOR, "exporters.otlp", "encoding", Key("protocol")),
    alias(
        COLLECTOR,
        "exporters.otlp",
        "collection_interval",
        Key("interval"),
    ),
    alias(OTHER, "exporters.otlp", "export_interval", Key("interval")),
    alias(OTHER, "exporters.otlp", "flush_interval", Key("interval")),
    alias(
        COLLECTOR,
        "exporters.otlp",
        "aggregation_temporality",
        Key("temporality"),
    ),
    alias(COLLECTOR, "exporters.otlp", "resource", RESOURCE),
    alias(COLLECTOR, "exporters.otlp", "resource_attributes", RESOURCE),
    alias(COLLECTOR, "exporters.otlp", "auth", Key("headers")),
    alias(
        COLLECTOR,
        "exporters.otlp",
        "insecure",
        Note("set by the scheme of `endpoint`: `http://` is without TLS"),
    ),
    alias(COLLECTOR, "exporters.*", "batch", NO_BATCH),
    alias(COLLECTOR, "exporters.*", "memory_limiter", MEMORY_LIMITER),
    alias(VECTOR, "exporters.*", "buffer", Key("sending_queue")),
    alias(
        VECTOR,
        "exporters.*",
        "request",
        Note("`timeout`, `headers` and `retry` are keys of the exporter itself"),
    ),
    alias(
        VECTOR,
        "exporters.*",
        "healthcheck",
        Note("not needed: `/status` of `service.admin` has the state of each exporter; remove it"),
    ),
    alias(
        VECTOR,
        "exporters.*",
        "acknowledgements",
        Note("not needed; `storage` keeps requests until they are delivered"),
    ),
    alias(VECTOR, "exporters.*", "proxy", Key("proxy_url")),
    // Their parts.
    alias(COLLECTOR, "exporters.*.sending_queue", "queue_size", Key("size")),
    alias(VECTOR, "exporters.*.sending_queue", "max_events", Key("size")),
    alias(PROMETHEUS, "exporters.*.sending_queue", "capacity", Key("size")),
    alias(
        COLLECTOR,
        "exporters.*.sending_queue",
        "enabled",
        Note("there is always a queue; `size: 1` is the smallest"),
    ),
    alias(
        COLLECTOR,
        "exporters.*.sending_queue",
        "num_consumers",
        Note("requests are sent in order, one at a time; remove it"),
    ),
    alias(
        COLLECTOR,
        "exporters.*.sending_queue",
        "storage",
        At("exporters.otlp.storage"),
    ),
    alias(
        COLLECTOR,
        "exporters.*.sending_queue",
        "block_on_overflow",
        Note("write `when_full: block`"),
    ),
    alias(
        COLLECTOR,
        "exporters.*.tls",
        "insecure",
        Note("set by the scheme of `endpoint`: `http://` is without TLS"),
    ),
    alias(COLLECTOR, "exporters.*.tls", "insecure_skip_verify", SKIP_VERIFY),
    alias(VECTOR, "exporters.*.tls", "verify_certificate", SKIP_VERIFY),
    alias(
        COLLECTOR,
        "exporters.*.tls",
        "server_name_override",
        Key("server_name"),
    ),
    alias(VECTOR, "exporters.*.tls", "crt_file", Key("cert_file")),
    alias(OTHER, "exporters.*.tls", "certificate", Key("cert_file")),
    alias(OTHER, "exporters.*.tls", "key", Key("key_file")),
    alias(OTHER, "exporters.*.tls", "cert", Key("cert_file")),
    alias(OTHER, "exporters.otlp.tls", "ca", Key("ca_file")),
    alias(OTHER, "exporters.remote_write.tls", "ca", Key("ca_file")),
    alias(
        PROMETHEUS,
        "exporters.*.basic_auth",
        "password_file",
        PASSWORD_FILE,
    ),
    alias(
        PROMETHEUS,
        "exporters.*.basic_auth",
        "username_file",
        Written(
            "username",
            "write `username: ${file:/path}`: any value can come from a file",
        ),
    ),
    alias(VECTOR, "exporters.*.basic_auth", "user", Key("username")),
    alias(
        COLLECTOR,
        "exporters.*.retry",
        "randomization_factor",
        Note("waits are random already; remove it"),
    ),
    alias(
        COLLECTOR,
        "exporters.*.retry",
        "multiplier",
        Note("the wait doubles each time; remove it"),
    ),
    // The exporter `file`.
    alias(OTHER, "exporters.file", "filename", Key("path")),
    alias(OTHER, "exporters.file", "file", Key("path")),
    alias(OTHER, "exporters.file", "directory", Key("path")),
    alias(VECTOR, "exporters.file", "encoding", Key("format")),
    alias(
        COLLECTOR,
        "exporters.file.rotation",
        "max_megabytes",
        Key("max_bytes"),
    ),
    alias(COLLECTOR, "exporters.file.rotation", "max_days", Key("max_age")),
    alias(
        COLLECTOR,
        "exporters.file.rotation",
        "max_backups",
        Key("max_files"),
    ),
    // The exporter `debug`.
    alias(COLLECTOR, "exporters.debug", "sampling_initial", Key("sampling")),
    alias(
        COLLECTOR,
        "exporters.debug",
        "sampling_thereafter",
        Key("sampling"),
    ),
    alias(COLLECTOR, "exporters.debug", "loglevel", Key("verbosity")),
];

/// Words of other programs for a value, by the end of its key's path.
const WORDS: &[(&str, &str, &str)] = &[
    ("naming", "opentelemetry", "otel"),
    ("naming", "semconv", "otel"),
    ("naming", "prometheus", "primus_lens"),
    ("labels", "namespace", "local_namespace"),
    ("labels", "pod", "local_pod"),
    ("labels", "workload", "local_workload"),
    ("labels", "role", "flow"),
    ("labels", "class", "type"),
    ("labels", "process", "comm"),
    ("labels", "container", "container_id"),
    ("labels", "src_port", "lport"),
    ("labels", "dst_port", "rport"),
    ("labels", "network.peer.address", "raddr"),
    ("labels", "network.peer.port", "rport"),
    ("labels", "network.local.port", "lport"),
    ("labels", "server.port", "server_port"),
    ("labels", "network.io.direction", "direction"),
    ("labels", "flowtap.role", "flow"),
    ("labels", "flowtap.peer.class", "type"),
    ("labels", "k8s.namespace.name", "local_namespace"),
    ("labels", "k8s.pod.name", "local_pod"),
    ("labels", "process.executable.name", "comm"),
    ("labels", "container.id", "container_id"),
    ("protocol", "http", "http/protobuf"),
    ("protocol", "http_protobuf", "http/protobuf"),
    ("protocol", "http/proto", "http/protobuf"),
    ("protocol", "proto", "http/protobuf"),
    ("protocol", "json", "http/json"),
    ("protocol", "http_json", "http/json"),
    ("verbosity", "verbose", "detailed"),
    ("verbosity", "debug", "detailed"),
    ("format", "console", "text"),
    ("format", "logfmt", "text"),
    ("format", "jsonl", "json"),
    ("format", "ndjson", "json"),
    ("compression", "gz", "gzip"),
    ("when_full", "drop", "drop_oldest"),
    ("labels", "process", "comm"),
    ("labels", "executable", "comm"),
    ("labels", "class", "type"),
    ("labels", "role", "flow"),
    ("labels", "peer", "raddr"),
    ("labels", "peer_address", "raddr"),
    ("labels", "dst_address", "raddr"),
    ("labels", "peer_port", "rport"),
    ("labels", "dst_port", "rport"),
    ("labels", "src_address", "laddr"),
    ("labels", "src_port", "lport"),
    ("labels", "container", "container_id"),
    ("labels", "port", "server_port"),
    ("labels", "service_port", "server_port"),
    ("labels", "k8s_src_namespace", "namespace"),
    ("labels", "k8s_dst_namespace", "peer_namespace"),
];

/// The alias `name` in the mapping `at`, in which ids of components are types.
pub(crate) fn find<'a>(at: &[&str], name: &str) -> Option<&'a Alias> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    ALIASES
        .iter()
        .find(|alias| alias.name == name && matches(alias.at, at))
}

fn matches(pattern: &str, at: &[&str]) -> bool {
    let parts: Vec<_> = pattern.split('.').filter(|part| !part.is_empty()).collect();
    parts.len() == at.len() && parts.iter().zip(at).all(|(part, at)| *part == "*" || part == at)
}

/// The alias of a section.
pub(crate) fn section(name: &str) -> Option<&'static Alias> {
    find(&[], name)
}

/// The replacement of `word` as the value of the last of `keys`, without the indices.
pub(crate) fn word(key: &str, word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let mut words = WORDS.iter();
    words
        .find(|(of, other, _)| *of == key && *other == word)
        .map(|(_, _, meant)| *meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_found_by_its_place() {
        let meant = |at: &[&str], name| find(at, name).map(|alias| alias.meant);
        assert_eq!(meant(&[], "sinks"), Some(Key("exporters")));
        assert_eq!(
            meant(&["exporters", "otlp"], "retry-on-failure"),
            Some(Key("retry"))
        );
        assert_eq!(
            meant(&["exporters", "own", "sending_queue"], "queue_size"),
            Some(Key("size"))
        );
        assert_eq!(meant(&["exporters", "file"], "queue_size"), None);
        assert_eq!(word("naming", "OpenTelemetry"), Some("otel"));
    }

    #[test]
    fn none_is_there_twice() {
        let mut seen: Vec<_> = ALIASES.iter().map(|alias| (alias.at, alias.name)).collect();
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
        assert!(count >= 100, "{count}");
    }
}
