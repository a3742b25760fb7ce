use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, BinaryArray, DictionaryArray, Int32Array, LargeStringArray, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, UInt32Array,
};
use arrow_schema::{Field, Schema};

use flowtap_pipeline::log::{Datagrams, FindingLog, Outcome, UdpLog};
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

fn files(dir: &Path) -> Files {
    let mut files = Files::default();
    files.add(dir).unwrap();
    files
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
    let files: Vec<_> = files(dir.path())
        .found
        .into_iter()
        .map(|file| file.path)
        .collect();
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
    let statistics = scan(&files(dir), query, &[LogField::Comm], |row| {
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
            ..time.clone()
        };
        assert_eq!(rows(&single), (14, 2 * 70, 14_000));
        let range = Query {
            peer: Network::new(Ipv4Addr::new(10, 0, 0, 0).into(), 23),
            ..time.clone()
        };
        assert_eq!(rows(&range).0, 28);
        let failed = Query {
            failed: true,
            ..single.clone()
        };
        assert_eq!(rows(&failed), (2, 2 * 10, 2000));
        let of_pipeline = |name: &str| Query {
            pipeline: Some(name.to_owned()),
            ..single.clone()
        };
        assert_eq!(
            rows(&of_pipeline(&batch(0, 0).pipeline)).0,
            14,
            "{format:?} {compression:?}"
        );
        assert_eq!(rows(&of_pipeline("logs/other")).0, 0);
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
        let counts = Datagrams {
            sent_bytes: 40,
            received_bytes: 4_711,
            ..Datagrams::default()
        };
        batch.records[4].body = LogBody::Udp(UdpLog {
            outcome: Outcome::Idle,
            delta: counts,
            total: counts,
            ..UdpLog::default()
        });
        assert_eq!(writer.write(Output::logs(&batch)).sent, 10);
        writer.finish();
        let mut udp = Vec::new();
        let statistics = scan(&files(dir.path()), &Query::default(), &[], |row| {
            assert!(row.is_last(), "{row:?}");
            if row.is_udp() {
                udp.push((row.outcome.to_owned(), row.sent, row.received, row.retransmits));
            }
        });
        assert_eq!(udp, [("idle".to_owned(), 40, 4_711, 0)], "{format:?}");
        assert_eq!((statistics.records, statistics.matching), (10, 9), "{format:?}");
        assert_eq!(statistics.others, [("flowtap.finding".to_owned(), 1)].into());
    }
}

/// Writes the records of ten seconds, all in one file; `finish`: not a file that is being written.
fn write(dir: &Path, format: Format, compression: Compression, finish: bool) -> (Writer, PathBuf) {
    let config = Config {
        path: dir.display().to_string(),
        format,
        compression: Some(compression),
        ..Config::default()
    };
    let mut writer = Writer::new(
        &config,
        &resource(),
        Telemetry::new(&context()),
        None,
        PipelineKind::Logs,
    )
    .unwrap();
    writer.prepare().unwrap();
    for second in 0..10 {
        assert_eq!(writer.write(Output::logs(&batch(second, 100))).sent, 100);
    }
    if finish {
        writer.finish();
    }
    let [file] = &files(dir).found[..] else {
        panic!("one file")
    };
    let path = file.path.clone();
    (writer, path)
}

/// Reports of files: those that were not read, and those that were read in part.
fn reports(statistics: &Statistics) -> [Vec<String>; 2] {
    [&statistics.unreadable, &statistics.damaged]
        .map(|files| files.iter().map(|(_, text)| text.clone()).collect())
}

