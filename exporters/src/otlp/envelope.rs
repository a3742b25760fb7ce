//! The parts of a request around its signal: the resource and the scope.

use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use crate::wire::push_bytes;

pub(super) fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    push_bytes(&mut out, number, content);
    out
}

/// `ResourceMetrics.resource`, and `ResourceLogs.resource`, which have the same field number; with key and length.
pub(super) fn encoded_resource(resource: &flowtap_pipeline::Resource) -> Vec<u8> {
    let resource = Resource {
        attributes: resource
            .attributes()
            .map(|(key, value)| text(key, value))
            .collect(),
        ..Resource::default()
    };
    field(1, &resource.encode_to_vec())
}

/// `ScopeMetrics.scope`, and `ScopeLogs.scope`, like the resource.
pub(super) fn encoded_scope() -> Vec<u8> {
    let scope = InstrumentationScope {
        name: "flowtap".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    field(1, &scope.encode_to_vec())
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}
