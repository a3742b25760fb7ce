//! The state file: what was learned, over restarts.
//!
//! Eight bytes `fltwatch`, the format's version, a CRC-32 of the rest, and the states of pipelines: each has the length of the pipeline's name
//! and the name, the length of the state and the state ([`Saved`]) in postcard's wire format. Numbers are little-endian and have 32 bits, the
//! length of a state 64. The file is written beside itself and renamed, on a thread of its
//! own, so that a crash leaves the file before. A pipeline replaces its own state: the others are of pipelines with another traffic, or of
//! ones that are not there for now.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flowtap_pipeline::{Replaced, WrittenFolder, files};
use serde::{Deserialize, Serialize};

use super::findings::Said;
use super::lock::Lock;
use super::memory::Memory;
use super::paths::{CORRUPT, LOCK, NEW, beside_as, folder_of};

const MAGIC: &[u8; 8] = b"fltwatch";
const VERSION: u32 = 5;

/// A larger file is not one of ours: contacts are bounded.
const MAX_BYTES: u64 = 1 << 30;

/// Pipelines whose states are kept: those that were written last. A renamed one leaves its state.
const MAX_PIPELINES: usize = 32;

/// Links of a state file that are followed, as the kernel does.
const MAX_LINKS: usize = 40;

/// Time between two reports of saves that fail for the same reason.
const REPORT_EVERY: Duration = Duration::from_secs(3600);

/// Held while a file is read and written anew: processors of two pipelines may have the same one.
static WRITING: Mutex<()> = Mutex::new(());

/// The state of a pipeline.
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
    /// After all that files of earlier versions have, which read no further.
    learned_until: u64,
}

/// The states in a file, by the name of the pipeline; the one that was written last is the last.
type States<'a> = Vec<(&'a str, &'a [u8])>;

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

/// The part of a state file that concerns a pipeline.
#[derive(Debug)]
pub(super) enum Found {
    /// The state of its `watch`.
    Own(Box<Saved>),
    /// Nothing: the file, if there is one, has the states of these pipelines.
    Others(Vec<String>),
}

/// Reads what the `watch` of this pipeline has learned.
pub(super) fn read(file: &Path, pipeline: &str) -> Result<Found, StateError> {
    let Some(content) = content_of(file)? else {
        return Ok(Found::Others(Vec::new()));
    };
    let states = states(&content)?;
    let Some((_, state)) = states.iter().find(|(of, _)| *of == pipeline) else {
        let others = states.iter().map(|(of, _)| (*of).to_owned());
        return Ok(Found::Others(others.collect()));
    };
    let undecoded = |_| StateError::Content("it can't be decoded");
    let (mut saved, rest) = postcard::take_from_bytes::<Saved>(state).map_err(undecoded)?;
    if !rest.is_empty() {
        saved.memory.learned_until = postcard::from_bytes(rest).map_err(undecoded)?;
    }
    saved.memory.index();
    Ok(Found::Own(Box::new(saved)))
}

fn content_of(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match files::read(file, MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        content => content.map(Some),
    }
}

fn states(content: &[u8]) -> Result<States<'_>, StateError> {
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
    let mut states = States::new();
    let mut rest = rest;
    while !rest.is_empty() {
        let (state, after) = split_state(rest).ok_or(StateError::Content("it can't be decoded"))?;
        states.push(state);
        rest = after;
    }
    Ok(states)
}

/// A pipeline and its state.
type PipelineState<'a> = (&'a str, &'a [u8]);

/// The first pipeline and its state, and what follows them.
fn split_state(rest: &[u8]) -> Option<(PipelineState<'_>, &[u8])> {
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (pipeline, rest) = rest.split_at_checked(length)?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (state, rest) = rest.split_at_checked(length)?;
    Some(((str::from_utf8(pipeline).ok()?, state), rest))
}

/// The bytes before a state of this pipeline.
fn head(pipeline: &str, state: &[u8]) -> Vec<u8> {
    let name = u32::try_from(pipeline.len()).unwrap_or(u32::MAX).to_le_bytes();
    [
        &name[..],
        pipeline.as_bytes(),
        &(state.len() as u64).to_le_bytes(),
    ]
    .concat()
}