#[test]
fn a_second_scan_reads_what_the_first_did_while_the_files_grow_and_are_finished() {
    for (format, compression) in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, _) = write(dir.path(), format, compression, false);
        let found = files(dir.path());
        let rows = |files: &Files| {
            let mut times = Vec::new();
            let statistics = scan(files, &Query::default(), &[], |row| {
                times.push((row.at, row.sent));
            });
            assert_eq!(reports(&statistics), [Vec::<String>::new(), Vec::new()]);
            (times, statistics)
        };
        let before = rows(&found);
        assert_eq!(before.0.len(), 1000);
        assert_eq!(writer.write(Output::logs(&batch(10, 100))).sent, 100);
        assert_eq!(rows(&found), before, "{format:?} {compression:?} that grows");
        writer.finish();
        assert_eq!(
            rows(&found),
            before,
            "{format:?} {compression:?} that is finished"
        );
        assert_eq!(rows(&files(dir.path())).0.len(), 1100);
        // Retention removes it.
        for entry in fs::read_dir(dir.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert_eq!(rows(&found), before, "{format:?} {compression:?} that is removed");
    }
}

#[test]
fn damage_in_a_file_that_is_being_written_is_reported_and_a_torn_end_is_not() {
    for (format, compression) in [FORMATS[0], FORMATS[2], FORMATS[3]] {
        let dir = tempfile::tempdir().unwrap();
        let (_writer, path) = write(dir.path(), format, compression, false);
        let whole = fs::read(&path).unwrap();
        let scanned = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            scan(&files(dir.path()), &Query::default(), &[], |_| {})
        };
        let torn = scanned(&whole[..whole.len() - 20]);
        assert_eq!(reports(&torn), [Vec::<String>::new(), Vec::new()], "{format:?}");
        assert!((900..1000).contains(&torn.matching), "{}", torn.matching);

        let middle = whole.len() / 2;
        let mut inverted = whole.clone();
        for byte in &mut inverted[middle..middle + 20] {
            *byte = !*byte;
        }
        let damaged = scanned(&inverted);
        let reported = reports(&damaged);
        assert!(
            reported[0].is_empty() && reported[1].len() == 1,
            "{format:?} {reported:?}"
        );
        assert!(
            (700..1000).contains(&damaged.matching),
            "{format:?} {}",
            damaged.matching
        );

        // The first bytes are gone: of a journal with them the schema.
        let cut = scanned(&whole[4..]);
        let (rows, unreadable, damaged) = match (format, compression) {
            (Format::Parquet, _) => (0, 1, 0),
            (Format::Json, Compression::Gzip) => (900, 0, 1),
            (Format::Json, _) => (999, 0, 1),
        };
        assert_eq!(
            (cut.matching, cut.unreadable_files, cut.damaged_files),
            (rows, unreadable, damaged),
            "{format:?} {compression:?} {:?}",
            reports(&cut)
        );
        let all: Vec<_> = whole.iter().map(|byte| !*byte).collect();
        assert_eq!(scanned(&all).unreadable_files, 1, "{format:?}");
    }
}

#[test]
fn a_finished_file_of_lines_that_ends_too_early_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = write(dir.path(), Format::Json, Compression::Gzip, true);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    let statistics = scan(&files(dir.path()), &Query::default(), &[], |_| {});
    assert_eq!((statistics.matching, statistics.damaged_files), (900, 1));
    assert!(reports(&statistics)[1][0].ends_with("bytes are not whole"));
}

#[test]
fn a_bad_line_costs_that_line_and_is_reported_with_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = write(dir.path(), Format::Json, Compression::None, true);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let long = "x".repeat(3 << 20);
    let bad_time = lines[0].replace("2026-01-02T", "soon");
    let no_utf8: &[u8] = b"{\"event\": \"\xff\"}";
    let text = [
        lines[..7].join("\n").as_bytes(),
        b"{\"event\": 7}",
        bad_time.as_bytes(),
        long.as_bytes(),
        no_utf8,
        lines[7..].join("\n").as_bytes(),
    ]
    .join(&b'\n');
    // The last line has no line break at its end.
    fs::write(&path, text).unwrap();
    let statistics = scan(&files(dir.path()), &Query::default(), &[], |_| {});
    assert_eq!((statistics.matching, statistics.records), (1000, 1000));
    let [unreadable, damaged] = reports(&statistics);
    assert!(unreadable.is_empty());
    assert!(
        damaged[0].starts_with("4 lines not read, the first of them line 8: invalid type"),
        "{damaged:?}"
    );
}

