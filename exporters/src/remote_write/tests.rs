use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::prometheus::BasicAuth;
use crate::testing::{BYTES, certificate, context, many, otel_snapshot, snapshot};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flowtap_pipeline::{FamilySnapshot, LabelValue, Points, Series, SumPoint, Timestamp};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::ServiceExt;

use crate::push::retry::RetryConfig;

mod successor;
mod v2;

const STALE: u64 = 0x7ff0_0000_0000_0002;

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

impl TimeSeries {
    /// `name{label="value",…}`, in the order in which labels came.
    fn key(&self) -> String {
        let pairs: Vec<_> = self
            .labels
            .iter()
            .map(|label| format!("{}={:?}", label.name, label.value))
            .collect();
        pairs.join(",")
    }

    fn bits(&self) -> u64 {
        assert_eq!(self.samples.len(), 1);
        self.samples[0].value.to_bits()
    }
}

/// Status and `Retry-After`.
type Answer = (u16, Option<&'static str>);

/// A server with scripted answers, which accepts everything after the last of them.
#[derive(Clone, Default)]
struct Server {
    /// The last first.
    answers: Arc<Mutex<Vec<Answer>>>,
    received: Arc<Mutex<Vec<WriteRequest>>>,
    /// The same as bytes.
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    headers: Arc<Mutex<Vec<HeaderMap>>>,
    /// Headers of every answer.
    says: Arc<Mutex<HeaderMap>>,
}

impl Server {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, self.routes()).into_future());
        format!("http://{address}/api/v1/write")
    }

    fn routes(&self) -> Router {
        Router::new()
            .route("/api/v1/write", post(write))
            .with_state(self.clone())
    }

    fn answer(&self, answers: &[Answer]) {
        *self.answers.lock().unwrap() = answers.iter().rev().copied().collect();
    }

    fn requests(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    /// Every sample that came, by its series.
    fn series(&self) -> Vec<(String, u64, i64)> {
        let received = self.received.lock().unwrap();
        let series = received.iter().flat_map(|request| &request.timeseries);
        series
            .map(|series| (series.key(), series.bits(), series.samples[0].timestamp))
            .collect()
    }
}

async fn write(State(server): State<Server>, headers: HeaderMap, body: Bytes) -> Response {
    let plain = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
    // A message of 2.0 is an empty one of 1.0.
    let request = WriteRequest::decode(&*plain).unwrap();
    server.received.lock().unwrap().push(request);
    server.bodies.lock().unwrap().push(plain);
    server.headers.lock().unwrap().push(headers);
    let (status, retry_after) = server.answers.lock().unwrap().pop().unwrap_or((204, None));
    let mut response = (StatusCode::from_u16(status).unwrap(), "as told").into_response();
    response.headers_mut().extend(server.says.lock().unwrap().clone());
    if let Some(value) = retry_after {
        response
            .headers_mut()
            .insert("retry-after", value.parse().unwrap());
    }
    response
}

fn config(endpoint: String) -> Config {
    let retry = RetryConfig {
        initial_interval: Duration::from_millis(1),
        max_elapsed_time: Duration::from_secs(10),
        ..RetryConfig::default()
    };
    Config {
        endpoint,
        retry,
        // They have a separate test.
        resource_labels: BTreeMap::new(),
        ..Config::default()
    }
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    pairs.into_iter().map(owned).collect()
}

async fn service(config: Config) -> ExportService {
    RemoteWriteExporter::new(config, &context())
        .start()
        .await
        .unwrap()
}

async fn send(service: &mut ExportService, snapshot: Snapshot) -> Exported {
    service
        .ready()
        .await
        .unwrap()
        .call(flowtap_pipeline::Output::from(snapshot))
        .await
        .unwrap()
}

async fn export(config: Config, snapshot: Snapshot) -> Exported {
    send(&mut service(config).await, snapshot).await
}

/// A snapshot at `millis` with one counter of these labels, live or ended.
fn one(millis: u64, live: &[(&str, &str)], ended: &[(&str, &str)]) -> Snapshot {
    let series = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|&(name, value)| (name, LabelValue::Text(value)))
            .collect();
        Series::new(&BYTES, pairs, None, Timestamp::from_nanos(1))
    };
    let at = Timestamp::from_nanos(millis * 1_000_000);
    let point = SumPoint {
        series: series(live),
        total: 7,
        delta: 7,
        updated: at,
    };
    let family = FamilySnapshot {
        family: &BYTES,
        points: Points::Sums(if live.is_empty() { vec![] } else { vec![point] }),
        ended: if ended.is_empty() {
            vec![]
        } else {
            vec![series(ended)]
        },
    };
    Snapshot {
        at,
        families: vec![family],
        ..snapshot(0)
    }
}

