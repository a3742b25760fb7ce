//! `ClickHouse` by way of a Collector: the query of docs/exporters.md, on a table as the Collector's exporter of `ClickHouse` makes it, with
//! what a Collector has received. `ClickHouse` is chdb, from `PyPI`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::daemon::{Daemon, Launch};
use crate::otelcol::Otelcol;
use crate::peers::ask_until;
use crate::require;

const FLOWS: u64 = 40;
const INTERVALS: u64 = 5;
const SENT: u64 = 700;

/// Fills the table, and asks. Arguments: a file with a request per line, in OTLP's JSON; the query. Result: the rows.
const ASK: &str = "
import json, sys
from chdb.session import Session
lines, query = sys.argv[1:]
clickhouse = Session()
clickhouse.query('create database otel')
# The columns of the Collector's exporter that have a value here: every attribute is text.
clickhouse.query('''create table otel.flows (
    Timestamp DateTime64(9), SeverityText LowCardinality(String), SeverityNumber UInt8, ServiceName LowCardinality(String), Body String,
    ResourceAttributes Map(LowCardinality(String), String), LogAttributes Map(LowCardinality(String), String), EventName String
) engine MergeTree order by (ServiceName, Timestamp)''')
def text(value):
    (kind, value), = value.items()
    return ('true' if value else 'false') if kind == 'boolValue' else str(value)
def texts(attributes):
    return {attribute['key']: text(attribute['value']) for attribute in attributes}
rows = []
for line in open(lines):
    for resource in json.loads(line).get('resourceLogs', []):
        attributes = texts(resource['resource']['attributes'])
        for scope in resource['scopeLogs']:
            for record in scope['logRecords']:
                seconds, nanoseconds = divmod(int(record['timeUnixNano']), 10 ** 9)
                rows.append({
                    'Timestamp': f'{seconds}.{nanoseconds:09}', 'SeverityText': record.get('severityText', ''),
                    'SeverityNumber': record['severityNumber'], 'ServiceName': attributes['service.name'], 'Body': '',
                    'ResourceAttributes': attributes, 'LogAttributes': texts(record['attributes']), 'EventName': record.get('eventName', ''),
                })
clickhouse.query('insert into otel.flows format JSONEachRow ' + '\\n'.join(map(json.dumps, rows)))
print(json.dumps([json.loads(row) for row in clickhouse.query(query, 'JSONEachRow').bytes().decode().splitlines()]))
";

/// The first query of docs/exporters.md on `otel.flows`.
fn documented() -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/exporters.md")).unwrap();
    let mut blocks = page.split("```sql").skip(1).filter_map(|rest| {
        let (block, _) = rest.split_once("```")?;
        Some(block.split_once('\n')?.1.to_owned())
    });
    blocks.find(|block| block.contains("otel.flows")).unwrap()
}

#[test]
fn clickhouse_answers_the_documented_query_on_what_a_collector_has_received() {
    let (Some(python), Some(collector)) = (require::python(), Otelcol::started()) else {
        return;
    };
    let exporters = format!("  otlp: {{endpoint: \"http://{}\"}}\n", collector.address("grpc"));
    let generator = format!(
        "receivers.generator={{interval: 100ms, flows: {FLOWS}, max_intervals: {INTERVALS}, sent_bytes: {SENT}, server_share: 0.5}}"
    );
    let daemon = Daemon::launch(Launch {
        exporters: &exporters,
        set: &[
            "service.pipelines.metrics.receivers=[generator]",
            "service.pipelines.logs={receivers: [generator], processors: [direction, policy, connections], exporters: [otlp]}",
            "processors.connections={interval: 200ms, active_timeout: 1s}",
            &generator,
        ],
        ..Launch::default()
    });
    ask_until("records of open connections", || {
        (!collector.requests().is_empty()).then_some(())
    });
    daemon.wait_for("all intervals are generated");
    // The end of flowtap is the end of its connections' records.
    let (status, log) = daemon.stop_quietly();
    assert!(status.success(), "{log}");
    let output = Command::new(python)
        .args(["-c", ASK])
        .arg(collector.lines())
        .arg(documented())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows.len(), 10, "{rows:?}");
    for row in rows {
        let bytes = row["bytes"]
            .as_str()
            .map_or(row["bytes"].as_u64(), |text| text.parse().ok());
        assert_eq!(bytes, Some(INTERVALS * SENT), "{row}");
        assert!(row["peer"].as_str().unwrap().starts_with("198.18."), "{row}");
    }
}
