//! Recordings: what a receiver handed to its pipelines, in a file.
//!
//! Eight bytes `flowtap\n`, the format's version (32 bits), then frames: length and CRC-32 of the payload (32 bits each), and
//! the payload, a [`Frame`] in postcard's wire format. All numbers are little-endian. The first frame is
//! [`Frame::Start`], the last [`Frame::End`]: a file without it was cut off.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flowtap_pipeline::cluster_objects::PodStart;
use flowtap_pipeline::{ClusterObjects, FlowBatch, NodeInfo, Timestamp, files};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"flowtap\n";

/// The version that is written, and the only one that is read.
const VERSION: u32 = 6;

/// No frame is longer: a batch holds some thousand records of some hundred bytes.
const MAX_FRAME_BYTES: u32 = 64 * 1024 * 1024;

/// One step of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Frame {
    /// When it began, and on what machine.
    Start {
        /// When.
        at: Timestamp,
        /// The machine's addresses and resolvers, which the processors want to know.
        node: NodeInfo,
    },
    /// A batch that a receiver passed on.
    Batch(FlowBatch),
    /// Nothing before this moment is missing.
    Watermark(Timestamp),
    /// When it ended.
    End(Timestamp),
    /// Objects of the cluster that it is made in; later ones replace earlier ones of the same name.
    Cluster(ClusterObjects),
    /// A listing of the cluster's objects ends here, after those that it showed to be different. Recordings of early builds have
    /// none.
    Listed {
        /// Namespace and name of pods that are gone.
        gone: Vec<(String, String)>,
        /// The start of pods that are new.
        starts: Vec<PodStart>,
    },
}

/// Why a recording can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The system refused.
    #[error("{}: {source}", .file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// It is a FIFO that no process has opened to read.
    #[error("{}: no process reads this FIFO; hint: start the reader first, or name a regular file", .0.display())]
    NoReader(PathBuf),
    /// It does not begin as a recording does.
    #[error("{} is not a recording of flowtap", .0.display())]
    NoRecording(PathBuf),
    /// It was written by another version.
    #[error("{} is a recording of version {found}; this flowtap reads version {VERSION}", .file.display())]
    Version {
        /// Which file.
        file: PathBuf,
        /// The version that was found.
        found: u32,
    },
    /// It ends where more should come.
    #[error("{}, at byte {offset}: cut off; {what}", .file.display())]
    CutOff {
        /// Which file.
        file: PathBuf,
        /// Where the frame begins that is not whole, or is missing.
        offset: u64,
        /// The expected content.
        what: &'static str,
    },
    /// A frame is not what was written.
    #[error("{}, at byte {offset}: corrupt; {what}", .file.display())]
    Corrupt {
        /// Which file.
        file: PathBuf,
        /// Where the frame begins.
        offset: u64,
        /// The reason.
        what: String,
    },
}

/// Whether a file that begins with these bytes is a recording, of any version.
pub fn is_recording(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

/// A recording that is being written.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Writer {
    /// Begins a recording; what was in the file before is gone.
    ///
    /// # Errors
    /// [`RecordingError::Io`]; [`RecordingError::NoReader`].
    pub fn create(path: &Path) -> Result<Self, RecordingError> {
        Self::begin(create(path)?, path)
    }

    /// Begins a recording after the contents of a file that is open, such as a pipe; `name` names it in errors.
    ///
    /// # Errors
    /// [`RecordingError::Io`].
    pub fn append(file: File, name: &Path) -> Result<Self, RecordingError> {
        Self::begin(file, name)
    }

    fn begin(file: File, path: &Path) -> Result<Self, RecordingError> {
        let mut writer = Self {
            file: BufWriter::new(file),
            path: path.to_owned(),
        };
        writer.put(&[&MAGIC, &VERSION.to_le_bytes()])?;
        Ok(writer)
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// [`RecordingError::Io`].
    pub fn write(&mut self, frame: &Frame) -> Result<(), RecordingError> {
        let payload =
            postcard::to_stdvec(frame).map_err(|error| io_error(&self.path, io::Error::other(error)))?;
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let sum = crc32fast::hash(&payload);
        self.put(&[&length.to_le_bytes(), &sum.to_le_bytes(), &payload])
    }

    /// Writes out what is still buffered.
    ///
    /// # Errors
    /// [`RecordingError::Io`].
    pub fn flush(&mut self) -> Result<(), RecordingError> {
        self.file.flush().map_err(|source| io_error(&self.path, source))
    }

    fn put(&mut self, parts: &[&[u8]]) -> Result<(), RecordingError> {
        for part in parts {
            self.file
                .write_all(part)
                .map_err(|source| io_error(&self.path, source))?;
        }
        Ok(())
    }
}

/// Creates or empties the file. Does not wait for the reader of a FIFO: that wait has no end, and no signal interrupts it where
/// signals have a separate thread.
fn create(path: &Path) -> Result<File, RecordingError> {
    let opened = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path);
    let file = opened.map_err(|source| {
        let is_fifo = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo());
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENXIO) if is_fifo => RecordingError::NoReader(path.to_owned()),
            _ => io_error(path, source),
        }
    })?;
    // Writes wait for a reader that is slow.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(|errno| io_error(path, errno.into()))?;
    Ok(file)
}

