//! First bytes of connections, exchanges, and addresses on the wire: loads the programs of `bpf/inspect.bpf.c`, attaches them for a part of the time, and
//! gives out what they report.
//!
//! In: the kernel's tracepoints `tcp_probe` and `inet_sock_set_state`. Out: [`FirstBytes`], [`ExchangeEvent`]s and
//! [`TranslationEvent`]s. The rules:
//!
//! 1. The programs are loaded once, and attached and detached as often as asked: that costs some milliseconds the first time and
//!    much less later. While they are detached nothing of them runs.
//! 2. With each attachment an epoch begins: what the kernel side knew of a connection before it is stale, as segments have passed
//!    unseen.
//! 3. The copy of payload that is shown is overwritten with zeros after that.

use std::io;
use std::os::fd::AsFd;

use aya::maps::{Array, Map as AyaMap, MapData, PerCpuArray, RingBuf};
use aya::programs::BtfTracePoint;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::{Ebpf, EbpfLoader};

use crate::abi::{
    ExchangeEvent, FirstBytes, InspectControl, InspectSeen, TranslationEvent, WANT_EXCHANGES,
    WANT_FIRST_BYTES, WANT_TRANSLATIONS,
};
use crate::capability;
use crate::error::LoadError;
use crate::heap;
use crate::kernel_btf;
use crate::misses::{MissCounters, ProgramMisses};
use crate::object::{Compressed, compressed};
use crate::perf::PerfBuffers;
use crate::ring::RingWatch;

/// The compiled programs.
pub(crate) const OBJECT: Compressed = compressed!("inspect");

/// The programs, each with its tracepoint.
pub(crate) const PROGRAMS: [(&str, &str); 2] = [
    ("inspect", "tcp_probe"),
    ("inspect_states", "inet_sock_set_state"),
];

/// Size of the ring of exchanges: some 40,000.
const RING_BYTES: u32 = 1 << 20;

/// Size of each CPU's buffer of first bytes. More than 512 KiB each would be beyond what the kernel lets a process lock by default
/// (`kernel.perf_event_mlock_kb`).
const LEAST_BUFFER_BYTES: usize = 1 << 17;
const MOST_BUFFER_BYTES: usize = 1 << 19;

/// Size of all of them, if that gives each at least its least.
const BUFFERS_BYTES: usize = 1 << 24;

/// Reports that are asked of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectOptions {
    /// First bytes of connections.
    pub first_bytes: bool,
    /// Exchanges.
    pub exchanges: bool,
    /// Addresses of connections on the wire.
    pub translations: bool,
}

/// A record of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InspectEvent {
    /// An answer has begun.
    Exchange(ExchangeEvent),
    /// The packets of a connection have other addresses than its socket.
    Translation(TranslationEvent),
}

impl InspectEvent {
    /// Reads a record: the two kinds differ in length.
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() == size_of::<TranslationEvent>() {
            return bytemuck::try_pod_read_unaligned(bytes)
                .ok()
                .map(Self::Translation);
        }
        bytemuck::try_pod_read_unaligned(bytes).ok().map(Self::Exchange)
    }
}

/// The programs, loaded. Dropping it takes them out of the kernel.
pub struct Inspect {
    control: Array<MapData, InspectControl>,
    seen: PerCpuArray<MapData, InspectSeen>,
    exchanges: RingBuf<MapData>,
    buffers: PerfBuffers,
    options: InspectOptions,
    epoch: u32,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    misses: MissCounters,
    ebpf: Ebpf,
}

impl std::fmt::Debug for Inspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspect")
            .field("options", &self.options)
            .field("epoch", &self.epoch)
            .field("is_attached", &self.is_attached())
            .finish_non_exhaustive()
    }
}

impl Inspect {
    /// Loads the programs, and attaches nothing.
    ///
    /// # Errors
    /// [`LoadError`] with what is missing.
    pub fn load(options: InspectOptions) -> Result<Self, LoadError> {
        let loaded = Self::load_all(options);
        heap::trim();
        loaded
    }

    fn load_all(options: InspectOptions) -> Result<Self, LoadError> {
        capability::check().map_err(|missing| LoadError::Capability(missing.0))?;
        capability::raise_memlock();
        let btf = kernel_btf::parsed()?;
        let wakeup_bytes = u64::from(RING_BYTES / 4);
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .map_max_entries("exchanges", RING_BYTES)
            .override_global("exchange_wakeup_bytes", &wakeup_bytes, true)
            .load(OBJECT.unpack()?.bytes())
            .map_err(LoadError::Object)?;
        for (name, tracepoint) in PROGRAMS {
            let failed = |source| LoadError::program(name, source);
            program(&mut ebpf, name)?.load(tracepoint, &btf).map_err(failed)?;
        }
        let buffers = match ebpf.map("first_bytes") {
            Some(AyaMap::PerfEventArray(map)) => PerfBuffers::open(map.fd().as_fd(), buffer_bytes),
            _ => return Err(LoadError::Absent("first_bytes")),
        };
        let buffers = buffers.map_err(|source| LoadError::System {
            what: "opening perf buffers",
            source,
        })?;
        let mut take = |map| ebpf.take_map(map).ok_or(LoadError::Absent(map));
        let [control, seen, exchanges] = [
            take("inspect_control")?,
            take("inspect_seen")?,
            take("exchanges")?,
        ];
        let in_map = |map| move |source| LoadError::Map { map, source };
        Ok(Self {
            control: Array::try_from(control).map_err(in_map("inspect_control"))?,
            seen: PerCpuArray::try_from(seen).map_err(in_map("inspect_seen"))?,
            exchanges: RingBuf::try_from(exchanges).map_err(in_map("exchanges"))?,
            buffers,
            options,
            epoch: 0,
            links: Vec::new(),
            misses: MissCounters::new(&ebpf, PROGRAMS.map(|(name, _)| name)),
            ebpf,
        })
    }