#[test]
fn only_events_of_connections_are_counted_whatever_their_fields() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = write(dir.path(), Format::Json, Compression::None, true);
    let text = fs::read_to_string(&path).unwrap();
    let foreign = text
        .lines()
        .next()
        .unwrap()
        .replace("flowtap.tcp.connection", "example.request");
    assert!(foreign.contains("outcome"));
    fs::write(&path, format!("{text}{foreign}\n")).unwrap();
    let statistics = scan(&files(dir.path()), &Query::default(), &[], |_| {});
    assert_eq!((statistics.matching, statistics.records), (1000, 1001));
    assert_eq!(statistics.others, [("example.request".to_owned(), 1)].into());
    let failed = Query {
        failed: true,
        ..Query::default()
    };
    let statistics = scan(&files(dir.path()), &failed, &[], |_| {});
    assert_eq!((statistics.matching, statistics.others.len()), (200, 0));
}

/// Writes a file of the exporter again, with columns as another program has them; `None` removes one.
fn rewrite(path: &Path, change: impl Fn(&str, &ArrayRef) -> Option<ArrayRef>) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let mut writer: Option<ArrowWriter<File>> = None;
    let to = path.with_extension("rewritten");
    for batch in reader.build().unwrap() {
        let batch = batch.unwrap();
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns());
        let (fields, columns): (Vec<_>, Vec<_>) = columns
            .filter_map(|(field, column)| {
                let column = change(field.name(), column)?;
                Some((Field::new(field.name(), column.data_type().clone(), true), column))
            })
            .unzip();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let writer = writer.get_or_insert_with(|| {
            ArrowWriter::try_new(File::create(&to).unwrap(), batch.schema(), None).unwrap()
        });
        writer.write(&batch).unwrap();
    }
    writer.unwrap().close().unwrap();
    fs::rename(to, path).unwrap();
}

fn text(column: &ArrayRef) -> Option<&StringArray> {
    column.as_string_opt::<i32>()
}

fn time(column: &ArrayRef) -> Option<&TimestampMicrosecondArray> {
    column.as_primitive_opt::<TimestampMicrosecondType>()
}

#[test]
fn parquet_that_others_rewrote_has_the_same_records_whatever_the_width_of_its_columns() {
    type Change = fn(&str, &ArrayRef) -> Option<ArrayRef>;
    let changes: [(&str, Change); 8] = [
        ("nanoseconds", |_, column| {
            let Some(times) = time(column) else {
                return Some(Arc::clone(column));
            };
            Some(Arc::new(
                times.unary::<_, _>(|at| at * 1000 + 999) as TimestampNanosecondArray
            ))
        }),
        ("milliseconds", |_, column| {
            let Some(times) = time(column) else {
                return Some(Arc::clone(column));
            };
            Some(Arc::new(
                times.unary::<_, _>(|at| at / 1000) as TimestampMillisecondArray
            ))
        }),
        ("large strings", |_, column| {
            let Some(texts) = text(column) else {
                return Some(Arc::clone(column));
            };
            Some(Arc::new(texts.iter().collect::<LargeStringArray>()))
        }),
        ("dictionaries", |_, column| {
            let Some(texts) = text(column) else {
                return Some(Arc::clone(column));
            };
            Some(Arc::new(texts.iter().collect::<DictionaryArray<Int32Type>>()))
        }),
        ("bytes", |_, column| {
            let Some(texts) = text(column) else {
                return Some(Arc::clone(column));
            };
            let values = texts.iter().map(|text| text.map(str::as_bytes));
            Some(Arc::new(values.collect::<BinaryArray>()))
        }),
        ("int32", |_, column| {
            let Some(numbers) = column.as_primitive_opt::<Int64Type>() else {
                return Some(Arc::clone(column));
            };
            Some(Arc::new(
                numbers.unary::<_, _>(|number| i32::try_from(number).unwrap_or(0)) as Int32Array,
            ))
        }),
        ("uint32", |_, column| {
            let Some(numbers) = column.as_primitive_opt::<Int64Type>() else {
                return Some(Arc::clone(column));
            };
            Some(Arc::new(
                numbers.unary::<_, _>(|number| u32::try_from(number).unwrap_or(0)) as UInt32Array,
            ))
        }),
        // As an earlier version did not have all.
        ("fewer columns", |name, column| {
            (!["min_rtt", "local_workload"].contains(&name)).then(|| Arc::clone(column))
        }),
    ];
    for (what, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        let (_, path) = write(dir.path(), Format::Parquet, Compression::Zstd, true);
        let queries = [
            Query::default(),
            Query {
                from: Some(at(3)),
                to: Some(at(5)),
                ..Query::default()
            },
            Query {
                peer: Network::new(peer(7), 32),
                ..Query::default()
            },
            Query {
                failed: true,
                from: Some(at(9)),
                ..Query::default()
            },
        ];
        let answers = || queries.each_ref().map(|query| sums(dir.path(), query).0);
        let before = answers();
        assert_eq!(before.map(|sums| sums.0), [1000, 200, 70, 20]);
        rewrite(&path, change);
        assert_eq!(answers(), before, "{what}");
    }
}

