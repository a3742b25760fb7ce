//! Findings from end to end: in the Collector as log records, in the command and the API, and of a recording.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Output;

use flowtap_pipeline::{Endpoint, Events, Flow, FlowBatch, NodeInfo, Role, TcpRecord, Timestamp};
use flowtap_receivers::replay::{Frame, Writer};
use serde_json::{Value, json};

use crate::daemon::{Daemon, Launch, flowtap, free_address};
use crate::otelcol::{Otelcol, log_records};
use crate::peers::ask_until;
use crate::require;

const WATCHED: &str = "service.pipelines.metrics.processors=[direction, policy, watch, window]";

/// Ports of a scan: wherever the interval ends, one of its halves is large enough.
const PORTS: usize = 50;

fn answer(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `name=value` pairs of the numbers in JSON.
fn pairs(numbers: &Value) -> Vec<String> {
    let numbers = numbers.as_object().unwrap().iter();
    let mut pairs: Vec<_> = numbers
        .map(|(name, value)| format!("{name}={value}"))
        .map(|pair| pair.trim_end_matches(".0").to_owned())
        .collect();
    pairs.sort();
    pairs
}

fn sorted(pairs: &str) -> Vec<String> {
    let mut pairs: Vec<_> = pairs
        .split([' ', ','])
        .filter(|pair| !pair.is_empty())
        .map(str::to_owned)
        .collect();
    pairs.sort();
    pairs
}

#[test]
fn a_scan_and_a_first_contact_are_the_same_in_the_collector_the_api_and_the_command() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(collector) = Otelcol::started() else {
        return;
    };
    let exporters = format!("  otlp: {{endpoint: \"http://{}\"}}\n", collector.address("grpc"));
    let daemon = Daemon::launch(Launch {
        exporters: &exporters,
        set: &[
            "processors.watch={learn: 0s, interval: 2s}",
            "processors.connections={interval: 200ms, sample: {ratio: 0, always: []}}",
            WATCHED,
            "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, watch, connections], exporters: [otlp]}",
        ],
        ..Launch::default()
    });
    // Ephemeral ports are one contact, which another test of this process may have already.
    let listener = TcpListener::bind(free_address()).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Without a port that is reported, or a process that is alone with it, each port is still an end.
    for _ in 0..PORTS {
        assert!(TcpStream::connect(free_address()).is_err());
    }
    drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());

    let of_collector = |is: &dyn Fn(&Value, &std::collections::BTreeMap<String, String>) -> bool| {
        ask_until("the finding in the Collector", || {
            let requests = collector.requests();
            let records = requests.iter().flat_map(log_records);
            let mut found = records.filter(|(record, attributes)| is(record, attributes));
            found.next()
        })
    };
    let (contact, of_contact) = of_collector(&|_, attributes| {
        attributes
            .get("flowtap.finding.kind")
            .is_some_and(|kind| kind == "first_contact")
            && attributes
                .get("destination.port")
                .is_some_and(|at| *at == port.to_string())
    });
    assert_eq!(
        (&contact["eventName"], &contact["severityText"]),
        (&json!("flowtap.finding"), &json!("INFO"))
    );
    let text = &of_contact["flowtap.finding.text"];
    assert_eq!(contact["body"]["stringValue"], json!(text), "{contact}");
    assert!(
        text.contains(&format!(", port {port} for the first time (address 127.0.0.1)")),
        "{text}"
    );
    let (scan, of_scan) = of_collector(&|_, attributes| {
        attributes
            .get("flowtap.finding.text")
            .is_some_and(|text| text.contains(" ports of 127.0.0.1 in "))
    });
    assert_eq!(scan["severityText"], "WARN");

    // The API and the command have the same sentence and numbers.
    let admin = daemon.admin_address().to_string();
    let command = |more: &[&str]| {
        let arguments = [&["findings", "--admin", &admin, "--limit", "1000"], more].concat();
        flowtap().args(arguments).output().unwrap()
    };
    let all = answer(&command(&["--json"]));
    let listed = all["findings"].as_array().unwrap();
    let find = |text: &str| {
        let found = listed.iter().find(|finding| finding["text"] == text);
        found.unwrap_or_else(|| panic!("no {text} in {all:#}"))
    };
    assert_eq!(
        (&find(text)["kind"], &find(text)["server_port"]),
        (&json!("first_contact"), &json!(port)),
        "{all:#}"
    );
    let text = &of_scan["flowtap.finding.text"];
    assert_eq!(find(text)["kind"], "fan_out");
    let numbers = pairs(&find(text)["numbers"]);
    assert_eq!(sorted(&of_scan["flowtap.finding.numbers"]), numbers);
    assert!(numbers.contains(&"seconds=2".to_owned()), "{numbers:?}");
    assert_eq!(all["watchers"].as_array().unwrap().len(), 2, "{all:#}");

    let of_kind = answer(&command(&["--json", "--kind", "fan_out"]));
    let of_kind = of_kind["findings"].as_array().unwrap();
    assert!(!of_kind.is_empty() && of_kind.iter().all(|finding| finding["kind"] == "fan_out"));
    let shown = command(&["--kind", "fan_out"]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(
        shown.contains(&**text) && numbers.iter().all(|number| shown.contains(number)),
        "{shown}"
    );
}

