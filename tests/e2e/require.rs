//! Requirements of a test on the machine. Without them a test is skipped with a message; with
//! `FLOWTAP_TEST_REQUIRE_ALL` set, it fails.

use std::process::{Command, Stdio};

use crate::machine;

/// Whether `ok`; if not, says what is missing, or fails.
fn need(ok: bool, what: &str) -> bool {
    if !ok {
        assert!(
            std::env::var_os("FLOWTAP_TEST_REQUIRE_ALL").is_none(),
            "{what}, and FLOWTAP_TEST_REQUIRE_ALL is set"
        );
        eprintln!("SKIPPED: {what}");
    }
    ok
}

/// Says that the test is skipped for want of something, or fails.
pub(crate) fn skip(what: &str) {
    need(false, what);
}

fn is_root() -> bool {
    need(nix::unistd::geteuid().is_root(), "this test needs root")
}

/// Root: to load eBPF programs and make network namespaces. Beside other tests.
#[must_use]
pub(crate) fn root() -> Option<machine::Lock> {
    is_root().then(machine::shared)
}

/// Root, and no other test at work that makes traffic or loads programs.
#[must_use]
pub(crate) fn root_alone() -> Option<machine::Lock> {
    is_root().then(machine::exclusive)
}

/// Whether a program can see which process accepts a connection, by `flowtap doctor`.
pub(crate) fn accepts() -> bool {
    let output = crate::daemon::flowtap()
        .args(["doctor", "--json"])
        .output()
        .expect("flowtap");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    let accept = findings
        .iter()
        .find(|finding| finding["need"] == "fentry/security_sock_graft");
    accept.expect("a finding")["verdict"] == "ok"
}

/// A kernel that takes capture mode `sockets`, by `flowtap doctor`; locked down for integrity, some do not.
pub(crate) fn mode_sockets() -> bool {
    let output = crate::daemon::flowtap()
        .args(["doctor", "--json"])
        .output()
        .expect("flowtap");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    need(
        report["mode"] == "sockets",
        "this test needs a kernel that takes mode sockets (flowtap doctor)",
    )
}

/// A program on the search path.
pub(crate) fn program(name: &str) -> bool {
    let found = Command::new(name)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    need(found, &format!("this test needs `{name}` (make setup-test)"))
}

/// A program that Debian has newer than this machine.
pub(crate) fn peer(name: &str) -> Option<std::path::PathBuf> {
    let peer = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/peers")
        .join(name);
    let what = format!("this test needs target/peers/{name} (make setup-test)");
    need(peer.exists(), &what).then_some(peer)
}

/// A Prometheus with an OTLP receiver. Where Debian's sources of it did not build when `tests/peers` ran, which no change of flowtap
/// causes or ends, the test is skipped in any case.
pub(crate) fn otlp_prometheus() -> Option<std::path::PathBuf> {
    let reason = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/prometheus-otlp.reason");
    if let Ok(reason) = std::fs::read_to_string(reason) {
        eprintln!("SKIPPED: {reason}");
        return None;
    }
    peer("prometheus-otlp")
}

/// The tests' Python environment.
pub(crate) fn python() -> Option<std::path::PathBuf> {
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python3");
    need(
        python.exists(),
        "this test needs Python packages in target/venv (make setup-test)",
    )
    .then_some(python)
}

/// Deque's axe-core, which finds what bars people from a page, as text.
pub(crate) fn axe() -> Option<String> {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axe/axe_playwright_python/axe.min.js");
    let text = std::fs::read_to_string(path);
    need(
        text.is_ok(),
        "this test needs axe-core in target/axe (make setup-test)",
    );
    text.ok()
}

/// PyPI's `kubernetes-validate`, which has the schema of the Kubernetes API.
pub(crate) fn kubernetes_validate() -> Option<std::path::PathBuf> {
    let target = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let mut programs = ["venv", "venv-deploy"]
        .map(|venv| target.join(venv).join("bin/kubernetes-validate"))
        .into_iter();
    let found = programs.find(|program| program.exists());
    need(
        found.is_some(),
        "this test needs PyPI's kubernetes-validate in target/venv (make setup-test)",
    );
    found
}

/// The OTLP collector of the tests' Python environment.
pub(crate) fn collector() -> Option<std::path::PathBuf> {
    let venv = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/lib");
    let pythons = std::fs::read_dir(&venv).into_iter().flatten().flatten();
    let found = pythons
        .map(|python| python.path().join("site-packages/rotel/rotel-agent"))
        .find(|path| path.exists());
    need(
        found.is_some(),
        "this test needs PyPI's rotel in target/venv (make setup-test)",
    );
    found
}
