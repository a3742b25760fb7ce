//! Output of `graph`, `completions` and `man`.

use std::process::{Command, Stdio};

use crate::daemon::flowtap;
use crate::require;

fn stdout(arguments: &[&str]) -> String {
    let output = flowtap().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that the help lists.
fn commands() -> Vec<String> {
    let help = stdout(&[]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

const TWO_PIPELINES: &str = "\
exporters: {otlp/backup: {}}
service:
  pipelines:
    metrics: {receivers: [ebpf], processors: [direction, window], exporters: [prometheus]}
    'metrics/\"one\"': {receivers: [ebpf], processors: [window], exporters: [prometheus, otlp/backup]}
";

fn drawn(format: &str) -> String {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), TWO_PIPELINES).unwrap();
    stdout(&[
        "graph",
        "--format",
        format,
        "--config",
        file.path().to_str().unwrap(),
    ])
}

#[test]
fn the_graph_for_mermaid_has_every_component_and_an_arrow_for_each_step() {
    let drawn = drawn("mermaid");
    assert!(drawn.starts_with("flowchart LR\n"), "{drawn}");
    for part in [
        "[\"metrics\"]",
        "[\"metrics/#34;one#34;\"]",
        "([\"ebpf\"])",
        "([\"otlp/backup\"])",
        "[\"direction\"]",
    ] {
        assert!(drawn.contains(part), "no {part} in:\n{drawn}");
    }
    assert_eq!(drawn.matches(" --> ").count(), 6, "{drawn}");
}

#[test]
fn the_graph_for_graphviz_is_read_by_it() {
    let drawn = drawn("dot");
    assert_eq!(drawn.matches(" -> ").count(), 6, "{drawn}");
    // `dot` knows no `--version`.
    let dot = Command::new("dot")
        .arg("-Tplain")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut dot) = dot else {
        return require::skip("this test needs `dot` (make setup-test)");
    };
    std::io::Write::write_all(&mut dot.stdin.take().unwrap(), drawn.as_bytes()).unwrap();
    let output = dot.wait_with_output().unwrap();
    let laid_out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{drawn}");
    let lines = |kind: &str| laid_out.lines().filter(|line| line.starts_with(kind)).count();
    assert_eq!((lines("node "), lines("edge ")), (6, 6), "{laid_out}");
}

#[test]
fn completions_of_every_shell_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&["completions", shell]);
        for command in commands() {
            assert!(script.contains(&command), "no {command} for {shell}");
        }
    }
}

#[test]
fn bash_completes_a_command() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), stdout(&["completions", "bash"])).unwrap();
    let script = "source \"$1\"; COMP_WORDS=(flowtap val); COMP_CWORD=1; _flowtap flowtap val flowtap; \
                  echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", script, "bash", file.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "validate");
}

#[test]
fn there_is_a_man_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    stdout(&["man", pages.to_str().unwrap()]);
    let main = std::fs::read_to_string(pages.join("flowtap.1")).unwrap();
    for command in commands().iter().filter(|command| *command != "help") {
        let page = std::fs::read_to_string(pages.join(format!("flowtap-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}: {page}");
        // In roff a hyphen of a name is written as one, lest it becomes a dash.
        assert!(
            main.contains(&format!("flowtap\\-{}(1)", command.replace('-', "\\-"))),
            "{command}"
        );
    }
    let output = flowtap().args(["man", "/proc/nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(73));
}
