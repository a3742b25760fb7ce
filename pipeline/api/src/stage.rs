//! The stage traits: what a receiver, a processor, an aggregator and an exporter are to the runner.
//!
//! Up to the window everything is a plain synchronous call on the receiver's own thread. After it,
//! exporters are [`tower`] services, each fed by its own bounded queue.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use flowtap_model::{FlowBatch, Output, Snapshot, Timestamp};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tower::util::BoxService;
use tower::{BoxError, Service};

use crate::sink::Sink;

/// Why a stage could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The process lacks a privilege. `remedy` is a command or a sentence that says what to do.
    #[error("{what}\n  missing: {missing}\n  hint: {remedy}")]
    Permission {
        /// The operation that failed.
        what: String,
        /// The capability or right.
        missing: String,
        /// Fix for the operator.
        remedy: String,
    },
    /// The machine or its kernel can't do what the stage needs.
    #[error("{what}\n  hint: {remedy}")]
    Unsupported {
        /// The missing requirement.
        what: String,
        /// Fix for the operator.
        remedy: String,
    },
    /// A listener could not be bound.
    #[error("{key}: can't listen on {address}: {source}\n  hint: {}", listen_hint(*address, key, source))]
    Listen {
        /// The address of the config.
        address: SocketAddr,
        /// The key of the config that has the address, such as `service.admin.endpoint`.
        key: String,
        /// The system's error.
        source: io::Error,
    },
    /// A failure that time may heal, such as a file that another process uses.
    #[error(transparent)]
    Temporary(BoxError),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] BoxError),
}

/// State that a receiver leaves to the one that replaces it; only receivers of the same type know what is in it.
pub type Inheritance = Box<dyn Any + Send>;

/// Deliveries of an exporter, as it shares them with the one that replaces it; only exporters of the same type know what is
/// in it.
pub type SharedState = Arc<dyn Any + Send + Sync>;

/// The remedy for an address that can't be bound.
fn listen_hint(address: SocketAddr, key: &str, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another socket has the port; `ss -tanp 'sport = :{port}'` shows it: of a process, which can be stopped, or in TIME-WAIT, which \
             ends within a minute. Or set another port, below those of `net.ipv4.ip_local_port_range`, from which the kernel takes ports of \
             clients: --set {key}=ADDRESS:PORT"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "no interface has this address (yet); `ip address` lists those that are up, and --set {key}=0.0.0.0:{port} takes any"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "ports below 1024 need CAP_NET_BIND_SERVICE; grant it, or set another port: --set {key}=ADDRESS:PORT"
            )
        }
        _ => format!("set another address: --set {key}=ADDRESS:PORT"),
    }
}

/// A source of flow records.
///
/// A receiver runs on its own thread, with a single-threaded runtime on it, so a long system call
/// delays no other component.
///
/// ```
/// use flowtap_pipeline::futures::future::BoxFuture;
/// use flowtap_pipeline::tokio_util::sync::CancellationToken;
/// use flowtap_pipeline::{
///     Endpoint, Flow, FlowBatch, Receiver, Sink, StageError, TcpRecord, Timestamp,
/// };
///
/// /// Reports one connection, and then nothing until flowtap stops.
/// struct Once;
///
/// impl Receiver for Once {
///     fn start(&mut self) -> Result<(), StageError> {
///         Ok(())
///     }
///
///     fn run<'a>(
///         &'a mut self,
///         sink: &'a mut dyn Sink,
///         stop: CancellationToken,
///     ) -> BoxFuture<'a, Result<(), StageError>> {
///         Box::pin(async move {
///             let local = Endpoint::new([192, 0, 2, 1].into(), 40_000);
///             let remote = Endpoint::new([198, 51, 100, 7].into(), 443);
///             let record = TcpRecord {
///                 sent_bytes: 100,
///                 ..TcpRecord::new(Flow::new(local, remote))
///             };
///             let mut batch = FlowBatch {
///                 tcp: vec![record],
///                 ..FlowBatch::default()
///             };
///             sink.accept(&mut batch);
///             stop.cancelled().await;
///             sink.watermark(Timestamp::now());
///             Ok(())
///         })
///     }
/// }
/// # assert!(Once.start().is_ok());
/// ```
pub trait Receiver: Send {
    /// Attaches, opens, connects: whatever can fail for a reason that the operator must hear of before the daemon is
    /// called ready.
    ///
    /// # Errors
    /// [`StageError`] with the missing requirement and its fix.
    fn start(&mut self) -> Result<(), StageError>;

    /// Passes batches and watermarks to `sink` until `stop` is cancelled; then passes pending
    /// records and a last watermark, and returns.
    ///
    /// # Errors
    /// [`StageError`] if it can't go on. The daemon stops in order then.
    fn run<'a>(
        &'a mut self,
        sink: &'a mut dyn Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>>;

    /// Returns what a receiver with the same id and another config needs to continue without a gap, if there is such a thing.
    /// Called after `run` has returned, and after a `start` that failed. Whatever is not taken over is dropped.
    fn hand_over(&mut self) -> Option<Inheritance> {
        None
    }

