//! Names of a state file's folder and of the files beside it.

use std::path::{Path, PathBuf};

/// Ends of the names of files beside a state file.
pub(super) const NEW: &str = "new";
pub(super) const CORRUPT: &str = "corrupt";
pub(super) const LOCK: &str = "lock";

/// The name of a file beside a state file, with this end.
pub(super) fn beside_as(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{end}"));
    PathBuf::from(name)
}

/// The folder that `file` is in.
pub(super) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
