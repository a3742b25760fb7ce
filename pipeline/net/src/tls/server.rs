//! TLS of a listener, which follows its files.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::ServerTls;
use super::error::TlsError;
use super::files::{Checked, certificates, key};
use super::provider::provider;

/// Returns the value under `lock`.
fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement under the locks of this module leaves their value whole.
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the newest certificate that could be read.
#[derive(Debug)]
pub(super) struct ServerCertificate(pub(super) ArcSwap<CertifiedKey>);

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
    pub(super) certificate: Arc<ServerCertificate>,
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
