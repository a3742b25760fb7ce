//! `flowtap top`: the live view in a terminal.
//!
//! In: the flows of a running daemon, from its admin listener; or of this machine, measured in this
//! process, if no daemon answers there. Out: rows on the terminal, until `q`. The contents are made
//! by a pure core: [`state`] takes events, [`view`] draws; here are the threads that feed them, and
//! the terminal, which is restored however this ends.

mod feed;
mod state;
mod view;

use std::io::{self, ErrorKind, IsTerminal};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flowtap_config::{Layers, MetricsConfig};
use flowtap_engine::runner;
use flowtap_extensions::live::Sort;
use flowtap_extensions::live::tap::Tap;
use flowtap_extensions::telemetry::Telemetry;
use flowtap_pipeline::Registry;
use ratatui::crossterm::event::{self, Event as Input, KeyEventKind};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::TopArgs;
use crate::commands::config::load;
use crate::daemon::graph::{self, Environment};
use crate::daemon::runtime;
use crate::exit::{Code, ExitError};

use crate::commands::ask::AskError;
use feed::{Orders, Source};
use state::{Event, Next, State};

/// Events that may wait to be shown. A feed that is faster waits.
const EVENTS: usize = 64;

/// Config overrides for measuring where no daemon answers: every second, with processes, and
/// without listeners.
const STANDALONE_OVERRIDES: [&str; 10] = [
    "receivers.ebpf.interval=1s",
    "processors.window.interval=1s",
    "processors.window.rtt_include_local_peers=true",
    "processors.window.families.network_tcp_flow_min_rtt.labels=[raddr, rport, lport, flow]",
    "processors.window.families.network_tcp_flow_egress.labels=[raddr, rport, direction, type, comm, pid]",
    "processors.window.families.network_tcp_flow_ingress.labels=[raddr, lport, direction, type, comm, pid]",
    "processors.window.families.network_flow_dns.labels=[raddr, rport, lport, direction, flow, type, comm, pid]",
    "processors.window.families.network_k8s_tcp_flow.labels=[raddr, rport, lport, direction, flow, type, comm, pid]",
    "service.admin.endpoint=null",
    "service.telemetry.metrics.endpoint=null",
];

/// Shows flows until the user quits.
///
/// # Errors
/// No terminal; an `--admin` that does not answer; what keeps this machine from being measured.
pub(crate) fn top(args: TopArgs, registry: &Registry) -> Result<(), ExitError> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(ExitError::new(
            Code::Usage,
            "top needs a terminal; hint: programs get the same from the daemon's admin listener: curl http://127.0.0.1:13134/flows",
        ));
    }
    let sort = Sort::from_name(&args.sort).unwrap_or_default();
    let runtime = runtime()?;
    let (events, incoming) = sync_channel(EVENTS);
    let mut here = None;
    let (source, name) = if let Some(address) = find_daemon(&args, registry)? {
        (Source::Daemon(address), address.to_string())
    } else {
        let tap = Tap::default();
        here = Some(InProcess::start(&runtime, registry, &tap, events.clone())?);
        (Source::InProcess(tap), "this machine".to_owned())
    };
    stop_on_signal(&runtime, events.clone())?;
    let orders = feed::spawn(source, args.pipeline, (sort, args.interval), events.clone())?;
    let shown = show(State::new(name, sort, args.interval), &incoming, events, &orders);
    // Threads that still send find the channel closed, and end.
    drop(incoming);
    let measured = here.map_or(Ok(()), |here| here.stop(&runtime));
    shown.and(measured)
}

/// The daemon to ask, if there is one.
fn find_daemon(args: &TopArgs, registry: &Registry) -> Result<Option<SocketAddr>, ExitError> {
    let unavailable = |address: SocketAddr, error: &AskError| match error {
        AskError::Refused(_) => ExitError::new(
            Code::Usage,
            format!(
                "{}\n  hint: choose an available pipeline with --pipeline, or leave --pipeline out",
                error.sentence("flows", address)
            ),
        ),
        _ => ExitError::new(
            Code::Unavailable,
            format!(
                "{}\n  hint: {}, or let top measure by itself: --set service.admin.endpoint=null",
                error.sentence("flows", address),
                error.remedy(address)
            ),
        ),
    };
    let given = args.admin;
    let address = match given {
        Some(address) => Some(address),
        None => load(&args.config, registry)?.service.admin.endpoint,
    };
    let Some(address) = address else {
        return Ok(None);
    };
    match feed::ask(address, args.pipeline.as_deref(), Sort::default()) {
        Ok(_) => Ok(Some(address)),
        Err(AskError::Connection(error))
            if given.is_none() && error.kind() == ErrorKind::ConnectionRefused =>
        {
            Ok(None)
        }
        Err(error) => Err(unavailable(address, &error)),
    }
}

