use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use flowtap_pipeline::log::{FindingLog, Outcome};
use flowtap_pipeline::{FindingKind, FlowKind, LogBatch, LogBody, PipelineKind, Timestamp};

use super::*;
use crate::file::content::Content as Output;
use crate::file::telemetry::Telemetry;
use crate::file::writer::Writer;
use crate::file::{Compression, Config, Format, Rotation};
use crate::testing::{context, logs, resource};

/// 2026-01-02T03:00:00Z
const BEGIN: u64 = 1_767_322_800;

fn at(second: u64) -> Timestamp {
    Timestamp::from_nanos((BEGIN + second) * 1_000_000_000)
}

fn peer(index: u64) -> IpAddr {
    Ipv4Addr::new(10, 0, u8::try_from(index / 7).unwrap(), 9).into()
}

/// A batch per second, of `records` connections each: every third as a server, every fifth failed.
fn batch(second: u64, records: u64) -> LogBatch {
    let mut batch = logs();
    batch.at = at(second);
    let pattern = batch.records[0].clone();
    batch.records.clear();
    for index in 0..records {
        let mut record = pattern.clone();
        record.at = at(second);
        record.flow.remote.addr = peer(index);
        if index % 3 == 0 {
            record.flow.kind = Some(FlowKind::Ingress);
        }
        let LogBody::Connection(log) = &mut record.body else {
            unreachable!()
        };
        log.delta.sent_bytes = i64::try_from(index).unwrap();
        log.delta.received_bytes = 1000;
        if index % 5 == 0 {
            log.outcome = Outcome::Failed;
            log.error = Some("refused");
        }
        batch.records.push(record);
    }
    batch
}

/// Files of each format and compression, one of them not finished: 60 seconds of 100 records.
fn folder(format: Format, compression: Compression) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        path: format!("{}/date={{date}}/hour={{hour}}", dir.path().display()),
        format,
        compression: Some(compression),
        rotation: Rotation {
            max_age: std::time::Duration::from_secs(25),
            ..Rotation::default()
        },
        ..Config::default()
    };
    let telemetry = Telemetry::new(&context());
    let mut writer = Writer::new(&config, &resource(), telemetry, None, PipelineKind::Logs).unwrap();
    writer.prepare().unwrap();
    for second in 0..60 {
        assert_eq!(writer.write(Output::logs(&batch(second, 100))).sent, 100);
    }
    // Not a file of ours, and one of series.
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let telemetry = Telemetry::new(&context());
    let mut series = Writer::new(&config, &resource(), telemetry, None, PipelineKind::Metrics).unwrap();
    let snapshot = crate::testing::snapshot(42);
    assert_eq!(series.write(Output::Metrics(&snapshot)).failed, 0);
    series.finish();
    let files = find(dir.path()).unwrap();
    let partial = files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "partial"));
    assert_eq!((files.len(), partial.count()), (5, 1), "{files:?}");
    dir
}

const FORMATS: [(Format, Compression); 4] = [
    (Format::Parquet, Compression::Zstd),
    (Format::Parquet, Compression::Snappy),
    (Format::Json, Compression::None),
    (Format::Json, Compression::Gzip),
];

/// (rows, bytes sent, bytes received) of what matches.
fn sums(dir: &Path, query: &Query) -> ((u64, i64, i64), Statistics) {
    let (mut rows, mut sent, mut received) = (0, 0, 0);
    let statistics = scan(&find(dir).unwrap(), query, &[LogField::Comm], |row| {
        rows += 1;
        sent += row.sent;
        received += row.received;
        assert_eq!((row.host, row.comm), ("node1", "my app"));
        assert!(row.peer_address.starts_with("10.0."), "{row:?}");
        assert_eq!(
            row.server_port(),
            if row.is_client { 443 } else { row.local_port }
        );
    });
    assert_eq!(statistics.matching, rows);
    ((rows, sent, received), statistics)
}

#[test]
fn rows_are_the_same_from_every_format_also_of_a_file_that_is_being_written() {
    for (format, compression) in FORMATS {
        let dir = folder(format, compression);
        let (all, statistics) = sums(dir.path(), &Query::default());
        assert_eq!(all, (6000, 60 * 4950, 60 * 100_000), "{format:?} {compression:?}");
        assert_eq!(
            (
                statistics.files,
                statistics.other_files,
                statistics.records,
                statistics.unreadable_files
            ),
            (3, 1, 6000, 0)
        );
    }
}

