use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::testing::{BYTES, context, many, resource, snapshot};
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use flowtap_pipeline::{
    ComponentKind, Exported, Family, FamilyKind, FamilySnapshot, LabelValue, Naming, Points, Series,
    Snapshot, State, SumPoint, Timestamp, Unit,
};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use tower::{Service, ServiceExt};

/// 2026-01-02T03:00:00Z
const NOON: u64 = 1_767_322_800;

fn config(dir: &Path, format: Format) -> Config {
    Config {
        path: dir.display().to_string(),
        format,
        ..Config::default()
    }
}

fn writer(config: &Config) -> Writer {
    let mut writer = Writer::new(
        config,
        &resource(),
        Telemetry::new(&context()),
        None,
        PipelineKind::Metrics,
    )
    .unwrap();
    writer.prepare().unwrap();
    writer
}

/// A window of five seconds that ends so many seconds after [`NOON`], with `rows` counters.
fn window(second: u64, rows: u64) -> Snapshot {
    let at = Timestamp::from_nanos((NOON + second) * 1_000_000_000);
    let mut snapshot = Snapshot { at, ..many(rows) };
    if let Points::Sums(points) = &mut snapshot.families[0].points {
        for point in points {
            point.updated = at;
        }
    }
    snapshot
}

fn wrote(rows: u64) -> Exported {
    Exported {
        sent: rows,
        failed: 0,
    }
}

fn failed(rows: u64) -> Exported {
    Exported {
        sent: 0,
        failed: rows,
    }
}

/// The names of the folder's files, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn only_file(dir: &Path) -> PathBuf {
    let names = names(dir);
    assert_eq!(names.len(), 1, "{names:?}");
    dir.join(&names[0])
}

fn lines(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn read_lines(path: &Path) -> Vec<Value> {
    lines(&fs::read_to_string(path).unwrap())
}

fn batches(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    reader.build().unwrap().map(Result::unwrap).collect()
}

fn parquet_rows(path: &Path) -> usize {
    batches(path).iter().map(RecordBatch::num_rows).sum()
}

/// Two pipelines' worth of types: a counter that did not change, a gauge, and by OpenTelemetry's naming a number.
fn various() -> Snapshot {
    const GAUGE: Family = Family {
        name: "active",
        naming: Naming::PrimusLens,
        help: "Connections.",
        unit: Unit::Count("{connection}"),
        kind: FamilyKind::Gauge,
    };
    const OTEL: Family = Family {
        name: "flowtap.io",
        naming: Naming::Otel,
        help: "Bytes.",
        unit: Unit::Bytes,
        kind: FamilyKind::Counter,
    };
    let point = |family: &Family, name, value, updated| SumPoint {
        series: Series::new(family, [(name, value)], None, Timestamp::from_nanos(1_000)),
        total: 9,
        delta: 0,
        updated: Timestamp::from_nanos(updated),
    };
    let family = |family: &'static Family, point| FamilySnapshot {
        family,
        points: Points::Sums(vec![point]),
        ended: Vec::new(),
    };
    let mut various = snapshot(42);
    various.families.extend([
        family(&BYTES, point(&BYTES, "raddr", LabelValue::Text("idle"), 4_000)),
        family(&GAUGE, point(&GAUGE, "type", LabelValue::Text(""), 5_000)),
        family(
            &OTEL,
            point(&OTEL, "network.peer.port", LabelValue::Port(443), 5_000),
        ),
    ]);
    various
}

#[test]
fn exponential_buckets_are_written_with_bounds_of_their_own() {
    let snapshot = crate::testing::exponential(&[0.0, 0.5, 1.0, 1.0]);
    let dir = tempfile::tempdir().unwrap();
    let mut json = writer(&config(dir.path(), Format::Json));
    assert_eq!(json.write(Content::Metrics(&snapshot)), wrote(1));
    json.finish();
    let line = read_lines(&only_file(dir.path())).remove(0);
    let numbers = |key: &str| -> Vec<f64> {
        let list = line[key].as_array().unwrap().iter();
        list.map(|number| number.as_f64().unwrap()).collect()
    };
    let (bounds, buckets) = (numbers("bounds"), numbers("buckets"));
    assert_eq!(line["type"], "histogram");
    assert_eq!(buckets.len(), bounds.len() + 1);
    assert!((buckets.iter().sum::<f64>() - 4.0).abs() < 1e-9);
    let one = bounds
        .iter()
        .position(|bound| (bound - 1.0).abs() < 1e-9)
        .unwrap();
    assert!(buckets[0] > 0.5 && buckets[one] > 1.5, "{buckets:?}");

    let dir = tempfile::tempdir().unwrap();
    let mut parquet = writer(&config(dir.path(), Format::Parquet));
    assert_eq!(parquet.write(Content::Metrics(&snapshot)), wrote(1));
    parquet.finish();
    let batch = batches(&only_file(dir.path())).remove(0);
    let column = |name: &str| batch.column_by_name(name).unwrap().as_list::<i32>().value(0);
    assert_eq!(column("buckets").len(), column("bounds").len() + 1);
    assert_eq!(column("bounds").len(), bounds.len());
}

