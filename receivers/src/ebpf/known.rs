//! Knowledge about connections in addition to their records: containers of processes, and addresses on the wire.

use super::translations::Translations;
use crate::containers::Containers;

/// State that records are completed from.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) containers: Containers,
    pub(super) translations: Translations,
}

impl Known {
    /// Nothing but these containers.
    pub(super) fn new(containers: Containers) -> Self {
        Self {
            containers,
            translations: Translations::default(),
        }
    }
}
