//! The upload of the exporter `file` to object stores, against an S3 server that nobody here wrote: moto, from `PyPI`, with its checks of
//! credentials and signatures.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT, flowtap, free_address};
use crate::exposition::Exposition;
use crate::peers::{Peer, ask_until, listens};
use crate::require;

const GENERATED: [&str; 5] = [
    "service.pipelines.logs={receivers: [generator], processors: [direction, policy, connections], exporters: [file]}",
    "service.pipelines.metrics.receivers=[generator]",
    "receivers.generator={interval: 100ms, flows: 300, churn_per_interval: 50}",
    "processors.connections={interval: 200ms, active_timeout: 1s}",
    "processors.window.interval=200ms",
];

/// Makes a user with a key and all rights, and the bucket: as many requests as the server takes without credentials.
const SET_UP: &str = "
import json, sys
import boto3
def client(service, **more):
    return boto3.client(service, endpoint_url=sys.argv[1], region_name='us-east-1', **more)
iam = client('iam', aws_access_key_id='x', aws_secret_access_key='x')
iam.create_user(UserName='flowtap')
policy = {'Version': '2012-10-17', 'Statement': [{'Effect': 'Allow', 'Action': '*', 'Resource': '*'}]}
iam.put_user_policy(UserName='flowtap', PolicyName='all', PolicyDocument=json.dumps(policy))
key = iam.create_access_key(UserName='flowtap')['AccessKey']
pair = key['AccessKeyId'], key['SecretAccessKey']
client('s3', aws_access_key_id=pair[0], aws_secret_access_key=pair[1]).create_bucket(Bucket='flows')
print(json.dumps(pair))
";
const WITHOUT_CREDENTIALS: &str = "3";

/// Reads the bucket with pyarrow's own client of S3, as a dataset, which `DuckDB` queries. Arguments: endpoint, key, secret, and a folder
/// of files that should be there. Result: by host the rows, and those that are there twice; objects that differ from the file.
const READ: &str = "
import json, pathlib, sys
import duckdb
import pyarrow.dataset
import pyarrow.fs
endpoint, key, secret, *folders = sys.argv[1:]
s3 = pyarrow.fs.S3FileSystem(access_key=key, secret_key=secret, endpoint_override=endpoint, region='us-east-1', scheme='http')
objects = [info.path for info in s3.get_file_info(pyarrow.fs.FileSelector('flows/fleet', recursive=True)) if info.is_file]
flows = pyarrow.dataset.dataset(objects, filesystem=s3, format='parquet')
rows = duckdb.sql('''
    select host, count(*), count(distinct (connection_id, sequence, connection_start)) from flows group by host order by host
''').fetchall()
different = []
for folder in folders:
    for path in pathlib.Path(folder).rglob('*.parquet'):
        name = f'flows/fleet/{path.relative_to(folder)}'
        if name not in objects or s3.open_input_file(name).read() != path.read_bytes():
            different.append(name)
print(json.dumps({'rows': rows, 'different': different, 'objects': objects}))
";

/// An S3 server.
struct Server {
    peer: Peer,
    address: SocketAddr,
    python: PathBuf,
    key: String,
    secret: String,
}

impl Server {
    fn start(python: PathBuf, address: SocketAddr) -> Self {
        let program = "import sys; from moto.server import main; main(sys.argv[1:])";
        let peer = Command::new(&python)
            .args([
                "-c",
                program,
                "-H",
                "127.0.0.1",
                "-p",
                &address.port().to_string(),
            ])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", WITHOUT_CREDENTIALS)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self {
            peer: Peer(peer),
            address,
            python,
            key: String::new(),
            secret: String::new(),
        };
        ask_until("the S3 server listens", || listens(address));
        let pair = server.python(SET_UP, &[]);
        pair[0].as_str().unwrap().clone_into(&mut server.key);
        pair[1].as_str().unwrap().clone_into(&mut server.secret);
        server
    }

    fn python(&self, program: &str, arguments: &[&str]) -> Value {
        let output = Command::new(&self.python)
            .args(["-c", program, &format!("http://{}", self.address)])
            .args(arguments)
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaints}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.peer.0.id()).unwrap());
        kill(pid, signal).unwrap();
    }
}