#[test]
fn each_changed_series_is_a_line_that_is_read_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&config(dir.path(), Format::Json));
    assert_eq!(writer.write(Content::Metrics(&various())), wrote(4));
    assert_eq!(
        names(dir.path()),
        ["flowtap-metrics-node1-19700101T000000Z.jsonl.partial"]
    );
    // Lines can be read before their file is finished.
    assert_eq!(read_lines(&only_file(dir.path())).len(), 4);
    writer.finish();
    assert_eq!(
        names(dir.path()),
        ["flowtap-metrics-node1-19700101T000000Z.jsonl"]
    );
    let row = |more: Value| {
        let mut row = json!({
            "window_start": "1970-01-01T00:00:00.000000Z", "window_end": "1970-01-01T00:00:00.000005Z",
            "host": "node1", "instance": resource().instance(), "version": env!("CARGO_PKG_VERSION"),
            "schema_version": 1, "naming": "primus_lens",
            "pipeline": "metrics", "unit": "By", "type": "counter",
        });
        row.as_object_mut()
            .unwrap()
            .append(&mut more.as_object().unwrap().clone());
        row
    };
    let bounds = [
        0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
    ];
    assert_eq!(
        read_lines(&only_file(dir.path())),
        [
            row(json!({
                "name": "primus_lens_network_bytes", "labels": {"raddr": "192.0.2.7"}, "total": 42, "delta": 42,
            })),
            row(json!({
                "name": "primus_lens_network_rtt", "type": "histogram", "unit": "us", "labels": {"raddr": "a\"b\\c\nd"},
                "count": 7, "sum": 12.5, "bounds": bounds,
                "buckets": [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            })),
            row(json!({
                "name": "primus_lens_active", "type": "gauge", "unit": "{connection}", "labels": {"type": ""}, "total": 9,
            })),
            row(json!({
                "name": "flowtap.io", "naming": "otel", "labels": {"network.peer.port": "443"}, "total": 9, "delta": 0,
            })),
        ]
    );
}

#[test]
fn the_same_in_parquet_with_labels_as_a_map_whatever_packs_it() {
    for compression in [Compression::None, Compression::Snappy, Compression::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(&Config {
            compression: Some(compression),
            ..config(dir.path(), Format::Parquet)
        });
        assert_eq!(writer.write(Content::Metrics(&various())), wrote(4));
        writer.finish();
        assert_eq!(
            names(dir.path()),
            ["flowtap-metrics-node1-19700101T000000Z.parquet"]
        );
        let batches = batches(&only_file(dir.path()));
        let [batch] = &batches[..] else {
            panic!("one batch, not {}", batches.len());
        };
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let texts = |name: &str| -> Vec<_> {
            let column = column(name).as_string::<i32>();
            column.iter().map(|text| text.unwrap().to_owned()).collect()
        };
        let integers = |name: &str| -> Vec<_> { column(name).as_primitive::<Int64Type>().iter().collect() };
        assert_eq!(
            texts("name"),
            [
                "primus_lens_network_bytes",
                "primus_lens_network_rtt",
                "primus_lens_active",
                "flowtap.io"
            ]
        );
        assert_eq!(texts("type"), ["counter", "histogram", "gauge", "counter"]);
        assert_eq!(texts("host"), ["node1"; 4]);
        assert_eq!(texts("instance"), [resource().instance(); 4]);
        assert_eq!(
            texts("naming"),
            ["primus_lens", "primus_lens", "primus_lens", "otel"]
        );
        assert_eq!(integers("schema_version"), [Some(1); 4]);
        assert_eq!(texts("unit"), ["By", "us", "{connection}", "By"]);
        assert_eq!(integers("total"), [Some(42), None, Some(9), Some(9)]);
        assert_eq!(integers("delta"), [Some(42), None, None, Some(0)]);
        assert_eq!(integers("count"), [None, Some(7), None, None]);
        let sums: Vec<_> = column("sum").as_primitive::<Float64Type>().iter().collect();
        assert_eq!(sums, [None, Some(12.5), None, None]);
        let ends = column("window_end").as_primitive::<TimestampMicrosecondType>();
        assert_eq!((ends.value(0), ends.timezone()), (5, Some("UTC")));
        let buckets = column("buckets").as_list::<i32>();
        assert!(buckets.is_null(0) && buckets.is_valid(1));
        let buckets = buckets.value(1);
        assert_eq!(buckets.as_primitive::<Int64Type>().values()[..4], [1, 2, 3, 0]);
        assert_eq!(column("bounds").as_list::<i32>().value(1).len(), 16);
        let labels: Vec<_> = (0..4)
            .map(|row| {
                let entries = column("labels").as_map().value(row);
                let text = |column: usize| entries.column(column).as_string::<i32>().value(0).to_owned();
                (text(0), text(1))
            })
            .collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            labels,
            [
                pair("raddr", "192.0.2.7"),
                pair("raddr", "a\"b\\c\nd"),
                pair("type", ""),
                pair("network.peer.port", "443")
            ]
        );
    }
}

