//! Sections of help and man pages on the environment, exit codes, files and signals.

use std::fmt::Write as _;

/// A term and its explanation.
type Entry = (&'static str, &'static str);

/// Every environment variable that flowtap reads.
const ENVIRONMENT: &[Entry] = &[
    ("FLOWTAP_CONFIG", "Config file, in place of --config"),
    (
        "FLOWTAP_SECTION__KEY",
        "One key of the config, with two underscores between its parts: FLOWTAP_RECEIVERS__EBPF__INTERVAL=1s; --set takes precedence over it",
    ),
    (
        "FLOWTAP_LOG",
        "Log level or filter, in place of service.telemetry.logs.level: debug, or flowtap_receivers=debug,info",
    ),
    (
        "NODE_NAME",
        "Name of the Kubernetes node, for the attribute k8s.node.name",
    ),
    (
        "OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME",
        "Attributes of this flowtap in everything that it exports; service.telemetry.resource takes precedence over them",
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "Collector of the exporter otlp; without a config one of the first two makes flowtap push there as well",
    ),
    (
        "OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_COMPRESSION, OTEL_EXPORTER_OTLP_TIMEOUT",
        "Its protocol (grpc, http/protobuf, http/json), headers, compression and time-out in milliseconds",
    ),
    (
        "OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "Its TLS files",
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "cumulative, delta or lowmemory",
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_*",
        "Each of these for metrics alone; takes precedence over the one without METRICS",
    ),
    (
        "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY",
        "Proxies of exporters that push",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "Certificate authorities, in place of the system's",
    ),
    (
        "KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT, KUBERNETES_SERVICE_PORT_HTTPS, KUBECONFIG",
        "Address of the Kubernetes API, unless service.kubernetes names another",
    ),
    (
        "AWS_*, AZURE_*, GOOGLE_*",
        "Credentials and region of the exporter file's upload, by the names that the providers' own programs read; its credentials take precedence over them",
    ),
    ("NOTIFY_SOCKET", "Set by systemd, for services of Type=notify"),
    ("NO_COLOR", "No colours in error messages"),
];

/// Exit codes.
const EXIT_STATUS: &[Entry] = &[
    ("0", "Success"),
    (
        "1",
        "A check found something, or could not finish: classify --diff, policy check, policy diff; policy suggest has nothing to suggest",
    ),
    ("2", "The arguments of policy are wrong"),
    ("64", "The arguments are wrong"),
    ("65", "An input file is malformed"),
    ("66", "An input file can't be read"),
    (
        "69",
        "This machine or its kernel can't do it; of findings and top, no daemon answers",
    ),
    ("70", "A bug in flowtap, or a failed component"),
    ("71", "A basic system call failed, or too few files may be open"),
    ("73", "A file can't be written"),
    (
        "75",
        "A temporary failure, such as a port in use, or a stop before everything was exported",
    ),
    ("77", "A privilege is missing"),
    ("78", "The config is wrong"),
];

/// Files.
const FILES: &[Entry] = &[
    (
        "/etc/flowtap/flowtap.yaml",
        "The config of the packages' service; other runs have the one that --config names, or the defaults",
    ),
    (
        "/var/lib/flowtap",
        "State of the packages' service: queues on disk, exported files",
    ),
];

/// Signals.
const SIGNALS: &[Entry] = &[
    (
        "SIGTERM, SIGINT",
        "Export what is left and stop, within service.shutdown_timeout; a second one stops at once",
    ),
    ("SIGHUP", "Read the config again, as a changed file does"),
];

const SECTIONS: [(&str, &[Entry]); 4] = [
    ("ENVIRONMENT", ENVIRONMENT),
    ("EXIT STATUS", EXIT_STATUS),
    ("FILES", FILES),
    ("SIGNALS", SIGNALS),
];

/// The sections below the options in `flowtap run --help`.
pub(crate) fn help() -> String {
    let mut text = String::new();
    for (title, entries) in SECTIONS {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{title}");
        for (term, explanation) in entries {
            let _ = writeln!(text, "  {term}\n          {explanation}");
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// The same for man pages, in roff.
pub(crate) fn roff() -> String {
    let escape = |text: &str| text.replace('\\', "\\e").replace('-', "\\-");
    let mut text = String::new();
    for (title, entries) in SECTIONS {
        let _ = writeln!(text, ".SH {title}");
        for (term, explanation) in entries {
            let _ = writeln!(text, ".TP\n\\fB{}\\fR\n{}", escape(term), escape(explanation));
        }
    }
    text
}
