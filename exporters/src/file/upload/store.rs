//! The object store of a config: S3, Google Cloud Storage or Azure, by the crate `object_store`.

use std::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use flowtap_pipeline::files::{self, MAX_CREDENTIAL_BYTES};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart};
use tokio::task::spawn_blocking;

use super::super::upload_config::{Destination, Provider, UploadConfig};
use super::http::Connector;
use crate::push::error::{chain, chain_without};
use crate::push::secrets::Secrets;

/// Bytes of a request, of which a few are in memory: the fewest that S3 takes as a part. Larger files are uploaded in parts, and
/// are there once all of them are.
const PART_BYTES: usize = 5 * 1024 * 1024;

/// Why a file was not uploaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// It is not there any more.
    #[error("the file is gone")]
    Gone,
    /// It can't be read.
    #[error("the file can't be read: {0}")]
    Unreadable(io::Error),
    /// The store did not take it.
    #[error("{}", chain(cause(.0)))]
    Refused(#[from] object_store::Error),
}

/// An object store, and the prefix of objects in it.
#[derive(Clone, Debug)]
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    destination: String,
    secrets: Secrets,
}

/// A store of a provider.
struct Provided {
    objects: Arc<dyn ObjectStore>,
    /// Settings that say which one it is, from the config or the environment.
    settings: Vec<Option<String>>,
    secrets: Vec<String>,
}

impl Store {
    /// The store that `config`, which is valid, names. Connects to nothing yet.
    ///
    /// # Errors
    /// The key that is missing or not valid; a file with credentials that can't be read.
    pub(super) fn new(config: &UploadConfig) -> Result<Self, String> {
        let destination = config.destination()?;
        for file in config.files() {
            refuse_streams(&file).map_err(|message| with_key(config, message))?;
        }
        let connector = Connector {
            tls: config.tls.clone(),
            timeout: config.timeout,
            secrets: Vec::new(),
        };
        // Retries are of whole files: see `super`.
        let retry = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let Provided {
            objects,
            settings,
            secrets,
        } = match destination.provider {
            Provider::S3 => s3(config, &destination, connector, retry),
            Provider::Google => google(config, &destination, connector, retry),
            Provider::Azure => azure(config, &destination, connector, retry),
        }
        .map_err(|message| with_key(config, message))?;
        let named = [Some(config.url.clone())].into_iter().chain(settings).flatten();
        Ok(Self {
            objects,
            prefix: Path::from(destination.prefix),
            destination: named.collect::<Vec<_>>().join(" "),
            secrets: Secrets::new(secrets),
        })
    }

    /// The text of `error` for the log and `/status`: the answer of a store may repeat credentials.
    pub(super) fn shown(&self, error: &UploadError) -> String {
        match error {
            UploadError::Refused(error) => chain_without(cause(error), &self.secrets),
            error => error.to_string(),
        }
    }

    /// The place where objects go, on one line: the URL, and the endpoint and the account unless they are the provider's own. Buckets of
    /// the same name in two stores differ in it.
    pub(super) fn destination(&self) -> &str {
        &self.destination
    }

    /// Uploads the file at `path` as the object `key` below the prefix. Returns its bytes.
    ///
    /// # Errors
    /// [`UploadError`]; the object is as it was before.
    pub(super) async fn upload(&self, path: &FilePath, key: &str) -> Result<u64, UploadError> {
        let object = Path::from(format!("{}/{key}", self.prefix));
        let owned = path.to_owned();
        let opened = spawn_blocking(move || File::open(owned)).await;
        let mut file = match opened.map_err(io::Error::other).flatten() {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(UploadError::Gone),
            Err(error) => return Err(UploadError::Unreadable(error)),
        };
        let mut part;
        (file, part) = read_part(file).await?;
        if part.len() < PART_BYTES {
            let bytes = part.len() as u64;
            self.objects.put(&object, part.into()).await?;
            return Ok(bytes);
        }
        let upload = self.objects.put_multipart(&object).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut bytes = 0;
        while !part.is_empty() {
            bytes += part.len() as u64;
            // Memory is bounded by one part under way and one that waits.
            let next = match upload.wait_for_capacity(1).await {
                Ok(()) => {
                    upload.put(part);
                    read_part(file).await
                }
                Err(error) => Err(error.into()),
            };
            (file, part) = match next {
                Ok(next) => next,
                Err(error) => {
                    if let Err(error) = upload.abort().await {
                        let error = chain_without(&error, &self.secrets);
                        tracing::debug!(
                            error,
                            "parts of an upload that failed can't be removed from the store"
                        );
                    }
                    return Err(error);
                }
            };
        }
        // If it fails it removes the parts itself.
        upload.finish().await?;
        Ok(bytes)
    }
}

