//! Ring buffers: draining one, and waiting on tokio for one to fill.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::abi::Event;

/// Tells when a ring's programs have asked for its reader.
#[derive(Debug)]
pub struct RingWatch(AsyncFd<OwnedFd>);

impl RingWatch {
    /// Watches the ring behind `ring`, by a descriptor of its own. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the system says to a further descriptor, or to its registration.
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

/// Shows every record that waits in `ring`; returns how many there were.
pub(crate) fn drain(ring: &mut RingBuf<MapData>, mut each: impl FnMut(Event)) -> io::Result<u64> {
    let mut records = 0;
    while let Some(item) = ring.next() {
        let (event, _) =
            Event::read(&item).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        each(event);
        records += 1;
    }
    Ok(records)
}
