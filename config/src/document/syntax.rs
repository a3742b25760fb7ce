//! The parts that readers of every syntax share: values with their places, and mistakes.

use std::collections::HashMap;
use std::sync::OnceLock;

use figment::value::{Dict, Tag};

/// Maximum nesting depth of a config: more than any real config needs, and little enough for the
/// stack.
pub(super) const MAX_DEPTH: usize = 32;

/// Line and column, both from 1.
pub type Place = (usize, usize);

/// Values, and where they stand.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The values.
    pub values: Dict,
    /// The place of each key (or list entry), by its path.
    pub places: HashMap<Vec<String>, Place>,
    /// Numbers and truth values as they are written, by their paths, for where text is wanted.
    pub texts: HashMap<Vec<String>, String>,
    /// Contents of the file; empty if there is no file.
    pub text: String,
    /// Where the lines of `text` begin, once one was asked for.
    pub(crate) line_starts: OnceLock<Vec<usize>>,
}

/// A mistake in a file's syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where.
    pub place: Option<Place>,
    /// What.
    pub message: String,
}

/// Line and column of the byte at `offset`.
pub(super) fn place_of(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// A scalar that nothing is known of yet.
pub(super) const fn tag() -> Tag {
    Tag::Default
}
