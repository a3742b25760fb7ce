//! UDP in the receiver `ebpf`, whatever its mode for TCP.
//!
//! In: the kernel's totals by socket and peer; DNS datagrams; the kernel's counters of ICMP. Out: records of UDP, and counts of
//! ICMP, before each watermark of the mode. The rules:
//!
//! 1. The programs are attached by the best step that works; which one it is is logged and exported. With `hooks: auto` UDP is not
//!    measured where none works, which is exported as the step `none`.
//! 2. Before a watermark the totals are read, so no datagram before it is missing ([`UdpSink`]).
//! 3. Between watermarks rings are drained when a quarter of one is full ([`Shared::run`]).
//! 4. Flows without a place in the kernel's tables are one record without peer, for the series `other`.

mod config;
mod convert;
mod coverage;
mod dns;
mod icmp;
mod roles;
mod telemetry;

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowtap_ebpf::udp::abi::UdpTotals;
use flowtap_ebpf::udp::monotonic_ns;
use flowtap_ebpf::{LoadError, Udp, UdpChange, UdpLoadError, UdpOptions};
use flowtap_pipeline::{BuildContext, FlowBatch, Sink, StageError, Timestamp};

pub use self::config::{IcmpConfig, UdpConfig, UdpHooks};
pub(super) use self::coverage::UdpCoverage;
use self::dns::Dns;
pub(super) use self::icmp::IcmpCounters;
use self::roles::Roles;
use self::telemetry::{Telemetry, record_unmeasured};
use super::explain::{Grant, explain};
use crate::containers::{Containers, mount};

/// Records after which a batch is passed on, so that it stays in the cache.
const BATCH_RECORDS: usize = 1024;

/// The programs at work, and what goes with them from one receiver to the next.
#[derive(Debug)]
pub(super) struct UdpCapture {
    config: UdpConfig,
    programs: Udp,
    containers: Containers,
    telemetry: Telemetry,
    coverage: UdpCoverage,
    dns_config: crate::dns::Config,
    dns: Option<Dns>,
    roles: Roles,
    unplaced: UdpTotals,
    batch: FlowBatch,
}

impl UdpCapture {
    /// Loads and attaches; `None` if the config does not ask for it, or not by any means and nothing works. Continues with `coverage`, the
    /// comparison of programs that were detached, and leaves it there as long as nothing is measured.
    ///
    /// # Errors
    /// The missing requirement of the hooks that the config asks for.
    pub(super) fn load(
        udp: &UdpConfig,
        dns: &crate::dns::Config,
        proc_root: &Path,
        context: &BuildContext,
        coverage: &mut Option<UdpCoverage>,
    ) -> Result<Option<Box<Self>>, StageError> {
        if !udp.enabled {
            *coverage = None;
            record_unmeasured(context, false);
            return Ok(None);
        }
        // Before the programs are there: what they miss meanwhile is to be seen.
        let known = coverage.take().filter(|known| known.suits(proc_root));
        let mut compared = known.unwrap_or_else(|| UdpCoverage::new(context, proc_root));
        let programs = match load_programs(udp, dns, context) {
            Ok(Some(programs)) => programs,
            none_or_error => {
                *coverage = Some(compared);
                return none_or_error.map(|_| None);
            }
        };
        compared.leave_out(programs.own_datagrams());
        let telemetry = Telemetry::new(context);
        telemetry.begin(programs.step());
        log_programs(&programs, udp, dns, context);
        Ok(Some(Box::new(Self {
            config: udp.clone(),
            programs,
            containers: Containers::new(context, proc_root),
            telemetry,
            coverage: compared,
            dns: Dns::new(dns, context),
            dns_config: dns.clone(),
            roles: Roles::default(),
            unplaced: UdpTotals::default(),
            batch: FlowBatch::default(),
        })))
    }

    /// Whether a receiver with these settings can continue with it.
    pub(super) fn suits(&self, udp: &UdpConfig, dns: &crate::dns::Config) -> bool {
        let of_user_space = UdpConfig {
            idle: self.config.idle,
            ..udp.clone()
        };
        self.config == of_user_space && self.dns_config == *dns
    }

    /// Continues with these settings, which suit.
    pub(super) fn set_config(&mut self, udp: &UdpConfig, proc_root: &Path, context: &BuildContext) {
        self.programs.set_idle(udp.idle);
        self.config = udp.clone();
        if !self.coverage.suits(proc_root) {
            self.coverage = UdpCoverage::new(context, proc_root);
            self.containers = Containers::new(context, proc_root);
        }
    }

    /// Detaches the programs. Returns the comparison with the kernel's counters, for those that follow.
    pub(super) fn end(mut self) -> UdpCoverage {
        if let Some(dns) = &mut self.dns {
            dns.abandon();
        }
        self.telemetry.end(self.programs.step());
        self.coverage
    }