/// The answer of the store, or the failure of the connection. The errors around it repeat the object's name, and the time that the
/// request took, by which no two are the same.
fn cause(error: &object_store::Error) -> &(dyn Error + 'static) {
    let request = error.source().and_then(Error::source);
    request.unwrap_or(error)
}

/// The next part of a file; an empty one at its end.
async fn read_part(file: File) -> Result<(File, Bytes), UploadError> {
    let read = spawn_blocking(move || {
        let mut part = Vec::new();
        (&file).take(PART_BYTES as u64).read_to_end(&mut part)?;
        Ok((file, Bytes::from(part)))
    });
    read.await
        .map_err(io::Error::other)
        .flatten()
        .map_err(UploadError::Unreadable)
}

/// Values of `keys` that are set, by the config or the environment.
fn set<K>(keys: impl IntoIterator<Item = K>, value: impl Fn(&K) -> Option<String>) -> Vec<String> {
    keys.into_iter().filter_map(|key| value(&key)).collect()
}

/// The keys of `credentials`, each as the store's own.
fn keys<K: std::str::FromStr>(config: &UploadConfig) -> Result<Vec<(K, &str)>, String> {
    config
        .credentials
        .iter()
        .map(|(name, value)| match name.to_ascii_lowercase().parse() {
            Ok(key) => Ok((key, value.as_str())),
            Err(_) => Err(format!(
                "credentials: {name}: is not a known key; hint: expected a name of the crate object_store, such as `access_key_id`"
            )),
        })
        .collect()
}

/// The message of an error that is about a file, after the key of `credentials` that names the file, if one does.
fn with_key(config: &UploadConfig, message: String) -> String {
    let names_a_file = |value: &str| value.starts_with('/') && message.contains(value);
    let mut credentials = config.credentials.iter();
    match credentials.find(|(_, value)| names_a_file(value)) {
        Some((name, _)) => format!("credentials: {name}: {message}"),
        None => message,
    }
}

/// Refuses a file with credentials that would block the store, which reads it by itself, when it is built or with a request. One that
/// can't be read may not be needed: the store reports it.
fn refuse_streams(file: &FilePath) -> Result<(), String> {
    match files::read(file, MAX_CREDENTIAL_BYTES) {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::FileTooLarge) => {
            Err(format!("{}: {error}", file.display()))
        }
        _ => Ok(()),
    }
}

fn s3(
    config: &UploadConfig,
    destination: &Destination,
    mut connector: Connector,
    retry: RetryConfig,
) -> Result<Provided, String> {
    let mut builder = AmazonS3Builder::from_env();
    for (key, value) in keys::<AmazonS3ConfigKey>(config)? {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(true);
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    let keys = [
        AmazonS3ConfigKey::AccessKeyId,
        AmazonS3ConfigKey::SecretAccessKey,
        AmazonS3ConfigKey::Token,
    ];
    connector.secrets = set(keys, |key| builder.get_config_value(key));
    let secrets = connector.secrets.clone();
    let settings = vec![
        builder.get_config_value(&AmazonS3ConfigKey::Endpoint),
        builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint),
    ];
    let store = builder
        .with_bucket_name(&destination.bucket)
        .with_http_connector(connector)
        .with_retry(retry)
        .build();
    let store = store.map_err(|error| chain_without(&error, &Secrets::new(&secrets)))?;
    Ok(Provided {
        objects: Arc::new(store),
        settings,
        secrets,
    })
}

