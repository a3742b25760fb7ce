//! Where series begin and end, in the order in which a store has to see it.

use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, NumberDataPoint};

use flowtap_pipeline::Series;

use super::*;
use crate::testing::BYTES;
use flowtap_pipeline::{Family, FamilyKind, FamilySnapshot, LabelValue, Points, SumPoint};

const SECOND: u64 = 1_000_000_000;

fn at(second: u64) -> Timestamp {
    Timestamp::from_nanos(second * SECOND)
}

/// The requests that one series after the other makes with `config` of an exporter that began `before` them.
fn requests(
    config: &Config,
    snapshots: &[Snapshot],
    new_since: Option<Timestamp>,
) -> Vec<ExportMetricsServiceRequest> {
    let (encoder, mut ended) = (Encoder::new(config, &resource(), false), Ended::default());
    let (newest, before) = snapshots.split_last().unwrap();
    for snapshot in before {
        ended.add(snapshot);
    }
    ended.add(newest);
    let starts = Starts::since(new_since);
    let mut encoding = encoder.encode(newest, &ended, false, &starts);
    let parts = std::iter::from_fn(|| encoding.next_part(None));
    parts
        .map(|part| ExportMetricsServiceRequest::decode(part.request.body).unwrap())
        .collect()
}

fn numbers(request: &ExportMetricsServiceRequest) -> Vec<NumberDataPoint> {
    let points = metrics(request).iter().filter_map(|metric| match &metric.data {
        Some(metric::Data::Sum(sum)) => Some(sum.data_points.clone()),
        _ => None,
    });
    points.flatten().collect()
}

fn histograms(request: &ExportMetricsServiceRequest) -> Vec<HistogramDataPoint> {
    let points = metrics(request).iter().filter_map(|metric| match &metric.data {
        Some(metric::Data::Histogram(histogram)) => Some(histogram.data_points.clone()),
        _ => None,
    });
    points.flatten().collect()
}

/// One series that began at `start`, with `total` at the end of a window at `end`; or, without, that has ended in it.
fn window(start: Timestamp, end: Timestamp, total: Option<u64>) -> Snapshot {
    let series = Series::new(&BYTES, [("raddr", LabelValue::Text("192.0.2.7"))], None, start);
    let point = total.map(|total| SumPoint {
        series: series.clone(),
        total,
        delta: total,
        updated: end,
    });
    let ended = if point.is_none() { vec![series] } else { Vec::new() };
    Snapshot {
        at: end,
        families: vec![FamilySnapshot {
            family: &BYTES,
            points: Points::Sums(point.into_iter().collect()),
            ended,
        }],
        ..snapshot(0)
    }
}

#[test]
fn a_counter_and_a_histogram_that_are_new_have_a_point_0_just_after_the_start_of_their_first_window() {
    let mut new = snapshot(42);
    new.at = at(5);
    let [request] = &*requests(&Config::default(), &[new.clone()], Some(Timestamp::from_nanos(0))) else {
        panic!("one request")
    };
    let [ended, zero, first] = &*numbers(request) else {
        panic!("{request:?}")
    };
    assert_eq!(ended.flags, 1);
    assert_eq!(
        (zero.start_time_unix_nano, zero.time_unix_nano),
        (1_000, 2_001_000)
    );
    assert_eq!(
        (first.start_time_unix_nano, first.time_unix_nano),
        (1_000, 5 * SECOND)
    );
    assert_eq!(zero.attributes, first.attributes);
    assert_eq!(zero.value, Some(number_data_point::Value::AsInt(0)));
    assert_eq!(first.value, Some(number_data_point::Value::AsInt(42)));
    let [zero, first] = &*histograms(request) else {
        panic!("{request:?}")
    };
    assert_eq!(
        (zero.count, zero.sum, zero.time_unix_nano),
        (0, Some(0.0), 2_001_000)
    );
    assert_eq!(zero.bucket_counts, vec![0; first.bucket_counts.len()]);
    assert_eq!(zero.explicit_bounds, first.explicit_bounds);
    assert_eq!((first.count, first.time_unix_nano), (7, 5 * SECOND));

    // The store already has points of series that began before the exporter.
    let [request] = &*requests(&Config::default(), &[new], Some(Timestamp::from_nanos(1_001))) else {
        panic!("one request")
    };
    assert_eq!((numbers(request).len(), histograms(request).len()), (2, 1));
}

