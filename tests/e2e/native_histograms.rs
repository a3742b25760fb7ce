//! Exponential histograms in stores that nobody here wrote: Debian's Prometheus and a newer one, which scrape and are written to. The
//! sizes of connections are what the application sent.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;

use crate::daemon::{Daemon, Launch};
use crate::peers::ask_until;
use crate::require;
use crate::stores::Store;

/// Bytes that each connection sends: three quarters small ones.
pub(crate) const SIZES: [usize; 12] = [
    1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 500_000, 500_000, 500_000,
];

/// The family with exponential buckets, by the port that serves: connections of other programs make few series.
pub(crate) const FAMILY: &str = "processors.window.families.network_tcp_connection_bytes={enabled: true, buckets: exponential, labels: [server_port, flow, direction]}";

/// Sends [`SIZES`], one connection after the other.
pub(crate) fn send(listener: &TcpListener) -> io::Result<()> {
    for size in SIZES {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        let sender = std::thread::spawn(move || -> io::Result<TcpStream> {
            (&client).write_all(&vec![b'x'; size])?;
            client.shutdown(Shutdown::Write)?;
            Ok(client)
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received)?;
        assert_eq!(received.len(), size);
        drop(server);
        drop(sender.join().expect("the sender panicked")?);
    }
    Ok(())
}

#[test]
fn a_prometheus_has_native_histograms_of_what_applications_sent_by_scrape_and_by_remote_write() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(newest) = require::peer("prometheus") else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    let feature = "--enable-feature=native-histograms";
    let programs = [("debian", Path::new("prometheus")), ("newest", &newest)];
    let receivers = programs.map(|(name, program)| {
        let arguments = ["--web.enable-remote-write-receiver", feature];
        (name, Store::prometheus(program, "", &arguments))
    });
    let mut exporters = String::new();
    for (name, store) in &receivers {
        let message = match *name {
            "newest" => "protobuf_message: io.prometheus.write.v2.Request",
            _ => "protobuf_message: prometheus.WriteRequest",
        };
        let _ = writeln!(
            exporters,
            "  remote_write/{name}: {{endpoint: \"http://{}/api/v1/write\", interval: 200ms, {message}}}",
            store.address()
        );
    }
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, debug, remote_write/debian, remote_write/newest]",
        exporters: &exporters,
        set: &[FAMILY],
        ..Launch::default()
    });
    let scrapers = programs.map(|(name, program)| {
        let job = format!(
            "scrape_configs:\n- job_name: flowtap\n  scrape_interval: 1s\n  static_configs: [{{targets: ['{}']}}]\n",
            daemon.scrape_address()
        );
        (name, Store::prometheus(program, &job, &[feature]))
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    send(&listener).unwrap();
    let series = format!(
        "primus_lens_network_tcp_connection_bytes{{server_port=\"{port}\",flow=\"egress\",direction=\"outbound\"}}"
    );
    let near = |seen: f64, exact: f64| (seen / exact - 1.0).abs() < 0.022;
    let total: usize = SIZES.iter().sum();
    for (way, stores) in [("written", &receivers), ("scraped", &scrapers)] {
        for (name, store) in stores {
            ask_until(
                &format!("the Prometheus of {name} has every connection, {way}"),
                || {
                    let count = store.number(&format!("histogram_count({series})"))?;
                    ((count - SIZES.len() as f64).abs() < 0.5).then_some(())
                },
            );
            let sum = store.number(&format!("histogram_sum({series})")).unwrap();
            assert!((sum - total as f64).abs() < 0.5, "{name} {way}: {sum}");
            for (quantile, exact) in [("0.5", 1_000.0), ("0.9", 500_000.0)] {
                let seen = store
                    .number(&format!("histogram_quantile({quantile}, {series})"))
                    .unwrap();
                assert!(near(seen, exact), "{name} {way}: {quantile} {seen}");
            }
            let classic = "primus_lens_network_tcp_connection_bytes_bucket";
            assert_eq!(store.number(&format!("count({classic})")), None, "{name} {way}");
        }
    }
    for (name, _) in &receivers {
        let exporter = format!("remote_write/{name}");
        let failed = "flowtap_exporter_send_failed_metric_points_total";
        let seen = daemon.telemetry();
        assert_eq!(seen.sum(failed, &[("exporter", &exporter)]), 0, "{name}");
    }
}
