//! A metric family, and one series of it with its two renderings.
//!
//! A series is made once, when its key is first seen. From then on every exporter copies the rendering it needs:
//! the Prometheus label block, or the OTLP attribute bytes.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use prost::encoding::{WireType, decode_varint, encode_key, encode_varint, encoded_len_varint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use triomphe::ThinArc;

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

/// Labels, rendered once.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Rendered {
    parts: Parts,
    bytes: Box<[u8]>,
}

impl Rendered {
    /// Names and values of labels, in their order, for a series of `family`. Names are of the family's naming.
    pub fn new<'a>(family: &Family, pairs: impl IntoIterator<Item = (&'a str, LabelValue<'a>)>) -> Self {
        let (parts, bytes) = render(family, pairs);
        Self {
            parts,
            bytes: bytes.into_boxed_slice(),
        }
    }
}

/// What is where in labels that are rendered: labels, then attributes, in one piece of memory because there are as many of these
/// as series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Parts {
    /// Where the attributes begin.
    attributes: u32,
    /// See [`Series::label_pairs_len`].
    pairs_len: u32,
}

impl Parts {
    /// As they stand between the braces.
    fn labels(self, bytes: &[u8]) -> &[u8] {
        let (labels, _) = bytes.split_at(self.attributes as usize);
        labels
    }

    fn attributes(self, bytes: &[u8]) -> &[u8] {
        let (_, attributes) = bytes.split_at(self.attributes as usize);
        attributes
    }
}

fn render<'a>(
    family: &Family,
    pairs: impl IntoIterator<Item = (&'a str, LabelValue<'a>)>,
) -> (Parts, Vec<u8>) {
    let field = match family.kind {
        FamilyKind::Counter | FamilyKind::Gauge => 7,
        FamilyKind::Histogram(_) => 9,
    };
    let otel = family.naming == Naming::Otel;
    let mut labels = String::new();
    let mut attributes = Vec::new();
    let mut pairs_len = 0;
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
        let pair_len = text_len(name) + text_len(value);
        pairs_len += 1 + encoded_len_varint(pair_len as u64) + pair_len;
        if otel {
            push_label(&mut labels, &name.replace('.', "_"), value);
        } else {
            push_label(&mut labels, name, value);
        }
    }
    let mut bytes = labels.into_bytes();
    // Labels come from names of a few thousand bytes at most.
    let small = |len: usize| u32::try_from(len).unwrap_or_default();
    let parts = Parts {
        attributes: small(bytes.len()),
        pairs_len: small(pairs_len),
    };
    bytes.extend_from_slice(&attributes);
    (parts, bytes)
}

/// One label set of a family: made once, read by every exporter. A clone is the same one.
///
/// It is one piece of memory, its labels behind the rest: there are as many as series, and an exporter that has waited for one has
/// its labels, too (ADR 17). The last labels of many series are the same, such
/// as direction and class: these can be shared, which is most of what a series' labels would take.
#[derive(Clone, Debug)]
pub struct Series(ThinArc<Head, u8>);

#[derive(Debug)]
struct Head {
    start: Timestamp,
    parts: Parts,
    shared: Option<Arc<Rendered>>,
}

/// Which series one is, as long as somebody holds it: another can have the same number afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesId(usize);

