//! Tests of scrapes, line by line.

use std::collections::BTreeMap;

use flowtap_pipeline::{FamilyKind, Resource, Timestamp};

use super::super::target_info::target_info;
use super::super::text::canonical;
use super::*;
use crate::testing::{many, otel_snapshot, snapshot};

#[test]
fn the_target_has_each_label_once_under_a_name_that_a_label_can_have() {
    let attributes = [
        ("a.b", "1"),
        ("a_b", "2"),
        ("9x", "3"),
        ("\u{fc}.x", "4"),
        ("host.name", "node1"),
        ("zone", "q"),
    ];
    let owned = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let labels = BTreeMap::from([("zone".to_owned(), "z".to_owned())]);
    let target = target_info(&Resource::new(owned, "node1"), &labels);
    let config = Config {
        labels,
        ..Config::default()
    };
    let rendered = written(&config, Format::Text, vec![target]);
    let line = rendered.lines().find(|line| !line.starts_with('#')).unwrap();
    assert_eq!(
        line,
        r#"target_info{zone="z",_x="4",a_b="1;2",host_name="node1",key_9x="3"} 1"#
    );
}

fn text(snapshots: Vec<Arc<Snapshot>>) -> String {
    written(&Config::default(), Format::Text, snapshots)
}

fn written(config: &Config, format: Format, snapshots: Vec<Arc<Snapshot>>) -> String {
    Exposition::new(&Style::new(config, snapshots.len() > 1), format, snapshots)
        .map(|chunk| String::from_utf8(chunk.to_vec()).unwrap())
        .collect()
}

#[test]
fn a_histogram_has_the_buckets_of_its_pipeline_where_two_pipelines_have_different_ones() {
    let mut other = snapshot(42);
    other.pipeline = "metrics/b".into();
    other.families[1].family = other.families[1]
        .family
        .with_kind(FamilyKind::histogram(&[2.0, 10.0]));
    let rendered = text(vec![Arc::new(snapshot(42)), Arc::new(other)]);
    let of_pipeline = |pipeline: &str| {
        let label = format!("rtt_bucket{{pipeline=\"{pipeline}\"");
        let lines = rendered.lines().filter(|line| line.contains(&label));
        let buckets = lines.filter_map(|line| Some(line.rsplit_once(",le=")?.1.to_owned()));
        buckets.collect::<Vec<_>>()
    };
    assert_eq!(of_pipeline("metrics").len(), 17);
    let expected = ["\"2\"} 1", "\"10\"} 3", "\"+Inf\"} 6"];
    assert_eq!(of_pipeline("metrics/b"), expected);
    assert_eq!(rendered.matches("# TYPE primus_lens_network_rtt ").count(), 1);
}

