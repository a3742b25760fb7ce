use std::collections::BTreeSet;

use super::super::config::ProtobufMessage;
use super::*;

/// `io.prometheus.write.v2.Request` (`types.proto`), as far as it is written.
#[derive(Clone, PartialEq, Message)]
struct RequestV2 {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    timeseries: Vec<SeriesV2>,
}

#[derive(Clone, PartialEq, Message)]
struct SeriesV2 {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<SampleV2>,
    #[prost(message, repeated, tag = "3")]
    histograms: Vec<Histogram>,
    #[prost(message, optional, tag = "5")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct SampleV2 {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
    #[prost(int64, tag = "3")]
    start_timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count_int: Option<u64>,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, tag = "5")]
    zero_threshold: f64,
    #[prost(uint64, tag = "6")]
    zero_count: u64,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(int64, tag = "15")]
    timestamp: i64,
    #[prost(double, repeated, tag = "16")]
    custom_values: Vec<f64>,
    #[prost(int64, tag = "17")]
    start_timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint32, tag = "3")]
    help_ref: u32,
    #[prost(uint32, tag = "4")]
    unit_ref: u32,
}

impl RequestV2 {
    fn text(&self, number: u32) -> &str {
        &self.symbols[number as usize]
    }

    /// As [`TimeSeries::key`].
    fn key(&self, series: &SeriesV2) -> String {
        let (pairs, odd) = series.labels_refs.as_chunks::<2>();
        assert!(odd.is_empty());
        let pairs: Vec<_> = pairs
            .iter()
            .map(|&[name, value]| format!("{}={:?}", self.text(name), self.text(value)))
            .collect();
        pairs.join(",")
    }
}

impl Server {
    fn requests_v2(&self) -> Vec<RequestV2> {
        let bodies = self.bodies.lock().unwrap();
        let decoded = bodies.iter().map(|body| RequestV2::decode(&**body).unwrap());
        decoded.collect()
    }

    /// Says how many samples and histograms it wrote, whatever came.
    fn wrote(&self, samples: u64, histograms: u64) {
        let mut says = self.says.lock().unwrap();
        says.insert("x-prometheus-remote-write-samples-written", samples.into());
        says.insert("x-prometheus-remote-write-histograms-written", histograms.into());
    }
}

/// A server that says that it writes, and a config for it.
async fn start(native_histograms: bool) -> (Server, Config) {
    let server = Server::default();
    // No request has as many.
    server.wrote(1_000, 0);
    let config = Config {
        protobuf_message: ProtobufMessage::V2,
        send_native_histograms: native_histograms,
        ..config(server.start().await)
    };
    (server, config)
}

/// A snapshot in 2023, of series that began a minute before; labels of either naming, and a histogram that ends.
fn window() -> Snapshot {
    let at = Timestamp::from_nanos(1_700_000_000_123_456_789);
    let mut window = Snapshot { at, ..snapshot(42) };
    window.families.extend(otel_snapshot(7).families);
    let Points::Histograms(points) = &window.families[1].points else {
        panic!("{window:?}")
    };
    window.families[1].ended = vec![points[0].series.clone()];
    window
}

