//! HTTP for the crate `object_store`, over the connections that the other exporters use: proxies of the environment, TLS from files.
//!
//! An answer that refuses a request is without the secrets of that request, whichever server sent it: `object_store` puts it into its error.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flowtap_net::tls::ClientTls;
use http::header::{CONTENT_TYPE, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use percent_encoding::percent_decode_str;

use crate::push::channel::Channel;
use crate::push::connect::Dial;
use crate::push::endpoint::Endpoint;
use crate::push::error::{Lost, TimedOut};
use crate::push::proxy::Proxy;
use crate::push::secrets::Secrets;

/// Longest answer that is read: those to uploads are short, tokens of credentials as well.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Servers that connections are kept to: the store, and those that issue credentials.
const MAX_SERVERS: usize = 8;

/// Settings of connections.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) tls: ClientTls,
    pub(super) timeout: Duration,
    /// Secrets of the config and the environment.
    pub(super) secrets: Vec<String>,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Servers {
            connector: self.clone(),
            channels: Mutex::default(),
        }))
    }
}

/// A connection for each server.
#[derive(Debug)]
struct Servers {
    connector: Connector,
    channels: Mutex<Vec<(String, Arc<Channel<HttpRequestBody>>)>>,
}

impl Servers {
    fn channel(&self, request: &HttpRequest) -> Result<Arc<Channel<HttpRequestBody>>, HttpError> {
        let uri = request.uri();
        let server = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map_or("", |authority| authority.as_str())
        );
        // Every statement under the lock leaves it whole.
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, channel)) = channels.iter().find(|(name, _)| *name == server) {
            return Ok(Arc::clone(channel));
        }
        let endpoint =
            Endpoint::parse(&server).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let Connector { tls, timeout, .. } = &self.connector;
        let dial = Dial {
            proxy: Proxy::from_environment(&endpoint),
            endpoint,
            tls: tls.clone(),
            connect_timeout: *timeout / 2,
            user_timeout: *timeout,
            http2: false,
        };
        let channel =
            Channel::new(dial, None).map_err(|error| HttpError::new_boxed(HttpErrorKind::Connect, error))?;
        let channel = Arc::new(channel);
        if channels.len() >= MAX_SERVERS {
            channels.remove(0);
        }
        channels.push((server, Arc::clone(&channel)));
        Ok(channel)
    }
}

#[async_trait]
impl HttpService for Servers {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let channel = self.channel(&request)?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(crate::push::USER_AGENT));
        if let Some(credentials) = channel.dial().proxy_authorization() {
            headers.insert(PROXY_AUTHORIZATION, credentials);
        }
        let timeout = self.connector.timeout;
        let mut secrets = sent(&request);
        secrets.extend(self.connector.secrets.iter().cloned());
        let secrets = Secrets::new(secrets);
        let exchange = async {
            let lost = |error: &(dyn std::error::Error + 'static)| {
                HttpError::new(HttpErrorKind::Interrupted, Lost::without(error, &secrets))
            };
            let answer = channel
                .client()
                .request(request)
                .await
                .map_err(|error| lost(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body: Bytes = body.map_err(|error| lost(&*error))?.to_bytes();
            let body = if head.status.is_success() {
                body
            } else {
                let text = String::from_utf8_lossy(&body);
                Bytes::from(secrets.strike(&text).into_owned())
            };
            Ok(Response::from_parts(head, HttpResponseBody::from(body)))
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| {
            channel.reconnect();
            Err(HttpError::new(HttpErrorKind::Timeout, TimedOut(timeout)))
        })
    }
}

/// Words in the name of a header, or of a parameter of a query or a form, whose value is secret; of a token request of Google it is
/// `assertion`. That of a shared access signature of Azure is called `sig`.
const SECRET_NAMES: [&str; 8] = [
    "authorization",
    "token",
    "key",
    "secret",
    "password",
    "credential",
    "signature",
    "assertion",
];

/// Values of `request` that are secret. Those of credentials that a server issued are in no config.
fn sent(request: &HttpRequest) -> Vec<String> {
    let is_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        name == "sig" || SECRET_NAMES.iter().any(|word| name.contains(word))
    };
    let mut values = Vec::new();
    for (name, value) in request.headers() {
        let Some(value) = value.to_str().ok().filter(|_| is_secret(name.as_str())) else {
            continue;
        };
        values.push(value.to_owned());
        // `AWS4-HMAC-SHA256 Credential=ID/DATE/…, …, Signature=…`, `SharedKey ACCOUNT:SIGNATURE`.
        let words = value
            .split([' ', ','])
            .filter_map(|word| word.split_once(['=', ':']));
        for (name, value) in words.filter(|(_, value)| !value.is_empty()) {
            let is_id = name == "Credential";
            values.push(
                value
                    .split('/')
                    .next()
                    .filter(|_| is_id)
                    .unwrap_or(value)
                    .to_owned(),
            );
        }
    }
    let form = request.body().as_bytes().filter(|_| {
        let kind = request.headers().get(CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"))
    });
    let form = form.and_then(|form| std::str::from_utf8(form).ok());
    for pair in [request.uri().query(), form]
        .into_iter()
        .flatten()
        .flat_map(|text| text.split('&'))
    {
        if let Some((_, value)) = pair.split_once('=').filter(|(name, _)| is_secret(name)) {
            let plain = percent_decode_str(value).decode_utf8_lossy().into_owned();
            values.extend([value.to_owned(), plain]);
        }
    }
    values
}
