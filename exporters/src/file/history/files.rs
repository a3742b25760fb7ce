//! The files of folders, and what they are by their first bytes.
//!
//! In: folders. Out: the files in them, as they were when they were found: what is appended later is not read, and a journal stays
//! readable while it becomes Parquet. So a second pass over the same [`Files`] reads what the first one did.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::statistics::{Statistics, invalid};
use crate::file::recovery::CORRUPT;

/// Folders in folders that are looked into: partitions by host, kind, date and hour, and some above.
const MAX_DEPTH: usize = 8;

/// Finished files that are held open, and as many that are being written. Further ones are opened for each pass, and compared to what they were.
const MAX_HELD: usize = 256;

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

/// A file, or a folder, whatever its path.
type Identity = (u64, u64);

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// A file that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    identity: Identity,
    /// Its length when it was found.
    pub(super) length: u64,
    /// Whether it is being written: its last write may not be whole.
    pub(super) is_growing: bool,
    held: Option<File>,
}

/// The files of folders.
#[derive(Debug, Default)]
pub struct Files {
    pub(super) found: Vec<Found>,
    /// Folders and files that were seen: links lead to some of them again.
    seen: HashSet<Identity>,
    held: usize,
    /// Counts of paths that can't be read.
    pub(super) statistics: Statistics,
}

impl Files {
    /// Adds the files in `folder` and the folders in it, by name; links are followed, and each file is there once. A journal beside the
    /// file that it has become is left out.
    ///
    /// # Errors
    /// `folder` itself can't be read. A path in it that can't be read is reported by the statistics of a scan.
    pub fn add(&mut self, folder: &Path) -> io::Result<()> {
        let mut paths = Vec::new();
        let mut folders = vec![(folder.to_owned(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            if let Err(error) = self.list(&folder, depth, &mut folders, &mut paths) {
                match error.kind() {
                    _ if depth == 0 => return Err(error),
                    // Retention has removed it meanwhile.
                    io::ErrorKind::NotFound => {}
                    _ => self.statistics.unreadable(&folder, &error),
                }
            }
        }
        paths.retain(|path| !has_extension(path, "converting"));
        paths.sort();
        for path in &paths {
            let is_growing = has_extension(path, "partial");
            if is_growing && paths.binary_search(&path.with_extension("")).is_ok() {
                continue;
            }
            if has_extension(path, CORRUPT) {
                let error = "it is damaged, and was set aside; the records of it that can be read are in a file `.recovered`";
                self.statistics.unreadable(path, &invalid(error));
                continue;
            }
            if let Err(error) = self.open(path, is_growing) {
                self.statistics.unreadable(path, &error);
            }
        }
        Ok(())
    }

    /// The entries of one folder.
    fn list(
        &mut self,
        folder: &Path,
        depth: usize,
        folders: &mut Vec<(PathBuf, usize)>,
        paths: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        if !self.seen.insert(identity(&fs::metadata(folder)?)) {
            return Ok(());
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // Removed, or renamed when it was finished, which `open` looks for; of a link the other end.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
                    if has_extension(&path, "partial") {
                        paths.push(path);
                    }
                    continue;
                }
                Err(error) => {
                    self.statistics.unreadable(&path, &error);
                    continue;
                }
            };
            if metadata.is_file() {
                paths.push(path);
            } else if metadata.is_dir() && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            } else if metadata.is_dir() {
                let error = format!("folders are read to a depth of {MAX_DEPTH}; hint: name it with --path");
                self.statistics.unreadable(&path, &io::Error::other(error));
            }
        }
        Ok(())
    }

    /// Opens the file at `path`, or the one that it has become since it was found, if it is there still.
    fn open(&mut self, path: &Path, is_growing: bool) -> io::Result<()> {
        let opened = match File::open(path) {
            Err(error) if is_growing && error.kind() == io::ErrorKind::NotFound => {
                File::open(path.with_extension(""))
            }
            opened => opened,
        };
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let metadata = file.metadata()?;
        if !self.seen.insert(identity(&metadata)) {
            return Ok(());
        }
        // Those that are being written change in any case, so there is room left for them.
        let limit = if is_growing { 2 * MAX_HELD } else { MAX_HELD };
        let is_held = self.held < limit;
        self.held += usize::from(is_held);
        self.found.push(Found {
            path: path.to_owned(),
            identity: identity(&metadata),
            length: metadata.len(),
            is_growing,
            held: is_held.then_some(file),
        });
        Ok(())
    }
}

impl Found {
    /// The file, and what it is. `None` if it is none of ours.
    pub(super) fn open(&self) -> io::Result<Option<(Content, File)>> {
        let file = match &self.held {
            Some(file) => file.try_clone()?,
            None => self.open_again()?,
        };
        let mut magic = [0; 4];
        let length = usize::try_from(self.length.min(4)).unwrap_or_default();
        file.read_exact_at(&mut magic[..length], 0)?;
        let content = match magic[..length] {
            [] => return Ok(None),
            [b'P', b'A', b'R', b'1'] => Content::Parquet,
            // Of a Zstandard frame (RFC 8878, section 3.1.1).
            [0x28, 0xb5, 0x2f, 0xfd] => Content::Journal,
            [0x1f, 0x8b, ..] => Content::PackedLines,
            [b'{', ..] => Content::Lines,
            // Its first bytes are damaged, or not there yet.
            _ => match self.content_by_name()? {
                Some(content) => content,
                None => return Ok(None),
            },
        };
        Ok(Some((content, file)))
    }

    fn open_again(&self) -> io::Result<File> {
        let changed =
            || io::Error::other("it was removed or replaced while the folder was read; hint: ask again");
        let file = File::open(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => changed(),
            _ => error,
        })?;
        let metadata = file.metadata()?;
        if identity(&metadata) != self.identity || metadata.len() != self.length {
            return Err(changed());
        }
        Ok(file)
    }

    fn content_by_name(&self) -> io::Result<Option<Content>> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let (name, is_partial) = match name.strip_suffix(".partial") {
            Some(name) => (name, true),
            None => (&*name, false),
        };
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        Ok(if ends(&[".jsonl", ".ndjson", ".json"]) {
            Some(Content::Lines)
        } else if ends(&[".gz"]) {
            Some(Content::PackedLines)
        } else if ends(&[".parquet"]) {
            Some(if is_partial {
                Content::Journal
            } else {
                Content::Parquet
            })
        } else if is_partial && self.length >= 4 {
            let error = "its first bytes are damaged: they are not those of a journal, nor of lines";
            return Err(invalid(error));
        } else {
            None
        })
    }
}

fn has_extension(path: &Path, expected: &str) -> bool {
    path.extension().is_some_and(|extension| extension == expected)
}