    /// Takes over from the receiver that this one replaces. Called before `start`.
    ///
    /// A receiver that takes over reports each difference of each connection exactly once, and no connection as opened again:
    /// windows keep what they know of its connections.
    ///
    /// # Errors
    /// The inheritance, if this receiver can't continue with it: it starts from nothing then, and the connections of the one
    /// before are forgotten.
    fn take_over(&mut self, inheritance: Inheritance) -> Result<(), Inheritance> {
        Err(inheritance)
    }
}

/// A synchronous step on a batch, in place.
///
/// ```
/// use flowtap_pipeline::{FlowBatch, Processor};
///
/// /// Drops records without payload.
/// struct DropEmpty;
///
/// impl Processor for DropEmpty {
///     fn process(&mut self, batch: &mut FlowBatch) {
///         batch.tcp.retain(|record| record.sent_bytes != 0 || record.received_bytes != 0);
///     }
/// }
///
/// let mut batch = FlowBatch::default();
/// DropEmpty.process(&mut batch);
/// assert!(batch.is_empty());
/// ```
pub trait Processor: Send {
    /// Sets its clock before the first batch, to where the pipeline's first window begins, or to the time of the reload that adds it:
    /// records come before the first watermark, and a watermark may be somewhat earlier. Called once, before anything else.
    fn begin(&mut self, _at: Timestamp) {}

    /// Fills, changes or removes records. Never blocks.
    fn process(&mut self, batch: &mut FlowBatch);

    /// Declares that every record up to `to` has been processed: the only clock of a processor, so that a recording replays alike.
    /// May put records of its own into `batch`, which is empty; they take the rest of the chain. Never blocks.
    fn advance(&mut self, _to: Timestamp, _batch: &mut FlowBatch) {}

    /// Whether this receiver (its [index](FlowBatch::receiver)) should report every open connection once more: see
    /// [`Census`](flowtap_model::Census).
    fn wants_census(&self, _receiver: u16) -> bool {
        false
    }
}

/// The end of the synchronous path: folds records into series, which it gives out as snapshots, or into log records, which it gives
/// out in batches. Its contract says which ([`Signal`](crate::Signal)), and the pipeline's id has to agree.
///
/// ```
/// use std::time::Duration;
///
/// use flowtap_pipeline::{Aggregator, FlowBatch, Output, Snapshot, Timestamp};
///
/// /// Closes a window a second, without a series: a place to count records.
/// #[derive(Default)]
/// struct Count {
///     records: usize,
///     opened: Timestamp,
/// }
///
/// impl Count {
///     fn close(&mut self, at: Timestamp, last: bool) -> Output {
///         let window = at.since(self.opened);
///         self.opened = at;
///         Output::from(Snapshot {
///             pipeline: "metrics".into(),
///             at,
///             window,
///             last,
///             replaced: false,
///             families: Vec::new(),
///         })
///     }
/// }
///
/// impl Aggregator for Count {
///     fn begin(&mut self, at: Timestamp) {
///         self.opened = at;
///     }
///
///     fn fold(&mut self, batch: &FlowBatch) {
///         self.records += batch.records();
///     }
///
///     fn advance(&mut self, to: Timestamp) -> Option<Output> {
///         (to.since(self.opened) >= Duration::from_secs(1)).then(|| self.close(to, false))
///     }
///
///     fn finish(&mut self, at: Timestamp) -> Output {
///         self.close(at, true)
///     }
/// }
///
/// let mut count = Count::default();
/// count.begin(Timestamp::from_nanos(0));
/// assert!(count.advance(Timestamp::from_nanos(999_999_999)).is_none());
/// assert!(count.advance(Timestamp::from_nanos(1_000_000_000)).is_some());
/// ```
pub trait Aggregator: Send {
    /// Opens the first window. Called once, before anything else.
    fn begin(&mut self, at: Timestamp);

    /// Returns the series that exist before any record, for exporters that show the newest output to those who ask: without it
    /// there would be nothing to show until the first window closes. Called after [`Aggregator::begin`], and changes nothing.
    fn opening(&self) -> Option<Output> {
        None
    }

    /// Folds a batch in. Never blocks.
    fn fold(&mut self, batch: &FlowBatch);

    /// Whether this receiver (its [index](FlowBatch::receiver)) should report every open connection once more: see
    /// [`Census`](flowtap_model::Census).
    fn wants_census(&self, _receiver: u16) -> bool {
        false
    }

    /// Number of connections of this receiver (its [index](FlowBatch::receiver)) that it holds as open, as far as it knows.
    fn open_connections(&self, _receiver: u16) -> u64 {
        0
    }

    /// Wants a census of every receiver, as other records reach it from now on: a processor before it was added, removed or
    /// replaced.
    fn request_census(&mut self) {}

    /// Declares that every record up to `to` has been folded in. Returns the output of the window
    /// that this closes, if any.
    fn advance(&mut self, to: Timestamp) -> Option<Output>;

