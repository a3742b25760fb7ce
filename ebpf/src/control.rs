//! Which programs are at work, of several that are attached with the same maps (`struct control` in `bpf/control.h`).

use aya::Ebpf;
use aya::maps::{Array, MapData};

use crate::abi;
use crate::error::LoadError;

const MAP: &str = "control";

/// The generation of the first programs.
pub(crate) const FIRST_GENERATION: u32 = 1;

/// The map that programs ask for what they are to do.
pub(crate) struct Control(Array<MapData, abi::Control>);

impl Control {
    /// Takes the map out of `ebpf`.
    ///
    /// # Errors
    /// [`LoadError`] if there is none.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let map = ebpf.take_map(MAP).ok_or(LoadError::Absent("map control"))?;
        let map = Array::try_from(map).map_err(|source| LoadError::Map { map: MAP, source })?;
        Ok(Self(map))
    }

    /// Lets the programs of `generation` do all that there is to do; no others are attached.
    ///
    /// # Errors
    /// [`LoadError::Map`] if the map can't be written.
    pub(crate) fn set_sole(&mut self, generation: u32, table_limit: u32) -> Result<(), LoadError> {
        self.set(abi::Control {
            generation,
            sole: generation,
            table_limit,
        })
    }

    /// Lets the programs of `generation` do what those before them leave, which are about to be detached.
    ///
    /// # Errors
    /// [`LoadError::Map`] if the map can't be written.
    pub(crate) fn set_following(&mut self, generation: u32, table_limit: u32) -> Result<(), LoadError> {
        self.set(abi::Control {
            generation,
            sole: generation.wrapping_sub(1),
            table_limit,
        })
    }

    fn set(&mut self, control: abi::Control) -> Result<(), LoadError> {
        let set = self.0.set(0, control, 0);
        set.map_err(|source| LoadError::Map { map: MAP, source })
    }
}
