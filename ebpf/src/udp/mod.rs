//! UDP: loads the programs of `bpf/udp.bpf.c`, attaches them in the best way that works, and gives out what they count.
//!
//! In: datagrams, where they leave a socket and where an application takes them. Out: a [`UdpChange`] for each flow
//! that moved, and [`DnsDatagram`]s. The rules:
//!
//! 1. The [steps](Step) are tried in order ([`attach`]). One is taken if all of its programs attach, and then count a
//!    datagram that this process sends to itself ([`self_test`]): a function that was inlined somewhere is found that way.
//! 2. Totals of flows only grow, in the kernel's tables; user space subtracts what it has given out ([`table`]).
//! 3. A socket's first flow is reported by the program that sees the close. The others, and flows that are idle, are read
//!    and removed here.
//! 4. The programs count all that they see before anything else. The difference to the totals that were given out is
//!    [lost](Udp::unplaced), whatever the reason.

pub mod abi;
mod attach;
mod kprobe_multi;
mod map;
mod self_test;
mod table;

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};

#[cfg(test)]
pub(crate) use self::attach::OBJECT;
use self::attach::{Attached, absent};
pub use self::attach::{Hooks, Refusal, Step, UdpLoadError, UdpOptions};
use self::map::Map;
use self::table::Table;
pub use self::table::{UdpChange, UdpDelta};
use crate::error::LoadError;
use crate::misses::{MissCounters, ProgramMisses};
use crate::ring::RingWatch;
use abi::{DnsDatagram, UdpFlow, UdpKey, UdpSeen, UdpTotals};

/// The programs, loaded and attached. Dropping it takes them out of the kernel.
pub struct Udp {
    step: Step,
    refused: Vec<Refusal>,
    absent: Vec<Refusal>,
    idle: Duration,
    sockets: Map<u64>,
    flows: Map<UdpKey>,
    table: Table,
    seen: PerCpuArray<MapData, UdpSeen>,
    /// Totals of the self-test.
    tested: UdpTotals,
    own: UdpTotals,
    unplaced: UdpTotals,
    closed: RingBuf<MapData>,
    dns: RingBuf<MapData>,
    misses: MissCounters,
    /// Keep the programs attached, and the maps.
    _links: Vec<std::os::fd::OwnedFd>,
    _ebpf: Ebpf,
}

impl std::fmt::Debug for Udp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Udp")
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

impl Udp {
    /// Loads and attaches.
    ///
    /// # Errors
    /// [`UdpLoadError`] with the reason of each step that was tried.
    pub fn load(options: &UdpOptions) -> Result<Self, UdpLoadError> {
        let loaded = attach::best(options)
            .and_then(|attached| Self::over(attached, options).map_err(UdpLoadError::Unable));
        crate::heap::trim();
        loaded
    }

    fn over(attached: Attached, options: &UdpOptions) -> Result<Self, LoadError> {
        let Attached {
            step,
            refused,
            absent: absent_programs,
            sockets,
            flows,
            tested,
            own,
            programs,
            links,
            mut ebpf,
        } = attached;
        let misses = MissCounters::new(&ebpf, attach::MISSABLE).with(programs);
        let seen = ebpf.take_map("udp_seen").ok_or_else(|| absent("udp_seen"))?;
        Ok(Self {
            step,
            refused,
            absent: absent_programs,
            idle: options.idle,
            sockets,
            flows,
            table: Table::default(),
            seen: PerCpuArray::try_from(seen).map_err(|source| LoadError::Map {
                map: "udp_seen",
                source,
            })?,
            tested,
            own,
            unplaced: UdpTotals::default(),
            closed: attach::take_ring(&mut ebpf, "udp_closed")?,
            dns: attach::take_ring(&mut ebpf, "dns")?,
            misses,
            _links: links,
            _ebpf: ebpf,
        })
    }

    /// The hooks in use.
    pub const fn step(&self) -> Step {
        self.step
    }

    /// Steps that were tried before, each with what was missing.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// Programs of this step that the kernel refuses and that it works without: drops or errors are not counted.
    pub fn absent(&self) -> &[Refusal] {
        &self.absent
    }

