mod delta;
mod grpc;
mod http;
mod starts;
mod tls;

use std::sync::Mutex;

use super::*;
use crate::testing::{context, many, resource, snapshot};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use prost::Message;
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::ServiceExt;

type Answer = Result<ExportMetricsServiceResponse, Status>;

/// A collector with scripted answers, which accepts everything after the last of them.
#[derive(Clone, Default)]
struct Collector {
    answers: Arc<Mutex<Vec<Answer>>>,
    received: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    headers: Arc<Mutex<Vec<String>>>,
    /// Time before each answer.
    pause: Arc<Mutex<Duration>>,
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, Status> {
        let header = request
            .metadata()
            .get("x-tenant")
            .map(|value| value.to_str().unwrap().to_owned());
        self.headers.lock().unwrap().extend(header);
        self.received.lock().unwrap().push(request.into_inner());
        let pause = *self.pause.lock().unwrap();
        tokio::time::sleep(pause).await;
        let answer = self.answers.lock().unwrap().pop();
        answer
            .unwrap_or_else(|| Ok(ExportMetricsServiceResponse::default()))
            .map(tonic::Response::new)
    }
}

async fn serve(collector: &Collector) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = MetricsServiceServer::new(collector.clone())
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd);
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener)),
    );
    format!("http://{address}")
}

pub(super) fn config(endpoint: &str) -> Config {
    let retry = RetryConfig {
        initial_interval: Duration::from_millis(1),
        ..RetryConfig::default()
    };
    Config {
        endpoint: Some(endpoint.to_owned()),
        retry,
        ..Config::default()
    }
}

/// Requests on disk in `folder`.
pub(super) fn storage_in(folder: &std::path::Path) -> push::storage::StorageConfig {
    push::storage::StorageConfig {
        directory: folder.to_owned(),
        max_bytes: 1 << 20,
        when_full: push::storage::WhenDiskFull::DropOldest,
    }
}

pub(super) async fn export(config: Config, snapshot: Snapshot) -> Exported {
    let mut service = OtlpExporter::new(config, &context())
        .unwrap()
        .start()
        .await
        .unwrap();
    service
        .ready()
        .await
        .unwrap()
        .call(Output::from(snapshot))
        .await
        .unwrap()
}

fn encode(config: &Config, snapshot: &Snapshot) -> Vec<Part> {
    let mut ended = Ended::default();
    ended.add(snapshot);
    let encoder = Encoder::new(config, &resource(), false);
    let starts = Starts::default();
    let mut encoding = encoder.encode(snapshot, &ended, false, &starts);
    std::iter::from_fn(|| encoding.next_part(None)).collect()
}

fn metrics(request: &ExportMetricsServiceRequest) -> &[Metric] {
    assert_eq!(request.resource_metrics.len(), 1);
    assert_eq!(request.resource_metrics[0].scope_metrics.len(), 1);
    &request.resource_metrics[0].scope_metrics[0].metrics
}

fn points(request: &ExportMetricsServiceRequest) -> usize {
    let points = metrics(request).iter().map(|metric| match &metric.data {
        Some(metric::Data::Sum(sum)) => sum.data_points.len(),
        Some(metric::Data::Histogram(histogram)) => histogram.data_points.len(),
        other => panic!("{other:?}"),
    });
    points.sum()
}

