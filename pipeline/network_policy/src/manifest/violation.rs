//! A mistake in a file.

use std::fmt;

use flowtap_model::plain_text::cut;

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The file and the document in it.
    pub place: String,
    /// The key within the document; empty for all of it.
    pub key: String,
    /// The mistake.
    pub message: String,
}

impl Violation {
    /// Of a value below `key`. The key may be a text of any length.
    pub(super) fn new(place: String, key: &str, message: String) -> Self {
        Self {
            place,
            key: cut(key).into_owned(),
            message,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if !self.key.is_empty() {
            write!(f, ", {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}
