//! The error of TLS.

use std::path::PathBuf;

/// Why a file of TLS can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It can't be read, or is not PEM.
    #[error("{key}: {}: {reason}", .file.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// Its path.
        file: PathBuf,
        /// Message of the error.
        reason: String,
    },
    /// It can be read, and is of no use.
    #[error("{}: {}", .0.display(), .1)]
    Unusable(PathBuf, String),
    /// There are no authorities to check the peer's certificate with.
    #[error(
        "the system has no usable certificate authorities{}{}; hint: install `ca-certificates`, or set `tls.ca_file` or \
         `SSL_CERT_FILE`", if .0.is_empty() { "" } else { ": " }, .0
    )]
    NoAuthorities(String),
    /// The library has no protocol in common with us.
    #[error("TLS: {0}")]
    Protocol(String),
}
