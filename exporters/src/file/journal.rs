//! The journal of a Parquet file: rows are in it as soon as they are written, and become Parquet when the file is finished.
//!
//! In: batches of rows. Out: a file whose rows can be read again after a crash, up to the last write that was whole.
//!
//! A Parquet file can't be read without its footer, which comes last. So a file that is being written is a stream of Arrow IPC
//! messages instead: the schema with the file's metadata, then a batch per write, each write in a Zstandard frame. Arrow's and
//! Zstandard's own tools read it (`zstd -dc FILE.partial`).

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, SchemaRef};

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
                    hint: rows of this file that are written from now on can't be read"),
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

/// The batches of a journal, up to the first that is not whole.
pub(super) struct Batches {
    stream: StreamReader<zstd::Decoder<'static, BufReader<File>>>,
    /// Whether the end was not whole.
    pub(super) torn: bool,
}

impl Batches {
    /// Opens the journal at `path`. `None` if it has not even a schema: nothing was written.
    ///
    /// # Errors
    /// The file can't be opened.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        Self::new(File::open(path)?)
    }

    /// The same of an open file.
    ///
    /// # Errors
    /// There is no memory for the decoder.
    pub(super) fn new(file: File) -> io::Result<Option<Self>> {
        let decoder = zstd::Decoder::new(file)?;
        Ok(StreamReader::try_new(decoder, None)
            .ok()
            .map(|stream| Self { stream, torn: false }))
    }

    /// The schema, with the metadata of the file.
    pub(super) fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }
}

impl Iterator for Batches {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        if self.torn {
            return None;
        }
        match self.stream.next() {
            Some(Ok(batch)) => Some(batch),
            Some(Err(_)) => {
                self.torn = true;
                None
            }
            None => {
                // Arrow takes a frame that ends too early for the end of the stream.
                self.torn = self.stream.get_mut().read(&mut [0]).is_err();
                None
            }
        }
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

    fn read(path: &Path) -> Option<(Vec<i64>, bool)> {
        let mut batches = Batches::open(path).unwrap()?;
        let mut all = Vec::new();
        for batch in &mut batches {
            all.extend(batch.column(0).as_primitive::<Int64Type>().values());
        }
        Some((all, batches.torn))
    }

    /// Cuts a journal of three writes at every length: what is read is the writes that were whole.
    #[test]
    fn every_whole_write_is_read_wherever_a_crash_cuts_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
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
        let cut = dir.path().join("cut");
        for length in 0..=bytes.len() {
            fs::write(&cut, &bytes[..length]).unwrap();
            let whole = ends.iter().filter(|end| **end <= length as u64).count();
            let rows = [0, 3, 4, 100][whole];
            let (numbers, torn) = read(&cut).unwrap_or_default();
            // A frame whose last bytes are missing may be whole in all but its checksum.
            assert!(numbers.len() >= rows, "{length}: {} rows", numbers.len());
            assert!(
                numbers
                    .iter()
                    .copied()
                    .eq(0..i64::try_from(numbers.len()).unwrap()),
                "{length}"
            );
            let at_end = length as u64 == ends[2] || ends[..2].contains(&(length as u64));
            assert!(
                torn || numbers.is_empty() || at_end || numbers.len() > rows,
                "{length}"
            );
        }
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
        assert_eq!(read(&path), Some(((0..7).collect(), false)));
    }
}