    /// Everything that has moved up to now.
    fn collect(&mut self, sink: &mut dyn Sink) -> io::Result<()> {
        // Before the ring is read: an answer that comes while it is read is not missing from what is there by then.
        let now_ns = monotonic_ns();
        self.drain_dns()?;
        let Self {
            programs,
            containers,
            coverage,
            roles,
            batch,
            ..
        } = self;
        programs.scan(now_ns, |change| {
            push(batch, containers, coverage, roles, now_ns, change);
            hand_on(batch, sink, BATCH_RECORDS);
        })?;
        let unplaced = *self.programs.unplaced();
        let new = unplaced.less(&self.unplaced);
        if new != UdpTotals::default() {
            self.unplaced = unplaced;
            self.telemetry.add_unplaced(&new);
            self.coverage.observe_unplaced(&new);
            self.batch.udp.push(convert::unplaced(&new));
        }
        if let Some(dns) = &mut self.dns {
            dns.flush(now_ns, &mut self.containers, &mut self.batch);
        }
        hand_on(&mut self.batch, sink, 1);
        let seen = self.programs.seen()?;
        let misses = self.programs.program_misses()?;
        self.telemetry.update(&seen, &misses);
        self.coverage.tick();
        Ok(())
    }

    fn drain_closed(&mut self) -> io::Result<()> {
        let now_ns = monotonic_ns();
        let Self {
            programs,
            containers,
            coverage,
            roles,
            batch,
            ..
        } = self;
        programs.drain_closed(|change| push(batch, containers, coverage, roles, now_ns, change))
    }

    /// Adds transactions that were answered by now to `batch`.
    fn take_answers(&mut self, batch: &mut FlowBatch) -> io::Result<()> {
        self.drain_dns()?;
        if let Some(dns) = &mut self.dns {
            dns.answered(monotonic_ns(), &mut self.containers, batch);
        }
        Ok(())
    }

    fn drain_dns(&mut self) -> io::Result<()> {
        if let Some(dns) = &mut self.dns {
            self.programs.drain_dns(|datagram| dns.take(datagram))?;
        }
        Ok(())
    }
}

/// The programs of the best step that works; `None` if none does and the config asks for none in particular.
fn load_programs(
    udp: &UdpConfig,
    dns: &crate::dns::Config,
    context: &BuildContext,
) -> Result<Option<Udp>, StageError> {
    let options = UdpOptions {
        hooks: udp.hooks.kernel(),
        max_flows: udp.max_flows,
        idle: udp.idle,
        dns_ports: dns.kernel_ports().to_vec(),
        dns_ring_bytes: dns.ring_buffer_bytes,
    };
    match Udp::load(&options) {
        Ok(programs) => Ok(Some(programs)),
        // The warning of the mode for TCP has said so.
        Err(UdpLoadError::Unable(LoadError::Capability(_))) if udp.hooks == UdpHooks::Auto => {
            record_unmeasured(context, true);
            Ok(None)
        }
        Err(error) if udp.hooks == UdpHooks::Auto => {
            let hooks = hooks_hint(!mount::mount_points().is_empty());
            let hint = error.descriptor_remedy().map_or_else(
                || format!("`flowtap doctor` shows what is missing; {hooks}"),
                str::to_owned,
            );
            tracing::warn!(
                receiver = %context.id,
                %error,
                "UDP is not measured\n  hint: {hint}, and `udp.enabled: false` ends this message"
            );
            record_unmeasured(context, true);
            Ok(None)
        }
        Err(UdpLoadError::Unable(error)) => Err(explain(error, Grant::of(udp))),
        Err(error) => Err(StageError::Unsupported {
            what: format!("the hooks of `udp` do not load: {error}"),
            remedy: error
                .descriptor_remedy()
                .unwrap_or("use `udp.hooks: auto`, which runs without UDP where nothing loads")
                .to_owned(),
        }),
    }
}

/// Logs how UDP is measured, and what is not.
fn log_programs(programs: &Udp, udp: &UdpConfig, dns: &crate::dns::Config, context: &BuildContext) {
    let step = programs.step().as_str();
    for refusal in programs.refused() {
        tracing::debug!(step = refusal.what, error = %refusal.error, "a step for UDP does not work here");
    }
    for refusal in programs.absent() {
        let (program, error) = (refusal.what, refusal.error.to_string());
        let error = error.lines().next();
        match program {
            "uncount_dropped" => tracing::info!(
                program,
                error,
                "datagrams that a full receive buffer drops count as received here"
            ),
            "uncount_filtered" => tracing::info!(
                program,
                error,
                "datagrams that the filter of a socket or a cgroup drops count as received here"
            ),
            _ => tracing::info!(program, error, "drops or errors of UDP are not counted here"),
        }
    }
    if !programs.step().has_payload() && !dns.kernel_ports().is_empty() {
        tracing::info!(
            step,
            "DNS transactions are not measured: this step sees no payload"
        );
    }
    tracing::info!(receiver = %context.id, step, max_flows = udp.max_flows, "measuring UDP");
}

