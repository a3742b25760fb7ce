//! In place of the conversion to Parquet in a build without the feature `parquet`.

use std::io;
use std::path::Path;

use super::config::Compression;

/// The result of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Converted {
    pub(super) rows: u64,
    pub(super) torn: bool,
    pub(super) damaged: u64,
}

/// Fails: the config rejects the format.
pub(super) fn convert(_: &Path, _: &Path, _: Compression) -> io::Result<Converted> {
    Err(io::ErrorKind::Unsupported.into())
}
