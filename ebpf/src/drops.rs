//! Dropped packets: loads the program of `bpf/drops.bpf.c`, attaches it, and gives out its counts.
//!
//! In: the kernel's tracepoint `skb:kfree_skb`. Out: what each count grew by since it was last read: by reason and network namespace,
//! and by flow where that is asked for. The rules:
//!
//! 1. Every dropped packet is in one count: of its flow, else of its reason, else of those without a place. A run of the program that
//!    the kernel skipped is a packet whose reason is not known.
//! 2. Counts are running totals in two sets of maps. Once the set in use is half full, or a flow found no place in it, the other one
//!    is used. The full one is read once more at the next look, a moment after which no program is in the middle of a count in it,
//!    and then emptied.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use aya::maps::{Array, HashMap as FlowMap, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::programs::BtfTracePoint;
use aya::{Ebpf, EbpfLoader};
use bytemuck::Zeroable;

use crate::abi::{DropCount, DropFlow, DropReason, DropSlots, DropsState};
use crate::capability;
use crate::error::LoadError;
use crate::heap;
use crate::kernel_btf;
use crate::kernel_types::KernelTypes;
use crate::misses::MissCounters;
use crate::object::{Compressed, compressed};

/// The compiled programs.
pub(crate) const OBJECT: Compressed = compressed!("drops");

/// The tracepoint.
pub(crate) const TRACEPOINT: &str = "kfree_skb";

/// `DROP_REASONS` and `DROP_FLOWS`: places in a set.
const REASONS: usize = 1024;
const FLOWS: usize = 4096;

/// Packets of one count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Packets of one flow.
    Flow(DropFlow),
    /// Packets whose flow is not known.
    Reason(DropReason),
    /// Packets for whose reason there was no place, or whose run was skipped.
    Unknown,
}

/// The program, loaded and attached. Dropping it takes it out of the kernel.
pub struct Drops {
    sets: [Set; 2],
    slots: PerCpuArray<MapData, DropSlots>,
    unplaced: Known<(), PerCpuArray<MapData, DropCount>>,
    state: Array<MapData, DropsState>,
    /// The set in use.
    active: usize,
    with_flows: bool,
    /// The other set was in use at the last look, so this look is the last before it is emptied.
    retiring: bool,
    misses: MissCounters,
    missed: u64,
    names: BTreeMap<u32, String>,
    subsystems: BTreeMap<u32, String>,
    /// Keeps the program attached, and the maps.
    ebpf: Ebpf,
}

impl std::fmt::Debug for Drops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drops")
            .field("with_flows", &self.with_flows)
            .finish_non_exhaustive()
    }
}

/// A map, and what its counts stood at when it was last read.
struct Known<K, M> {
    map: M,
    totals: HashMap<K, DropCount>,
}

impl<K: Hash + Eq, M> Known<K, M> {
    fn new(map: M) -> Self {
        Self {
            map,
            totals: HashMap::new(),
        }
    }

    /// Returns the increase of `key` from its last total to `total`.
    fn growth(totals: &mut HashMap<K, DropCount>, key: K, total: DropCount) -> DropCount {
        let before = totals.insert(key, total).unwrap_or_default();
        DropCount {
            packets: total.packets.saturating_sub(before.packets),
            bytes: total.bytes.saturating_sub(before.bytes),
        }
    }
}

struct Set {
    reasons: Known<DropReason, PerCpuHashMap<MapData, DropReason, DropCount>>,
    flows: Known<DropFlow, FlowMap<MapData, DropFlow, DropCount>>,
}

impl Set {
    /// `slots` are those of this set.
    fn read(
        &mut self,
        slots: &PerCpuValues<DropSlots>,
        each: &mut impl FnMut(Dropped, DropCount),
    ) -> Result<(), MapError> {
        let Known { map, totals } = &mut self.reasons;
        let mut now = HashMap::<DropReason, DropCount>::new();
        for slot in slots.iter().flat_map(|of_cpu| &of_cpu.slots) {
            // No packet is dropped for reason 0: the slot is being taken.
            if slot.count.packets > 0 && slot.reason.reason != 0 {
                add(now.entry(slot.reason).or_default(), slot.count);
            }
        }
        for entry in map.iter() {
            let (reason, per_cpu) = entry?;
            add(now.entry(reason).or_default(), sum(&per_cpu));
        }
        for (reason, total) in now {
            let growth = Known::<_, ()>::growth(totals, reason, total);
            show(each, Dropped::Reason(reason), growth);
        }
        let Known { map, totals } = &mut self.flows;
        for entry in map.iter() {
            let (flow, total) = entry?;
            show(
                each,
                Dropped::Flow(flow),
                Known::<_, ()>::growth(totals, flow, total),
            );
        }
        Ok(())
    }

