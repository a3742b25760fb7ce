//! A window's end with every exporter at once: 100,000 synthetic flows, all of which move in each
//! window. Measures the CPU time that each exporter adds to a window, and that of all of them
//! together; the receiver must not miss a tick meanwhile.
//!
//! Pushes go to a server in this process that takes everything, so nothing waits. CPU is that of all the daemon's threads, as the
//! scheduler counts it (`/proc/<pid>/task/<tid>/schedstat`).

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::{self, Agent};

const FLOWS: u32 = 100_000;

/// Between two windows; longer than a window takes by far.
const WINDOW: Duration = Duration::from_secs(3);

/// Windows that are measured.
const WINDOWS: u32 = 4;

/// Number of addresses that the flows are to, and its meaning. Round-trip times are by address, and
/// a histogram has 19 values.
const SHAPES: [(u32, &str); 2] = [
    (FLOWS, "each to an address of its own"),
    (FLOWS / 10, "ten to an address"),
];

/// Headers of a scrape as Prometheus asks for it.
const BY_GZIP: &str = "Accept-Encoding: gzip\r\n";

/// And as it does with `scrape_protocols: [PrometheusProto]`.
const BY_PROTOBUF: &str = "Accept-Encoding: gzip\r\nAccept: application/vnd.google.protobuf; \
                           proto=io.prometheus.client.MetricFamily; encoding=delimited\r\n";

/// Settings of remote write 2.0.
const NATIVE: [&str; 2] = [
    "exporters.remote_write.protobuf_message=io.prometheus.write.v2.Request",
    "exporters.remote_write.send_native_histograms=true",
];

/// A configuration of exporters.
struct Contender {
    name: &'static str,
    exporters: &'static str,
    set: &'static [&'static str],
    /// Headers of the scrape at each window, if there is one.
    scrape: Option<&'static str>,
}

const fn contender(name: &'static str, exporters: &'static str) -> Contender {
    Contender {
        name,
        exporters,
        set: &[],
        scrape: None,
    }
}

const CONTENDERS: [Contender; 13] = [
    contender("none (prometheus, not scraped)", "prometheus"),
    Contender {
        scrape: Some(""),
        ..contender("prometheus, a scrape", "prometheus")
    },
    Contender {
        scrape: Some(BY_GZIP),
        ..contender("the same, by gzip", "prometheus")
    },
    Contender {
        scrape: Some(BY_PROTOBUF),
        ..contender("the same, protobuf and gzip", "prometheus")
    },
    Contender {
        set: &["exporters.otlp.compression=none"],
        ..contender("otlp, not compressed", "otlp")
    },
    Contender {
        set: &["exporters.otlp.compression=zstd"],
        ..contender("otlp, zstd", "otlp")
    },
    contender("otlp, gzip (default)", "otlp"),
    contender("remote_write", "remote_write"),
    Contender {
        set: &NATIVE,
        ..contender("remote_write, 2.0 and native", "remote_write")
    },
    contender("file, JSON lines", "file"),
    Contender {
        set: &["exporters.debug.verbosity=basic"],
        scrape: Some(BY_GZIP),
        ..contender("prometheus, otlp, debug; gzip", "prometheus, otlp, debug")
    },
    Contender {
        scrape: Some(BY_GZIP),
        ..contender(
            "all, as they are by default",
            "prometheus, otlp, remote_write, file",
        )
    },
    Contender {
        set: &NATIVE,
        scrape: Some(BY_PROTOBUF),
        ..contender("all, protobuf and 2.0", "prometheus, otlp, remote_write, file")
    },
];

pub(crate) fn run() {
    for (addresses, shape) in SHAPES {
        println!(
            "tick: {FLOWS} synthetic flows, {shape}, all changed in each window of {WINDOW:?}; per window, over {WINDOWS}"
        );
        println!(
            "{:<31} {:>8} {:>10} {:>10} {:>9} {:>9} {:>8} {:>8}",
            "exporters", "series", "CPU ms", "added ms", "requests", "MB out", "missed", "RSS MiB"
        );
        let mut none = None;
        for contender in &CONTENDERS {
            let cpu = measure(contender, addresses, none);
            none.get_or_insert(cpu);
        }
    }
}