#[test]
fn the_bytes_are_those_of_the_message_that_they_stand_for() {
    let parts = encode(&Config::default(), &snapshot(42));
    let requests: Vec<_> = parts.into_iter().map(|part| part.request).collect();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].items, 3);
    let request = ExportMetricsServiceRequest::decode(requests[0].body.clone()).unwrap();
    let resource = request.resource_metrics[0].resource.as_ref().unwrap();
    assert!(
        resource
            .attributes
            .iter()
            .any(|attribute| attribute.key == "service.name")
    );

    let [counter, histogram] = metrics(&request) else {
        panic!("two metrics")
    };
    assert_eq!(
        (&*counter.name, &*counter.unit),
        ("primus_lens_network_bytes", "By")
    );
    let Some(metric::Data::Sum(sum)) = &counter.data else {
        panic!("a sum")
    };
    assert!(sum.is_monotonic);
    assert_eq!(sum.aggregation_temporality, 2);
    let [ended, live] = &*sum.data_points else {
        panic!("an ended and a live point")
    };
    assert_eq!(
        (live.start_time_unix_nano, live.time_unix_nano, live.flags),
        (1_000, 5_000, 0)
    );
    assert_eq!(live.value, Some(number_data_point::Value::AsInt(42)));
    assert_eq!(live.attributes[0].key, "raddr");
    assert_eq!((ended.value, ended.flags), (None, 1));

    let Some(metric::Data::Histogram(data)) = &histogram.data else {
        panic!("a histogram")
    };
    let point = &data.data_points[0];
    assert_eq!((point.count, point.sum), (7, Some(12.5)));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(point.bucket_counts[..3], [1, 2, 3]);
    assert_eq!(point.explicit_bounds[..2], [0.5, 1.0]);
    // Decoded and encoded again by prost it is the same, so there is nothing in it that prost does not know.
    assert_eq!(request.encode_to_vec().len(), requests[0].body.len());
}

#[test]
fn a_request_names_its_node_and_each_point_its_pipeline_where_there_are_several() {
    let names = |attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]| {
        let names = attributes.iter().map(|attribute| attribute.key.clone());
        names.collect::<Vec<_>>()
    };
    let several = Encoder::new(&Config::default(), &resource(), true);
    let own = Snapshot {
        pipeline: "".into(),
        ..snapshot(42)
    };
    let otel = crate::testing::otel_snapshot(42);
    for (snapshot, pipeline, schema) in [
        (&snapshot(42), Some("pipeline"), ""),
        (
            &otel,
            Some("flowtap.pipeline"),
            flowtap_pipeline::resource::SCHEMA_URL,
        ),
        (&own, None, ""),
    ] {
        let mut ended = Ended::default();
        ended.add(snapshot);
        let starts = Starts::default();
        let mut encoding = several.encode(snapshot, &ended, false, &starts);
        let body = encoding.next_part(None).unwrap().request.body;
        let request = ExportMetricsServiceRequest::decode(body).unwrap();
        let metrics = &request.resource_metrics[0];
        let attributes = names(&metrics.resource.as_ref().unwrap().attributes);
        assert!(
            attributes.contains(&"service.instance.id".to_owned()),
            "{attributes:?}"
        );
        assert_eq!(metrics.schema_url, flowtap_pipeline::resource::SCHEMA_URL);
        assert_eq!(metrics.scope_metrics[0].schema_url, schema);
        for metric in &metrics.scope_metrics[0].metrics {
            let points: Vec<_> = match metric.data.as_ref().unwrap() {
                metric::Data::Sum(sum) => sum
                    .data_points
                    .iter()
                    .map(|point| names(&point.attributes))
                    .collect(),
                metric::Data::Histogram(data) => data
                    .data_points
                    .iter()
                    .map(|point| names(&point.attributes))
                    .collect(),
                other => panic!("{other:?}"),
            };
            for names in points {
                assert_eq!(
                    names.last().map(String::as_str).filter(|name| *name != "raddr"),
                    pipeline
                );
            }
        }
    }
}

