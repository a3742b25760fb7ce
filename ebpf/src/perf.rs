//! Perf buffers: one per CPU, which `bpf_skb_output()` writes to.
//!
//! In: records with payload. Out: each record once, as a copy that is overwritten with zeros after it was shown. The buffer itself
//! can't be: the kernel maps its data without the right to write (`perf_mmap_fault()`), so a record stays in it until later ones take its
//! place. The reader is woken when a buffer is half full: aya's buffers wake it per record, which costs sixteen times as much as the
//! record.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bpf_call::{Element, bpf, raw};
use crate::ring::RingWatch;

/// `BPF_MAP_UPDATE_ELEM` of `enum bpf_cmd`: include/uapi/linux/bpf.h.
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

/// `include/uapi/linux/perf_event.h`.
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_BPF_OUTPUT: u64 = 10;
const PERF_SAMPLE_RAW: u64 = 1 << 10;
const ATTR_WATERMARK: u64 = 1 << 14;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
const PERF_RECORD_SAMPLE: u32 = 9;
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

/// `struct perf_event_attr`, its first version.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_watermark: u32,
    bp_type: u32,
    config1: u64,
}

const _: () = assert!(size_of::<Attributes>() == 64);

/// `struct perf_event_header`, and the length of raw data that follows it in a sample.
const HEADER_BYTES: usize = 8;
const LENGTH_BYTES: usize = 4;

/// The buffer of one CPU.
#[derive(Debug)]
struct Buffer {
    fd: OwnedFd,
    /// A page with the positions, then the data.
    pages: NonNull<u8>,
    page_bytes: usize,
    data_bytes: usize,
}

// SAFETY: the mapping is this value's own, and is read through it alone.
unsafe impl Send for Buffer {}

impl Buffer {
    /// `data_bytes` is a power of two of pages.
    fn open(cpu: u32, data_bytes: usize, page_bytes: usize) -> io::Result<Self> {
        let attributes = Attributes {
            kind: PERF_TYPE_SOFTWARE,
            size: 64,
            config: PERF_COUNT_SW_BPF_OUTPUT,
            sample_period: 1,
            sample_type: PERF_SAMPLE_RAW,
            read_format: 0,
            flags: ATTR_WATERMARK,
            wakeup_watermark: u32::try_from(data_bytes / 2).map_err(io::Error::other)?,
            bp_type: 0,
            config1: 0,
        };
        // SAFETY: the kernel reads `size` bytes of the structure, which lives on this stack.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                -1,
                cpu,
                -1,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        let fd = i32::try_from(fd)
            .ok()
            .filter(|fd| *fd >= 0)
            .ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let pages = unsafe {
            libc::mmap(
                ptr::null_mut(),
                page_bytes + data_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(pages.cast::<u8>()) {
            Some(start) if pages != libc::MAP_FAILED => Ok(Self {
                fd,
                pages: start,
                page_bytes,
                data_bytes,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: both offsets are within the first page of the mapping and multiples of 8; the kernel keeps a u64 there.
        unsafe { self.pages.byte_add(offset).cast::<AtomicU64>().as_ref() }
    }

    /// Copies `into.len()` bytes at `at` of the data.
    fn copy(&self, at: u64, into: &mut [u8]) {
        let mask = self.data_bytes - 1;
        let start = usize::try_from(at).unwrap_or(0) & mask;
        let first = into.len().min(self.data_bytes - start);
        let (head, rest) = into.split_at_mut(first);
        for (offset, part) in [(start, head), (0, rest)] {
            // SAFETY: `offset + part.len()` is at most `data_bytes`, which follow the first page of the mapping. The kernel does not
            // write bytes between the two positions.
            unsafe {
                let source = self.pages.byte_add(self.page_bytes + offset).as_ptr();
                ptr::copy_nonoverlapping(source, part.as_mut_ptr(), part.len());
            }
        }
    }

    /// Shows the raw data of every sample that is there now.
    fn drain(&mut self, scratch: &mut Vec<u8>, each: &mut impl FnMut(&[u8])) {
        let mut tail = self.position(DATA_TAIL).load(Ordering::Relaxed);
        let head = self.position(DATA_HEAD).load(Ordering::Acquire);
        while tail < head {
            let mut header = [0; HEADER_BYTES];
            self.copy(tail, &mut header);
            let kind = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            let size = usize::from(u16::from_ne_bytes([header[6], header[7]]));
            let Some(body) = size.checked_sub(HEADER_BYTES) else {
                // Not a record: records after it can't be distinguished either.
                tail = head;
                break;
            };
            scratch.resize(body, 0);
            self.copy(tail + HEADER_BYTES as u64, scratch);
            tail += size as u64;
            if kind == PERF_RECORD_SAMPLE
                && let Some((length, data)) = scratch.split_at_checked(LENGTH_BYTES)
            {
                let length = u32::from_ne_bytes([length[0], length[1], length[2], length[3]]);
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                each(&data[..length.min(data.len())]);
            }
            scratch.fill(0);
        }
        self.position(DATA_TAIL).store(tail, Ordering::Release);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrows from it any more.
        unsafe {
            libc::munmap(
                self.pages.as_ptr().cast::<libc::c_void>(),
                self.page_bytes + self.data_bytes,
            )
        };
    }
}

/// The buffers of all CPUs that are online.
#[derive(Debug)]
pub(crate) struct PerfBuffers {
    buffers: Vec<Buffer>,
    scratch: Vec<u8>,
}

impl PerfBuffers {
    /// Opens a buffer for each CPU, of as many bytes as `size` gives for their number, and puts it into `map`, which must stay open.
    ///
    /// # Errors
    /// The error of the system call.
    pub(crate) fn open(map: BorrowedFd<'_>, size: impl Fn(usize) -> usize) -> io::Result<Self> {
        // SAFETY: it takes a number and gives one.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page_bytes = usize::try_from(page_bytes).map_err(|_| io::Error::last_os_error())?;
        let cpus = aya::util::online_cpus().map_err(|(_, error)| error)?;
        // Powers of two both, so whole pages.
        let data_bytes = size(cpus.len()).max(page_bytes);
        let mut buffers = Vec::with_capacity(cpus.len());
        for cpu in cpus {
            let buffer = Buffer::open(cpu, data_bytes, page_bytes)?;
            put(map, cpu, buffer.fd.as_fd())?;
            buffers.push(buffer);
        }
        Ok(Self {
            buffers,
            scratch: Vec::new(),
        })
    }

    /// Shows the data of every record that is there now.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        for buffer in &mut self.buffers {
            buffer.drain(&mut self.scratch, &mut each);
        }
    }

    /// A watch per CPU. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The error of duplicating a descriptor, or of registering it.
    pub(crate) fn watch(&self) -> io::Result<Vec<RingWatch>> {
        let watches = self
            .buffers
            .iter()
            .map(|buffer| RingWatch::new(buffer.fd.as_fd()));
        watches.collect()
    }
}

fn put(map: BorrowedFd<'_>, cpu: u32, event: BorrowedFd<'_>) -> io::Result<()> {
    let value = event.as_raw_fd();
    let element = Element {
        map_fd: raw(map),
        pad: 0,
        key: (&raw const cpu) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: `element` has the layout of that part of `bpf_attr`; the kernel reads four bytes each at `key` and `value`, which live
    // on this stack.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &raw const element) }.map(drop)
}
