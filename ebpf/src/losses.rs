//! The counters of what could not be reported, which the programs of both modes have.

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};

use crate::abi::Losses;
use crate::error::LoadError;

const MAP: &str = "losses";

/// The counters of one object.
pub(crate) struct LossCounters(PerCpuArray<MapData, Losses>);

impl LossCounters {
    /// Takes the map from `ebpf`.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let map = ebpf.take_map(MAP).ok_or(LoadError::Absent(MAP))?;
        let map = PerCpuArray::try_from(map);
        map.map(Self)
            .map_err(|source| LoadError::Map { map: MAP, source })
    }

    /// The sum over all CPUs since the programs were loaded.
    pub(crate) fn read(&self) -> Result<Losses, LoadError> {
        let per_cpu = self.0.get(&0, 0);
        let per_cpu = per_cpu.map_err(|source| LoadError::Map { map: MAP, source })?;
        Ok(Losses::sum(&per_cpu))
    }
}
