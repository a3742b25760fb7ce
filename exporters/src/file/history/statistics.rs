//! Counts of what was read, and of what could not be.

use std::collections::BTreeMap;
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
    /// Records of other events than connections, by event. Counted by a query without conditions.
    pub others: BTreeMap<String, u64>,
    /// Files and folders that can't be read, and why; the first of them.
    pub unreadable: Vec<(PathBuf, String)>,
    /// The number of these.
    pub unreadable_files: u64,
    /// Files that were read in part, and what is missing; the first of them.
    pub damaged: Vec<(PathBuf, String)>,
    /// The number of these.
    pub damaged_files: u64,
}

/// Files that can't be read, and are named.
const NAMED: usize = 10;

/// Events that are counted by name.
const MAX_EVENTS: usize = 16;

/// Characters of an error that are kept: it can repeat a value of the file.
const MAX_ERROR: usize = 512;

/// Characters of an event's name that are kept.
const MAX_EVENT: usize = 64;

impl Statistics {
    pub(super) fn unreadable(&mut self, path: &Path, error: &io::Error) {
        self.unreadable_files += 1;
        if self.unreadable.len() < NAMED {
            self.unreadable.push((path.to_owned(), cut(&error.to_string())));
        }
    }

    pub(super) fn damaged(&mut self, path: &Path, missing: &str) {
        self.damaged_files += 1;
        if self.damaged.len() < NAMED {
            self.damaged.push((path.to_owned(), cut(missing)));
        }
    }

    /// Counts a record that is not of a connection.
    pub(super) fn other(&mut self, event: &str) {
        if let Some(count) = self.others.get_mut(event) {
            *count += 1;
            return;
        }
        let name = match event.is_empty() {
            true => "without an event".to_owned(),
            false if self.others.len() < MAX_EVENTS => event.chars().take(MAX_EVENT).collect(),
            false => "other events".to_owned(),
        };
        *self.others.entry(name).or_default() += 1;
    }
}

fn cut(error: &str) -> String {
    error.chars().take(MAX_ERROR).collect()
}

/// A file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Logs,
    Other,
}

/// The result of reading a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) kind: Kind,
    /// The part that is missing of it, if one is.
    pub(super) damage: Option<String>,
}

#[cfg(feature = "parquet")]
impl Scanned {
    pub(super) const OTHER: Self = Self {
        kind: Kind::Other,
        damage: None,
    };

    /// Log records, all of which were read.
    pub(super) const LOGS: Self = Self {
        kind: Kind::Logs,
        damage: None,
    };
}

/// An error of a file's content.
pub(super) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
