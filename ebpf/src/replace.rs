//! State that the programs of one object leave to those of another that replaces them without a gap.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::abi::Event;
use crate::control::{Control, FIRST_GENERATION};
use crate::error::LoadError;
use crate::ring::{Ring, Rings};
use crate::sharing::SharedMaps;
use crate::tables::Tables;

/// Time for which a ring is drained after its programs were detached: one of them may still be
/// running on another CPU, with its record not reserved yet. The kernel waits for such by grace
/// periods, which take some hundredths of a second.
const RETIREMENT: Duration = Duration::from_secs(1);

/// Maximum time for a CPU that has begun to call the programs at a tracepoint.
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

/// Rings whose programs were detached, the oldest first.
#[derive(Default)]
pub(crate) struct RetiredRings(Vec<(Rings, Instant)>);

impl RetiredRings {
    pub(crate) fn push(&mut self, rings: Rings) {
        self.0.push((rings, Instant::now()));
    }

    /// Shows what is left in the rings.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for bytes that are no record.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Event, Ring)) -> io::Result<()> {
        let now = Instant::now();
        for (rings, _) in &mut self.0 {
            rings.drain_all(&mut each)?;
        }
        self.0
            .retain(|(_, since)| now.duration_since(*since) < RETIREMENT);
        Ok(())
    }
}

/// Loads other programs on a thread. Loading takes longer than a small ring can wait for its reader, so what comes
/// meanwhile is shown.
pub(crate) fn load_meanwhile<T: Send>(
    rings: &mut Rings,
    mut each: impl FnMut(Event, Ring),
    load: impl FnOnce() -> Result<T, LoadError> + Send,
) -> Result<T, LoadError> {
    thread::scope(|scope| {
        let loading = scope.spawn(load);
        while !loading.is_finished() {
            // Bytes that are no record are an error of the next scan.
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

/// Waits until no CPU calls programs that were detached: one that has begun to goes on.
pub(crate) fn await_detached() {
    thread::sleep(GRACE);
}
