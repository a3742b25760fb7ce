//! One request to the collector's metrics service, by gRPC or by HTTP.

use std::io::{self, Write};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use flate2::write::GzEncoder;
use flowtap_pipeline::Exported;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tower::{BoxError, Service};

use super::config::{Compression, Protocol, Resolved};
use crate::push::Request;
use crate::push::http::{Poster, connector};

/// `opentelemetry/proto/collector/metrics/v1/metrics_service.proto`
const METHOD: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// zstd's own default: what it is fast at.
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
    /// What is wrong with the files of TLS.
    pub(super) fn new(config: &Resolved) -> Result<Self, BoxError> {
        Ok(match config.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(GrpcClient::new(config)?)),
            Protocol::HttpProtobuf | Protocol::HttpJson => Self::Http(Box::new(HttpClient::new(config)?)),
        })
    }
}

impl Service<Request> for Client {
    type Response = Exported;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Exported, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Connections are awaited in `call`, so that waiting for one is under the timeout, too.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self {
            Self::Grpc(client) => client.clone().export(request).boxed(),
            Self::Http(client) => client.clone().export(request).boxed(),
        }
    }
}

/// By gRPC.
#[derive(Clone, Debug)]
pub(super) struct GrpcClient {
    channel: Grpc<Channel>,
    headers: MetadataMap,
}

impl GrpcClient {
    fn new(config: &Resolved) -> Result<Self, BoxError> {
        let endpoint = Endpoint::from_shared(config.endpoint.clone())?.connect_timeout(config.timeout);
        let mut channel = Grpc::new(endpoint.connect_with_connector_lazy(connector(&config.tls, true)?));
        match config.compression {
            Compression::None => {}
            Compression::Gzip => channel = channel.send_compressed(CompressionEncoding::Gzip),
            Compression::Zstd => channel = channel.send_compressed(CompressionEncoding::Zstd),
        }
        channel = channel
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let headers = MetadataMap::from_headers(headers(config)?);
        Ok(Self { channel, headers })
    }

    async fn export(mut self, request: Request) -> Result<Exported, BoxError> {
        let mut message = tonic::Request::new(request.body);
        *message.metadata_mut() = self.headers;
        self.channel
            .ready()
            .await
            .map_err(|error| Status::unavailable(told(&error)))?;
        let response = self
            .channel
            .unary(message, PathAndQuery::from_static(METHOD), ExportCodec)
            .await?;
        Ok(accepted(&response.into_inner(), request.points))
    }
}

/// By HTTP, as protobuf or as JSON.
#[derive(Clone, Debug)]
pub(super) struct HttpClient {
    poster: Poster,
    json: bool,
    compression: Compression,
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
            poster: Poster::new(config.endpoint.parse()?, headers, &config.tls, is_temporary)?,
            json,
            compression: config.compression,
        })
    }

    async fn export(self, request: Request) -> Result<Exported, BoxError> {
        let body = if self.json {
            // Rare, and slow: read and written anew, so that there is one encoder only.
            let message = ExportMetricsServiceRequest::decode(request.body)?;
            Bytes::from(serde_json::to_vec(&message)?)
        } else {
            request.body
        };
        let (body, encoding) = match self.compression {
            Compression::None => (body, None),
            Compression::Gzip => (gzip(&body)?, Some("gzip")),
            Compression::Zstd => (
                Bytes::from(zstd::bulk::compress(&body, ZSTD_LEVEL)?),
                Some("zstd"),
            ),
        };
        let answer = self.poster.post(body, encoding).await?.into_body();
        let response = if self.json {
            from_json(&answer).map_err(BoxError::from)
        } else {
            ExportMetricsServiceResponse::decode(answer).map_err(BoxError::from)
        };
        // The status has said that all is well.
        let response = response.unwrap_or_else(|error| {
            tracing::warn!(%error, "the collector's answer can't be read; its status is a success");
            ExportMetricsServiceResponse::default()
        });
        Ok(accepted(&response, request.points))
    }
}

/// OTLP specification, "OTLP/HTTP Throttling" and "Failures", lists these.
const fn is_temporary(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// By hand: 64-bit numbers are text in protobuf's JSON, and collectors write them as numbers, too.
fn from_json(answer: &[u8]) -> Result<ExportMetricsServiceResponse, serde_json::Error> {
    let answer: serde_json::Value = if answer.is_empty() {
        serde_json::Value::Null
    } else {
        serde_json::from_slice(answer)?
    };
    let partial = &answer["partialSuccess"];
    let rejected = &partial["rejectedDataPoints"];
    let rejected = rejected.as_i64().or_else(|| rejected.as_str()?.parse().ok());
    let message = partial["errorMessage"].as_str().unwrap_or_default();
    Ok(ExportMetricsServiceResponse {
        partial_success: partial.is_object().then(|| ExportMetricsPartialSuccess {
            rejected_data_points: rejected.unwrap_or(0),
            error_message: message.to_owned(),
        }),
    })
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
        headers.insert(name, HeaderValue::from_str(value)?);
    }
    Ok(headers)
}

/// An error with its causes: the outermost of a transport says "transport error" only.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What a collector took of `points`.
fn accepted(response: &ExportMetricsServiceResponse, points: u64) -> Exported {
    let Some(partial) = &response.partial_success else {
        return Exported {
            sent: points,
            failed: 0,
        };
    };
    let failed = u64::try_from(partial.rejected_data_points)
        .unwrap_or(0)
        .min(points);
    if failed > 0 || !partial.error_message.is_empty() {
        tracing::warn!(
            failed,
            message = partial.error_message,
            "the collector did not take everything"
        );
    }
    Exported {
        sent: points - failed,
        failed,
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
            .map_err(|error| Status::internal(format!("the collector's answer can't be read: {error}")))
    }
}
