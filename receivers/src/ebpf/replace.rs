//! A receiver that replaces another one: it continues with the programs that are attached.
//!
//! In: what the receiver before leaves, and the new config. Out: programs that have missed nothing. The rules:
//!
//! 1. Keys of user space (`interval`, `scan_listen_interval`, `proc_root`, `channel_capacity`) change around the programs, which
//!    stay attached; what they write meanwhile waits in the ring.
//! 2. Another mode, another size of a ring, and a table that must grow take other programs, which are attached beside the first
//!    ones, with the same knowledge of every socket, before these are detached.
//! 3. `max_sockets` changes the limit of the table of connections. Beyond the table's size another table is added.
//! 4. Where the new config can't be started, the receiver before gets everything back and continues.
//! 5. The one change that starts from scratch is from a kind of programs to another that share no maps, which no kernel needs: mode
//!    `sockets` in place of mode `events` with a separate table. Open connections are adopted, and bytes until then are not
//!    measured. The comparison with the kernel's counters continues over that gap, and so shows its size.

use std::mem;

use flowtap_ebpf::Sockets;
use flowtap_pipeline::StageError;

use super::config::Mode;
use super::event_programs::EventPrograms;
use super::handover::{Handover, in_mode, shared};
use super::inspect::InspectCapture;
use super::losses::LossTelemetry;
use super::programs::{Left, Programs, events_options, sockets_options};
use super::udp::UdpCapture;
use super::{EbpfReceiver, convert};
use crate::containers::Containers;
use crate::coverage::Coverage;

impl EbpfReceiver {
    /// State that this receiver leaves once it has run, or if it could not continue.
    pub(super) fn leave(&mut self) -> Option<Handover> {
        if self.inherited.is_some() {
            return self.inherited.take();
        }
        let (programs, coverage, reason) = self.programs.take()?;
        Some(Handover {
            config: self.config.clone(),
            programs,
            udp: self.udp.take(),
            udp_coverage: self.udp_coverage.take(),
            icmp: self.icmp.take(),
            inspect: self.inspect.take(),
            coverage,
            extras: mem::take(&mut self.extras),
            reason,
            losses: mem::replace(&mut self.losses, LossTelemetry::new(&self.context)),
        })
    }

    /// Continues with the inherited programs. If that fails, they are left to be inherited again, so that the
    /// previous receiver can take them back.
    pub(super) fn continue_with(
        &mut self,
        inherited: Handover,
    ) -> Result<(Programs, Coverage, String), StageError> {
        let Handover {
            config,
            programs,
            udp,
            udp_coverage,
            icmp,
            inspect,
            mut coverage,
            extras,
            mut reason,
            losses,
        } = inherited;
        let mode_before = programs.mode();
        let (mut programs, failed) = match shared(programs) {
            Ok(left) => self.reload_shared(left),
            Err(Programs::Events(left)) => self.reload_own(*left),
            Err(other) => self.continue_without_programs(other),
        };
        if let Some(error) = failed {
            self.inherited = Some(Handover {
                config,
                programs,
                udp,
                udp_coverage,
                icmp,
                inspect,
                coverage,
                extras,
                reason,
                losses,
            });
            return Err(error);
        }
        if programs.mode() != mode_before {
            self.record_mode(0, mode_before, mem::take(&mut reason));
            self.reason().clone_into(&mut reason);
        }
        if config.proc_root != self.config.proc_root {
            coverage = Coverage::new(&self.context, &self.config.proc_root);
            let fresh = Containers::new(&self.context, &self.config.proc_root);
            match &mut programs {
                Programs::Sockets(left) => left.known.containers = fresh,
                Programs::Events(left) => left.known.containers = fresh,
                Programs::SockDiag(_) => {}
            }
        }
        self.losses = losses;
        self.extras = extras;
        self.icmp = icmp;
        self.udp_coverage = udp_coverage;
        self.keep_udp(udp);
        self.keep_inspect(inspect);
        Ok((programs, coverage, reason))
    }

