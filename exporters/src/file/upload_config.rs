//! Config of the upload of finished files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use flowtap_net::tls::ClientTls;
use flowtap_pipeline::Violation;
use flowtap_pipeline::schema::DurationText;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::push::endpoint::{Endpoint, EndpointError};

/// Upload of finished files to an object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UploadConfig {
    /// The bucket, and a prefix in it: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. Required.
    pub url: String,
    /// Address of a store other than the provider's own, such as `http://minio.example:9000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region of the bucket; of S3. Unset: `AWS_REGION`, else `us-east-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Credentials and settings of the store, in place of those of the environment. Of S3 `access_key_id`, `secret_access_key`,
    /// `session_token`; of Google `service_account` (a file); of Azure `account_name`, `access_key`. Use `${file:PATH}` for secrets.
    pub credentials: BTreeMap<String, String>,
    /// TLS, where the store is `https`.
    pub tls: ClientTls,
    /// Maximum duration of a request, which has at most 5 MiB of a file.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// Wait before the first retry; it doubles from one to the next.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub retry_interval: Duration,
    /// The longest wait before a retry. A file is retried until it is uploaded or `rotation` removes it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_retry_interval: Duration,
}

impl Default for UploadConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            endpoint: None,
            region: None,
            credentials: BTreeMap::new(),
            tls: ClientTls::default(),
            timeout: Duration::from_secs(60),
            retry_interval: Duration::from_secs(5),
            max_retry_interval: Duration::from_secs(300),
        }
    }
}

/// Instance metadata, which has credentials for the machine, in each of the clouds.
const METADATA: &str = "http://169.254.169.254";

/// The kinds of object stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provider {
    S3,
    Google,
    Azure,
}

impl Provider {
    const SCHEMES: [(&str, Self); 3] = [("s3", Self::S3), ("gs", Self::Google), ("az", Self::Azure)];

    /// The provider's own store. The host that is used may have the region in its name; tokens come from others of the same port.
    const fn host(self) -> &'static str {
        match self {
            Self::S3 => "s3.amazonaws.com",
            Self::Google => "storage.googleapis.com",
            Self::Azure => "blob.core.windows.net",
        }
    }

    /// Variables of the environment, and keys of `credentials`, that name a file with credentials.
    const fn files(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &[
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            ],
            Self::Google => &[
                "GOOGLE_APPLICATION_CREDENTIALS",
                "GOOGLE_SERVICE_ACCOUNT",
                "GOOGLE_SERVICE_ACCOUNT_PATH",
            ],
            Self::Azure => &["AZURE_FEDERATED_TOKEN_FILE"],
        }
    }
}

/// The destination of uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) provider: Provider,
    pub(super) bucket: String,
    pub(super) prefix: String,
}

