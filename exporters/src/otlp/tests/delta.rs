//! Differences: what is delivered adds up to the totals, whatever is lost or passed over on the way.

use super::*;

/// The values of the first counter in each request, with the start and end of each.
fn reported(collector: &Collector) -> Vec<(i64, u64, u64)> {
    let received = collector.received.lock().unwrap();
    received
        .iter()
        .map(|request| {
            let Some(metric::Data::Sum(sum)) = &metrics(request)[0].data else {
                panic!("a sum")
            };
            assert_eq!(sum.aggregation_temporality, 1);
            let point = &sum.data_points[0];
            (
                first_total(request),
                point.start_time_unix_nano,
                point.time_unix_nano,
            )
        })
        .collect()
}

/// Windows of one series, as a window makes them: the series is the same object in each.
fn windows(totals: &[u64]) -> Vec<Snapshot> {
    let first = snapshot(totals[0]);
    let with = |(number, total): (u64, &u64)| {
        let mut window = Snapshot {
            at: Timestamp::from_nanos(5_000 * (number + 1)),
            ..first.clone()
        };
        window.families.truncate(1);
        window.families[0].ended.clear();
        if let flowtap_pipeline::Points::Sums(points) = &mut window.families[0].points {
            points[0].total = *total;
        }
        window
    };
    (0..).zip(totals).map(with).collect()
}

