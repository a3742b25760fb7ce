//! Frames of a compressed file: Zstandard frames or gzip members, each of which is a separate write.
//!
//! In: a file of frames, up to the length that it had. Out: the content of the frames that are whole. A frame is checked by its
//! checksum before any of it is passed on; after one that is damaged, the next that is whole is searched for, so damage costs the
//! frames that it hits. Bytes at the end that are not a whole frame are `torn`, as a write that was cut short leaves them; other bytes
//! that could not be interpreted are `damaged`.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;

use flate2::bufread::GzDecoder;

/// Content of a frame that is held in memory. A larger one is decoded twice: to check it, and to pass it on.
const MAX_HELD: usize = 16 << 20;

/// Beginnings of frames that are tried after damage. Random bytes hardly ever look like one.
const MAX_TRIES: usize = 1000;

/// Bytes that are searched at a time.
const STEP: u64 = 64 * 1024;

/// A compression with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Of journals, which are of Parquet.
    #[cfg(feature = "parquet")]
    Zstd,
    Gzip,
}

impl Packing {
    /// The first bytes of a frame: RFC 8878, section 3.1.1; RFC 1952, section 2.3.1, with the one method that there is.
    const fn magic(self) -> &'static [u8] {
        match self {
            #[cfg(feature = "parquet")]
            Self::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
            Self::Gzip => &[0x1f, 0x8b, 8],
        }
    }

    fn decoder<'a>(self, source: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            #[cfg(feature = "parquet")]
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(source)?.single_frame()),
            Self::Gzip => Box::new(GzDecoder::new(source)),
        })
    }
}

/// A part of a file.
#[derive(Clone, Debug)]
pub(super) struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Section {
    /// The first `length` bytes of `file`.
    pub(super) fn first(file: File, length: u64) -> Self {
        Self {
            file: Arc::new(file),
            at: 0,
            end: length,
        }
    }

    fn part(&self, at: u64, end: u64) -> Self {
        Self {
            file: Arc::clone(&self.file),
            at,
            end,
        }
    }
}