/// The file that is written if `file` is a link: a rename would replace the link. It may be missing.
pub(super) fn target(file: &Path) -> PathBuf {
    let mut target = file.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(link) => target = folder_of(&target).join(link),
            Err(_) => break,
        }
    }
    target
}

/// Whether a file of this name may be one that is written beside another state file.
pub(super) fn is_of_another(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| [NEW, CORRUPT, LOCK].iter().any(|end| extension == *end))
}

/// The name under which a damaged file is kept: one, the newest.
pub(super) fn corrupt(file: &Path) -> PathBuf {
    beside_as(file, CORRUPT)
}

/// Keeps a file that can't be used beside itself.
fn set_aside(file: &Path) -> io::Result<()> {
    let kept = corrupt(file);
    fs::rename(file, &kept)?;
    tracing::info!(
        file = %kept.display(),
        "the damaged state file of `watch` is kept under another name, and a new one is written"
    );
    Ok(())
}

fn encode(memory: &Memory, said: &Said) -> io::Result<Vec<u8>> {
    let learned_until = memory.learned_until;
    let saving = Saving {
        memory,
        said,
        learned_until,
    };
    postcard::to_stdvec(&saving).map_err(io::Error::other)
}

/// The states of pipelines other than this one: what is kept while its own is written.
fn others(content: &[u8], pipeline: &str) -> Result<Vec<(String, Vec<u8>)>, StateError> {
    let mut others = states(content)?;
    others.retain(|(of, _)| *of != pipeline);
    let surplus = (others.len() + 1).saturating_sub(MAX_PIPELINES);
    let newest = others.into_iter().skip(surplus);
    Ok(newest
        .map(|(of, state)| (of.to_owned(), state.to_owned()))
        .collect())
}

/// The name under which the next version of `file` is written. It has the whole name of the file in it: `watch.a` and `watch.b` may be
/// files of two processors of one pipeline.
fn beside(file: &Path, pipeline: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.{NEW}", pipeline.replace('/', "-")));
    PathBuf::from(name)
}

/// Replaces the state of `pipeline` in `file`. A file that can't be read is left as it is: it may have the states of others.
fn write(file: &Path, pipeline: &str, state: &[u8]) -> io::Result<()> {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    // Its content is large, and dropped before the next one is written.
    let others = match content_of(file)?.map(|content| others(&content, pipeline)) {
        Some(Err(_)) => {
            set_aside(file)?;
            Vec::new()
        }
        Some(Ok(others)) => others,
        None => Vec::new(),
    };
    let states: Vec<_> = others
        .iter()
        .map(|(of, state)| (&**of, &**state))
        .chain([(pipeline, state)])
        .collect();
    let beside = beside(file, pipeline);
    let written = write_new(&beside, &states).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        // On a disk that is full it would take what is left.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_new(file: &Path, states: &[(&str, &[u8])]) -> io::Result<()> {
    let mut new = match File::create(file) {
        // The sandbox has created the folder; there may be none, or somebody has removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder_of(file))?;
            File::create(file)?
        }
        new => new?,
    };
    let states: Vec<_> = states
        .iter()
        .map(|(of, state)| (head(of, state), state))
        .collect();
    let mut sum = crc32fast::Hasher::new();
    for (head, state) in &states {
        sum.update(head);
        sum.update(state);
    }
    let sum = sum.finalize().to_le_bytes();
    new.write_all(&[MAGIC, &VERSION.to_le_bytes()[..], &sum].concat())?;
    for (head, state) in &states {
        new.write_all(head)?;
        new.write_all(state)?;
    }
    new.sync_all()
}

/// Writes on a separate thread.
#[derive(Debug)]
pub(super) struct Saver {
    file: PathBuf,
    folder: WrittenFolder,
    states: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    /// After the last save it ends.
    _lock: Option<Arc<Lock>>,
}

impl Saver {
    /// # Errors
    /// The system gave no thread.
    pub(super) fn start(file: PathBuf, pipeline: Arc<str>, lock: Option<Arc<Lock>>) -> io::Result<Self> {
        let (states, incoming) = sync_channel(1);
        let folder = WrittenFolder::new(file.parent().unwrap_or(Path::new(".")));
        let (target, of_thread) = (file.clone(), folder.clone());
        let thread = thread::Builder::new()
            .name("watch-state".to_owned())
            .spawn(move || save(&target, &of_thread, &pipeline, &incoming))?;
        Ok(Self {
            file,
            folder,
            states: Some(states),
            thread: Some(thread),
            _lock: lock,
        })
    }

