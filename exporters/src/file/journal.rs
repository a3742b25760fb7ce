//! The journal of a Parquet file: rows are in it as soon as they are written, and become Parquet when the file is finished.
//!
//! In: batches of rows. Out: a file whose rows can be read again after a crash, up to the last write that was whole.
//!
//! A Parquet file can't be read without its footer, which comes last. So a file that is being written is a stream of Arrow IPC
//! messages instead: the schema with the file's metadata, then a batch per write, each write in a Zstandard frame. Arrow's and
//! Zstandard's own tools read it (`zstd -dc FILE.partial`).

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, SchemaRef};

use super::frames::{Frames, Loss, Packing, Section};

/// Level of Zstandard: the journal is read once, so writing it quickly counts.
const LEVEL: i32 = 1;

/// A journal that is being written.
pub(super) struct Journal {
    file: File,
    stream: StreamWriter<Vec<u8>>,
    bytes: u64,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("file", &self.file)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Onto an empty `file` that is open for appending. The schema is written with the first rows.
    ///
    /// # Errors
    /// The schema can't be encoded.
    pub(super) fn new(file: File, schema: &SchemaRef) -> io::Result<Self> {
        Ok(Self {
            file,
            stream: StreamWriter::try_new(Vec::new(), schema).map_err(of_arrow)?,
            bytes: 0,
        })
    }

    /// Its length.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends the batches: all of them, or none.
    ///
    /// # Errors
    /// The system's error, or one of `batches`. The file is unchanged.
    pub(super) fn write(
        &mut self,
        batches: impl IntoIterator<Item = Result<RecordBatch, ArrowError>>,
    ) -> io::Result<()> {
        let before = self.bytes;
        // The schema waits in the stream until the first write.
        let pending = self.stream.get_ref().clone();
        let appended = batches.into_iter().try_for_each(|batch| {
            self.stream.write(&batch.map_err(of_arrow)?).map_err(of_arrow)?;
            self.append()
        });
        appended.inspect_err(|_| {
            *self.stream.get_mut() = pending;
            // If not even this can be done, a torn frame stays, and what follows it can't be read: a later write would be lost.
            match self.file.set_len(before) {
                Ok(()) => self.bytes = before,
                Err(error) => tracing::warn!(%error, "a write that failed can't be undone; \
                    rows of this file that are written from now on can't be read; hint: check the disk"),
            }
        })
    }

    fn append(&mut self) -> io::Result<()> {
        let messages = std::mem::take(self.stream.get_mut());
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.write_all(&messages)?;
        let frame = encoder.finish()?;
        self.file.write_all(&frame)?;
        self.bytes += frame.len() as u64;
        Ok(())
    }

    /// Puts everything on the disk.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// The batches of a journal that are whole.
pub(super) struct Batches {
    /// `None` if the schema can't be read, without which nothing can.
    stream: Option<StreamReader<Frames>>,
    loss: Rc<Cell<Loss>>,
}

impl Batches {
    /// Opens the journal at `path`.
    ///
    /// # Errors
    /// The file can't be read.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Self::new(file, length)
    }

    /// The same of the first `length` bytes of an open file.
    ///
    /// # Errors
    /// The file can't be read.
    pub(super) fn new(file: File, length: u64) -> io::Result<Self> {
        let frames = Frames::new(Packing::Zstd, Section::first(file, length));
        let loss = frames.loss();
        let stream = match StreamReader::try_new(frames, None) {
            Ok(stream) => Some(stream),
            Err(error) => {
                system_error(error)?;
                // The frames after the schema can't be interpreted without it.
                let torn = loss.get().torn;
                loss.set(Loss {
                    damaged: length - torn,
                    torn,
                });
                None
            }
        };
        Ok(Self { stream, loss })
    }

    /// The schema, with the metadata of the file. `None` if it can't be read: nothing was written, or it is damaged.
    pub(super) fn schema(&self) -> Option<SchemaRef> {
        Some(self.stream.as_ref()?.schema())
    }

    /// Bytes that could not be interpreted: of the whole journal, once its batches were read.
    pub(super) fn loss(&self) -> Loss {
        self.loss.get()
    }
}