/// Credentials as operators have them: in files.
struct Credentials {
    dir: tempfile::TempDir,
}

impl Credentials {
    fn of(key: &str, secret: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), key).unwrap();
        std::fs::write(dir.path().join("secret"), secret).unwrap();
        Self { dir }
    }

    fn exporter(&self, folder: &Path, endpoint: SocketAddr, rotation: &str) -> String {
        format!(
            "  file:\n    path: \"{}/date={{date}}/hour={{hour}}\"\n    format: parquet\n    rotation: {{max_age: 1s, {rotation}}}\n    \
             upload:\n      url: s3://flows/fleet\n      endpoint: http://{endpoint}\n      timeout: 2s\n      retry_interval: 200ms\n      \
             max_retry_interval: 500ms\n      credentials:\n        access_key_id: ${{file:{dir}/key}}\n        \
             secret_access_key: ${{file:{dir}/secret}}\n",
            folder.display(),
            dir = self.dir.path().display(),
        )
    }
}

fn node(name: &str, exporters: &str) -> Daemon {
    let name = format!("service.telemetry.resource={{host.name: {name}}}");
    let set: Vec<_> = GENERATED.into_iter().chain([name.as_str()]).collect();
    Daemon::launch(Launch {
        exporters,
        set: &set,
        unprivileged: false,
        ..Launch::default()
    })
}

/// The exporter in `/status`.
fn exporter_status(daemon: &Daemon) -> Value {
    daemon.status()["components"]["exporters/file"].clone()
}

fn uploads(seen: &Exposition, outcome: &str) -> u64 {
    seen.sum("flowtap_exporter_uploads_total", &[("outcome", outcome)])
}

