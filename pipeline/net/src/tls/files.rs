//! Files of certificates and keys: their contents, and whether they have changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use flowtap_pipeline::files::{self, MAX_CREDENTIAL_BYTES};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::TlsError;

/// Which file this is and when it, its mode or its owner changed last. A mode that is put right counts as a change, as the file can
/// be read from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileStamp {
    inode: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
}

impl FileStamp {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            inode: (file.dev(), file.ino()),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
            bytes: file.len(),
        })
    }
}

fn unreadable(key: &'static str, path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        key,
        file: path.to_owned(),
        reason: error.to_string(),
    }
}

pub(super) fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error: &dyn std::fmt::Display| unreadable(key, path, error);
    let bytes = files::read(path, MAX_CREDENTIAL_BYTES).map_err(|error| failed(&error))?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&error))?;
    if certificates.is_empty() {
        return Err(failed(&"it has no certificate (`-----BEGIN CERTIFICATE-----`)"));
    }
    Ok(certificates)
}

pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed = |error: &dyn std::fmt::Display| unreadable("key_file", path, error);
    let bytes = files::read(path, MAX_CREDENTIAL_BYTES).map_err(|error| failed(&error))?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| failed(&error))
}

/// The files of one part of a listener's TLS as they were at the last reading that succeeded, and the failure of the last one, if it did
/// not.
#[derive(Debug)]
pub(super) struct Checked<const FILES: usize> {
    stamp: [Option<FileStamp>; FILES],
    unusable: Option<String>,
}

impl<const FILES: usize> Checked<FILES> {
    pub(super) fn new(files: [&Path; FILES]) -> Self {
        Self {
            stamp: files.map(FileStamp::of),
            unusable: None,
        }
    }

    /// Calls `read` if the files have changed, or could not be used the last time; `None` if there is nothing new.
    ///
    /// # Errors
    /// That of `read`, unless the last call has returned the same.
    pub(super) fn read_if_changed<T>(
        &mut self,
        files: [&Path; FILES],
        read: impl FnOnce() -> Result<T, TlsError>,
    ) -> Result<Option<T>, TlsError> {
        // Before the files are read: a change in between is read the next time.
        let now = Self::new(files);
        if now.stamp == self.stamp && self.unusable.is_none() {
            return Ok(None);
        }
        match read() {
            Ok(value) => {
                *self = now;
                Ok(Some(value))
            }
            Err(error) => {
                let text = error.to_string();
                if self.unusable.replace(text.clone()) == Some(text) {
                    return Ok(None);
                }
                Err(error)
            }
        }
    }
}
