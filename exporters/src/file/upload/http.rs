//! HTTP for the crate `object_store`, over the connections that the other exporters use: proxies of the environment, TLS from files.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flowtap_net::tls::ClientTls;
use http::header::{PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};

use crate::push::channel::Channel;
use crate::push::connect::{Dial, Proxy};
use crate::push::endpoint::Endpoint;
use crate::push::error::{Lost, TimedOut};

/// Longest answer that is read: those to uploads are short, tokens of credentials as well.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Servers that connections are kept to: the store, and those that issue credentials.
const MAX_SERVERS: usize = 8;

/// Settings of connections.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) tls: ClientTls,
    pub(super) timeout: Duration,
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
        let Connector { tls, timeout } = &self.connector;
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
        let exchange = async {
            let lost = |error: &(dyn std::error::Error + 'static)| {
                HttpError::new(HttpErrorKind::Interrupted, Lost::new(error))
            };
            let answer = channel
                .client()
                .request(request)
                .await
                .map_err(|error| lost(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body: Bytes = body.map_err(|error| lost(&*error))?.to_bytes();
            Ok(Response::from_parts(head, HttpResponseBody::from(body)))
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| {
            channel.reconnect();
            Err(HttpError::new(HttpErrorKind::Timeout, TimedOut(timeout)))
        })
    }
}
