//! JSON lines: an object per row.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use flate2::write::GzEncoder;
use flowtap_pipeline::Snapshot;

use super::row::each_row;

/// Lines are written once they are this long, together.
const CHUNK_BYTES: usize = 1 << 20;

/// A file of lines.
#[derive(Debug)]
pub(super) struct JsonFile {
    file: File,
    gzip: bool,
    bytes: u64,
}

impl JsonFile {
    /// Onto an empty `file` that is open for appending.
    pub(super) const fn new(file: File, gzip: bool) -> Self {
        Self { file, gzip, bytes: 0 }
    }

    /// Appends the rows of `snapshot`: all of them, or none.
    ///
    /// # Errors
    /// What the system said. The file is as it was.
    pub(super) fn write(&mut self, namespace: &str, snapshot: &Snapshot) -> io::Result<()> {
        let before = self.bytes;
        self.append(namespace, snapshot).inspect_err(|_| {
            // If not even this can be done, a torn line stays: readers of JSON lines skip it, or say so.
            if self.file.set_len(before).is_ok() {
                self.bytes = before;
            }
        })
    }

    fn append(&mut self, namespace: &str, snapshot: &Snapshot) -> io::Result<()> {
        let mut lines = Vec::new();
        each_row(namespace, snapshot, |row| {
            serde_json::to_writer(&mut lines, &row)?;
            lines.push(b'\n');
            if lines.len() >= CHUNK_BYTES {
                self.put(&lines)?;
                lines.clear();
            }
            Ok(())
        })
        .and_then(|()| self.put(&lines))
    }

    /// With gzip each write is a member of its own (RFC 1952, section 2.2), so that whatever has been written can be read.
    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        let packed;
        let bytes = if self.gzip {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(lines)?;
            packed = encoder.finish()?;
            &packed
        } else {
            lines
        };
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts everything on the disk.
    pub(super) fn finish(self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Cuts off a last line that a crash has torn. Returns how many bytes are left.
pub(super) fn mend(path: &Path) -> io::Result<u64> {
    const STEP: u64 = 64 * 1024;
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut end = length;
    let mut block = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(STEP);
        block.clear();
        file.seek(SeekFrom::Start(begin))?;
        Read::by_ref(&mut file)
            .take(end - begin)
            .read_to_end(&mut block)?;
        if let Some(newline) = block.iter().rposition(|byte| *byte == b'\n') {
            end = begin + newline as u64 + 1;
            break;
        }
        end = begin;
    }
    if end < length {
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(end)
}
