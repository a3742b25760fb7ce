//! Folders that a component writes to, and whether they are still the ones that were there at the start.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A folder that a component writes to.
///
/// The sandbox permits the folder that was at this path when flowtap started. If somebody removes it, replaces it or mounts a disk over it,
/// the kernel refuses every write with an error that says nothing of that; a restart helps, and nothing else.
///
/// ```
/// use std::fs;
/// use std::io::{Error, ErrorKind};
/// use flowtap_pipeline::WrittenFolder;
///
/// # let parent = tempfile::tempdir()?;
/// # let path = parent.path().join("flows");
/// fs::create_dir(&path)?;
/// let folder = WrittenFolder::new(&path);
/// let refused = Error::from(ErrorKind::PermissionDenied);
/// assert!(folder.explain(&refused).is_none(), "it is the same folder");
/// fs::remove_dir(&path)?;
/// assert!(folder.explain(&refused).is_some_and(|replaced| replaced.to_string().contains("replaced")));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFolder {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl WrittenFolder {
    /// The folder that is at `path` now.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            identity: identity(&path),
            path,
        }
    }

    /// Takes the folder that is there now for that of the start, if none was: the component has created it.
    pub fn refresh(&mut self) {
        if self.identity.is_none() {
            self.identity = identity(&self.path);
        }
    }

    /// Why a write below it failed with `error`, if that is because another folder, or none, is there by now.
    pub fn explain(&self, error: &io::Error) -> Option<Replaced<'_>> {
        let refused = error.kind() == io::ErrorKind::PermissionDenied;
        (refused && identity(&self.path) != self.identity).then_some(Replaced(&self.path))
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Another folder than at the start, or none, is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced<'a>(&'a Path);

impl Replaced<'_> {
    /// The remedy, for a log.
    pub const HINT: &'static str = "restart flowtap";
}

impl fmt::Display for Replaced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} was removed, replaced or mounted over after flowtap started, and the sandbox permits the folder that was there only",
            self.0.display()
        )
    }
}