#[tokio::test]
async fn by_2_0_the_same_series_have_the_same_samples_as_by_1_0() {
    let external = map([("cluster", "blue"), ("Zone", "a"), ("none", "")]);
    let (server, two) = start(false).await;
    let two = Config {
        external_labels: external.clone(),
        ..two
    };
    let old = Server::default();
    let one = Config {
        external_labels: external,
        ..config(old.start().await)
    };
    let all = Exported { sent: 5, failed: 0 };
    assert_eq!(export(one, window()).await, all);
    assert_eq!(export(two, window()).await, all);

    let [request] = &*server.requests_v2() else {
        panic!("one request")
    };
    let mut series = Vec::new();
    for one in &request.timeseries {
        let [sample] = &*one.samples else {
            panic!("{one:?}")
        };
        series.push((request.key(one), sample.value.to_bits(), sample.timestamp));
    }
    assert_eq!(series, old.series());

    let headers = server.headers.lock().unwrap()[0].clone();
    for (name, value) in [
        ("content-encoding", "snappy"),
        (
            "content-type",
            "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        ),
        ("x-prometheus-remote-write-version", "2.0.0"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
}

#[tokio::test]
async fn by_2_0_each_text_stands_once_and_each_series_has_its_type_and_help() {
    let (server, config) = start(false).await;
    export(config, window()).await;
    let [request] = &*server.requests_v2() else {
        panic!("one request")
    };
    assert_eq!(request.symbols[0], "");
    let once: BTreeSet<_> = request.symbols.iter().collect();
    assert_eq!(once.len(), request.symbols.len(), "{:?}", request.symbols);
    let kinds: BTreeSet<_> = request
        .timeseries
        .iter()
        .map(|series| {
            let metadata = series.metadata.as_ref().unwrap();
            let name = request.key(series);
            (
                name.contains("network_rtt"),
                metadata.kind,
                request.text(metadata.help_ref).to_owned(),
                request.text(metadata.unit_ref).to_owned(),
            )
        })
        .collect();
    let reported =
        |histogram, kind, help: &str, unit: &str| (histogram, kind, help.to_owned(), unit.to_owned());
    assert_eq!(
        kinds,
        [
            reported(false, 1, "Bytes of a test.", "bytes"),
            reported(true, 3, "Times of a test.", "")
        ]
        .into()
    );
}

#[tokio::test]
async fn version_2_0_has_the_start_of_a_series() {
    let (server, config) = start(true).await;
    let began = Timestamp::from_nanos(1_700_000_000_000_000_000);
    let mut window = one(1_700_000_060_000, &[("raddr", "a")], &[]);
    let Points::Sums(points) = &mut window.families[0].points else {
        panic!("{window:?}")
    };
    let pairs = [("raddr", LabelValue::Text("a"))];
    points[0].series = Series::new(&BYTES, pairs, None, began);
    export(config, window).await;
    let sample = server.requests_v2()[0].timeseries[0].samples[0].clone();
    assert_eq!(sample.start_timestamp, 1_700_000_000_000);
    assert_eq!(sample.timestamp, 1_700_000_060_000);
}

#[tokio::test]
async fn a_native_histogram_has_all_of_its_buckets_in_one_sample() {
    let (server, config) = start(true).await;
    assert_eq!(export(config, window()).await, Exported { sent: 5, failed: 0 });
    let [request] = &*server.requests_v2() else {
        panic!("one request")
    };
    let key = r#"__name__="primus_lens_network_rtt",raddr="a\"b\\c\nd""#;
    let histograms: Vec<_> = request
        .timeseries
        .iter()
        .filter(|series| request.key(series) == key)
        .map(|series| {
            assert_eq!(series.samples, []);
            &*series.histograms
        })
        .collect();
    let [[ended], [live]] = &*histograms else {
        panic!("{histograms:?}")
    };
    assert_eq!(ended.sum.to_bits(), STALE);
    assert_eq!((live.count_int, live.sum, live.schema), (Some(7), 12.5, -53));
    assert_eq!(live.timestamp, 1_700_000_000_123);
    assert_eq!(live.custom_values.len(), 16);
    assert_eq!(live.custom_values[..3], [0.5, 1.0, 2.0]);
    assert_eq!(
        live.positive_spans,
        [Span {
            offset: 0,
            length: 17
        }]
    );
    let counts: Vec<i64> = live
        .positive_deltas
        .iter()
        .scan(0, |count, delta| {
            *count += delta;
            Some(*count)
        })
        .collect();
    assert_eq!(counts, [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}

#[tokio::test]
async fn native_histograms_are_one_sample_each_where_requests_are_split() {
    let (server, config) = start(true).await;
    let narrow = Config {
        max_samples_per_send: 20,
        ..config
    };
    export(narrow.clone(), window()).await;
    assert_eq!(server.requests(), 1);
    // Texts of a request before are none of the next.
    export(narrow, many(30)).await;
    let requests = server.requests_v2();
    assert_eq!(requests.len(), 3);
    let mut keys = BTreeSet::new();
    for request in &requests[1..] {
        keys.extend(request.timeseries.iter().map(|series| request.key(series)));
        // The empty one, a name and a value of the metric, its help and unit, a label's name, and a value per series.
        assert_eq!(request.symbols.len(), 6 + request.timeseries.len());
    }
    assert_eq!(keys.len(), 30);
}

#[tokio::test]
async fn a_server_that_says_nothing_of_what_it_wrote_does_not_know_2_0() {
    let (server, config) = start(true).await;
    server.says.lock().unwrap().clear();
    assert_eq!(export(config, window()).await, Exported { sent: 0, failed: 5 });
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn what_a_server_wrote_of_a_request_that_it_refused_is_delivered() {
    let (server, native) = start(true).await;
    server.wrote(2, 1);
    server.answer(&[(400, None)]);
    assert_eq!(
        export(native.clone(), window()).await,
        Exported { sent: 3, failed: 2 }
    );
    // It is asked again, and what it says of the first attempt does not count.
    server.wrote(4, 1);
    server.answer(&[(503, None)]);
    assert_eq!(
        export(native.clone(), window()).await,
        Exported { sent: 5, failed: 0 }
    );
    server.wrote(0, 0);
    server.answer(&[(400, None)]);
    assert_eq!(export(native, window()).await, Exported { sent: 0, failed: 5 });

    // One cannot say whose samples these were.
    let (server, numbers) = start(false).await;
    server.answer(&[(400, None)]);
    assert_eq!(export(numbers, window()).await, Exported { sent: 0, failed: 5 });
}

#[tokio::test]
async fn what_a_server_accepts_and_does_not_write_is_not_delivered() {
    let (server, config) = start(false).await;
    for (written, sent, failed) in [(0, 0, 5), (3, 3, 2), (5, 5, 0), (100, 5, 0)] {
        server.wrote(written, 0);
        let exported = export(config.clone(), window()).await;
        assert_eq!(exported, Exported { sent, failed }, "{written}");
    }
}

#[tokio::test]
async fn exponential_histograms_are_native_in_either_version() {
    let expected_counts = |histogram: &Histogram| {
        assert_eq!(
            (histogram.count_int, histogram.sum, histogram.schema),
            (Some(4), 2.5, 5)
        );
        assert_eq!(
            (histogram.zero_count, histogram.zero_threshold.log2()),
            (1, -128.0)
        );
        let span = &histogram.positive_spans[0];
        assert_eq!((span.offset, span.length), (-32, 33));
        assert_eq!(histogram.positive_deltas[32], 2);
        assert_eq!(histogram.custom_values, [0.0; 0]);
    };
    let snapshot = || crate::testing::exponential(&[0.0, 0.5, 1.0, 1.0]);
    let (server, two) = start(false).await;
    export(two, snapshot()).await;
    let request = server.requests_v2().remove(0);
    let series = &request.timeseries[0];
    assert!(
        request.key(series).contains("network_exponential"),
        "{}",
        request.key(series)
    );
    assert_eq!(series.samples.len(), 0);
    expected_counts(&series.histograms[0]);

    let server = Server::default();
    export(config(server.start().await), snapshot()).await;
    let body = server.bodies.lock().unwrap().remove(0);
    let request = RequestV1::decode(&*body).unwrap();
    let series = &request.timeseries[0];
    assert!(
        series
            .labels
            .iter()
            .any(|label| label.value.ends_with("network_exponential"))
    );
    expected_counts(&series.histograms[0]);
}

/// `prometheus.WriteRequest` with the histograms of its series.
#[derive(Clone, PartialEq, Message)]
struct RequestV1 {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<SeriesV1>,
}

#[derive(Clone, PartialEq, Message)]
struct SeriesV1 {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}
