//! The receiver `sock_diag`: TCP flows of this network namespace, by netlink, without privileges and on any kernel.
//!
//! In: a dump of every TCP socket with its totals (`INET_DIAG_INFO`), once per `interval`. Out: a record for each socket whose
//! totals moved. The rules:
//!
//! 1. A socket of the first dump is adopted: it counts from then on. One that shows up later counts from its beginning.
//! 2. Sent bytes are `bytes_sent - bytes_retrans`; received bytes are `bytes_received`, less 1 once the FIN has come in.
//! 3. A socket that is in the dump no more has closed. What it moved since the dump before is not known.
//!
//! So connections shorter than an interval are not seen, nor the end of longer ones, nor other network namespaces, nor
//! processes. That is what `ebpf` is for; this receiver says so when it starts.

mod dump;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::Value;
use flowtap_pipeline::time::Ticker;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Events, Factory, Fault, FlowBatch, FlowRecord, Receiver,
    ReceiverConfig, Role, RoleSource, Sink, StageError, Timestamp,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::dump::{Dumper, Socket, Totals};
use crate::listen_scan;

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often the sockets are dumped. At least 100 ms.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How often listening ports are read again from `proc_root`. At least 1 s.
    #[serde(with = "humantime_serde")]
    pub scan_listen_interval: Duration,
    /// The proc file system: `/proc`, or where the host's is mounted in a container.
    pub proc_root: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            scan_listen_interval: Duration::from_secs(30),
            proc_root: PathBuf::from("/proc"),
        }
    }
}

impl ComponentConfig for Config {
    fn to_value(&self) -> Result<Value, figment::Error> {
        Value::serialize(self)
    }

    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.interval < Duration::from_millis(100) {
            faults.push(Fault::new("interval", "must be at least 100ms"));
        }
        if self.scan_listen_interval < Duration::from_secs(1) {
            faults.push(Fault::new("scan_listen_interval", "must be at least 1s"));
        }
        faults
    }
}

impl ReceiverConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Receiver>, BuildError> {
        Ok(Box::new(SockDiagReceiver::new(self.clone(), context)))
    }
}

/// The receiver type `sock_diag`.
pub const FACTORY: Factory<dyn ReceiverConfig> = Factory {
    type_name: "sock_diag",
    summary: "TCP flows of this network namespace, by netlink: no privileges, but misses short connections",
    parse: |value| Ok(Box::new(value.deserialize::<Config>()?)),
};

/// The receiver.
#[derive(Debug)]
pub struct SockDiagReceiver {
    config: Config,
    dump_failures: Counter<u64>,
    receiver: KeyValue,
    /// With what the first dump found.
    dumper: Option<(Dumper, Vec<Socket>)>,
}

impl SockDiagReceiver {
    /// A receiver that has not opened its socket yet.
    pub fn new(config: Config, context: &BuildContext) -> Self {
        let receiver = KeyValue::new("receiver", context.id.to_string());
        let dump_failures = context
            .meter
            .u64_counter("receiver_scan_failures")
            .with_description("Scans that were cut short; the next one makes up for each.")
            .with_unit("{scan}")
            .build();
        dump_failures.add(0, std::slice::from_ref(&receiver));
        Self {
            config,
            dump_failures,
            receiver,
            dumper: None,
        }
    }
}

impl Receiver for SockDiagReceiver {
    fn start(&mut self) -> Result<(), StageError> {
        let open = || {
            let mut dumper = Dumper::open()?;
            // Before flowtap is called ready: what is open then is counted from then on.
            let sockets = dumper.dump()?;
            Ok((dumper, sockets))
        };
        self.dumper = Some(open().map_err(|error: std::io::Error| StageError::Other(error.into()))?);
        tracing::warn!(
            receiver = %self.receiver.value,
            "measuring by sock_diag: connections shorter than an interval, other network namespaces and processes are \
             not seen"
        );
        Ok(())
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            let Some((dumper, sockets)) = self.dumper.take() else {
                return Err(StageError::Other("run without start".into()));
            };
            let mut capture = Capture {
                receiver: self,
                dumper,
                known: None,
                sink,
                batch: FlowBatch::default(),
            };
            capture.compare(sockets, Timestamp::now());
            capture.rescan_listeners();
            let mut ticks = Ticker::new(capture.receiver.config.interval);
            let mut rescans = Ticker::new(capture.receiver.config.scan_listen_interval);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        capture.collect(Timestamp::now());
                        return Ok(());
                    }
                    tick = ticks.tick() => capture.collect(tick),
                    _ = rescans.tick() => capture.rescan_listeners(),
                }
            }
        }
        .boxed()
    }
}

