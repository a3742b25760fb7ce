//! Arguments, configs that are wrong, privileges that are missing: what is said, and the exit code.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek, Write};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::{flowtap, flowtap_of_nobody};
use crate::require;

fn run(arguments: &[&str]) -> Output {
    flowtap().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_arguments_flowtap_explains_itself_in_a_screen() {
    let output = run(&[]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    assert!(help.lines().count() <= 40, "{} lines", help.lines().count());
    assert!(
        help.contains("flowtap run") && help.contains("/metrics"),
        "{help}"
    );
}

#[test]
fn a_wrong_argument_is_a_usage_error() {
    assert_eq!(run(&["measure"]).status.code(), Some(64));
}

#[test]
fn the_version_and_the_components_are_printed() {
    assert_eq!(
        text(&run(&["--version"]).stdout),
        concat!("flowtap ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let components = text(&run(&["components"]).stdout);
    for name in [
        "ebpf",
        "direction",
        "policy",
        "window",
        "prometheus",
        "otlp",
        "debug",
    ] {
        assert!(components.contains(name), "no {name} in:\n{components}");
    }
}

/// Five faults of five kinds, each with the key and the line that the error must name.
const FAULTY_YAML: &str = "\
receivers:
  ebpf:
    intervall: 5s
processors:
  policy:
    internal_hosts: [10.0.0.0/8, 300.1.2.3/8]
  window:
    max_series: many
exporters:
  prometheus:
    endpoint: localhost
service:
  pipelines:
    metrics:
      receivers: [ebpf]
      processors: [policy, window]
      exporters: [prometheus, missing]
";

const FAULTY_TOML: &str = "\
[receivers.ebpf]
intervall = \"5s\"
[processors.policy]
internal_hosts = [\"10.0.0.0/8\", \"300.1.2.3/8\"]
[processors.window]
max_series = \"many\"
[exporters.prometheus]
endpoint = \"localhost\"
[service.pipelines.metrics]
receivers = [\"ebpf\"]
processors = [\"policy\", \"window\"]
exporters = [\"prometheus\", \"missing\"]
";

fn lists_all_faults(suffix: &str, config: &str, expected: [(&str, usize); 5]) {
    let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    file.write_all(config.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    for command in ["validate", "run"] {
        let output = run(&[command, "--config", path]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        for (key, line) in expected {
            let place = format!("{path}:{line}:");
            let told = said
                .lines()
                .any(|said| said.contains(&place) && said.contains(key));
            assert!(told, "{command} does not tell of {key} in line {line}:\n{said}");
        }
        // Shown in their lines, and without colours where no terminal is.
        assert!(said.contains("^^^^") && !said.contains('\u{1b}'), "{said}");
    }
}

#[test]
fn five_faults_in_a_yaml_file_are_reported_in_one_run_each_with_key_and_line() {
    let expected = [
        ("receivers.ebpf.intervall", 3),
        ("processors.policy.internal_hosts[1]", 6),
        ("processors.window.max_series", 8),
        ("exporters.prometheus.endpoint", 11),
        ("service.pipelines.metrics.exporters[1]", 17),
    ];
    lists_all_faults(".yaml", FAULTY_YAML, expected);
}

#[test]
fn five_faults_in_a_toml_file_are_reported_in_one_run_each_with_key_and_line() {
    let expected = [
        ("receivers.ebpf.intervall", 2),
        ("processors.policy.internal_hosts[1]", 4),
        ("processors.window.max_series", 6),
        ("exporters.prometheus.endpoint", 8),
        ("service.pipelines.metrics.exporters[1]", 12),
    ];
    lists_all_faults(".toml", FAULTY_TOML, expected);
}

#[test]
fn strictly_without_privileges_the_missing_capability_and_the_command_that_grants_it_are_reported() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut command = flowtap_of_nobody(dir.path());
    let output = command
        .args(["run", "--strict"])
        .args(ANY_PORTS)
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    let grant = format!(
        "setcap cap_bpf,cap_perfmon+ep {}",
        dir.path().join("flowtap").display()
    );
    for words in ["CAP_BPF", "CAP_PERFMON", &grant] {
        assert!(said.contains(words), "no {words} in:\n{said}");
    }
}

#[test]
fn hooks_of_cgroups_without_net_admin_name_it_and_the_command_that_grants_it() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("setpriv") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // The copy that everybody may run.
    drop(flowtap_of_nobody(dir.path()));
    let binary = dir.path().join("flowtap");
    let grant = format!("setcap cap_bpf,cap_perfmon,cap_net_admin+ep {}", binary.display());
    let run = |capabilities: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]);
        command.arg(&binary).arg("run").args(ANY_PORTS);
        command
            .args(["--strict", "--set", "receivers.ebpf.udp.hooks=cgroup"])
            .env_clear();
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(77), "{capabilities}: {said}");
        assert!(said.contains(&grant), "{capabilities}: no {grant} in:\n{said}");
        said
    };
    // With those of the README.
    let said = run("+bpf,+perfmon");
    assert!(said.contains("missing: CAP_NET_ADMIN\n"), "{said}");
    let said = run("-all");
    assert!(said.contains("CAP_BPF"), "{said}");
}

#[test]
fn a_state_file_that_another_flowtap_uses_is_named() {
    let Some(_machine) = require::root() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("watch.state");
    // As another process does: this test.
    let other = fs::File::create(folder.path().join("watch.state.lock")).unwrap();
    other.try_lock().unwrap();
    let output = flowtap()
        .arg("run")
        .args(ANY_PORTS)
        .args([
            "--set",
            "service.pipelines.metrics.processors=[direction, policy, watch, window]",
        ])
        .args([
            "--set",
            &format!("processors.watch.state_file={}", state.display()),
        ])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(75),
        "a restart may find it free: {said}"
    );
    let path = state.display().to_string();
    for words in [
        "state_file: another process uses",
        &path,
        "hint: stop the other flowtap",
    ] {
        assert!(said.contains(words), "no {words} in:\n{said}");
    }
    assert!(!state.exists());
}

#[test]
fn an_address_that_is_taken_is_named() {
    let Some(_machine) = require::root() else {
        return;
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let set = format!("exporters.prometheus.endpoint={address}");
    let output = flowtap()
        .arg("run")
        .args(ANY_PORTS)
        .args(["--set", &set])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(75),
        "a restart may find it free: {said}"
    );
    for words in [&*address, "exporters.prometheus.endpoint", "hint: ", "--set "] {
        assert!(said.contains(words), "no {words} in:\n{said}");
    }
    // Of documentation (RFC 5737): no machine has it, or not yet.
    let output = flowtap()
        .arg("run")
        .args(ANY_PORTS)
        .args(["--set", "service.admin.endpoint=192.0.2.77:13134"])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains("service.admin.endpoint: "), "{said}");
    let unit = fs::read_to_string("deploy/systemd/flowtap.service").unwrap();
    let prevented = unit
        .lines()
        .find_map(|line| line.strip_prefix("RestartPreventExitStatus="))
        .unwrap();
    assert!(!prevented.contains("75"), "systemd tries again: {prevented}");
}

#[test]
fn a_memory_limit_beyond_the_machines_memory_is_an_error_in_its_line() {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(b"service:\n  memory_limiter:\n    limit_mib: 999999999\n")
        .unwrap();
    let path = file.path().to_str().unwrap();
    for command in ["validate", "run"] {
        let output = run(&[command, "--config", path]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        let place = format!("{path}:3:5: service.memory_limiter.limit_mib: 999999999 MiB are more than ");
        assert!(said.contains(&place) && said.contains("hint: "), "{said}");
    }
}

#[test]
fn a_kubeconfig_that_cant_be_used_is_named_and_ends_the_start() {
    let output = flowtap()
        .args([
            "run",
            "--set",
            "service.kubernetes.kubeconfig=/nowhere/kubeconfig",
        ])
        .args(ANY_PORTS)
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("service.kubernetes: /nowhere/kubeconfig"), "{said}");
}

#[test]
fn invalid_resource_attributes_are_warned_of_by_validate_and_in_the_log_of_run() {
    let with = |value: &str, arguments: &[&str]| {
        let mut command = flowtap();
        command
            .env("OTEL_RESOURCE_ATTRIBUTES", value)
            .args(arguments)
            .args(ANY_PORTS);
        command.output().unwrap()
    };
    // Ends after the log is there.
    let run = [
        "run",
        "--set",
        "service.kubernetes.kubeconfig=/nowhere/kubeconfig",
    ];
    let fault =
        "OTEL_RESOURCE_ATTRIBUTES: `x` (pair 2 of 3) has no `=`: no attribute of the variable is used";
    let invalid = "service.name=a,x,k8s.cluster.name=blue";
    let said = text(&with(invalid, &["validate"]).stderr);
    assert!(said.contains(&format!("flowtap: warning: {fault}")), "{said}");
    let said = text(&with(invalid, &run).stderr);
    let logged = said
        .lines()
        .filter(|line| line.contains("WARN") && line.contains(fault));
    assert_eq!(logged.count(), 1, "{said}");
    for arguments in [&["validate"][..], &run] {
        let said = text(&with("service.name=a%2Cb,", arguments).stderr);
        assert!(!said.contains("OTEL_"), "{said}");
    }
}

#[test]
fn validate_refuses_a_log_filter_of_the_environment_as_run_does() {
    for filter in ["loud", "flowtap=debug,bogus=quiet"] {
        let ended = |command: &str| {
            let mut command_line = flowtap();
            command_line
                .env("FLOWTAP_LOG", filter)
                .arg(command)
                .args(ANY_PORTS);
            let output = command_line.output().unwrap();
            (output.status.code(), text(&output.stderr))
        };
        let (code, said) = ended("validate");
        assert_eq!(code, Some(78), "{said}");
        assert!(said.starts_with("flowtap: FLOWTAP_LOG: `"), "{said}");
        assert_eq!(ended("run"), (code, said));
    }
}

#[test]
fn standard_output_that_cant_be_written_is_named() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = flowtap().arg("schema").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(71));
    let said = text(&output.stderr);
    assert!(
        said.starts_with("flowtap: can't write to standard output: No space left on device"),
        "{said}"
    );
}