/// Adds a change to the batch.
fn push(
    batch: &mut FlowBatch,
    containers: &mut Containers,
    coverage: &mut UdpCoverage,
    roles: &mut Roles,
    now_ns: u64,
    change: &UdpChange,
) {
    let mut record = convert::record(change);
    roles.apply(change, &mut record);
    let age = Duration::from_nanos(now_ns.saturating_sub(change.flow.since_ns));
    record.flow.container_id = containers.id_of(&record.flow, age);
    coverage.observe(&record);
    batch.udp.push(record);
}

/// Passes a batch on that has so many records.
fn hand_on(batch: &mut FlowBatch, sink: &mut dyn Sink, records: usize) {
    if batch.records() >= records {
        sink.accept(batch);
    }
}

/// The capture, which the sink and the watch of the rings share, and the counters of ICMP.
#[derive(Debug)]
pub(super) struct Shared {
    capture: Mutex<Option<Box<UdpCapture>>>,
    icmp: Mutex<Option<IcmpCounters>>,
}

impl Shared {
    pub(super) const fn new(capture: Option<Box<UdpCapture>>, icmp: Option<IcmpCounters>) -> Self {
        Self {
            capture: Mutex::new(capture),
            icmp: Mutex::new(icmp),
        }
    }

    /// Both, for the receiver that continues.
    pub(super) fn into_parts(self) -> (Option<Box<UdpCapture>>, Option<IcmpCounters>) {
        (
            self.capture.into_inner().unwrap_or_else(PoisonError::into_inner),
            self.icmp.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn capture(&self) -> MutexGuard<'_, Option<Box<UdpCapture>>> {
        // A panic in between leaves a batch that is whole.
        self.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drains a ring whenever a quarter of it is full. Without a capture it waits for ever.
    ///
    /// # Errors
    /// If a ring can't be watched or read.
    pub(super) async fn run(&self) -> Result<(), StageError> {
        let watch = self.capture().as_ref().map(|capture| capture.programs.watch());
        let Some(watch) = watch else {
            return std::future::pending().await;
        };
        let [closed, dns] = watch.map_err(broken)?;
        loop {
            tokio::select! {
                filled = closed.filled() => {
                    filled.map_err(broken)?;
                    self.capture().as_mut().map_or(Ok(()), |capture| capture.drain_closed()).map_err(broken)?;
                }
                filled = dns.filled() => {
                    filled.map_err(broken)?;
                    self.capture().as_mut().map_or(Ok(()), |capture| capture.drain_dns()).map_err(broken)?;
                }
            }
        }
    }
}

fn broken(error: io::Error) -> StageError {
    StageError::Other(error.into())
}

/// The sink of a mode, with UDP in front of each watermark.
#[derive(Debug)]
pub(super) struct UdpSink<'a> {
    pub(super) sink: &'a mut dyn Sink,
    pub(super) shared: &'a Shared,
}

impl Sink for UdpSink<'_> {
    fn accept(&mut self, batch: &mut FlowBatch) {
        // The answer that a connection was opened by is in its batch or an earlier one, so that the connection can be named by it.
        if !batch.is_empty()
            && let Some(capture) = self.shared.capture().as_mut()
            && let Err(error) = capture.take_answers(batch)
        {
            tracing::warn!(%error, "the ring of DNS datagrams can't be read\n  hint: restart flowtap; report this if it comes again");
        }
        self.sink.accept(batch);
    }

    fn wants_census(&self) -> bool {
        self.sink.wants_census()
    }

    fn watermark(&mut self, to: Timestamp) {
        if let Some(capture) = self.shared.capture().as_mut()
            && let Err(error) = capture.collect(self.sink)
        {
            // The next scan shows what this one did not.
            self.sink.scan_failed(&error);
            tracing::warn!(%error, "the scan of UDP's flows was cut short; the next one recovers it\n  \
                 hint: report this if it comes again");
        }
        let mut icmp = self.shared.icmp.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = icmp.as_mut() {
            let mut batch = FlowBatch::default();
            counters.read(&mut batch.icmp);
            if !batch.is_empty() {
                self.sink.accept(&mut batch);
            }
        }
        self.sink.watermark(to);
    }

    fn scan_failed(&mut self, error: &dyn Display) {
        self.sink.scan_failed(error);
    }

    fn records_refused(&mut self, reason: &dyn Display) {
        self.sink.records_refused(reason);
    }
}

/// Hint at the hooks that need less of the kernel than those of `udp.hooks: auto`, as far as this machine can have them.
pub(crate) const fn hooks_hint(has_cgroup2: bool) -> &'static str {
    if has_cgroup2 {
        "`udp.hooks: cgroup` (CAP_NET_ADMIN) or `udp.hooks: tracepoints` (Linux 6.3 or later; no DNS) needs less of the kernel"
    } else {
        "`udp.hooks: tracepoints` (Linux 6.3 or later; no DNS) needs less of the kernel, and so does `udp.hooks: cgroup` where a \
         cgroup2 file system is mounted, which is not the case here"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_at_cgroups_are_suggested_where_there_are_cgroups() {
        assert!(!hooks_hint(true).contains("not the case"));
        assert!(hooks_hint(false).starts_with("`udp.hooks: tracepoints`"));
    }
}
