//! Details of a gRPC status that can't be read.
//!
//! `tonic` panics on a `grpc-status-details-bin` that is not base64, in headers and in trailers. A collector, or a program at its
//! address, must not be able to end flowtap: such details are taken out before `tonic` sees them, and the status counts without them.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::MapFrame;
use hyper::body::{Body, Frame};

const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// With and without padding, as gRPC's specification of binary headers wants it ("PROTOCOL-HTTP2", "Custom-Metadata").
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A body whose trailers were checked.
pub(super) type Checked<B> = MapFrame<B, fn(Frame<<B as Body>::Data>) -> Frame<<B as Body>::Data>>;

/// Takes unreadable details out of a response's headers, and later out of its trailers.
pub(super) fn check<B: Body>(mut response: Response<B>) -> Response<Checked<B>> {
    remove_unreadable(response.headers_mut());
    response.map(|body| {
        let check: fn(Frame<B::Data>) -> Frame<B::Data> = check_trailers;
        body.map_frame(check)
    })
}

fn check_trailers<D>(frame: Frame<D>) -> Frame<D> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            remove_unreadable(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(other) => other,
    }
}

fn remove_unreadable(headers: &mut HeaderMap) {
    let details = headers.get(DETAILS);
    if details.is_some_and(|details| BASE64.decode(details.as_bytes()).is_err()) {
        headers.remove(DETAILS);
        tracing::debug!("the details of a gRPC status are not base64, and are ignored");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn details_that_are_not_base64_are_taken_out_of_headers_and_trailers() {
        for (details, stays) in [
            ("CAgSBWxh", true),
            ("CAgSBWxhCg", true),
            ("CAgSBWxhCg==", true),
            ("CAgSBWxh:GVy", false),
            ("CAgS BWxh", false),
        ] {
            let headers = HeaderMap::from_iter([(DETAILS, HeaderValue::from_static(details))]);
            let trailers = headers.clone();
            let body = Full::new(Bytes::new()).with_trailers(async move { Some(Ok(trailers)) });
            let mut response = Response::new(body);
            *response.headers_mut() = headers;
            let response = check(response);
            assert_eq!(response.headers().contains_key(DETAILS), stays, "{details}");
            let collected = response.into_body().collect().await.unwrap();
            let trailers = collected.trailers().unwrap();
            assert_eq!(trailers.contains_key(DETAILS), stays, "{details}");
        }
    }
}
