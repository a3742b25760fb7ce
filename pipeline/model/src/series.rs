//! One series of a metric family, with its two renderings.
//!
//! A series is made once, when its key is first seen, and its labels are rendered then ([`labels`](crate::labels)).

use std::sync::Arc;

use triomphe::ThinArc;

use crate::family::Family;
use crate::labels::{LabelValue, Layout, Pair, Rendered, decode_attributes, encode_labels};
use crate::time::Timestamp;

/// One label set of a family: made once, read by every exporter. A clone is the same one.
///
/// It is one piece of memory, with its labels after the rest: there are as many as series, and an
/// exporter that has waited for one also has its labels (ADR 17). The last labels of many series
/// are the same, such as direction and class: these can be shared, which is most of what a series'
/// labels would take.
///
/// ```
/// use flowtap_model::{Family, FamilyKind, LabelValue, Naming, Series, Timestamp, Unit};
///
/// const FAMILY: Family = Family {
///     name: "bytes",
///     naming: Naming::PrimusLens,
///     help: "Payload bytes.",
///     unit: Unit::Bytes,
///     kind: FamilyKind::Counter,
/// };
/// let pairs = [("rport", LabelValue::Port(443)), ("type", LabelValue::Text("dns"))];
/// let series = Series::new(&FAMILY, pairs, None, Timestamp::from_nanos(0));
/// assert_eq!(series.joined_labels(), r#"rport="443",type="dns""#);
/// ```
#[derive(Clone, Debug)]
pub struct Series(ThinArc<Head, u8>);

#[derive(Debug)]
struct Head {
    start: Timestamp,
    layout: Layout,
    shared: Option<Arc<Rendered>>,
}

/// Which series one is, as long as somebody holds it: another can have the same number afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesId(usize);

impl Series {
    /// Creates a series from its own labels (`pairs`) followed by the `shared` ones.
    pub fn new<'a>(
        family: &Family,
        pairs: impl IntoIterator<Item = (&'a str, LabelValue<'a>)>,
        shared: Option<Arc<Rendered>>,
        start: Timestamp,
    ) -> Self {
        let (layout, bytes) = encode_labels(family, pairs);
        let head = Head {
            start,
            layout,
            shared,
        };
        Self(ThinArc::from_header_and_slice(head, &bytes))
    }

    /// Which one it is.
    pub fn id(&self) -> SeriesId {
        SeriesId(self.0.as_ptr().addr())
    }

    /// Whether a clone of it is held elsewhere: by its window as long as it lives, and by snapshots.
    pub fn is_shared(&self) -> bool {
        ThinArc::strong_count(&self.0) > 1
    }

    /// When it began to count: the start time of its cumulative points.
    pub fn start(&self) -> Timestamp {
        self.head().start
    }

    fn head(&self) -> &Head {
        &self.0.header.header
    }

    /// Its own labels, as they are rendered.
    fn bytes(&self) -> &[u8] {
        &self.0.slice
    }

    /// Prometheus label pairs as they stand between the braces, `raddr="192.0.2.7"` and `type="externalHosts"`, in UTF-8: two lists,
    /// to be joined by a comma if neither is empty. Both are if the family has no labels.
    pub fn labels(&self) -> [&[u8]; 2] {
        let head = self.head();
        let shared = head.shared.as_deref();
        [
            head.layout.labels(self.bytes()),
            shared.map_or(&[], Rendered::labels),
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
        self.attributes().into_iter().flat_map(decode_attributes)
    }

    /// Bytes of the labels as `LabelPair` messages (`prometheus/client_model`, `metrics.proto`),
    /// each with a key of one byte and its length.
    pub fn label_pairs_len(&self) -> usize {
        let head = self.head();
        head.layout.pairs_len() + head.shared.as_deref().map_or(0, Rendered::pairs_len)
    }

    /// The labels as OTLP `KeyValue` messages, each after its key and length, ready to be copied
    /// into a data point of the family's kind (`opentelemetry/proto/metrics/v1/metrics.proto`:
    /// field 7 of a `NumberDataPoint`, 9 of a `HistogramDataPoint`, 1 of an `ExponentialHistogramDataPoint`), one piece after the other.
    pub fn attributes(&self) -> [&[u8]; 2] {
        let head = self.head();
        let shared = head.shared.as_deref();
        [
            head.layout.attributes(self.bytes()),
            shared.map_or(&[], Rendered::attributes),
        ]
    }

    /// Bytes of the attributes.
    pub fn attributes_len(&self) -> usize {
        self.attributes().map(<[u8]>::len).iter().sum()
    }
}

/// Brings `series` into the CPU's caches before they are looked at one after the other.
///
/// A large window's fit into no cache: so they are touched in a loop in which nothing waits for anything else, and the CPU waits for
/// all at the same time.
pub(crate) fn prefetch_series<'a>(series: impl Iterator<Item = &'a Series>) {
    const LINE_BYTES: usize = 64;
    let lines = series.flat_map(|series| series.bytes().iter().step_by(LINE_BYTES));
    std::hint::black_box(lines.map(|byte| usize::from(*byte)).sum::<usize>());
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::family::{FamilyKind, Naming};
    use crate::unit::Unit;

    const FAMILY: Family = Family {
        name: "bytes",
        naming: Naming::PrimusLens,
        help: "Bytes.",
        unit: Unit::Bytes,
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
