//! State that a receiver leaves to the one that replaces it, and which configs can continue with it.

use flowtap_ebpf::Sockets;

use super::config::{Config, Mode};
use super::event_programs::EventPrograms;
use super::losses::LossTelemetry;
use super::programs::{Left, Programs};
use super::udp::UdpCapture;
use crate::coverage::Coverage;
use crate::extras::Extras;

/// State that a receiver leaves to its replacement.
#[derive(Debug)]
pub(super) struct Handover {
    /// Its config.
    pub(super) config: Config,
    pub(super) programs: Programs,
    /// UDP's programs, where they are at work.
    pub(super) udp: Option<Box<UdpCapture>>,
    pub(super) coverage: Coverage,
    pub(super) extras: Extras,
    /// Why this mode was taken.
    pub(super) reason: String,
    /// With what it has counted of the programs' totals.
    pub(super) losses: LossTelemetry,
}

impl Handover {
    /// Whether a receiver of `config` can continue with the programs.
    pub(super) fn suits(&self, config: &Config) -> bool {
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
pub(super) fn shared(programs: Programs) -> Result<Left<Sockets>, Programs> {
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
pub(super) fn in_mode(left: Left<Sockets>) -> Programs {
    if left.programs.is_per_segment() {
        Programs::Events(Box::new(left.map(EventPrograms::shared)))
    } else {
        Programs::Sockets(Box::new(left))
    }
}
