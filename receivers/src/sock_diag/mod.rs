//! The receiver `sock_diag`: TCP flows of this network namespace, by netlink, without privileges and on any kernel.
//!
//! In: a dump of every TCP socket with its counters (`INET_DIAG_INFO`), once per `interval`, and the last counters of every socket
//! that the kernel frees ([`closes`]). Out: a record for each socket whose counters moved and for each that closed, and the
//! ports that are listened on. The rules:
//!
//! 1. A socket of the first dump is adopted: it counts from then on. One that shows up later counts from its beginning, also
//!    if it shows up when it closes.
//! 2. Bytes are taken from the sequence space ([`counters`]).
//! 3. The role of a socket is decided once, and kept: by its counters, else by the listeners, else by the ports.
//! 4. A socket that is in no dump any more, and which the kernel has not freed, is closed but held open by its process. It counts
//!    as closed after two dumps; should its counters have moved when the kernel frees it, that is one more record.
//! 5. A receiver that replaces another one, with another interval, continues with its table and its subscription to closes.
//! 6. Where the kernel does not report closes, a socket that is in the dump no more counts as closed. Its last bytes are not
//!    known, and connections shorter than an interval are not seen.
//!
//! Other network namespaces and processes are not seen. That is what `ebpf` is for; this receiver logs it when it starts.

mod capture;
mod closes;
mod connecting;
mod counters;
mod dump;
mod roles;
mod table;
mod telemetry;
/// The number of sockets in a datagram of a dump. For the fuzz target.
///
/// # Errors
/// A message that is none of `NETLINK_SOCK_DIAG`, or an error that the kernel reports.
#[doc(hidden)]
pub fn sockets_in(datagram: &[u8]) -> io::Result<usize> {
    let mut found = Dump::default();
    found.read(datagram)?;
    for socket in found.sockets.iter().chain(&found.connecting) {
        for role in [Role::Unknown, Role::Client, Role::Server] {
            socket.counters.payload(role);
        }
    }
    Ok(found.sockets.len() + found.connecting.len() + found.listeners.len())
}

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use flowtap_pipeline::Ticker;
use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Contract, Factory, Inheritance, Receiver, ReceiverConfig,
    RecordField, Role, Signal, Sink, Sockets, Stability, StageError, Subscription, Timestamp, Violation,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::capture::{Capture, Opened};
