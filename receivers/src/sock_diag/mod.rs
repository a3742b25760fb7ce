//! The receiver `sock_diag`: TCP flows of this network namespace, by netlink, without privileges and on any kernel.
//!
//! In: a dump of every TCP socket with its totals (`INET_DIAG_INFO`), once per `interval`. Out: a record for each socket whose
//! totals moved, and the ports that are listened on. The rules:
//!
//! 1. A socket of the first dump is adopted: it counts from then on. One that shows up later counts from its beginning.
//! 2. Sent bytes are `bytes_sent - bytes_retrans`; received bytes are `bytes_received`, less 1 once the FIN has come in.
//! 3. A socket that is in the dump no more has closed: it counts as closed. What it moved since the dump before is not
//!    known.
//! 4. When a socket is first seen, a local port that is listened on makes it a server; a peer that is in the dump, too, and
//!    whose port is listened on makes it a client. It stays that, whoever stops to listen.
//!
//! So connections shorter than an interval are not seen, nor the last bytes of longer ones, nor other network namespaces, nor
//! processes. That is what `ebpf` is for; this receiver says so when it starts.

mod dump;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use figment::value::Value;
use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::time::Ticker;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Endpoint, Events, Factory, Fault, FlowBatch, FlowRecord,
    ListenChange, Receiver, ReceiverConfig, Role, RoleSource, Sink, StageError, Timestamp,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::coverage::{Coverage, Outlet};

pub(crate) use self::dump::Dumper;
use self::dump::{Dump, Socket, Totals};

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often the sockets are dumped. At least 100 ms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
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
    schema: Config::json_schema,
};

/// The receiver.
#[derive(Debug)]
pub struct SockDiagReceiver {
    config: Config,
    dump_failures: Counter<u64>,
    receiver: KeyValue,
    context: BuildContext,
    coverage: Option<Coverage>,
    /// With what the first dump found.
    dumper: Option<(Dumper, Dump)>,
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
            context: context.clone(),
            coverage: None,
            dumper: None,
        }
    }
}

impl SockDiagReceiver {
    /// Opens the netlink socket and takes the first dump.
    pub(crate) fn open(&mut self) -> Result<(), StageError> {
        let open = || {
            let mut dumper = Dumper::open()?;
            // Before flowtap is called ready: what is open then is counted from then on.
            let found = dumper.dump()?;
            Ok((dumper, found))
        };
        self.dumper = Some(open().map_err(|error: io::Error| StageError::Other(error.into()))?);
        tracing::warn!(
            receiver = %self.receiver.value,
            "measuring by sock_diag: connections shorter than an interval, other network namespaces and processes are \
             not seen"
        );
        Ok(())
    }

    /// Hands what the dumps tell to `outlet` until `stop`.
    pub(crate) async fn capture(
        &mut self,
        outlet: Outlet<'_>,
        stop: CancellationToken,
    ) -> Result<(), StageError> {
        let Some((dumper, found)) = self.dumper.take() else {
            return Err(StageError::Other("run without start".into()));
        };
        let mut capture = Capture {
            receiver: self,
            netns: own_netns(),
            dumper,
            known: None,
            outlet,
            batch: FlowBatch::default(),
        };
        capture.compare(found, Timestamp::now());
        capture.outlet.accept(&mut capture.batch);
        let mut ticks = Ticker::new(capture.receiver.config.interval);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    capture.collect(Timestamp::now());
                    return Ok(());
                }
                tick = ticks.tick() => capture.collect(tick),
            }
        }
    }
}

impl Receiver for SockDiagReceiver {
    fn start(&mut self) -> Result<(), StageError> {
        self.coverage = Some(Coverage::new(&self.context, Path::new("/proc")));
        self.open()
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            let Some(mut coverage) = self.coverage.take() else {
                return Err(StageError::Other("run without start".into()));
            };
            let coverage = &mut coverage;
            self.capture(Outlet { sink, coverage }, stop).await
        }
        .boxed()
    }
}

/// Inode number of this process's network namespace; 0 if the kernel does not tell.
fn own_netns() -> u32 {
    let inode = fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino());
    u32::try_from(inode).unwrap_or(0)
}

