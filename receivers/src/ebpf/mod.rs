//! The receiver `ebpf`: TCP flows of this machine, every network namespace, by eBPF.
//!
//! In: the kernel. Out: a record for each socket that moved bytes, one for each connection that closed or failed, and
//! changes of listening ports. The rules:
//!
//! 1. `mode: sockets` reads the sockets' own totals once per `interval` ([`sockets`]).
//! 2. `mode: events` gets a record per received data segment ([`events`]).
//! 3. `mode: auto` takes the first of the two that loads: it tries, it does not compare versions. Which one it is, and
//!    why, is logged, and told by the gauge `receiver_mode`.

mod config;
mod convert;
mod events;
mod explain;
mod losses;
mod sockets;

use flowtap_ebpf::{Events, EventsOptions, LoadError, Sockets, SocketsOptions};
use flowtap_pipeline::{BuildContext, FlowBatch, Receiver, Sink, StageError};
use futures::FutureExt;
use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Gauge;
use tokio_util::sync::CancellationToken;

pub use self::config::{Config, FACTORY, Mode};
use self::explain::explain;
use self::losses::LossTelemetry;

/// The programs of the mode that was taken.
#[derive(Debug)]
enum Programs {
    /// With what was found at the start.
    Sockets(Sockets, FlowBatch),
    Events(Events),
}

/// The receiver.
#[derive(Debug)]
pub struct EbpfReceiver {
    config: Config,
    losses: LossTelemetry,
    mode: Gauge<u64>,
    id: String,
    programs: Option<Programs>,
}

impl EbpfReceiver {
    /// A receiver that has not touched the kernel yet.
    pub fn new(config: Config, context: &BuildContext) -> Self {
        let mode = context
            .meter
            .u64_gauge("receiver_mode")
            .with_description("Always 1; how a receiver captures, and why, are labels.")
            .build();
        Self {
            config,
            losses: LossTelemetry::new(context),
            mode,
            id: context.id.to_string(),
            programs: None,
        }
    }

    fn load_sockets(&self) -> Result<Programs, LoadError> {
        let options = SocketsOptions {
            ring_buffer_bytes: self.config.ring_buffer_bytes,
        };
        let mut sockets = Sockets::load(&options)?;
        // Before flowtap is called ready: what is open then is counted from then on.
        let mut found = FlowBatch::default();
        sockets::adopt(&mut sockets, &mut found);
        Ok(Programs::Sockets(sockets, found))
    }

    fn load_events(&self) -> Result<Programs, LoadError> {
        let options = EventsOptions {
            ring_buffer_bytes: self.config.ring_buffer_bytes,
            max_sockets: self.config.max_sockets,
        };
        Events::load(&options).map(Programs::Events)
    }

    /// The programs, with the reason for the choice.
    fn load(&self) -> Result<(Programs, String), LoadError> {
        match self.config.mode {
            Mode::Sockets => Ok((self.load_sockets()?, "the config says so".to_owned())),
            Mode::Events => Ok((self.load_events()?, "the config says so".to_owned())),
            Mode::Auto => match self.load_sockets() {
                Ok(programs) => Ok((programs, "the best mode, and it loads".to_owned())),
                Err(error @ LoadError::Capability(_)) => Err(error),
                Err(refused) => {
                    tracing::warn!(error = %refused, "mode sockets does not load; trying mode events");
                    Ok((
                        self.load_events()?,
                        format!("mode sockets does not load: {}", first_line(&refused)),
                    ))
                }
            },
        }
    }
}

impl Receiver for EbpfReceiver {
    fn start(&mut self) -> Result<(), StageError> {
        let (programs, reason) = self.load().map_err(explain)?;
        let mode = match &programs {
            Programs::Sockets(..) => "sockets",
            Programs::Events(_) => "events",
        };
        tracing::info!(receiver = self.id, mode, reason, "eBPF programs attached");
        if let Programs::Events(events) = &programs {
            let attachment = events.attachment();
            tracing::info!(
                tracepoints = attachment.tracepoints,
                kprobes = attachment.kprobes,
                "mode events"
            );
        }
        let labels = [
            KeyValue::new("receiver", self.id.clone()),
            KeyValue::new("mode", mode),
            KeyValue::new("reason", reason),
        ];
        self.mode.record(1, &labels);
        self.programs = Some(programs);
        Ok(())
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            let (config, losses) = (&self.config, &mut self.losses);
            match self.programs.take() {
                Some(Programs::Sockets(sockets, batch)) => {
                    let watch = sockets.watch().map_err(sockets::broken)?;
                    let capture = sockets::Capture {
                        config,
                        losses,
                        sockets,
                        sink,
                        batch,
                    };
                    capture.run(watch, stop).await
                }
                Some(Programs::Events(programs)) => events::run(config, losses, programs, sink, stop).await,
                None => Err(StageError::Other("run without start".into())),
            }
        }
        .boxed()
    }
}

fn first_line(error: &LoadError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