use self::closes::Closes;
use self::dump::Dump;
pub(crate) use self::dump::Dumper;
use self::table::Table;
use self::telemetry::Telemetry;
use crate::coverage::{Coverage, MeteredSink};
use crate::extras::Extras;

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Interval at which the sockets are dumped. At least 100 ms.
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
    fn contract(&self) -> Contract {
        Contract::default()
            .gives([Signal::Tcp, Signal::Listening])
            .fills([RecordField::Netns])
            .covers(Sockets::TcpOfNamespace)
            .every(self.interval)
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if self.interval < Duration::from_millis(100) {
            faults.push(Violation::new("interval", "must be at least 100ms"));
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
pub const FACTORY: Factory<dyn ReceiverConfig> = Factory::of::<Config>(
    "sock_diag",
    "TCP flows of this network namespace, by netlink: no privileges, but no other namespaces and no processes",
    Stability::Beta,
);

/// The receiver.
#[derive(Debug)]
pub struct SockDiagReceiver {
    config: Config,
    telemetry: Telemetry,
    context: BuildContext,
    coverage: Option<Coverage>,
    extras: Extras,
    opened: Option<Opened>,
}

/// State that a receiver leaves to its replacement.
#[derive(Debug)]
struct Handover {
    opened: Opened,
    coverage: Coverage,
    extras: Extras,
}

impl SockDiagReceiver {
    /// A receiver that has not opened its sockets yet.
    pub fn new(config: Config, context: &BuildContext) -> Self {
        Self {
            config,
            telemetry: Telemetry::new(context),
            context: context.clone(),
            coverage: None,
            extras: Extras::default(),
            opened: None,
        }
    }
}

impl SockDiagReceiver {
    /// Opens the netlink sockets and takes the first dump.
    pub(crate) fn open(&mut self) -> Result<(), StageError> {
        let broken = |error: io::Error| StageError::Other(error.into());
        // Before the dump, or a close after it could be missed.
        let closes = Closes::subscribe();
        let mut dumper = Dumper::open().map_err(broken)?;
        // Before flowtap is called ready: what is open then is counted from then on.
        let found = dumper.dump().map_err(broken)?;
        let receiver = &self.context.id;
        let closes = match closes {
            Ok(closes) => {
                tracing::warn!(%receiver, "measuring by sock_diag: other network namespaces and processes are not seen; \
                hint: run `flowtap doctor`, which shows what the receiver `ebpf` needs");
                Some(closes)
            }
            Err(error) => {
                tracing::warn!(
                    %receiver, %error,
                    "measuring by sock_diag, and the kernel does not report closed sockets: connections shorter than an interval \
                     and the last bytes of longer ones are not counted; other network namespaces and processes are not seen; \
                hint: run `flowtap doctor`, which shows what the receiver `ebpf` needs"
                );
                None
            }
        };
        self.opened = Some(Opened {
            dumper,
            closes,
            found: Some(found),
            table: Table::new(own_netns(), Instant::now()),
        });
        Ok(())
    }

    /// Changes the config of a receiver that is not running; it continues with what it knows.
    pub(crate) fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// Passes what dumps and closes show to `output` until `stop`.
    pub(crate) async fn capture<'a>(
        &'a mut self,
        output: MeteredSink<'a>,
        stop: CancellationToken,
    ) -> Result<(), StageError> {
        let Some(Opened {
            dumper,
            closes,
            found,
            table,
        }) = self.opened.take()
        else {
            return Err(StageError::Other("run without start".into()));
        };
        let mut capture = Capture {
            telemetry: &self.telemetry,
            node: Subscription::new(&self.context.node),
            dumper,
            closes,
            table,
            output,
        };
        if let Some(found) = found {
            capture.adopt(found, Timestamp::now());
        }
        let mut ticks = Ticker::new(self.config.interval);
        loop {
            let many = async {
                match &capture.closes {
                    Some(closes) => closes.many().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.opened = Some(capture.finish(Timestamp::now()).await);
                    return Ok(());
                }
                tick = ticks.tick() => capture.collect(tick),
                () = many => capture.take_closes(Timestamp::now()),
            }
        }
    }
}

impl Receiver for SockDiagReceiver {
    fn start(&mut self) -> Result<(), StageError> {
        if self.opened.is_some() {
            // Taken over.
            return Ok(());
        }
        self.coverage = Some(Coverage::new(&self.context, Path::new("/proc")));
        self.open()
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut dyn Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            let Some(mut coverage) = self.coverage.take() else {
                return Err(StageError::Other("run without start".into()));
            };
            let mut extras = std::mem::take(&mut self.extras);
            let output = MeteredSink {
                sink,
                extras: &mut extras,
                coverage: &mut coverage,
            };
            self.capture(output, stop).await?;
            self.coverage = Some(coverage);
            self.extras = extras;
            Ok(())
        }
        .boxed()
    }

    fn hand_over(&mut self) -> Option<Inheritance> {
        let (opened, coverage) = (self.opened.take()?, self.coverage.take()?);
        let extras = std::mem::take(&mut self.extras);
        Some(Box::new(Handover {
            opened,
            coverage,
            extras,
        }))
    }

    fn take_over(&mut self, inheritance: Inheritance) -> Result<(), Inheritance> {
        let Handover {
            opened,
            coverage,
            extras,
        } = *inheritance.downcast::<Handover>()?;
        self.extras = extras;
        self.opened = Some(opened);
        self.coverage = Some(coverage);
        Ok(())
    }
}

/// Inode number of this process's network namespace; 0 if it can't be read.
fn own_netns() -> u32 {
    let inode = fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino());
    u32::try_from(inode).unwrap_or(0)
}

/// Number of connections in a dump: shows whether dumps work at all.
///
/// # Errors
/// The error of the system call.
pub fn count_sockets() -> io::Result<usize> {
    Ok(Dumper::open()?.dump()?.sockets.len())
}