/// Standard error of `flowtap validate` with this file and these variables of a cluster. It succeeds.
fn warnings(path: &str, variables: &[(&str, &str)]) -> String {
    let mut command = flowtap();
    for name in ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    let output = command.args(["validate", "--config", path]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    text(&output.stderr)
}

#[test]
fn validate_warns_of_a_cluster_to_which_this_machine_has_no_way() {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let mut with = |text: &str| {
        file.as_file().set_len(0).unwrap();
        file.rewind().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.path().to_str().unwrap().to_owned()
    };
    let path = with("service:\n  kubernetes:\n    kubeconfig: /nowhere/kubeconfig\n");
    let said = warnings(&path, &[]);
    let place = format!(
        "{path}:3:5: service.kubernetes.kubeconfig: /nowhere/kubeconfig can't be used on this machine: No such file"
    );
    assert!(said.contains(&place), "{said}");
    assert!(said.contains("hint: correct it, or name a file"), "{said}");
    let path = with("service:\n  kubernetes:\n    kubeconfig: /nowhere/kubeconfig\n    enabled: false\n");
    assert_eq!(warnings(&path, &[]), "");

    let names = "processors:
  kubernetes:
  window: {families: {network_tcp_flow_egress: {labels: [peer_pod]}}}
service: {pipelines: {metrics: {processors: [direction, policy, kubernetes, window]}}}
";
    let path = with(names);
    let said = warnings(&path, &[]);
    let place = format!(
        "{path}:2:3: processors.kubernetes: uses names of a Kubernetes cluster, and this machine is in none"
    );
    assert!(said.contains(&place), "{said}");
    assert!(said.contains("hint: run flowtap in a pod"), "{said}");
    let said = warnings(&path, &[("KUBECONFIG", "/nowhere/kubeconfig")]);
    let named = "is null, and /nowhere/kubeconfig that $KUBECONFIG names can't be used on this machine";
    assert!(said.contains(named), "{said}");
    // Of a list, as kubectl reads it: what is missing is left out, and the others are merged.
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| folder.path().join(name).display().to_string();
    let context =
        "{apiVersion: v1, current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}]}";
    fs::write(of("context"), context).unwrap();
    let cluster = "{apiVersion: v1, clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], current-context: b}";
    fs::write(of("cluster"), cluster).unwrap();
    let list = [of("missing"), of("context"), String::new(), of("cluster")].join(":");
    assert_eq!(warnings(&path, &[("KUBECONFIG", &list)]), "");
    fs::write(of("cluster"), "clusters: nonsense").unwrap();
    let said = warnings(&path, &[("KUBECONFIG", &list)]);
    let named = format!(
        "is null, and {} that $KUBECONFIG names can't be used",
        of("cluster")
    );
    assert!(said.contains(&named), "{said}");
    // Neither colours nor lines of a warning that there is not.
    let said = warnings(&path, &[("KUBECONFIG", "/nowhere/\x1b[31m\nforged")]);
    let named = "/nowhere/\\u{1b}[31m\\nforged that $KUBECONFIG";
    assert!(said.contains(named) && !said.contains('\x1b'), "{said}");

    let in_cluster = [
        ("KUBERNETES_SERVICE_HOST", "192.0.2.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
    ];
    if !Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists() {
        let said = warnings(&path, &in_cluster);
        let named = "service.kubernetes.enabled: the service account of this pod can't be used";
        assert!(said.contains(named), "{said}");
        assert!(said.contains("automountServiceAccountToken"), "{said}");
    }
    // Without names a machine outside of a cluster is as good as one in it.
    assert_eq!(warnings(&with("{}\n"), &[]), "");
}

fn findings(report: &[u8]) -> Vec<(String, String)> {
    let report: serde_json::Value = serde_json::from_slice(report).unwrap();
    let told = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|finding| (told(finding, "need"), told(finding, "verdict")))
        .collect()
}

#[test]
fn doctor_says_that_run_works_where_it_does_and_names_every_need() {
    let Some(_machine) = require::root() else {
        return;
    };
    let output = run(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let findings = findings(&output.stdout);
    for need in [
        "kernel",
        "BTF",
        "capabilities",
        "lockdown",
        "memlock",
        "iter/bpf_sk_storage_map",
        "tp_btf/tcp_probe",
        "kprobe/tcp_connect",
        "pid namespace",
        "cgroup v2",
        "netlink sock_diag",
    ] {
        assert!(
            findings.iter().any(|(name, _)| name == need),
            "no {need} in {findings:?}"
        );
    }
    let said = text(&run(&["doctor"]).stdout);
    assert!(said.contains("mode sockets"), "{said}");
    // A requirement of several programs is a line, and so is a mode that is not used.
    let count = |need: &str| {
        said.lines()
            .filter(|line| line.contains(&format!(" {need} ")))
            .count()
    };
    assert_eq!(count("fentry/security_sock_graft"), 1, "{said}");
    assert_eq!(count("iter/bpf_sk_storage_map"), 1, "{said}");
    assert_eq!(count("kprobe/tcp_connect"), 0, "{said}");
    assert_eq!(said.matches("mode events  ").count(), 1, "{said}");
}

#[test]
fn doctor_without_privileges_names_the_capabilities_and_ends_as_run_strict_would() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let output = flowtap_of_nobody(dir.path())
        .args(["doctor", "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", text(&output.stderr));
    let missing = ("capabilities".to_owned(), "missing".to_owned());
    assert!(
        findings(&output.stdout).contains(&missing),
        "{}",
        text(&output.stdout)
    );
}

/// Nothing on the well-known ports, which other programs may hold.
const ANY_PORTS: [&str; 6] = [
    "--set",
    "exporters.prometheus.endpoint=127.0.0.1:0",
    "--set",
    "service.admin.endpoint=127.0.0.1:0",
    "--set",
    "service.telemetry.metrics.endpoint=127.0.0.1:0",
];

/// Names of environment variables in string literals of the sources: those that flowtap reads, and parts of names.
fn variables_in_the_sources() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<_> = [
        "src",
        "config/src",
        "exporters/src",
        "extensions/src",
        "receivers/src",
    ]
    .map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
    .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("service_links.rs") || path.ends_with("tests.rs") {
                // Names that are passed over, which Kubernetes makes up for a service called flowtap; names that tests set.
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                // Variables that a test sets are not read.
                let code = text.split("#[cfg(test)]").next().unwrap();
                let words = code.split('"').filter(|word| !word.is_empty());
                let is_name = |word: &&str| {
                    let prefixes = [
                        "OTEL_",
                        "FLOWTAP_",
                        "SSL_CERT_",
                        "KUBE",
                        "NODE_NAME",
                        "NOTIFY_",
                        "NO_COLOR",
                    ];
                    word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                        && prefixes.iter().any(|prefix| word.starts_with(prefix))
                        && !word.ends_with('_')
                        // An example of a key.
                        && !word.contains("__")
                };
                found.extend(words.filter(is_name).map(str::to_owned));
            }
        }
    }
    found
}