/// How many connections a dump shows: whether dumps work at all.
///
/// # Errors
/// What the system says.
pub fn count_sockets() -> io::Result<usize> {
    Ok(Dumper::open()?.dump()?.sockets.len())
}

/// The receiver at work.
struct Capture<'a> {
    receiver: &'a SockDiagReceiver,
    netns: u32,
    dumper: Dumper,
    /// Sockets by cookie as the dump before had them; `None` before the first.
    known: Option<HashMap<u64, Known>>,
    outlet: Outlet<'a>,
    batch: FlowBatch,
}

/// What is remembered of a socket.
#[derive(Clone, Debug)]
struct Known {
    socket: Socket,
    since: Timestamp,
    role: Role,
}

impl Capture<'_> {
    /// Dumps, hands on what moved, and the watermark.
    fn collect(&mut self, at: Timestamp) {
        match self.dumper.dump() {
            Ok(found) => self.compare(found, at),
            Err(error) => {
                self.receiver
                    .dump_failures
                    .add(1, std::slice::from_ref(&self.receiver.receiver));
                self.outlet.scan_failed(&error);
                tracing::warn!(%error, "a dump of the sockets was cut short; the next one makes up for it");
            }
        }
        self.outlet.accept(&mut self.batch);
        self.outlet.watermark(at);
    }

    fn compare(&mut self, found: Dump, at: Timestamp) {
        let before = self.known.take();
        let (first, mut gone) = (before.is_none(), before.unwrap_or_default());
        let roles = Roles::new(&found);
        let mut known = HashMap::with_capacity(found.sockets.len());
        for socket in found.sockets {
            let earlier = gone.remove(&socket.cookie);
            let (role, since) = earlier.as_ref().map_or_else(
                || (roles.of(&socket), at),
                |earlier| (earlier.role, earlier.since),
            );
            let (from, events) = match earlier {
                Some(earlier) => (earlier.socket.totals, Events::NONE),
                None if first => (socket.totals, Events::ADOPTED),
                None => (Totals::default(), Events::OPENED),
            };
            let known_now = Known { socket, since, role };
            if from != known_now.socket.totals || events != Events::NONE {
                self.push(&known_now, &from, events, at);
            }
            known.insert(known_now.socket.cookie, known_now);
        }
        // What is left has closed; what it moved since the dump before was never seen.
        for closed in gone.values() {
            self.push(closed, &closed.socket.totals, Events::CLOSED, at);
        }
        self.known = Some(known);
        self.batch.listeners.push(ListenChange::Rescanned {
            netns: self.netns,
            ports: roles.listening.into_iter().collect(),
        });
    }

    fn push(&mut self, known: &Known, before: &Totals, events: Events, at: Timestamp) {
        let Known { socket, since, role } = known;
        let now = &socket.totals;
        let record = FlowRecord {
            netns: self.netns,
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
            age_us: u64::try_from(at.since(*since).as_micros()).unwrap_or(u64::MAX),
            role: *role,
            role_source: match role {
                Role::Unknown => RoleSource::Assumed,
                Role::Client | Role::Server => RoleSource::Listener,
            },
            ..FlowRecord::new(socket.local, socket.remote)
        };
        self.batch.records.push(record);
    }
}

/// What a dump says of who is server and who is client.
struct Roles {
    listening: HashSet<u16>,
    /// Every socket's ends, the local one first.
    ends: HashSet<(Endpoint, Endpoint)>,
}

impl Roles {
    fn new(found: &Dump) -> Self {
        Self {
            listening: found.listening.iter().copied().collect(),
            ends: found
                .sockets
                .iter()
                .map(|socket| (socket.local, socket.remote))
                .collect(),
        }
    }

    fn of(&self, socket: &Socket) -> Role {
        if self.listening.contains(&socket.local.port) {
            Role::Server
        } else if self.listening.contains(&socket.remote.port)
            && self.ends.contains(&(socket.remote, socket.local))
        {
            Role::Client
        } else {
            Role::Unknown
        }
    }
}

/// The kernel's segment counters have 32 bits and wrap.
fn difference(now: u32, before: u32) -> i64 {
    i64::from(now.wrapping_sub(before).cast_signed())
}