fn finished(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn every_row_of_two_nodes_is_in_the_bucket_once_after_outages_and_a_kill() {
    let Some(python) = require::python() else {
        return;
    };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let address = free_address();
    let server = Server::start(python, address);
    let credentials = Credentials::of(&server.key, &server.secret);
    let exporter = |folder: &Path| credentials.exporter(folder, address, "max_files: 0");

    // A store that accepts connections and answers nothing.
    server.signal(Signal::SIGSTOP);
    let first = node("node-a", &exporter(one.path()));
    first.telemetry_until("an upload that failed", |seen| uploads(seen, "retried") > 0);
    first.wait_for("an upload failed and is retried");
    let failing = exporter_status(&first);
    assert_eq!(failing["state"], "recoverable_error", "{failing}");
    let failure = &failing["uploads"]["last_failure"];
    assert_eq!(failing["error"], failure["error"], "{failing}");
    let error = failure["error"].as_str().unwrap();
    assert!(error.starts_with("s3://flows/fleet: "), "{error}");
    let file = failure["file"].as_str().unwrap();
    assert!(one.path().join(file).exists(), "{file}");
    assert!(
        failing["uploads"]["pending_files"].as_u64() > Some(0),
        "{failing}"
    );
    let seconds = failure["at_unix_nano"].as_u64().unwrap() / 1_000_000_000;
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now - seconds < WAIT_TIMEOUT.as_secs(), "{failing}");
    server.signal(Signal::SIGCONT);
    first.telemetry_until("files in the bucket", |seen| uploads(seen, "delivered") >= 2);
    // One more that ran out of its two seconds may follow those on a busy machine; it is retried.
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let delivering = loop {
        let status = exporter_status(&first);
        if status["state"] == "ok" || Instant::now() > deadline {
            break status;
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(delivering["state"], "ok", "{delivering}");
    assert_eq!(delivering["error"], Value::Null, "{delivering}");
    // The failure is kept until the status is asked for.
    assert!(
        delivering["uploads"]["last_failure"]["file"].is_string(),
        "{delivering}"
    );
    let second = node("node-b", &exporter(other.path()));
    second.telemetry_until("files in the bucket", |seen| uploads(seen, "delivered") >= 2);

    // An outage in the middle, in which files are finished and flowtap is killed.
    server.signal(Signal::SIGSTOP);
    let before = uploads(&first.telemetry(), "retried");
    first.telemetry_until("another outage", |seen| {
        uploads(seen, "retried") > before + 1 && seen.sum("flowtap_exporter_upload_queue_size", &[]) > 1
    });
    let said = first.said();
    first.kill();
    server.signal(Signal::SIGCONT);
    let again = node("node-a", &exporter(one.path()));
    let seen = again.telemetry_until("what was left", |seen| {
        uploads(seen, "delivered") >= 3 && seen.sum("flowtap_exporter_upload_queue_size", &[]) <= 1
    });
    assert_eq!(uploads(&seen, "abandoned"), 0);
    let mut logs = said;
    for daemon in [again, second] {
        let (status, log) = daemon.stop_quietly();
        assert!(status.success(), "{log}");
        logs.push_str(&log);
    }
    assert!(!logs.contains(&server.secret), "{logs}");

    let folders = [one.path(), other.path()].map(|path| path.display().to_string());
    let [key, secret] = [server.key.as_str(), server.secret.as_str()];
    let read = server.python(READ, &[key, secret, &folders[0], &folders[1]]);
    assert_eq!(read["different"], serde_json::json!([]), "{logs}");
    let objects = read["objects"].as_array().unwrap().len();
    let files = finished(one.path()).len() + finished(other.path()).len();
    // Recovery replaces no file that was uploaded: nothing is there under two names.
    assert_eq!(objects, files);
    let rows = read["rows"].as_array().unwrap();
    let hosts: Vec<_> = rows.iter().map(|row| row[0].as_str().unwrap()).collect();
    assert_eq!(hosts, ["node-a", "node-b"]);
    for row in rows {
        assert!(row[1].as_u64() > Some(0), "{row}");
        assert_eq!(row[1], row[2], "rows that are there twice");
    }
}

#[test]
fn files_that_rotation_removes_before_their_upload_are_counted() {
    let Some(_python) = require::python() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // Nothing listens there.
    let credentials = Credentials::of("x", "y");
    let exporter = credentials.exporter(folder.path(), free_address(), "max_files: 2");
    let daemon = node("node-a", &exporter);
    daemon.wait_for("a file was removed before it was uploaded");
    let seen = daemon.telemetry_until("files that were removed", |seen| uploads(seen, "abandoned") >= 3);
    assert_eq!(uploads(&seen, "delivered"), 0);
    assert!(uploads(&seen, "retried") > 0);
    let removed = seen.sum("flowtap_exporter_files_total", &[("event", "removed")]);
    let status = exporter_status(&daemon);
    assert_eq!(status["state"], "recoverable_error", "{status}");
    assert!(
        status["uploads"]["abandoned_files"].as_u64() >= Some(3),
        "{status}"
    );
    // A file may be removed between the two reads of the counters.
    assert!(removed.abs_diff(uploads(&seen, "abandoned")) <= 1, "{removed}");
}

#[test]
fn a_wrong_secret_is_reported_without_being_shown_and_files_wait() {
    let Some(python) = require::python() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let server = Server::start(python, address);
    let wrong = "hunter2hunter2hunter2hunter2hunter2hunter";
    let credentials = Credentials::of(&server.key, wrong);
    let daemon = node(
        "node-a",
        &credentials.exporter(folder.path(), address, "max_files: 0"),
    );
    let line = daemon.wait_for("an upload failed and is retried");
    assert!(line.contains("403"), "{line}");
    daemon.telemetry_until("files wait", |seen| {
        seen.sum("flowtap_exporter_upload_queue_size", &[]) >= 2
    });
    let status = exporter_status(&daemon);
    assert_eq!(status["state"], "recoverable_error", "{status}");
    assert!(status["uploads"]["pending_files"].as_u64() >= Some(2), "{status}");
    assert!(status["error"].as_str().unwrap().contains("403"), "{status}");
    assert!(!status.to_string().contains(wrong), "{status}");
    let shown = flowtap()
        .args(["print-config", "--config"])
        .arg(daemon.config())
        .args(GENERATED.iter().flat_map(|set| ["--set", set]))
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("s3://flows/fleet") && shown.contains("[redacted]"),
        "{shown}"
    );
    let (_, log) = daemon.stop_quietly();
    assert!(!log.contains(wrong) && !shown.contains(wrong), "{log}");
}