#[test]
fn exponential_buckets_are_those_of_opentelemetry_also_as_differences_and_after_a_zero() {
    let mut snapshot = crate::testing::exponential(&[0.0, 0.5, 1.0, 1.0]);
    // Long enough after the series began for a zero between.
    snapshot.at = Timestamp::from_nanos(5_000_000_000);
    let encoder = Encoder::new(&Config::default(), &resource(), true);
    let ended = Ended::default();
    for (deltas, zeros) in [(false, false), (true, false), (false, true)] {
        let known = Deltas::new(Timestamp::from_nanos(0));
        let since = zeros.then(|| Timestamp::from_nanos(1));
        let starts = Starts::since(since);
        let mut encoding = encoder.encode(&snapshot, &ended, deltas, &starts);
        let body = encoding.next_part(deltas.then_some(&known)).unwrap().request.body;
        let request = ExportMetricsServiceRequest::decode(body.clone()).unwrap();
        let Some(metric::Data::ExponentialHistogram(data)) = &metrics(&request)[0].data else {
            panic!("{request:?}")
        };
        assert_eq!(data.aggregation_temporality, if deltas { 1 } else { 2 });
        let point = data.data_points.last().unwrap();
        assert_eq!((point.count, point.sum, point.zero_count), (4, Some(2.5), 1));
        assert_eq!(point.scale, 5);
        let positive = point.positive.as_ref().unwrap();
        // The index of an OpenTelemetry bucket is that of its lower bound: 1 is in the one below 2^0.
        assert_eq!(positive.offset, -33);
        assert_eq!(positive.bucket_counts.len(), 33);
        assert_eq!((positive.bucket_counts[0], positive.bucket_counts[32]), (1, 2));
        let keys: Vec<_> = point.attributes.iter().map(|attribute| &*attribute.key).collect();
        assert_eq!(keys, ["raddr", "pipeline"]);
        assert_eq!(data.data_points.len(), if zeros { 2 } else { 1 });
        if zeros {
            let zero = &data.data_points[0];
            assert_eq!((zero.count, zero.sum, &zero.positive), (0, Some(0.0), &None));
        }
    }
}

#[test]
fn an_exponential_histogram_ends_without_buckets() {
    let mut snapshot = crate::testing::exponential(&[1.0]);
    let flowtap_pipeline::Points::Histograms(points) = &mut snapshot.families[0].points else {
        panic!("a histogram")
    };
    let series = points.remove(0).series;
    snapshot.families[0].ended = vec![series];
    let parts = encode(&Config::default(), &snapshot);
    let request = ExportMetricsServiceRequest::decode(parts[0].request.body.clone()).unwrap();
    let Some(metric::Data::ExponentialHistogram(data)) = &metrics(&request)[0].data else {
        panic!("a histogram")
    };
    let point = &data.data_points[0];
    assert_eq!((point.flags, point.count, point.sum), (1, 0, Some(0.0)));
    assert_eq!(point.attributes.len(), 1);
}

#[test]
fn a_histogram_that_ends_ends_with_its_sum_and_every_bucket() {
    let mut snapshot = snapshot(1);
    let flowtap_pipeline::Points::Histograms(points) = &snapshot.families[1].points else {
        panic!("a histogram")
    };
    let series = points[0].series.clone();
    snapshot.families[1].points = flowtap_pipeline::Points::Histograms(Vec::new());
    snapshot.families[1].ended = vec![series];
    let parts = encode(&Config::default(), &snapshot);
    let request = ExportMetricsServiceRequest::decode(parts[0].request.body.clone()).unwrap();
    // Families without live points come first.
    let Some(metric::Data::Histogram(data)) = &metrics(&request)[0].data else {
        panic!("a histogram")
    };
    let point = &data.data_points[0];
    assert_eq!((point.flags, point.count, point.sum), (1, 0, Some(0.0)));
    assert_eq!(point.bucket_counts, vec![0; point.explicit_bounds.len() + 1]);
    assert_eq!(point.explicit_bounds[..2], [0.5, 1.0]);
    assert_eq!(point.attributes.len(), 1);
}

#[tokio::test]
async fn a_snapshot_arrives_whole_with_gzip_headers_and_splitting() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let collector = Collector::default();
        let endpoint = serve(&collector).await;
        let config = Config {
            compression: Some(compression),
            max_points_per_request: 300.try_into().unwrap(),
            headers: [("x-tenant".to_owned(), "a".to_owned())].into(),
            ..config(&endpoint)
        };
        assert_eq!(
            export(config, many(1000)).await,
            Exported {
                sent: 1000,
                failed: 0
            }
        );
        let received = collector.received.lock().unwrap();
        assert_eq!(
            received.iter().map(points).collect::<Vec<_>>(),
            [300, 300, 300, 100]
        );
        assert_eq!(collector.headers.lock().unwrap().len(), 4);
    }
}