/// A recording that is being read: its frames, in order. After an error nothing more comes.
#[derive(Debug)]
pub struct Reader<R = BufReader<File>> {
    file: R,
    path: PathBuf,
    /// Where the next frame begins.
    offset: u64,
    ended: bool,
}

impl Reader {
    /// Opens a recording; also returns its start and its machine.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn open(path: &Path) -> Result<(Self, Timestamp, NodeInfo), RecordingError> {
        let file = File::open(path).map_err(|source| io_error(path, source))?;
        Self::new(BufReader::new(file), path)
    }

    /// As [`Reader::open`], for a file that a config names: only a regular one, as a FIFO without a writer would block the start.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn open_regular(path: &Path) -> Result<(Self, Timestamp, NodeInfo), RecordingError> {
        let file = files::open(path).map_err(|source| io_error(path, source))?;
        Self::new(BufReader::new(file), path)
    }
}

impl<R: Read> Reader<R> {
    /// Begins to read the recording in `file`, which errors call `path`; returns what [`Reader::open`] does.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn new(file: R, path: &Path) -> Result<(Self, Timestamp, NodeInfo), RecordingError> {
        let mut reader = Self {
            file,
            path: path.to_owned(),
            offset: 0,
            ended: false,
        };
        let mut head = [0; 12];
        if reader.fill(&mut head)? < head.len() || !is_recording(&head) {
            return Err(RecordingError::NoRecording(path.to_owned()));
        }
        let found = number_at(&head, 8);
        if found != VERSION {
            let file = path.to_owned();
            return Err(RecordingError::Version { file, found });
        }
        reader.offset = 12;
        match reader.next() {
            Some(Ok(Frame::Start { at, node })) => Ok((reader, at, node)),
            Some(Err(error)) => Err(error),
            _ => Err(reader.corrupt(12, &"the first frame has no start time")),
        }
    }

    fn read(&mut self) -> Result<Frame, RecordingError> {
        let offset = self.offset;
        let cut_off = |reader: &Self, what| RecordingError::CutOff {
            file: reader.path.clone(),
            offset,
            what,
        };
        let mut head = [0; 8];
        if self.fill(&mut head)? < head.len() {
            return Err(cut_off(self, "the recording has no end"));
        }
        let (length, sum) = (number_at(&head, 0), number_at(&head, 4));
        if length > MAX_FRAME_BYTES {
            return Err(self.corrupt(offset, &format!("a frame of {length} bytes")));
        }
        // Grows with what is there: a length alone takes no memory.
        let mut payload = Vec::new();
        let read = (&mut self.file).take(u64::from(length)).read_to_end(&mut payload);
        if read.map_err(|source| io_error(&self.path, source))? < length as usize {
            return Err(cut_off(self, "the frame is not whole"));
        }
        if crc32fast::hash(&payload) != sum {
            return Err(self.corrupt(offset, &"the checksum does not match"));
        }
        self.offset += 8 + u64::from(length);
        postcard::from_bytes(&payload).map_err(|error| self.corrupt(offset, &error))
    }

    fn corrupt(&self, offset: u64, what: &dyn ToString) -> RecordingError {
        RecordingError::Corrupt {
            file: self.path.clone(),
            offset,
            what: what.to_string(),
        }
    }

    /// Reads until the buffer is full or the file ends; returns how much.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, RecordingError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(io_error(&self.path, source)),
            }
        }
        Ok(filled)
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Frame, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let frame = self.read();
        self.ended = !matches!(
            &frame,
            Ok(Frame::Start { .. }
                | Frame::Batch(_)
                | Frame::Watermark(_)
                | Frame::Cluster(_)
                | Frame::Listed { .. })
        );
        Some(frame)
    }
}

/// The number at `offset`; 0 beyond the end.
fn number_at(bytes: &[u8], offset: usize) -> u32 {
    let number = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    number.copied().map_or(0, u32::from_le_bytes)
}