impl Read for Section {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = left.min(bytes.len());
        // By position: the file's own can be shared with another reader of it.
        let read = self.file.read_at(&mut bytes[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Bytes that could not be interpreted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loss {
    /// In front of whole frames, or not of a frame at all.
    pub(super) damaged: u64,
    /// At the end, of a write that was cut short.
    pub(super) torn: u64,
}

/// A frame that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    Whole,
    /// The file ends in it.
    Torn,
    Damaged,
}

/// Goes from one whole frame to the next.
#[derive(Debug)]
pub(super) struct Cursor {
    packing: Packing,
    reader: BufReader<Section>,
    /// Shared with those who gave the cursor away to a reader of its content.
    loss: Rc<Cell<Loss>>,
}

impl Cursor {
    pub(super) fn new(packing: Packing, section: Section) -> Self {
        Self {
            packing,
            reader: BufReader::with_capacity(usize::try_from(STEP).unwrap_or(8192), section),
            loss: Rc::default(),
        }
    }

    /// Bytes that could not be interpreted so far.
    pub(super) fn loss(&self) -> Rc<Cell<Loss>> {
        Rc::clone(&self.loss)
    }

    fn end(&self) -> u64 {
        self.reader.get_ref().end
    }

    fn position(&self) -> u64 {
        self.reader.get_ref().at - self.reader.buffer().len() as u64
    }

    fn seek(&mut self, at: u64) {
        let section = self.reader.get_ref().part(at, self.end());
        self.reader = BufReader::with_capacity(self.reader.capacity(), section);
    }

    fn lose(&self, damaged: u64, torn: u64) {
        let mut loss = self.loss.get();
        loss.damaged += damaged;
        loss.torn += torn;
        self.loss.set(loss);
    }

    /// Decodes the next whole frame into `out`, and returns where it begins and ends. `None` after the last. The part of a frame
    /// that is not whole is of no use in `out`, so `begin` is called before each.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn next<W: Write>(
        &mut self,
        out: &mut W,
        begin: impl Fn(&mut W),
    ) -> io::Result<Option<(u64, u64)>> {
        loop {
            let (at, end) = (self.position(), self.end());
            if at >= end {
                return Ok(None);
            }
            begin(out);
            let frame = decode(self.packing, &mut self.reader, out)?;
            if frame == Frame::Whole {
                return Ok(Some((at, self.position())));
            }
            if let Some(next) = self.intact(at + 1)? {
                self.lose(next - at, 0);
                self.seek(next);
                continue;
            }
            // After a power failure the end of a file can be zeros that were never written.
            if frame == Frame::Torn || self.is_zero(at)? {
                self.lose(0, end - at);
            } else {
                self.lose(end - at, 0);
            }
            self.seek(end);
        }
    }

    /// Counts what is left, from `at` on, as damaged.
    #[cfg(feature = "parquet")]
    fn abandon(&mut self, at: u64) {
        self.lose(self.end().saturating_sub(at), 0);
        self.seek(self.end());
    }

    /// The beginning of the next frame that is whole.
    fn intact(&self, from: u64) -> io::Result<Option<u64>> {
        let (magic, section, end) = (self.packing.magic(), self.reader.get_ref(), self.end());
        let (mut at, mut tries) = (from, 0);
        let mut block = Vec::new();
        while at + (magic.len() as u64) < end {
            let until = end.min(at + STEP);
            block.clear();
            section.part(at, until).read_to_end(&mut block)?;
            let hits = block.windows(magic.len()).enumerate();
            for (hit, _) in hits.filter(|(_, window)| *window == magic) {
                tries += 1;
                if tries > MAX_TRIES {
                    return Ok(None);
                }
                let candidate = at + hit as u64;
                let mut reader = BufReader::new(section.part(candidate, end));
                if decode(self.packing, &mut reader, &mut io::sink())? == Frame::Whole {
                    return Ok(Some(candidate));
                }
            }
            if until == end {
                break;
            }
            // The magic can be on both sides of the border.
            at = until - (magic.len() as u64 - 1);
        }
        Ok(None)
    }

    fn is_zero(&self, at: u64) -> io::Result<bool> {
        let mut rest = BufReader::new(self.reader.get_ref().part(at, self.end()));
        loop {
            let bytes = rest.fill_buf()?;
            if bytes.is_empty() {
                return Ok(true);
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            let length = bytes.len();
            rest.consume(length);
        }
    }
}

/// Decodes one frame; the system's errors are errors, those of the content are not.
fn decode(packing: Packing, reader: &mut BufReader<Section>, out: &mut impl Write) -> io::Result<Frame> {
    let mut decoder = packing.decoder(reader)?;
    match io::copy(&mut decoder, out) {
        Ok(_) => Ok(Frame::Whole),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Frame::Torn),
        Err(error) if error.raw_os_error().is_some() => Err(error),
        Err(_) => Ok(Frame::Damaged),
    }
}

/// The first bytes of what is written, and how many there were.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    length: usize,
}

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len();
        if self.length <= MAX_HELD {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The content of the whole frames, one after the other.
pub(super) struct Frames {
    cursor: Cursor,
    held: Held,
    /// Bytes of `held` that were passed on.
    read: usize,
    /// Where the current frame begins.
    begin: u64,
    /// A frame that is too large to be held.
    large: Option<Box<dyn Read>>,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames")
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl Frames {
    pub(super) fn new(packing: Packing, section: Section) -> Self {
        Self {
            cursor: Cursor::new(packing, section),
            held: Held::default(),
            read: 0,
            begin: 0,
            large: None,
        }
    }

    /// Bytes that could not be interpreted so far.
    pub(super) fn loss(&self) -> Rc<Cell<Loss>> {
        self.cursor.loss()
    }

    /// Counts the current frame, and those after it, as damaged: their content can't be interpreted.
    #[cfg(feature = "parquet")]
    pub(super) fn abandon(&mut self) {
        self.cursor.abandon(self.begin);
        (self.held, self.read, self.large) = (Held::default(), 0, None);
    }
}

impl Read for Frames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(large) = &mut self.large {
                let read = large.read(out)?;
                if read > 0 {
                    return Ok(read);
                }
                self.large = None;
            }
            let held = &self.held.bytes[self.read..];
            if !held.is_empty() {
                let length = held.len().min(out.len());
                out[..length].copy_from_slice(&held[..length]);
                self.read += length;
                return Ok(length);
            }
            let clear = |held: &mut Held| {
                held.bytes.clear();
                held.length = 0;
            };
            self.read = 0;
            let Some((begin, end)) = self.cursor.next(&mut self.held, clear)? else {
                clear(&mut self.held);
                return Ok(0);
            };
            self.begin = begin;
            if self.held.length > MAX_HELD {
                clear(&mut self.held);
                let section = self.cursor.reader.get_ref().part(begin, end);
                self.large = Some(self.cursor.packing.decoder(BufReader::new(section))?);
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "parquet")]
mod tests {
    use std::io::Seek;

    use flate2::write::GzEncoder;

    use super::*;

    fn packed(packing: Packing, content: &[u8]) -> Vec<u8> {
        match packing {
            Packing::Zstd => {
                let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
                encoder.include_checksum(true).unwrap();
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    fn read(packing: Packing, bytes: &[u8]) -> (String, Loss) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        // Nothing depends on the file's own position.
        file.rewind().unwrap();
        let mut frames = Frames::new(packing, Section::first(file, bytes.len() as u64));
        let mut text = String::new();
        frames.read_to_string(&mut text).unwrap();
        let loss = frames.loss().get();
        (text, loss)
    }

    #[test]
    fn damage_costs_the_frames_that_it_hits_and_is_counted_and_a_torn_end_is_distinguished() {
        for packing in [Packing::Zstd, Packing::Gzip] {
            let frames = ["one,", "two,", "three,"].map(|text| packed(packing, text.as_bytes()));
            let [first, second, third] = frames.each_ref().map(Vec::len);
            let whole = frames.concat();
            let none = Loss::default();
            assert_eq!(read(packing, &whole), ("one,two,three,".to_owned(), none));
            for (range, expected) in [
                (0..4, "two,three,"),
                (first + second - 6..first + second - 3, "one,three,"),
                (first + second - 1..first + second, "one,three,"),
                (first - 1..first + 1, "three,"),
            ] {
                let mut bytes = whole.clone();
                for byte in &mut bytes[range.clone()] {
                    *byte = !*byte;
                }
                let (text, loss) = read(packing, &bytes);
                assert_eq!(text, expected, "{packing:?} {range:?}");
                assert!(loss.damaged > 0 && loss.torn == 0, "{loss:?}");
            }
            // The first bytes are gone.
            let (text, loss) = read(packing, &whole[4..]);
            assert_eq!(text, "two,three,");
            assert_eq!((loss.damaged, loss.torn), ((first - 4) as u64, 0));
            for length in whole.len() - third + 1..whole.len() {
                let (text, loss) = read(packing, &whole[..length]);
                let torn = (length - first - second) as u64;
                assert_eq!(text, "one,two,");
                assert_eq!((loss.damaged, loss.torn), (0, torn), "{packing:?} {length}");
            }
            let zeros = [whole.clone(), vec![0; 100_000]].concat();
            let torn = Loss {
                damaged: 0,
                torn: 100_000,
            };
            assert_eq!(read(packing, &zeros).1, torn, "{packing:?}");
            let garbage = [&whole[..], &[7; 100]].concat();
            let damaged = Loss {
                damaged: 100,
                torn: 0,
            };
            assert_eq!(read(packing, &garbage).1, damaged, "{packing:?}");
        }
    }

    #[test]
    fn a_frame_that_is_too_large_to_be_held_is_read_as_any_other() {
        let content = "x".repeat(MAX_HELD + 12_345);
        for packing in [Packing::Zstd, Packing::Gzip] {
            let bytes = [packed(packing, content.as_bytes()), packed(packing, b"end")].concat();
            let (text, loss) = read(packing, &bytes);
            assert!(text.len() == content.len() + 3 && text.ends_with("xend"));
            assert_eq!(loss, Loss::default());
        }
    }
}