#[tokio::test]
async fn a_snapshot_arrives_whole_with_the_names_of_a_scrape_and_the_headers_of_the_protocol() {
    let server = Server::default();
    let config = Config {
        headers: map([("x-tenant", "a")]),
        bearer_token: Some("t0ken".to_owned()),
        ..config(server.start().await)
    };
    let at = Timestamp::from_nanos(1_700_000_000_123_456_789);
    let window = Snapshot { at, ..snapshot(42) };
    assert_eq!(export(config, window).await, Exported { sent: 3, failed: 0 });

    let headers = server.headers.lock().unwrap()[0].clone();
    for (name, value) in [
        ("content-encoding", "snappy"),
        ("content-type", "application/x-protobuf"),
        ("x-prometheus-remote-write-version", "0.1.0"),
        ("user-agent", concat!("flowtap/", env!("CARGO_PKG_VERSION"))),
        ("x-tenant", "a"),
        ("authorization", "Bearer t0ken"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }

    let series = server.series();
    // The stale marker, the counter, and 17 buckets, sum and count of the histogram.
    assert_eq!(series.len(), 1 + 1 + 17 + 2);
    let (markers, live): (Vec<_>, Vec<_>) = series.iter().partition(|(_, bits, _)| *bits == STALE);
    assert!(
        live.iter().all(|(_, _, at)| *at == 1_700_000_000_123),
        "{series:?}"
    );
    // Just after the start of the window, which is 5 s long.
    assert_eq!(
        markers.iter().map(|(_, _, at)| *at).collect::<Vec<_>>(),
        [1_699_999_995_124]
    );
    let value = |key: &str| {
        let found: Vec<_> = series.iter().filter(|(known, ..)| known == key).collect();
        assert_eq!(found.len(), 1, "{key} in {series:#?}");
        found[0].1
    };
    let counter = r#"__name__="primus_lens_network_bytes",raddr="192.0.2.7""#;
    assert_eq!(value(counter), 42_f64.to_bits());
    let of = |suffix: &str, le: &str| {
        value(&format!(
            r#"__name__="primus_lens_network_rtt_{suffix}",{le}raddr="a\"b\\c\nd""#
        ))
    };
    let buckets =
        ["0.5", "1.0", "2.0", "15.0", "+Inf"].map(|bound| of("bucket", &format!("le=\"{bound}\",")));
    assert_eq!(buckets, [1.0, 3.0, 6.0, 6.0, 7.0].map(f64::to_bits));
    assert_eq!([of("sum", ""), of("count", "")], [12.5, 7.0].map(f64::to_bits));
    let ended = r#"__name__="primus_lens_network_bytes",raddr="192.0.2.9""#;
    assert_eq!(value(ended), STALE);
}

#[tokio::test]
async fn labels_are_sorted_without_empty_ones_and_replace_external_labels() {
    let server = Server::default();
    let config = Config {
        external_labels: map([
            ("cluster", "blue"),
            ("Zone", "a\"b"),
            ("raddr", "none"),
            ("none", ""),
        ]),
        ..config(server.start().await)
    };
    let labels = [
        ("type", "x\",y=\"z"),
        ("raddr", "192.0.2.7"),
        ("comm", ""),
        ("Abc", "\\\n"),
    ];
    assert_eq!(export(config, one(1, &labels, &[])).await.sent, 1);
    assert_eq!(
        server.series()[0].0,
        r#"Abc="\\\n",Zone="a\"b",__name__="primus_lens_network_bytes",cluster="blue",raddr="192.0.2.7",type="x\",y=\"z""#
    );
}

#[tokio::test]
async fn names_of_opentelemetrys_naming_are_prometheus_names() {
    let server = Server::default();
    export(config(server.start().await), otel_snapshot(1)).await;
    assert!(
        server.series()[0]
            .0
            .starts_with("__name__=\"flowtap_io_bytes_total\"")
    );
}

#[tokio::test]
async fn a_large_snapshot_is_split_and_a_point_is_not() {
    let server = Server::default();
    let limited = Config {
        max_samples_per_send: 300,
        ..config(server.start().await)
    };
    assert_eq!(export(limited.clone(), many(1000)).await.sent, 1000);
    let sizes = |server: &Server| -> Vec<_> {
        let received = server.received.lock().unwrap();
        received.iter().map(|request| request.timeseries.len()).collect()
    };
    assert_eq!(sizes(&server), [300, 300, 300, 100]);

    server.received.lock().unwrap().clear();
    let narrow = Config {
        max_samples_per_send: 20,
        ..limited
    };
    assert_eq!(export(narrow, snapshot(1)).await.sent, 3);
    assert_eq!(sizes(&server), [2, 19]);
}

#[tokio::test]
async fn what_is_away_for_a_while_is_tried_again_and_what_is_refused_is_not() {
    let server = Server::default();
    let endpoint = server.start().await;
    server.answer(&[(503, None), (500, None), (429, None)]);
    assert_eq!(
        export(config(endpoint.clone()), snapshot(1)).await,
        Exported { sent: 3, failed: 0 }
    );
    assert_eq!(server.requests(), 4);
    // The same bytes, each time.
    let received = server.received.lock().unwrap().clone();
    assert!(
        received
            .iter()
            .all(|request| request.encode_to_vec() == received[0].encode_to_vec())
    );

    for status in [400, 401, 404, 302] {
        server.received.lock().unwrap().clear();
        server.answer(&[(status, Some("1"))]);
        assert_eq!(
            export(config(endpoint.clone()), snapshot(1)).await,
            Exported { sent: 0, failed: 3 },
            "{status}"
        );
        assert_eq!(server.requests(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_part_that_is_refused_does_not_hold_up_the_others() {
    let server = Server::default();
    let config = Config {
        max_samples_per_send: 100,
        ..config(server.start().await)
    };
    server.answer(&[(204, None), (400, None)]);
    assert_eq!(
        export(config, many(250)).await,
        Exported {
            sent: 150,
            failed: 100
        }
    );
}

#[tokio::test]
async fn a_server_is_asked_again_when_it_says() {
    let server = Server::default();
    let endpoint = server.start().await;
    for status in [429, 503] {
        server.answer(&[(status, Some("1"))]);
        let before = Instant::now();
        assert_eq!(export(config(endpoint.clone()), snapshot(1)).await.sent, 3);
        // By itself it would have waited a millisecond.
        assert!(before.elapsed() >= Duration::from_secs(1), "{status}");
    }
    // Later than there is time for.
    server.received.lock().unwrap().clear();
    server.answer(&[(429, Some("11"))]);
    assert_eq!(export(config(endpoint), snapshot(1)).await.failed, 3);
    assert_eq!(server.requests(), 1);
}

/// A peer that says `answer` to whatever comes, and closes.
async fn says(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        }
    });
    format!("http://{address}/")
}

#[tokio::test]
async fn garbage_silence_and_absence_are_failures_that_are_tried_again() {
    // Bound and dropped: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for endpoint in [
        says(b"\x00\xffthis is no HTTP\r\n\r\n").await,
        says(b"HTTP/1.1 200").await,
        says(b"").await,
        format!("http://{nobody}/"),
        format!("http://{}/", silent.local_addr().unwrap()),
    ] {
        let mut config = config(endpoint.clone());
        config.timeout = Duration::from_millis(100);
        config.retry.max_elapsed_time = Duration::from_millis(300);
        config.retry.max_interval = Duration::from_millis(20);
        assert_eq!(
            export(config, snapshot(1)).await,
            Exported { sent: 0, failed: 3 },
            "{endpoint}"
        );
    }
}

#[tokio::test]
async fn windows_are_thinned_to_the_interval_and_what_ended_meanwhile_is_sent_once() {
    let server = Server::default();
    let mut service = service(config(server.start().await)).await;
    let (a, b) = ([("raddr", "a")], [("raddr", "b")]);
    let none: &[(&str, &str)] = &[];
    for (second, live, ended) in [
        (0, &a[..], none),
        // Ends in a window that does not go on, and begins anew before the next that does.
        (5, &b[..], &a[..]),
        (10, &a[..], none),
        (15, &a[..], &b[..]),
        (20, &a[..], none),
        (30, &a[..], none),
    ] {
        send(&mut service, one(second * 1000, live, ended)).await;
    }
    let replaced = Snapshot {
        replaced: true,
        ..one(31_000, &a, &[])
    };
    send(&mut service, replaced).await;
    let last = Snapshot {
        last: true,
        ..one(32_000, &a, &[])
    };
    send(&mut service, last).await;
    let seen: Vec<_> = server
        .series()
        .into_iter()
        .map(|(key, bits, at)| (key.contains(r#""a""#), bits == STALE, at))
        .collect();
    assert_eq!(
        seen,
        [
            (true, false, 0),
            (true, true, 1),
            (false, true, 10_001),
            (true, false, 15_000),
            (true, false, 30_000),
            (true, false, 31_000),
            (true, false, 32_000),
        ]
    );
}

#[tokio::test]
async fn series_of_several_pipelines_have_their_names_from_the_first_on_and_own_metrics_have_none() {
    let server = Server::default();
    let context = BuildContext {
        several_pipelines: true,
        ..context()
    };
    let mut exporter = RemoteWriteExporter::new(config(server.start().await), &context);
    let mut service = exporter.start().await.unwrap();
    for pipeline in ["flows", "other", ""] {
        let window = Snapshot {
            pipeline: pipeline.into(),
            last: true,
            ..one(1000, &[("raddr", "a")], &[])
        };
        send(&mut service, window).await;
    }
    let reported: Vec<_> = server
        .series()
        .into_iter()
        .map(|(key, ..)| key.split("pipeline=").nth(1).map(|rest| rest[..7].to_owned()))
        .collect();
    assert_eq!(
        reported,
        [Some("\"flows\"".to_owned()), Some("\"other\"".to_owned()), None]
    );
}

#[tokio::test]
async fn series_name_their_node_unless_the_config_says_otherwise() {
    type Pairs = &'static [(&'static str, &'static str)];
    let owned = |pairs: Pairs| {
        let pairs = pairs
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        pairs.collect::<BTreeMap<_, _>>()
    };
    let id = r#"id="11111111-2222-5333-8444-555555555555","#;
    let cases: [(Pairs, Option<Pairs>, &str); 4] = [
        (&[], None, r#"instance="node1",job="flowtap","#),
        (&[("instance", "mine")], None, r#"instance="mine",job="flowtap","#),
        (&[], Some(&[]), ""),
        (
            &[],
            Some(&[("id", "service.instance.id"), ("x", "not.known")]),
            id,
        ),
    ];
    for (external, resource, expected) in cases {
        let server = Server::default();
        let config = Config {
            external_labels: owned(external),
            resource_labels: resource.map_or(Config::default().resource_labels, owned),
            ..config(server.start().await)
        };
        export(config, one(1000, &[("raddr", "a")], &[])).await;
        let (key, ..) = &server.series()[0];
        assert!(key.contains(expected), "{key}");
        assert_eq!(key.contains("job"), expected.contains("job"), "{key}");
    }
}

/// The samples of one series in the order in which they came, over all requests.
fn samples(server: &Server, name: &str) -> Vec<(f64, i64)> {
    let named = |series: &&TimeSeries| series.labels.iter().any(|label| label.value == name);
    let received = server.received.lock().unwrap();
    let series = received
        .iter()
        .flat_map(|request| &request.timeseries)
        .filter(named);
    let samples = series.flat_map(|series| series.samples.iter());
    samples.map(|sample| (sample.value, sample.timestamp)).collect()
}

#[tokio::test]
async fn a_series_that_begins_has_a_sample_0_once_and_one_that_is_older_than_the_exporter_has_none() {
    let second = 1_000_000_000;
    let name = "primus_lens_network_bytes";
    let server = Server::default();
    let mut service = service(Config {
        interval: Duration::from_secs(5),
        ..config(server.start().await)
    })
    .await;
    let began = Timestamp::now().as_nanos() / second * second + 10 * second;
    let at = |seconds: u64| Timestamp::from_nanos(began + seconds * second);
    let milliseconds =
        |seconds: u64, more: i64| i64::try_from(at(seconds).as_nanos() / 1_000_000).unwrap() + more;
    let point = |start: u64, total: u64| SumPoint {
        series: Series::new(&BYTES, [], None, Timestamp::from_nanos(start)),
        total,
        delta: total,
        updated: at(0),
    };
    let window = |seconds: u64, point: &SumPoint, ended: &[Series]| Snapshot {
        at: at(seconds),
        families: vec![FamilySnapshot {
            family: &BYTES,
            points: Points::Sums(vec![point.clone()]),
            ended: ended.to_vec(),
        }],
        ..snapshot(0)
    };
    let first = point(at(0).as_nanos(), 100);
    send(&mut service, window(5, &first, &[])).await;
    send(&mut service, window(10, &first, &[])).await;
    // It ends, and begins again in the very next window.
    let again = point(at(15).as_nanos(), 7);
    let mut last = window(20, &again, &[]);
    let ended = Snapshot {
        families: vec![FamilySnapshot {
            family: &BYTES,
            points: Points::Sums(Vec::new()),
            ended: vec![first.series.clone()],
        }],
        ..window(15, &first, &[])
    };
    send(&mut service, ended).await;
    last.last = true;
    send(&mut service, last).await;
    let seen = samples(&server, name);
    let expected = [
        (0.0, milliseconds(0, 2)),
        (100.0, milliseconds(5, 0)),
        (100.0, milliseconds(10, 0)),
        (f64::from_bits(STALE), milliseconds(10, 1)),
        (0.0, milliseconds(15, 2)),
        (7.0, milliseconds(20, 0)),
    ];
    let bits = |samples: &[(f64, i64)]| {
        samples
            .iter()
            .map(|(value, at)| (value.to_bits(), *at))
            .collect::<Vec<_>>()
    };
    assert_eq!(bits(&seen), bits(&expected));
    assert!(seen.windows(2).all(|pair| pair[0].1 < pair[1].1), "{seen:?}");

    // A reload ends it, and one of the same labels begins in that window.
    let server = Server::default();
    let mut service = self::service(Config {
        interval: Duration::from_secs(5),
        ..config(server.start().await)
    })
    .await;
    send(&mut service, window(5, &first, &[])).await;
    let again = point(at(5).as_nanos(), 7);
    send(
        &mut service,
        window(10, &again, std::slice::from_ref(&first.series)),
    )
    .await;
    let expected = [
        (0.0, milliseconds(0, 2)),
        (100.0, milliseconds(5, 0)),
        (f64::from_bits(STALE), milliseconds(5, 1)),
        (0.0, milliseconds(5, 2)),
        (7.0, milliseconds(10, 0)),
    ];
    assert_eq!(bits(&samples(&server, name)), bits(&expected));

    // As after a reload: the exporter is new, the series is not, and a store may have its samples.
    let server = Server::default();
    let old = Timestamp::now().as_nanos() - 60 * second;
    let mut service = self::service(config(server.start().await)).await;
    send(&mut service, window(5, &point(old, 100), &[])).await;
    assert_eq!(samples(&server, name).len(), 1);
}

#[tokio::test]
async fn no_sample_0_is_sent_where_the_config_has_none() {
    let server = Server::default();
    let mut service = service(Config {
        zero_samples: false,
        ..config(server.start().await)
    })
    .await;
    let start = Timestamp::from_nanos(Timestamp::now().as_nanos() + 1_000_000_000);
    let point = SumPoint {
        series: Series::new(&BYTES, [], None, start),
        total: 1,
        delta: 1,
        updated: start,
    };
    let window = Snapshot {
        at: Timestamp::from_nanos(start.as_nanos() + 5_000_000_000),
        families: vec![FamilySnapshot {
            family: &BYTES,
            points: Points::Sums(vec![point]),
            ended: Vec::new(),
        }],
        ..snapshot(0)
    };
    send(&mut service, window).await;
    assert_eq!(samples(&server, "primus_lens_network_bytes").len(), 1);
}

#[tokio::test]
async fn a_peer_is_reached_over_tls_only_with_an_authority_and_a_password_goes_along() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("peer");
    certificate(&base, "localhost");
    let (cert_file, key_file) = (base.with_extension("crt"), base.with_extension("key"));
    let files = flowtap_net::tls::ServerTls {
        cert_file: cert_file.clone(),
        key_file,
        client_ca_file: None,
    };
    let tls = flowtap_net::tls::ListenerTls::new(&files).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.config());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::default();
    let routes = server.routes();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let routes = hyper_util::service::TowerToHyperService::new(routes.clone());
            tokio::spawn(async move {
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, routes)
                    .await;
            });
        }
    });
    let mut trusting = config(format!("https://{address}/api/v1/write"));
    trusting.retry.enabled = false;
    trusting.basic_auth = Some(BasicAuth {
        username: "flowtap".to_owned(),
        password: "hunter2".to_owned(),
    });
    trusting.tls.server_name = Some("localhost".to_owned());
    let strict = trusting.clone();
    trusting.tls.ca_file = Some(cert_file);
    assert_eq!(export(trusting, snapshot(1)).await.sent, 3);
    assert_eq!(
        server.headers.lock().unwrap()[0]["authorization"],
        "Basic Zmxvd3RhcDpodW50ZXIy"
    );
    assert_eq!(export(strict, snapshot(1)).await.failed, 3);
}

