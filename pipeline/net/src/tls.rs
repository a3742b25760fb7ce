//! TLS of listeners and of connections to peers: files of certificates and keys, in PEM.
//!
//! All of them are read again when they change, so that a renewed certificate is used without a restart. Files that can't be
//! read leave the ones before in place.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use flowtap_pipeline::Violation;
use flowtap_pipeline::files::{self, MAX_CREDENTIAL_BYTES};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// Its certificate, followed by the chain.
    pub cert_file: PathBuf,
    /// The key of the certificate.
    pub key_file: PathBuf,
    /// Authorities of client certificates, which are then required; unset: none is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

impl ServerTls {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.cert_file, &self.key_file]
            .into_iter()
            .chain(&self.client_ca_file)
            .map(PathBuf::as_path)
    }
}

/// TLS of a connection to a peer. Empty: the system's authorities, no client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTls {
    /// Authorities that the peer's certificate must be of, in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A certificate to show, for peers that want one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The name in the peer's certificate, if it is not the one in the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

impl ClientTls {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.ca_file, &self.cert_file, &self.key_file]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    /// A violation of its settings, if any.
    pub fn validate(&self) -> Option<Violation> {
        (self.cert_file.is_some() != self.key_file.is_some()).then(|| Violation {
            path: vec!["tls".to_owned()],
            message: "`cert_file` and `key_file` belong together: set both or none".to_owned(),
        })
    }

    /// For connections of which it is known whether they use TLS. Without it the system's authorities are not needed, so it does
    /// not matter if there are none; files that are named are read all the same, so that a mistake is found early.
    ///
    /// # Errors
    /// [`TlsError`] with the file.
    pub fn config_for(&self, over_tls: bool) -> Result<ClientConfig, TlsError> {
        if over_tls || self.ca_file.is_some() || self.cert_file.is_some() {
            return self.client_config();
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Protocol(source.to_string()))?;
        Ok(builder
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth())
    }

    /// The state of its files, to see whether they have changed.
    pub fn stamp(&self) -> Stamp {
        let files = [&self.ca_file, &self.cert_file, &self.key_file];
        Stamp(files.map(|file| file.as_deref().and_then(FileStamp::of)))
    }

    /// For connections.
    ///
    /// # Errors
    /// [`TlsError`] with the file.
    pub fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca_file {
            for certificate in certificates("ca_file", path)? {
                roots
                    .add(certificate)
                    .map_err(|source| TlsError::Unusable(path.clone(), source.to_string()))?;
            }
        } else {
            let system = rustls_native_certs::load_native_certs();
            let (_, ignored) = roots.add_parsable_certificates(system.certs);
            let errors: Vec<_> = system.errors.iter().map(ToString::to_string).collect();
            if roots.is_empty() {
                return Err(TlsError::NoAuthorities(errors.join("; ")));
            }
            // One that is damaged does not matter as long as the peer's is among the others.
            if ignored > 0 || !errors.is_empty() {
                tracing::warn!(
                    ignored,
                    ?errors,
                    "some of the system's authorities can't be used; \
                hint: name the authority in `tls.ca_file`, if a connection fails"
                );
            }
        }
        let ca = self
            .ca_file
            .clone()
            .unwrap_or_else(|| PathBuf::from("the system's authorities"));
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|source| TlsError::Unusable(ca, source.to_string()))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Protocol(source.to_string()))?
            .with_webpki_verifier(verifier);
        match (&self.cert_file, &self.key_file) {
            (Some(cert_file), Some(key_file)) => config
                .with_client_auth_cert(certificates("cert_file", cert_file)?, key(key_file)?)
                .map_err(|source| TlsError::Unusable(cert_file.clone(), source.to_string())),
            _ => Ok(config.with_no_client_auth()),
        }
    }
}

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

/// The state of the files of a [`ClientTls`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp([Option<FileStamp>; 3]);

/// Which file this is and when it, its mode or its owner changed last. A mode that is put right counts as a change, as the file can
/// be read from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileStamp {
    inode: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
}

impl FileStamp {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            inode: (file.dev(), file.ino()),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
            bytes: file.len(),
        })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn unreadable(key: &'static str, path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        key,
        file: path.to_owned(),
        reason: error.to_string(),
    }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed = |error: &dyn std::fmt::Display| unreadable("key_file", path, error);
    let bytes = files::read(path, MAX_CREDENTIAL_BYTES).map_err(|error| failed(&error))?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| failed(&error))
}

/// The certificate of a listener, read again when its files change.
#[derive(Debug)]
pub struct ServerCertificate {
    files: ServerTls,
    current: ArcSwap<CertifiedKey>,
    checked: Mutex<Checked>,
}

