//! Labels as they are rendered, once in the life of a series, and read again.
//!
//! From then on every exporter copies the rendering it needs: the Prometheus label block, or the OTLP attribute bytes.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use prost::encoding::{WireType, decode_varint, encode_key, encode_varint, encoded_len_varint};

use crate::family::{Family, FamilyKind, Naming};

/// One label's value, before it is rendered.
///
/// ```
/// use flowtap_model::{Family, FamilyKind, LabelValue, Naming, Rendered, Series, Timestamp, Unit};
/// # const FAMILY: Family = Family {
/// #     name: "bytes", naming: Naming::PrimusLens, help: "Bytes.", unit: Unit::Bytes, kind: FamilyKind::Counter,
/// # };
/// let pairs = [("raddr", LabelValue::Addr([192, 0, 2, 7].into())), ("pid", LabelValue::Number(17))];
/// let series = Series::new(&FAMILY, pairs, None, Timestamp::from_nanos(0));
/// let names: Vec<_> = series.pairs().map(|pair| pair.name()).collect();
/// assert_eq!(names, ["raddr", "pid"]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LabelValue<'a> {
    /// Text.
    Text(&'a str),
    /// An address, in its usual notation.
    Addr(IpAddr),
    /// A port; 0 if not known.
    Port(u16),
    /// Any other number, such as a process id.
    Number(u64),
}

/// Labels, rendered once.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Rendered {
    layout: Layout,
    bytes: Box<[u8]>,
}

impl Rendered {
    /// Names and values of labels, in their order, for a series of `family`. Names are of the family's naming.
    pub fn new<'a>(family: &Family, pairs: impl IntoIterator<Item = (&'a str, LabelValue<'a>)>) -> Self {
        let (layout, bytes) = encode_labels(family, pairs);
        Self {
            layout,
            bytes: bytes.into_boxed_slice(),
        }
    }

    /// See [`Layout::labels`].
    pub(crate) fn labels(&self) -> &[u8] {
        self.layout.labels(&self.bytes)
    }

    /// See [`Layout::attributes`].
    pub(crate) fn attributes(&self) -> &[u8] {
        self.layout.attributes(&self.bytes)
    }

    /// See [`Layout::pairs_len`].
    pub(crate) const fn pairs_len(&self) -> usize {
        self.layout.pairs_len()
    }
}

/// Layout of rendered labels: labels, then attributes, in one piece of memory because there are as
/// many of these as series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    /// Where the attributes begin.
    attributes: u32,
    /// Bytes of the labels as `LabelPair` messages.
    pairs_len: u32,
}

impl Layout {
    /// As they stand between the braces.
    pub(crate) fn labels(self, bytes: &[u8]) -> &[u8] {
        let (labels, _) = bytes.split_at(self.attributes as usize);
        labels
    }

    /// As OTLP has them.
    pub(crate) fn attributes(self, bytes: &[u8]) -> &[u8] {
        let (_, attributes) = bytes.split_at(self.attributes as usize);
        attributes
    }

    /// Bytes of the labels as `LabelPair` messages (`prometheus/client_model`, `metrics.proto`),
    /// each with a key of one byte and its length.
    pub(crate) const fn pairs_len(self) -> usize {
        self.pairs_len as usize
    }
}

/// The labels that `pairs` are, for a series of `family`, and what is where in them.
pub(crate) fn encode_labels<'a>(
    family: &Family,
    pairs: impl IntoIterator<Item = (&'a str, LabelValue<'a>)>,
) -> (Layout, Vec<u8>) {
    let field = match family.kind {
        FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::UpDownCounter => 7,
        FamilyKind::Histogram(_) => 9,
        FamilyKind::ExponentialHistogram => 1,
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
            LabelValue::Addr(addr) => (format_into(&mut text, addr), None),
            LabelValue::Port(0) => ("", None),
            LabelValue::Port(port) => (format_into(&mut text, port), Some(u64::from(port))),
            LabelValue::Number(number) => (format_into(&mut text, number), Some(number)),
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
    let as_u32 = |len: usize| u32::try_from(len).unwrap_or_default();
    let layout = Layout {
        attributes: as_u32(bytes.len()),
        pairs_len: as_u32(pairs_len),
    };
    bytes.extend_from_slice(&attributes);
    (layout, bytes)
}

fn format_into(text: &mut String, value: impl std::fmt::Display) -> &str {
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
    /// Value, as text or integer.
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
pub(crate) fn decode_attributes(attributes: &[u8]) -> impl Iterator<Item = Pair<'_>> {
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