    /// Empties it. No program uses it.
    fn clear(&mut self) -> Result<(), MapError> {
        for reason in self.reasons.totals.keys() {
            self.reasons.map.remove(reason).or_else(absent_is_fine)?;
        }
        for flow in self.flows.totals.keys() {
            self.flows.map.remove(flow).or_else(absent_is_fine)?;
        }
        self.reasons.totals.clear();
        self.flows.totals.clear();
        Ok(())
    }

    fn is_half_full(&self) -> bool {
        self.reasons.totals.len() >= REASONS / 2 || self.flows.totals.len() >= FLOWS / 2
    }
}

impl Drops {
    /// Loads and attaches; with counts by flow if `with_flows`.
    ///
    /// # Errors
    /// [`LoadError`] with what is missing: before Linux 5.17 the tracepoint has no reason.
    pub fn load(with_flows: bool) -> Result<Self, LoadError> {
        let loaded = Self::attach(with_flows);
        heap::trim();
        loaded
    }

    fn attach(with_flows: bool) -> Result<Self, LoadError> {
        capability::check().map_err(|missing| LoadError::Capability(missing.0))?;
        capability::raise_memlock();
        let btf = kernel_btf::parsed()?;
        let types = KernelTypes::load().ok_or(LoadError::NoTypes)?;
        let program_name = program_for(&types)?;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .load(OBJECT.unpack()?.bytes())
            .map_err(LoadError::Object)?;
        let mut take = |map| ebpf.take_map(map).ok_or(LoadError::Absent(map));
        let maps = [
            (take("reasons_0")?, take("flows_0")?),
            (take("reasons_1")?, take("flows_1")?),
        ];
        let [slots, unplaced, state] = [take("slots")?, take("unplaced")?, take("drops_state")?];
        let in_map = |map| move |source| LoadError::Map { map, source };
        let [first, second] = maps.map(|(reasons, flows)| {
            Ok::<_, LoadError>(Set {
                reasons: Known::new(PerCpuHashMap::try_from(reasons).map_err(in_map("reasons"))?),
                flows: Known::new(FlowMap::try_from(flows).map_err(in_map("flows"))?),
            })
        });
        let mut drops = Self {
            sets: [first?, second?],
            slots: PerCpuArray::try_from(slots).map_err(in_map("slots"))?,
            unplaced: Known::new(PerCpuArray::try_from(unplaced).map_err(in_map("unplaced"))?),
            state: Array::try_from(state).map_err(in_map("drops_state"))?,
            active: 0,
            with_flows,
            retiring: false,
            misses: MissCounters::new(&ebpf, []),
            missed: 0,
            names: types.enumeration("skb_drop_reason"),
            subsystems: types.enumeration("skb_drop_reason_subsys"),
            ebpf,
        };
        drops.publish()?;
        let failed = |source| LoadError::program(program_name, source);
        let program = drops.ebpf.program_mut(program_name);
        let program: &mut BtfTracePoint = program
            .ok_or(LoadError::Absent(program_name))?
            .try_into()
            .map_err(failed)?;
        program.load(TRACEPOINT, &btf).map_err(failed)?;
        program.attach().map_err(failed)?;
        drops.misses = MissCounters::new(&drops.ebpf, [program_name]);
        Ok(drops)
    }

    /// Whether packets are counted by flow.
    pub const fn with_flows(&self) -> bool {
        self.with_flows
    }

    /// Counts packets by flow from now on, or no longer.
    ///
    /// # Errors
    /// [`LoadError::Map`] if the map can't be written.
    pub fn set_with_flows(&mut self, with_flows: bool) -> Result<(), LoadError> {
        self.with_flows = with_flows;
        self.publish()
    }

    /// Shows what each count has grown by since the last call.
    ///
    /// # Errors
    /// [`LoadError`] if a map can't be read; what was not shown is shown by the next call.
    pub fn read(&mut self, mut each: impl FnMut(Dropped, DropCount)) -> Result<(), LoadError> {
        let in_map = |source| LoadError::Map {
            map: "dropped packets",
            source,
        };
        for (index, set) in (0..).zip(&mut self.sets) {
            let slots = self.slots.get(&index, 0).map_err(in_map)?;
            set.read(&slots, &mut each).map_err(in_map)?;
        }
        let per_cpu = self.unplaced.map.get(&0, 0).map_err(in_map)?;
        let growth = Known::<_, ()>::growth(&mut self.unplaced.totals, (), sum(&per_cpu));
        show(&mut each, Dropped::Unknown, growth);
        self.read_misses(&mut each)?;
        self.switch(in_map)
    }