    /// Whether the programs are attached.
    pub const fn is_attached(&self) -> bool {
        !self.links.is_empty()
    }

    /// Attaches the programs, and begins an epoch.
    ///
    /// # Errors
    /// [`LoadError`] if the kernel refuses; then none is attached.
    pub fn attach(&mut self) -> Result<(), LoadError> {
        if self.is_attached() {
            return Ok(());
        }
        self.epoch = self.epoch.wrapping_add(1);
        let wants = [
            (self.options.first_bytes, WANT_FIRST_BYTES),
            (self.options.exchanges, WANT_EXCHANGES),
            (self.options.translations, WANT_TRANSLATIONS),
        ];
        let control = InspectControl {
            epoch: self.epoch,
            wants: wants.iter().map(|(wanted, bit)| u32::from(*wanted) * bit).sum(),
        };
        let in_map = |source| LoadError::Map {
            map: "inspect_control",
            source,
        };
        self.control.set(0, control, 0).map_err(in_map)?;
        for (name, _) in PROGRAMS {
            let attached = program(&mut self.ebpf, name).and_then(|program| {
                program
                    .attach()
                    .map_err(|source| LoadError::program(name, source))
            });
            match attached {
                Ok(link) => self.links.push((name, link)),
                Err(error) => {
                    let _half_attached = self.detach();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Detaches the programs; a CPU may be in one of them for a moment longer.
    ///
    /// # Errors
    /// [`LoadError`] if a link can't be closed.
    pub fn detach(&mut self) -> Result<(), LoadError> {
        for (name, link) in self.links.drain(..) {
            let failed = |source| LoadError::program(name, source);
            program(&mut self.ebpf, name)?.detach(link).map_err(failed)?;
        }
        Ok(())
    }

    /// Shows the first bytes that wait; the copy that is shown is wiped. Returns how many records could not be read.
    pub fn drain_first_bytes(&mut self, mut each: impl FnMut(&FirstBytes<'_>)) -> u64 {
        let mut malformed = 0;
        self.buffers.drain(|bytes| match FirstBytes::read(bytes) {
            Some(first) => each(&first),
            None => malformed += 1,
        });
        malformed
    }

    /// Shows the exchanges and the addresses that wait.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are not a record.
    pub fn drain_events(&mut self, mut each: impl FnMut(&InspectEvent)) -> io::Result<()> {
        while let Some(item) = self.exchanges.next() {
            let event = InspectEvent::read(&item)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a record of an exchange"))?;
            each(&event);
        }
        Ok(())
    }

    /// Totals of the programs, over all CPUs.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn seen(&self) -> io::Result<InspectSeen> {
        let per_cpu = self.seen.get(&0, 0).map_err(io::Error::other)?;
        Ok(InspectSeen::sum(&per_cpu))
    }

    /// Runs of each program that the kernel skipped.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn program_misses(&self) -> io::Result<Vec<ProgramMisses>> {
        self.misses.read()
    }

    /// Returns watches that wake when a quarter of the ring, or the half of a buffer, is full. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn watch(&self) -> io::Result<Vec<RingWatch>> {
        let mut watches = self.buffers.watch()?;
        watches.push(RingWatch::new(self.exchanges.as_fd())?);
        Ok(watches)
    }
}

/// Of each of so many CPUs.
const fn buffer_bytes(cpus: usize) -> usize {
    let mut bytes = MOST_BUFFER_BYTES;
    while bytes > LEAST_BUFFER_BYTES && bytes * cpus > BUFFERS_BYTES {
        bytes /= 2;
    }
    bytes
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut BtfTracePoint, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    program
        .try_into()
        .map_err(|source| LoadError::program(name, source))
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;

    use super::*;

    #[test]
    fn records_of_the_ring_are_read_by_their_length() {
        let exchange = ExchangeEvent {
            cookie: 4,
            ..Zeroable::zeroed()
        };
        let translation = TranslationEvent {
            cookie: 7,
            ..Zeroable::zeroed()
        };
        let bytes = bytemuck::bytes_of(&exchange);
        assert_eq!(InspectEvent::read(bytes), Some(InspectEvent::Exchange(exchange)));
        assert_eq!(InspectEvent::read(&bytes[..15]), None);
        let bytes = bytemuck::bytes_of(&translation);
        assert_eq!(
            InspectEvent::read(bytes),
            Some(InspectEvent::Translation(translation))
        );
    }

    #[test]
    fn buffers_of_many_cpus_are_smaller() {
        let sizes = [1, 32, 33, 64, 65, 1024].map(buffer_bytes);
        assert_eq!(sizes, [1 << 19, 1 << 19, 1 << 18, 1 << 18, 1 << 17, 1 << 17]);
    }
}
