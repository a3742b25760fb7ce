//! Ring buffers: draining one, up to a point if need be, and waiting on tokio for one to fill.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::thread;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::abi::Event;
use crate::error::LoadError;

/// Which ring a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Of received segments.
    Segments,
    /// Of connections and listeners.
    Connections,
}

/// Wakes the reader of a ring when the ring's programs have requested it.
#[derive(Debug)]
pub struct RingWatch(AsyncFd<OwnedFd>);

impl RingWatch {
    /// Watches `ring`, with a duplicated descriptor. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The error of duplicating the descriptor, or of registering it.
    pub(crate) fn new(ring: BorrowedFd<'_>) -> io::Result<Self> {
        let ring = ring.try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` is open as long as it lives and always the same descriptor; nothing here takes it out of
        // the `AsyncFd`.
        let watched = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        watched.map(Self).map_err(io::Error::from)
    }

    /// Waits until the ring's reader is asked for. Drain the ring then, to its end. Cancel-safe.
    ///
    /// # Errors
    /// If the runtime is shutting down.
    pub async fn filled(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

/// Positions of a ring's writers and its reader, in bytes since it was created.
///
/// A reader stops at a record that a program on another CPU is still writing, whatever follows it.
/// These positions show a reader that needs everything up to a certain moment how far to read.
#[derive(Debug)]
pub(crate) struct Positions {
    /// The reader's position, and a page further the writers' (kernel/bpf/ringbuf.c, `struct bpf_ringbuf`).
    pages: NonNull<libc::c_void>,
    page_bytes: usize,
}

// SAFETY: the pages are this value's own mapping, and are only read, atomically.
unsafe impl Send for Positions {}

impl Positions {
    /// Of `ring`.
    ///
    /// # Errors
    /// The error of `mmap(2)`.
    pub(crate) fn new(ring: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: it takes a number and gives one.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page_bytes = usize::try_from(page_bytes).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let pages = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * page_bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(pages) {
            Some(pages) if pages.as_ptr() != libc::MAP_FAILED => Ok(Self { pages, page_bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Position of the reader.
    pub(crate) fn consumed(&self) -> u64 {
        self.load(0)
    }

    /// Position of the writers: everything reserved, whether written yet or not.
    pub(crate) fn produced(&self) -> u64 {
        self.load(self.page_bytes)
    }

    fn load(&self, offset: usize) -> u64 {
        // SAFETY: both offsets are within the mapping and begin a page; the kernel keeps an unsigned long there, which has 64
        // bits where BPF has rings that are mapped. Of memory that can't be written only relaxed loads are defined.
        let position = unsafe { self.pages.byte_add(offset).cast::<AtomicU64>().as_ref() };
        let position = position.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        position
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrows from it any more.
        unsafe { libc::munmap(self.pages.as_ptr(), 2 * self.page_bytes) };
    }
}

/// Both rings of a set of programs.
pub(crate) struct Rings {
    segments: RingBuf<MapData>,
    connections: RingBuf<MapData>,
    /// Of `segments`.
    segment_positions: Positions,
    /// Of `connections`.
    positions: Positions,
    /// Position up to which connections are shown: see [`Rings::mark_end`].
    end: u64,
}

impl Rings {
    /// Takes the maps of these names out of `ebpf`: that of segments, then that of connections.
    ///
    /// # Errors
    /// [`LoadError`] with the map.
    pub(crate) fn take(ebpf: &mut Ebpf, names: [&'static str; 2]) -> Result<Self, LoadError> {
        let mut take = |map| {
            let ring = ebpf.take_map(map).ok_or(LoadError::Absent(map))?;
            RingBuf::try_from(ring).map_err(|source| LoadError::Map { map, source })
        };
        let [segments, connections] = names;
        let (segments, connections) = (take(segments)?, take(connections)?);
        let positions = |ring: &RingBuf<MapData>| {
            Positions::new(ring.as_fd()).map_err(|source| LoadError::System {
                what: "mapping a ring's positions",
                source,
            })
        };
        Ok(Self {
            segment_positions: positions(&segments)?,
            positions: positions(&connections)?,
            segments,
            connections,
            end: 0,
        })
    }

    /// The next [`Rings::drain_connections`] shows those that wait now. A close that is there now has its segments in the ring of
    /// segments; one that comes while that is drained may not.
    pub(crate) fn mark_end(&mut self) {
        self.end = self.positions.produced();
    }

    /// Shows the received segments that there are now, also those that a program on another CPU is still writing: it takes a moment,
    /// and what is shown next of connections may be the close of one of them.
    pub(crate) fn drain_segments(&mut self, mut each: impl FnMut(Event)) -> io::Result<u64> {
        // No further than what is there: programs may write more quickly than this reads.
        let last = self.segment_positions.produced();
        drain_all_to(&mut self.segments, &self.segment_positions, last, &mut each)
    }

    /// Shows connections up to the marked end, or to one that a program on another CPU is still writing.
    pub(crate) fn drain_connections(&mut self, each: impl FnMut(Event)) -> io::Result<u64> {
        drain_to(&mut self.connections, &self.positions, self.end, each)
    }

    /// Shows connections up to the marked end.
    pub(crate) fn drain_all_connections(&mut self, mut each: impl FnMut(Event)) -> io::Result<u64> {
        drain_all_to(&mut self.connections, &self.positions, self.end, &mut each)
    }

    /// Watches both: that of segments, then that of connections. Must be called within a tokio runtime.
    pub(crate) fn watch(&self) -> io::Result<[RingWatch; 2]> {
        Ok([
            RingWatch::new(self.segments.as_fd())?,
            RingWatch::new(self.connections.as_fd())?,
        ])
    }
}

/// The least size of a ring, for one that is not used.
pub(crate) fn least_ring_bytes() -> u32 {
    // SAFETY: it takes a number and gives one.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u32::try_from(page_bytes).unwrap_or(1 << 16)
}

/// Shows the records that stand before `end`; returns how many there were. Fewer, if a program on another CPU is still writing one
/// of them.
fn drain_to(
    ring: &mut RingBuf<MapData>,
    positions: &Positions,
    end: u64,
    mut each: impl FnMut(Event),
) -> io::Result<u64> {
    let mut records = 0;
    while positions.consumed() < end
        && let Some(item) = ring.next()
    {
        let (event, _) =
            Event::read(&item).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        each(event);
        records += 1;
    }
    Ok(records)
}

/// The same of all of them: waits for those that are still being written.
fn drain_all_to(
    ring: &mut RingBuf<MapData>,
    positions: &Positions,
    end: u64,
    each: &mut impl FnMut(Event),
) -> io::Result<u64> {
    let mut records = drain_to(ring, positions, end, &mut *each)?;
    while positions.consumed() < end {
        thread::yield_now();
        records += drain_to(ring, positions, end, &mut *each)?;
    }
    Ok(records)
}
