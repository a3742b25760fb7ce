//! One request to the collector's metrics or logs service, over gRPC or HTTP.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use flate2::write::GzEncoder;
use flowtap_pipeline::{Exported, PipelineKind};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tower::{BoxError, ServiceExt as _};

#[cfg(not(feature = "zstd"))]
use super::config::NO_ZSTD;
use super::config::{Compression, Protocol, Resolved};
use super::{json, status_details};
use crate::push::channel::{Channel, KeepAlive};
use crate::push::error::from_status;
use crate::push::health::{Warned, is_news};
use crate::push::http::{Misunderstood, Poster};
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
    /// A client that connects with its first request. Must be made within a tokio runtime.
    ///
    /// # Errors
    /// A TLS file that can't be used.
    pub(super) fn new(config: &Resolved) -> Result<Self, BoxError> {
        Ok(match config.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(GrpcClient::new(config)?)),
            Protocol::HttpProtobuf | Protocol::HttpJson => Self::Http(Box::new(HttpClient::new(config)?)),
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
    remarks: Remarks,
}

impl GrpcClient {
    fn new(config: &Resolved) -> Result<Self, BoxError> {
        let keep_alive = KeepAlive {
            interval: config.keepalive.0,
            timeout: config.keepalive.1,
        };
        Ok(Self {
            channel: Channel::new(config.dial(), Some(keep_alive))?,
            compression: config.compression,
            headers: MetadataMap::from_headers(headers(config)?),
            timeout: config.timeout,
            remarks: Remarks::default(),
        })
    }

    async fn export(&self, request: Request) -> Result<Exported, BoxError> {
        let origin = self.channel.dial().endpoint.uri().clone();
        let client = self.channel.client().map_response(status_details::check);
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
            .map_err(|status| from_status(status, self.channel.broken()))?;
        let answer = answer.into_inner();
        Ok(self.remarks.accepted(&answer, request.kind, request.items))
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
    fn new(config: &Resolved) -> Result<Self, BoxError> {
        let json = config.protocol == Protocol::HttpJson;
        let content_type = if json {
            "application/json"
        } else {
            "application/x-protobuf"
        };
        let mut headers = headers(config)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Ok(Self {
            metrics: Poster::new(config.dial(), headers.clone(), is_temporary)?,
            logs: Poster::new(config.dial_logs(), headers, is_temporary)?,
            json,
            compression: config.compression,
            remarks: Remarks::default(),
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
        let response = match decode(&answer, self.json) {
            Ok(response) => response,
            Err(error) if is_otlp(&answer) => {
                // The status has said that all is well.
                self.remarks.undecodable(&error);
                ExportMetricsServiceResponse::default()
            }
            Err(_) => return Err(Misunderstood::new(&answer).into()),
        };
        Ok(self.remarks.accepted(&response, request.kind, request.items))
    }
}

/// The media type of `answer`, in small letters; empty if it has none.
fn media_type(answer: &Response<Bytes>) -> String {
    let content_type = answer.headers().get(CONTENT_TYPE);
    let content_type = content_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Whether `answer` says that it is in an encoding of OTLP.
fn is_otlp(answer: &Response<Bytes>) -> bool {
    matches!(
        media_type(answer).as_str(),
        "application/json" | "application/x-protobuf"
    )
}

/// Decodes a response by its content type, else by that of the request, and in the other encoding if that fails: neither encoding can be
/// taken for the other, and what the collector rejected is not to be counted as sent.
fn decode(
    response: &Response<Bytes>,
    request_is_json: bool,
) -> Result<ExportMetricsServiceResponse, BoxError> {
    let is_json = match media_type(response).as_str() {
        "application/json" => true,
        "application/x-protobuf" => false,
        _ => request_is_json,
    };
    let body = response.body();
    let read = |json: bool| {
        if json {
            json::decode_response(body).map_err(BoxError::from)
        } else {
            ExportMetricsServiceResponse::decode(body.clone()).map_err(BoxError::from)
        }
    };
    read(is_json).or_else(|error| read(!is_json).map_err(|_| error))
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

fn gzip(body: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body)?;
    encoder.finish().map(Bytes::from)
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

/// Remarks of a collector in answers to requests that it has taken. Each text is a warning once in a while; in between it is logged at
/// `debug`.
#[derive(Clone, Debug, Default)]
struct Remarks(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    warned: Warned,
    /// Rejected items that no warning has counted yet.
    rejected: u64,
}

impl Remarks {
    /// The part of `items` that a collector accepted. The response of the logs service has the same fields by another name, so both are
    /// read as that of the metrics service.
    fn accepted(&self, response: &ExportMetricsServiceResponse, kind: PipelineKind, items: u64) -> Exported {
        let Some(partial) = &response.partial_success else {
            return Exported {
                sent: items,
                failed: 0,
            };
        };
        let failed = u64::try_from(partial.rejected_data_points)
            .unwrap_or(0)
            .min(items);
        let (answer, items_of) = (push::error::peer_text(&partial.error_message), kind.items());
        let is_rejected = match remark(failed, &partial.error_message) {
            Remark::None => None,
            Remark::Warning => Some(false),
            Remark::Rejected => Some(true),
        };
        match is_rejected.map(|is_rejected| (is_rejected, self.due(&answer, failed))) {
            None => {}
            Some((_, None)) => tracing::debug!(failed, answer, "the collector has a remark on {items_of}"),
            Some((false, Some(_))) => tracing::warn!(
                answer,
                "the collector accepted all {items_of}, with a warning; hint: `answer` is the collector's text"
            ),
            Some((true, Some(failed))) => tracing::warn!(
                failed,
                answer,
                "the collector rejected some {items_of}; hint: look for the reason in the collector's log"
            ),
        }
        Exported {
            sent: items - failed,
            failed,
        }
    }

    /// An answer that is marked as one of OTLP, and is none.
    fn undecodable(&self, error: &BoxError) {
        if self.due(&error.to_string(), 0).is_some() {
            tracing::warn!(%error, "the collector's response can't be decoded; its status is success; \
                hint: check that the endpoint is one of OTLP");
        } else {
            tracing::debug!(%error, "the collector's response can't be decoded");
        }
    }

    /// If a warning of this text is due: the number of rejected items that it counts.
    fn due(&self, text: &str, rejected: u64) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.rejected += rejected;
        is_news(&mut said.warned, text).then(|| std::mem::take(&mut said.rejected))
    }
}

/// Meaning of a partial success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remark {
    None,
    Warning,
    Rejected,
}

/// By the OTLP specification, a message and no rejected items are the warning of a server that accepts everything.
const fn remark(failed: u64, message: &str) -> Remark {
    match (failed, message.is_empty()) {
        (0, true) => Remark::None,
        (0, false) => Remark::Warning,
        _ => Remark::Rejected,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_success_that_rejects_nothing_is_a_warning_of_a_server_that_accepts_everything() {
        assert_eq!(remark(0, ""), Remark::None);
        assert_eq!(remark(0, "deprecated"), Remark::Warning);
        assert_eq!(remark(2, ""), Remark::Rejected);
        assert_eq!(remark(2, "too old"), Remark::Rejected);
    }
}
