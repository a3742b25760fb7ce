//! A metric family, and one series of it with its two renderings.
//!
//! A series is made once, when its key is first seen. From then on every exporter copies the rendering it needs:
//! the Prometheus label block, or the OTLP attribute bytes.

use std::fmt::Write as _;
use std::net::IpAddr;

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::snapshot::HISTOGRAM_BUCKETS;
use crate::time::Timestamp;

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FamilyKind {
    /// A monotonic sum.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Observations in buckets with these upper bounds; one more bucket, without bound, follows.
    Histogram(&'static [f64; HISTOGRAM_BUCKETS]),
}

/// Whose names metrics and labels have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// The Go exporter's: `network_tcp_flow_egress` behind a namespace, `raddr`.
    #[default]
    PrimusLens,
    /// OpenTelemetry's semantic conventions: `flowtap.tcp.egress.io`, `network.peer.address`. Ports and ids are integers.
    Otel,
}

/// A metric: what all its series share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// Name, such as `network_tcp_flow_egress`; without the namespace, where `naming` has one.
    pub name: &'static str,
    /// Whose name that is.
    pub naming: Naming,
    /// One sentence for the reader of a scrape.
    pub help: &'static str,
    /// Unit in UCUM notation (`By`, `us`, `{connection}`), as OTLP wants it.
    pub unit: &'static str,
    /// Its type.
    pub kind: FamilyKind,
}

/// One label's value, before it is rendered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LabelValue<'a> {
    /// Text.
    Text(&'a str),
    /// An address, in its usual notation.
    Addr(IpAddr),
    /// A port.
    Port(u16),
    /// Any other number, such as a process id.
    Number(u64),
}

/// One label set of a family. Shared by `Arc`: made once, read by every exporter.
#[derive(Debug, PartialEq, Eq)]
pub struct Series {
    /// When it began to count: the start time of its cumulative points.
    pub start: Timestamp,
    /// Prometheus label pairs as they stand between the braces: `raddr="192.0.2.7",type="externalHosts"`. Empty if
    /// the family has no labels.
    pub labels: Box<str>,
    /// The same as OTLP `KeyValue` messages, each behind its key and length, ready to be copied into a data point of
    /// the family's kind (`opentelemetry/proto/metrics/v1/metrics.proto`: field 7 of a `NumberDataPoint`, 9 of a
    /// `HistogramDataPoint`).
    pub attributes: Box<[u8]>,
}

impl Series {
    /// Renders names and values of labels, in their order, for a series of `family`. Names are of the family's naming.
    pub fn render<'a>(
        family: &Family,
        pairs: impl IntoIterator<Item = (&'a str, LabelValue<'a>)>,
        start: Timestamp,
    ) -> Self {
        let field = match family.kind {
            FamilyKind::Counter | FamilyKind::Gauge => 7,
            FamilyKind::Histogram(_) => 9,
        };
        let otel = family.naming == Naming::Otel;
        let mut labels = String::new();
        let mut attributes = Vec::new();
        let mut text = String::new();
        for (name, value) in pairs {
            text.clear();
            let (value, number) = match value {
                LabelValue::Text(value) => (value, None),
                LabelValue::Addr(addr) => (shown(&mut text, addr), None),
                LabelValue::Port(port) => (shown(&mut text, port), Some(u64::from(port))),
                LabelValue::Number(number) => (shown(&mut text, number), Some(number)),
            };
            // An attribute that is not known is left out, where a label of the text formats would be empty.
            if otel && value.is_empty() {
                continue;
            }
            if !labels.is_empty() {
                labels.push(',');
            }
            match number.filter(|_| otel) {
                Some(number) => push_integer_attribute(&mut attributes, field, name, number),
                None => push_attribute(&mut attributes, field, name, value),
            }
            if otel {
                push_label(&mut labels, &name.replace('.', "_"), value);
            } else {
                push_label(&mut labels, name, value);
            }
        }
        Self {
            start,
            labels: labels.into_boxed_str(),
            attributes: attributes.into_boxed_slice(),
        }
    }
}

fn shown(text: &mut String, value: impl std::fmt::Display) -> &str {
    // Writing to a String does not fail.
    let _ = write!(text, "{value}");
    text
}

