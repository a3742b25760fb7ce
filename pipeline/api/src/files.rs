//! Files that a config names: regular files of bounded size.
//!
//! A FIFO without a writer, a device or a file such as `/proc/kmsg` would block the thread that opens or reads it, for ever and without
//! a signal that ends it; `/dev/zero` would fill the memory. Components read what their config names by [`read`], so that such a file
//! is an error like any other.

use std::fs::{self, File, FileType, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// Maximum size of a file of certificates, a key, a token or a kubeconfig.
pub const MAX_CREDENTIAL_BYTES: u64 = 16 << 20;

/// Returns what to do about a file that can't be written, as the text of a hint.
///
/// ```
/// use std::io::{Error, ErrorKind};
///
/// let hint = flowtap_pipeline::files::write_hint(&Error::from(ErrorKind::ReadOnlyFilesystem));
/// assert!(hint.contains("/var/lib/flowtap"));
/// ```
pub fn write_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ReadOnlyFilesystem => {
            "it is read-only for flowtap: under the shipped unit name a place below /var/lib/flowtap, or add the folder to `ReadWritePaths=`"
        }
        ErrorKind::PermissionDenied => "make the folder writable for flowtap's user",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free space",
        _ => "the folder must exist, be writable for flowtap, and have room",
    }
}

/// Opens a regular file to read it; never blocks.
///
/// ```
/// let error = flowtap_pipeline::files::open("/dev/zero".as_ref()).unwrap_err();
/// assert!(error.to_string().starts_with("is a character device; expected a regular file"));
/// ```
///
/// # Errors
/// [`io::Error`] if it can't be opened, or is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // First, as to open a device can have an effect: a watchdog starts, a tape rewinds.
    check(&fs::metadata(path)?)?;
    let file = File::options()
        .read(true)
        // Another file may have the name by now: a FIFO opens at once, and the check of the open file refuses it. It also holds for
        // reads of the few regular files that would wait for data, such as `/proc/kmsg`.
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// Returns the content of a regular file of at most `limit` bytes.
///
/// # Errors
/// [`io::Error`] if it can't be read, is not a regular file, or is larger.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let too_large = || {
        let message = format!("has more than {limit} bytes, which is the maximum");
        io::Error::new(ErrorKind::FileTooLarge, message)
    };
    // Before any memory is taken for it. Files of /proc have size 0 here, whatever they contain.
    if file.metadata()?.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    match file.take(limit + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 > limit => Err(too_large()),
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(unusable("a stream of the kernel")),
        Err(error) => Err(error),
    }
}

/// Returns the text of a regular file of at most `limit` bytes.
///
/// # Errors
/// Those of [`read`], and text that is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "is not text in UTF-8"))
}

fn check(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    Err(unusable(name(kind)))
}

fn name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() {
        "a block device"
    } else {
        "a character device"
    }
}

fn unusable(kind: &str) -> io::Error {
    // The key, the file and the fix are the caller's.
    io::Error::new(
        ErrorKind::InvalidInput,
        format!("is {kind}; expected a regular file"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::mpsc::sync_channel;
    use std::thread;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    /// The message of [`read`], which must return soon.
    fn refused(path: &str) -> String {
        let (sender, receiver) = sync_channel(1);
        let path = path.to_owned();
        thread::Builder::new()
            .spawn(move || sender.send(read(Path::new(&path), 1 << 20)))
            .unwrap();
        let read = receiver.recv_timeout(Duration::from_secs(20));
        read.expect("it blocks").unwrap_err().to_string()
    }

    #[test]
    fn what_would_block_or_never_end_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert_eq!(
            refused(fifo.to_str().unwrap()),
            "is a FIFO; expected a regular file"
        );
        assert!(refused(folder.path().to_str().unwrap()).starts_with("is a directory;"));
        assert!(refused("/dev/zero").starts_with("is a character device;"));
        // It is empty at once, or belongs to root; its next line may never come.
        if let Ok(open) = open(Path::new("/proc/kmsg")) {
            drop(open);
            refused("/proc/kmsg");
        }
    }

    #[test]
    fn a_file_of_just_the_limit_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "12345").unwrap();
        assert_eq!(read_text(file.path(), 5).unwrap(), "12345");
        let error = read(file.path(), 4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        fs::write(file.path(), [b'a', 0xff]).unwrap();
        let error = read_text(file.path(), 5).unwrap_err().to_string();
        assert_eq!(error, "is not text in UTF-8");
        // Of size 0 by its status, as all of /proc.
        let of_proc = Path::new("/proc/self/status");
        assert!(!read(of_proc, 1 << 16).unwrap().is_empty());
        let error = read(of_proc, 10).unwrap_err().to_string();
        assert_eq!(error, "has more than 10 bytes, which is the maximum");
    }
}
