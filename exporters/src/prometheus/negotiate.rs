//! Content negotiation: formats by `Accept`, compression by `Accept-Encoding` (RFC 9110, sections
//! 12.5.1 and 12.5.3).

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};

/// Format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
    /// Families as protobuf messages, each after its length.
    Protobuf,
}

impl Format {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// The format that `headers` ask for. Defaults to text when the client states no preference.
    pub(super) fn negotiate(headers: &HeaderMap) -> Self {
        let (mut text, mut open_metrics, mut protobuf) = (0, 0, 0);
        for choice in choices(headers, &ACCEPT) {
            let version = choice.parameter("version");
            match choice.value {
                // 0.0.1 preceded 1.0.0; clients that accept only it can read this output.
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0" | "0.0.1")) => {
                    open_metrics = open_metrics.max(choice.quality);
                }
                "application/vnd.google.protobuf"
                    if choice.parameter("proto") == Some("io.prometheus.client.MetricFamily")
                        && choice.parameter("encoding") == Some("delimited") =>
                {
                    protobuf = protobuf.max(choice.quality);
                }
                "text/plain" if matches!(version, None | Some("0.0.4")) => text = text.max(choice.quality),
                "text/*" | "*/*" => text = text.max(choice.quality),
                _ => {}
            }
        }
        if protobuf > 0 && protobuf >= open_metrics.max(text) {
            Self::Protobuf
        } else if open_metrics > 0 && open_metrics >= text {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}

/// Whether `headers` take gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let named = choices(headers, &ACCEPT_ENCODING)
        .filter(|choice| choice.value == "gzip")
        .map(|choice| choice.quality)
        .max();
    let any = choices(headers, &ACCEPT_ENCODING).any(|choice| choice.value == "*" && choice.quality > 0);
    named.map_or(any, |quality| quality > 0)
}

/// One of the choices that a header lists.
struct Choice<'a> {
    value: &'a str,
    parameters: &'a str,
    /// In thousandths.
    quality: u32,
}

impl<'a> Choice<'a> {
    fn parse(text: &'a str) -> Self {
        let (value, parameters) = text.split_once(';').unwrap_or((text, ""));
        let mut choice = Self {
            value: value.trim(),
            parameters,
            quality: 1_000,
        };
        if let Some(quality) = choice.parameter("q") {
            choice.quality = thousandths(quality);
        }
        choice
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        let pairs = self.parameters.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }
}

/// `0.75` as 750; 0 if it is not a quality.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = format!("{fraction:0<3}");
    match (whole, fraction.get(..3).map(str::parse::<u32>)) {
        ("1", Some(Ok(_))) => 1_000,
        ("0", Some(Ok(fraction))) => fraction,
        _ => 0,
    }
}

fn choices<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Choice<'a>> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(Choice::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(accept: &str) -> Format {
        let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
        Format::negotiate(&headers)
    }

    #[test]
    fn prometheus_gets_what_it_prefers() {
        use Format::{OpenMetrics, Protobuf, Text};
        for (accept, expected) in [
            // 2.42
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            // 2.53
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            // 3.5
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            // With scrape_protocols: [PrometheusText0.0.4]
            ("text/plain;version=0.0.4;q=0.6,*/*;q=0.5", Text),
            // With native histograms, or scrape_protocols: [PrometheusProto]
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1",
                Protobuf,
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text;q=0.6,text/plain;q=0.5",
                Text,
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.2,application/openmetrics-text;q=0.3",
                OpenMetrics,
            ),
            ("*/*", Text),
            (
                "application/openmetrics-text; version=1.0.0; q=0, text/plain",
                Text,
            ),
            ("application/openmetrics-text; version=2.0.0", Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Text),
            ("", Text),
            (";;q==,,=", Text),
        ] {
            assert_eq!(format(accept), expected, "{accept}");
        }
        assert_eq!(Format::negotiate(&HeaderMap::new()), Text);
    }

    #[test]
    fn gzip_is_for_who_asks_for_it() {
        for (encoding, expected) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("identity", false),
            ("gzipped", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, encoding.parse().unwrap())]);
            assert_eq!(takes_gzip(&headers), expected, "{encoding}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
