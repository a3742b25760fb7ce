//! A receiver that replaces another one: it continues with the programs that are attached.
//!
//! In: what the receiver before leaves, and the new config. Out: programs that have missed nothing. The rules:
//!
//! 1. Keys of user space (`interval`, `scan_listen_interval`, `proc_root`, `channel_capacity`) change around the programs, which
//!    stay attached; what they write meanwhile waits in the ring.
//! 2. In mode `sockets` another size of the ring takes other programs, which are attached beside the first ones, with the same
//!    knowledge of every socket, before these are detached.
//! 3. Another mode, and another size of a table of connections or, in mode `events`, of rings,
//!    starts from scratch: open connections are adopted, and bytes until then are not measured. The
//!    comparison with the kernel's counters continues over that gap, and so shows its size.

use std::mem;

use flowtap_ebpf::{SocketsOptions, Store};
use flowtap_pipeline::StageError;

use super::config::{Config, Mode};
use super::convert;
use super::explain::explain;
use super::losses::LossTelemetry;
use super::{EbpfReceiver, Programs, SOCKETS_RING_BYTES};
use crate::containers::Containers;
use crate::coverage::Coverage;

/// State that a receiver leaves to its replacement.
#[derive(Debug)]
pub(super) struct Handover {
    /// Its config.
    config: Config,
    programs: Programs,
    coverage: Coverage,
    /// Why this mode was taken.
    reason: String,
    /// With what it has counted of the programs' totals.
    losses: LossTelemetry,
}

impl Handover {
    /// Whether a receiver of `config` can continue with the programs.
    fn suits(&self, config: &Config) -> bool {
        let same_mode = self.config.mode == config.mode;
        match (&self.programs, config.mode) {
            // The first choice of `auto`.
            (Programs::Sockets(sockets, ..), Mode::Sockets | Mode::Auto) => {
                sockets.store() != Store::Table || self.config.max_sockets == config.max_sockets
            }
            (Programs::Events(_), Mode::Events | Mode::Auto) => {
                (same_mode || config.mode == Mode::Events)
                    && self.config.ring_buffer_bytes == config.ring_buffer_bytes
                    && self.config.max_sockets == config.max_sockets
            }
            _ => false,
        }
    }
}

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
            coverage,
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
            coverage,
            reason,
            ..
        } = handover;
        self.record_mode(0, programs.mode(), reason);
        self.coverage = (config.proc_root == self.config.proc_root).then_some(coverage);
        Err(programs)
    }

    /// Continues with what was inherited.
    pub(super) fn continue_with(
        &mut self,
        mut inherited: Handover,
    ) -> Result<(Programs, Coverage, String), StageError> {
        if let Programs::Sockets(sockets, batch, containers, _) = &mut inherited.programs {
            let ring = |config: &Config| config.ring_buffer_bytes.unwrap_or(SOCKETS_RING_BYTES);
            let options = SocketsOptions {
                ring_buffer_bytes: ring(&self.config),
                max_sockets: self.config.max_sockets,
            };
            if options.ring_buffer_bytes != ring(&inherited.config)
                && let Err(error) =
                    sockets.resize_ring(&options, |event| convert::push(batch, containers, event))
            {
                // The receiver before can have it back.
                self.inherited = Some(inherited);
                return Err(explain(error));
            }
        }
        let Handover {
            config,
            mut programs,
            mut coverage,
            reason,
            losses,
        } = inherited;
        if config.proc_root != self.config.proc_root {
            coverage = Coverage::new(&self.context, &self.config.proc_root);
            let fresh = Containers::new(&self.context, &self.config.proc_root);
            match &mut programs {
                Programs::Sockets(_, _, containers, _) => *containers = fresh,
                Programs::Events(left) => left.containers = fresh,
                Programs::SockDiag(_) => {}
            }
        }
        self.losses = losses;
        Ok((programs, coverage, reason))
    }
}
