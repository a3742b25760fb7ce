//! The config's JSON Schema: what is valid by flowtap is so by the schema, each key is described, and mistakes of form are found.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::daemon::read;
use crate::require;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Output of `check-jsonschema` for `files`.
fn check(python: &Path, arguments: &[&str], files: &[PathBuf]) -> Output {
    Command::new(python)
        .args(["-m", "check_jsonschema"])
        .args(arguments)
        .args(files)
        .output()
        .unwrap()
}

fn schema_file() -> String {
    root().join("config/flowtap.schema.json").display().to_string()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn the_default_config_and_every_example_are_valid_by_the_schema() {
    let Some(python) = require::python() else { return };
    let mut files = vec![root().join("config/default.yaml")];
    let examples = std::fs::read_dir(root().join("config/examples")).unwrap();
    files.extend(examples.map(|entry| entry.unwrap().path()));
    assert!(files.len() > 3, "{files:?}");
    let output = check(&python, &["--schemafile", &schema_file()], &files);
    assert!(output.status.success(), "{}", said(&output));
    let output = check(&python, &["--check-metaschema"], &[PathBuf::from(schema_file())]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn what_is_printed_as_the_config_is_valid_by_the_schema() {
    let Some(python) = require::python() else { return };
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let output = crate::daemon::flowtap().arg("print-config").output().unwrap();
    std::fs::write(file.path(), output.stdout).unwrap();
    let output = check(
        &python,
        &["--schemafile", &schema_file()],
        &[file.path().to_owned()],
    );
    assert!(output.status.success(), "{}", said(&output));
}

/// Each with the expected result.
const GOOD: [&str; 6] = [
    "",
    "receivers:\n  ebpf:\n  sock_diag/second: {interval: 1m 30s}\n",
    "processors: {window: {max_series: '${env:N}', rtt_include_local_peers: '${env:R:-true}'}}",
    "exporters: {prometheus: {endpoint: '[::1]:9464', tls: {cert_file: a, key_file: '${file:/k}'}}}",
    "service: {admin: {endpoint: null}, pipelines: {metrics/x: {receivers: [ebpf/a], processors: [window], exporters: [otlp]}}}",
    "exporters: {otlp: {protocol: http/json, compression: '${env:C}', sending_queue: {when_full: block}}}",
];

const BAD: [&str; 16] = [
    "recievers: {}",
    "receivers: {ebfp: {}}",
    "receivers: {ebpf: {intervall: 5s}}",
    "receivers: {ebpf/: {}}",
    "receivers: {ebpf: {interval: 5}}",
    "receivers: {ebpf: {mode: socket}}",
    "receivers: {ebpf: {max_sockets: many}}",
    "processors: {window: {max_series: 0}}",
    "processors: {window: {families: {network_tcp_flow: {enabled: false}}}}",
    "processors: {window: {families: {network_tcp_flow_egress: {labels: [addr]}}}}",
    "processors: {policy: {internal_hosts: 10.0.0.0/8}}",
    "processors: {policy: {internal_hosts: [ten]}}",
    "exporters: {prometheus: {endpoint: localhost}}",
    "exporters: {prometheus: {basic_auth: {username: a}}}",
    "service: {pipelines: {metrics: {receivers: [ebfp]}}}",
    "service: {telemetry: {logs: {format: xml}}}",
];

#[test]
fn mistakes_of_form_are_found_by_the_schema_and_nothing_else_is() {
    let Some(python) = require::python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let written = |name: &str, texts: &[&str]| -> Vec<PathBuf> {
        let files = texts.iter().enumerate().map(|(number, text)| {
            let path = dir.path().join(format!("{name}-{number}.yaml"));
            std::fs::write(&path, text).unwrap();
            path
        });
        files.collect()
    };
    let output = check(
        &python,
        &["--schemafile", &schema_file()],
        &written("good", &GOOD),
    );
    assert!(output.status.success(), "{}", said(&output));
    let files = written("bad", &BAD);
    let output = check(&python, &["--schemafile", &schema_file()], &files);
    let said = said(&output);
    for (file, text) in files.iter().zip(BAD) {
        assert!(
            said.contains(&file.display().to_string()),
            "{text} was taken:\n{said}"
        );
    }
}

/// Calls `look` with each property of `schema` and below.
fn each_property(schema: &Value, path: &str, look: &mut impl FnMut(&str, &Value, bool)) {
    if !schema.is_object() {
        return;
    }
    let required = |name: &str| {
        let names = schema["required"].as_array();
        names.is_some_and(|names| names.iter().any(|required| required == name))
    };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        look(&path, property, required(name));
        each_property(property, &path, look);
    }
    for below in ["items", "additionalProperties"] {
        each_property(&schema[below], path, look);
    }
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        each_property(choice, path, look);
    }
}

#[test]
fn every_key_has_a_description_a_type_and_a_default_if_it_has_one() {
    let schema: Value = serde_json::from_str(&read(Path::new(&schema_file()))).unwrap();
    let mut keys = 0;
    for (name, component) in schema["$defs"].as_object().unwrap() {
        each_property(component, name, &mut |path, property, required| {
            keys += 1;
            assert!(property["description"].is_string(), "{path} is not described");
            let typed = ["type", "oneOf", "anyOf", "$ref"]
                .iter()
                .any(|key| !property[key].is_null());
            assert!(typed, "{path} has no type");
            let described = property["description"].as_str().unwrap();
            let unset = described.to_ascii_lowercase().contains("unset: ")
                || property.to_string().contains("\"null\"");
            assert!(
                required || unset || property.get("default").is_some(),
                "{path} has no default"
            );
        });
    }
    assert!(keys > 60, "{keys} keys");
}