    /// Continues with UDP's programs if the config asks for the same; else those of this config are attached anew, and datagrams
    /// until then are not measured. The comparison with the kernel's counters continues over that gap.
    fn keep_udp(&mut self, udp: Option<Box<UdpCapture>>) {
        let Some(mut udp) = udp else { return };
        if udp.suits(&self.config.udp, &self.config.dns) {
            udp.set_config(&self.config.udp, &self.config.proc_root, &self.context);
            self.udp = Some(udp);
            return;
        }
        self.udp_coverage = Some(udp.end());
        if self.config.udp.enabled {
            tracing::warn!(
                receiver = %self.context.id,
                "this change of `udp` or `dns` restarts its measurement: datagrams until then are not counted\n  \
                 hint: compare flowtap_receiver_coverage_kernel_total and _measured_total, with counter=\"udp_sent\" and \"udp_received\", is what was missed"
            );
        }
    }

    /// Continues with the programs of `inspect` if the config asks for the same; else those of this config begin anew, and connections
    /// that are open are not recognized.
    fn keep_inspect(&mut self, inspect: Option<Box<InspectCapture>>) {
        let Some(inspect) = inspect else { return };
        if inspect.suits(&self.config.inspect, self.config.reads_translations()) {
            self.inspect = Some(inspect);
        } else {
            inspect.end();
        }
    }

    /// Programs on the maps of both modes, in the mode of this config.
    fn reload_shared(&self, mut left: Left<Sockets>) -> (Programs, Option<StageError>) {
        let was_per_segment = left.programs.is_per_segment();
        let per_segment = self.config.mode == Mode::Events;
        let Left {
            programs: sockets,
            found,
            known,
            ..
        } = &mut left;
        let options = sockets_options(&self.config, per_segment);
        let reloaded = sockets.reload(&options, |event, _| convert::push(found, known, event));
        if let Err(error) = reloaded {
            return (in_mode(left), Some(self.explain(error)));
        }
        if per_segment && !was_per_segment {
            // Connections that have opened since the last scan have not been reported, and no scan will.
            left.census.failed();
        }
        (in_mode(left), None)
    }

    /// Programs of mode `events` with a separate table. On their kernel `auto` comes to them again.
    fn reload_own(&self, mut left: Left<EventPrograms>) -> (Programs, Option<StageError>) {
        if self.config.mode == Mode::Sockets {
            return match self.load_sockets() {
                Err(error) => (Programs::Events(Box::new(left)), Some(self.explain(error))),
                Ok(programs) => {
                    self.log_restart("events");
                    (programs, None)
                }
            };
        }
        let Left {
            programs,
            found,
            known,
            ..
        } = &mut left;
        let reloaded = match programs {
            EventPrograms::Own(events) => events.reload(&events_options(&self.config), |event, _| {
                convert::push(found, known, event);
            }),
            EventPrograms::Shared(_) => Ok(()),
        };
        (
            Programs::Events(Box::new(left)),
            reloaded.err().map(|error| self.explain(error)),
        )
    }

    /// The receiver `sock_diag`, to which `auto` has fallen back: a refusal at the start would be repeated.
    fn continue_without_programs(&self, mut programs: Programs) -> (Programs, Option<StageError>) {
        let loaded = match self.config.mode {
            Mode::Auto => {
                if let Programs::SockDiag(receiver) = &mut programs {
                    receiver.set_config(self.sock_diag_config());
                }
                return (programs, None);
            }
            Mode::Sockets => self.load_sockets(),
            Mode::Events => self.load_events(),
        };
        match loaded {
            Err(error) => (programs, Some(self.explain(error))),
            Ok(loaded) => {
                self.log_restart(programs.mode());
                (loaded, None)
            }
        }
    }

    fn log_restart(&self, mode: &'static str) {
        tracing::warn!(
            receiver = %self.context.id,
            mode,
            "this change of the config restarts the measurement: bytes and connections until then are not counted; the loss is `flowtap_receiver_coverage_kernel_total` less `flowtap_receiver_coverage_measured_total`; \
                hint: change these keys when few connections are open"
        );
    }
}