impl Series {
    /// With the labels of its own that `pairs` are, behind which come those that are `shared`.
    pub fn new<'a>(
        family: &Family,
        pairs: impl IntoIterator<Item = (&'a str, LabelValue<'a>)>,
        shared: Option<Arc<Rendered>>,
        start: Timestamp,
    ) -> Self {
        let (parts, bytes) = render(family, pairs);
        let head = Head { start, parts, shared };
        Self(ThinArc::from_header_and_slice(head, &bytes))
    }

    /// Which one it is.
    pub fn id(&self) -> SeriesId {
        SeriesId(self.0.as_ptr().addr())
    }

    /// When it began to count: the start time of its cumulative points.
    pub fn start(&self) -> Timestamp {
        self.head().start
    }

    fn head(&self) -> &Head {
        &self.0.header.header
    }

    /// Labels of its own, as they are rendered.
    fn bytes(&self) -> &[u8] {
        &self.0.slice
    }

    /// Prometheus label pairs as they stand between the braces, `raddr="192.0.2.7"` and `type="externalHosts"`, in UTF-8: two lists,
    /// to be joined by a comma if neither is empty. Both are if the family has no labels.
    pub fn labels(&self) -> [&[u8]; 2] {
        let head = self.head();
        let shared = head.shared.as_deref();
        [
            head.parts.labels(self.bytes()),
            shared.map_or(&[], |shared| shared.parts.labels(&shared.bytes)),
        ]
    }

    /// The same as one list.
    pub fn joined_labels(&self) -> String {
        let [own, shared] = self.labels();
        let comma: &[u8] = if own.is_empty() || shared.is_empty() {
            b""
        } else {
            b","
        };
        String::from_utf8([own, comma, shared].concat()).unwrap_or_default()
    }

    /// Names and values, read anew from the rendering, which is the only place where they are kept.
    pub fn pairs(&self) -> impl Iterator<Item = Pair<'_>> {
        self.attributes().into_iter().flat_map(read)
    }

    /// How many bytes the labels take as `LabelPair` messages (`prometheus/client_model`, `metrics.proto`), each with a key of one byte
    /// and its length.
    pub fn label_pairs_len(&self) -> usize {
        let head = self.head();
        let shared = head.shared.as_deref().map_or(0, |shared| shared.parts.pairs_len);
        head.parts.pairs_len as usize + shared as usize
    }

    /// The labels as OTLP `KeyValue` messages, each behind its key and length, ready to be copied into a data point of
    /// the family's kind (`opentelemetry/proto/metrics/v1/metrics.proto`: field 7 of a `NumberDataPoint`, 9 of a
    /// `HistogramDataPoint`), one piece after the other.
    pub fn attributes(&self) -> [&[u8]; 2] {
        let head = self.head();
        let shared = head.shared.as_deref();
        [
            head.parts.attributes(self.bytes()),
            shared.map_or(&[], |shared| shared.parts.attributes(&shared.bytes)),
        ]
    }

    /// How many bytes the attributes have.
    pub fn attributes_len(&self) -> usize {
        self.attributes().map(<[u8]>::len).iter().sum()
    }
}

/// Brings `series` into the CPU's caches before they are looked at one after the other.
///
/// A large window's fit into no cache: so they are touched in a loop in which nothing waits for anything else, and the CPU waits for
/// all at the same time.
pub(crate) fn warm<'a>(series: impl Iterator<Item = &'a Series>) {
    const LINE_BYTES: usize = 64;
    let lines = series.flat_map(|series| series.bytes().iter().step_by(LINE_BYTES));
    std::hint::black_box(lines.map(|byte| usize::from(*byte)).sum::<usize>());
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

/// A name and a value of a series, as OTLP has them: Prometheus' name of it has an underscore for each dot, and its value is text.
///
/// Bytes, and not `str`: exporters copy these by the million, and none has to look at each to know that it is UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// In UTF-8.
    pub name: &'a [u8],
    /// What it is.
    pub value: PairValue<'a>,
}

/// The value of a [`Pair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairValue<'a> {
    /// Text, in UTF-8.
    Text(&'a [u8]),
    /// An integer.
    Integer(u64),
}

impl<'a> Pair<'a> {
    /// The name as text.
    pub fn name(&self) -> &'a str {
        str::from_utf8(self.name).unwrap_or_default()
    }
}

impl<'a> PairValue<'a> {
    /// The value as text.
    pub fn text(&self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => str::from_utf8(text).unwrap_or_default().into(),
            Self::Integer(number) => number.to_string().into(),
        }
    }
}

/// Appends the name that Prometheus has for the attribute `name`.
pub fn push_label_name(out: &mut Vec<u8>, name: &[u8]) {
    out.extend(name.iter().map(|&byte| if byte == b'.' { b'_' } else { byte }));
}