    /// Has `memory` written soon. If the one before is still being written, the next call does.
    pub(super) fn save(&mut self, memory: &Memory, said: &Said) {
        let Some(states) = &self.states else {
            return;
        };
        match encode(memory, said).map(|state| states.try_send(state)) {
            Ok(Ok(()) | Err(TrySendError::Full(_))) => {}
            Ok(Err(TrySendError::Disconnected(_))) => {
                self.states = None;
                self.fail(&io::Error::other("its thread has ended"));
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Writes `memory`, and waits until that is done.
    pub(super) fn finish(&mut self, memory: &Memory, said: &Said) {
        let Some(states) = self.states.take() else {
            return;
        };
        // It may wait for the one before, which is being written.
        match encode(memory, said).map(|state| states.send(state)) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.fail(&io::Error::other("its thread has ended")),
            Err(error) => self.fail(&error),
        }
        drop(states);
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported by the hook.
            let _ = thread.join();
        }
    }

    fn fail(&self, error: &io::Error) {
        failed(&self.file, &self.folder, error, 1);
    }
}

fn save(file: &Path, folder: &WrittenFolder, pipeline: &str, incoming: &Receiver<Vec<u8>>) {
    let mut failures = Failures::default();
    // Not before there is a pipeline that runs: `flowtap validate` leaves the file as it is.
    while let Ok(state) = incoming.recv() {
        match write(file, pipeline, &state) {
            Ok(()) if failures.end() => {
                tracing::info!(file = %file.display(), "what the processor `watch` has learned is saved again");
            }
            Ok(()) => {}
            Err(error) => {
                if let Some(saves) = failures.report(error.kind(), Instant::now()) {
                    failed(file, folder, &error, saves);
                }
            }
        }
    }
}

/// Saves that failed one after the other.
#[derive(Debug, Default)]
struct Failures {
    /// Why and when the newest of them was reported.
    reported: Option<(io::ErrorKind, Instant)>,
    unreported: u64,
}

impl Failures {
    /// Adds one. Returns how many there were since a report, if there is to be another.
    fn report(&mut self, kind: io::ErrorKind, now: Instant) -> Option<u64> {
        self.unreported += 1;
        let is_due = self.reported.is_none_or(|(reported, at)| {
            reported != kind || now.saturating_duration_since(at) >= REPORT_EVERY
        });
        is_due.then(|| {
            self.reported = Some((kind, now));
            std::mem::take(&mut self.unreported)
        })
    }

    /// A save succeeded. Returns whether some before it failed.
    fn end(&mut self) -> bool {
        std::mem::take(self).reported.is_some()
    }
}

/// The state that a restart would have, for a log.
fn consequence(file: &Path) -> &'static str {
    if file.exists() {
        "a restart would go on with what was saved last"
    } else {
        "after a restart it would learn anew"
    }
}