/// Returns CPU per window, in ms.
fn measure(contender: &Contender, addresses: u32, none: Option<f64>) -> f64 {
    let (name, exporters) = (contender.name, contender.exporters);
    let (scrape, telemetry, taker) = (agent::free_address(), agent::free_address(), Taker::start());
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = vec![
        "service.pipelines.metrics.receivers=[generator]".to_owned(),
        format!("service.pipelines.metrics.exporters=[{exporters}]"),
        format!("receivers.generator.flows={FLOWS}"),
        format!("receivers.generator.addresses={addresses}"),
        format!("receivers.generator.interval={WINDOW:?}"),
        format!("processors.window.interval={WINDOW:?}"),
        "processors.window.max_series=1000000".to_owned(),
        format!("service.telemetry.metrics.endpoint={telemetry}"),
    ];
    let wired = |exporter: &str| exporters.split(", ").any(|wired| wired == exporter);
    if wired("prometheus") {
        settings.push(format!("exporters.prometheus.endpoint={scrape}"));
    }
    if wired("otlp") {
        settings.extend([
            "exporters.otlp.protocol=http/protobuf".to_owned(),
            format!("exporters.otlp.endpoint=http://{}", taker.address),
            format!("exporters.otlp.interval={WINDOW:?}"),
        ]);
    }
    if wired("remote_write") {
        settings.extend([
            format!(
                "exporters.remote_write.endpoint=http://{}/api/v1/write",
                taker.address
            ),
            format!("exporters.remote_write.interval={WINDOW:?}"),
        ]);
    }
    if wired("file") {
        let path = folder.path().join("flows-{time}.jsonl");
        settings.push(format!("exporters.file.path={}", path.display()));
    }
    let settings: Vec<_> = settings
        .iter()
        .map(String::as_str)
        .chain(contender.set.iter().copied())
        .collect();
    let agent = Agent::when(agent::bare(&settings), "measuring version");
    // All series are made in the first windows.
    thread::sleep(3 * WINDOW);
    let (cpu, taken) = (cpu_ns(agent.pid()), taker.taken());
    let mut bytes = 0;
    let began = Instant::now();
    for window in 1..=WINDOWS {
        thread::sleep((window * WINDOW).saturating_sub(began.elapsed()));
        if let Some(headers) = contender.scrape {
            bytes += agent::scrape_with(scrape, headers).expect("a scrape").len() as u64;
        }
    }
    let per_window = |number: u64| number as f64 / f64::from(WINDOWS);
    let cpu = per_window(cpu_ns(agent.pid()) - cpu) / 1e6;
    let (requests, sent) = (taker.taken().0 - taken.0, taker.taken().1 - taken.1);
    let own = agent::scrape(telemetry).expect("a scrape");
    println!(
        "{name:<31} {:>8} {cpu:>10.0} {:>10.0} {:>9.0} {:>9.1} {:>8} {:>8.1}",
        agent::sum(&own, "processor_live_series", &[]),
        cpu - none.unwrap_or(cpu),
        per_window(requests),
        per_window(bytes + sent) / 1e6,
        agent::sum(&own, "receiver_missed_intervals_total", &[]),
        agent.usage().rss_kib as f64 / 1024.0
    );
    cpu
}

/// Time that the process' threads have had a CPU.
fn cpu_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let of_thread = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    tasks.map_while(Result::ok).filter_map(of_thread).sum()
}

/// A server that answers every request with 200.
struct Taker {
    address: SocketAddr,
    /// Requests, and bytes of their bodies.
    counts: Arc<[AtomicU64; 2]>,
}

impl Taker {
    /// Its threads live as long as this program.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let taker = Self {
            address: listener.local_addr().expect("an address"),
            counts: Arc::default(),
        };
        let counts = Arc::clone(&taker.counts);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let counts = Arc::clone(&counts);
                thread::spawn(move || while take(&stream, &counts).is_some() {});
            }
        });
        taker
    }

    fn taken(&self) -> (u64, u64) {
        let [requests, bytes] = &*self.counts;
        (requests.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }
}

/// One request; `None` when there are no more.
fn take(mut stream: &TcpStream, counts: &[AtomicU64; 2]) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    // A client sends its next request after the answer only, so nothing of it is in the buffer yet.
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    counts[0].fetch_add(1, Ordering::Relaxed);
    counts[1].fetch_add(length, Ordering::Relaxed);
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .ok()
}
