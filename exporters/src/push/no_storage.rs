//! In place of requests on disk, in builds without the feature `storage`: the config is refused.

#[path = "storage/config.rs"]
mod config;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use flowtap_pipeline::{BuildContext, PipelineKind};

pub use self::config::{StorageConfig, WhenDiskFull};
use super::fate::{Fate, Fates};
use super::{Lane, Request};

/// Why requests can't be kept.
#[derive(Debug, thiserror::Error)]
#[error("{}", config::NOT_IN_THIS_BUILD)]
pub struct StorageError;

impl StorageError {
    #[expect(clippy::unused_self, reason = "as that of requests on disk")]
    pub(crate) const fn is_in_use(&self) -> bool {
        false
    }
}

/// There is none.
#[derive(Debug)]
pub(crate) struct Stored {
    never: Infallible,
    pub(crate) request: Request,
}

/// There is none.
#[derive(Debug)]
pub(crate) enum Storage {}

impl Storage {
    pub(crate) fn open_with(
        _: &StorageConfig,
        _: &BuildContext,
        _: Fates,
    ) -> Result<Arc<Self>, StorageError> {
        Err(StorageError)
    }

    pub(crate) const fn keep(&self, _: &Request) -> Result<(Fate, Vec<(PipelineKind, u64)>), StorageError> {
        match *self {}
    }

    pub(crate) const fn settle(&self, _: &Stored, _: Fate) {
        match *self {}
    }

    pub(crate) const fn first(&self, _: Lane) -> Result<Option<Stored>, StorageError> {
        match *self {}
    }

    pub(crate) const fn has_file(&self) -> bool {
        match *self {}
    }

    pub(crate) const fn is_waiting(&self, _: Lane) -> bool {
        match *self {}
    }

    #[expect(clippy::unused_async, reason = "as that of requests on disk")]
    pub(crate) async fn changed(&self, _: Lane) {
        match *self {}
    }

    pub(crate) const fn remove(&self, stored: &Stored) -> Option<StorageError> {
        match stored.never {}
    }

    pub(crate) const fn remove_rest(&self) {
        match *self {}
    }

    pub(crate) const fn orphaned(&self, _: Lane) -> BTreeMap<PipelineKind, u64> {
        match *self {}
    }

    pub(crate) const fn unremoved(&self) -> usize {
        match *self {}
    }

    pub(crate) const fn waiting(&self) -> (u64, u64) {
        match *self {}
    }
}