#[tokio::test]
async fn a_stale_marker_is_sent_until_it_is_delivered() {
    let server = Server::default();
    let mut service = service(config(server.start().await)).await;
    server.answer(&[(401, None), (403, None)]);
    for (second, ended) in [(20, &[("raddr", "a")][..]), (40, &[]), (60, &[]), (80, &[])] {
        send(&mut service, one(second * 1_000, &[("raddr", "b")], ended)).await;
    }
    let markers: Vec<_> = server
        .series()
        .into_iter()
        .filter(|(_, bits, _)| *bits == STALE)
        .collect();
    let times: Vec<_> = markers.iter().map(|(_, _, at)| *at).collect();
    // Refused twice; each has the time of the window that it is sent with.
    assert_eq!(times, [15_001, 35_001, 55_001]);
}

/// A store that is away, and then there, with a place on disk between.
#[tokio::test]
async fn what_is_stored_is_delivered_by_the_next_run_oldest_first() {
    let folder = tempfile::tempdir().unwrap();
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = away.local_addr().unwrap();
    drop(away);
    let stored = |endpoint: String| Config {
        storage: Some(push::storage::StorageConfig {
            directory: folder.path().to_owned(),
            max_bytes: 1 << 20,
            when_full: push::storage::WhenDiskFull::DropOldest,
        }),
        interval: Duration::from_nanos(1),
        zero_samples: false,
        ..config(endpoint)
    };
    // As much as a `kill -9` leaves: the exporter is not stopped, its task not awaited.
    let mut exporter = RemoteWriteExporter::new(stored(format!("http://{address}/write")), &context());
    let mut service = exporter.start().await.unwrap();
    for second in [1, 2, 3] {
        let exported = send(&mut service, one(second * 1_000, &[("a", "b")], &[])).await;
        assert_eq!(exported, Exported::default(), "on disk, and no more is known");
    }
    for spool in exporter.spool.tasks.drain(..) {
        spool.abort();
        let _ = spool.await;
    }
    drop((service, exporter));

    let server = Server::default();
    server.answer(&[(503, None)]);
    let mut exporter = RemoteWriteExporter::new(stored(server.start().await), &context());
    let _service = exporter.start().await.unwrap();
    // Requests that could not be sent at once are sent before the exporter ends.
    exporter.stop().await;
    let mut times: Vec<_> = server.series().iter().map(|(_, _, at)| *at).collect();
    times.dedup();
    assert_eq!(times, [1_000, 2_000, 3_000]);
}

