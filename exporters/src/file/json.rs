//! JSON lines: an object per row.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::write::GzEncoder;
use flowtap_pipeline::{Buckets, LogBatch, LogRecord, Pair, PairValue, Snapshot};

use super::content::Content;
use super::frames::{Cursor, Loss, Packing, Section};
use super::log_row;
use super::row::{Origin, Table, Value, signed, sorted_labels};

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

    /// Appends the rows of `content`: all of them, or none.
    ///
    /// # Errors
    /// The system's error. The file is unchanged.
    pub(super) fn write(&mut self, origin: &Origin, content: &Content<'_>) -> io::Result<()> {
        let before = self.bytes;
        let appended = match content {
            Content::Metrics(snapshot) => self.append(origin, snapshot),
            Content::Logs { batch, records } => self.append_logs(origin, batch, records),
        };
        appended.inspect_err(|_| {
            // If not even this can be done, a torn line stays: readers of JSON lines skip it, or say so.
            if self.file.set_len(before).is_ok() {
                self.bytes = before;
            }
        })
    }

    fn append_logs(&mut self, origin: &Origin, batch: &LogBatch, records: &[&LogRecord]) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
            log_row::push_line(&mut lines, origin, batch, record)?;
            if lines.len() >= CHUNK_BYTES {
                self.put(&lines)?;
                lines.clear();
            }
        }
        self.put(&lines)
    }

    fn append(&mut self, origin: &Origin, snapshot: &Snapshot) -> io::Result<()> {
        let (mut lines, mut labels) = (Vec::new(), Vec::new());
        for table in Table::all(origin, snapshot) {
            let line = Line::new(&table)?;
            for row in table.rows() {
                sorted_labels(row.series, &mut labels);
                line.push(&mut lines, &labels, &row.value)?;
                if lines.len() >= CHUNK_BYTES {
                    self.put(&lines)?;
                    lines.clear();
                }
            }
        }
        self.put(&lines)
    }

    /// With gzip each write is a separate member (RFC 1952, section 2.2), so that everything
    /// written so far can be read.
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
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// The common part of the lines of a table, encoded once.
struct Line {
    /// Up to the first label.
    begin: Vec<u8>,
    /// Bounds of a histogram.
    upper: &'static [f64],
    /// The same, written.
    bounds: Vec<u8>,
}

impl Line {
    fn new(table: &Table<'_>) -> io::Result<Self> {
        let mut begin = serde_json::to_vec(&table.head)?;
        // The labels and the value stand in the same object.
        begin.pop();
        begin.extend_from_slice(br#","labels":{"#);
        Ok(Self {
            begin,
            upper: table.bounds().unwrap_or_default(),
            bounds: match table.bounds() {
                Some(bounds) => serde_json::to_vec(bounds)?,
                None => b"[]".to_vec(),
            },
        })
    }

    fn push(&self, out: &mut Vec<u8>, labels: &[Pair<'_>], value: &Value<'_>) -> io::Result<()> {
        out.extend_from_slice(&self.begin);
        for (number, label) in labels.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            push_text(out, label.name)?;
            out.push(b':');
            match label.value {
                PairValue::Text(text) => push_text(out, text)?,
                PairValue::Integer(number) => {
                    push_number(out, b"\"", number);
                    out.push(b'"');
                }
            }
        }
        match value {
            Value::Gauge(point) => push_number(out, br#"},"total":"#, signed(point.total)),
            Value::Counter(point) => {
                push_number(out, br#"},"total":"#, signed(point.total));
                push_number(out, br#","delta":"#, signed(point.delta));
            }
            Value::Number(point) => {
                out.extend_from_slice(br#"},"value":"#);
                serde_json::to_writer(&mut *out, &point.value)?;
            }
            Value::Histogram(point) => {
                push_number(out, br#"},"count":"#, signed(point.count()));
                out.extend_from_slice(br#","sum":"#);
                serde_json::to_writer(&mut *out, &point.sum)?;
                out.extend_from_slice(br#","bounds":"#);
                let counts: Vec<u64> = match &point.buckets {
                    Buckets::Explicit(_) => {
                        out.extend_from_slice(&self.bounds);
                        point.counts(self.upper).collect()
                    }
                    Buckets::Exponential(buckets) => {
                        let (bounds, counts) = buckets.to_explicit();
                        serde_json::to_writer(&mut *out, &bounds)?;
                        counts
                    }
                };
                let mut before: &[u8] = br#","buckets":["#;
                for count in counts {
                    push_number(out, before, signed(count));
                    before = b",";
                }
                out.push(b']');
            }
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }
}

fn push_number(out: &mut Vec<u8>, before: &[u8], number: impl itoa::Integer) {
    out.extend_from_slice(before);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a string in quotes. Nearly none has anything to escape, and then it is copied.
fn push_text(out: &mut Vec<u8>, text: &[u8]) -> io::Result<()> {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
        Ok(())
    } else {
        // It was text.
        let text = str::from_utf8(text).unwrap_or_default();
        Ok(serde_json::to_writer(out, text)?)
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

/// Members of a file of lines with gzip that are whole.
#[derive(Debug)]
pub(super) struct Members {
    file: File,
    /// Where they begin and end; adjacent ones are one range.
    whole: Vec<(u64, u64)>,
    /// Bytes between them and at the end.
    pub(super) loss: Loss,
}

impl Members {
    /// Reads the file at `path`.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let section = Section::first(file.try_clone()?, file.metadata()?.len());
        let mut cursor = Cursor::new(Packing::Gzip, section);
        let mut whole: Vec<(u64, u64)> = Vec::new();
        while let Some((begin, end)) = cursor.next(&mut io::sink(), |_| {})? {
            match whole.last_mut() {
                Some(last) if last.1 == begin => last.1 = end,
                _ => whole.push((begin, end)),
            }
        }
        let loss = cursor.loss().get();
        Ok(Self { file, whole, loss })
    }

    /// Whether there are none.
    pub(super) const fn is_empty(&self) -> bool {
        self.whole.is_empty()
    }

    /// Cuts off a last member that a crash has torn.
    pub(super) fn cut(&self) -> io::Result<()> {
        if self.loss.torn > 0 {
            let length = self.file.metadata()?.len();
            self.file.set_len(length - self.loss.torn)?;
            self.file.sync_all()?;
        }
        Ok(())
    }

    /// Writes them to `target`, which is replaced, and puts it on the disk.
    pub(super) fn copy(&self, target: &Path) -> io::Result<()> {
        // Peers and traffic are private.
        let mut copy = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(target)?;
        for (begin, end) in &self.whole {
            (&self.file).seek(SeekFrom::Start(*begin))?;
            io::copy(&mut (&self.file).take(end - begin), &mut copy)?;
        }
        copy.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_written_as_serde_json_writes_it() {
        for text in [
            "",
            "plain ~",
            "\"",
            "\\",
            "\n",
            "\u{1f}",
            "\u{7f}",
            "gr\u{fc}\u{df}e \u{1f980}",
        ] {
            let mut out = Vec::new();
            push_text(&mut out, text.as_bytes()).unwrap();
            assert_eq!(out, serde_json::to_vec(text).unwrap(), "{text:?}");
        }
    }
}