    fn read_misses(&mut self, each: &mut impl FnMut(Dropped, DropCount)) -> Result<(), LoadError> {
        let misses = self.misses.read().map_err(|source| LoadError::System {
            what: "reading the runs that the kernel skipped",
            source,
        })?;
        let missed = misses.iter().map(|program| program.misses).sum::<u64>();
        let packets = missed.saturating_sub(self.missed);
        self.missed = missed;
        show(each, Dropped::Unknown, DropCount { packets, bytes: 0 });
        Ok(())
    }

    /// Empties the set that is not in use once nobody can be counting in it; uses it if the other one is filling up.
    fn switch(&mut self, in_map: impl Fn(MapError) -> LoadError + Copy) -> Result<(), LoadError> {
        if std::mem::take(&mut self.retiring) {
            let unused = 1 - self.active;
            self.sets[unused].clear().map_err(in_map)?;
            let index = u32::from(unused != 0);
            let cpus = self.slots.get(&index, 0).map_err(in_map)?.len();
            let free = PerCpuValues::try_from(vec![DropSlots::zeroed(); cpus]);
            let free = free.map_err(|error| in_map(MapError::IoError(error)))?;
            self.slots.set(index, free, 0).map_err(in_map)?;
        }
        let state = self.state.get(&0, 0).map_err(in_map)?;
        if state.refused != 0 || self.sets[self.active].is_half_full() {
            self.active = 1 - self.active;
            self.retiring = true;
            self.publish()?;
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), LoadError> {
        let state = DropsState {
            active: u32::from(self.active != 0),
            with_flows: u32::from(self.with_flows),
            refused: 0,
        };
        self.state.set(0, state, 0).map_err(|source| LoadError::Map {
            map: "drops_state",
            source,
        })
    }

    /// The running kernel's name of a reason, without `SKB_DROP_REASON_`. A module's reasons have the subsystem's name and
    /// their number, as the kernel has no more of them: `OPENVSWITCH_5`.
    pub fn name(&self, reason: u32) -> String {
        reason_name(&self.names, &self.subsystems, reason)
    }
}

/// The program for the arguments that the tracepoint has.
///
/// # Errors
/// [`LoadError::MissingArgument`] if the reason is not among them.
pub(crate) fn program_for(types: &KernelTypes) -> Result<&'static str, LoadError> {
    match types.tracepoint_arguments(TRACEPOINT) {
        Some(4..) => Ok("on_drop_at_socket"),
        Some(3) => Ok("on_drop"),
        _ => Err(LoadError::MissingArgument {
            tracepoint: TRACEPOINT,
            argument: "reason",
            since: "Linux 5.17",
        }),
    }
}

fn reason_name(names: &BTreeMap<u32, String>, subsystems: &BTreeMap<u32, String>, reason: u32) -> String {
    let (subsystem, number) = (reason >> 16, reason & 0xffff);
    if subsystem != 0 {
        let name = subsystems
            .get(&subsystem)
            .and_then(|name| name.strip_prefix("SKB_DROP_REASON_SUBSYS_"));
        return name.map_or_else(|| format!("{reason:#x}"), |name| format!("{name}_{number}"));
    }
    match names.get(&reason) {
        Some(name) => name.trim_start_matches("SKB_DROP_REASON_").to_owned(),
        None => reason.to_string(),
    }
}

fn add(sum: &mut DropCount, count: DropCount) {
    sum.packets += count.packets;
    sum.bytes += count.bytes;
}

fn sum(per_cpu: &PerCpuValues<DropCount>) -> DropCount {
    let mut total = DropCount::default();
    for count in per_cpu.iter() {
        add(&mut total, *count);
    }
    total
}

fn show(each: &mut impl FnMut(Dropped, DropCount), dropped: Dropped, growth: DropCount) {
    if growth.packets > 0 {
        each(dropped, growth);
    }
}

fn absent_is_fine(error: MapError) -> Result<(), MapError> {
    match error {
        MapError::KeyNotFound => Ok(()),
        MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_named_as_the_kernel_names_it_and_by_its_number_if_it_does_not() {
        let named = |pairs: &[(u32, &str)]| -> BTreeMap<u32, String> {
            pairs
                .iter()
                .map(|(value, name)| (*value, (*name).to_owned()))
                .collect()
        };
        let names = named(&[(3, "SKB_DROP_REASON_NO_SOCKET"), (1, "SKB_CONSUMED")]);
        let subsystems = named(&[(2, "SKB_DROP_REASON_SUBSYS_OPENVSWITCH")]);
        for (reason, expected) in [
            (3, "NO_SOCKET"),
            (1, "SKB_CONSUMED"),
            (77, "77"),
            (2 << 16 | 5, "OPENVSWITCH_5"),
            (9 << 16 | 5, "0x90005"),
        ] {
            assert_eq!(reason_name(&names, &subsystems, reason), expected);
        }
    }
}
