//! The error of requests that can't be kept on disk.

use std::path::PathBuf;

/// Why requests can't be kept.
#[derive(Debug)]
pub struct StorageError {
    pub(super) path: PathBuf,
    /// Part of the message.
    pub(super) source: Box<redb::Error>,
    /// The cause, if the folder was replaced.
    pub(super) replaced: Option<String>,
}

impl StorageError {
    /// Whether another process has the file, or an exporter of this one that has not ended yet.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(*self.source, redb::Error::DatabaseAlreadyOpen)
    }
}

impl std::error::Error for StorageError {}

impl std::fmt::Display for StorageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        // redb speaks of a lock, which nobody knows from the config.
        if self.is_in_use() {
            return write!(
                f,
                "storage.directory: another process, or another exporter of this one, uses {path}; \
                 hint: stop the other flowtap, or choose another `storage.directory`"
            );
        }
        write!(f, "storage.directory: {path}: {}", self.source)?;
        match &self.replaced {
            Some(replaced) => write!(f, ": {replaced}"),
            None => Ok(()),
        }
    }
}