/// A recording of a minute to one peer, and then of a connection to another one, which comes before the next watermark.
fn recording(folder: &Path) -> std::path::PathBuf {
    let at = |seconds: u64| Timestamp::from_nanos((1_750_000_000 + seconds) * 1_000_000_000);
    let record = |peer: [u8; 4]| {
        let end = |address: [u8; 4], port| Endpoint::new(Ipv4Addr::from(address).into(), port);
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"shop");
        TcpRecord {
            events: Events::OPENED,
            sent_bytes: 100,
            ..TcpRecord::new(Flow {
                comm,
                role: Role::Client,
                ..Flow::new(end([10, 1, 0, 1], 40_000), end(peer, 443))
            })
        }
    };
    let batch = |peer| {
        Frame::Batch(FlowBatch {
            tcp: vec![record(peer)],
            ..FlowBatch::default()
        })
    };
    let file = folder.join("a.flowtap");
    let mut writer = Writer::create(&file).unwrap();
    let mut frames = vec![Frame::Start {
        at: at(0),
        node: NodeInfo::default(),
    }];
    for second in (5..=60).step_by(5) {
        frames.extend([batch([93, 184, 1, 34]), Frame::Watermark(at(second))]);
    }
    frames.extend([batch([45, 33, 32, 156]), Frame::End(at(65))]);
    for frame in frames {
        writer.write(&frame).unwrap();
    }
    writer.flush().unwrap();
    file
}

#[test]
fn replay_has_the_findings_of_a_recording_as_text_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = recording(folder.path());
    // The state of a daemon with the same config is neither used nor replaced.
    let state = folder.path().join("watch.state");
    std::fs::write(&state, "of a daemon").unwrap();
    let watch = format!(
        "processors.watch={{learn: 30s, state_file: \"{}\"}}",
        state.display()
    );
    let replay = |more: &[&str]| {
        flowtap()
            .args(["replay", "--findings", "--set", WATCHED])
            .args(["--set", &watch])
            .args(more)
            .arg(&file)
            .output()
            .unwrap()
    };
    let text = "shop talks to 45.33.32.0/24, port 443 for the first time (address 45.33.32.156)";
    let shown = replay(&[]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.starts_with("2025-06-15T15:07:45") && shown.contains("first_contact") && shown.contains(text),
        "{shown}"
    );
    assert_eq!(shown.matches("first_contact").count(), 1, "{shown}");
    // `watch` in a second pipeline makes the same findings, which are listed once, as those of a daemon.
    let logs = [
        "--set",
        "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, watch, connections], exporters: [debug]}",
        "--set",
        "processors.connections={}",
        "--set",
        "exporters.debug={}",
    ];
    let of_both = replay(&logs);
    assert_eq!(
        String::from_utf8_lossy(&of_both.stdout),
        shown,
        "{}",
        String::from_utf8_lossy(&of_both.stderr)
    );
    let of_both = answer(&replay(&[&logs[..], &["--json"]].concat()));
    assert_eq!(
        (&of_both["total"], of_both["watchers"].as_array().unwrap().len()),
        (&json!(1), 2)
    );
    let found = answer(&replay(&["--json"]));
    assert_eq!(std::fs::read(&state).unwrap(), b"of a daemon");
    assert_eq!(found["total"], 1, "{found:#}");
    let finding = &found["findings"][0];
    assert_eq!(
        (&finding["text"], &finding["subject"], &finding["object"]),
        (&json!(text), &json!("shop"), &json!("45.33.32.0/24"))
    );
}