fn io_error(path: &Path, source: io::Error) -> RecordingError {
    RecordingError::Io {
        file: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowtap_pipeline::cluster_objects::NamespaceObject;
    use flowtap_pipeline::{Endpoint, Events, Flow, ListenChange, Role, RoleSource, TcpRecord, UdpEnd};
    use std::fs;

    fn frames() -> Vec<Frame> {
        let end = |text: &str, port| Endpoint::new(text.parse().unwrap(), port);
        let record = TcpRecord {
            sent_bytes: -7,
            events: Events::OPENED | Events::CLOSED,
            ..TcpRecord::new(Flow {
                role: Role::Client,
                comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
                container_id: Some("0123".into()),
                ..Flow::new(end("192.0.2.1", 40_000), end("2001:db8::1", 443))
            })
        };
        let batch = FlowBatch {
            listeners: vec![ListenChange::Rescanned {
                netns: 7,
                ports: vec![80, 443],
            }],
            tcp: vec![record],
            ..FlowBatch::default()
        };
        let cluster = ClusterObjects {
            namespaces: vec![NamespaceObject {
                name: "shop".to_owned(),
                labels: [("team".to_owned(), "web".to_owned())].into(),
            }],
            ..ClusterObjects::default()
        };
        vec![
            Frame::Start {
                at: Timestamp::from_nanos(5),
                node: NodeInfo::default(),
            },
            Frame::Cluster(cluster),
            Frame::Listed {
                gone: vec![("shop".to_owned(), "web-1".to_owned())],
                starts: vec![PodStart {
                    created: Timestamp::from_nanos(5),
                    ..PodStart::default()
                }],
            },
            Frame::Batch(batch),
            Frame::Watermark(Timestamp::from_nanos(6)),
            Frame::End(Timestamp::from_nanos(7)),
        ]
    }

    /// A recording of an older flowtap must not be misread: new variants are appended.
    #[test]
    fn the_evidence_for_a_role_keeps_its_number_in_a_recording() {
        use RoleSource::{Assumed, Counters, Handshake, Listener, Message, Ports};
        for (number, source) in (0..).zip([Handshake, Listener, Assumed, Counters, Ports, Message]) {
            assert_eq!(postcard::to_stdvec(&source).unwrap(), [number], "{source:?}");
        }
    }

    /// The end of a UDP flow was a flag once.
    #[test]
    fn the_end_of_a_udp_flow_is_read_from_recordings_that_had_a_flag() {
        for (flag, end) in [(false, UdpEnd::Open), (true, UdpEnd::Closed)] {
            let bytes = postcard::to_stdvec(&flag).unwrap();
            assert_eq!(postcard::from_bytes::<UdpEnd>(&bytes).unwrap(), end);
            assert_eq!(postcard::to_stdvec(&end).unwrap(), bytes);
        }
    }

    #[test]
    fn a_recording_begins_behind_what_is_in_an_open_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "earlier\n").unwrap();
        let file = File::options().append(true).open(&path).unwrap();
        Writer::append(file, &path).unwrap().flush().unwrap();
        let found = fs::read(&path).unwrap();
        let header = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        assert_eq!(found, [b"earlier\n", &*header].concat());
        // A socket can't be opened by a name.
        let (mut reader, socket) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(socket));
        Writer::append(file, Path::new("socket"))
            .unwrap()
            .flush()
            .unwrap();
        let mut found = Vec::new();
        reader.read_to_end(&mut found).unwrap();
        assert_eq!(found, header);
    }

    fn recorded() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.flowtap");
        let mut writer = Writer::create(&path).unwrap();
        for frame in frames() {
            writer.write(&frame).unwrap();
        }
        writer.flush().unwrap();
        (dir, path)
    }

    fn error_of(path: &Path) -> String {
        match Reader::open(path) {
            Ok((reader, _, _)) => reader
                .filter_map(Result::err)
                .map(|error| error.to_string())
                .collect(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let (_dir, path) = recorded();
        let (reader, at, node) = Reader::open(&path).unwrap();
        assert_eq!((at, node), (Timestamp::from_nanos(5), NodeInfo::default()));
        let read: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(read, frames()[1..]);
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_an_error_that_says_where() {
        let (_dir, path) = recorded();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let error = error_of(&path);
            let expected = if length < 12 {
                "is not a recording"
            } else {
                "cut off"
            };
            assert!(error.contains(expected), "{length} bytes: {error}");
            assert!(
                length < 12 || error.contains("at byte "),
                "{length} bytes: {error}"
            );
        }
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let (_dir, path) = recorded();
        let whole = fs::read(&path).unwrap();
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 0x10;
            fs::write(&path, &flipped).unwrap();
            assert!(
                !error_of(&path).is_empty(),
                "byte {place} was flipped, and nobody noticed"
            );
        }
    }

    #[test]
    fn another_version_and_another_file_are_distinguished() {
        let (_dir, path) = recorded();
        let mut other = fs::read(&path).unwrap();
        other[8] = 9;
        fs::write(&path, &other).unwrap();
        assert!(error_of(&path).contains("of version 9"), "{}", error_of(&path));
        fs::write(&path, "service: {pipelines: {}}\n").unwrap();
        assert!(error_of(&path).contains("is not a recording"));
    }
}
