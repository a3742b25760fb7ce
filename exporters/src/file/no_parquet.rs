//! In place of Parquet in a build without the feature `parquet`: there is no such file.

use std::convert::Infallible;
use std::fs::File;
use std::io;

use flowtap_pipeline::PipelineKind;

use super::content::Content;
use super::row::Origin;

/// A file that can't exist: the config rejects the format.
#[derive(Debug)]
pub(super) struct ParquetFile(Infallible);

impl ParquetFile {
    pub(super) fn new(_: File, _: &Origin, _: PipelineKind) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn write(&mut self, _: &Origin, _: &Content<'_>) -> io::Result<()> {
        match self.0 {}
    }

    pub(super) const fn bytes(&self) -> u64 {
        match self.0 {}
    }

    pub(super) const fn sync(&self) -> io::Result<()> {
        match self.0 {}
    }
}