impl Iterator for Batches {
    type Item = io::Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let stream = self.stream.as_mut()?;
        match stream.next()? {
            Ok(batch) => Some(Ok(batch)),
            Err(error) => {
                if let Err(error) = system_error(error) {
                    self.stream = None;
                    return Some(Err(error));
                }
                // Frames that are whole, but not of this journal.
                stream.get_mut().abandon();
                None
            }
        }
    }
}

/// The system's error, if that is what it was.
fn system_error(error: ArrowError) -> io::Result<()> {
    match of_arrow(error) {
        error if error.raw_os_error().is_some() => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn of_arrow(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::sync::Arc;

    use arrow_array::Int64Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_schema::{DataType, Field, Schema};

    use super::*;

    fn numbers(range: std::ops::Range<i64>) -> Result<RecordBatch, ArrowError> {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![Arc::new(Int64Array::from_iter_values(range))],
        )
    }

    fn read(path: &Path) -> (Vec<i64>, Loss) {
        let mut batches = Batches::open(path).unwrap();
        let mut all = Vec::new();
        for batch in &mut batches {
            all.extend(batch.unwrap().column(0).as_primitive::<Int64Type>().values());
        }
        (all, batches.loss())
    }

    /// A journal of three writes, its bytes, and where the writes end.
    fn three_writes(dir: &Path) -> (std::path::PathBuf, Vec<u8>, Vec<u64>) {
        let path = dir.join("journal");
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let mut journal = Journal::new(file, &numbers(0..0).unwrap().schema()).unwrap();
        let mut ends = Vec::new();
        for range in [0..3, 3..4, 4..100] {
            journal.write([numbers(range)]).unwrap();
            ends.push(journal.bytes());
        }
        drop(journal);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(ends.last(), Some(&(bytes.len() as u64)));
        (path, bytes, ends)
    }

    /// Cuts a journal of three writes at every length: what is read is the writes that were whole.
    #[test]
    fn every_whole_write_is_read_wherever_a_crash_cuts_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (_, bytes, ends) = three_writes(dir.path());
        let cut = dir.path().join("cut");
        for length in 0..=bytes.len() {
            fs::write(&cut, &bytes[..length]).unwrap();
            let whole = ends.iter().filter(|end| **end <= length as u64).count();
            let rows = [0, 3, 4, 100][whole];
            let (numbers, loss) = read(&cut);
            assert!(numbers.into_iter().eq(0..rows), "{length}");
            let end = ends[..whole].last().copied().unwrap_or_default();
            let torn = length as u64 - end;
            assert_eq!(loss, Loss { damaged: 0, torn }, "{length}");
        }
    }

    /// Inverts each byte of a journal of three writes: the other two are read, unless it is the first, which has the schema.
    #[test]
    fn damage_costs_the_write_that_it_hits_and_is_not_taken_for_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let (_, bytes, ends) = three_writes(dir.path());
        let damaged = dir.path().join("damaged");
        let (first, second) = (
            usize::try_from(ends[0]).unwrap(),
            usize::try_from(ends[1]).unwrap(),
        );
        for index in 0..second {
            let mut bytes = bytes.clone();
            bytes[index] = !bytes[index];
            fs::write(&damaged, &bytes).unwrap();
            let (numbers, loss) = read(&damaged);
            if index < first {
                assert_eq!((numbers.len(), loss.damaged), (0, ends[2]), "{index}");
            } else {
                let expected: Vec<_> = (0..3).chain(4..100).collect();
                assert_eq!((numbers, loss.damaged), (expected, ends[1] - ends[0]), "{index}");
            }
            assert_eq!(loss.torn, 0, "{index}");
        }
        fs::write(&damaged, &bytes[4..]).unwrap();
        let (numbers, loss) = read(&damaged);
        assert_eq!((numbers.len(), loss.damaged), (0, ends[2] - 4));
    }

    #[test]
    fn a_write_that_fails_leaves_the_journal_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let mut journal = Journal::new(file, &numbers(0..0).unwrap().schema()).unwrap();
        let failure = || Err(ArrowError::ComputeError("a test".to_owned()));
        assert!(journal.write([numbers(0..5), failure()]).is_err());
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        journal.write([numbers(0..5)]).unwrap();
        assert!(journal.write([numbers(5..6), failure()]).is_err());
        journal.write([numbers(5..7)]).unwrap();
        assert_eq!(read(&path), ((0..7).collect(), Loss::default()));
    }
}