/// Appends `name="value"`, escaped as the exposition formats ask: backslash, double quote, line feed.
pub fn push_label(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Appends `KeyValue { key: name, value: AnyValue { string_value: value } }` as field number `field`
/// (`opentelemetry/proto/common/v1/common.proto`: key 1, value 2; string value 1).
pub fn push_attribute(out: &mut Vec<u8>, field: u32, name: &str, value: &str) {
    let any_len = text_len(value);
    let pair_len = text_len(name) + 1 + encoded_len_varint(any_len as u64) + any_len;
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(pair_len as u64, out);
    push_text(out, name);
    encode_key(2, WireType::LengthDelimited, out);
    encode_varint(any_len as u64, out);
    // An empty value is written too: the field is part of a `oneof`, where absent and empty differ.
    push_text(out, value);
}

/// The same with an integer: `AnyValue { int_value: value }`, field 3.
pub fn push_integer_attribute(out: &mut Vec<u8>, field: u32, name: &str, value: u64) {
    let any_len = 1 + encoded_len_varint(value);
    let pair_len = text_len(name) + 2 + any_len;
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(pair_len as u64, out);
    push_text(out, name);
    encode_key(2, WireType::LengthDelimited, out);
    encode_varint(any_len as u64, out);
    encode_key(3, WireType::Varint, out);
    encode_varint(value, out);
}

/// Appends `text` as field 1.
fn push_text(out: &mut Vec<u8>, text: &str) {
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Length of what [`push_text`] appends.
fn text_len(text: &str) -> usize {
    1 + encoded_len_varint(text.len() as u64) + text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILY: Family = Family {
        name: "bytes",
        naming: Naming::PrimusLens,
        help: "Bytes.",
        unit: "By",
        kind: FamilyKind::Counter,
    };

    fn render(values: [LabelValue<'_>; 3]) -> Series {
        let pairs = ["raddr", "rport", "type"].into_iter().zip(values);
        Series::render(&FAMILY, pairs, Timestamp::from_nanos(1))
    }

    /// A point's attributes as the OpenTelemetry messages (`opentelemetry/proto/common/v1/common.proto`).
    #[derive(Clone, PartialEq, prost::Message)]
    struct Point {
        #[prost(message, repeated, tag = "7")]
        attributes: Vec<Pair>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Pair {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(message, optional, tag = "2")]
        value: Option<Any>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Any {
        #[prost(oneof = "AnyKind", tags = "1, 3")]
        kind: Option<AnyKind>,
    }
    #[derive(Clone, PartialEq, prost::Oneof)]
    enum AnyKind {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(int64, tag = "3")]
        Number(i64),
    }

    fn attributes(series: &Series) -> Vec<(String, AnyKind)> {
        let point: Point = prost::Message::decode(&*series.attributes).unwrap();
        let pairs = point.attributes.into_iter();
        pairs
            .map(|pair| (pair.key, pair.value.and_then(|any| any.kind).unwrap()))
            .collect()
    }

    #[test]
    fn labels_are_rendered_in_the_familys_order_and_escaped() {
        let values = [
            LabelValue::Addr("2001:db8::1".parse().unwrap()),
            LabelValue::Port(443),
            LabelValue::Text("a\"b\\c\nd"),
        ];
        let series = render(values);
        assert_eq!(
            &*series.labels,
            r#"raddr="2001:db8::1",rport="443",type="a\"b\\c\nd""#
        );
    }

    #[test]
    fn attributes_decode_as_the_opentelemetry_messages_they_stand_for() {
        let values = [
            LabelValue::Addr("192.0.2.7".parse().unwrap()),
            LabelValue::Port(443),
            LabelValue::Text(""),
        ];
        let series = render(values);
        let pair = |key: &str, value: &str| (key.to_owned(), AnyKind::Text(value.to_owned()));
        assert_eq!(
            attributes(&series),
            [pair("raddr", "192.0.2.7"), pair("rport", "443"), pair("type", "")]
        );
    }

    #[test]
    fn by_opentelemetrys_naming_numbers_are_numbers_and_what_is_not_known_is_left_out() {
        let family = Family {
            naming: Naming::Otel,
            ..FAMILY
        };
        let pairs = [
            (
                "network.peer.address",
                LabelValue::Addr("192.0.2.7".parse().unwrap()),
            ),
            ("network.peer.port", LabelValue::Port(443)),
            ("process.pid", LabelValue::Number(70_000)),
            ("container.id", LabelValue::Text("")),
        ];
        let series = Series::render(&family, pairs, Timestamp::from_nanos(1));
        assert_eq!(
            &*series.labels,
            r#"network_peer_address="192.0.2.7",network_peer_port="443",process_pid="70000""#
        );
        assert_eq!(
            attributes(&series),
            [
                (
                    "network.peer.address".to_owned(),
                    AnyKind::Text("192.0.2.7".to_owned())
                ),
                ("network.peer.port".to_owned(), AnyKind::Number(443)),
                ("process.pid".to_owned(), AnyKind::Number(70_000)),
            ]
        );
    }
}