#[test]
fn packed_lines_are_read_back_window_by_window() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&Config {
        compression: Some(Compression::Gzip),
        ..config(dir.path(), Format::Json)
    });
    for second in [5, 10] {
        // More than one chunk of lines.
        assert_eq!(
            writer.write(Content::Metrics(&window(second, 10_000))),
            wrote(10_000)
        );
    }
    // Also before the file is finished.
    for name in [
        "flowtap-metrics-node1-20260102T030000Z.jsonl.gz.partial",
        "flowtap-metrics-node1-20260102T030000Z.jsonl.gz",
    ] {
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(File::open(dir.path().join(name)).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(lines(&text).len(), 20_000);
        writer.finish();
    }
}

#[test]
fn a_file_is_finished_with_the_window_that_fills_it() {
    for (format, max_bytes) in [(Format::Json, 30_000), (Format::Parquet, 4_000)] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(&Config {
            rotation: Rotation {
                max_bytes,
                ..Rotation::default()
            },
            ..config(dir.path(), format)
        });
        for second in 1..=20 {
            assert_eq!(
                writer.write(Content::Metrics(&window(5 * second, 100))),
                wrote(100)
            );
        }
        writer.finish();
        let names = names(dir.path());
        assert!(names.len() > 1, "{names:?}");
        let rows = names.iter().map(|name| {
            let path = dir.path().join(name);
            assert!(fs::metadata(&path).unwrap().len() < 3 * max_bytes, "{name}");
            match format {
                Format::Json => read_lines(&path).len(),
                Format::Parquet => parquet_rows(&path),
            }
        });
        assert_eq!(rows.sum::<usize>(), 2000);
    }
}

#[test]
fn a_file_spans_max_age_by_the_time_of_windows() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&Config {
        rotation: Rotation {
            max_age: Duration::from_secs(10),
            ..Rotation::default()
        },
        ..config(dir.path(), Format::Json)
    });
    // 65 ends a file although nothing changed in it; at 3 the clock was set back; at 8 is a name that was there already.
    for (second, rows) in [
        (5, 1),
        (10, 1),
        (15, 1),
        (40, 1),
        (45, 0),
        (60, 1),
        (65, 0),
        (3, 1),
        (8, 1),
        (13, 1),
    ] {
        assert_eq!(writer.write(Content::Metrics(&window(second, rows))), wrote(rows));
    }
    writer.finish();
    assert_eq!(
        names(dir.path()),
        [
            "flowtap-metrics-node1-20260102T025958Z.jsonl",
            "flowtap-metrics-node1-20260102T030000Z.jsonl",
            "flowtap-metrics-node1-20260102T030008Z.jsonl",
            "flowtap-metrics-node1-20260102T030010Z.jsonl",
            "flowtap-metrics-node1-20260102T030035Z.jsonl",
            "flowtap-metrics-node1-20260102T030055Z.jsonl",
        ]
    );
    let spanned = read_lines(&dir.path().join("flowtap-metrics-node1-20260102T030000Z.jsonl"));
    assert_eq!(spanned.len(), 2);
}

#[test]
fn the_newest_files_are_kept_and_files_of_others_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    for other in [
        "notes.jsonl",
        "flowtap-metrics-node1-old.jsonl",
        "flowtap-metrics-node1-19990101T000000Z.jsonl.bak",
    ] {
        fs::write(dir.path().join(other), "mine").unwrap();
    }
    fs::write(
        dir.path().join("flowtap-metrics-node1-19990101T000000Z.jsonl"),
        "{}\n",
    )
    .unwrap();
    let limited = |max_files| Config {
        rotation: Rotation {
            max_bytes: 1,
            max_files,
            ..Rotation::default()
        },
        ..config(dir.path(), Format::Json)
    };
    // Each window fills a file; the first two begin in the same second.
    let mut writer = writer(&limited(0));
    for second in [5, 5, 10, 15] {
        assert_eq!(writer.write(Content::Metrics(&window(second, 1))), wrote(1));
    }
    assert_eq!(names(dir.path()).len(), 3 + 5);
    drop(writer);
    let mut writer = self::writer(&limited(3));
    let others = [
        "flowtap-metrics-node1-19990101T000000Z.jsonl.bak",
        "flowtap-metrics-node1-old.jsonl",
        "notes.jsonl",
    ];
    let kept = |newest: [&str; 3]| {
        let mut expected: Vec<_> = newest.into_iter().chain(others).map(str::to_owned).collect();
        expected.sort();
        expected
    };
    assert_eq!(
        names(dir.path()).len(),
        3 + 5,
        "until a window comes nothing is known to be old"
    );
    assert_eq!(writer.write(Content::Metrics(&window(20, 1))), wrote(1));
    assert_eq!(
        names(dir.path()),
        kept([
            "flowtap-metrics-node1-20260102T030005Z.jsonl",
            "flowtap-metrics-node1-20260102T030010Z.jsonl",
            "flowtap-metrics-node1-20260102T030015Z.jsonl"
        ])
    );
}

