//! Counts of what was read, and of what could not be.

use std::io;
use std::path::{Path, PathBuf};

/// Counts of what was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Files with log records.
    pub files: u64,
    /// Files of the exporter without any, such as those of series.
    pub other_files: u64,
    /// Records in the files, those left out by statistics included.
    pub records: u64,
    /// Records that were read, at least in part.
    pub read: u64,
    /// Records that match the query.
    pub matching: u64,
    /// Files that can't be read, and why; the first of them.
    pub unreadable: Vec<(PathBuf, String)>,
    /// The number of these.
    pub unreadable_files: u64,
}

/// Files that can't be read, and are named.
const NAMED: usize = 10;

impl Statistics {
    pub(super) fn unreadable(&mut self, path: &Path, error: &io::Error) {
        self.unreadable_files += 1;
        if self.unreadable.len() < NAMED {
            self.unreadable.push((path.to_owned(), error.to_string()));
        }
    }
}

/// A file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Logs,
    Other,
}
