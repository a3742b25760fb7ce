//! Files that a crash left, or that could not be finished.
//!
//! In: the `.partial` files of a folder. Out: finished files with every row that was written whole, marked `.recovered`. A crash
//! leaves a torn end; a file with other damage is kept beside it, as `.corrupt`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::config::{Compression, Format};
use super::convert::convert;
use super::json;
use super::names::{Name, Names};
use super::telemetry::{FileEvent, Telemetry};

/// Extension of a file with damage.
pub(super) const CORRUPT: &str = "corrupt";

/// Damaged files of one name that are kept.
const MAX_CORRUPT: usize = 100;

/// Finishes files that are nobody's.
#[derive(Debug)]
pub(super) struct Recovery<'a> {
    pub(super) names: &'a Names,
    pub(super) format: Format,
    pub(super) compression: Compression,
    pub(super) telemetry: &'a Telemetry,
}

impl Recovery<'_> {
    /// Finishes the files that were left, but those of `open`, which are still being written. Returns how many could not be finished.
    ///
    /// # Errors
    /// The folder can't be read.
    pub(super) fn run(&self, open: &[&Name]) -> io::Result<usize> {
        let (_, left) = self.names.list()?;
        let mut unfinished = 0;
        for name in left.into_iter().filter(|name| !open.contains(&name)) {
            let path = self.names.partial(&name);
            if let Err(error) = self.take_up(name) {
                if error.kind() == io::ErrorKind::NotFound && !path.exists() {
                    // Somebody else has removed or finished it since the folder was listed.
                    continue;
                }
                unfinished += 1;
                tracing::warn!(path = %path.display(), %error, "a file that was left can't be recovered; tried again in a minute; \
                hint: free space, and make it readable and writable");
            }
        }
        Ok(unfinished)
    }

    fn take_up(&self, name: Name) -> io::Result<()> {
        let path = self.names.partial(&name);
        let file = OpenOptions::new().write(true).open(&path)?;
        let Some(_lock) = lock(file)? else {
            tracing::warn!(path = %path.display(), "another flowtap writes this file; hint: give each exporter a different path");
            return Ok(());
        };
        match self.format {
            Format::Parquet => self.take_up_journal(&path, &name),
            Format::Json => self.take_up_lines(&path, name),
        }
    }

    fn take_up_journal(&self, path: &Path, name: &Name) -> io::Result<()> {
        let recovered = name.clone().recovered();
        for done in [name, &recovered] {
            // The crash was between the two: the rows must not be there twice.
            if self.names.finished(done).exists() {
                return fs::remove_file(path);
            }
        }
        let length = fs::metadata(path)?.len();
        let temporary = self.names.converting(name);
        let converted = convert(path, &temporary, self.compression).inspect_err(|_| remove(&temporary))?;
        if converted.damaged > 0 {
            set_aside(path, converted.damaged, self.telemetry)?;
        }
        if converted.rows == 0 {
            remove(&temporary);
            fs::remove_file(path)?;
            if converted.damaged > 0 {
                return Ok(());
            }
            if length > 0 {
                self.telemetry.file(FileEvent::Discarded);
                tracing::warn!(path = %path.display(), bytes = length, "a file that was left had no row that can be read, and is removed; \
                hint: check the disk, or lower sync_interval");
            }
            return Ok(());
        }
        let target = self.names.finished(&recovered);
        publish(self.names, &temporary, &target)?;
        fs::remove_file(path)?;
        self.telemetry.file(FileEvent::Recovered);
        tracing::warn!(path = %target.display(), rows = converted.rows, torn = converted.torn, "a file that was not finished is finished now, and can be read as any other; \
                hint: raise service.shutdown_timeout if flowtap was not killed");
        Ok(())
    }

    /// Lines are good up to the last that is whole.
    fn take_up_lines(&self, path: &Path, name: Name) -> io::Result<()> {
        let mut from = path.to_owned();
        if self.compression == Compression::Gzip {
            let members = json::Members::of(path)?;
            if members.loss.damaged > 0 {
                set_aside(path, members.loss.damaged, self.telemetry)?;
                if self.names.finished(&name.clone().recovered()).exists() {
                    // The crash was between the two: the rows must not be there twice.
                    return fs::remove_file(path);
                }
                if !members.is_empty() {
                    from = self.names.converting(&name);
                    members.copy(&from).inspect_err(|_| remove(&from))?;
                }
            }
            if members.is_empty() {
                return fs::remove_file(path);
            }
            if from == path {
                members.cut()?;
            }
        } else if json::mend(path)? == 0 {
            return fs::remove_file(path);
        }
        let mut name = name.recovered();
        while self.names.finished(&name).exists() {
            name = name.next();
        }
        let recovered = self.names.finished(&name);
        publish(self.names, &from, &recovered)?;
        if from != path {
            fs::remove_file(path)?;
        }
        self.telemetry.file(FileEvent::Recovered);
        tracing::warn!(path = %recovered.display(), "a file that was not finished is kept without its last rows, and can be read as any other; \
                hint: raise service.shutdown_timeout if flowtap was not killed");
        Ok(())
    }
}

/// Keeps the file at `path`, which has damage other than a torn end, under a further name: `.corrupt` in place of `.partial`. `path`
/// itself stays until what can be read is in a finished file, so that a crash in between loses nothing.
pub(super) fn set_aside(path: &Path, damaged: u64, telemetry: &Telemetry) -> io::Result<()> {
    let id = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    for number in 0..MAX_CORRUPT {
        let target = match number {
            0 => path.with_extension(CORRUPT),
            number => path.with_extension(format!("{number}.{CORRUPT}")),
        };
        match fs::hard_link(path, &target) {
            Ok(()) => {}
            // A crash was in between, or recovery failed after this.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && id(path)? == id(&target)? => {
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            // A file system without such links.
            Err(_) => {
                fs::copy(path, &target).inspect_err(|_| remove(&target))?;
            }
        }
        telemetry.file(FileEvent::Corrupt);
        tracing::warn!(path = %target.display(), bytes = damaged, "a file that was left is damaged, and is kept aside; its rows that can be read \
            are recovered; hint: check the disk; remove the file by hand, rotation does not count it");
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{MAX_CORRUPT} damaged files of this name exist already"),
    ))
}

/// Gives a file that is on the disk its name.
pub(super) fn publish(names: &Names, from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    // The name is on the disk once the folder is, and a folder once the one above it is.
    for folder in to.ancestors().skip(1) {
        File::open(folder)?.sync_all()?;
        if folder == names.root {
            break;
        }
    }
    Ok(())
}

/// The lock on `file`; `None` if somebody else has it.
pub(super) fn lock(file: File) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "a file can't be removed");
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::PipelineKind;
    use flowtap_pipeline::testing::context;

    use super::*;

    #[test]
    fn a_file_that_is_gone_since_the_folder_was_listed_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        let names = Names::new(&path, ".jsonl", PipelineKind::Metrics, "node1").unwrap();
        // The folder has a name, and there is no file: a link that leads nowhere.
        let name = Name::starting(flowtap_pipeline::Timestamp::from_nanos(1));
        std::os::unix::fs::symlink("nowhere", names.partial(&name)).unwrap();
        let recovery = Recovery {
            names: &names,
            format: Format::Json,
            compression: Compression::None,
            telemetry: &Telemetry::new(&context("file")),
        };
        assert_eq!(recovery.run(&[]).unwrap(), 0);
    }
}
