//! Tables of flows: read in large pieces, and entries taken out with their last value.
//!
//! aya 0.14 has neither `BPF_MAP_LOOKUP_BATCH` nor typed `BPF_MAP_LOOKUP_AND_DELETE_ELEM` of hash tables.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};

use aya::Ebpf;
use aya::maps::Map as AyaMap;
use bytemuck::{Pod, Zeroable};

use super::abi::UdpFlow;
use crate::bpf_call::{Element, bpf, raw};
use crate::error::LoadError;

/// `enum bpf_cmd`: include/uapi/linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Entries that are read at once. A bucket of the kernel's table must fit.
const BATCH: usize = 1024;

/// `bpf_attr.batch`.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A table of flows by `K`.
#[derive(Debug)]
pub(super) struct Map<K> {
    fd: OwnedFd,
    keys: Vec<K>,
    values: Vec<UdpFlow>,
    /// The kernel takes an element out together with its last value: Linux 5.14.
    takes: bool,
    key: PhantomData<K>,
}

impl<K: Pod> Map<K> {
    /// The map `name` of `ebpf`, which keeps it.
    pub(super) fn of(ebpf: &Ebpf, name: &'static str) -> Result<Self, LoadError> {
        let Some(AyaMap::HashMap(map)) = ebpf.map(name) else {
            return Err(LoadError::Absent(name));
        };
        let duplicate = map.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            fd: duplicate.map_err(|source| LoadError::System {
                what: "duplicating a map's descriptor",
                source,
            })?,
            keys: vec![K::zeroed(); BATCH],
            values: vec![UdpFlow::zeroed(); BATCH],
            takes: true,
            key: PhantomData,
        })
    }

    /// Shows every entry. One that is added or removed meanwhile may be shown or not.
    pub(super) fn each(&mut self, mut each: impl FnMut(&K, &UdpFlow)) -> io::Result<()> {
        let mut position = [0_u32; 2];
        let mut first = true;
        loop {
            let mut batch = Batch {
                from: if first { 0 } else { (&raw mut position[0]) as u64 },
                to: (&raw mut position[1]) as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: u32::try_from(BATCH).unwrap_or(u32::MAX),
                map_fd: raw(self.fd.as_fd()),
                elem_flags: 0,
                flags: 0,
            };
            // SAFETY: `batch` has the layout of `bpf_attr.batch`. The kernel writes at most `count` keys and values to the
            // two vectors, which have room for as many of the map's sizes, and a position of 4 bytes.
            let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &raw mut batch) };
            let is_last = match result {
                Ok(_) => false,
                // All has been read.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                Err(error) => return Err(error),
            };
            let count = usize::try_from(batch.count).unwrap_or(0).min(BATCH);
            for (key, value) in self.keys[..count].iter().zip(&self.values[..count]) {
                each(key, value);
            }
            if is_last {
                return Ok(());
            }
            position[0] = position[1];
            first = false;
        }
    }

    /// Takes out the entry of `key`, with its last value.
    pub(super) fn take(&mut self, key: &K) -> io::Result<Option<UdpFlow>> {
        if self.takes {
            match self.command(BPF_MAP_LOOKUP_AND_DELETE_ELEM, key) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | 524)) => {
                    self.takes = false;
                }
                taken => return taken,
            }
        }
        // Totals that a program adds between the two count as not placed (`Udp::unplaced`).
        let value = self.command(BPF_MAP_LOOKUP_ELEM, key)?;
        if value.is_some() {
            self.command(BPF_MAP_DELETE_ELEM, key)?;
        }
        Ok(value)
    }

    fn command(&self, command: libc::c_long, key: &K) -> io::Result<Option<UdpFlow>> {
        let mut value = UdpFlow::zeroed();
        let with_value = command != BPF_MAP_DELETE_ELEM;
        let element = Element {
            map_fd: raw(self.fd.as_fd()),
            pad: 0,
            key: std::ptr::from_ref(key) as u64,
            value: if with_value { (&raw mut value) as u64 } else { 0 },
            flags: 0,
        };
        // SAFETY: `element` has the layout of that part of `bpf_attr`; the kernel reads a key of the map's size from `key`, and
        // writes a value of its size to `value`.
        match unsafe { bpf(command, &raw const element) } {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
