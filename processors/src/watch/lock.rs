//! A lock on a state file: two processes that write one would each lose what the other has learned.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::paths::{LOCK, beside_as, folder_of};

/// The locks of this process: processors of several pipelines may have one file, and after a reload one follows another.
static HELD: Mutex<Vec<(PathBuf, Weak<Lock>)>> = Mutex::new(Vec::new());

/// A lock that this process has. The system ends it with the process, however that ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Another process has the lock.
#[derive(Debug, thiserror::Error)]
#[error("another process uses {0}; hint: stop the other flowtap, or set another `state_file`")]
pub(super) struct InUse(String);

impl Lock {
    /// The lock on a state file; `None` if the system gives none here, as in a folder that this user may not write to, where nothing is saved
    /// either. A file beside it is locked, as the state file is replaced with each save.
    ///
    /// # Errors
    /// [`InUse`].
    pub(super) fn take(file: &Path) -> Result<Option<Arc<Self>>, InUse> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, lock)| lock.strong_count() > 0);
        let known = held.iter().find(|(of, _)| of == file);
        if let Some(lock) = known.and_then(|(_, lock)| lock.upgrade()) {
            return Ok(Some(lock));
        }
        let Ok(locked) = open(&beside_as(file, LOCK)) else {
            return Ok(None);
        };
        match locked.try_lock() {
            Ok(()) => {
                let lock = Arc::new(Self { _file: locked });
                held.push((file.to_owned(), Arc::downgrade(&lock)));
                Ok(Some(lock))
            }
            Err(TryLockError::WouldBlock) => Err(InUse(file.display().to_string())),
            Err(TryLockError::Error(_)) => Ok(None),
        }
    }
}

fn open(file: &Path) -> io::Result<File> {
    // To open a FIFO would wait.
    if fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let open = || {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(file)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder_of(file))?;
            open()
        }
        opened => opened,
    }
}
