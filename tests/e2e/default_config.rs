//! `config/default.yaml` says what the built-in defaults are, and the examples hold.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::daemon::{flowtap, read};

fn config_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn print_config(more: &[&Path]) -> Output {
    let mut command = flowtap();
    command.arg("print-config");
    for file in more {
        command.arg("--config").arg(file);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn the_documented_default_config_equals_the_built_in_defaults() {
    let built_in = String::from_utf8(print_config(&[]).stdout).unwrap();
    let documented = String::from_utf8(print_config(&[&config_dir().join("default.yaml")]).stdout).unwrap();
    assert_eq!(documented, built_in);
}

#[test]
fn the_documented_default_config_leaves_no_key_out() {
    // A key whose value happens to be the default could be missing above without being noticed.
    let built_in = String::from_utf8(print_config(&[]).stdout).unwrap();
    let documented = read(&config_dir().join("default.yaml"));
    for line in built_in.lines() {
        // Entries of lists are not keys.
        let line = line.trim_start();
        let Some((key, _)) = line.split_once(':').filter(|_| !line.starts_with('-')) else {
            continue;
        };
        assert!(
            documented
                .lines()
                .any(|line| line.trim_start().starts_with(&format!("{key}:"))
                    || line.contains(&format!("{{{key}:"))),
            "config/default.yaml does not document `{key}`"
        );
    }
}

#[test]
fn a_printed_config_is_read_back_as_the_same_config() {
    let printed = print_config(&[]).stdout;
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), &printed).unwrap();
    assert_eq!(print_config(&[file.path()]).stdout, printed);
}

#[test]
fn a_printed_config_shows_no_secret_wherever_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let (config, password) = (dir.path().join("config.yaml"), dir.path().join("password"));
    std::fs::write(&password, "hunter2\n").unwrap();
    let text = format!(
        "exporters:\n  prometheus:\n    basic_auth: {{username: scraper, password: '${{file:{}}}'}}\n    \
         bearer_token: hunter2\n  otlp:\n    proxy_url: http://me:hunter2@127.0.0.1:3128\n    endpoint: https://collector:4318/?token=hunter2\n    \
         headers: {{authorization: Bearer hunter2}}\nservice:\n  pipelines:\n    \
         metrics: {{receivers: [ebpf], processors: [window], exporters: [prometheus, otlp]}}\n",
        password.display()
    );
    std::fs::write(&config, text).unwrap();
    let printed = String::from_utf8(print_config(&[&config]).stdout).unwrap();
    assert!(!printed.contains("hunter2"), "{printed}");
    for part in [
        "username: scraper",
        "password: \"[redacted]\"",
        "http://redacted@127.0.0.1:3128",
        "https://collector:4318/?token=redacted",
    ] {
        assert!(printed.contains(part), "no {part} in:\n{printed}");
    }
    // It is not a config to run: the text would be the password.
    std::fs::write(&config, &printed).unwrap();
    let output = flowtap()
        .arg("validate")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{errors}");
    for key in [
        "exporters.prometheus.basic_auth.password: a secret is missing",
        "exporters.prometheus.bearer_token: a secret is missing",
        "exporters.otlp.proxy_url: a secret is missing",
        "exporters.otlp.endpoint: a secret is missing",
        "exporters.otlp.headers.authorization: a secret is missing",
    ] {
        assert!(errors.contains(key), "no {key} in:\n{errors}");
    }
}

#[test]
fn every_example_is_valid() {
    let mut examples = 0;
    for entry in std::fs::read_dir(config_dir().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let output = flowtap()
            .arg("validate")
            .arg("--config")
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        examples += 1;
    }
    assert!(examples >= 2, "{examples} examples");
}