/// Snapshots 20 s apart of one counter that began after the exporter.
fn growing(count: u64) -> Vec<Snapshot> {
    growing_from(Timestamp::now().plus(Duration::from_secs(3600)), count)
}

/// Snapshots 20 s apart of one counter that began at `start`.
fn growing_from(start: Timestamp, count: u64) -> Vec<Snapshot> {
    let series = Series::new(&BYTES, [("raddr", LabelValue::Text("192.0.2.7"))], None, start);
    let at = |number| start.plus(Duration::from_secs(20 * number));
    let one = |number| Snapshot {
        at: at(number),
        families: vec![FamilySnapshot {
            family: &BYTES,
            points: Points::Sums(vec![SumPoint {
                series: series.clone(),
                total: number,
                delta: 1,
                updated: at(number),
            }]),
            ended: vec![],
        }],
        ..snapshot(0)
    };
    (1..=count).map(one).collect()
}

#[tokio::test]
async fn a_zero_is_sent_until_a_request_with_its_series_is_delivered() {
    for (answers, expected) in [
        (vec![(401, None), (403, None)], vec![2, 2, 2, 1]),
        // A request that the store may have in part: it gets the 0 once more, then without, then again.
        (vec![(400, None); 3], vec![2, 2, 1, 2]),
        (vec![], vec![2, 1, 1, 1]),
    ] {
        let server = Server::default();
        let mut service = service(config(server.start().await)).await;
        server.answer(&answers);
        for snapshot in growing(4) {
            send(&mut service, snapshot).await;
        }
        let received = server.received.lock().unwrap();
        let samples = received.iter().map(|request| {
            let series = request.timeseries.iter();
            series.map(|series| series.samples.len()).sum::<usize>()
        });
        assert_eq!(samples.collect::<Vec<_>>(), expected, "{answers:?}");
    }
}
