//! Formats events for the log so that text of others can neither act nor fill a disk.
//!
//! In: the fields of events and spans, of every crate. Out, as text: one line without control characters for each event, as a message
//! can hold a peer's whole answer. Only the field `report`, such as that of a config with faults, has several, and these can't be taken
//! for events: each begins with a mark, where an event has its time. As JSON: one object, which JSON itself escapes. A text of more than
//! [`MAX_TEXT`] bytes is cut in both, and a mark says how much is missing.

use std::fmt::{self, Write};

use flowtap_pipeline::plain::plain;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Bytes of a message or a value that are written, before they are escaped.
const MAX_TEXT: usize = 4 << 10;

/// The field whose text has lines.
const REPORT: &str = "report";

/// Begins each line of a report.
const REPORT_LINE: &str = "\n  | ";

/// A text up to [`MAX_TEXT`]; the rest is counted and not kept.
#[derive(Default)]
struct Bounded {
    text: String,
    cut: usize,
}

impl Bounded {
    /// The text that `value` displays.
    fn new(value: fmt::Arguments<'_>) -> Self {
        let mut bounded = Self::default();
        // A value that can't be formatted has no more text than what it has written.
        let _ = bounded.write_fmt(value);
        bounded
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = if self.cut == 0 {
            MAX_TEXT - self.text.len()
        } else {
            0
        };
        let mut kept = room.min(text.len());
        while !text.is_char_boundary(kept) {
            kept -= 1;
        }
        self.text.push_str(&text[..kept]);
        self.cut += text.len() - kept;
        Ok(())
    }
}

/// The mark of what is missing.
struct Mark(usize);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            cut => write!(f, "… ({cut} bytes cut)"),
        }
    }
}

/// Formats fields as text.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor {
            writer,
            first: true,
            report: None,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.finish()
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    first: bool,
    /// Written last, as it has lines.
    report: Option<Bounded>,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn push(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let name = field.name();
        // Fields of the crate `log`, which say where an event is from.
        if self.result.is_err() || name.starts_with("log.") {
            return;
        }
        let bounded = Bounded::new(value);
        if name == REPORT {
            self.report = Some(bounded);
            return;
        }
        let space = if std::mem::take(&mut self.first) { "" } else { " " };
        let (text, mark) = (plain(&bounded.text), Mark(bounded.cut));
        self.result = match name {
            "message" => write!(self.writer, "{space}{text}{mark}"),
            _ => write!(self.writer, "{space}{name}={text}{mark}"),
        };
    }

    fn finish(mut self) -> fmt::Result {
        self.result?;
        if let Some(report) = self.report {
            for line in report.text.lines() {
                write!(self.writer, "{REPORT_LINE}{}", plain(line))?;
            }
            write!(self.writer, "{}", Mark(report.cut))?;
        }
        Ok(())
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" | REPORT => self.push(field, format_args!("{value}")),
            // Not as Rust writes it: a peer's text is escaped already, and each escape would be escaped again.
            _ => self.push(field, format_args!("\"{}\"", value.replace('"', "\\\""))),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format_args!("{value:?}"));
    }
}

/// Formats events as JSON, and cuts their texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct CutJson<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for CutJson<F>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        // Nothing in a line that is no longer than a text may be is too long.
        if line.len() <= MAX_TEXT {
            return writer.write_str(&line);
        }
        let Ok(mut object) = serde_json::from_str(&line) else {
            return Err(fmt::Error);
        };
        cut(&mut object);
        writeln!(writer, "{object}")
    }
}