#[test]
fn in_text_exponential_buckets_are_their_sum_and_their_count() {
    let snapshot = crate::testing::exponential(&[0.5, 1.0, 1.0]);
    let rendered = text(vec![Arc::new(snapshot)]);
    let expected = "\
# TYPE primus_lens_network_exponential histogram
primus_lens_network_exponential_bucket{raddr=\"192.0.2.7\",le=\"+Inf\"} 3
primus_lens_network_exponential_sum{raddr=\"192.0.2.7\"} 2.5
primus_lens_network_exponential_count{raddr=\"192.0.2.7\"} 3
";
    assert!(rendered.ends_with(expected), "{rendered}");
}

#[test]
fn a_snapshot_is_rendered_line_by_line_with_cumulated_buckets() {
    let rendered = text(vec![Arc::new(snapshot(42))]);
    let expected = "\
# HELP primus_lens_network_bytes Bytes of a test.
# TYPE primus_lens_network_bytes counter
primus_lens_network_bytes{raddr=\"192.0.2.7\"} 42
# HELP primus_lens_network_rtt Times of a test.
# TYPE primus_lens_network_rtt histogram
primus_lens_network_rtt_bucket{raddr=\"a\\\"b\\\\c\\nd\",le=\"0.5\"} 1
primus_lens_network_rtt_bucket{raddr=\"a\\\"b\\\\c\\nd\",le=\"1\"} 3
";
    assert!(rendered.starts_with(expected), "{rendered}");
    assert!(rendered.contains("le=\"+Inf\"} 7\n"), "{rendered}");
    assert!(rendered.ends_with("_sum{raddr=\"a\\\"b\\\\c\\nd\"} 12.5\nprimus_lens_network_rtt_count{raddr=\"a\\\"b\\\\c\\nd\"} 7\n"), "{rendered}");
}

#[test]
fn series_of_two_pipelines_are_distinguished_under_one_head() {
    let other = Snapshot {
        pipeline: "other".into(),
        ..snapshot(2)
    };
    let rendered = text(vec![Arc::new(snapshot(1)), Arc::new(other)]);
    assert_eq!(
        rendered
            .matches("# TYPE primus_lens_network_bytes counter")
            .count(),
        1
    );
    assert!(rendered.contains("primus_lens_network_bytes{pipeline=\"metrics\",raddr=\"192.0.2.7\"} 1\n"));
    assert!(rendered.contains("primus_lens_network_bytes{pipeline=\"other\",raddr=\"192.0.2.7\"} 2\n"));
}

#[test]
fn a_head_is_written_once_wherever_a_chunk_ends() {
    // Of so many lengths of the first family, one fills a chunk with the head of the second.
    for series in 1200..1900 {
        for format in [Format::Text, Format::Protobuf] {
            let style = Style::new(&Config::default(), false);
            let families = Exposition::new(
                &style,
                format,
                vec![Arc::new(many(series)), Arc::new(snapshot(1))],
            );
            let bytes = families.collect::<Vec<_>>().concat();
            let help = b"Times of a test.";
            let heads = bytes.windows(help.len()).filter(|bytes| bytes == help);
            assert_eq!(heads.count(), 1, "{series} series, {format:?}");
        }
    }
}

#[test]
fn a_long_scrape_comes_in_chunks_and_every_series_once() {
    let config = Config {
        namespace: "x".to_owned(),
        ..Config::default()
    };
    let chunks: Vec<_> = Exposition::new(
        &Style::new(&config, false),
        Format::Text,
        vec![Arc::new(many(20_000))],
    )
    .collect();
    assert!(chunks.len() > 5, "{} chunks", chunks.len());
    assert!(chunks.iter().all(|chunk| chunk.len() < CHUNK_BYTES + 4096));
    let text: String = chunks
        .iter()
        .map(|chunk| str::from_utf8(chunk).unwrap())
        .collect();
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("x_network_bytes{"))
            .count(),
        20_000
    );
    assert_eq!(text.lines().filter(|line| line.starts_with('#')).count(), 2);
}

#[test]
fn openmetrics_keeps_names_has_no_counter_without_total_and_ends() {
    let rendered = written(
        &Config::default(),
        Format::OpenMetrics,
        vec![Arc::new(snapshot(42))],
    );
    let expected = "\
# HELP primus_lens_network_bytes Bytes of a test.
# TYPE primus_lens_network_bytes unknown
# UNIT primus_lens_network_bytes bytes
primus_lens_network_bytes{raddr=\"192.0.2.7\"} 42
# HELP primus_lens_network_rtt Times of a test.
# TYPE primus_lens_network_rtt histogram
primus_lens_network_rtt_bucket{raddr=\"a\\\"b\\\\c\\nd\",le=\"0.5\"} 1
primus_lens_network_rtt_bucket{raddr=\"a\\\"b\\\\c\\nd\",le=\"1.0\"} 3
";
    assert!(rendered.starts_with(expected), "{rendered}");
    assert!(rendered.ends_with("} 7\n# EOF\n"), "{rendered}");
    let empty = written(&Config::default(), Format::OpenMetrics, Vec::new());
    assert_eq!(empty, "# EOF\n");
}

#[test]
fn openmetrics_has_units_and_creation_where_names_allow_it() {
    let config = Config {
        created_timestamps: CreatedTimestamps::All,
        ..Config::default()
    };
    let rendered = written(&config, Format::OpenMetrics, vec![Arc::new(otel_snapshot(42))]);
    let expected = "\
# HELP flowtap_io_bytes Bytes of a test.
# TYPE flowtap_io_bytes counter
# UNIT flowtap_io_bytes bytes
flowtap_io_bytes_total{raddr=\"192.0.2.7\"} 42
flowtap_io_bytes_created{raddr=\"192.0.2.7\"} 0.000
# EOF
";
    assert_eq!(rendered, expected);
    // Of no use to a scraper of the text format.
    assert!(!written(&config, Format::Text, vec![Arc::new(snapshot(1))]).contains("_created"));
}

#[test]
fn labels_and_times_of_the_config_are_on_every_line() {
    let config = Config {
        labels: [("cluster".to_owned(), "b\"lue".to_owned())].into(),
        timestamps: true,
        ..Config::default()
    };
    let at = Snapshot {
        at: Timestamp::from_nanos(1_700_000_000_123_456_789),
        ..snapshot(42)
    };
    let rendered = written(&config, Format::Text, vec![Arc::new(at.clone())]);
    for line in rendered.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.contains("{cluster=\"b\\\"lue\",raddr="), "{line}");
        assert!(line.ends_with(" 1700000000123"), "{line}");
    }
    let rendered = written(&config, Format::OpenMetrics, vec![Arc::new(at)]);
    assert!(rendered.contains("} 42 1700000000.123\n"), "{rendered}");
}

#[test]
fn bounds_are_canonical() {
    for (bound, text) in [
        (50.0, "50.0"),
        (10_000.0, "10000.0"),
        (0.000_05, "5e-05"),
        (0.0001, "0.0001"),
        (0.25, "0.25"),
    ] {
        assert_eq!(canonical(bound), text);
    }
}
