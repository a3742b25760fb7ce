//! The receiver `ebpf`: TCP flows of this machine, every network namespace, by eBPF.
//!
//! In: the kernel. Out: a record for each socket that moved bytes, one for each connection that closed or failed, and
//! changes of listening ports. The rules:
//!
//! 1. `mode: sockets` reads the sockets' own totals once per `interval` ([`sockets`]).
//! 2. `mode: events` gets a record per received data segment ([`events`]), with the programs of mode
//!    `sockets` and one more where the kernel accepts these ([`event_programs`]).
//! 3. `mode: auto` uses the first of the two that loads: it tries, it does not compare versions. If
//!    neither does, most often for want of privileges, it falls back to
//!    [`sock_diag`], unless flowtap runs strictly.
//! 4. The mode and its reason are logged, and exported by the gauge `receiver_mode`.
//! 5. With each interval come the queues of listening sockets, and packets that the kernel dropped ([`drops`]).
//! 6. UDP is measured beside either mode ([`udp`]).
//! 7. Where the config asks for it, records say which protocol a connection speaks, and how long answers took ([`inspect`]).
//! 8. A receiver that replaces another one continues with its programs, wherever these can go on ([`handover`], [`replace`]).

mod address;
mod config;
mod convert;
pub(crate) mod drops;
mod event_programs;
mod events;
mod explain;
mod factory;
mod handover;
mod inspect;
mod known;
mod losses;
mod programs;
mod replace;
mod sockets;
mod translations;
pub(crate) mod udp;
mod unadopted;

use flowtap_ebpf::{Events, KeptBtf, LoadError, Sockets};
use flowtap_pipeline::{BuildContext, Inheritance, Receiver, Sink, StageError};
use futures::FutureExt;
use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Gauge;
use tokio_util::sync::CancellationToken;

pub use self::config::{Config, DropsMode, Mode, TranslationMode};
pub use self::convert::flow_record;
use self::drops::DropCapture;
use self::event_programs::EventPrograms;
use self::explain::explain;
pub(crate) use self::explain::{Grant, grant_command};
pub use self::factory::FACTORY;
use self::handover::Handover;
use self::inspect::{InspectCapture, InspectSink, Shared as SharedInspect};
pub use self::inspect::{InspectConfig, InvalidShare, Share};
use self::known::Known;
use self::losses::LossTelemetry;
use self::programs::{Left, Programs, events_options, scan_listeners, sockets_options};
pub use self::udp::{IcmpConfig, UdpConfig, UdpHooks};
use self::udp::{IcmpCounters, Shared, UdpCapture, UdpCoverage, UdpSink};
use crate::containers::Containers;
use crate::coverage::{Coverage, MeteredSink};
use crate::extras::Extras;
use crate::sock_diag::{self, SockDiagReceiver};

/// The receiver.
#[derive(Debug)]
pub struct EbpfReceiver {
    config: Config,
    losses: LossTelemetry,
    mode: Gauge<u64>,
    context: BuildContext,
    /// With the comparison with the kernel's own counters, which begins when they attach, and the reason for the mode.
    programs: Option<(Programs, Coverage, String)>,
    extras: Extras,
    /// UDP's programs, where they are at work.
    udp: Option<Box<UdpCapture>>,
    /// The comparison of UDP's programs that were detached, for those that follow.
    udp_coverage: Option<UdpCoverage>,
    /// The kernel's counters of ICMP, from the start on.
    icmp: Option<IcmpCounters>,
    /// The programs of `inspect`, where they are at work.
    inspect: Option<Box<InspectCapture>>,
    /// Of the receiver that this one replaces.
    inherited: Option<Handover>,
    /// The comparison, which continues although the programs can't.
    coverage: Option<Coverage>,
}

impl EbpfReceiver {
    /// A receiver that has not touched the kernel yet.
    pub fn new(config: Config, context: &BuildContext) -> Self {
        let mode = context
            .meter
            .u64_gauge("receiver_mode")
            .with_description("1 for the current capture mode of a receiver, 0 for an earlier one; the mode and the reason are labels.")
            .build();
        Self {
            config,
            losses: LossTelemetry::new(context),
            mode,
            context: context.clone(),
            programs: None,
            extras: Extras::default(),
            udp: None,
            udp_coverage: None,
            icmp: None,
            inspect: None,
            inherited: None,
            coverage: None,
        }
    }

    /// As the config has it; without capabilities nothing is tried, as the warning of the mode has said so.
    fn start_drops(&mut self) {
        let mode = self.config.drops;
        match &mut self.extras.drops {
            _ if mode == DropsMode::Off => self.extras.drops = None,
            Some(drops) => drops.set_mode(mode),
            None if flowtap_ebpf::capability::check().is_err() => {}
            None => self.extras.drops = DropCapture::load(mode),
        }
    }