#[test]
fn files_of_a_clock_that_was_ahead_count_and_cost_no_file_of_now() {
    let dir = tempfile::tempdir().unwrap();
    let future = [1, 2, 3].map(|second| format!("flowtap-metrics-node1-20990101T00000{second}Z.jsonl"));
    for name in &future {
        fs::write(dir.path().join(name), "{}\n").unwrap();
    }
    let mut writer = writer(&Config {
        rotation: Rotation {
            max_bytes: 1,
            max_files: 3,
            ..Rotation::default()
        },
        ..config(dir.path(), Format::Json)
    });
    for second in [5, 10, 15, 20, 25] {
        assert_eq!(writer.write(Content::Metrics(&window(second, 1))), wrote(1));
        let newest = names(dir.path()).into_iter().rfind(|name| !future.contains(name));
        let expected = format!("flowtap-metrics-node1-20260102T0300{:02}Z.jsonl", second - 5);
        assert_eq!(newest, Some(expected), "the file just finished");
    }
    // The limit holds: they are the first to go.
    let left = [10, 15, 20].map(|second| format!("flowtap-metrics-node1-20260102T0300{second}Z.jsonl"));
    assert_eq!(names(dir.path()), left);
}

#[test]
fn a_clock_that_is_behind_costs_as_many_files_as_one_that_is_right_and_none_for_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let before = [1, 2, 3].map(|second| format!("flowtap-metrics-node1-20990101T00000{second}Z.jsonl"));
    // Those that are removed for their age leave their places.
    let old = [1, 2, 3].map(|second| format!("flowtap-metrics-node1-20200101T00000{second}Z.jsonl"));
    for name in before.iter().chain(&old) {
        fs::write(dir.path().join(name), "{}\n").unwrap();
    }
    let mut writer = writer(&Config {
        rotation: Rotation {
            max_bytes: 1,
            max_files: 3,
            max_retention: Duration::from_secs(1),
            ..Rotation::default()
        },
        ..config(dir.path(), Format::Json)
    });
    assert_eq!(writer.write(Content::Metrics(&window(5, 1))), wrote(1));
    let own = "flowtap-metrics-node1-20260102T030000Z.jsonl".to_owned();
    assert_eq!(names(dir.path()), [own, before[1].clone(), before[2].clone()]);
}

#[test]
fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("new/folder");
    let mut writer = writer(&config(&folder, Format::Json));
    assert_eq!(writer.write(Content::Metrics(&window(5, 1))), wrote(1));
    writer.finish();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&only_file(&folder)), 0o600);
}

#[test]
fn lines_that_a_crash_left_behind_are_kept_up_to_the_last_that_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let long = format!("{{\"a\":1}}\n{{\"b\":\"{}", "x".repeat(200_000));
    fs::write(file("flowtap-metrics-node1-20260102T030000Z.jsonl.partial"), long).unwrap();
    fs::write(
        file("flowtap-metrics-node1-20260102T030001Z.jsonl.partial"),
        "{\"torn\":",
    )
    .unwrap();
    fs::write(
        file("flowtap-metrics-node1-20260102T030002Z.jsonl.partial"),
        "{\"a\":2}\n",
    )
    .unwrap();
    fs::write(
        file("flowtap-metrics-node1-20260102T030002Z.recovered.jsonl"),
        "{\"a\":3}\n",
    )
    .unwrap();
    fs::write(file("other.partial"), "x").unwrap();
    // This one is being written by somebody else.
    let busy = file("flowtap-metrics-node1-20260102T030003Z.jsonl.partial");
    fs::write(&busy, "{\"a\":4}\n{").unwrap();
    let _lock = Flock::lock(File::open(&busy).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
    writer(&config(dir.path(), Format::Json));
    assert_eq!(
        names(dir.path()),
        [
            "flowtap-metrics-node1-20260102T030000Z.recovered.jsonl",
            "flowtap-metrics-node1-20260102T030002Z-1.recovered.jsonl",
            "flowtap-metrics-node1-20260102T030002Z.recovered.jsonl",
            "flowtap-metrics-node1-20260102T030003Z.jsonl.partial",
            "other.partial",
        ]
    );
    assert_eq!(
        read_lines(&file("flowtap-metrics-node1-20260102T030000Z.recovered.jsonl")),
        [json!({"a": 1})]
    );
    assert_eq!(
        read_lines(&file("flowtap-metrics-node1-20260102T030002Z-1.recovered.jsonl")),
        [json!({"a": 2})]
    );
}

/// A journal of two windows, as a crash leaves it.
fn left_journal(dir: &Path) -> PathBuf {
    let mut left = writer(&config(dir, Format::Parquet));
    for second in [5, 10] {
        assert_eq!(left.write(Content::Metrics(&window(second, 100))), wrote(100));
    }
    drop(left);
    let path = only_file(dir);
    assert!(path.to_str().unwrap().ends_with(".parquet.partial"), "{path:?}");
    path
}

