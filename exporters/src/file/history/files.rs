//! The files of a folder, and what they are by their first bytes.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

/// Folders in folders that are looked into: partitions by host, kind, date and hour, and some above.
const MAX_DEPTH: usize = 8;

/// The content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Parquet,
    /// Of a Parquet file that is being written.
    Journal,
    Lines,
    /// With gzip.
    PackedLines,
}

/// The files in `folder` and the folders in it, by name. A journal beside the file that it has become is left out.
///
/// # Errors
/// `folder` can't be read.
pub fn find(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Retention has removed it meanwhile.
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            // Links are not followed: they could lead around.
            let kind = entry.file_type()?;
            if kind.is_dir() && depth < MAX_DEPTH {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.retain(|path| path.extension().is_none_or(|extension| extension != "converting"));
    files.sort();
    let finished = |path: &PathBuf| {
        let target = path.with_extension("");
        path.extension().is_some_and(|extension| extension == "partial")
            && files.binary_search(&target).is_ok()
    };
    Ok(files.iter().filter(|path| !finished(path)).cloned().collect())
}

/// The file at `path`, or the one that it has become since it was found. `None` if it is none of ours, or there no longer.
pub(super) fn open(path: &Path) -> io::Result<Option<(Content, File)>> {
    let opened = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(path.with_extension("")),
        opened => opened,
    };
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut magic = Vec::with_capacity(4);
    Read::by_ref(&mut file).take(4).read_to_end(&mut magic)?;
    file.rewind()?;
    let content = match &magic[..] {
        b"PAR1" => Content::Parquet,
        // Of a Zstandard frame (RFC 8878, section 3.1.1).
        [0x28, 0xb5, 0x2f, 0xfd] => Content::Journal,
        [0x1f, 0x8b, ..] => Content::PackedLines,
        [b'{', ..] => Content::Lines,
        _ => return Ok(None),
    };
    Ok(Some((content, file)))
}