#[test]
fn help_and_man_pages_name_every_variable_that_flowtap_reads() {
    let dir = tempfile::tempdir().unwrap();
    let output = flowtap().arg("man").arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(dir.path().join("flowtap-run.1")).unwrap();
    let help = flowtap().args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let variables = variables_in_the_sources();
    assert!(variables.len() > 12, "{variables:?}");
    for variable in variables {
        // One for metrics alone is named by the one for all signals.
        let general = variable.replace("OTLP_METRICS_", "OTLP_");
        for (name, text) in [("help", &help), ("man page", &page)] {
            assert!(
                text.contains(&variable) || text.contains(&general),
                "{variable} is not in the {name}"
            );
        }
    }
    for section in ["ENVIRONMENT", "EXIT STATUS", "FILES", "SIGNALS"] {
        assert!(
            page.contains(&format!(".SH {section}")) && help.contains(section),
            "{section}"
        );
    }
    let overview = fs::read_to_string(dir.path().join("flowtap.1")).unwrap();
    assert!(overview.contains(".SH ENVIRONMENT"));
}

#[test]
fn by_default_no_port_is_a_collectors_and_one_that_is_set_to_be_is_warned_of() {
    let validate = |set: &[&str]| {
        let mut command = flowtap();
        command.arg("validate");
        for set in set {
            command.args(["--set", set]);
        }
        let output = command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stderr)
    };
    assert_eq!(validate(&[]), "");
    for key in [
        "service.admin.endpoint=127.0.0.1:13133",
        "service.telemetry.metrics.endpoint=127.0.0.1:8888",
    ] {
        let warned = validate(&[key]);
        assert!(
            warned.contains("where an OpenTelemetry Collector listens by default"),
            "{key}: {warned}"
        );
    }
}

