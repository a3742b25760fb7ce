//! One request to the collector's metrics service, over a channel that connects by itself.

use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use flowtap_pipeline::Exported;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tower::{BoxError, Service};

use super::config::{Compression, Config};

/// `opentelemetry/proto/collector/metrics/v1/metrics_service.proto`
const METHOD: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// An encoded `ExportMetricsServiceRequest`. Cloning it for a retry copies no bytes.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) body: Bytes,
    /// How many points it holds.
    pub(super) points: u64,
    /// Whether flowtap is stopping.
    pub(super) last: bool,
}

/// The way to the collector.
#[derive(Clone, Debug)]
pub(super) struct Client {
    channel: Grpc<Channel>,
    headers: MetadataMap,
}

impl Client {
    /// A client that connects with its first request. Must be made within a tokio runtime.
    pub(super) fn new(config: &Config) -> Result<Self, BoxError> {
        let endpoint = Endpoint::from_shared(config.endpoint())?.connect_timeout(config.timeout);
        let mut channel = Grpc::new(endpoint.connect_lazy());
        if config.compression == Compression::Gzip {
            channel = channel.send_compressed(CompressionEncoding::Gzip);
        }
        channel = channel.accept_compressed(CompressionEncoding::Gzip);
        let mut headers = MetadataMap::new();
        for (name, value) in &config.headers {
            let name = AsciiMetadataKey::from_bytes(name.as_bytes())?;
            headers.insert(name, AsciiMetadataValue::try_from(value.as_str())?);
        }
        Ok(Self { channel, headers })
    }
}

impl Service<Request> for Client {
    type Response = Exported;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Exported, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The channel is awaited in `call`, so that waiting for a connection is under the timeout, too.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut channel = self.channel.clone();
        let mut message = tonic::Request::new(request.body);
        *message.metadata_mut() = self.headers.clone();
        async move {
            channel
                .ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let response = channel
                .unary(message, PathAndQuery::from_static(METHOD), ExportCodec)
                .await?;
            Ok(accepted(&response.into_inner(), request.points))
        }
        .boxed()
    }
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
