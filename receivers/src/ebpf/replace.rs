//! A receiver that replaces another one: it continues with the programs that are attached.
//!
//! In: what the receiver before leaves, and the new config. Out: programs that have missed nothing. The rules:
//!
//! 1. Keys of user space (`interval`, `scan_listen_interval`, `proc_root`, `channel_capacity`) change around the programs, which
//!    stay attached; what they write meanwhile waits in the ring.
//! 2. Another mode, and another size of the ring, take other programs, which are attached beside the first ones, with the same
//!    knowledge of every socket, before these are detached.
//! 3. `max_sockets` changes the limit of the table of connections. The table itself can't be made larger.
//! 4. Changes that can't be continued start from scratch: a table beyond its size, and mode
//!    `events` with a separate table if its rings or its table change. Open connections are
//!    adopted, and bytes until then are not measured. The comparison with the kernel's counters
//!    continues over that gap, and so shows its size.

use std::mem;

use flowtap_pipeline::StageError;

use super::config::Mode;
use super::explain::explain;
use super::handover::{Handover, in_mode, shared};
use super::losses::LossTelemetry;
use super::programs::{Left, Programs, sockets_options};
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
            coverage,
            extras: mem::take(&mut self.extras),
            reason,
            losses: mem::replace(&mut self.losses, LossTelemetry::new(&self.context)),
        })
    }

    /// Takes `handover`, or returns its programs if there is no way to continue with them.
    pub(super) fn inherit(&mut self, handover: Handover) -> Result<(), Programs> {
        if handover.suits(&self.config) {
            self.inherited = Some(handover);
            return Ok(());
        }
        tracing::warn!(
            receiver = %self.context.id,
            mode = handover.programs.mode(),
            "this change of the config restarts the measurement: bytes and connections until then are not counted; receiver_coverage_kernel and _measured show the loss"
        );
        let Handover {
            config,
            programs,
            udp,
            coverage,
            extras,
            reason,
            ..
        } = handover;
        self.extras = extras;
        self.keep_udp(udp);
        self.record_mode(0, programs.mode(), reason);
        self.coverage = (config.proc_root == self.config.proc_root).then_some(coverage);
        Err(programs)
    }

    /// Continues with what was inherited.
    pub(super) fn continue_with(
        &mut self,
        inherited: Handover,
    ) -> Result<(Programs, Coverage, String), StageError> {
        let Handover {
            config,
            programs,
            udp,
            mut coverage,
            extras,
            mut reason,
            losses,
        } = inherited;
        let mut programs = match shared(programs) {
            Ok(mut left) => {
                let was_per_segment = left.programs.is_per_segment();
                let per_segment = self.config.mode == Mode::Events;
                let Left {
                    programs: sockets,
                    found,
                    containers,
                    ..
                } = &mut left;
                let options = sockets_options(&self.config, per_segment);
                let reloaded = sockets.reload(&options, |event, _| convert::push(found, containers, event));
                if let Err(error) = reloaded {
                    // The receiver before can have it back.
                    self.inherited = Some(Handover {
                        config,
                        programs: in_mode(left),
                        udp,
                        coverage,
                        extras,
                        reason,
                        losses,
                    });
                    return Err(explain(error));
                }
                if per_segment && !was_per_segment {
                    // Connections that have opened since the last scan have not been reported, and no scan will.
                    left.census.failed();
                }
                let programs = in_mode(left);
                if per_segment != was_per_segment {
                    let before = if was_per_segment { "events" } else { "sockets" };
                    self.record_mode(0, before, mem::take(&mut reason));
                    self.reason().clone_into(&mut reason);
                }
                programs
            }
            Err(mut programs) => {
                if let Programs::SockDiag(receiver) = &mut programs {
                    receiver.set_config(self.sock_diag_config());
                }
                programs
            }
        };
        if config.proc_root != self.config.proc_root {
            coverage = Coverage::new(&self.context, &self.config.proc_root);
            let fresh = Containers::new(&self.context, &self.config.proc_root);
            match &mut programs {
                Programs::Sockets(left) => left.containers = fresh,
                Programs::Events(left) => left.containers = fresh,
                Programs::SockDiag(_) => {}
            }
        }
        self.losses = losses;
        self.extras = extras;
        self.keep_udp(udp);
        Ok((programs, coverage, reason))
    }

    /// Continues with UDP's programs if the config asks for the same; else those of this config are attached anew, and datagrams
    /// until then are not measured.
    fn keep_udp(&mut self, udp: Option<Box<UdpCapture>>) {
        let Some(mut udp) = udp else { return };
        if udp.suits(&self.config) {
            self.udp = Some(udp);
        } else {
            udp.end();
            tracing::warn!(
                receiver = %self.context.id,
                "this change of `udp` or `dns` restarts its measurement: datagrams until then are not counted"
            );
        }
    }
}
