//! BPF iterators: links made by `bpf(2)`, and reading records from them.
//!
//! aya 0.14 can't attach an iterator to a map (`bpf_link_create` with `iter_info`), so both calls are made here.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::abi::{Event, MalformedEvent};
use crate::bpf_call::{bpf_descriptor, raw};

/// `enum bpf_cmd` and `enum bpf_attach_type`: include/uapi/linux/bpf.h.
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_TRACE_ITER: u32 = 28;

/// `bpf_attr.link_create`, as far as iterators need it.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    pad: u32,
}

/// `union bpf_iter_link_info`: `map.map_fd` comes first in all its forms; the rest is zero.
#[repr(C)]
struct IterLinkInfo {
    map_fd: u32,
    rest: [u32; 3],
}

const ITER_LINK_INFO_BYTES: u32 = 16;
const _: () = assert!(size_of::<IterLinkInfo>() == ITER_LINK_INFO_BYTES as usize);

/// `bpf_attr.iter_create`.
#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// An iterator program's link. Detached when dropped.
#[derive(Debug)]
pub struct IterLink(OwnedFd);

impl IterLink {
    /// Links `program`, an iterator over the elements of a map, to `map`.
    ///
    /// # Errors
    /// The error of `bpf(2)`.
    pub fn over_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<Self> {
        let info = IterLinkInfo {
            map_fd: raw(map),
            rest: [0; 3],
        };
        Self::create(program, Some(&info))
    }

    /// Links `program`, an iterator that needs no target.
    ///
    /// # Errors
    /// The error of `bpf(2)`.
    pub fn new(program: BorrowedFd<'_>) -> io::Result<Self> {
        Self::create(program, None)
    }

    fn create(program: BorrowedFd<'_>, info: Option<&IterLinkInfo>) -> io::Result<Self> {
        let attributes = LinkCreate {
            prog_fd: raw(program),
            target_fd: 0,
            attach_type: BPF_TRACE_ITER,
            flags: 0,
            iter_info: info.map_or(0, |info| std::ptr::from_ref(info) as u64),
            iter_info_len: if info.is_some() { ITER_LINK_INFO_BYTES } else { 0 },
            pad: 0,
        };
        // SAFETY: `attributes` has the layout of `bpf_attr.link_create`, and `info`, to which it points, outlives the
        // call.
        unsafe { bpf_descriptor(BPF_LINK_CREATE, &attributes) }.map(Self)
    }

    /// Runs an iterator once whose program writes nothing to the iterator's buffer. When it asks to be shown an element again
    /// `again` is called, and then it is.
    ///
    /// # Errors
    /// The error of `read(2)`, `bpf(2)` or `again`.
    pub fn walk(&self, mut again: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut iterator = self.open()?;
        loop {
            match iterator.read(&mut [0; 1]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // The program's wish; or a million elements have passed, after which the kernel takes a breath
                // (MAX_ITER_OBJECTS).
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => again()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn open(&self) -> io::Result<File> {
        let attributes = IterCreate {
            link_fd: raw(self.0.as_fd()),
            flags: 0,
        };
        // SAFETY: `attributes` has the layout of `bpf_attr.iter_create`.
        unsafe { bpf_descriptor(BPF_ITER_CREATE, &attributes) }.map(File::from)
    }

    /// Runs the iterator once: calls `each` for every record that its program writes, and returns how many there were.
    ///
    /// The order is the kernel's, and so is the grouping: every read is one walk into its table. `buffer` is scratch; as
    /// many bytes as it has are asked for at once (the kernel gives 32 KiB at most).
    ///
    /// # Errors
    /// The error of `read(2)` or `bpf(2)`; [`io::ErrorKind::InvalidData`] for bytes that are not a
    /// record.
    pub fn run(&self, buffer: &mut [u8], mut each: impl FnMut(Event)) -> io::Result<u64> {
        let mut iterator = self.open()?;
        let mut records = 0;
        loop {
            let read = match iterator.read(buffer) {
                Ok(0) => return Ok(records),
                Ok(read) => read,
                // After a million sockets with nothing to show the kernel takes a breath (MAX_ITER_OBJECTS).
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut bytes = &buffer[..read];
            while !bytes.is_empty() {
                let (event, rest) = Event::read(bytes).map_err(malformed)?;
                each(event);
                records += 1;
                bytes = rest;
            }
        }
    }
}

fn malformed(error: MalformedEvent) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
