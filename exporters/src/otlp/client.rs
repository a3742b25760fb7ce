//! One request to the collector's metrics or logs service, over gRPC or HTTP.

use std::io::{self, Write};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use flate2::write::GzEncoder;
use flowtap_pipeline::{ComponentId, Exported, PipelineKind};
use futures::FutureExt;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message;
use tokio::time::Instant;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tower::{BoxError, service_fn};

use super::answer::Answer;
#[cfg(not(feature = "zstd"))]
use super::config::NO_ZSTD;
use super::config::{Compression, Protocol, Resolved};
use super::remarks::Remarks;
use super::{answer, json};
use crate::push::channel::{Channel, KeepAlive};
use crate::push::error::{Failure, Lost, from_status};
use crate::push::http::{Poster, media_type};
use crate::push::secrets::Secrets;
use crate::push::{self, Request};

/// The service of a kind (`opentelemetry/proto/collector/metrics/v1/metrics_service.proto`, and that of logs).
const fn method(kind: PipelineKind) -> &'static str {
    match kind {
        PipelineKind::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        PipelineKind::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// zstd's own default: what it is fast at.
#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 3;

/// The way to the collector.
#[derive(Clone, Debug)]
pub(super) enum Client {
    Grpc(Box<GrpcClient>),
    Http(Box<HttpClient>),
}

impl Client {
    /// A client of `exporter` that connects with its first request. Must be made within a tokio runtime.
    ///
    /// # Errors
    /// A TLS file that can't be used.
    pub(super) fn new(config: &Resolved, exporter: &ComponentId) -> Result<Self, BoxError> {
        let secrets = secrets(config);
        let remarks = Remarks::new(exporter, &config.endpoint, &config.logs_endpoint, &secrets);
        Ok(match config.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(GrpcClient::new(config, secrets, remarks)?)),
            Protocol::HttpProtobuf | Protocol::HttpJson => {
                Self::Http(Box::new(HttpClient::new(config, &secrets, remarks)?))
            }
        })
    }
}

impl push::Client for Client {
    async fn send(&self, request: Request) -> Result<Exported, BoxError> {
        match self {
            Self::Grpc(client) => client.export(request).await,
            Self::Http(client) => client.export(request).await,
        }
    }

    fn reconnect(&self) {
        match self {
            Self::Grpc(client) => client.channel.reconnect(),
            Self::Http(client) => {
                client.metrics.reconnect();
                client.logs.reconnect();
            }
        }
    }
}

/// Over gRPC.
#[derive(Clone, Debug)]
pub(super) struct GrpcClient {
    channel: Channel<tonic::body::Body>,
    compression: Compression,
    headers: MetadataMap,
    timeout: Duration,
    secrets: Secrets,
    remarks: Remarks,
}

impl GrpcClient {
    fn new(config: &Resolved, secrets: Secrets, remarks: Remarks) -> Result<Self, BoxError> {
        let keep_alive = KeepAlive {
            interval: config.keepalive.0,
            timeout: config.keepalive.1,
        };
        Ok(Self {
            channel: Channel::new(config.dial(), Some(keep_alive))?,
            compression: config.compression,
            headers: MetadataMap::from_headers(headers(config)?),
            timeout: config.timeout,
            secrets,
            remarks,
        })
    }

    async fn export(&self, request: Request) -> Result<Exported, BoxError> {
        let origin = self.channel.dial().endpoint.uri().clone();
        let (channel, secrets, timeout) = (self.channel.clone(), self.secrets.clone(), self.timeout);
        let client =
            service_fn(move |message| exchange(channel.clone(), message, timeout, secrets.clone()).boxed());
        let mut grpc = Grpc::with_origin(client, origin).accept_compressed(CompressionEncoding::Gzip);
        #[cfg(feature = "zstd")]
        {
            grpc = grpc.accept_compressed(CompressionEncoding::Zstd);
        }
        match self.compression {
            Compression::None => {}
            Compression::Gzip => grpc = grpc.send_compressed(CompressionEncoding::Gzip),
            #[cfg(feature = "zstd")]
            Compression::Zstd => grpc = grpc.send_compressed(CompressionEncoding::Zstd),
            // The config rejects it.
            #[cfg(not(feature = "zstd"))]
            Compression::Zstd => return Err(NO_ZSTD.into()),
        }
        let mut message = tonic::Request::new(request.body);
        *message.metadata_mut() = self.headers.clone();
        // `grpc-timeout`: the server need not go on with what nobody waits for.
        message.set_timeout(self.timeout);
        let answer = grpc
            .unary(
                message,
                PathAndQuery::from_static(method(request.kind)),
                ExportCodec,
            )
            .await
            .map_err(|status| from_status(&status, &self.secrets))?;
        let answer = answer.into_inner();
        Ok(self.remarks.accepted(&answer, request.kind, request.items))
    }
}

/// Sends `message` and reads the answer, for `timeout` at most.
async fn exchange(
    channel: Channel<tonic::body::Body>,
    message: http::Request<tonic::body::Body>,
    timeout: Duration,
    secrets: Secrets,
) -> Result<Answer, Failure> {
    let began = Instant::now();
    match channel.client().request(message).await {
        Ok(answer) => {
            channel.answered();
            answer::read(answer, began, timeout, &secrets).await
        }
        Err(error) => Err(Lost::on(&error, channel.broken(), &secrets).into()),
    }
}

