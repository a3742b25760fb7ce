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

use flowtap_ebpf::Sockets;
use flowtap_pipeline::{FlowBatch, StageError};

use super::config::{Config, Mode};
use super::convert;
use super::event_programs::EventPrograms;
use super::explain::explain;
use super::losses::{ChannelLosses, LossTelemetry};
use super::{EbpfReceiver, Programs, sockets_options};
use crate::census::CensusPlan;
use crate::containers::Containers;
use crate::coverage::Coverage;

/// Programs, with what goes with them from one receiver to the next.
#[derive(Debug)]
pub(super) struct Left<P> {
    pub(super) programs: P,
    /// Records that were read, but not passed to a pipeline.
    pub(super) found: FlowBatch,
    pub(super) containers: Containers,
    pub(super) census: CensusPlan,
    /// Running totals, as [`LossTelemetry`] knows them.
    pub(super) lost: ChannelLosses,
}

impl<P> Left<P> {
    pub(super) fn new(programs: P, containers: Containers) -> Self {
        Self {
            programs,
            found: FlowBatch::default(),
            containers,
            census: CensusPlan::default(),
            lost: ChannelLosses::default(),
        }
    }

    /// The programs, and the rest.
    fn split(self) -> (P, Left<()>) {
        let rest = Left {
            programs: (),
            found: self.found,
            containers: self.containers,
            census: self.census,
            lost: self.lost,
        };
        (self.programs, rest)
    }

    pub(super) fn map<Q>(self, with: impl FnOnce(P) -> Q) -> Left<Q> {
        let (programs, rest) = self.split();
        Left {
            programs: with(programs),
            found: rest.found,
            containers: rest.containers,
            census: rest.census,
            lost: rest.lost,
        }
    }
}

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
        match &self.programs {
            Programs::Sockets(left) => left.programs.has_room_for(config.max_sockets),
            Programs::Events(left) => match &left.programs {
                EventPrograms::Shared(sockets) => sockets.has_room_for(config.max_sockets),
                EventPrograms::Own(_) => {
                    // `auto` that has come to this mode comes to it again.
                    (self.config.mode == config.mode || config.mode == Mode::Events)
                        && self.config.ring_buffer_bytes == config.ring_buffer_bytes
                        && self.config.max_sockets == config.max_sockets
                }
            },
            // A refusal of `auto` at the start would be repeated.
            Programs::SockDiag(_) => config.mode == Mode::Auto,
        }
    }
}

/// Programs whose state any mode can continue with; else `programs`.
fn shared(programs: Programs) -> Result<Left<Sockets>, Programs> {
    match programs {
        Programs::Sockets(left) => Ok(*left),
        Programs::Events(left) => match left.split() {
            (EventPrograms::Shared(sockets), left) => Ok(left.map(|()| *sockets)),
            (own, left) => Err(Programs::Events(Box::new(left.map(|()| own)))),
        },
        programs @ Programs::SockDiag(_) => Err(programs),
    }
}

/// The mode that the programs are in.
fn in_mode(left: Left<Sockets>) -> Programs {
    if left.programs.is_per_segment() {
        Programs::Events(Box::new(left.map(EventPrograms::shared)))
    } else {
        Programs::Sockets(Box::new(left))
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
        inherited: Handover,
    ) -> Result<(Programs, Coverage, String), StageError> {
        let Handover {
            config,
            programs,
            mut coverage,
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
                        coverage,
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
        Ok((programs, coverage, reason))
    }
}
