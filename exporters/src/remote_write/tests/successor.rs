//! An exporter that replaces another one.

use super::*;

fn samples(server: &Server) -> Vec<usize> {
    let received = server.received.lock().unwrap();
    let samples = received.iter().map(|request| {
        let series = request.timeseries.iter();
        series.map(|series| series.samples.len()).sum::<usize>()
    });
    samples.collect()
}

#[tokio::test]
async fn an_exporter_owes_the_zeros_of_the_one_that_it_replaces_at_the_same_peer() {
    // A request before the reload is refused, given up with its exporter, or delivered.
    for (answer, is_given_up, same_peer, expected) in [
        (Some((401, None)), false, true, vec![2, 2, 1]),
        (Some((503, Some("60"))), true, true, vec![2, 2, 1]),
        (None, false, true, vec![2, 1, 1]),
        (Some((401, None)), false, false, vec![1, 1]),
    ] {
        let (server, other) = (Server::default(), Server::default());
        let address = server.start().await;
        let before = Config {
            // Long enough for the wait that the answer asks for.
            retry: RetryConfig::default(),
            ..config(address.clone())
        };
        let mut before = RemoteWriteExporter::new(before, &context());
        let mut service = before.start().await.unwrap();
        server.answer(&answer.into_iter().collect::<Vec<_>>());
        let snapshots = growing_from(Timestamp::now(), 3);
        let [first, second, third] = <[_; 3]>::try_from(snapshots).unwrap();
        if is_given_up {
            let arrived = async {
                while server.requests() == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                _ = send(&mut service, first) => panic!("it waits for its retry"),
                () = arrived => {}
            }
        } else {
            send(&mut service, first).await;
        }
        let state = before.shared_state().unwrap();
        drop((service, before));
        let peer = if same_peer { address } else { other.start().await };
        let mut after = RemoteWriteExporter::new(config(peer), &context());
        after.take_over(state);
        let mut service = after.start().await.unwrap();
        send(&mut service, second).await;
        send(&mut service, third).await;
        let seen = samples(if same_peer { &server } else { &other });
        assert_eq!(seen, expected, "{answer:?} {is_given_up} {same_peer}");
    }
}

#[tokio::test]
async fn a_series_that_began_between_two_exporters_has_a_zero_and_one_that_ended_a_marker() {
    let server = Server::default();
    let address = server.start().await;
    let mut before = RemoteWriteExporter::new(config(address.clone()), &context());
    let mut service = before.start().await.unwrap();
    let start = Timestamp::now();
    // Of other series, before this one.
    let other = Snapshot {
        at: start,
        ..snapshot(0)
    };
    send(&mut service, other).await;
    server.received.lock().unwrap().clear();
    let [second, third] = <[_; 2]>::try_from(growing_from(start, 2)).unwrap();
    let state = before.shared_state().unwrap();
    drop((service, before));
    let mut after = RemoteWriteExporter::new(config(address), &context());
    after.take_over(state);
    let mut service = after.start().await.unwrap();
    send(&mut service, second).await;
    let mut ended = third;
    if let Points::Sums(points) = &mut ended.families[0].points {
        let gone = points.pop().unwrap().series;
        ended.families[0].ended.push(gone);
    }
    send(&mut service, ended).await;
    assert_eq!(samples(&server), [2, 1]);
}

/// The first window after a start ends with the clock, and may be as short as can be.
#[tokio::test]
async fn a_series_has_a_zero_however_short_its_first_window_is() {
    for microseconds in [0, 300, 1_000, 1_900, 2_000, 2_900, 3_100] {
        let server = Server::default();
        let mut service = service(config(server.start().await)).await;
        let mut first = growing(1).remove(0);
        let Points::Sums(points) = &first.families[0].points else {
            panic!("sums")
        };
        first.at = points[0].series.start().plus(Duration::from_micros(microseconds));
        let at = i64::try_from(first.at.as_nanos() / 1_000_000).unwrap();
        send(&mut service, first).await;
        let received = server.received.lock().unwrap();
        let samples = received[0].timeseries.iter().flat_map(|series| &series.samples);
        let times: Vec<_> = samples.map(|sample| sample.timestamp).collect();
        assert_eq!(times.len(), 2, "{microseconds}");
        assert!(
            times[0] < at && times[0] >= at - 3,
            "{microseconds}: {times:?}, {at}"
        );
        assert_eq!(times[1], at, "{microseconds}");
    }
}
