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
    /// no more of them are removed than by a clock that is right. `removed` is called after each file that is removed.
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
        let size = |name: &Name| fs::metadata(names.finished(name)).map_or(0, |file| file.len());
        // From the newest to the oldest: once one is removed, all that are older are.
        let (mut files, mut bytes) = (usize::from(newest.is_some()), newest.map_or(0, size));
        for name in past.iter().rev().chain(future.iter().rev()) {
            files += 1;
            let length = size(name);
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
            fs::remove_file(names.finished(name))?;
            telemetry.file(event);
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
                "files dated in the future are the first that rotation removes, and not for their age; hint: the clock was ahead once, or is \
                 behind now: check that it is synchronized"
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
