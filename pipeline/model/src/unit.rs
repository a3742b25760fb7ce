//! The unit of a metric.

/// Unit of a family, which exporters write as UCUM does (`By`, `us`, `{connection}`).
///
/// ```
/// use flowtap_model::Unit;
///
/// assert_eq!(Unit::Bytes.as_str(), "By");
/// assert_eq!(Unit::Count("{connection}").as_str(), "{connection}");
/// assert_eq!(Unit::of("s"), Unit::Seconds);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Microseconds.
    Microseconds,
    /// Bytes per second.
    BytesPerSecond,
    /// A ratio, mostly of 0 to 1.
    Ratio,
    /// A number of things, by their UCUM annotation: `{connection}`.
    Count(&'static str),
}

impl Unit {
    /// Unit by its UCUM notation; one of no other kind counts as an annotation.
    pub const fn of(ucum: &'static str) -> Self {
        match ucum.as_bytes() {
            b"By" => Self::Bytes,
            b"s" => Self::Seconds,
            b"us" => Self::Microseconds,
            b"By/s" => Self::BytesPerSecond,
            b"1" => Self::Ratio,
            _ => Self::Count(ucum),
        }
    }

    /// Its UCUM notation, which OTLP wants.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "By",
            Self::Seconds => "s",
            Self::Microseconds => "us",
            Self::BytesPerSecond => "By/s",
            Self::Ratio => "1",
            Self::Count(annotation) => annotation,
        }
    }
}