/// Reads what [`push_attribute`] and [`push_integer_attribute`] wrote.
fn read(attributes: &[u8]) -> impl Iterator<Item = Pair<'_>> {
    let mut rest = attributes;
    std::iter::from_fn(move || {
        let mut pair = read_field(&mut rest)?;
        let name = read_field(&mut pair)?;
        let mut any = read_field(&mut pair)?;
        let value = if any.first() == Some(&TEXT_KEY) {
            PairValue::Text(read_field(&mut any)?)
        } else {
            any = any.get(1..)?;
            PairValue::Integer(decode_varint(&mut any).ok()?)
        };
        Some(Pair { name, value })
    })
}

/// Takes a field whose key is one byte and whose content has a length off `rest`.
#[inline]
fn read_field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [_, len, behind @ ..] = *rest else { return None };
    let (content, behind) = if *len < 0x80 {
        behind.split_at_checked(usize::from(*len))?
    } else {
        let mut behind = rest.get(1..)?;
        let len = decode_varint(&mut behind).ok()?;
        behind.split_at_checked(usize::try_from(len).ok()?)?
    };
    *rest = behind;
    Some(content)
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

/// Key of field 1, with a length.
const TEXT_KEY: u8 = 1 << 3 | 2;

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
        Series::new(&FAMILY, pairs, None, Timestamp::from_nanos(1))
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
        let point: Point = prost::Message::decode(&*series.attributes().concat()).unwrap();
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
            series.joined_labels(),
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
    fn names_and_values_are_read_back_whatever_is_in_them() {
        let long = "x".repeat(20_000);
        let values = [
            "plain",
            "",
            "\\",
            "\"",
            "\n",
            "x\",y=\"z",
            "gr\u{fc}\u{df}e \u{1f980}",
            &long,
        ];
        let name = "network.peer.address";
        for naming in [Naming::PrimusLens, Naming::Otel] {
            let family = Family { naming, ..FAMILY };
            for value in values {
                let shared = Rendered::new(&family, [("flow", LabelValue::Text("egress"))]);
                let pairs = [
                    (name, LabelValue::Text(value)),
                    ("pid", LabelValue::Number(u64::MAX)),
                ];
                let series = Series::new(&family, pairs, Some(Arc::new(shared)), Timestamp::from_nanos(1));
                let read: Vec<_> = series
                    .pairs()
                    .map(|pair| (pair.name(), pair.value.text()))
                    .collect();
                let pid = u64::MAX.to_string();
                let mut expected = vec![(name, value), ("pid", &*pid), ("flow", "egress")];
                expected.retain(|(_, value)| naming == Naming::PrimusLens || !value.is_empty());
                let expected: Vec<_> = expected
                    .into_iter()
                    .map(|(name, value)| (name, Cow::Borrowed(value)))
                    .collect();
                assert_eq!(read, expected, "{naming:?}");
            }
        }
        let none = Series::new(&FAMILY, [], None, Timestamp::from_nanos(1));
        assert_eq!(none.pairs().count(), 0);
    }

    #[test]
    fn labels_that_are_shared_come_behind_the_series_own() {
        let shared = Arc::new(Rendered::new(&FAMILY, [("type", LabelValue::Text("dns"))]));
        let pairs = [("rport", LabelValue::Port(53))];
        let start = Timestamp::from_nanos(1);
        let series = Series::new(&FAMILY, pairs, Some(Arc::clone(&shared)), start);
        assert_eq!(series.joined_labels(), r#"rport="53",type="dns""#);
        let whole = Series::new(
            &FAMILY,
            pairs.into_iter().chain([("type", LabelValue::Text("dns"))]),
            None,
            start,
        );
        assert_eq!(attributes(&series), attributes(&whole));
        assert_eq!(series.attributes_len(), whole.attributes_len());
        let none = Series::new(&FAMILY, [], Some(shared), start);
        assert_eq!(none.joined_labels(), r#"type="dns""#);
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
        let series = Series::new(&family, pairs, None, Timestamp::from_nanos(1));
        assert_eq!(
            series.joined_labels(),
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