#[test]
fn parquet_that_a_crash_left_behind_has_every_row_that_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let journal = left_journal(dir.path());
    let whole = fs::read(&journal).unwrap();
    // A conversion that was cut short is of no use.
    let converting = journal.with_extension("converting");
    fs::write(&converting, "PAR1").unwrap();
    writer(&config(dir.path(), Format::Parquet));
    let recovered = ["flowtap-metrics-node1-20260102T030000Z.recovered.parquet"];
    assert_eq!(names(dir.path()), recovered);
    assert_eq!(parquet_rows(&only_file(dir.path())), 200);

    // The journal is removed after its file is there: a crash in between doubles no row.
    fs::write(&journal, &whole).unwrap();
    writer(&config(dir.path(), Format::Parquet));
    assert_eq!(names(dir.path()), recovered);

    // A torn write is lost, and those before it are not.
    fs::remove_file(dir.path().join(recovered[0])).unwrap();
    fs::write(&journal, &whole[..whole.len() - 100]).unwrap();
    writer(&config(dir.path(), Format::Parquet));
    assert_eq!(parquet_rows(&only_file(dir.path())), 100);

    // Nothing but a torn write.
    let empty = tempfile::tempdir().unwrap();
    fs::write(
        empty
            .path()
            .join("flowtap-metrics-node1-20260102T030000Z.parquet.partial"),
        &whole[..50],
    )
    .unwrap();
    writer(&config(empty.path(), Format::Parquet));
    assert!(names(empty.path()).is_empty());
}

#[test]
fn packed_lines_that_a_crash_left_behind_are_kept_up_to_the_last_whole_write() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        compression: Some(Compression::Gzip),
        ..config(dir.path(), Format::Json)
    };
    let mut left = writer(&config);
    for second in [5, 10, 15] {
        assert_eq!(left.write(Content::Metrics(&window(second, 10))), wrote(10));
    }
    drop(left);
    let partial = only_file(dir.path());
    let whole = fs::read(&partial).unwrap();
    fs::remove_file(&partial).unwrap();
    for (torn, rows) in [(0, 30), (1, 20), (20, 20)] {
        fs::write(&partial, &whole[..whole.len() - torn]).unwrap();
        writer(&config);
        assert_eq!(
            names(dir.path()),
            ["flowtap-metrics-node1-20260102T030000Z.recovered.jsonl.gz"]
        );
        let mut text = String::new();
        let recovered = only_file(dir.path());
        let mut decoder = flate2::read::MultiGzDecoder::new(File::open(&recovered).unwrap());
        decoder.read_to_string(&mut text).unwrap();
        assert_eq!(lines(&text).len(), rows, "{torn} bytes are missing");
        fs::remove_file(recovered).unwrap();
    }
}

#[test]
fn a_file_with_damage_in_its_middle_is_kept_aside_and_its_other_rows_are_recovered() {
    for (format, compression, extension) in [
        (Format::Parquet, Compression::Zstd, "parquet"),
        (Format::Json, Compression::Gzip, "jsonl.gz"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            compression: Some(compression),
            ..config(dir.path(), format)
        };
        let mut left = writer(&config);
        let mut ends = Vec::new();
        for second in [5, 10, 15] {
            assert_eq!(left.write(Content::Metrics(&window(second, 100))), wrote(100));
            ends.push(usize::try_from(fs::metadata(only_file(dir.path())).unwrap().len()).unwrap());
        }
        drop(left);
        let partial = only_file(dir.path());
        let mut bytes = fs::read(&partial).unwrap();
        for byte in &mut bytes[ends[0] + 30..ends[0] + 40] {
            *byte = !*byte;
        }
        fs::write(&partial, &bytes).unwrap();
        let base = "flowtap-metrics-node1-20260102T030000Z";
        let corrupt = format!("{base}.{extension}.corrupt");
        let recovered = format!("{base}.recovered.{extension}");
        for _ in 0..2 {
            writer(&config);
            assert_eq!(names(dir.path()), [corrupt.clone(), recovered.clone()]);
            assert_eq!(fs::read(dir.path().join(&corrupt)).unwrap(), bytes);
            let path = dir.path().join(&recovered);
            let rows = match format {
                Format::Parquet => parquet_rows(&path),
                Format::Json => {
                    let mut text = String::new();
                    let file = File::open(&path).unwrap();
                    flate2::read::MultiGzDecoder::new(file)
                        .read_to_string(&mut text)
                        .unwrap();
                    lines(&text).len()
                }
            };
            assert_eq!(rows, 200, "{format:?}");
            // A crash before the file was removed: the rows are there once, and so is the damaged file.
            fs::hard_link(dir.path().join(&corrupt), &partial).unwrap();
        }
        fs::remove_file(&partial).unwrap();
        fs::remove_file(dir.path().join(&recovered)).unwrap();

        // Another of this name, with nothing that can be read.
        fs::write(&partial, vec![7; 1000]).unwrap();
        writer(&config);
        let second = format!("{base}.{extension}.1.corrupt");
        assert_eq!(names(dir.path()), [second.clone(), corrupt]);
        assert_eq!(fs::read(dir.path().join(&second)).unwrap(), [7; 1000]);
    }
}