/// The receiver at work.
struct Capture<'a> {
    receiver: &'a SockDiagReceiver,
    dumper: Dumper,
    /// Totals by socket cookie at the dump before; `None` before the first.
    known: Option<HashMap<u64, Known>>,
    sink: &'a mut Sink,
    batch: FlowBatch,
}

/// What is remembered of a socket.
#[derive(Clone, Copy)]
struct Known {
    totals: Totals,
    since: Timestamp,
}

impl Capture<'_> {
    /// Dumps, hands on what moved, and the watermark.
    fn collect(&mut self, at: Timestamp) {
        match self.dumper.dump() {
            Ok(sockets) => self.compare(sockets, at),
            Err(error) => {
                self.receiver
                    .dump_failures
                    .add(1, std::slice::from_ref(&self.receiver.receiver));
                tracing::warn!(%error, "a dump of the sockets was cut short; the next one makes up for it");
            }
        }
        self.sink.accept(&mut self.batch);
        self.sink.watermark(at);
    }

    fn compare(&mut self, sockets: Vec<Socket>, at: Timestamp) {
        let mut before = self.known.take();
        let first = before.is_none();
        let mut known = HashMap::with_capacity(sockets.len());
        for socket in sockets {
            let earlier = before.as_mut().and_then(|before| before.remove(&socket.cookie));
            let (start, events) = match (earlier, first) {
                (Some(earlier), _) => (earlier, Events::NONE),
                (None, true) => (
                    Known {
                        totals: socket.totals,
                        since: at,
                    },
                    Events::ADOPTED,
                ),
                (None, false) => (
                    Known {
                        totals: Totals::default(),
                        since: at,
                    },
                    Events::OPENED,
                ),
            };
            if start.totals != socket.totals || events != Events::NONE {
                self.batch.records.push(record(&socket, &start, events, at));
            }
            known.insert(
                socket.cookie,
                Known {
                    totals: socket.totals,
                    since: start.since,
                },
            );
        }
        // What is left has closed. Its ends are no longer known here, and its last bytes never were.
        self.known = Some(known);
    }

    fn rescan_listeners(&mut self) {
        match listen_scan::scan(&self.receiver.config.proc_root) {
            Ok(change) => self.batch.listeners.push(change),
            Err(error) => tracing::warn!(%error, "listening ports could not be read again"),
        }
        self.sink.accept(&mut self.batch);
    }
}

fn record(socket: &Socket, earlier: &Known, events: Events, at: Timestamp) -> FlowRecord {
    let (now, before) = (&socket.totals, &earlier.totals);
    FlowRecord {
        cookie: socket.cookie,
        sent_bytes: now.sent.cast_signed().wrapping_sub(before.sent.cast_signed()),
        received_bytes: now
            .received
            .cast_signed()
            .wrapping_sub(before.received.cast_signed()),
        sent_segments: difference(now.sent_segments, before.sent_segments),
        received_segments: difference(now.received_segments, before.received_segments),
        retransmits: difference(now.retransmits, before.retransmits),
        rtt_us: socket.rtt_us,
        min_rtt_us: socket.min_rtt_us,
        cwnd: socket.cwnd,
        state: socket.state,
        events,
        age_us: u64::try_from(at.since(earlier.since).as_micros()).unwrap_or(u64::MAX),
        role: Role::Unknown,
        role_source: RoleSource::Assumed,
        ..FlowRecord::new(socket.local, socket.remote)
    }
}

/// The kernel's segment counters have 32 bits and wrap.
fn difference(now: u32, before: u32) -> i64 {
    i64::from(now.wrapping_sub(before).cast_signed())
}
