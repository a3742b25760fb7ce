//! TLS of listeners and of connections to peers: files of certificates and keys, in PEM.
//!
//! All of them are read again when they change, so that a renewed certificate is used without a restart. Files that can't be
//! read leave the ones before in place.

mod error;
mod files;
mod provider;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowtap_pipeline::Violation;
use rustls::client::WebPkiServerVerifier;
use rustls::{ClientConfig, RootCertStore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::error::TlsError;
use self::files::{FileStamp, certificates, key};
use self::provider::provider;
pub use self::server::ListenerTls;

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

/// The state of the files of a [`ClientTls`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp([Option<FileStamp>; 3]);

#[cfg(test)]
pub(crate) mod tests;