/// Cuts the texts in `value`.
fn cut(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > MAX_TEXT => {
            let bounded = Bounded::new(format_args!("{text}"));
            *text = format!("{}{}", bounded.text, Mark(bounded.cut));
        }
        Value::Array(values) => values.iter_mut().for_each(cut),
        Value::Object(fields) => fields.values_mut().for_each(cut),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, Registry, fmt as log};

    const HOSTILE: &str = "\u{1b}]0;PWNED\u{7}\nFAKE 2026 INFO line\r\u{202e}";

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log of `work`, as text and as JSON.
    fn logged(work: impl Fn()) -> (String, String) {
        let written = |layer: &dyn Fn(Lines) -> Box<dyn Layer<Registry> + Send + Sync>| {
            let lines = Lines::default();
            let registry = Registry::default().with(layer(lines.clone()));
            tracing::subscriber::with_default(registry, &work);
            let bytes = lines.0.lock().unwrap().clone();
            String::from_utf8(bytes).unwrap()
        };
        let text = written(&|lines| {
            let layer = log::layer().with_ansi(false).fmt_fields(PlainFields);
            layer.with_writer(move || lines.clone()).boxed()
        });
        let json = written(&|lines| {
            let layer = log::layer().json().map_event_format(CutJson);
            layer.with_writer(move || lines.clone()).boxed()
        });
        (text, json)
    }

    #[test]
    fn no_text_of_a_peer_forges_a_line_or_reaches_a_terminal_wherever_it_is_in_an_event() {
        let error = io::Error::other(HOSTILE);
        let (text, json) = logged(|| {
            let span = tracing::info_span!("request", url = HOSTILE);
            let _entered = span.enter();
            // As kube_client logs a response that it can't parse: within the message.
            tracing::warn!("{HOSTILE}, Error(\"{HOSTILE}\")");
            tracing::warn!(error = %HOSTILE, of = HOSTILE, list = ?[HOSTILE], times = 3, "refused");
            tracing::warn!(error = &error as &dyn std::error::Error, "refused");
        });
        for written in [&text, &json] {
            assert_eq!(written.lines().count(), 3, "{written}");
            assert!(!written.contains(['\u{1b}', '\u{7}', '\r']), "{written:?}");
        }
        // JSON has it as it is, for a reader that is not a terminal.
        assert!(!text.contains('\u{202e}'), "{text:?}");
        assert!(text.contains("\\u{1b}]0;PWNED\\u{7}\\nFAKE 2026 INFO line\\r\\u{202e}, Error"));
        assert!(text.ends_with(" error=\\u{1b}]0;PWNED\\u{7}\\nFAKE 2026 INFO line\\r\\u{202e}\n"));
    }

    #[test]
    fn text_that_is_escaped_already_is_not_escaped_again() {
        let (text, _) = logged(|| {
            let said = plain(HOSTILE);
            let said = said.as_ref();
            tracing::warn!(answer = said, error = %said, "of {said}");
        });
        assert!(!text.contains("\\\\"), "{text}");
        assert_eq!(text.matches("\\u{1b}]0;PWNED\\u{7}\\nFAKE").count(), 3, "{text}");
    }

    #[test]
    fn a_report_has_lines_that_no_event_begins_with() {
        let (text, json) = logged(|| {
            tracing::error!(report = %format_args!("a fault\n  --> config.yaml\n{HOSTILE}"), key = 1, "refused");
        });
        let (_, text) = text.split_once("refused").unwrap();
        let shown = "\\u{1b}]0;PWNED\\u{7}\n  | FAKE 2026 INFO line\\r\\u{202e}\n";
        assert_eq!(
            text,
            format!(" key=1\n  | a fault\n  |   --> config.yaml\n  | {shown}")
        );
        assert_eq!(json.lines().count(), 1);
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_and_says_how_much() {
        let page = "é\n".repeat(1 << 20);
        let (text, json) = logged(|| {
            tracing::warn!(body = %page, of = page.as_str(), report = %page, "{page}");
        });
        let cut = page.len() - MAX_TEXT;
        for written in [&text, &json] {
            assert_eq!(written.matches(" bytes cut)").count(), 4);
            assert!(
                written.contains(&format!("… ({} bytes cut)", cut + 1)),
                "{written:.200}"
            );
            assert!(written.len() < 20 * MAX_TEXT, "{}", written.len());
        }
        let object: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["level"], "WARN");
        // Of a text of the length that is allowed nothing is missing.
        let (text, json) = logged(|| tracing::warn!("{}", "x".repeat(MAX_TEXT)));
        for written in [text, json] {
            assert!(written.contains(&"x".repeat(MAX_TEXT)) && !written.contains("cut"));
        }
    }
}
