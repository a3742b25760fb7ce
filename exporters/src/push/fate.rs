//! The fate of a request, for exporters that make up for what was not delivered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tonic::Code;
use tower::BoxError;

use super::error::Refused;
use super::http::HttpFailure;
use super::lock;

/// The end of a request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The peer has it.
    Delivered,
    /// It was refused, given up or dropped.
    Failed {
        /// Whether its content can be the cause, as a sample out of order is.
        content: bool,
    },
    /// It is on disk under this number; see [`Fates`].
    #[cfg_attr(
        not(feature = "storage"),
        expect(dead_code, reason = "`storage` alone has a disk")
    )]
    Stored(u64),
}

impl Fate {
    /// That of a request that failed for good with `error`.
    pub(crate) fn failed(error: &BoxError) -> Self {
        let content = if let Some(failure) = error.downcast_ref::<HttpFailure>() {
            matches!(failure.status.as_u16(), 400 | 409 | 422 | 500)
        } else if let Some(Refused { status, .. }) = error.downcast_ref() {
            matches!(
                status.code(),
                Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::AlreadyExists
            )
        } else {
            false
        };
        Self::Failed { content }
    }
}

/// Fates of requests with points on disk that no exporter has taken yet, in the order in which it happened. Cloning it shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fates(Arc<Mutex<VecDeque<(u64, Fate)>>>);

impl Fates {
    /// An exporter takes them with each snapshot; a bound for one that gets none.
    #[cfg(feature = "storage")]
    const MAX: usize = 100_000;

    #[cfg(feature = "storage")]
    pub(crate) fn push(&self, number: u64, fate: Fate) {
        let mut fates = lock(&self.0);
        if fates.len() == Self::MAX {
            fates.pop_front();
        }
        fates.push_back((number, fate));
    }

    pub(crate) fn take(&self) -> VecDeque<(u64, Fate)> {
        std::mem::take(&mut *lock(&self.0))
    }
}