#[tokio::test]
async fn what_is_unavailable_for_a_while_is_tried_again_and_what_is_invalid_is_not() {
    let collector = Collector::default();
    let endpoint = serve(&collector).await;
    let unavailable = || Err(Status::unavailable("later"));
    *collector.answers.lock().unwrap() = vec![unavailable(), unavailable()];
    assert_eq!(
        export(config(&endpoint), snapshot(1)).await,
        Exported { sent: 3, failed: 0 }
    );
    assert_eq!(collector.received.lock().unwrap().len(), 3);

    *collector.answers.lock().unwrap() = vec![Err(Status::invalid_argument("never"))];
    assert_eq!(
        export(config(&endpoint), snapshot(1)).await,
        Exported { sent: 0, failed: 3 }
    );
    assert_eq!(collector.received.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_server_that_is_exhausted_is_asked_again_when_it_says_when() {
    let collector = Collector::default();
    let endpoint = serve(&collector).await;
    let when = ErrorDetails::with_retry_info(Some(Duration::from_millis(20)));
    *collector.answers.lock().unwrap() = vec![Err(Status::with_error_details(
        Code::ResourceExhausted,
        "busy",
        when,
    ))];
    assert_eq!(export(config(&endpoint), snapshot(1)).await.sent, 3);

    *collector.answers.lock().unwrap() = vec![Err(Status::resource_exhausted("full"))];
    assert_eq!(export(config(&endpoint), snapshot(1)).await.failed, 3);
}

#[tokio::test]
async fn points_that_a_partial_success_refuses_count_as_failed_and_are_not_sent_again() {
    let collector = Collector::default();
    let endpoint = serve(&collector).await;
    let partial = ExportMetricsPartialSuccess {
        rejected_data_points: 2,
        error_message: "too old".to_owned(),
    };
    *collector.answers.lock().unwrap() = vec![Ok(ExportMetricsServiceResponse {
        partial_success: Some(partial),
    })];
    assert_eq!(
        export(config(&endpoint), snapshot(1)).await,
        Exported { sent: 1, failed: 2 }
    );
    assert_eq!(collector.received.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_absent_collector_is_no_error_at_the_start_and_counted_at_the_export() {
    // Bound and dropped: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let retry = RetryConfig {
        enabled: false,
        ..RetryConfig::default()
    };
    let config = Config {
        retry,
        ..config(&format!("http://{address}"))
    };
    assert_eq!(export(config, snapshot(1)).await, Exported { sent: 0, failed: 3 });
}

#[tokio::test]
async fn windows_are_thinned_to_the_interval_and_the_last_one_always_goes_on() {
    let collector = Collector::default();
    let endpoint = serve(&collector).await;
    let mut service = OtlpExporter::new(config(&endpoint), &context())
        .unwrap()
        .start()
        .await
        .unwrap();
    let mut sent = Vec::new();
    // The window's config is replaced at 27, so some series end there.
    for second in [0, 5, 10, 15, 20, 27, 30, 42, 43] {
        let at = Timestamp::from_nanos(second * 1_000_000_000);
        let window = Snapshot {
            at,
            last: second == 43,
            replaced: second == 27,
            ..snapshot(second)
        };
        if service
            .ready()
            .await
            .unwrap()
            .call(Output::from(window))
            .await
            .unwrap()
            .sent
            > 0
        {
            sent.push(second);
        }
    }
    assert_eq!(sent, [0, 15, 27, 42, 43]);
    // Each window has an ended series: series that ended in skipped windows are reported with the
    // next one that passed.
    let received = collector.received.lock().unwrap();
    let ended = |request: &ExportMetricsServiceRequest| points(request) - 2;
    assert_eq!(received.iter().map(ended).collect::<Vec<_>>(), [1, 3, 2, 2, 1]);
}

#[test]
fn a_request_is_split_by_bytes_and_every_point_is_in_one() {
    let config = Config {
        max_request_bytes: 32 << 10,
        ..Config::default()
    };
    let parts = encode(&config, &many(5000));
    assert!(parts.len() > 5, "{}", parts.len());
    let mut seen = 0;
    for part in &parts {
        assert!(part.request.body.len() <= 32 << 10, "{}", part.request.body.len());
        let request = ExportMetricsServiceRequest::decode(part.request.body.clone()).unwrap();
        assert_eq!(points(&request) as u64, part.request.items);
        seen += points(&request);
    }
    assert_eq!(seen, 5000);
}

/// A collector that is away, and then there, with a place on disk between.
#[tokio::test]
async fn what_is_stored_is_delivered_by_the_next_run_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let away = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let stored = |endpoint: &str| Config {
        storage: Some(storage_in(folder.path())),
        interval: Duration::from_nanos(1),
        ..config(endpoint)
    };
    // As much as a `kill -9` leaves: the exporter is not stopped, its task not awaited.
    let mut exporter = OtlpExporter::new(stored(&format!("http://{away}")), &context()).unwrap();
    let mut service = exporter.start().await.unwrap();
    for total in [1, 2, 3] {
        let at = Timestamp::from_nanos(total * 1_000_000_000);
        let window = Snapshot {
            at,
            ..snapshot(total)
        };
        let exported = service
            .ready()
            .await
            .unwrap()
            .call(Output::from(window))
            .await
            .unwrap();
        assert_eq!(exported, Exported::default(), "on disk, and no more is known");
    }
    for spool in exporter.spool.tasks.drain(..) {
        spool.abort();
        let _ = spool.await;
    }
    drop((service, exporter));

    let collector = Collector::default();
    let endpoint = serve(&collector).await;
    *collector.answers.lock().unwrap() = vec![Err(Status::unavailable("later"))];
    // A blocking call of the first run may hold the file for a moment after its task was aborted.
    let started = async {
        loop {
            let mut exporter = OtlpExporter::new(stored(&endpoint), &context()).unwrap();
            match exporter.start().await {
                Ok(service) => break (exporter, service),
                Err(error) => assert!(error.to_string().contains("another process"), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let deadline = Duration::from_secs(30);
    let (mut exporter, _service) = tokio::time::timeout(deadline, started).await.unwrap();
    // Requests that could not be sent at once are sent before the exporter ends.
    exporter.stop().await;
    let received = collector.received.lock().unwrap();
    let mut totals: Vec<_> = received.iter().map(first_total).collect();
    totals.dedup();
    assert_eq!(totals, [1, 2, 3]);
}

#[tokio::test]
async fn a_request_that_is_under_way_when_the_exporter_stops_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::default();
    *collector.pause.lock().unwrap() = Duration::from_millis(200);
    let endpoint = serve(&collector).await;
    let config = Config {
        storage: Some(storage_in(folder.path())),
        ..config(&endpoint)
    };
    let mut exporter = OtlpExporter::new(config, &context()).unwrap();
    let mut service = exporter.start().await.unwrap();
    let service = service.ready().await.unwrap();
    service.call(Output::from(snapshot(1))).await.unwrap();
    while collector.received.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    exporter.stop().await;
    assert_eq!(collector.received.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_queue_that_is_refused_as_a_whole_is_not_gone_in_a_second() {
    const REQUESTS: usize = 12;
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::default();
    let refused = |_| Err(Status::invalid_argument("never"));
    *collector.answers.lock().unwrap() = (0..REQUESTS).map(refused).collect();
    let endpoint = serve(&collector).await;
    let config = Config {
        storage: Some(storage_in(folder.path())),
        interval: Duration::from_nanos(1),
        ..config(&endpoint)
    };
    let mut exporter = OtlpExporter::new(config, &context()).unwrap();
    let mut service = exporter.start().await.unwrap();
    let began = std::time::Instant::now();
    for total in 1..=REQUESTS as u64 {
        let window = Snapshot {
            at: Timestamp::from_nanos(total * 1_000_000_000),
            ..snapshot(total)
        };
        let service = service.ready().await.unwrap();
        service.call(Output::from(window)).await.unwrap();
    }
    while collector.received.lock().unwrap().len() < REQUESTS {
        tokio::task::yield_now().await;
    }
    // The last two, a second after the one before each.
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

pub(super) fn first_total(request: &ExportMetricsServiceRequest) -> i64 {
    let Some(metric::Data::Sum(sum)) = &metrics(request)[0].data else {
        panic!("a sum")
    };
    match sum.data_points.iter().find_map(|point| point.value) {
        Some(number_data_point::Value::AsInt(total)) => total,
        other => panic!("{other:?}"),
    }
}