    /// Closes the current window, however short, because flowtap stops. The output is marked as the last.
    fn finish(&mut self, at: Timestamp) -> Output;

    /// Returns what an aggregator with another config needs to count on, if there is such a thing. Called after
    /// [`Aggregator::finish`].
    fn hand_over(self: Box<Self>) -> Option<Inheritance> {
        None
    }

    /// Takes over from the aggregator that this one replaces: series that are the same under both configs count on, with their
    /// totals and start times. Called before [`Aggregator::begin`].
    fn take_over(&mut self, _before: Inheritance) {}
}

/// Looks at the records that reach an aggregator, as they reach it. It is called on the receiver's thread, so it must be quick, and
/// must not wait.
pub trait Observer: Send + Sync {
    /// Looks at a batch, after every processor.
    fn observe(&self, batch: &FlowBatch);

    /// Every record up to `to` has been observed.
    fn advance(&self, to: Timestamp);
}

/// Result of exporting one output: of a snapshot in points, of a batch of log records in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Items that were delivered, or are there to be scraped.
    pub sent: u64,
    /// Items that the peer refused for good.
    pub failed: u64,
}

/// An exporter at work: takes outputs of pipelines one by one, under whatever tower layers its config asks for.
pub type ExportService = BoxService<Output, Exported, BoxError>;

/// Whether outputs that an exporter has taken, and could not deliver yet, outlive the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Persistence {
    /// They do not.
    #[default]
    Never,
    /// They would, with this key of its config.
    With(&'static str),
    /// They do: whatever its service has answered for is on disk, and delivered after the next start.
    OnDisk,
}

/// A consumer of the outputs of pipelines: of those whose signals its contract names.
///
/// ```
/// use std::sync::Arc;
///
/// use flowtap_pipeline::futures::future::{self, BoxFuture};
/// use flowtap_pipeline::{ExportService, Exported, Exporter, Snapshot, StageError, export_with};
///
/// /// Writes the number of series of each window to standard output.
/// struct Print;
///
/// impl Exporter for Print {
///     fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
///         let service = export_with(|snapshot: Arc<Snapshot>| {
///             println!("{}: {} series", snapshot.at, snapshot.points());
///             let sent = snapshot.points() as u64;
///             future::ready(Ok(Exported { sent, failed: 0 }))
///         });
///         Box::pin(future::ready(Ok(service)))
///     }
/// }
/// # drop(Print.start());
/// ```
pub trait Exporter: Send {
    /// Binds listeners and makes the service. Peers that are merely away are not an error: the service retries.
    ///
    /// # Errors
    /// [`StageError`] with the cause and its fix.
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>>;

    /// Called once the queue has drained and the service is dropped: closes listeners.
    fn stop(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Whether what it has taken outlives the process. Asked for once it has started.
    fn persistence(&self) -> Persistence {
        Persistence::Never
    }

    /// Returns the number of items that it reported as sent and that its peer has not acknowledged, if it keeps one. Asked for once it
    /// has started; items that are left at its end count as not delivered.
    fn unacknowledged(&self) -> Option<Arc<AtomicU64>> {
        None
    }

    /// Whether it has a peer for each kind of output, which may fail separately: then it has a queue for each, and its service, which is
    /// always ready, is called with one output of each kind at a time. Asked for before it starts.
    fn separates_kinds(&self) -> bool {
        false
    }

    /// Returns what an exporter with the same id and another config needs to go on where this one ends, if there is such a thing.
    /// Called once it has started, so that the state is there however this one ends.
    fn shared_state(&self) -> Option<SharedState> {
        None
    }

    /// Goes on where the exporter ends that this one replaces. Called before `start`, once that one has drained, or was given up.
    fn take_over(&mut self, _before: SharedState) {}
}

/// Makes the service of an exporter of metrics that needs no layers: `export` is called with one snapshot at a time.
pub fn export_with<F, R>(export: F) -> ExportService
where
    F: FnMut(Arc<Snapshot>) -> R + Send + 'static,
    R: Future<Output = Result<Exported, BoxError>> + Send + 'static,
{
    metrics_only(tower::service_fn(export))
}

/// Makes the service of an exporter of metrics from one that takes snapshots.
///
/// `validate` keeps log records away from it; if any come, they count as failed.
pub fn metrics_only<S>(service: S) -> ExportService
where
    S: Service<Arc<Snapshot>, Response = Exported, Error = BoxError> + Send + 'static,
    S::Future: Send,
{
    BoxService::new(MetricsOnly(service))
}

/// See [`metrics_only`].
struct MetricsOnly<S>(S);

impl<S> Service<Output> for MetricsOnly<S>
where
    S: Service<Arc<Snapshot>, Response = Exported, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Exported;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Exported, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, output: Output) -> Self::Future {
        match output {
            Output::Metrics(snapshot) => Box::pin(self.0.call(snapshot)),
            Output::Logs(batch) => Box::pin(std::future::ready(Ok(Exported {
                sent: 0,
                failed: batch.records.len() as u64,
            }))),
        }
    }
}
