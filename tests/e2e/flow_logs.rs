//! Flow logs: the records of every connection add up to what the applications counted, also of long ones, over a reload, and in a
//! Collector.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use serde_json::Value;

use crate::daemon::{Daemon, Launch, free_address, get, read};
use crate::peers::ask_until;
use crate::require;
use crate::traffic::{Counted, Held, exchange};

/// A pipeline of flow logs beside that of metrics, with a record of each open connection per second.
const PROCESSORS: &str = "processors.connections={interval: 200ms, active_timeout: 1s}";
const PIPELINE: &str = "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, connections], \
                        exporters: [file]}";

/// The lines of every file in `folder`, whether finished or not. A line that is being written is none.
pub(crate) fn records(folder: &Path) -> Vec<Value> {
    let mut records = Vec::new();
    let Ok(files) = fs::read_dir(folder) else {
        return records;
    };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    for file in files {
        // One that was renamed meanwhile is read by its new name the next time.
        let text = fs::read_to_string(file).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines();
        records.extend(lines.map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    records
}

/// The records of connections to `port`, by cookie, in the order of their sequence.
pub(crate) fn of_port(records: &[Value], port: u16) -> BTreeMap<i64, Vec<&Value>> {
    let mut connections: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in records.iter().filter(|record| record["destination_port"] == port) {
        let id = record["connection_id"].as_i64().unwrap();
        connections.entry(id).or_default().push(record);
    }
    for records in connections.values_mut() {
        records.sort_by_key(|record| record["sequence"].as_i64());
    }
    connections
}

/// Whether a record is of a socket in the namespace with this label.
pub(crate) fn is_in(record: &Value, netns: &str) -> bool {
    record["netns"]
        .as_u64()
        .is_some_and(|inode| inode.to_string() == netns)
}

pub(crate) fn number(record: &Value, column: &str) -> i64 {
    record[column]
        .as_i64()
        .unwrap_or_else(|| panic!("no {column} in {record}"))
}

/// Bytes by the differences of `records`, as the applications count them.
fn counted(connections: &BTreeMap<i64, Vec<&Value>>) -> Counted {
    let sum = |role: &str, column: &str| {
        let records = connections.values().flatten();
        let of_role = records.filter(|record| record["role"] == role);
        u64::try_from(of_role.map(|record| number(record, column)).sum::<i64>()).unwrap()
    };
    Counted {
        client_sent: sum("client", "source_bytes"),
        client_received: sum("client", "destination_bytes"),
        server_sent: sum("server", "destination_bytes"),
        server_received: sum("server", "source_bytes"),
    }
}

/// Each connection's sequence has no gap, its differences add up to its totals, and `last` ends it.
fn assert_whole(connections: &BTreeMap<i64, Vec<&Value>>, last: &str) {
    for records in connections.values() {
        let (mut source, mut destination) = (0, 0);
        for (index, record) in records.iter().enumerate() {
            assert_eq!(
                number(record, "sequence"),
                i64::try_from(index).unwrap(),
                "{records:#?}"
            );
            source += number(record, "source_bytes");
            destination += number(record, "destination_bytes");
            assert_eq!(source, number(record, "source_bytes_total"), "{records:#?}");
            assert_eq!(
                destination,
                number(record, "destination_bytes_total"),
                "{records:#?}"
            );
            let is_last = index + 1 == records.len();
            assert_eq!(is_last, record["outcome"] != "active", "{records:#?}");
        }
        assert_eq!(records.last().unwrap()["outcome"], last, "{records:#?}");
    }
}

fn launch(folder: &Path) -> Daemon {
    launch_with(folder, &[])
}

/// A daemon that writes flow logs into `folder`, with more settings.
pub(crate) fn launch_with(folder: &Path, more: &[&str]) -> Daemon {
    let exporters = format!("  file: {{path: \"{}\"}}\n", folder.display());
    Daemon::launch(Launch {
        exporters: &exporters,
        set: &[&[PROCESSORS, PIPELINE], more].concat(),
        ..Launch::default()
    })
}

#[test]
fn the_records_of_many_short_connections_are_what_the_applications_counted() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let daemon = launch(dir.path());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 200, 23).unwrap();
    // Both ends of each are sockets of this machine.
    let read = || records(dir.path());
    ask_until("a record at the end of each", || {
        let records = read();
        let connections = of_port(&records, port);
        let ended = connections
            .values()
            .flatten()
            .filter(|record| record["outcome"] == "closed");
        (ended.count() >= 400).then_some(())
    });
    let records = read();
    let connections = of_port(&records, port);
    assert_eq!(connections.len(), 400);
    assert_eq!(counted(&connections), sent);
    assert_whole(&connections, "closed");
    let telemetry = daemon.telemetry();
    let logged = telemetry.sum("flowtap_exporter_sent_log_records_total", &[("exporter", "file")]);
    assert!(logged >= 400, "{logged}");
    let lost = telemetry.sum(
        "flowtap_processor_dropped_records_total",
        &[("processor", "connections")],
    );
    assert_eq!(lost, 0);
}

