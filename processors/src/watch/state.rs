//! The state file: what was learned, over restarts.
//!
//! Eight bytes `fltwatch`, the format's version (32 bits, little-endian), a CRC-32 of the rest, and the contents ([`Saved`]) in
//! postcard's wire format. It is written beside itself and renamed, on a thread of its own, so that a crash leaves the file before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use flowtap_pipeline::{Replaced, WrittenFolder, files};
use serde::{Deserialize, Serialize};

use super::findings::Said;
use super::memory::Memory;

const MAGIC: &[u8; 8] = b"fltwatch";
const VERSION: u32 = 4;

/// A larger file is not one of ours: contacts are bounded.
const MAX_BYTES: u64 = 1 << 30;

/// The contents of a state file.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub(super) struct Saved {
    pub(super) memory: Memory,
    /// Without it each finding would be made again after a restart, however short `repeat` was.
    pub(super) said: Said,
}

/// [`Saved`], to write it.
#[derive(Serialize)]
struct Saving<'a> {
    memory: &'a Memory,
    said: &'a Said,
}

/// Why a state file can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what was written.
    #[error("the file is not a state file of `watch`, or is damaged: {0}")]
    Content(&'static str),
}

impl StateError {
    /// Whether the file has other content than a state file of this version.
    pub(super) const fn is_content(&self) -> bool {
        matches!(self, Self::Content(_))
    }

    /// Whether the file is none that could be a state file: a device, a FIFO, a directory.
    pub(super) fn is_other_kind(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::InvalidInput)
    }
}

/// Reads what was learned; `None` if there is no file.
pub(super) fn read(file: &Path) -> Result<Option<Saved>, StateError> {
    let content = match files::read(file, MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        content => content?,
    };
    let rest = content
        .strip_prefix(MAGIC)
        .ok_or(StateError::Content("its beginning is another"))?;
    let (version, rest) = rest
        .split_first_chunk()
        .ok_or(StateError::Content("it is cut off"))?;
    if u32::from_le_bytes(*version) != VERSION {
        return Err(StateError::Content("another version of flowtap wrote it"));
    }
    let (sum, rest) = rest
        .split_first_chunk()
        .ok_or(StateError::Content("it is cut off"))?;
    if u32::from_le_bytes(*sum) != crc32fast::hash(rest) {
        return Err(StateError::Content("its checksum is wrong"));
    }
    let mut saved: Saved =
        postcard::from_bytes(rest).map_err(|_| StateError::Content("it can't be decoded"))?;
    saved.memory.index();
    Ok(Some(saved))
}

/// The name under which a damaged file is kept: one, the newest.
pub(super) fn corrupt(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".corrupt");
    PathBuf::from(name)
}

/// Keeps a file that can't be used beside itself. Another pipeline may have done so, and written the file anew.
fn set_aside(file: &Path, folder: &WrittenFolder) {
    if !read(file).is_err_and(|error| error.is_content()) {
        return;
    }
    let kept = corrupt(file);
    match fs::rename(file, &kept) {
        Ok(()) => tracing::info!(
            file = %kept.display(),
            "the damaged state file of `watch` is kept under another name, and a new one is written"
        ),
        Err(error) => failed(file, folder, &error),
    }
}

fn encode(memory: &Memory, said: &Said) -> io::Result<Vec<u8>> {
    let rest = postcard::to_stdvec(&Saving { memory, said }).map_err(io::Error::other)?;
    Ok([
        MAGIC,
        &VERSION.to_le_bytes()[..],
        &crc32fast::hash(&rest).to_le_bytes(),
        &rest,
    ]
    .concat())
}

/// The name under which the next version of `file` is written. It has the whole name of the file in it: `watch.a` and `watch.b` may be
/// files of two processors of one pipeline. `pipeline`: processors of two pipelines may have the same file; the last to write it
/// wins, whole.
fn beside(file: &Path, pipeline: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.new", pipeline.replace('/', "-")));
    PathBuf::from(name)
}

/// The folder that `file` is in.
pub(super) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn write(file: &Path, pipeline: &str, content: &[u8]) -> io::Result<()> {
    let beside = beside(file, pipeline);
    let mut new = match File::create(&beside) {
        // The sandbox has created the folder; there may be none, or somebody has removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder_of(file))?;
            File::create(&beside)?
        }
        new => new?,
    };
    new.write_all(content)?;
    new.sync_all()?;
    fs::rename(&beside, file)
}

