//! The answer to a query.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::groups::{Line, Sums};
use super::records::Record;

/// The result of a query.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// Files with log records.
    pub(super) files: u64,
    /// Records in these files.
    pub(super) records: u64,
    /// Records that match.
    pub(super) matching: u64,
    /// Records of other events than connections, by event: of a query without conditions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) others: BTreeMap<String, u64>,
    /// Files and folders that can't be read, the first of them.
    pub(super) unreadable: Vec<Unreadable>,
    pub(super) unreadable_files: u64,
    /// Files that were read in part, the first of them.
    pub(super) damaged: Vec<Unreadable>,
    pub(super) damaged_files: u64,
    /// Sums over all records that match.
    pub(super) total: Sums,
    /// Groups that there are; `lines` has the first of them.
    pub(super) groups: u64,
    pub(super) lines: Lines,
}

/// A file that can't be read, or only in part.
#[derive(Debug, Serialize)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    pub(super) error: String,
}

/// The lines of an answer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Lines {
    Groups(Vec<Line>),
    Records(Vec<Record>),
}