impl UploadConfig {
    /// # Errors
    /// The reason why `url` is not valid, without a part of it that may be secret.
    pub(super) fn destination(&self) -> Result<Destination, String> {
        const FORMS: &str = "expected `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`";
        if self.url.is_empty() {
            return Err(format!("must be set: {FORMS}"));
        }
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let known = Provider::SCHEMES.iter().find(|(name, _)| *name == scheme);
        let named = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let Some((_, provider)) = known.filter(|_| !bucket.is_empty() && named(bucket)) else {
            return Err(format!("invalid URL of a bucket: {FORMS}"));
        };
        let prefix = prefix.trim_matches('/');
        let folders = prefix.split('/');
        let is_folder = |name: &str| {
            !matches!(name, "" | "." | "..")
                && name
                    .bytes()
                    .all(|b| named(&char::from(b).to_string()) || b == b'=')
        };
        if !prefix.is_empty() && !folders.into_iter().all(is_folder) {
            return Err(
                "invalid prefix: expected letters, digits, `-`, `_`, `.`, `=` and single slashes".to_owned(),
            );
        }
        Ok(Destination {
            provider: *provider,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// Servers that it connects to, with the key that each follows from: the store; without `credentials` also those that issue them.
    pub(super) fn servers(&self) -> Vec<(&'static str, String)> {
        let Ok(Destination { provider, bucket, .. }) = self.destination() else {
            return Vec::new();
        };
        let own = || ("upload.url", format!("https://{}/{bucket}", provider.host()));
        let endpoint = self
            .endpoint
            .clone()
            .map(|endpoint| ("upload.endpoint", endpoint));
        let mut servers = vec![endpoint.unwrap_or_else(own)];
        if self.credentials.is_empty() {
            if self.endpoint.is_some() {
                servers.push(own());
            }
            servers.push(("upload.credentials", METADATA.to_owned()));
        }
        servers
    }

    /// Files with credentials that are read while flowtap runs.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let tls = self.tls.files().map(PathBuf::from);
        let names = self
            .destination()
            .map_or(&[][..], |destination| destination.provider.files());
        let configured = self.credentials.iter().filter_map(|(name, value)| {
            let name = name.to_ascii_uppercase();
            // With the provider's name in front, or without.
            let is_file = names
                .iter()
                .any(|known| *known == name || known.split_once('_').is_some_and(|(_, rest)| rest == name));
            is_file.then(|| PathBuf::from(value))
        });
        let environment = names.iter().filter_map(std::env::var_os).map(PathBuf::from);
        tls.chain(configured).chain(environment).collect()
    }

    /// Violations of its settings, with paths below the exporter.
    pub(super) fn validate(&self) -> Vec<Violation> {
        let below = |key: &str, message: String| Violation {
            path: vec!["upload".to_owned(), key.to_owned()],
            message,
        };
        let mut faults = Vec::new();
        faults.extend(self.destination().err().map(|message| below("url", message)));
        if let Some(endpoint) = &self.endpoint {
            const FORMS: &str = "expected `http://host:port` or `https://host:port`";
            match Endpoint::parse(endpoint) {
                Err(error @ EndpointError::UserInfo) => faults.push(below("endpoint", error.to_string())),
                Err(EndpointError::Invalid { .. })
                    if !endpoint.contains("://")
                        && Endpoint::parse(&format!("http://{endpoint}")).is_ok() =>
                {
                    faults.push(below(
                        "endpoint",
                        format!("`{endpoint}` has no scheme: {FORMS}; hint: write `http://{endpoint}`, or `https://` if the store has TLS"),
                    ));
                }
                Err(EndpointError::Invalid { shown }) => {
                    faults.push(below("endpoint", format!("invalid endpoint{shown}: {FORMS}")));
                }
                Ok(endpoint) if endpoint.socket().is_some() => {
                    faults.push(below("endpoint", FORMS.to_owned()));
                }
                Ok(_) => {}
            }
        }
        faults.extend(self.tls.validate().map(|mut fault| {
            fault.path.insert(0, "upload".to_owned());
            fault
        }));
        let durations = [
            ("timeout", self.timeout),
            ("retry_interval", self.retry_interval),
            ("max_retry_interval", self.max_retry_interval),
        ];
        for (key, duration) in durations {
            if duration.is_zero() {
                faults.push(below(key, "must be longer than 0s".to_owned()));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(url: &str) -> Result<Destination, String> {
        let config = UploadConfig {
            url: url.to_owned(),
            ..UploadConfig::default()
        };
        config.destination()
    }

    #[test]
    fn a_url_names_a_bucket_and_a_prefix_in_it() {
        let parsed = |url| {
            let destination = destination(url).unwrap();
            (destination.provider, destination.bucket, destination.prefix)
        };
        assert_eq!(
            parsed("s3://flows/a/b=c/"),
            (Provider::S3, "flows".to_owned(), "a/b=c".to_owned())
        );
        assert_eq!(
            parsed("gs://flows"),
            (Provider::Google, "flows".to_owned(), String::new())
        );
        assert_eq!(
            parsed("az://flows/"),
            (Provider::Azure, "flows".to_owned(), String::new())
        );
    }

    #[test]
    fn a_wrong_url_is_rejected_without_being_repeated() {
        for url in [
            "",
            "flows",
            "http://flows",
            "s3://",
            "s3:///a",
            "s3://key:hunter2@flows/a",
            "s3://a/../b",
            "s3://a/b//c",
            "s3://a/b?c",
        ] {
            let error = destination(url).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn faults_have_their_keys() {
        let config = UploadConfig {
            url: "s3://flows".to_owned(),
            endpoint: Some("ftp://x".to_owned()),
            timeout: Duration::ZERO,
            ..UploadConfig::default()
        };
        let keys: Vec<_> = config
            .validate()
            .into_iter()
            .map(|fault| fault.path.join("."))
            .collect();
        assert_eq!(keys, ["upload.endpoint", "upload.timeout"]);
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_answered_with_one() {
        for (endpoint, expected) in [
            (
                "minio:9000",
                "`minio:9000` has no scheme: expected `http://host:port` or `https://host:port`; hint: write `http://minio:9000`, or \
                 `https://` if the store has TLS",
            ),
            (
                "ftp://x",
                "invalid endpoint `ftp://x`: expected `http://host:port` or `https://host:port`",
            ),
            (
                "unix:///s3.sock",
                "expected `http://host:port` or `https://host:port`",
            ),
        ] {
            let config = UploadConfig {
                url: "s3://flows".to_owned(),
                endpoint: Some(endpoint.to_owned()),
                ..UploadConfig::default()
            };
            assert_eq!(config.validate()[0].message, expected);
        }
    }

    #[test]
    fn servers_are_known_before_the_sandbox() {
        let mut config = UploadConfig {
            url: "s3://flows/fleet".to_owned(),
            ..UploadConfig::default()
        };
        let servers = |config: &UploadConfig| -> Vec<_> {
            let servers = config.servers().into_iter();
            servers.map(|(_, server)| server).collect()
        };
        let own = "https://s3.amazonaws.com/flows";
        assert_eq!(servers(&config), [own, METADATA]);
        config.endpoint = Some("http://minio.example:9000".to_owned());
        assert_eq!(servers(&config), ["http://minio.example:9000", own, METADATA]);
        config
            .credentials
            .insert("access_key_id".to_owned(), "x".to_owned());
        assert_eq!(servers(&config), ["http://minio.example:9000"]);
    }

    #[test]
    fn files_with_credentials_are_known_before_the_sandbox() {
        let config = UploadConfig {
            url: "gs://flows".to_owned(),
            credentials: [("service_account", "/etc/key.json"), ("google_bucket", "x")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .into(),
            ..UploadConfig::default()
        };
        assert!(
            config.files().contains(&PathBuf::from("/etc/key.json")),
            "{:?}",
            config.files()
        );
        assert!(!config.files().contains(&PathBuf::from("x")));
    }
}
