//! Retention: which finished files are removed, and why.
//!
//! In: the folder, the limits, the time of windows. Out: removed files, counted by the limit that removed them.

use std::fs;
use std::io;
use std::time::Duration;

use flowtap_pipeline::Timestamp;

use super::config::Rotation;
use super::names::{Name, Names};
use super::telemetry::{FileEvent, Telemetry};

/// Files are looked at again after this time at most, so that `max_retention` holds where nothing is written.
const INTERVAL: Duration = Duration::from_secs(60);

/// State of the files that are kept.
#[derive(Debug, Default)]
pub(super) struct Retention {
    /// When files were last looked at.
    looked: Timestamp,
    /// Finished files that begin later than now, as last reported.
    future_files: usize,
}

impl Retention {
    /// Whether it is time to look at the files of an idle exporter.
    pub(super) fn is_due(&self, now: Timestamp, rotation: &Rotation) -> bool {
        !rotation.max_retention.is_zero() && now.since(self.looked) >= INTERVAL
    }

    /// Removes the oldest files beyond the limits, `newest` never. Files of a time that is still to come count as the oldest, and are
    /// removed for their number and bytes alone: the clock was ahead when they were written, or is behind now, so by name each of
    /// them is newer than `newest`, and their age is not known. With a clock that is behind they are all that there is from before, and
    /// no more of them are removed than by a clock that is right. `removed` is called after each file that is removed, also by others
    /// while this looks at the files.
    ///
    /// # Errors
    /// The folder can't be read, or a file can't be removed.
    pub(super) fn apply(
        &mut self,
        names: &Names,
        rotation: &Rotation,
        newest: Option<&Name>,
        now: Timestamp,
        telemetry: &Telemetry,
        removed: impl Fn(&Name),
    ) -> io::Result<()> {
        self.looked = now;
        if rotation.max_files == 0 && rotation.max_total_bytes == 0 && rotation.max_retention.is_zero() {
            return Ok(());
        }
        let (finished, _) = names.list()?;
        let (future, past): (Vec<_>, Vec<_>) = finished
            .into_iter()
            .filter(|name| Some(name) != newest)
            .partition(|name| name.is_after(now));
        self.report_future(names, &future, now);
        // A file's last row is no later than this after its name.
        let span = rotation.max_age.saturating_add(rotation.max_retention);
        let oldest = Timestamp::from_nanos(
            now.as_nanos()
                .saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        );
        // `None`: somebody else has removed it since the folder was listed.
        let size = |name: &Name| match fs::metadata(names.finished(name)) {
            Ok(file) => Some(file.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => Some(0),
        };
        // From the newest to the oldest: once one is removed, all that are older are.
        let (mut files, mut bytes) = (
            usize::from(newest.is_some()),
            newest.and_then(size).unwrap_or_default(),
        );
        for name in past.iter().rev().chain(future.iter().rev()) {
            let Some(length) = size(name) else {
                removed(name);
                continue;
            };
            files += 1;
            bytes += length;
            let event = if rotation.max_files > 0 && files > rotation.max_files {
                FileEvent::Removed
            } else if rotation.max_total_bytes > 0 && bytes > rotation.max_total_bytes {
                FileEvent::RemovedBytes
            } else if !rotation.max_retention.is_zero() && !name.is_after(oldest) {
                FileEvent::RemovedAge
            } else {
                continue;
            };
            match fs::remove_file(names.finished(name)) {
                Ok(()) => telemetry.file(event),
                // Somebody else was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            // One that was removed for its age leaves its place to those dated in the future, which are not removed for theirs.
            if event == FileEvent::RemovedAge {
                files -= 1;
                bytes -= length;
            }
            removed(name);
            remove_empty(names, name);
        }
        Ok(())
    }

    fn report_future(&mut self, names: &Names, future: &[Name], now: Timestamp) {
        if future.len() > self.future_files
            && let Some(first) = future.first()
        {
            tracing::warn!(
                files = future.len(),
                first = %names.finished(first).display(),
                %now,
                "files dated in the future are the first that rotation removes, and not for their age; hint: check that the clock \
                 is synchronized: it was ahead once, or is behind now"
            );
        }
        self.future_files = future.len();
    }
}

/// Removes the partition of a removed file, if that was the last one there.
fn remove_empty(names: &Names, name: &Name) {
    for folder in names.folder(name).ancestors() {
        // It fails where there is something left, or where others have been quicker.
        if folder == names.root || fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use flowtap_pipeline::PipelineKind;
    use flowtap_pipeline::testing::context;

    use super::*;

    #[test]
    fn a_file_that_somebody_else_removes_meanwhile_ends_no_round_and_takes_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        let names = Names::new(&path, ".jsonl", PipelineKind::Metrics, "node1").unwrap();
        let at = |second: u64| Timestamp::from_nanos(second * 1_000_000_000);
        let files: Vec<_> = (1..=6).map(|second| Name::starting(at(second))).collect();
        for name in &files {
            fs::write(names.finished(name), "12345").unwrap();
        }
        let rotation = Rotation {
            max_files: 3,
            ..Rotation::default()
        };
        let telemetry = Telemetry::new(&context("file"));
        let gone = RefCell::new(Vec::new());
        let mut retention = Retention::default();
        let mut apply = |meanwhile: Option<usize>| {
            let removed = |name: &Name| {
                if let Some(index) = meanwhile.filter(|_| gone.borrow().is_empty()) {
                    fs::remove_file(names.finished(&files[index])).unwrap();
                }
                gone.borrow_mut().push(name.clone());
            };
            let newest = Some(&files[5]);
            let applied = retention.apply(&names, &rotation, newest, at(9), &telemetry, removed);
            applied.map(|()| gone.take())
        };
        // The three oldest are too many, and the second of them is gone by then.
        let removed = apply(Some(1)).unwrap();
        assert_eq!(removed, [files[2].clone(), files[1].clone(), files[0].clone()]);
        assert_eq!(names.list().unwrap().0, files[3..]);
        // As seen by a round whose list still has one that is gone: a link that leads nowhere.
        fs::remove_file(names.finished(&files[4])).unwrap();
        std::os::unix::fs::symlink("nowhere", names.finished(&files[4])).unwrap();
        fs::write(names.finished(&files[2]), "12345").unwrap();
        assert_eq!(apply(None).unwrap(), [files[4].clone()]);
        assert!(names.finished(&files[2]).exists(), "three files are there");
    }
}
