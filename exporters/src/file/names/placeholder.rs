//! Placeholders of a path.

/// The time in the name of a file.
pub(super) const TIME: &str = "{time}";

/// Placeholders that have the same value in all names of a writer.
pub(super) const KIND: &str = "{kind}";
pub(super) const HOST: &str = "{host}";

/// The message about a placeholder that does not exist.
pub(super) fn unknown(placeholder: &str) -> String {
    format!(
        "unknown placeholder `{placeholder}`; folders take {{date}}, {{hour}}, {HOST} and {KIND}, the file name {TIME}, {HOST} and {KIND}"
    )
}
