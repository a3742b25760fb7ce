//! State that the programs of one object leave to those of another that replaces them without a gap.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::abi::Event;
use crate::control::{Control, FIRST_GENERATION};
use crate::error::LoadError;
use crate::ring::{Ring, RingWatch, Rings};
use crate::sharing::SharedMaps;
use crate::tables::Tables;

/// Time for which a ring is drained after its programs were detached: one of them may still be
/// running on another CPU, with its record not reserved yet. The kernel waits for such by grace
/// periods, which take some hundredths of a second.
const RETIREMENT: Duration = Duration::from_secs(1);

/// Command of membarrier(2): a grace period of RCU.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Time for a CPU that has begun to call the programs at a tracepoint, beside a grace period.
const GRACE: Duration = Duration::from_millis(20);

/// The interval at which a ring is drained while other programs are being loaded.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

/// State that the programs of one object leave to those of another.
pub(crate) struct Known {
    pub(crate) maps: SharedMaps,
    pub(crate) control: Control,
    /// Of the programs that are at work.
    pub(crate) generation: u32,
    pub(crate) tables: Tables,
}

impl Known {
    /// The generation of programs that follow those of `known`.
    pub(crate) fn next_generation(known: Option<&Self>) -> u32 {
        known.map_or(FIRST_GENERATION, |known| known.generation.wrapping_add(1))
    }
}

/// The rings of programs that are at work, and those of programs that were detached, the oldest first.
///
/// Programs that are attached beside others report the received segments of a connection in their own ring, and its close may be in
/// that of the others. So segments are shown first, of all rings, and then connections, of the older rings first: what the newer
/// programs report of a connection that the older ones have not, is a later change of it.
pub(crate) struct RingsInUse {
    newest: Rings,
    retired: Vec<(Rings, Instant)>,
}

impl RingsInUse {
    pub(crate) const fn new(newest: Rings) -> Self {
        Self {
            newest,
            retired: Vec::new(),
        }
    }

    /// Continues with the rings of `before`, whose programs are about to be detached.
    pub(crate) fn follow(&mut self, before: Self) {
        self.retired = before.retired;
        self.retired.push((before.newest, Instant::now()));
    }

    /// Shows what waits of received segments, then of connections. A connection is never shown closed before all of its
    /// segments. Returns how many records were shown.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are not a record.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Event, Ring)) -> io::Result<u64> {
        let records = self.drain_older(&mut each)?;
        let shown = self
            .newest
            .drain_connections(|event| each(event, Ring::Connections));
        shown.map(|shown| records + shown)
    }

    /// The same up to the last record of connections that there is now, also if a program on another CPU is still writing it,
    /// which takes it a moment.
    ///
    /// # Errors
    /// As [`RingsInUse::drain`].
    pub(crate) fn drain_all(&mut self, mut each: impl FnMut(Event, Ring)) -> io::Result<u64> {
        let records = self.drain_older(&mut each)?;
        let shown = self
            .newest
            .drain_all_connections(|event| each(event, Ring::Connections));
        shown.map(|shown| records + shown)
    }

    /// Shows everything but the connections of the newest ring.
    fn drain_older(&mut self, each: &mut impl FnMut(Event, Ring)) -> io::Result<u64> {
        let Self { newest, retired } = self;
        let now = Instant::now();
        let mut records = 0;
        newest.mark_end();
        for (rings, _) in retired.iter_mut() {
            rings.mark_end();
        }
        let all = retired.iter_mut().map(|(rings, _)| rings).chain([newest]);
        for rings in all {
            records += rings.drain_segments(|event| each(event, Ring::Segments))?;
        }
        for (rings, _) in retired.iter_mut() {
            records += rings.drain_all_connections(|event| each(event, Ring::Connections))?;
        }
        retired.retain(|(_, since)| now.duration_since(*since) < RETIREMENT);
        Ok(records)
    }

    /// Shows received segments alone, of the newest ring.
    ///
    /// # Errors
    /// As [`RingsInUse::drain`].
    pub(crate) fn drain_segments(&mut self, each: impl FnMut(Event)) -> io::Result<u64> {
        self.newest.drain_segments(each)
    }

    /// Watches the newest: the ring of segments, then that of connections. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The error of the system call.
    pub(crate) fn watch(&self) -> io::Result<[RingWatch; 2]> {
        self.newest.watch()
    }
}

/// Loads other programs on a thread. Loading takes longer than a small ring can wait for its reader, so what comes
/// meanwhile is shown.
pub(crate) fn load_meanwhile<T: Send>(
    rings: &mut RingsInUse,
    mut each: impl FnMut(Event, Ring),
    load: impl FnOnce() -> Result<T, LoadError> + Send,
) -> Result<T, LoadError> {
    thread::scope(|scope| {
        let loading = scope.spawn(load);
        while !loading.is_finished() {
            // Bytes that are not a record are an error of the next scan.
            if rings.drain(&mut each).is_err() {
                break;
            }
            thread::sleep(DRAIN_INTERVAL);
        }
        loading
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits until no CPU calls programs that were detached: one that has begun to goes on, however long the hypervisor or
/// interrupts keep it from the end.
///
/// `MEMBARRIER_CMD_GLOBAL` (membarrier(2)) returns after a grace period of RCU, and programs at tracepoints run with
/// preemption off. Some later kernels call them with preemption on, under SRCU, and one with `nohz_full` has no such
/// command: for these it is a time.
pub(crate) fn await_detached() {
    thread::sleep(GRACE);
    // SAFETY: the call has no pointers, and changes nothing.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
}