#[test]
fn a_file_that_cannot_be_finished_keeps_its_rows_and_is_finished_later() {
    let Some(disk) = Tiny::mount() else {
        return;
    };
    let dir = disk.0.path();
    let mut writer = writer(&config(dir, Format::Parquet));
    assert_eq!(writer.write(Content::Metrics(&window(5, 100))), wrote(100));
    let ballast = dir.join("ballast");
    // As much as there is room for.
    assert!(fs::write(&ballast, vec![0; 100_000]).is_err());
    // No room for the Parquet file beside its journal.
    writer.finish();
    assert_eq!(
        names(dir),
        [
            "ballast",
            "flowtap-metrics-node1-20260102T030000Z.parquet.partial"
        ]
    );
    fs::remove_file(&ballast).unwrap();
    // Not at once: a disk that is full is not asked with each window.
    assert_eq!(writer.write(Content::Metrics(&window(10, 0))), wrote(0));
    assert_eq!(names(dir).len(), 1);
    assert_eq!(writer.write(Content::Metrics(&window(70, 0))), wrote(0));
    assert_eq!(
        names(dir),
        ["flowtap-metrics-node1-20260102T030000Z.recovered.parquet"]
    );
    assert_eq!(parquet_rows(&only_file(dir)), 100);
}

#[test]
fn partitions_have_the_rows_of_their_hour() {
    for format in [Format::Json, Format::Parquet] {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("{}/date={{date}}/hour={{hour}}", dir.path().display());
        let mut writer = writer(&Config {
            path,
            format,
            ..Config::default()
        });
        // The second window begins in the first hour.
        for second in [5, 3602, 3607] {
            assert_eq!(writer.write(Content::Metrics(&window(second, 10))), wrote(10));
        }
        writer.finish();
        let rows = |hour: &str| {
            let path = only_file(&dir.path().join("date=2026-01-02").join(hour));
            match format {
                Format::Json => read_lines(&path).len(),
                Format::Parquet => parquet_rows(&path),
            }
        };
        assert_eq!((rows("hour=03"), rows("hour=04")), (20, 10), "{format:?}");
    }
}

#[test]
fn records_of_one_batch_are_in_the_partition_of_their_own_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        path: format!("{}/{{kind}}/hour={{hour}}", dir.path().display()),
        ..Config::default()
    };
    let telemetry = Telemetry::new(&context());
    let mut writer = Writer::new(&config, &resource(), telemetry, None, PipelineKind::Logs).unwrap();
    let mut batch = crate::testing::logs();
    let at = |second: u64| Timestamp::from_nanos((NOON + second) * 1_000_000_000);
    batch.at = at(3601);
    // Not in the order of time: the later one is first.
    batch.records[0].at = at(3600);
    batch.records[1].at = at(3599);
    assert_eq!(writer.write(Content::logs(&batch)), wrote(2));
    writer.finish();
    for (hour, time) in [
        ("03", "2026-01-02T03:59:59.000000Z"),
        ("04", "2026-01-02T04:00:00.000000Z"),
    ] {
        let rows = read_lines(&only_file(&dir.path().join(format!("logs/hour={hour}"))));
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0]["timestamp"], time);
    }
}

#[test]
fn records_that_come_late_are_in_the_one_file_of_their_hour() {
    for format in [Format::Json, Format::Parquet] {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            path: format!("{}/{{kind}}/hour={{hour}}", dir.path().display()),
            format,
            ..Config::default()
        };
        let telemetry = Telemetry::new(&context());
        let mut writer = Writer::new(&config, &resource(), telemetry, None, PipelineKind::Logs).unwrap();
        writer.prepare().unwrap();
        let at = |second: u64| Timestamp::from_nanos((NOON + second) * 1_000_000_000);
        // Each batch has a record of its time, and one of a UDP flow that has been idle for 15 s.
        for second in (5..2 * 3600).step_by(5) {
            let mut batch = crate::testing::logs();
            batch.records.truncate(2);
            batch.at = at(second);
            batch.records[0].at = at(second);
            batch.records[1].at = at(second.saturating_sub(15));
            assert_eq!(writer.write(Content::logs(&batch)), wrote(2));
        }
        let hour = |hour: &str| dir.path().join(format!("logs/hour={hour}"));
        // That of the hour before is finished once no record comes any more.
        let first = only_file(&hour("03"));
        assert_ne!(first.extension().unwrap(), "partial");
        writer.finish();
        for (path, expected) in [(first, 1441), (only_file(&hour("04")), 1437)] {
            let rows = match format {
                Format::Json => read_lines(&path).len(),
                Format::Parquet => parquet_rows(&path),
            };
            assert_eq!(rows, expected, "{format:?}");
        }
    }
}

#[test]
fn old_files_are_removed_by_size_and_age_with_their_empty_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let limited = |max_total_bytes, max_retention| Config {
        path: format!("{}/hour={{hour}}", dir.path().display()),
        rotation: Rotation {
            max_files: 0,
            max_total_bytes,
            max_retention,
            ..Rotation::default()
        },
        ..Config::default()
    };
    let writer_of = writer;
    let hours = || names(dir.path()).join(" ");
    let mut writer = writer_of(&limited(0, Duration::from_secs(2 * 3600)));
    for hour in 0..3 {
        assert_eq!(
            writer.write(Content::Metrics(&window(hour * 3600 + 5, 10))),
            wrote(10)
        );
    }
    writer.finish();
    assert_eq!(hours(), "hour=03 hour=04 hour=05");
    // Also where nothing is written: the first file's last row can be of 04:00.
    assert_eq!(
        writer.write(Content::Metrics(&window(3 * 3600 - 60, 0))),
        wrote(0)
    );
    assert_eq!(writer.write(Content::Metrics(&window(3 * 3600 + 1, 0))), wrote(0));
    assert_eq!(hours(), "hour=04 hour=05");
    drop(writer);
    let size = fs::metadata(only_file(&dir.path().join("hour=05")))
        .unwrap()
        .len();
    let mut writer = writer_of(&limited(2 * size, Duration::ZERO));
    assert_eq!(
        writer.write(Content::Metrics(&window(4 * 3600 + 5, 10))),
        wrote(10)
    );
    writer.finish();
    assert_eq!(hours(), "hour=05 hour=07");
}