/// Draws, takes an event, and repeats. The terminal is restored at the end, also after a panic.
fn show(
    mut state: State,
    incoming: &Receiver<Event>,
    events: SyncSender<Event>,
    orders: &Orders,
) -> Result<(), ExitError> {
    let _restore = Restore;
    let mut terminal = ratatui::try_init()?;
    read_keys(events)?;
    loop {
        terminal.draw(|frame| view::draw(&mut state, frame))?;
        // This function's caller holds a sender, so there is always one.
        let Ok(event) = incoming.recv() else {
            return Ok(());
        };
        match state.apply(event) {
            Next::Draw => {}
            Next::Ask(sort, interval) => orders.set((sort, interval)),
            Next::Quit => return Ok(()),
        }
    }
}

/// Gives the terminal back when it goes.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Hands on keys. The thread waits for the terminal, and ends with the process.
fn read_keys(events: SyncSender<Event>) -> Result<(), ExitError> {
    let read = move || {
        loop {
            let event = match event::read() {
                Ok(Input::Key(key)) if key.kind == KeyEventKind::Press => Event::Key(key),
                Ok(Input::Resize(..)) => Event::Redraw,
                Ok(_) => continue,
                // The terminal has gone.
                Err(_) => Event::Stop,
            };
            let last = matches!(event, Event::Stop);
            if events.send(event).is_err() || last {
                return;
            }
        }
    };
    thread::Builder::new().name("top-keys".to_owned()).spawn(read)?;
    Ok(())
}

/// A signal ends it as `q` does, so that the terminal is given back.
fn stop_on_signal(runtime: &Runtime, events: SyncSender<Event>) -> Result<(), ExitError> {
    let _guard = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    runtime.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        stop(events);
    });
    Ok(())
}

/// Ends the view, from a task: sending may have to wait.
fn stop(events: SyncSender<Event>) {
    tokio::task::spawn_blocking(move || events.send(Event::Stop));
}

/// Receivers and pipelines in this process.
struct InProcess {
    running: JoinHandle<Result<(), ExitError>>,
    stop: CancellationToken,
}

impl InProcess {
    /// Returns when they measure.
    fn start(
        runtime: &Runtime,
        registry: &Registry,
        tap: &Tap,
        events: SyncSender<Event>,
    ) -> Result<Self, ExitError> {
        let layers = Layers::from_process(Vec::new(), STANDALONE_OVERRIDES.map(str::to_owned).to_vec());
        let config = flowtap_config::load(&layers, registry).map_err(|errors| ExitError::config(&errors))?;
        let _guard = runtime.enter();
        let telemetry = Telemetry::new(&flowtap_pipeline::Resource::default(), &MetricsConfig::default())?;
        let environment = Environment::now();
        // Strict: netlink knows neither processes nor other namespaces, and there would be no place to say so.
        let mut graph = graph::build(&config, &telemetry.meter(), &environment, true)?;
        graph.exporters.clear();
        for pipeline in &mut graph.pipelines {
            pipeline.exporters.clear();
        }
        graph::attach_tap(&mut graph, tap);
        tap.set_pipelines(graph::tapped_pipelines(&config));
        let stop = CancellationToken::new();
        let (ready, starts) = oneshot::channel();
        let running = runtime.spawn({
            let stop = stop.clone();
            let deadline = config.service.shutdown_timeout;
            async move {
                let ready = || {
                    // Nobody waits any more: then it is about to stop.
                    let _ = ready.send(());
                };
                let ended = runner::run(graph, &telemetry.meter(), stop, deadline, ready).await;
                self::stop(events);
                Ok(ended?)
            }
        });
        let here = Self { running, stop };
        if runtime.block_on(starts).is_err() {
            // It ended before it was ready: with the reason.
            here.stop(runtime)?;
            return Err(ExitError::new(
                Code::Software,
                "the measurement ended before it began",
            ));
        }
        Ok(here)
    }

    /// Stops them in order.
    fn stop(self, runtime: &Runtime) -> Result<(), ExitError> {
        self.stop.cancel();
        runtime
            .block_on(self.running)
            .unwrap_or_else(|panic| Err(ExitError::new(Code::Software, panic)))
    }
}