#[test]
fn parquet_with_columns_of_other_types_is_not_read_and_the_column_is_named() {
    type Change = fn(&str, &ArrayRef) -> Option<ArrayRef>;
    let integers: Change = |name, column| match time(column) {
        Some(times) if name == "timestamp" => Some(Arc::new(times.unary::<_, Int64Type>(|at| at))),
        _ => Some(Arc::clone(column)),
    };
    let strings: Change = |name, column| match time(column) {
        Some(times) if name == "timestamp" => {
            let texts = times.iter().map(|at| at.map(|at| at.to_string()));
            Some(Arc::new(texts.collect::<StringArray>()))
        }
        _ => Some(Arc::clone(column)),
    };
    let text_bytes: Change = |name, column| match column.as_primitive_opt::<Int64Type>() {
        Some(numbers) if name == "source_bytes" => {
            let texts = numbers.iter().map(|at| at.map(|at| at.to_string()));
            Some(Arc::new(texts.collect::<StringArray>()))
        }
        _ => Some(Arc::clone(column)),
    };
    let no_role: Change = |name, column| (name != "role").then(|| Arc::clone(column));
    let no_time: Change = |name, column| (name != "timestamp").then(|| Arc::clone(column));
    for (change, expected) in [
        (
            integers,
            "column `timestamp` has the type Int64; expected a timestamp",
        ),
        (
            strings,
            "column `timestamp` has the type Utf8; expected a timestamp",
        ),
        (
            text_bytes,
            "column `source_bytes` has the type Utf8; expected an integer",
        ),
        (no_role, "it has no column `role`"),
        (no_time, "it has no column `timestamp`"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (_, path) = write(dir.path(), Format::Parquet, Compression::Zstd, true);
        rewrite(&path, change);
        for from in [None, Some(at(3))] {
            let query = Query {
                from,
                ..Query::default()
            };
            let statistics = scan(&files(dir.path()), &query, &[], |_| panic!("a row"));
            let [unreadable, _] = reports(&statistics);
            assert!(unreadable[0].starts_with(expected), "{unreadable:?}");
        }
    }
    // Records without a time are not of 1970, nor those of a time that no record can have.
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = write(dir.path(), Format::Parquet, Compression::Zstd, true);
    rewrite(&path, |name, column| match time(column) {
        Some(times) if name == "timestamp" => {
            let some = (0..times.len()).map(|index| match index {
                5 => None,
                15 => Some(253_402_300_800_000_000),
                25 => Some(i64::MAX),
                35 => Some(-1),
                _ => Some(times.value(index)),
            });
            Some(Arc::new(some.collect::<TimestampMicrosecondArray>()))
        }
        _ => Some(Arc::clone(column)),
    });
    for (from, rows) in [(None, 996), (Some(at(3)), 700)] {
        let query = Query {
            from,
            ..Query::default()
        };
        let statistics = scan(&files(dir.path()), &query, &[], |row| assert!(row.at > 0));
        assert_eq!(statistics.matching, rows);
        assert_eq!(
            reports(&statistics)[1],
            ["4 records without a time from 1970 to 9999 not read"]
        );
    }
}

#[test]
fn a_file_whose_footer_makes_the_decoder_panic_is_reported_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        path: dir.path().display().to_string(),
        format: Format::Parquet,
        ..Config::default()
    };
    let telemetry = Telemetry::new(&context());
    let mut writer = Writer::new(&config, &resource(), telemetry, None, PipelineKind::Logs).unwrap();
    writer.prepare().unwrap();
    assert_eq!(writer.write(Output::logs(&batch(0, 10))).sent, 10);
    writer.finish();
    let good = files(dir.path()).found[0].path.clone();
    let whole = fs::read(&good).unwrap();
    let footer = u32::from_le_bytes(whole[whole.len() - 8..whole.len() - 4].try_into().unwrap());
    let begin = whole.len() - 8 - usize::try_from(footer).unwrap();
    let path = dir.path().join("bad.parquet");
    let query = Query {
        peer: Network::new(peer(7), 32),
        ..Query::default()
    };
    let mut panics = 0;
    // The lowest bit of a number is its sign. Every byte of it has a turn until one damage is what this is about.
    for index in begin..whole.len() - 8 {
        if panics > 0 {
            break;
        }
        let mut bytes = whole.clone();
        bytes[index] ^= 1;
        fs::write(&path, bytes).unwrap();
        let statistics = scan(&files(dir.path()), &query, &[LogField::Comm], |_| {});
        assert!(statistics.matching >= 3, "{index}: {}", statistics.matching);
        let [unreadable, damaged] = reports(&statistics);
        let mut reported = unreadable.iter().chain(&damaged);
        panics += u32::from(reported.any(|report| report.contains("its contents contradict each other")));
    }
    assert!(panics > 0, "no damage made the decoder panic");
}

