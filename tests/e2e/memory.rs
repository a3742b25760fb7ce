//! The memory limiter: a burst takes memory over the limit, by flows and by requests; once it is over, flowtap measures as before.

use std::cell::Cell;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Launch};
use crate::netns::within_new;
use crate::require;
use crate::traffic::{Counted, exchange};

const MIB: u64 = 1 << 20;

/// Time after the end of a burst within which all must be as before.
const QUIET: Duration = Duration::from_secs(30);

/// Time without a change after which a series ends.
const EXPIRATION: Duration = Duration::from_secs(5);

const CHECK: &str = "service.memory_limiter.check_interval=100ms";

fn start(set: &[&str]) -> Daemon {
    Daemon::launch(Launch {
        list: "exporters: [prometheus]",
        set: &[
            &[
                CHECK,
                &format!("processors.window.metric_expiration={}s", EXPIRATION.as_secs()),
            ],
            set,
        ]
        .concat(),
        ..Launch::default()
    })
}

/// Settings of a daemon that sees its own network namespace only.
const OWN_NAMESPACE: [&str; 2] = [
    "service.pipelines.metrics.receivers=[sock_diag]",
    "receivers.sock_diag.interval=200ms",
];

/// A daemon whose limit is below what any daemon needs: it returns what is free to the system with every check.
fn always_limited(set: &[&str]) -> Daemon {
    let limits = [
        "service.memory_limiter.limit_mib=2",
        "service.memory_limiter.spike_limit_mib=1",
    ];
    start(&[set, &limits].concat())
}

/// Memory that an idle daemon of [`always_limited`] needs.
fn at_rest(daemon: &Daemon) -> u64 {
    let used = || {
        thread::sleep(Duration::from_millis(200));
        daemon.telemetry().sum("flowtap_memory_limiter_used_bytes", &[])
    };
    (0..5).map(|_| used()).filter(|used| *used > 0).min().unwrap()
}

/// Starts a daemon whose hard limit is `room` MiB above `used`, its soft limit `spike` MiB below it.
fn limited(used: u64, room: u64, spike: u64, set: &[&str]) -> Daemon {
    let limit = used.div_ceil(MIB) + room;
    let limits = [
        format!("service.memory_limiter.limit_mib={limit}"),
        format!("service.memory_limiter.spike_limit_mib={spike}"),
    ];
    start(&[set, &[&limits[0], &limits[1]]].concat())
}

/// Waits until the limiter is at ease, at most for [`QUIET`], then counts fresh connections to the byte.
fn measures_as_before(daemon: &Daemon) {
    let began = Instant::now();
    daemon.telemetry_until("memory below the limits", |own| {
        own.sum("flowtap_memory_limiter_state", &[]) == 0
    });
    assert!(began.elapsed() < QUIET, "{:?}", began.elapsed());
    // Received bytes are exact to a byte a connection in `sock_diag`; sent ones are exact in every mode.
    let sent_by_both = |counted: Counted| [counted.client_sent, counted.server_sent];
    // Series expire after seconds, so on a busy machine one may do so between two connections, and begin anew.
    let mut seen = Vec::new();
    let is_exact = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = sent_by_both(exchange(&listener, 50, 61).unwrap());
        let until = Instant::now() + EXPIRATION;
        while Instant::now() < until {
            let counted = sent_by_both(Counted::of_port(&daemon.scrape(), port));
            if counted == sent {
                return true;
            }
            seen.push((counted, sent));
        }
        false
    };
    let mut attempts = std::iter::repeat_with(is_exact).take(5);
    assert!(
        attempts.any(|exact| exact),
        "{seen:?}; state {}",
        daemon.telemetry().sum("flowtap_memory_limiter_state", &[])
    );
}

#[test]
fn after_a_burst_of_flows_over_the_limit_it_measures_as_before() {
    let Some(_machine) = require::root() else {
        return;
    };
    let used = at_rest(&always_limited(&[]));
    let daemon = limited(
        used,
        24,
        // Between two checks flows take more than there is between the limits: above the soft one series fold, which would keep
        // memory below the hard one.
        2,
        &[
            "receivers.generator={flows: 60000, interval: 500ms, max_intervals: 10}",
            "service.pipelines.metrics.receivers=[ebpf, generator]",
            "processors.window.max_series=200000",
        ],
    );
    daemon.telemetry_until("records that were shed above the hard limit", |own| {
        let reason = [("reason", "memory_limit")];
        own.sum("flowtap_processor_dropped_records_total", &reason) > 0
    });
    daemon.wait_for("all intervals are generated");
    measures_as_before(&daemon);
}

/// As many connections as `address` takes, each with a request that is not whole, or whose response is not read.
fn connections(address: SocketAddr, request: &[u8]) -> Vec<TcpStream> {
    let ask = |_| {
        let mut stream = TcpStream::connect(address).ok()?;
        let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
        let _ = stream.write_all(request);
        Some(stream)
    };
    (0..300).filter_map(ask).collect()
}

/// Connections to two listeners, held for a moment, until `over`.
fn burst(daemon: &Daemon, over: impl Fn() -> bool) {
    let half = [b"GET / HTTP/1.1\r\nX: ", &*b"a".repeat(15_000)].concat();
    let large = b"GET /net-flow/tcp-file HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    let deadline = Instant::now() + QUIET;
    let mut held = Vec::new();
    while !over() {
        assert!(Instant::now() < deadline, "no burst takes it over its limit");
        held.clear();
        held.extend(connections(daemon.scrape_address(), &half));
        held.extend(connections(daemon.admin_address(), &large));
        thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn after_a_burst_of_requests_over_the_limit_it_measures_as_before() {
    let Some(_machine) = require::root() else {
        return;
    };
    // Listeners bound what a burst can take, so the limits are near what an idle daemon has after one: threads that served
    // one keep memory. It sees its own namespace only, for the flows of other tests would take more than there is between.
    within_new(|| {
        let rested = always_limited(&OWN_NAMESPACE);
        let bursts = Cell::new(0);
        burst(&rested, || bursts.replace(bursts.get() + 1) == 3);
        let daemon = limited(at_rest(&rested), 4, 2, &OWN_NAMESPACE);
        drop(rested);
        burst(&daemon, || {
            daemon.telemetry().sum("flowtap_memory_limiter_state", &[]) > 0
        });
        measures_as_before(&daemon);
    });
}