#[test]
fn a_request_has_no_more_points_than_it_may_with_the_zeros_among_them() {
    for max in [2, 3, 7] {
        let config = Config {
            max_points_per_request: max.try_into().unwrap(),
            ..Config::default()
        };
        let mut new = many(100);
        new.at = at(5);
        let requests = requests(&config, &[new], Some(Timestamp::from_nanos(0)));
        assert!(requests.iter().all(|request| points(request) <= max));
        assert_eq!(requests.iter().map(points).sum::<usize>(), 200);
    }
    let config = Config {
        endpoint: Some("http://127.0.0.1:4317".to_owned()),
        max_points_per_request: 1.try_into().unwrap(),
        ..Config::default()
    };
    let faults = flowtap_pipeline::ComponentConfig::validate(&config);
    assert_eq!(faults[0].path, ["max_points_per_request"]);
}

#[test]
fn a_series_that_ended_and_began_anew_between_two_requests_is_sent_in_the_order_of_time() {
    let windows = [window(at(0), at(10), None), window(at(15), at(20), Some(7))];
    let [request] = &*requests(&Config::default(), &windows, Some(at(5))) else {
        panic!("one request")
    };
    let reported: Vec<_> = numbers(request)
        .iter()
        .map(|point| (point.time_unix_nano, point.flags))
        .collect();
    // Its end, in the window from 5 s on, a 0 in its new start's window, and what it is now.
    let expected = [
        (5 * SECOND + 1_000_000, 1),
        (15 * SECOND + 2_000_000, 0),
        (20 * SECOND, 0),
    ];
    assert_eq!(reported, expected);
}

/// A Prometheus refuses a request whose newest point is older than that of one before it: it has a sample of `target_info` for each.
#[test]
fn requests_of_one_snapshot_are_in_the_order_of_their_newest_points() {
    let family = |kind: &'static Family, live: u64, ended: usize| {
        let series = |i: u64| Series::new(kind, [("raddr", LabelValue::Number(i))], None, at(1));
        let point = |i| SumPoint {
            series: series(i),
            total: i,
            delta: i,
            updated: at(5),
        };
        FamilySnapshot {
            family: kind,
            points: Points::Sums((0..live).map(point).collect()),
            ended: vec![series(0); ended],
        }
    };
    let [other, third] =
        ["network.other", "network.third"].map(|name| &*Box::leak(Box::new(Family { name, ..BYTES })));
    let windows = |ended: usize| {
        let families = |ended| {
            vec![
                family(&BYTES, 9, 0),
                family(other, 3, ended),
                family(third, 0, ended),
            ]
        };
        [(10, ended), (15, 0), (20, ended)].map(|(second, ended)| Snapshot {
            at: at(second),
            families: families(ended),
            ..snapshot(0)
        })
    };
    for ended in [1, 3, 50] {
        for max in [2, 7, 100] {
            let config = Config {
                max_points_per_request: max.try_into().unwrap(),
                ..Config::default()
            };
            let requests = requests(&config, &windows(ended), None);
            let newest: Vec<_> = requests
                .iter()
                .map(|request| numbers(request).iter().map(|point| point.time_unix_nano).max())
                .collect();
            assert!(newest.is_sorted(), "{ended}, {max}: {newest:?}");
            assert_eq!(requests.iter().map(points).sum::<usize>(), 12 + 4 * ended);
        }
    }
}