    /// From now on, or from where the receiver before this one has counted to.
    fn start_icmp(&mut self) {
        let root = &self.config.proc_root;
        let known = self.icmp.take().filter(|counters| counters.suits(root));
        if self.config.icmp.enabled {
            self.icmp = known.or_else(|| IcmpCounters::open(root));
        }
    }

    fn record_mode(&self, value: u64, mode: &'static str, reason: String) {
        let labels = [
            KeyValue::new("receiver", self.context.id.to_string()),
            KeyValue::new("mode", mode),
            KeyValue::new("reason", reason),
        ];
        self.mode.record(value, &labels);
    }

    fn load_sockets(&self) -> Result<Programs, LoadError> {
        let sockets = Sockets::load(&sockets_options(&self.config, false))?;
        Ok(Programs::Sockets(Box::new(self.adopt(sockets))))
    }

    fn load_events(&self) -> Result<Programs, LoadError> {
        let refused = match Sockets::load(&sockets_options(&self.config, true)) {
            Ok(sockets) => {
                let left = self.adopt(sockets).map(EventPrograms::shared);
                return Ok(Programs::Events(Box::new(left)));
            }
            Err(error @ LoadError::Capability(_)) => return Err(error),
            Err(error) => error,
        };
        tracing::warn!(
            error = one_line(&refused),
            "mode events uses a separate table, so that a reload to mode sockets is not exact: the programs of mode sockets do not \
             load; hint: run Linux 5.12 or later, or report this"
        );
        let known = Known::new(Containers::new(&self.context, &self.config.proc_root));
        let mut programs = Events::load(&events_options(&self.config))?;
        events::find_listeners(&mut programs);
        tracing::warn!(
            "queues of listening sockets are not measured in mode events with a separate table; hint: run Linux 5.13 or later"
        );
        let left = Left::new(EventPrograms::Own(Box::new(programs)), None, known);
        Ok(Programs::Events(Box::new(left)))
    }

    /// Adopts what is open, before flowtap is called ready: it is counted from then on.
    fn adopt(&self, sockets: Sockets) -> Left<Sockets> {
        let listeners = sockets.listeners();
        if let Err(error) = &listeners {
            tracing::warn!(%error, "queues of listening sockets are not measured; hint: run Linux 5.13 or later");
        }
        let known = Known::new(Containers::new(&self.context, &self.config.proc_root));
        let mut left = Left::new(sockets, listeners.ok(), known);
        sockets::adopt(&mut left.programs, &mut left.found, &mut left.known);
        // Their earlier drops are not counted.
        scan_listeners(
            true,
            &mut left.listeners,
            &mut left.found,
            &mut left.known.containers,
        );
        let unadopted = unadopted::count(&self.config.proc_root);
        let has_none = |found: &unadopted::Unadopted| found.connections == 0 && found.not_examined == 0;
        if let Err(error) = left.programs.end_adoption(unadopted.as_ref().is_ok_and(has_none)) {
            tracing::warn!(%error, "a connection whose opening the kernel did not report is not counted; hint: restart flowtap");
        }
        self.losses.count_unadopted(unadopted);
        left
    }

    fn explain(&self, error: LoadError) -> StageError {
        explain(error, Grant::of(&self.config.udp))
    }

    /// Why the config takes the mode that it does, if nothing is in the way.
    const fn reason(&self) -> &'static str {
        match self.config.mode {
            Mode::Auto => "the best mode that loads",
            Mode::Sockets | Mode::Events => "set by the config",
        }
    }

    const fn sock_diag_config(&self) -> sock_diag::Config {
        sock_diag::Config {
            interval: self.config.interval,
        }
    }

    /// The programs, with the reason for the choice.
    fn load(&self) -> Result<(Programs, String), StageError> {
        let as_told = |programs| (programs, self.reason().to_owned());
        match self.config.mode {
            Mode::Sockets => self
                .load_sockets()
                .map(as_told)
                .map_err(|error| self.explain(error)),
            Mode::Events => self
                .load_events()
                .map(as_told)
                .map_err(|error| self.explain(error)),
            Mode::Auto => self.load_best(),
        }
    }

    fn load_best(&self) -> Result<(Programs, String), StageError> {
        let sockets = match self.load_sockets() {
            Ok(programs) => return Ok((programs, self.reason().to_owned())),
            // Mode events wants the same capabilities.
            Err(error @ LoadError::Capability(_)) => return self.fall_back_to_sock_diag(self.explain(error)),
            // And as many descriptors.
            Err(error) if error.descriptor_remedy().is_some() => {
                return self.fall_back_to_sock_diag(self.explain(error));
            }
            Err(error) => error,
        };
        tracing::warn!(error = %sockets, "mode sockets does not load; trying mode events; \
                hint: set `mode: events`, or use a newer kernel");
        match self.load_events() {
            Ok(programs) => Ok((
                programs,
                format!("mode sockets does not load: {}", one_line(&sockets)),
            )),
            Err(events) => {
                tracing::warn!(error = %events, "mode events does not load either; \
                hint: run `flowtap doctor`, which shows what is missing");
                self.fall_back_to_sock_diag(self.explain(sockets))
            }
        }
    }

    /// Without eBPF, unless that is not wanted.
    fn fall_back_to_sock_diag(&self, refused: StageError) -> Result<(Programs, String), StageError> {
        if self.context.strict {
            return Err(refused);
        }
        tracing::warn!(
            "{refused}\n  mode sock_diag is used; hint: run with --strict to make flowtap fail instead"
        );
        let mut receiver = SockDiagReceiver::new(self.sock_diag_config(), &self.context);
        receiver.open()?;
        Ok((Programs::SockDiag(Box::new(receiver)), one_line(&refused)))
    }
}

