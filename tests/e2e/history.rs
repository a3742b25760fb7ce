//! History: what the exporter `file` wrote is whole after a `kill -9`, is read by others, and `flowtap history` answers as `DuckDB` does.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::daemon::{Daemon, Launch, flowtap, flowtap_of_nobody, free_address};
use crate::peers::ask_until;
use crate::require;
use crate::traffic::{Counted, Held, churn, exchange};

const PROCESSORS: &str = "processors.connections={interval: 200ms, active_timeout: 1s}";
const PIPELINE: &str = "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, connections], \
                        exporters: [file]}";
/// Synthetic connections, of which some close in each interval.
const GENERATED: [&str; 5] = [
    "service.pipelines.logs={receivers: [generator], processors: [direction, policy, connections], exporters: [file]}",
    "service.pipelines.metrics.receivers=[generator]",
    "receivers.generator={interval: 100ms, flows: 300, churn_per_interval: 50}",
    "processors.connections={interval: 200ms, active_timeout: 1s}",
    "processors.window.interval=200ms",
];

fn exporter(folder: &Path, format: &str, further: &str) -> String {
    format!(
        "  file: {{path: \"{}/date={{date}}/hour={{hour}}\", format: {format}, rotation: {{max_age: 2s, max_files: 0{further}}}}}\n",
        folder.display()
    )
}

/// `flowtap history` on `folder`, as JSON; `None` before there is a record.
fn history(folder: &Path, arguments: &[&str]) -> Option<Value> {
    let output = flowtap()
        .args(["history", "--json", "--limit", "100000", "--path"])
        .arg(folder)
        .args(arguments)
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    if complaints.contains("no flow logs in") {
        return None;
    }
    assert!(output.status.success(), "{arguments:?}: {complaints}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// The line of a group, once there is one.
fn line<'a>(answer: &'a Value, group: &str) -> Option<&'a Value> {
    let lines = answer["lines"].as_array().unwrap();
    lines.iter().find(|line| line["group"] == group)
}

fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// Runs a program of Python with `arguments`; its output, as JSON.
fn python(python: &Path, program: &str, arguments: &[&str]) -> Value {
    let output = Command::new(python)
        .args(["-c", program])
        .args(arguments)
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Reads every file with pyarrow. Arguments: the folder, a port, the port of a long connection. Result: files, rows, rows that differ,
/// other files, the bytes of connections to the port by role, and the times of the long connection's records.
const READ_ALL: &str = "
import json, pathlib, sys
import pyarrow.parquet as parquet
folder, port = sys.argv[1], int(sys.argv[2])
files = sorted(path for path in pathlib.Path(folder).rglob('*') if path.is_file())
rows, seen, sums, long = 0, set(), {}, []
for path in files:
    if path.suffix != '.parquet':
        continue
    # Of this file alone: the partition is no column then.
    table = parquet.ParquetFile(path).read()
    rows += table.num_rows
    for row in table.to_pylist():
        seen.add((row['connection_id'], row['sequence'], row['timestamp'], row['outcome']))
        if row['destination_port'] == port:
            of = sums.setdefault(row['role'], [0, 0, 0])
            of[0] += row['source_bytes']
            of[1] += row['destination_bytes']
            of[2] += row['outcome'] == 'closed'
        if row['destination_port'] == int(sys.argv[3]):
            long.append(row['timestamp'].timestamp())
print(json.dumps({
    'files': sum(path.suffix == '.parquet' for path in files), 'rows': rows, 'distinct': len(seen),
    'others': [str(path) for path in files if path.suffix != '.parquet'], 'sums': sums,
    'long': sorted(long),
}))
";

/// Time since the epoch, in seconds.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// Ends a load.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_row_that_was_written_is_lost_at_20_random_moments_of_a_kill() {
    const KILLS: usize = 20;
    const CONNECTIONS: usize = 40;
    // The documentation allows `active_timeout`, 1 s, the window of `connections` and the receiver's interval; and what a busy
    // machine adds.
    const GAP: f64 = 5.0;
    let (Some(_machine), Some(interpreter)) = (require::root(), require::python()) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let exporters = exporter(dir.path(), "parquet", "");
    let launch = || {
        Daemon::launch(Launch {
            exporters: &exporters,
            set: &[PROCESSORS, PIPELINE],
            ..Launch::default()
        })
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let load = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // Open over all kills, and never idle: what is lost of it with a kill is what came after its last record.
    let long = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let long_port = long.local_addr().unwrap().port().to_string();
    let mut held = Held::open(&long, 1).unwrap();
    let mut kills = Vec::new();
    let (done, mut sent, mut counted) = (AtomicBool::new(false), 0, Counted::default());
    thread::scope(|scope| {
        // So that a kill meets a file that is being written, finished or renamed.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                churn(&load, 40, 20).unwrap();
                // As fast as it goes it would be the files of 20 daemons that take the time.
                thread::sleep(Duration::from_millis(100));
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                held.exchange(100).unwrap();
                thread::sleep(Duration::from_millis(50));
            }
        });
        // Also where an assertion fails, or the scope would wait for ever.
        let _stop = StopOnDrop(&done);
        for kill in 0..KILLS {
            let daemon = launch();
            let started = now();
            counted += exchange(&listener, CONNECTIONS, kill as u64).unwrap();
            // Both ends of each, in files of earlier daemons, finished ones, and the one that is being written.
            let expected = (kill + 1) * 2 * CONNECTIONS;
            ask_until("the records of the application's connections", || {
                let answer = history(dir.path(), &["--by", "port"])?;
                let of_port = line(&answer, &port.to_string())?;
                let of_long = line(&answer, &long_port)?;
                let last = humantime::parse_rfc3339_weak(of_long["last"].as_str()?).unwrap();
                let last = last.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
                (number(of_port, "ended") == expected as u64 && last > started).then_some(())
            });
            let moment = Duration::from_micros(fastrand::u64(..500_000));
            thread::sleep(moment);
            let telemetry = daemon.telemetry();
            sent += telemetry.sum("flowtap_exporter_sent_log_records_total", &[("exporter", "file")]);
            daemon.kill();
            kills.push(now());
        }
    });
    let (status, log) = launch().stop_quietly();
    assert!(status.success(), "{log}");
    let found = python(
        &interpreter,
        READ_ALL,
        &[&dir.path().display().to_string(), &port.to_string(), &long_port],
    );
    assert_eq!(found["others"], json!([]), "every file is finished");
    assert!(
        number(&found, "rows") >= sent,
        "{sent} rows were counted as written: {found}"
    );
    assert_eq!(found["rows"], found["distinct"], "no row is there twice");
    let sums = |role: &str, index: usize| found["sums"][role][index].as_u64().unwrap();
    let in_files = Counted {
        client_sent: sums("client", 0),
        client_received: sums("client", 1),
        server_sent: sums("server", 1),
        server_received: sums("server", 0),
    };
    assert_eq!(in_files, counted, "{found}");
    assert_eq!(sums("client", 2), (KILLS * CONNECTIONS) as u64);
    let records: Vec<_> = found["long"]
        .as_array()
        .unwrap()
        .iter()
        .map(|at| at.as_f64().unwrap())
        .collect();
    let gaps: Vec<_> = kills
        .iter()
        .map(|kill| {
            kill - records
                .iter()
                .copied()
                .filter(|at| at <= kill)
                .fold(0.0, f64::max)
        })
        .collect();
    assert!(
        gaps.iter().all(|gap| *gap < GAP),
        "seconds between the last record of an open connection and each kill: {gaps:?}"
    );
}

/// Answers as `flowtap history` does. Arguments: a table function with the files, what to group by, a condition.
const ORACLE: &str = "
import json, sys
import duckdb
files, group, condition = sys.argv[1:]
rows = duckdb.sql(f'''
    with rows as (
        select *, role = 'client' as is_client,
            if(is_client, destination_address, source_address) as peer,
            if(is_client, source_bytes, destination_bytes) as sent,
            if(is_client, destination_bytes, source_bytes) as received
        from {files}
    )
    select coalesce(({group})::varchar, '') as name, sum(sent)::bigint as sent, sum(received)::bigint as received, count(*),
        count(*) filter (outcome not in ('active', 'detached')),
        count(*) filter (outcome not in ('active', 'detached') and (outcome = 'failed' or error is not null)),
        sum(retransmits)::bigint
    from rows where {condition} group by name order by sum(rows.sent + rows.received) desc, name
''').fetchall()
print(json.dumps(rows))
";

