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
    /// Client certificate for mutual TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Key of the client certificate.
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

/// The files of one part of a listener's TLS as they were at the last reading that succeeded, and the failure of the last one, if it did
/// not.
#[derive(Debug)]
struct Checked<const FILES: usize> {
    stamp: [Option<FileStamp>; FILES],
    unusable: Option<String>,
}

impl<const FILES: usize> Checked<FILES> {
    fn new(files: [&Path; FILES]) -> Self {
        Self {
            stamp: files.map(FileStamp::of),
            unusable: None,
        }
    }

    /// Calls `read` if the files have changed, or could not be used the last time; `None` if there is nothing new.
    ///
    /// # Errors
    /// That of `read`, unless the last call has returned the same.
    fn read_if_changed<T>(
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

/// Returns the value under `lock`.
fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement under the locks of this module leaves their value whole.
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the newest certificate that could be read.
#[derive(Debug)]
struct ServerCertificate(ArcSwap<CertifiedKey>);

impl ServerCertificate {
    fn read(files: &ServerTls) -> Result<CertifiedKey, TlsError> {
        let certificates = certificates("cert_file", &files.cert_file)?;
        CertifiedKey::from_der(certificates, key(&files.key_file)?, &provider())
            .map_err(|source| TlsError::Unusable(files.cert_file.clone(), source.to_string()))
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// TLS of a listener, whose files are read again when they change: the certificate with its key, and the authorities of clients. Each
/// of both is replaced by itself, so that a mistake in one does not keep the other from being renewed.
#[derive(Debug)]
pub struct ListenerTls {
    files: ServerTls,
    certificate: Arc<ServerCertificate>,
    certificate_files: Mutex<Checked<2>>,
    config: ArcSwap<ServerConfig>,
    /// `None` if clients need no certificate.
    authorities: Option<Mutex<Authorities>>,
}

/// The authorities that clients are checked with.
#[derive(Debug)]
struct Authorities {
    file: Checked<1>,
    certificates: Vec<CertificateDer<'static>>,
}

impl ListenerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] with the file.
    pub fn new(files: &ServerTls) -> Result<Self, TlsError> {
        let certificate_files = Checked::new([&files.cert_file, &files.key_file]);
        let authorities = match files.client_ca_file.as_deref() {
            Some(file) => Some(Authorities {
                file: Checked::new([file]),
                certificates: certificates("client_ca_file", file)?,
            }),
            None => None,
        };
        let certificate = Arc::new(ServerCertificate(ArcSwap::from_pointee(ServerCertificate::read(
            files,
        )?)));
        let checked_with = authorities.as_ref().map(|found| found.certificates.as_slice());
        let config = config(Arc::clone(&certificate), files, checked_with)?;
        Ok(Self {
            files: files.clone(),
            certificate,
            certificate_files: Mutex::new(certificate_files),
            config: ArcSwap::from_pointee(config),
            authorities: authorities.map(Mutex::new),
        })
    }

    /// The config for the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Reads the certificate and its key again if they have changed, or could not be used the last time. Returns whether there is a new
    /// certificate.
    ///
    /// # Errors
    /// [`TlsError`] with the file, unless the last call has returned the same; the certificate before stays.
    pub fn refresh_certificate(&self) -> Result<bool, TlsError> {
        let files = [&*self.files.cert_file, &self.files.key_file];
        let read = || ServerCertificate::read(&self.files);
        let renewed = lock(&self.certificate_files).read_if_changed(files, read)?;
        let is_new = renewed.is_some();
        if let Some(certificate) = renewed {
            self.certificate.0.store(Arc::new(certificate));
        }
        Ok(is_new)
    }

    /// The same with the authorities of clients. Returns whether there are others: the connections that were accepted before have been
    /// checked with those before.
    ///
    /// # Errors
    /// [`TlsError`] with the file, unless the last call has returned the same; the authorities before stay.
    pub fn refresh_authorities(&self) -> Result<bool, TlsError> {
        let (Some(file), Some(authorities)) = (self.files.client_ca_file.as_deref(), &self.authorities)
        else {
            return Ok(false);
        };
        let mut authorities = lock(authorities);
        let read = || {
            let read = certificates("client_ca_file", file)?;
            // A separate config, as sessions go with it: a client of an authority before could resume one without showing its
            // certificate.
            let config = config(Arc::clone(&self.certificate), &self.files, Some(&read))?;
            Ok((read, config))
        };
        let Some((read, config)) = authorities.file.read_if_changed([file], read)? else {
            return Ok(false);
        };
        // A file that was touched, or replaced beside a new certificate as Kubernetes does, may have the authorities before.
        if read == authorities.certificates {
            return Ok(false);
        }
        authorities.certificates = read;
        self.config.store(Arc::new(config));
        Ok(true)
    }
}

/// Serves `certificate`, to clients with a certificate of one of `authorities`, which are those of `files`, or to any.
fn config(
    certificate: Arc<ServerCertificate>,
    files: &ServerTls,
    authorities: Option<&[CertificateDer<'static>]>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Protocol(source.to_string()))?;
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let path = files.client_ca_file.clone().unwrap_or_default();
            let unusable =
                |error: &dyn std::fmt::Display| TlsError::Unusable(path.clone(), error.to_string());
            let mut roots = RootCertStore::empty();
            for certificate in authorities {
                roots.add(certificate.clone()).map_err(|error| unusable(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| unusable(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    Ok(builder.with_cert_resolver(certificate))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::HandshakeKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// Writes the files of a new certificate, and returns it.
    fn issue(files: &ServerTls) -> CertificateDer<'static> {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&files.cert_file, issued.cert.pem()).unwrap();
        fs::write(&files.key_file, issued.signing_key.serialize_pem()).unwrap();
        issued.cert.der().clone()
    }

    fn served(tls: &ListenerTls) -> CertificateDer<'static> {
        tls.certificate.0.load().cert[0].clone()
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
        let tls = ListenerTls::new(&files).unwrap();
        assert!(!tls.refresh_certificate().unwrap());
        let second = issue(&files);
        let key = fs::read(&files.key_file).unwrap();
        fs::write(&files.key_file, "not yet").unwrap();
        let written = fs::metadata(&files.key_file).unwrap().modified().unwrap();
        assert!(tls.refresh_certificate().is_err());
        assert!(!tls.refresh_certificate().unwrap(), "the same failure, once");
        assert_eq!(served(&tls), first);
        // The time of modification says nothing: a mode that is put right does not change it.
        fs::write(&files.key_file, key).unwrap();
        let file = fs::File::options().write(true).open(&files.key_file).unwrap();
        file.set_modified(written).unwrap();
        assert!(tls.refresh_certificate().unwrap());
        assert_eq!(served(&tls), second);
        assert!(!tls.refresh_certificate().unwrap());
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
        let tls = ListenerTls::new(&files).unwrap();
        fs::rename(&files.key_file, dir.path().join("aside")).unwrap();
        assert!(tls.refresh_certificate().is_err());
        fs::rename(dir.path().join("aside"), &files.key_file).unwrap();
        assert!(tls.refresh_certificate().unwrap());
    }

    /// Files of a listener in `folder` whose certificate is for `localhost`, and that has no authorities of clients yet.
    pub(crate) fn listener_files(folder: &Path) -> ServerTls {
        let files = ServerTls {
            cert_file: folder.join("server.crt"),
            key_file: folder.join("server.key"),
            client_ca_file: Some(folder.join("clients.crt")),
        };
        issue(&files);
        files
    }

    /// A new authority of client certificates, in PEM, and a client of the listener with `files` that has one of them.
    pub(crate) fn authority(files: &ServerTls, name: &str) -> (String, TlsConnector) {
        let mut params = CertificateParams::new([format!("authority-{name}")]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let base = files.cert_file.with_file_name(name);
        let client = ClientTls {
            ca_file: Some(files.cert_file.clone()),
            cert_file: Some(base.with_extension("crt")),
            key_file: Some(base.with_extension("key")),
            server_name: None,
        };
        fs::write(base.with_extension("crt"), certificate.pem()).unwrap();
        fs::write(base.with_extension("key"), key.serialize_pem()).unwrap();
        (
            issuer.pem(),
            TlsConnector::from(Arc::new(client.client_config().unwrap())),
        )
    }

    /// Shakes hands, and has a byte from the server: a client of TLS 1.3 learns only then whether its certificate is accepted.
    async fn shaken(tls: &ListenerTls, client: &TlsConnector) -> io::Result<HandshakeKind> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let acceptor = TlsAcceptor::from(tls.config());
        let server = async {
            let mut stream = acceptor.accept(far).await?;
            stream.write_all(b"y").await?;
            stream.shutdown().await
        };
        let client = async {
            let mut stream = client.connect("localhost".try_into().unwrap(), near).await?;
            stream.read_exact(&mut [0]).await?;
            Ok(stream.get_ref().1.handshake_kind().unwrap())
        };
        let (server, client) = tokio::join!(server, client);
        server.and(client)
    }

    #[tokio::test]
    async fn clients_are_checked_with_the_newest_authorities_that_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let files = listener_files(dir.path());
        let file = files.client_ca_file.clone().unwrap();
        let ((first, of_first), (second, of_second)) = (authority(&files, "one"), authority(&files, "two"));
        fs::write(&file, &first).unwrap();
        let tls = ListenerTls::new(&files).unwrap();
        assert!(!tls.refresh_authorities().unwrap());
        assert_eq!(shaken(&tls, &of_first).await.unwrap(), HandshakeKind::Full);
        assert_eq!(shaken(&tls, &of_first).await.unwrap(), HandshakeKind::Resumed);
        shaken(&tls, &of_second).await.unwrap_err();

        // Neither a file that is half written nor one that is missing is a reason to let nobody in, or everybody.
        let half = &second[..second.len() / 2];
        for content in [Some(""), Some("not PEM"), Some(half), None] {
            match content {
                Some(content) => fs::write(&file, content).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            // Once, as long as the message is the same.
            if let Err(error) = tls.refresh_authorities() {
                let text = error.to_string();
                assert!(text.contains("clients.crt"), "{text}");
            }
            assert!(!tls.refresh_authorities().unwrap(), "the same failure, once");
            shaken(&tls, &of_first).await.unwrap();
            shaken(&tls, &of_second).await.unwrap_err();
        }

        fs::write(&file, &second).unwrap();
        assert!(tls.refresh_authorities().unwrap());
        assert!(!tls.refresh_authorities().unwrap());
        // Nor does the session help that it has.
        shaken(&tls, &of_first).await.unwrap_err();
        shaken(&tls, &of_second).await.unwrap();

        // Another file with the same authorities: no connection need be closed.
        fs::remove_file(&file).unwrap();
        fs::write(&file, &second).unwrap();
        assert!(!tls.refresh_authorities().unwrap());
        assert_eq!(shaken(&tls, &of_second).await.unwrap(), HandshakeKind::Resumed);

        fs::write(&file, first + &second).unwrap();
        assert!(tls.refresh_authorities().unwrap());
        shaken(&tls, &of_first).await.unwrap();
        shaken(&tls, &of_second).await.unwrap();
    }

    #[tokio::test]
    async fn a_certificate_is_renewed_while_the_authorities_of_clients_can_not_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let files = listener_files(dir.path());
        let file = files.client_ca_file.clone().unwrap();
        let (authorities, before) = authority(&files, "one");
        fs::write(&file, &authorities).unwrap();
        let tls = ListenerTls::new(&files).unwrap();
        shaken(&tls, &before).await.unwrap();
        fs::write(&file, "not PEM").unwrap();
        tls.refresh_authorities().unwrap_err();
        issue(&files);
        assert!(tls.refresh_certificate().unwrap());
        let (_, stranger) = authority(&files, "two");
        shaken(&tls, &stranger).await.unwrap_err();
        fs::write(&file, authorities).unwrap();
        assert!(!tls.refresh_authorities().unwrap(), "they are those in use");
        let client = ClientTls {
            ca_file: Some(files.cert_file.clone()),
            cert_file: Some(dir.path().join("one.crt")),
            key_file: Some(dir.path().join("one.key")),
            server_name: None,
        };
        let client = TlsConnector::from(Arc::new(client.client_config().unwrap()));
        shaken(&tls, &client).await.unwrap();
    }

    #[test]
    fn without_authorities_there_is_nothing_to_renew() {
        let dir = tempfile::tempdir().unwrap();
        let files = ServerTls {
            client_ca_file: None,
            ..listener_files(dir.path())
        };
        let tls = ListenerTls::new(&files).unwrap();
        assert!(!tls.refresh_authorities().unwrap());
    }
}