#[test]
fn conditions_choose_rows_whatever_the_format() {
    for (format, compression) in FORMATS {
        let dir = folder(format, compression);
        let rows = |query: &Query| sums(dir.path(), query).0;
        let time = Query {
            from: Some(at(10)),
            to: Some(at(12)),
            ..Query::default()
        };
        assert_eq!(
            rows(&time),
            (200, 2 * 4950, 200_000),
            "{format:?} {compression:?}"
        );
        // Indices 7 to 13 have this peer.
        let single = Query {
            peer: Network::new(peer(7), 32),
            ..time
        };
        assert_eq!(rows(&single), (14, 2 * 70, 14_000));
        let range = Query {
            peer: Network::new(Ipv4Addr::new(10, 0, 0, 0).into(), 23),
            ..time
        };
        assert_eq!(rows(&range).0, 28);
        let failed = Query {
            failed: true,
            ..single
        };
        assert_eq!(rows(&failed), (2, 2 * 10, 2000));
        let nobody = Query {
            peer: Network::new(Ipv4Addr::new(10, 9, 9, 9).into(), 32),
            ..Query::default()
        };
        assert_eq!(rows(&nobody).0, 0);
    }
}

#[test]
fn row_groups_that_cannot_match_are_not_read() {
    let dir = folder(Format::Parquet, Compression::Zstd);
    let read = |query: &Query| sums(dir.path(), query).1.read;
    // The journal of the last ten seconds is read in any case.
    let journal = 60 * 100
        - read(&Query {
            from: Some(at(60)),
            ..Query::default()
        });
    let first = Query {
        to: Some(at(3)),
        ..Query::default()
    };
    assert_eq!(read(&Query::default()), 6000);
    assert!(journal > 4000, "{journal}");
    assert!(read(&first) < 4000, "{}", read(&first));
    let nobody = Query {
        peer: Network::new(Ipv4Addr::new(172, 16, 9, 9).into(), 32),
        ..Query::default()
    };
    assert!(read(&nobody) < 2000, "by the Bloom filters: {}", read(&nobody));
}

#[test]
fn a_file_that_cannot_be_read_is_reported_and_the_others_are_read() {
    let dir = folder(Format::Parquet, Compression::Zstd);
    let bad = dir.path().join("flowtap-logs-x-20260102T030000Z.parquet");
    fs::write(&bad, "PAR1 and no footer").unwrap();
    let (all, statistics) = sums(dir.path(), &Query::default());
    assert_eq!(all.0, 6000);
    assert_eq!(statistics.unreadable_files, 1);
    assert_eq!(statistics.unreadable[0].0, bad);
}

#[test]
fn a_network_has_its_addresses_and_no_others() {
    let network = |text: &str, bits| Network::new(text.parse().unwrap(), bits).unwrap();
    assert!(network("10.1.0.0", 16).contains("10.1.255.255".parse().unwrap()));
    assert!(!network("10.1.0.0", 16).contains("10.2.0.0".parse().unwrap()));
    assert!(network("10.1.2.3", 0).contains("192.0.2.1".parse().unwrap()));
    assert!(!network("0.0.0.0", 0).contains("::1".parse().unwrap()));
    assert!(network("2001:db8::", 32).contains("2001:db8:ffff::1".parse().unwrap()));
    assert_eq!(
        network("192.0.2.1", 32).single(),
        Some("192.0.2.1".parse().unwrap())
    );
    assert_eq!(network("192.0.2.1", 31).single(), None);
    assert_eq!(Network::new("192.0.2.1".parse().unwrap(), 33), None);
}

#[test]
fn findings_are_not_connections() {
    for (format, compression) in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            path: dir.path().display().to_string(),
            format,
            compression: Some(compression),
            ..Config::default()
        };
        let telemetry = Telemetry::new(&context());
        let mut writer = Writer::new(&config, &resource(), telemetry, None, PipelineKind::Logs).unwrap();
        let mut batch = batch(0, 10);
        batch.records[3].body = LogBody::Finding(Box::new(FindingLog {
            kind: FindingKind::ALL[0],
            subject: "web".into(),
            object: "".into(),
            text: "a test".into(),
            numbers: String::new(),
        }));
        assert_eq!(writer.write(Output::logs(&batch)).sent, 10);
        writer.finish();
        let statistics = scan(&find(dir.path()).unwrap(), &Query::default(), &[], |row| {
            assert!(row.is_last(), "{row:?}");
        });
        assert_eq!((statistics.records, statistics.matching), (10, 9), "{format:?}");
    }
}