/// The files as they were at the last reading that succeeded, and the failure of the last one, if it did not.
#[derive(Debug)]
struct Checked {
    stamp: [Option<FileStamp>; 2],
    unusable: Option<String>,
}

impl ServerCertificate {
    fn read(files: &ServerTls) -> Result<CertifiedKey, TlsError> {
        let certificates = certificates("cert_file", &files.cert_file)?;
        CertifiedKey::from_der(certificates, key(&files.key_file)?, &provider())
            .map_err(|source| TlsError::Unusable(files.cert_file.clone(), source.to_string()))
    }

    fn stamp(files: &ServerTls) -> [Option<FileStamp>; 2] {
        [&files.cert_file, &files.key_file].map(|file| FileStamp::of(file))
    }

    /// Reads the files again if they have changed, or could not be used the last time. Returns whether there is a new certificate.
    ///
    /// # Errors
    /// [`TlsError`] with the file, unless the last call has returned the same; the certificate before stays.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        // Before the files are read: a change in between is read the next time.
        let stamp = Self::stamp(&self.files);
        let mut checked = self.checked();
        if stamp == checked.stamp && checked.unusable.is_none() {
            return Ok(false);
        }
        match Self::read(&self.files) {
            Ok(certificate) => {
                self.current.store(Arc::new(certificate));
                *checked = Checked {
                    stamp,
                    unusable: None,
                };
                Ok(true)
            }
            Err(error) => {
                let text = error.to_string();
                if checked.unusable.replace(text.clone()) == Some(text) {
                    return Ok(false);
                }
                Err(error)
            }
        }
    }

    fn checked(&self) -> MutexGuard<'_, Checked> {
        // Every statement under the lock leaves it whole.
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// For a listener, with the certificate to refresh.
///
/// # Errors
/// [`TlsError`] with the file.
pub fn server_config(files: &ServerTls) -> Result<(ServerConfig, Arc<ServerCertificate>), TlsError> {
    let stamp = ServerCertificate::stamp(files);
    let certificate = Arc::new(ServerCertificate {
        current: ArcSwap::from_pointee(ServerCertificate::read(files)?),
        checked: Mutex::new(Checked {
            stamp,
            unusable: None,
        }),
        files: files.clone(),
    });
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Protocol(source.to_string()))?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable =
                |error: &dyn std::fmt::Display| TlsError::Unusable(path.clone(), error.to_string());
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca_file", path)? {
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| unusable(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let resolver: Arc<dyn ResolvesServerCert> = Arc::<ServerCertificate>::clone(&certificate);
    Ok((builder.with_cert_resolver(resolver), certificate))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the files of a new certificate, and returns it.
    fn issue(files: &ServerTls) -> CertificateDer<'static> {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&files.cert_file, issued.cert.pem()).unwrap();
        fs::write(&files.key_file, issued.signing_key.serialize_pem()).unwrap();
        issued.cert.der().clone()
    }

    fn served(certificate: &ServerCertificate) -> CertificateDer<'static> {
        certificate.current.load().cert[0].clone()
    }

    #[test]
    fn a_renewed_certificate_is_tried_until_its_files_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let files = ServerTls {
            cert_file: dir.path().join("server.crt"),
            key_file: dir.path().join("server.key"),
            client_ca_file: None,
        };
        let first = issue(&files);
        let (_, certificate) = server_config(&files).unwrap();
        assert!(!certificate.refresh().unwrap());
        let second = issue(&files);
        let key = fs::read(&files.key_file).unwrap();
        fs::write(&files.key_file, "not yet").unwrap();
        let written = fs::metadata(&files.key_file).unwrap().modified().unwrap();
        assert!(certificate.refresh().is_err());
        assert!(!certificate.refresh().unwrap(), "the same failure, once");
        assert_eq!(served(&certificate), first);
        // The time of modification says nothing: a mode that is put right does not change it.
        fs::write(&files.key_file, key).unwrap();
        let file = fs::File::options().write(true).open(&files.key_file).unwrap();
        file.set_modified(written).unwrap();
        assert!(certificate.refresh().unwrap());
        assert_eq!(served(&certificate), second);
        assert!(!certificate.refresh().unwrap());
    }

    #[test]
    fn a_file_that_was_missing_for_a_moment_is_read_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let files = ServerTls {
            cert_file: dir.path().join("server.crt"),
            key_file: dir.path().join("server.key"),
            client_ca_file: None,
        };
        issue(&files);
        let (_, certificate) = server_config(&files).unwrap();
        fs::rename(&files.key_file, dir.path().join("aside")).unwrap();
        assert!(certificate.refresh().is_err());
        fs::rename(dir.path().join("aside"), &files.key_file).unwrap();
        assert!(certificate.refresh().unwrap());
    }
}