/// Writes on a thread of its own.
#[derive(Debug)]
pub(super) struct Saver {
    file: PathBuf,
    folder: WrittenFolder,
    contents: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    /// `is_damaged`: the file holds something else, which is kept.
    ///
    /// # Errors
    /// The system gave no thread.
    pub(super) fn start(file: PathBuf, pipeline: Arc<str>, is_damaged: bool) -> io::Result<Self> {
        let (contents, incoming) = sync_channel(1);
        let folder = WrittenFolder::new(file.parent().unwrap_or(Path::new(".")));
        let (target, of_thread) = (file.clone(), folder.clone());
        let thread = thread::Builder::new()
            .name("watch-state".to_owned())
            .spawn(move || save(&target, &of_thread, &pipeline, is_damaged, &incoming))?;
        Ok(Self {
            file,
            folder,
            contents: Some(contents),
            thread: Some(thread),
        })
    }

    /// Has `memory` written soon. If the one before is still being written, the next call does.
    pub(super) fn save(&self, memory: &Memory, said: &Said) {
        let Some(contents) = &self.contents else {
            return;
        };
        match encode(memory, said).map(|content| contents.try_send(content)) {
            Ok(Ok(()) | Err(TrySendError::Full(_))) => {}
            Ok(Err(TrySendError::Disconnected(_))) => {
                failed(
                    &self.file,
                    &self.folder,
                    &io::Error::other("its thread has ended"),
                );
            }
            Err(error) => failed(&self.file, &self.folder, &error),
        }
    }

    /// Writes `memory`, and waits until that is done.
    pub(super) fn finish(&mut self, memory: &Memory, said: &Said) {
        let Some(contents) = self.contents.take() else {
            return;
        };
        // It may wait for the one before, which is being written.
        match encode(memory, said).map(|content| contents.send(content)) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => failed(
                &self.file,
                &self.folder,
                &io::Error::other("its thread has ended"),
            ),
            Err(error) => failed(&self.file, &self.folder, &error),
        }
        drop(contents);
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported by the hook.
            let _ = thread.join();
        }
    }
}

fn save(file: &Path, folder: &WrittenFolder, pipeline: &str, is_damaged: bool, incoming: &Receiver<Vec<u8>>) {
    // Not before there is a pipeline that runs: `flowtap validate` leaves the file as it is.
    let mut is_damaged = is_damaged;
    while let Ok(content) = incoming.recv() {
        if std::mem::take(&mut is_damaged) {
            set_aside(file, folder);
        }
        if let Err(error) = write(file, pipeline, &content) {
            failed(file, folder, &error);
        }
    }
}

fn failed(file: &Path, folder: &WrittenFolder, error: &io::Error) {
    if let Some(replaced) = folder.explain(error) {
        tracing::warn!(
            file = %file.display(),
            %error,
            "what the processor `watch` has learned can't be saved: {replaced}; hint: {}",
            Replaced::HINT
        );
        return;
    }
    tracing::warn!(
        file = %file.display(),
        %error,
        "what the processor `watch` has learned can't be saved; after a restart it would learn anew\n  \
         hint: {}",
        files::write_hint(error)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowtap_pipeline::{FindingKind, Timestamp};

    use crate::watch::ends::{ContactKey, Object};
    use crate::watch::memory::Subject;

    #[test]
    fn files_and_pipelines_with_names_that_begin_alike_do_not_share_what_is_written_beside_them() {
        let names: std::collections::HashSet<_> = ["watch.a", "watch.b", "watch", "watch.a.b"]
            .into_iter()
            .flat_map(|file| ["metrics", "metrics/a"].map(|pipeline| beside(Path::new(file), pipeline)))
            .collect();
        assert_eq!(names.len(), 8, "{names:?}");
        assert_eq!(
            beside(Path::new("/var/lib/watch.a"), "metrics/a"),
            Path::new("/var/lib/watch.a.metrics-a.new")
        );
    }

    #[test]
    fn what_was_saved_is_read_again_and_what_is_damaged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("watch.state");
        assert!(read(&file).unwrap().is_none());
        let mut memory = Memory::default();
        memory.since = 7;
        assert_eq!(memory.number("shop/Deployment/web".to_owned(), 10), Some(0));
        let mut saver = Saver::start(file.clone(), "metrics/a".into(), false).unwrap();
        let key = ContactKey {
            subject: 0,
            object: Object::Named("shop/Deployment/db".into()),
            port: 5432,
            serves: false,
            is_udp: false,
        };
        let said = Said::from([(
            (FindingKind::FirstContact, Some(key), "".into()),
            Timestamp::from_nanos(9),
        )]);
        saver.save(&memory, &said);
        saver.finish(&memory, &said);
        let found = read(&file).unwrap().unwrap();
        assert_eq!((&found.memory, &found.said), (&memory, &said));
        let mut found = found.memory;
        assert_eq!(found.number("shop/Deployment/web".to_owned(), 10), Some(0));
        assert!(matches!(&found.subjects[0], Some(Subject { name, .. }) if name == "shop/Deployment/web"));

        let whole = fs::read(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(read(&file).is_err(), "cut off at {length}");
        }
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x55;
            fs::write(&file, &damaged).unwrap();
            assert!(read(&file).is_err(), "damaged at {place}");
        }
    }
}