/// `saves`: how many failed since the last report.
fn failed(file: &Path, folder: &WrittenFolder, error: &io::Error, saves: u64) {
    if let Some(replaced) = folder.explain(error) {
        tracing::warn!(
            file = %file.display(),
            saves,
            %error,
            "what the processor `watch` has learned can't be saved: {replaced}; hint: {}",
            Replaced::HINT
        );
        return;
    }
    tracing::warn!(
        file = %file.display(),
        saves,
        %error,
        "what the processor `watch` has learned can't be saved; {}\n  \
         hint: {}",
        consequence(file),
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
        assert!(own(&file, "metrics/a").is_none());
        let mut memory = Memory::default();
        (memory.since, memory.learned_until) = (7, 8);
        assert_eq!(memory.number("shop/Deployment/web".to_owned(), 10), Some(0));
        let mut saver = Saver::start(file.clone(), "metrics/a".into(), None).unwrap();
        let key = ContactKey {
            subject: 0,
            object: Object::Named("shop/Deployment/db".into()),
            port: 5432,
            serves: false,
            is_udp: false,
        };
        let said = Said::from([(
            (FindingKind::FirstContact, Some(key), "".into()),
            Timestamp::from_nanos(9).into(),
        )]);
        saver.save(&memory, &said);
        saver.finish(&memory, &said);
        let found = own(&file, "metrics/a").unwrap();
        assert_eq!((&found.memory, &found.said), (&memory, &said));
        let mut found = found.memory;
        assert_eq!(found.number("shop/Deployment/web".to_owned(), 10), Some(0));
        assert!(matches!(&found.subjects[0], Some(Subject { name, .. }) if name == "shop/Deployment/web"));

        // The end of learning is after all that an earlier version wrote, and reads.
        let state = encode(&memory, &said).unwrap();
        let (earlier, rest) = postcard::take_from_bytes::<Saved>(&state).unwrap();
        assert_eq!((&earlier.said, rest.len()), (&said, 1));
        write(&file, "metrics/a", &state[..state.len() - rest.len()]).unwrap();
        let of_earlier = own(&file, "metrics/a").unwrap().memory;
        assert_eq!((of_earlier.since, of_earlier.learned_until), (7, 0));
        write(&file, "metrics/a", &state).unwrap();

        let whole = fs::read(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(read(&file, "metrics/a").is_err(), "cut off at {length}");
        }
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x55;
            fs::write(&file, &damaged).unwrap();
            assert!(read(&file, "metrics/a").is_err(), "damaged at {place}");
        }
    }

    /// Writes a state of `pipeline` that is known by its time.
    fn write_since(file: &Path, pipeline: &str, since: u64) {
        let mut memory = Memory::default();
        memory.since = since;
        write(file, pipeline, &encode(&memory, &Said::new()).unwrap()).unwrap();
    }

    fn own(file: &Path, pipeline: &str) -> Option<Saved> {
        match read(file, pipeline).unwrap() {
            Found::Own(saved) => Some(*saved),
            Found::Others(_) => None,
        }
    }

    fn since(file: &Path, pipeline: &str) -> Option<u64> {
        own(file, pipeline).map(|saved| saved.memory.since)
    }

    #[test]
    fn each_pipeline_has_its_state_in_the_file_and_the_oldest_of_many_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("watch.state");
        write_since(&file, "metrics", 1);
        write_since(&file, "logs", 2);
        write_since(&file, "logs", 3);
        assert_eq!(
            (since(&file, "metrics"), since(&file, "logs")),
            (Some(1), Some(3))
        );
        assert_eq!(since(&file, "metrics/new"), None);
        write_since(&file, "metrics", 4);
        for number in 0..MAX_PIPELINES as u64 - 1 {
            write_since(&file, &format!("metrics/{number}"), number);
        }
        assert_eq!((since(&file, "logs"), since(&file, "metrics")), (None, Some(4)));
    }

    #[test]
    fn a_link_is_followed_also_to_a_file_that_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (link, other) = (folder.path().join("watch.state"), folder.path().join("other"));
        std::os::unix::fs::symlink("other", &link).unwrap();
        assert_eq!(target(&link), other);
        assert_eq!(target(&other), other);
        write_since(&target(&link), "metrics", 1);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            (since(&other, "metrics"), since(&link, "metrics")),
            (Some(1), Some(1))
        );
    }

    #[test]
    fn saves_that_fail_are_reported_once_an_hour_and_again_for_another_reason() {
        use io::ErrorKind::{PermissionDenied, StorageFull};
        let begin = Instant::now();
        let mut failures = Failures::default();
        assert!(!failures.end());
        for (kind, seconds, reported) in [
            (StorageFull, 0, Some(1)),
            (StorageFull, 300, None),
            (StorageFull, 3_599, None),
            (StorageFull, 3_600, Some(3)),
            (PermissionDenied, 3_700, Some(1)),
            (PermissionDenied, 3_800, None),
        ] {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(failures.report(kind, now), reported, "{seconds}");
        }
        assert!(failures.end());
        assert_eq!(failures.report(StorageFull, begin), Some(1));
    }

    #[test]
    fn what_a_save_that_fails_costs_depends_on_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("watch.state");
        assert_eq!(consequence(&file), "after a restart it would learn anew");
        write_since(&file, "metrics", 1);
        assert_eq!(
            consequence(&file),
            "a restart would go on with what was saved last"
        );
    }
}