#[test]
fn links_are_followed_once_and_what_cannot_be_listed_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    write(elsewhere.path(), Format::Json, Compression::None, true);
    symlink(elsewhere.path(), dir.path().join("link")).unwrap();
    symlink(elsewhere.path(), dir.path().join("again")).unwrap();
    symlink(dir.path(), dir.path().join("around")).unwrap();
    let statistics = scan(&files(dir.path()), &Query::default(), &[], |_| {});
    assert_eq!((statistics.matching, statistics.unreadable_files), (1000, 0));
    // The same folder twice, in one question.
    let mut twice = files(dir.path());
    twice.add(elsewhere.path()).unwrap();
    assert_eq!(scan(&twice, &Query::default(), &[], |_| {}).matching, 1000);

    let broken = dir.path().join("broken");
    symlink("/nowhere/at/all", &broken).unwrap();
    let deep = dir.path().join("1/2/3/4/5/6/7/8/9");
    fs::create_dir_all(&deep).unwrap();
    let statistics = scan(&files(dir.path()), &Query::default(), &[], |_| {});
    assert_eq!(statistics.matching, 1000);
    let mut paths: Vec<_> = statistics
        .unreadable
        .iter()
        .map(|(path, _)| path.clone())
        .collect();
    paths.sort();
    assert_eq!(paths, [deep, broken]);
    // Its rows are in the recovered file.
    let corrupt = elsewhere.path().join("x.jsonl.corrupt");
    fs::write(&corrupt, "{}").unwrap();
    let statistics = scan(&files(elsewhere.path()), &Query::default(), &[], |_| {});
    assert_eq!(
        (statistics.matching, statistics.unreadable[0].0.clone()),
        (1000, corrupt)
    );
    let missing = dir.path().join("missing");
    assert!(Files::default().add(&missing).is_err());
}
