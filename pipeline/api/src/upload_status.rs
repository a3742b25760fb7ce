//! Uploads of a component, as served at `/status`.

use serde::Serialize;

/// The newest failed upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UploadFailure {
    /// When it failed, in nanoseconds since the epoch.
    pub at_unix_nano: u64,
    /// The file, by the name of its object.
    pub file: String,
    /// The destination and the cause.
    pub error: String,
}

/// State of the uploads of an exporter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UploadStatus {
    /// Finished files that are not uploaded yet.
    pub pending_files: u64,
    /// Files that were removed before they were uploaded.
    pub abandoned_files: u64,
    /// The newest failure, kept after uploads succeed again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<UploadFailure>,
    /// Since when there has been a file whose upload failed, in nanoseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since_unix_nano: Option<u64>,
}

/// Reports the uploads of an exporter while it runs.
pub trait UploadProbe: Send + Sync {
    /// Returns the current state.
    fn uploads(&self) -> UploadStatus;
}