/// The sum of the log records that the warnings about a full queue name.
fn named_as_lost(log: &str) -> u64 {
    let warnings = log.lines().filter(|line| line.contains("an exporter's queue "));
    let numbers = warnings.map(|line| {
        let (_, after) = line.split_once("dropped=").unwrap_or_else(|| panic!("{line}"));
        assert!(after.contains("log records"), "{line}");
        let digits = after.trim_start_matches('"').split(' ').next();
        digits
            .and_then(|digits| digits.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("{line}"))
    });
    numbers.sum()
}

#[test]
fn records_that_a_full_queue_can_not_hold_are_named_in_warnings_with_their_number() {
    let Some(_machine) = require::root() else {
        return;
    };
    let closed = free_address();
    let daemon = Daemon::launch(Launch {
        exporters: &format!(
            "  ipfix: {{endpoint: \"{closed}\", protocol: tcp, sending_queue: {{size: 1}}}}\n"
        ),
        set: &[PROCESSORS, &PIPELINE.replace("[file]", "[ipfix]")],
        ..Launch::default()
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let counted = ask_until("records that were dropped", || {
        exchange(&listener, 5, 31).unwrap();
        let name = "flowtap_exporter_enqueue_failed_log_records_total";
        let lost = daemon.telemetry().sum(name, &[("exporter", "ipfix")]);
        (lost > 20).then_some(lost)
    });
    let line = daemon.wait_for("an exporter's queue is full");
    assert!(line.contains("WARN") && line.contains("exporter=ipfix"), "{line}");
    let (_, window) = daemon.stop();
    let named = named_as_lost(&window.log);
    assert!(named >= counted, "{named} of {counted}");
}

#[test]
fn a_long_connection_has_several_records_which_a_reload_continues_and_a_stop_ends() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let daemon = launch(dir.path());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = Held::open(&listener, 3).unwrap();
    let mut sent = Counted::default();
    // Bytes on each connection until both of its ends have `records` records.
    let mut exchange_until = |what: &str, records_each: usize| {
        ask_until(what, || {
            sent += held.exchange(100).unwrap();
            let records = records(dir.path());
            let connections = of_port(&records, port);
            let enough = connections.values().all(|records| records.len() >= records_each);
            (connections.len() == 6 && enough).then_some(())
        });
    };
    exchange_until("two records of each", 2);
    // Another config of the aggregator: a new one continues.
    let config = read(&daemon.config());
    let text = config.replace(
        "processors:\n",
        "processors:\n  connections: {max_records: 50000}\n",
    );
    assert_ne!(text, config);
    assert!(daemon.reload(&text), "{}", daemon.status());
    exchange_until("further records", 4);
    let (status, _) = daemon.stop();
    assert!(status.success());
    let records = records(dir.path());
    let connections = of_port(&records, port);
    assert_whole(&connections, "detached");
    assert_eq!(connections.len(), 6, "no connection is reported as another");
    assert_eq!(counted(&connections), sent);
}

#[test]
fn a_connect_that_nobody_accepts_is_a_record_with_its_reason() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let _daemon = launch(dir.path());
    let port = free_address().port();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    let failed = ask_until("the record of a failure", || {
        let records = records(dir.path());
        let connections = of_port(&records, port);
        connections.into_values().flatten().next().cloned()
    });
    assert_eq!(
        (&failed["outcome"], &failed["error"]),
        (&"failed".into(), &"refused".into())
    );
    assert_eq!(
        (&failed["severity"], &failed["role"]),
        (&"WARN".into(), &"client".into())
    );
    assert_eq!(failed["pid"], std::process::id());
}