#[test]
fn history_answers_as_duckdb_does_on_the_same_files() {
    let (Some(_machine), Some(interpreter)) = (require::root(), require::python()) else {
        return;
    };
    for format in ["parquet", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let exporters = exporter(dir.path(), format, "");
        let daemon = Daemon::launch(Launch {
            exporters: &exporters,
            set: &[PROCESSORS, PIPELINE],
            ..Launch::default()
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        exchange(&listener, 60, 1).unwrap();
        assert!(TcpStream::connect(free_address()).is_err());
        let ended = |least: u64| {
            ask_until("the records", || {
                let answer = history(dir.path(), &["--by", "port"])?;
                (number(line(&answer, &port)?, "ended") >= least).then_some(answer)
            })
        };
        ended(120);
        exchange(&listener, 40, 2).unwrap();
        // All of the first exchange may have one time, but the last records are later, be it within the same second.
        let middle = ended(200)["total"]["last"].as_str().unwrap().to_owned();
        let (status, log) = daemon.stop_quietly();
        assert!(status.success(), "{log}");

        let files = if format == "parquet" {
            format!("read_parquet('{}/*/*/*.parquet')", dir.path().display())
        } else {
            format!(
                "read_json('{}/*/*/*.jsonl', columns={{timestamp: 'TIMESTAMPTZ', role: 'VARCHAR', source_address: 'VARCHAR', \
                 destination_address: 'VARCHAR', source_port: 'BIGINT', destination_port: 'BIGINT', source_bytes: 'BIGINT', \
                 destination_bytes: 'BIGINT', outcome: 'VARCHAR', error: 'VARCHAR', retransmits: 'BIGINT', comm: 'VARCHAR'}})",
                dir.path().display()
            )
        };
        let before = format!("timestamp < '{middle}'");
        let after = format!("timestamp >= '{middle}'");
        for (arguments, group, condition) in [
            (&["--by", "peer"][..], "peer", "true"),
            (&["--by", "port", "--to", &middle], "destination_port", &before),
            (&["--by", "process", "--from", &middle], "comm", &after),
            (
                &["--by", "port", "--failed"],
                "destination_port",
                "outcome = 'failed' or error is not null",
            ),
            (
                &["--by", "process", "--peer", "127.0.0.1"],
                "comm",
                "peer = '127.0.0.1'",
            ),
            (
                &["--by", "peer", "--peer", "127.0.0.0/8"],
                "peer",
                "peer like '127.%'",
            ),
        ] {
            let answer = history(dir.path(), arguments).unwrap();
            let ours: Vec<Value> = answer["lines"]
                .as_array()
                .unwrap()
                .iter()
                .map(|line| {
                    json!([
                        line["group"],
                        line["sent"],
                        line["received"],
                        line["records"],
                        line["ended"],
                        line["failed"],
                        line["retransmits"]
                    ])
                })
                .collect();
            let theirs = python(&interpreter, ORACLE, &[&files, group, condition]);
            assert!(!ours.is_empty(), "{format} {arguments:?}");
            assert_eq!(Value::from(ours), theirs, "{format} {arguments:?}");
            assert_eq!(answer["unreadable_files"], 0);
        }
    }
}

/// Reads the partitions of two nodes with pyarrow, polars, `DuckDB` and `ClickHouse`. Argument: the folder. Result: of each, rows by
/// host, and whether the partition is that of the time.
const READERS: &str = "
import json, sys
import chdb, duckdb, polars
import pyarrow.dataset as dataset
import pyarrow.parquet as parquet
folder = sys.argv[1]
glob = folder + '/kind=logs/*/*/*.parquet'
def by_host(pairs):
    return dict(sorted(pairs))
table = dataset.dataset(folder + '/kind=logs', partitioning='hive').to_table(columns=['host', 'date', 'hour', 'timestamp'])
assert str(table.schema.field('timestamp').type) == 'timestamp[us, tz=UTC]', table.schema
for row in table.to_pylist():
    assert str(row['date']) == row['timestamp'].strftime('%Y-%m-%d') and int(row['hour']) == row['timestamp'].hour, row
counts = table.group_by('host').aggregate([('date', 'count')]).to_pylist()
found = {'pyarrow': by_host((row['host'], row['date_count']) for row in counts)}
lazy = polars.scan_parquet(glob, hive_partitioning=True)
found['polars'] = by_host(lazy.group_by('host').len().collect().iter_rows())
found['duckdb'] = by_host(duckdb.sql(f'select host, count(*) from read_parquet($${glob}$$, hive_partitioning = true) group by 1').fetchall())
rows = chdb.query(f'''select host, count() as rows from file('{glob}') group by host''', 'JSONEachRow').bytes().decode()
rows = [json.loads(line) for line in rows.splitlines()]
found['clickhouse'] = by_host((row['host'], int(row['rows'])) for row in rows)
metadata = {}
for path in dataset.dataset(folder + '/kind=logs', partitioning='hive').files:
    of_file = parquet.ParquetFile(path).metadata.metadata
    of_file = {key.decode(): value.decode() for key, value in of_file.items()}
    columns = parquet.ParquetFile(path).read(columns=['host', 'version', 'schema_version']).to_pylist()[0]
    assert columns == {'host': of_file['host.name'] if 'k8s.node.name' not in of_file else of_file['k8s.node.name'],
        'version': of_file['service.version'], 'schema_version': int(of_file['flowtap.schema_version'])}, (columns, of_file)
    names = ('host.name', 'k8s.node.name', 'service.name', 'service.version', 'flowtap.schema_version')
    metadata.setdefault(columns['host'], []).append({name: of_file.get(name) for name in names})
found['metadata'] = metadata
print(json.dumps(found))
";

/// The same with Spark. Argument: the folder. Result: rows by host, and rows whose partition is not that of their time.
const SPARK: &str = "
import json, os, sys
from pyspark.sql import SparkSession, functions
os.environ['SPARK_LOCAL_IP'] = '127.0.0.1'
spark = (SparkSession.builder.master('local[1]').config('spark.ui.enabled', 'false').config('spark.sql.session.timeZone', 'UTC')
    .config('spark.driver.memory', '512m').config('spark.sql.shuffle.partitions', '1').getOrCreate())
spark.sparkContext.setLogLevel('ERROR')
rows = spark.read.parquet(sys.argv[1] + '/kind=logs')
counts = dict(sorted((row['host'], row['count']) for row in rows.groupBy('host').count().collect()))
elsewhere = rows.where((functions.to_date('timestamp') != rows['date']) | (functions.hour('timestamp') != rows['hour'])).count()
print(json.dumps({'spark': counts, 'elsewhere': elsewhere}))
";

#[test]
fn partitions_of_two_nodes_in_one_folder_are_read_and_distinguished_by_others() {
    let Some(interpreter) = require::python() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let exporters = format!(
        "  file: {{path: \"{}/kind={{kind}}/date={{date}}/hour={{hour}}\", format: parquet, rotation: {{max_age: 1s, max_files: 2}}}}\n",
        dir.path().display()
    );
    let finished = [("exporter", "file"), ("event", "finished")];
    let mut rows = Vec::new();
    for node in ["node-a", "node-b"] {
        let daemon = Daemon::launch(Launch {
            exporters: &exporters,
            list: "exporters: [prometheus, debug, file]",
            set: &GENERATED,
            environment: &[("NODE_NAME", node)],
            ..Launch::default()
        });
        daemon.telemetry_until("finished files", |seen| {
            seen.sum("flowtap_exporter_files_total", &finished) >= 8
        });
        let (status, log) = daemon.stop_quietly();
        assert!(status.success(), "{log}");
        let answer = history(dir.path(), &[]).unwrap();
        rows.push(number(&answer["total"], "records") - rows.iter().sum::<u64>());
        assert_eq!(answer["unreadable_files"], 0);
    }
    let found = python(&interpreter, READERS, &[&dir.path().display().to_string()]);
    let expected = json!({"node-a": rows[0], "node-b": rows[1]});
    for reader in ["pyarrow", "polars", "duckdb", "clickhouse"] {
        assert_eq!(found[reader], expected, "{reader}: {found}");
    }
    for node in ["node-a", "node-b"] {
        let files = found["metadata"][node].as_array().unwrap();
        assert!(!files.is_empty(), "{found}");
        for file in files {
            assert_eq!(file["k8s.node.name"], node, "{found}");
            assert!(!file["host.name"].as_str().unwrap().is_empty(), "{found}");
            assert_eq!(file["service.name"], "flowtap", "{found}");
            assert_eq!(file["service.version"], env!("CARGO_PKG_VERSION"), "{found}");
            assert!(
                file["flowtap.schema_version"]
                    .as_str()
                    .unwrap()
                    .parse::<u8>()
                    .is_ok(),
                "{found}"
            );
        }
    }
    // Half a gigabyte with its JVM's classes, which is too much for every run of the tests.
    let spark = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv-spark/bin/python3");
    if spark.exists() {
        let found = python(&spark, SPARK, &[&dir.path().display().to_string()]);
        assert_eq!(found, json!({"spark": expected, "elsewhere": 0}));
    } else {
        println!("NOT READ WITH SPARK: it is not in target/venv-spark (make setup-spark)");
    }
}

#[test]
fn history_reports_what_is_missing_and_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let missing = format!("{folder}/missing");
    for (arguments, code, expected) in [
        (&["--path", &missing][..], 66, "--path DIRECTORY"),
        (
            &["--path", &folder],
            66,
            "a pipeline `logs` with the exporter `file`",
        ),
        (&[], 64, "the config has no exporter `file`"),
        (&["--from", "25:00"], 64, "expected a time of day (10:00, UTC)"),
        (&["--peer", "example"], 64, "expected an address"),
        (
            &["--path", &folder, "--from", "2026-01-02", "--to", "2026-01-01"],
            64,
            "is not before --to",
        ),
        (
            &["--path", &folder, "--from", "10:00", "--to", "10:00"],
            64,
            "hint: exchange them",
        ),
    ] {
        let output = flowtap().arg("history").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    }
}

/// A line of the exporter, with another process and event.
fn line_of(event: &str, comm: &str) -> String {
    json!({
        "timestamp": "2026-01-02T03:00:00.000000Z", "host": "node1", "event": event, "role": "client", "outcome": "closed",
        "source_address": "192.0.2.1", "source_port": 1, "destination_address": "198.51.100.7", "destination_port": 443,
        "source_bytes": 10, "destination_bytes": 20, "comm": comm,
    })
    .to_string()
}

#[test]
fn names_that_a_process_chose_change_no_terminal_and_forge_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let lines = ["\u{1b}]0;pwn\u{7}", "a\nFAKE"].map(|comm| line_of("flowtap.tcp.connection", comm));
    fs::write(dir.path().join("x.jsonl"), lines.join("\n")).unwrap();
    for by in ["process", "record"] {
        let output = flowtap()
            .args(["history", "--by", by, "--path"])
            .arg(dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains(r"\u{1b}]0;pwn\u{7}") && text.contains(r"a\nFAKE"),
            "{text}"
        );
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}

#[test]
fn what_cannot_be_read_is_reported_and_the_rest_is_read() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let closed = dir.path().join("lost+found");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let lines = [
        line_of("flowtap.tcp.connection", "one"),
        "{\"event\": nonsense}".to_owned(),
        line_of("flowtap.tcp.connection", "two"),
        line_of("flowtap.finding", "three"),
    ];
    fs::write(dir.path().join("x.jsonl"), lines.join("\n")).unwrap();
    fs::set_permissions(dir.path().join("x.jsonl"), Permissions::from_mode(0o644)).unwrap();
    let program = tempfile::tempdir().unwrap();
    let run = |json: &[&str]| {
        let output = flowtap_of_nobody(program.path())
            .args(["history", "--by", "process", "--path"])
            .arg(dir.path())
            .args(json)
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaints}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run(&[]);
    for expected in [
        "2 of 3 records in 1 file,",
        "not of connections or UDP flows: 1 flowtap.finding",
        &format!("not read: {}: Permission denied", closed.display()),
        "x.jsonl: line 2 not read: expected",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let none: Value = serde_json::from_str(&run(&["--json", "--peer", "192.0.2.77"])).unwrap();
    let total = &none["total"];
    assert_eq!(
        (&total["records"], &total["first"], &total["last"]),
        (&json!(0), &Value::Null, &Value::Null)
    );
    let answer: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    let groups: Vec<_> = answer["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| &line["group"])
        .collect();
    assert_eq!(groups, ["one", "two"]);
    assert_eq!(answer["others"], json!({"flowtap.finding": 1}));
    assert_eq!(
        (&answer["unreadable_files"], &answer["damaged_files"]),
        (&json!(1), &json!(1))
    );
}