/// Over HTTP, as protobuf or JSON.
#[derive(Clone, Debug)]
pub(super) struct HttpClient {
    metrics: Poster,
    logs: Poster,
    json: bool,
    compression: Compression,
    remarks: Remarks,
}

impl HttpClient {
    fn new(config: &Resolved, secrets: &Secrets, remarks: Remarks) -> Result<Self, BoxError> {
        let json = config.protocol == Protocol::HttpJson;
        let content_type = if json {
            "application/json"
        } else {
            "application/x-protobuf"
        };
        let mut headers = headers(config)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Ok(Self {
            metrics: Poster::new(config.dial(), headers.clone(), secrets.clone(), is_temporary)?,
            logs: Poster::new(config.dial_logs(), headers, secrets.clone(), is_temporary)?,
            json,
            compression: config.compression,
            remarks,
        })
    }

    async fn export(&self, request: Request) -> Result<Exported, BoxError> {
        let body = if self.json {
            // Rare, and slow: decoded and encoded again, so that there is one encoder only.
            match request.kind {
                PipelineKind::Metrics => json::encode(&ExportMetricsServiceRequest::decode(request.body)?)?,
                PipelineKind::Logs => json::encode(&ExportLogsServiceRequest::decode(request.body)?)?,
            }
        } else {
            request.body
        };
        let (body, encoding) = match self.compression {
            Compression::None => (body, None),
            Compression::Gzip => (gzip(&body)?, Some("gzip")),
            #[cfg(not(feature = "zstd"))]
            Compression::Zstd => return Err(NO_ZSTD.into()),
            #[cfg(feature = "zstd")]
            Compression::Zstd => (
                Bytes::from(zstd::bulk::compress(&body, ZSTD_LEVEL)?),
                Some("zstd"),
            ),
        };
        let poster = match request.kind {
            PipelineKind::Metrics => &self.metrics,
            PipelineKind::Logs => &self.logs,
        };
        let answer = poster.post(body, encoding).await?;
        // The status says that all is well, and something else than a collector says that as well: a login page, a proxy, a web server.
        let Some(response) = decode(&answer, self.json) else {
            return Err(poster.misunderstood(&answer).into());
        };
        Ok(self.remarks.accepted(&response, request.kind, request.items))
    }
}

/// Decodes a response by its content type, else by that of the request, and in the other encoding if that fails: what the collector
/// rejected is not to be counted as sent. `None` if it is not one of OTLP.
///
/// Text is never one, although many a text is valid protobuf with unknown fields: so the fields of an answer that is not empty must have
/// one that OTLP defines.
fn decode(response: &Response<Bytes>, request_is_json: bool) -> Option<ExportMetricsServiceResponse> {
    let media_type = media_type(response.headers());
    let is_text = media_type.starts_with("text/") || media_type == "application/xhtml+xml";
    // RFC 9457: an error.
    if is_text || media_type.starts_with("application/problem+") {
        return None;
    }
    let is_json = match media_type.as_str() {
        "application/x-protobuf" | "application/protobuf" => false,
        other => request_is_json || other == "application/json" || other.ends_with("+json"),
    };
    let body = response.body();
    let read = |json: bool| {
        if json {
            json::decode_response(body)
        } else {
            let answer = ExportMetricsServiceResponse::decode(body.clone()).ok()?;
            (body.is_empty() || answer.partial_success.is_some()).then_some(answer)
        }
    };
    read(is_json).or_else(|| read(!is_json))
}

/// The OTLP specification ("OTLP/HTTP Throttling" and "Failures") lists all of these but 408, by which a server says that it did not
/// get the request in time (RFC 9110, section 15.5.9). Redirects are final: metrics go to the address in the config, nowhere else.
const fn is_temporary(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

pub(super) fn gzip(body: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body)?;
    encoder.finish().map(Bytes::from)
}

/// Values of the config that an answer must not show.
fn secrets(config: &Resolved) -> Secrets {
    let mut secrets: Vec<_> = config.headers.values().cloned().collect();
    secrets.extend(config.dial().secrets());
    secrets.extend(config.dial_logs().secrets());
    Secrets::new(secrets)
}

fn headers(config: &Resolved) -> Result<HeaderMap, BoxError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes())?;
        let mut value = HeaderValue::from_str(value)?;
        // Most often a token; what is marked so shows in no log.
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    // A name that the config sets stays.
    headers
        .entry(USER_AGENT)
        .or_insert(HeaderValue::from_static(push::USER_AGENT));
    Ok(headers)
}

/// Requests are encoded already; responses are decoded by prost.
#[derive(Clone, Copy, Debug)]
struct ExportCodec;

impl Codec for ExportCodec {
    type Encode = Bytes;
    type Decode = ExportMetricsServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for ExportCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for ExportCodec {
    type Item = ExportMetricsServiceResponse;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        ExportMetricsServiceResponse::decode(bytes)
            .map(Some)
            .map_err(|error| Status::internal(format!("the collector's response can't be decoded: {error}")))
    }
}