/// Standard error of `flowtap` with these arguments; `None` if it hangs.
fn ended(arguments: &[&str]) -> Option<String> {
    let mut command = flowtap();
    command
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST");
    let mut child = command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(text(&child.wait_with_output().unwrap().stderr))
}

#[test]
fn a_fifo_in_place_of_any_file_that_a_config_names_is_an_error_and_no_hang() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = fifo.to_str().unwrap();
    let config = folder.path().join("flowtap.yaml");
    let text = "receivers: {generator: {}}\nservice: {admin: {endpoint: null}, pipelines: {metrics: {receivers: [generator]}}}\n";
    fs::write(&config, text).unwrap();
    let names_it = |command: &str, set: &[String]| {
        let mut arguments = vec![command, "--config", config.to_str().unwrap()];
        arguments.extend(set.iter().flat_map(|set| ["--set", set]));
        let said = ended(&arguments).unwrap_or_else(|| panic!("{arguments:?} hangs"));
        let named = format!("{fifo}: is a FIFO; expected a regular file");
        let named_otherwise = format!("{fifo} can't be used on this machine: is a FIFO; expected");
        let as_value = format!("the file {fifo} can't be read: is a FIFO; expected");
        assert!(
            [named, named_otherwise, as_value]
                .iter()
                .any(|text| said.contains(text)),
            "{arguments:?}: {said}"
        );
        said
    };
    let pipeline = "service.pipelines.metrics";
    let exporter = |name: &str| format!("{pipeline}.exporters=[{name}]");
    let processor = |name: &str| format!("{pipeline}.processors=[direction, policy, {name}, window]");
    for set in [
        vec![format!("processors.policy.dns=[\"file:{fifo}\"]")],
        vec![format!("processors.geoip.databases=[{fifo}]"), processor("geoip")],
        vec![format!("processors.watch.state_file={fifo}"), processor("watch")],
        vec![
            format!("exporters.otlp={{endpoint: 'https://192.0.2.1:1', tls: {{ca_file: {fifo}}}}}"),
            exporter("otlp"),
        ],
        vec![format!(
            "exporters.prometheus.tls={{cert_file: {fifo}, key_file: {fifo}}}"
        )],
        vec![format!("exporters.prometheus.bearer_token=${{file:{fifo}}}")],
        vec![
            format!(
                "exporters.file={{path: '/nowhere/{{host}}/{{time}}.json', upload: {{url: 'gs://flows', \
                 credentials: {{google_service_account: {fifo}}}}}}}"
            ),
            exporter("file"),
        ],
        vec![format!("service.kubernetes.kubeconfig={fifo}")],
    ] {
        names_it("validate", &set);
    }
    let kubeconfig = folder.path().join("kubeconfig");
    let text = "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],
        users: [{name: u, user: {token: x}}],
        clusters: [{name: c, cluster: {server: 'https://192.0.2.1:1', certificate-authority: fifo}}]}";
    fs::write(&kubeconfig, text).unwrap();
    let set = format!("service.kubernetes.kubeconfig={}", kubeconfig.display());
    let said = names_it("validate", std::slice::from_ref(&set));
    let key = format!("certificate-authority: {fifo}: is a FIFO");
    assert!(said.contains(&key), "{said}");
    let metrics = || "exporters.prometheus.endpoint=127.0.0.1:0".to_owned();
    names_it(
        "run",
        &[
            set,
            metrics(),
            "service.telemetry.metrics.endpoint=null".to_owned(),
        ],
    );
    let replay = [
        format!("receivers.replay.file={fifo}"),
        format!("{pipeline}.receivers=[replay]"),
        metrics(),
        "service.telemetry.metrics.endpoint=null".to_owned(),
    ];
    names_it("run", &replay);
}