    /// Changes for how long a flow may be without a datagram.
    pub const fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }

    /// Datagrams of the self-tests, in this process's network namespace. They are in no flow and not in [`Udp::unplaced`].
    pub const fn own_datagrams(&self) -> &UdpTotals {
        &self.own
    }

    /// Shows each flow that has moved since the last call. `now_ns` is `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// The error of the system call: the next call shows what this one did not.
    pub fn scan(&mut self, now_ns: u64, mut each: impl FnMut(&UdpChange)) -> io::Result<()> {
        // First: what is seen later than this may be given out below, and then counts as placed.
        let seen = self.seen()?.seen;
        self.drain_closed(&mut each)?;
        let idle_ns = u64::try_from(self.idle.as_nanos()).unwrap_or(u64::MAX);
        self.table.begin_scan();
        let table = &mut self.table;
        let mut ended: (Vec<u64>, Vec<UdpKey>) = Default::default();
        let has_ended = |flow: &UdpFlow| now_ns.saturating_sub(flow.last_ns) > idle_ns;
        self.sockets.each(|&socket, flow| {
            each_moved(table.update(flow, true), &mut each);
            if has_ended(flow) {
                ended.0.push(socket);
            }
        })?;
        self.flows.each(|&key, flow| {
            each_moved(table.update(flow, false), &mut each);
            if has_ended(flow) || table.is_closed(flow) {
                ended.1.push(key);
            }
        })?;
        for socket in ended.0 {
            if let Some(flow) = self.sockets.take(&socket)? {
                each(&self.table.expire(&flow, true));
            }
        }
        for key in ended.1 {
            if let Some(flow) = self.flows.take(&key)? {
                each(&if self.table.is_closed(&flow) {
                    self.table.close(&flow, false)
                } else {
                    self.table.expire(&flow, false)
                });
            }
        }
        self.table.end_scan();
        self.unplaced
            .raise_to(&seen.less(&self.tested).less(self.table.given()));
        Ok(())
    }

    /// Shows the flows of sockets that have closed. Called when [`Udp::watch`] says so, else by [`Udp::scan`].
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are not a record.
    pub fn drain_closed(&mut self, mut each: impl FnMut(&UdpChange)) -> io::Result<()> {
        while let Some(item) = self.closed.next() {
            let flow = bytemuck::try_pod_read_unaligned::<UdpFlow>(&item)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, abi::MalformedRecord(item.len())))?;
            each(&self.table.close(&flow, true));
        }
        Ok(())
    }

    /// Shows the DNS datagrams that wait; returns how many there were.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are not a record.
    pub fn drain_dns(&mut self, mut each: impl FnMut(&DnsDatagram<'_>)) -> io::Result<u64> {
        let mut datagrams = 0;
        while let Some(item) = self.dns.next() {
            let datagram = DnsDatagram::read(&item);
            each(&datagram.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?);
            datagrams += 1;
        }
        Ok(datagrams)
    }

    /// Totals that were seen and have not been given out with a flow, as of the last scan: there was no place in a table or
    /// in the ring. Never fall.
    pub const fn unplaced(&self) -> &UdpTotals {
        &self.unplaced
    }

    /// Totals of all programs, over all CPUs.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn seen(&self) -> io::Result<UdpSeen> {
        let per_cpu = self.seen.get(&0, 0).map_err(io::Error::other)?;
        Ok(UdpSeen::sum(&per_cpu))
    }

    /// Runs of each program that the kernel skipped: with step `fentry` on a preemptible kernel, datagrams that were passed over.
    /// Those of kprobes are counted from Linux 6.7 on.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn program_misses(&self) -> io::Result<Vec<ProgramMisses>> {
        self.misses.read()
    }

    /// Returns watches that wake when a quarter of the ring of closed sockets, or of that of DNS, is full. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn watch(&self) -> io::Result<[RingWatch; 2]> {
        Ok([
            RingWatch::new(self.closed.as_fd())?,
            RingWatch::new(self.dns.as_fd())?,
        ])
    }
}

/// `CLOCK_MONOTONIC`, as the programs read it.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) fills the structure, which lives on this stack. This clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn each_moved(change: Option<UdpChange>, each: &mut impl FnMut(&UdpChange)) {
    if let Some(change) = change {
        each(&change);
    }
}
