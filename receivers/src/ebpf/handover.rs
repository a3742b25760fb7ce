//! State that a receiver leaves to the one that replaces it.

use flowtap_ebpf::Sockets;

use super::config::Config;
use super::event_programs::EventPrograms;
use super::inspect::InspectCapture;
use super::losses::LossTelemetry;
use super::programs::{Left, Programs};
use super::udp::{IcmpCounters, UdpCapture, UdpCoverage};
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
    /// The comparison of UDP's programs that were detached.
    pub(super) udp_coverage: Option<UdpCoverage>,
    pub(super) icmp: Option<IcmpCounters>,
    /// The programs of `inspect`, where they are at work.
    pub(super) inspect: Option<Box<InspectCapture>>,
    pub(super) coverage: Coverage,
    pub(super) extras: Extras,
    /// Why this mode was taken.
    pub(super) reason: String,
    /// With what it has counted of the programs' totals.
    pub(super) losses: LossTelemetry,
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