#[test]
fn a_histogram_that_a_reload_gives_other_buckets_ends_with_the_old_ones_before_it_begins_with_the_new() {
    let old = snapshot(0).families.remove(1);
    let buckets = [0.5, 7.0];
    let other = old.family.with_kind(FamilyKind::histogram(&buckets));
    let Points::Histograms(points) = &old.points else {
        panic!("a histogram")
    };
    let mut point = points[0].clone();
    let ended = point.series.clone();
    point.series = Series::new(other, [("raddr", LabelValue::Text("a\"b\\c\nd"))], None, at(5));
    // The ended series are in the first window after the reload, which is not sent; the snapshot that is sent has the new family alone.
    let at_reload = Snapshot {
        at: at(10),
        families: vec![FamilySnapshot {
            family: old.family,
            points: Points::Histograms(Vec::new()),
            ended: vec![ended],
        }],
        ..snapshot(0)
    };
    let live = |at| Snapshot {
        at,
        families: vec![FamilySnapshot {
            family: other,
            points: Points::Histograms(vec![point.clone()]),
            ended: Vec::new(),
        }],
        ..snapshot(0)
    };
    let [mut both, next] = [live(at(10)), live(at(15))];
    both.families.extend(at_reload.families.clone());
    for (windows, newest) in [(vec![both], 10), (vec![at_reload, next], 15)] {
        let [request] = &*requests(&Config::default(), &windows, Some(at(1))) else {
            panic!("one request")
        };
        let points = histograms(request);
        let times: Vec<_> = points
            .iter()
            .map(|point| (point.time_unix_nano, point.flags, point.explicit_bounds.len()))
            .collect();
        let expected = [
            (5 * SECOND + 1_000_000, 1, 16),
            (5 * SECOND + 2_000_000, 0, 2),
            (newest * SECOND, 0, 2),
        ];
        assert_eq!(times, expected);
    }
}

#[tokio::test]
async fn zeros_are_sent_by_default_for_what_began_after_the_exporter_and_not_with_zero_points_off() {
    for (zero_points, expected) in [(true, 2), (false, 1)] {
        let collector = Collector::default();
        let config = Config {
            zero_points,
            ..config(&serve(&collector).await)
        };
        let mut service = OtlpExporter::new(config, &context())
            .unwrap()
            .start()
            .await
            .unwrap();
        // Windows end whenever they do; these are of an hour to come.
        let start = Timestamp::now().plus(Duration::from_secs(3600));
        let later = |seconds| start.plus(Duration::from_secs(seconds));
        for snapshot in [
            window(start, later(20), Some(7)),
            window(start, later(40), Some(8)),
        ] {
            let service = service.ready().await.unwrap();
            service.call(Output::from(snapshot)).await.unwrap();
        }
        let received = collector.received.lock().unwrap();
        let reported: Vec<_> = received.iter().map(points).collect();
        assert_eq!(reported, [expected, 1], "{zero_points}");
    }
}

/// The first request of a series fails: the next one has the 0 as well, and the one after that has not.
#[tokio::test]
async fn a_zero_is_sent_until_a_request_with_its_series_is_delivered() {
    for storage in [false, true] {
        let (collector, folder) = (Collector::default(), tempfile::tempdir().unwrap());
        let config = Config {
            storage: storage.then(|| storage_in(folder.path())),
            ..config(&serve(&collector).await)
        };
        let mut exporter = OtlpExporter::new(config, &context()).unwrap();
        let mut service = exporter.start().await.unwrap();
        let start = Timestamp::now().plus(Duration::from_secs(3600));
        let refusal = || Err(Status::unauthenticated("expired"));
        collector.answers.lock().unwrap().extend([refusal(), refusal()]);
        let series = window(start, start, Some(1));
        for (number, total) in (1..5).zip(1..) {
            let mut next = series.clone();
            next.at = start.plus(Duration::from_secs(20 * number));
            if let Points::Sums(points) = &mut next.families[0].points {
                points[0].total = total;
            }
            let service = service.ready().await.unwrap();
            service.call(Output::from(next)).await.unwrap();
            while collector.received.lock().unwrap().len() < usize::try_from(number).unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // With `storage` the answer is noted a moment later.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let received = collector.received.lock().unwrap();
        let reported: Vec<_> = received.iter().map(points).collect();
        assert_eq!(reported, [2, 2, 2, 1], "{storage}");
    }
}