#[test]
fn a_finding_is_a_record_and_is_listed_once_whichever_pipelines_make_it() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("watch.state");
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let exporters = format!("  file: {{path: \"{}\"}}\n", logs.display());
    let watch = format!(
        "processors.watch={{learn: 0s, interval: 1s, state_file: \"{}\"}}",
        state.display()
    );
    let daemon = Daemon::launch(Launch {
        exporters: &exporters,
        set: &[
            &watch,
            // Findings alone.
            "processors.connections={interval: 200ms, sample: {ratio: 0, always: []}}",
            "service.pipelines.metrics.processors=[direction, policy, watch, window]",
            "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, watch, connections], exporters: [file]}",
        ],
        ..Launch::default()
    });
    // Ephemeral ports are one contact, which another test of this process may have already.
    let listener = TcpListener::bind(free_address()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let found = ask_until("the record of a first contact", || {
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());
        let records = records(&logs);
        let mut found = records
            .into_iter()
            .filter(|record| record["destination_port"] == port && record["role"] == "client");
        found.next()
    });
    assert_eq!(
        (&found["event"], &found["severity"], &found["finding"]),
        (&"flowtap.finding".into(), &"INFO".into(), &"first_contact".into())
    );
    let subject = found["finding_subject"].as_str().unwrap();
    let text = found["finding_text"].as_str().unwrap();
    assert!(
        text.starts_with(subject) && text.contains("for the first time"),
        "{found}"
    );
    assert!(
        records(&logs)
            .iter()
            .all(|record| record["event"] == "flowtap.finding")
    );
    // Both pipelines have found it.
    let of_port = |answer: &Value| {
        let listed = answer["findings"].as_array().unwrap().clone();
        listed
            .into_iter()
            // Another test of this process may scan that port.
            .filter(|finding| finding["kind"] == "first_contact" && finding["server_port"] == port)
            .count()
    };
    ask_until("the finding in the API", || {
        let answer: Value =
            serde_json::from_str(&get(daemon.admin_address(), "/findings?limit=1000")).unwrap();
        (of_port(&answer) > 0).then_some(())
    });
    let series = daemon.scrape_until("the finding in the metrics", |seen| {
        let labels = [("finding", "first_contact")];
        seen.select("primus_lens_network_findings", &labels)
            .any(|sample| sample.value >= 1.0)
    });
    drop(series);
    let answer: Value = serde_json::from_str(&get(daemon.admin_address(), "/findings?limit=1000")).unwrap();
    assert_eq!(of_port(&answer), 1, "{answer}");
}

#[test]
fn every_dns_transaction_and_every_drop_of_a_flow_is_a_record() {
    const INTERVALS: usize = 5;
    let dir = tempfile::tempdir().unwrap();
    let exporters = format!("  file: {{path: \"{}\"}}\n", dir.path().display());
    let daemon = Daemon::launch(Launch {
        exporters: &exporters,
        set: &[
            "service.pipelines.metrics.receivers=[generator]",
            "service.pipelines.logs={receivers: [generator], processors: [direction, policy, connections], exporters: [file]}",
            "processors.connections={interval: 200ms, active_timeout: 1s, dns: true, drops: true}",
            "receivers.generator={interval: 100ms, flows: 10, max_intervals: 5, dns_queries_per_interval: 20, dns_names: 7, \
             dropped_packets_per_interval: 10}",
        ],
        ..Launch::default()
    });
    daemon.wait_for("all intervals are generated");
    let (status, log) = daemon.stop_quietly();
    assert!(status.success(), "{log}");
    let records = records(dir.path());
    let of = |event: &str, column: &str, value: &str| {
        let of_event = records.iter().filter(|record| record["event"] == event);
        of_event.filter(|record| record[column] == value).count()
    };
    // As the documentation of the generator has it.
    assert_eq!(
        of("flowtap.dns.transaction", "event", "flowtap.dns.transaction"),
        20 * INTERVALS
    );
    assert_eq!(of("flowtap.dns.transaction", "dns_rcode", "timeout"), 1);
    assert_eq!(of("flowtap.dns.transaction", "dns_rcode", "NXDOMAIN"), 4);
    assert_eq!(of("flowtap.dns.transaction", "severity", "WARN"), 1);
    assert_eq!(of("flowtap.drop", "drop_reason", "NETFILTER_DROP"), 2 * INTERVALS);
    assert_eq!(of("flowtap.drop", "drop_kind", "tcp"), 2 * INTERVALS);
    let packets: i64 = records
        .iter()
        .filter(|record| record["event"] == "flowtap.drop")
        .map(|record| number(record, "dropped_packets"))
        .sum();
    assert_eq!(packets, i64::try_from(10 * INTERVALS).unwrap());
}
