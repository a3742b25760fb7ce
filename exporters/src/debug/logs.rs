//! Batches of log records as text.

use std::fmt::Write as _;

use flowtap_pipeline::{LogBatch, LogRecord, LogValue};

use super::config::{Config, Verbosity};

/// `batch` in the detail that `config` asks for.
pub(super) fn describe(config: &Config, batch: &LogBatch) -> String {
    let mut text = String::new();
    let last = if batch.last { " (last)" } else { "" };
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "# logs pipeline={} end={} records={}{last}",
        batch.pipeline,
        batch.at,
        batch.records.len()
    );
    let shown = match config.verbosity {
        Verbosity::Basic => return text,
        Verbosity::Normal | Verbosity::Detailed => batch.records.iter().take(config.sampling),
    };
    for (index, record) in shown.enumerate() {
        if config.verbosity == Verbosity::Normal {
            push_line(&mut text, record);
        } else {
            push_block(&mut text, index, record);
        }
    }
    let left_out = batch.records.len().saturating_sub(config.sampling);
    if left_out > 0 {
        let unit = if left_out == 1 { "record" } else { "records" };
        let _ = writeln!(text, "# {left_out} {unit} more");
    }
    text
}

/// A line of `name=value` pairs.
fn push_line(text: &mut String, record: &LogRecord) {
    let severity = record.severity().as_str();
    let _ = write!(text, "{} {severity} {}", record.at, record.event_name());
    record.visit(|field, value| {
        let _ = match &value {
            LogValue::Text(value) if value.contains(|c: char| c.is_whitespace() || c == '"') => {
                write!(text, " {}={value:?}", field.column())
            }
            value => write!(text, " {}={value}", field.column()),
        };
    });
    text.push('\n');
}

/// A block of lines, as the OpenTelemetry Collector's.
fn push_block(text: &mut String, index: usize, record: &LogRecord) {
    let severity = record.severity();
    let _ = writeln!(
        text,
        "LogRecord #{index}\nTimestamp: {}\nSeverityText: {}\nSeverityNumber: {}\nEventName: {}\nAttributes:",
        record.at,
        severity.as_str(),
        severity as u8,
        record.event_name()
    );
    record.visit(|field, value| {
        let kind = match value {
            LogValue::Text(_) | LogValue::Address(_) => "Str",
            LogValue::Integer(_) => "Int",
            LogValue::Number(_) => "Double",
            LogValue::Flag(_) => "Bool",
        };
        let _ = writeln!(text, "     -> {}: {kind}({value})", field.name());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::logs;

    fn described(verbosity: Verbosity, sampling: usize) -> String {
        let config = Config {
            verbosity,
            sampling,
            ..Config::default()
        };
        describe(&config, &logs())
    }

    #[test]
    fn each_verbosity_has_its_detail() {
        let head = "# logs pipeline=logs end=5.000000000 records=2\n";
        assert_eq!(described(Verbosity::Basic, 20), head);
        let normal = described(Verbosity::Normal, 20);
        let lines: Vec<_> = normal.lines().collect();
        assert_eq!(lines.len(), 3, "{normal}");
        assert!(
            lines[1].starts_with(
                "5.000000000 INFO flowtap.tcp.connection source_address=192.0.2.1 source_port=50000 "
            ),
            "{normal}"
        );
        assert!(lines[1].contains(" comm=\"my app\" "), "{normal}");
        assert!(lines[2].contains(" outcome=failed error=refused "), "{normal}");
        let detailed = described(Verbosity::Detailed, 1);
        for part in [
            "LogRecord #0\n",
            "EventName: flowtap.tcp.connection\n",
            "     -> flowtap.source.bytes: Int(81)\n",
            "     -> flowtap.connection.duration: Double(2.5)\n",
            "# 1 record more\n",
        ] {
            assert!(detailed.contains(part), "no {part} in {detailed}");
        }
    }
}
