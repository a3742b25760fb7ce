//! Runs that the kernel skipped because a program was already running on that CPU, or, of kprobes, because a thread there was inside bpf(2)
//! (`recursion_misses`, Linux 5.12; of kprobes from 6.7 on).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::Ebpf;
use aya_obj::generated::bpf_prog_info;

use crate::bpf_call::{bpf, raw};

/// `enum bpf_cmd`: include/uapi/linux/bpf.h.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// `bpf_attr.info`.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Runs of a program that the kernel skipped since it was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramMisses {
    /// Name of the program.
    pub program: &'static str,
    /// Runs that were skipped.
    pub misses: u64,
}

/// Programs whose skipped runs are counted.
#[derive(Debug)]
pub(crate) struct MissCounters(Vec<(&'static str, OwnedFd)>);

impl MissCounters {
    /// Counters of those `names` that are loaded in `ebpf`.
    pub(crate) fn new(ebpf: &Ebpf, names: impl IntoIterator<Item = &'static str>) -> Self {
        let loaded = names.into_iter().filter_map(|name| {
            let program = ebpf.program(name)?.fd().ok()?;
            Some((name, program.as_fd().try_clone_to_owned().ok()?))
        });
        Self(loaded.collect())
    }

    /// And of `programs`, which were loaded by other means.
    #[must_use]
    pub(crate) fn with(mut self, programs: Vec<(&'static str, OwnedFd)>) -> Self {
        self.0.extend(programs);
        self
    }

    /// The counters now. A kernel before 5.12 counts nothing, nor does one before 6.7 for kprobes.
    pub(crate) fn read(&self) -> io::Result<Vec<ProgramMisses>> {
        let read = |(program, fd): &(&'static str, OwnedFd)| {
            Ok(ProgramMisses {
                program,
                misses: info(fd.as_fd())?.recursion_misses,
            })
        };
        self.0.iter().map(read).collect()
    }
}

fn info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: all fields are integers and arrays of them, for which zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let attributes = GetInfo {
        bpf_fd: raw(program),
        info_len: u32::try_from(size_of::<bpf_prog_info>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attributes` has the layout of `bpf_attr.info`; the kernel writes at most `info_len` bytes to `info`, which lives
    // on this stack. Its arrays have length 0, so no pointer in it is followed.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &raw const attributes) }?;
    Ok(info)
}