impl Receiver for EbpfReceiver {
    fn start(&mut self) -> Result<(), StageError> {
        // Several objects are loaded, each with the kernel's types.
        let _types = flowtap_ebpf::capability::check().is_ok().then(KeptBtf::new);
        let (programs, coverage, reason) = if let Some(inherited) = self.inherited.take() {
            self.continue_with(inherited)?
        } else {
            let coverage = self.coverage.take();
            let coverage = coverage.unwrap_or_else(|| Coverage::new(&self.context, &self.config.proc_root));
            let (programs, reason) = self.load()?;
            (programs, coverage, reason)
        };
        self.start_drops();
        self.start_icmp();
        let (receiver, mode) = (self.context.id.to_string(), programs.mode());
        tracing::info!(receiver, mode, reason, "capturing");
        programs.log(&self.config);
        self.record_mode(1, mode, reason.clone());
        // Without eBPF there are no records that its cookies could be joined with, and the warning of the mode has said why.
        let has_programs = !matches!(programs, Programs::SockDiag(_));
        self.programs = Some((programs, coverage, reason));
        if self.inspect.is_none() && has_programs {
            self.inspect = InspectCapture::load(
                &self.config.inspect,
                self.config.reads_translations(),
                &self.context,
            )?;
        }
        if self.udp.is_none() {
            self.udp = UdpCapture::load(
                &self.config.udp,
                &self.config.dns,
                &self.config.proc_root,
                &self.context,
                &mut self.udp_coverage,
            )?;
        }
        Ok(())
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut dyn Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            let (config, losses, extras) = (&self.config, &mut self.losses, &mut self.extras);
            let Some((programs, mut coverage, reason)) = self.programs.take() else {
                return Err(StageError::Other("run without start".into()));
            };
            let shared = Shared::new(self.udp.take(), self.icmp.take());
            let inspect = SharedInspect::new(self.inspect.take());
            let mut inspected = InspectSink {
                sink,
                shared: &inspect,
            };
            let mut with_udp = UdpSink {
                sink: &mut inspected,
                shared: &shared,
            };
            let of_mode = async {
                let output = MeteredSink {
                    sink: &mut with_udp,
                    extras,
                    coverage: &mut coverage,
                };
                Ok::<_, StageError>(match programs {
                    Programs::Sockets(left) => {
                        let capture = sockets::Capture::new(config, losses, *left, output);
                        Programs::Sockets(Box::new(capture.run(stop).await?))
                    }
                    Programs::Events(left) => {
                        let left = events::run(config, losses, *left, output, stop).await?;
                        Programs::Events(Box::new(left))
                    }
                    Programs::SockDiag(receiver) => Programs::SockDiag(dump(receiver, output, stop).await?),
                })
            };
            let left = tokio::select! {
                left = of_mode => left?,
                broken = shared.run() => return broken,
                broken = inspect.run() => return broken,
            };
            (self.udp, self.icmp) = shared.into_parts();
            self.inspect = inspect.into_capture();
            self.programs = Some((left, coverage, reason));
            Ok(())
        }
        .boxed()
    }

    fn hand_over(&mut self) -> Option<Inheritance> {
        self.leave().map(|handover| Box::new(handover) as Inheritance)
    }

    fn take_over(&mut self, inheritance: Inheritance) -> Result<(), Inheritance> {
        self.inherited = Some(*inheritance.downcast::<Handover>()?);
        Ok(())
    }
}

/// Runs the receiver that needs no eBPF; returns it for the next one.
async fn dump(
    mut receiver: Box<SockDiagReceiver>,
    output: MeteredSink<'_>,
    stop: CancellationToken,
) -> Result<Box<SockDiagReceiver>, StageError> {
    let output = MeteredSink {
        sink: &mut *output.sink,
        extras: &mut *output.extras,
        coverage: &mut *output.coverage,
    };
    receiver.capture(output, stop).await?;
    Ok(receiver)
}

/// The first line of the verifier's many, or "what is wrong; missing: what" of a [`StageError`].
fn one_line(error: &impl ToString) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim);
    let said: Vec<_> = lines
        .enumerate()
        .filter_map(|(number, line)| (number == 0 || line.starts_with("missing:")).then_some(line))
        .collect();
    said.join("; ")
}