#[test]
fn two_exporters_on_one_path_write_to_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), Format::Parquet);
    let mut one = writer(&config);
    assert_eq!(one.write(Content::Metrics(&window(5, 1))), wrote(1));
    let mut other = writer(&config);
    assert_eq!(other.write(Content::Metrics(&window(5, 2))), wrote(2));
    one.finish();
    other.finish();
    let names = names(dir.path());
    assert_eq!(
        names,
        [
            "flowtap-metrics-node1-20260102T030000Z-1.parquet",
            "flowtap-metrics-node1-20260102T030000Z.parquet"
        ]
    );
    assert_eq!(parquet_rows(&dir.path().join(&names[0])), 2);
}

#[test]
fn what_cannot_be_written_is_counted_and_writing_goes_on_when_it_can() {
    for format in [Format::Json, Format::Parquet] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        // A file stands where the folder should be: not even root can write into it.
        fs::write(&folder, "").unwrap();
        let mut writer = Writer::new(
            &config(&folder, format),
            &resource(),
            Telemetry::new(&context()),
            None,
            PipelineKind::Metrics,
        )
        .unwrap();
        assert!(writer.prepare().is_err());
        assert_eq!(writer.write(Content::Metrics(&window(5, 7))), failed(7));
        assert_eq!(writer.write(Content::Metrics(&window(10, 0))), wrote(0));
        assert!(writer.failing().is_some());
        fs::remove_file(&folder).unwrap();
        assert_eq!(writer.write(Content::Metrics(&window(15, 7))), wrote(7));
        assert_eq!(writer.failing(), None);
        // Somebody clears the folder away.
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(writer.write(Content::Metrics(&window(20, 7))), wrote(7));
        writer.finish();
        assert!(
            only_file(&folder)
                .to_str()
                .unwrap()
                .contains("flowtap-metrics-node1-20260102T030015Z")
        );
    }
}

/// A file system of 64 KiB. `None` without the right to mount one.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "flowtap-test"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        eprintln!("SKIPPED: this test mounts a small file system, which needs root");
        None
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_costs_windows_and_no_line_that_was_written() {
    let Some(disk) = Tiny::mount() else {
        return;
    };
    let dir = disk.0.path();
    let mut writer = writer(&config(dir, Format::Json));
    assert_eq!(writer.write(Content::Metrics(&window(5, 100))), wrote(100));
    assert_eq!(
        writer.write(Content::Metrics(&window(10, 10_000))),
        failed(10_000)
    );
    assert_eq!(read_lines(&only_file(dir)).len(), 100);
    assert_eq!(writer.write(Content::Metrics(&window(15, 10))), wrote(10));
    writer.finish();
    assert_eq!(read_lines(&only_file(dir)).len(), 110);
}

#[test]
fn a_folder_that_was_replaced_is_named_as_the_reason_and_the_state_has_it_until_files_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    let context = context();
    let status = context.status.clone();
    status.set(ComponentKind::Exporter, &context.id, State::Ok, None);
    let shown = || status.load()[&format!("exporters/{}", context.id)].clone();
    let telemetry = Telemetry::new(&context);
    let config = config(&folder, Format::Json);
    let mut writer = Writer::new(&config, &resource(), telemetry, None, PipelineKind::Metrics).unwrap();
    writer.prepare().unwrap();
    // As the sandbox answers.
    let refused = io::Error::from(io::ErrorKind::PermissionDenied);
    writer.complain(&refused);
    let error = shown().error.unwrap();
    assert!(error.contains("make the folder writable"), "{error}");
    fs::rename(&folder, dir.path().join("before")).unwrap();
    for replacement in [false, true] {
        if replacement {
            fs::create_dir(&folder).unwrap();
        }
        writer.complain(&refused);
        let status = shown();
        let error = status.error.unwrap();
        assert_eq!(status.state, State::RecoverableError);
        assert!(
            error.contains("replaced") && error.contains("restart flowtap"),
            "{error}"
        );
    }
    assert_eq!(writer.write(Content::Metrics(&window(15, 7))), wrote(7));
    assert_eq!((shown().state, shown().error), (State::Ok, None));
}