#[tokio::test]
async fn differences_add_up_over_requests_that_failed_and_windows_that_were_passed_over() {
    let collector = Collector::default();
    let endpoint = serve(&collector).await;
    let config = Config {
        temporality: Some(Temporality::Delta),
        interval: Duration::from_micros(10),
        ..config(&endpoint)
    };
    let mut service = OtlpExporter::new(config, &context())
        .unwrap()
        .start()
        .await
        .unwrap();
    let mut outcomes = Vec::new();
    // At 5, 10, …, 35 µs; every other one is passed over, and the one at 25 µs is refused for good.
    for (number, window) in windows(&[10, 15, 30, 31, 60, 60, 60]).into_iter().enumerate() {
        if number == 4 {
            collector
                .answers
                .lock()
                .unwrap()
                .push(Err(Status::invalid_argument("never")));
        }
        outcomes.push(
            service
                .ready()
                .await
                .unwrap()
                .call(Output::from(window))
                .await
                .unwrap(),
        );
    }
    let sent: Vec<_> = outcomes
        .iter()
        .map(|exported| (exported.sent, exported.failed))
        .collect();
    assert_eq!(sent, [(1, 0), (0, 0), (1, 0), (0, 0), (0, 1), (0, 0), (1, 0)]);
    assert_eq!(
        reported(&collector),
        [
            (10, 1_000, 5_000),
            (20, 5_000, 15_000),
            // Refused; the next one begins where this one did.
            (30, 15_000, 25_000),
            (30, 15_000, 35_000),
        ]
    );
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_and_a_histogram_has_what_was_added() {
    let collector = Collector::default();
    let endpoint = serve(&collector).await;
    let config = Config {
        temporality: Some(Temporality::Delta),
        interval: Duration::from_nanos(1),
        ..config(&endpoint)
    };
    let mut service = OtlpExporter::new(config, &context())
        .unwrap()
        .start()
        .await
        .unwrap();
    let first = snapshot(1);
    let mut second = Snapshot {
        at: Timestamp::from_nanos(10_000),
        ..first.clone()
    };
    if let flowtap_pipeline::Points::Histograms(points) = &mut second.families[1].points {
        let mut more = points[0].buckets.explicit();
        more[2] += 4;
        points[0].buckets = more.into();
        points[0].sum += 3.5;
    }
    for window in [first, second] {
        service
            .ready()
            .await
            .unwrap()
            .call(Output::from(window))
            .await
            .unwrap();
    }
    let received = collector.received.lock().unwrap();
    // No counter, no ended series: nothing new.
    let [only] = metrics(&received[1]) else {
        panic!("{:?}", received[1])
    };
    let Some(metric::Data::Histogram(data)) = &only.data else {
        panic!("a histogram")
    };
    let point = &data.data_points[0];
    assert_eq!(
        (point.count, point.sum, point.bucket_counts[2]),
        (4, Some(3.5), 4)
    );
    assert_eq!(
        (point.start_time_unix_nano, point.time_unix_nano),
        (5_000, 10_000)
    );
}

/// Calls a service with one window after the other.
async fn push(service: &mut ExportService, windows: impl IntoIterator<Item = Snapshot>) {
    for window in windows {
        let service = service.ready().await.unwrap();
        service.call(Output::from(window)).await.unwrap();
    }
}

fn of_deltas(endpoint: &str) -> Config {
    Config {
        temporality: Some(Temporality::Delta),
        interval: Duration::from_nanos(1),
        ..config(endpoint)
    }
}

#[tokio::test]
async fn an_exporter_that_replaces_another_goes_on_with_what_that_one_delivered() {
    let collector = Collector::default();
    let endpoint = serve(&collector).await;
    let mut first = OtlpExporter::new(of_deltas(&endpoint), &context()).unwrap();
    let mut service = first.start().await.unwrap();
    let windows = windows(&[10, 30, 60, 100]);
    push(&mut service, windows[..1].iter().cloned()).await;
    let refused = Err(Status::invalid_argument("never"));
    collector.answers.lock().unwrap().push(refused);
    push(&mut service, windows[1..2].iter().cloned()).await;
    let state = first.shared_state().unwrap();
    drop((first, service));

    let mut second = OtlpExporter::new(of_deltas(&endpoint), &context()).unwrap();
    second.take_over(state);
    let mut service = second.start().await.unwrap();
    push(&mut service, windows[2..].iter().cloned()).await;
    assert_eq!(
        reported(&collector),
        [
            (10, 1_000, 5_000),
            // Refused: the one that goes on sends it with the next.
            (20, 5_000, 10_000),
            (50, 5_000, 15_000),
            (40, 15_000, 20_000),
        ]
    );
}

#[tokio::test]
async fn an_exporter_that_joins_a_pipeline_at_work_begins_at_the_totals_there() {
    let collector = Collector::default();
    let endpoint = serve(&collector).await;
    let window = Duration::from_micros(4);
    // The series began at 1 µs, when the first of these windows opened: a third one is of a pipeline at work.
    for (from, expected) in [(0, vec![10, 20, 30]), (1, vec![30, 40])] {
        let mut exporter = OtlpExporter::new(of_deltas(&endpoint), &context()).unwrap();
        let mut service = exporter.start().await.unwrap();
        let mut windows = windows(&[10, 30, 60, 100]);
        for snapshot in &mut windows {
            snapshot.window = window;
        }
        let three = windows.into_iter().skip(from).take(3);
        push(&mut service, three).await;
        let totals: Vec<_> = reported(&collector).iter().map(|(value, ..)| *value).collect();
        assert_eq!(totals, expected);
        collector.received.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn series_that_end_between_two_exporters_are_forgotten() {
    let collector = Collector::default();
    let endpoint = serve(&collector).await;
    let mut first = OtlpExporter::new(of_deltas(&endpoint), &context()).unwrap();
    let mut service = first.start().await.unwrap();
    let lives = windows(&[10, 10, 30]);
    push(&mut service, windows(&[20])).await;
    push(&mut service, lives[1..2].iter().cloned()).await;
    let state = first.shared_state().unwrap();
    drop((first, service));

    let mut second = OtlpExporter::new(of_deltas(&endpoint), &context()).unwrap();
    second.take_over(state);
    let known = |exporter: &OtlpExporter| exporter.deltas.as_deref().map(|deltas| lock(deltas).len());
    assert_eq!(known(&second), Some(2));
    let mut service = second.start().await.unwrap();
    push(&mut service, lives[2..].iter().cloned()).await;
    // The window has dropped the other one, and no snapshot said that it has ended.
    assert_eq!(known(&second), Some(1));
    let values: Vec<_> = reported(&collector).iter().map(|(value, ..)| *value).collect();
    assert_eq!(values, [20, 10, 20]);
}

/// A series whose last increase is refused, and that then ends: what it owes comes in a separate request. So does what a refused
/// request on disk had counted.
#[tokio::test]
async fn what_a_series_owes_is_delivered_after_its_end() {
    for storage in [false, true] {
        let (collector, folder) = (Collector::default(), tempfile::tempdir().unwrap());
        let config = Config {
            temporality: Some(Temporality::Delta),
            interval: Duration::from_nanos(1),
            storage: storage.then(|| storage_in(folder.path())),
            ..config(&serve(&collector).await)
        };
        let mut exporter = OtlpExporter::new(config, &context()).unwrap();
        let mut service = exporter.start().await.unwrap();
        let refusal = || Err(Status::invalid_argument("never"));
        // The last first: 10 is taken, 20 and 5 are refused.
        let accepted = || Ok(ExportMetricsServiceResponse::default());
        collector
            .answers
            .lock()
            .unwrap()
            .extend([refusal(), refusal(), accepted()]);
        let mut windows = windows(&[10, 30, 35, 35, 35]);
        for ended in &mut windows[3..] {
            let points = mem::replace(
                &mut ended.families[0].points,
                flowtap_pipeline::Points::Sums(Vec::new()),
            );
            if let flowtap_pipeline::Points::Sums(points) = points {
                ended.families[0].ended = vec![points[0].series.clone()];
            }
        }
        windows[4].families[0].ended.clear();
        for window in windows {
            let service = service.ready().await.unwrap();
            service.call(Output::from(window)).await.unwrap();
            // With `storage` the answer is noted a moment later.
            tokio::time::sleep(Duration::from_millis(if storage { 300 } else { 0 })).await;
        }
        let values: Vec<_> = reported(&collector).iter().map(|(value, ..)| *value).collect();
        assert_eq!(values, [10, 20, 25, 25], "{storage}");
    }
}