fn google(
    config: &UploadConfig,
    destination: &Destination,
    mut connector: Connector,
    retry: RetryConfig,
) -> Result<Provided, String> {
    let mut builder = GoogleCloudStorageBuilder::from_env();
    for (key, value) in keys::<GoogleConfigKey>(config)? {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let keys = [GoogleConfigKey::ServiceAccountKey, GoogleConfigKey::BearerToken];
    connector.secrets = set(keys, |key| builder.get_config_value(key));
    let secrets = connector.secrets.clone();
    let settings = vec![builder.get_config_value(&GoogleConfigKey::BaseUrl)];
    let store = builder
        .with_bucket_name(&destination.bucket)
        .with_http_connector(connector)
        .with_retry(retry)
        .build();
    let store = store.map_err(|error| chain_without(&error, &Secrets::new(&secrets)))?;
    Ok(Provided {
        objects: Arc::new(store),
        settings,
        secrets,
    })
}

fn azure(
    config: &UploadConfig,
    destination: &Destination,
    mut connector: Connector,
    retry: RetryConfig,
) -> Result<Provided, String> {
    let mut builder = MicrosoftAzureBuilder::from_env();
    for (key, value) in keys::<AzureConfigKey>(config)? {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.clone()).with_allow_http(true);
    }
    let keys = [
        AzureConfigKey::AccessKey,
        AzureConfigKey::ClientSecret,
        AzureConfigKey::SasKey,
        AzureConfigKey::Token,
        AzureConfigKey::FabricSessionToken,
        AzureConfigKey::EncryptionKey,
    ];
    connector.secrets = set(keys, |key| builder.get_config_value(key));
    let secrets = connector.secrets.clone();
    let settings = vec![
        builder.get_config_value(&AzureConfigKey::AccountName),
        builder.get_config_value(&AzureConfigKey::Endpoint),
    ];
    let store = builder
        .with_container_name(&destination.bucket)
        .with_http_connector(connector)
        .with_retry(retry)
        .build();
    let store = store.map_err(|error| chain_without(&error, &Secrets::new(&secrets)))?;
    Ok(Provided {
        objects: Arc::new(store),
        settings,
        secrets,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use object_store::memory::InMemory;

    use super::*;

    fn in_memory() -> Store {
        Store {
            objects: Arc::new(InMemory::new()),
            prefix: Path::from("fleet"),
            destination: String::new(),
            secrets: Secrets::default(),
        }
    }

    #[tokio::test]
    async fn files_of_any_length_are_whole_in_one_part_or_several() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..=250).cycle().take(2 * PART_BYTES + 17).collect();
        for length in [0, 1, PART_BYTES - 1, PART_BYTES, content.len()] {
            fs::write(&path, &content[..length]).unwrap();
            let store = in_memory();
            let bytes = store.upload(&path, "date=2026-01-02/a.parquet").await.unwrap();
            assert_eq!(bytes, length as u64);
            let object = Path::from("fleet/date=2026-01-02/a.parquet");
            let object = store.objects.get(&object).await.unwrap().bytes().await.unwrap();
            assert!(object == content[..length], "{length}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_not_one_that_the_store_refused() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = in_memory().upload(&dir.path().join("none"), "none").await;
        assert!(matches!(outcome, Err(UploadError::Gone)), "{outcome:?}");
    }

    #[test]
    fn buckets_of_the_same_name_in_two_stores_are_two_destinations() {
        let store = |url: &str, endpoint: Option<&str>, credentials: [(&str, &str); 2]| {
            let config = UploadConfig {
                url: url.to_owned(),
                endpoint: endpoint.map(str::to_owned),
                credentials: credentials
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
                ..UploadConfig::default()
            };
            Store::new(&config).unwrap().destination().to_owned()
        };
        let s3 = |url, endpoint| {
            store(
                url,
                endpoint,
                [("access_key_id", "x"), ("secret_access_key", "hunter2")],
            )
        };
        let [one, two] =
            ["http://a:9000", "http://b:9000"].map(|endpoint| s3("s3://flows/fleet", Some(endpoint)));
        assert_ne!(one, two);
        assert_ne!(one, s3("s3://flows/fleet", None));
        assert_ne!(one, s3("s3://flows/other", Some("http://a:9000")));
        assert_eq!(one, s3("s3://flows/fleet", Some("http://a:9000")));
        assert!(!one.contains("hunter2") && !one.contains('\n'), "{one}");
        let azure = |account| {
            store(
                "az://flows",
                None,
                [("account_name", account), ("access_key", "aHVudGVyMg==")],
            )
        };
        assert_ne!(azure("one"), azure("two"));
        assert_eq!(azure("one"), azure("one"));
    }

    #[test]
    fn each_provider_is_made_from_the_config_alone() {
        let config = |url: &str, credentials: &[(&str, &str)]| UploadConfig {
            url: url.to_owned(),
            credentials: credentials
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..UploadConfig::default()
        };
        let pair = [("access_key_id", "x"), ("secret_access_key", "y")];
        Store::new(&config("s3://flows/fleet", &pair)).unwrap();
        Store::new(&config("gs://flows", &[("skip_signature", "true")])).unwrap();
        let account = [("account_name", "x"), ("access_key", "aHVudGVyMg==")];
        Store::new(&config("az://flows", &account)).unwrap();
        let error = Store::new(&config("s3://flows", &[("pasword", "hunter2")])).unwrap_err();
        assert!(error.contains("pasword") && !error.contains("hunter2"), "{error}");
    }
}