#[test]
fn a_full_disk_leaves_no_parquet_that_cannot_be_read() {
    let Some(disk) = Tiny::mount() else {
        return;
    };
    let dir = disk.0.path();
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![0; 60_000]).unwrap();
    let mut writer = writer(&Config {
        rotation: Rotation {
            max_bytes: 1,
            ..Rotation::default()
        },
        ..config(dir, Format::Parquet)
    });
    // There is no room for its journal.
    assert_eq!(writer.write(Content::Metrics(&window(5, 20_000))), failed(20_000));
    assert!(writer.failing().is_some());
    assert_eq!(names(dir), ["ballast"]);
    fs::remove_file(&ballast).unwrap();
    assert_eq!(writer.write(Content::Metrics(&window(10, 100))), wrote(100));
    assert_eq!(writer.failing(), None);
    assert_eq!(parquet_rows(&only_file(dir)), 100);
}

#[tokio::test]
async fn the_last_file_is_finished_when_flowtap_stops() {
    let dir = tempfile::tempdir().unwrap();
    let mut exporter = FileExporter::new(&config(dir.path(), Format::Parquet), &context()).unwrap();
    let mut service = exporter.start().await.unwrap();
    let window = Arc::new(window(5, 3));
    let exported = service
        .ready()
        .await
        .unwrap()
        .call(Output::Metrics(window))
        .await
        .unwrap();
    assert_eq!(exported, wrote(3));
    drop(service);
    exporter.stop().await;
    assert_eq!(parquet_rows(&only_file(dir.path())), 3);
}

#[tokio::test]
async fn a_folder_that_cannot_be_had_is_an_error_only_for_the_strict() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = config(file.path(), Format::Json);
    assert!(
        FileExporter::new(&config, &context())
            .unwrap()
            .start()
            .await
            .is_ok()
    );
    let strict = BuildContext {
        strict: true,
        ..context()
    };
    let error = FileExporter::new(&config, &strict)
        .unwrap()
        .start()
        .await
        .err()
        .unwrap();
    assert!(
        error.to_string().contains(file.path().to_str().unwrap()),
        "{error}"
    );
}

/// Files of log records and of series, by an exporter that gets both.
async fn both(dir: &Path, format: Format) -> (PathBuf, PathBuf) {
    let mut exporter = FileExporter::new(&config(dir, format), &context()).unwrap();
    let mut service = exporter.start().await.unwrap();
    for (output, rows) in [
        (Output::from(crate::testing::logs()), 2),
        (Output::from(window(5, 3)), 3),
    ] {
        let exported = service.ready().await.unwrap().call(output).await.unwrap();
        assert_eq!(exported, wrote(rows));
    }
    drop(service);
    exporter.stop().await;
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(
        name(&files[0]).starts_with("flowtap-logs-node1-19700101T000005Z."),
        "{files:?}"
    );
    (files.swap_remove(0), files.swap_remove(0))
}

#[tokio::test]
async fn log_records_are_lines_in_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, series) = both(dir.path(), Format::Json).await;
    let logs = fs::read_to_string(logs).unwrap();
    let rows: Vec<Value> = logs
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(fs::read_to_string(series).unwrap().lines().count(), 3);
    let closed = json!({
        "timestamp": "1970-01-01T00:00:05.000000Z",
        "interval_start": "1970-01-01T00:00:02.500000Z",
        "connection_start": "1970-01-01T00:00:02.500000Z",
        "host": "node1", "instance": "11111111-2222-5333-8444-555555555555",
        "version": env!("CARGO_PKG_VERSION"), "schema_version": 1,
        "pipeline": "logs", "event": "flowtap.tcp.connection", "severity": "INFO",
        "source_address": "192.0.2.1", "source_port": 50_000,
        "destination_address": "192.0.2.7", "destination_port": 443,
        "network_transport": "tcp", "network_type": "ipv4", "role": "client", "role_source": "assumed",
        "outcome": "closed", "connection_id": 4711, "sequence": 0, "adopted": false,
        "duration": 2.5, "interval": 2.5,
        "source_bytes": 81, "destination_bytes": 3000, "source_packets": 5, "destination_packets": 6,
        "retransmits": 1, "source_bytes_total": 81, "destination_bytes_total": 3000, "retransmits_total": 1,
        "rtt": 0.000_35, "min_rtt": 0.000_3, "handshake": 0.000_4,
        "pid": 99, "comm": "my app", "sampling_probability": 1.0,
    });
    assert_eq!(rows[0], closed);
    assert_eq!(
        (&rows[1]["severity"], &rows[1]["error"]),
        (&"WARN".into(), &"refused".into())
    );
}

#[tokio::test]
async fn log_records_in_parquet_have_a_column_per_field() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, series) = both(dir.path(), Format::Parquet).await;
    assert_eq!(parquet_rows(&series), 3);
    let batch = &batches(&logs)[0];
    assert_eq!(batch.num_rows(), 2);
    let bytes = batch.column_by_name("destination_bytes").unwrap();
    assert_eq!(bytes.as_primitive::<Int64Type>().values(), &[3_000, 0]);
    let error = batch.column_by_name("error").unwrap();
    assert!(error.is_null(0));
    assert_eq!(error.as_string::<i32>().value(1), "refused");
    for field in flowtap_pipeline::LogField::ALL {
        assert!(batch.column_by_name(field.column()).is_some(), "{field:?}");
    }
}
