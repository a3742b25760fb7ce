//! Remarks of a collector in answers to requests that it has taken: a warning at most once a minute, whatever they say.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtap_pipeline::{ComponentId, Exported, PipelineKind};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use tokio::time::Instant;

use crate::push::endpoint::Endpoint;
use crate::push::error::peer_text;
use crate::push::secrets::Secrets;

/// Interval of warnings. Remarks differ, as by the number of a request, so it does not depend on their text.
const INTERVAL: Duration = Duration::from_secs(60);

/// Remarks to one exporter. Cloning it shares them; those that no warning has counted are reported when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Remarks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    exporter: ComponentId,
    metrics: Endpoint,
    logs: Endpoint,
    secrets: Secrets,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    warned_at: Option<Instant>,
    unreported: Report,
}

/// Remarks since a warning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Report {
    remarks: u64,
    rejected_points: u64,
    rejected_records: u64,
    /// The newest.
    kind: Option<PipelineKind>,
    answer: String,
}

impl Remarks {
    /// Of answers to `exporter` from the collectors of points and of log records, which are shown without `secrets`.
    pub(super) fn new(
        exporter: &ComponentId,
        metrics: &Endpoint,
        logs: &Endpoint,
        secrets: &Secrets,
    ) -> Self {
        Self(Arc::new(Inner {
            exporter: exporter.clone(),
            metrics: metrics.clone(),
            logs: logs.clone(),
            secrets: secrets.clone(),
            state: Mutex::default(),
        }))
    }

    /// The part of `items` that a collector accepted. The response of the logs service has the same fields by another name, so both are
    /// read as that of the metrics service.
    pub(super) fn accepted(
        &self,
        response: &ExportMetricsServiceResponse,
        kind: PipelineKind,
        items: u64,
    ) -> Exported {
        let Some(partial) = &response.partial_success else {
            return Exported {
                sent: items,
                failed: 0,
            };
        };
        let failed = u64::try_from(partial.rejected_data_points)
            .unwrap_or(0)
            .min(items);
        if failed > 0 || !partial.error_message.is_empty() {
            let answer = peer_text(&partial.error_message, &self.0.secrets);
            tracing::debug!(exporter = %self.0.exporter, failed, answer, "the collector has a remark on {}", kind.items());
            if let Some(report) = self.due(kind, failed, answer) {
                self.0.warn(&report);
            }
        }
        Exported {
            sent: items - failed,
            failed,
        }
    }

    /// Counts a remark. If a warning is due: those that it stands for.
    fn due(&self, kind: PipelineKind, rejected: u64, answer: String) -> Option<Report> {
        // Every statement under the lock leaves it whole.
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State {
            warned_at,
            unreported,
        } = &mut *state;
        unreported.remarks += 1;
        match kind {
            PipelineKind::Metrics => unreported.rejected_points += rejected,
            PipelineKind::Logs => unreported.rejected_records += rejected,
        }
        unreported.kind = Some(kind);
        unreported.answer = answer;
        if warned_at.is_some_and(|at| at.elapsed() < INTERVAL) {
            return None;
        }
        *warned_at = Some(Instant::now());
        Some(std::mem::take(unreported))
    }
}

impl Inner {
    fn warn(&self, report: &Report) {
        let Some(kind) = report.kind else {
            return;
        };
        let endpoint = match kind {
            PipelineKind::Metrics => &self.metrics,
            PipelineKind::Logs => &self.logs,
        };
        let (exporter, answer) = (&self.exporter, &*report.answer);
        // By the OTLP specification, a message and no rejected items are the warning of a server that accepts everything.
        let (failed, items) = match (report.rejected_points, report.rejected_records) {
            (0, 0) => (0, kind.items()),
            (points, 0) => (points, PipelineKind::Metrics.items()),
            (0, records) => (records, PipelineKind::Logs.items()),
            (points, records) => (points + records, "points and log records"),
        };
        // Those whose text is not shown.
        let others = report.remarks - 1;
        let others = (others > 0).then_some(others);
        if failed == 0 {
            tracing::warn!(%exporter, %endpoint, answer, others, "the collector accepted all {items}, with a warning; \
                hint: follow the collector's text in `answer`");
        } else {
            tracing::warn!(%exporter, %endpoint, failed, answer, others, "the collector rejected some {items}; \
                hint: look for the reason in the collector's log");
        }
    }
}

impl Drop for Inner {
    /// The exporter has ended: no later warning will count what came since the last one.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let report = std::mem::take(&mut state.unreported);
        self.warn(&report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;
    use tracing::subscriber;

    const POINTS: PipelineKind = PipelineKind::Metrics;
    const LOGS: PipelineKind = PipelineKind::Logs;

    fn remarks() -> Remarks {
        let endpoint = |text| Endpoint::parse(text).unwrap();
        Remarks::new(
            &"otlp/central".parse().unwrap(),
            &endpoint("http://collector:4318/m?token=hunter2"),
            &endpoint("http://collector:4318/l"),
            &Secrets::new(["hunter2"]),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn one_warning_a_minute_counts_all_remarks_whatever_they_say() {
        let remarks = remarks();
        let first = remarks.due(POINTS, 1, "request 1".to_owned()).unwrap();
        assert_eq!((first.remarks, first.rejected_points), (1, 1));
        for request in 2..=40 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(remarks.due(POINTS, 1, format!("request {request}")), None);
            assert_eq!(remarks.due(LOGS, 2, format!("request {request}")), None);
        }
        tokio::time::advance(INTERVAL).await;
        let next = remarks.due(POINTS, 0, "request 41".to_owned()).unwrap();
        let expected = Report {
            remarks: 2 * 39 + 1,
            rejected_points: 39,
            rejected_records: 78,
            kind: Some(POINTS),
            answer: "request 41".to_owned(),
        };
        assert_eq!(next, expected);
        assert_eq!(remarks.due(POINTS, 7, "request 42".to_owned()), None);
    }

    /// The lines that `act` logs.
    fn logged(act: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<String>>);
        struct Text<'a>(&'a mut String);
        impl tracing::field::Visit for Text<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write as _;
                let _ = write!(self.0, " {field}={value:?}");
            }
        }
        impl tracing::Subscriber for Lines {
            fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
                *metadata.level() <= tracing::Level::WARN
            }
            fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
                tracing::span::Id::from_u64(1)
            }
            fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
            fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
            fn event(&self, event: &tracing::Event<'_>) {
                let mut lines = self.0.lock().unwrap();
                event.record(&mut Text(&mut lines));
                lines.push('\n');
            }
            fn enter(&self, _: &tracing::span::Id) {}
            fn exit(&self, _: &tracing::span::Id) {}
        }
        let lines = Lines::default();
        subscriber::with_default(lines.clone(), act);
        let text = lines.0.lock().unwrap();
        text.clone()
    }

    #[test]
    fn the_last_warning_has_the_rest_and_each_names_exporter_and_endpoint() {
        let answer = |rejected, text: &str| ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: rejected,
                error_message: text.to_owned(),
            }),
        };
        let text = logged(|| {
            let remarks = remarks();
            for (rejected, text) in [(2, "too old for hunter2"), (3, "too new"), (9, "\nthe last")] {
                let exported = remarks.accepted(&answer(rejected, text), POINTS, 5);
                assert_eq!(exported.sent + exported.failed, 5);
            }
        });
        let lines: Vec<_> = text.lines().collect();
        let [first, last] = &*lines else {
            panic!("{lines:?}")
        };
        for line in [first, last] {
            assert!(line.contains("exporter=otlp/central"), "{line}");
            assert!(
                line.contains("endpoint=http://collector:4318/m?token=REDACTED"),
                "{line}"
            );
        }
        assert!(
            first.contains("failed=2") && first.contains("too old for REDACTED"),
            "{first}"
        );
        assert!(!first.contains("others"), "{first}");
        // The points of one request at most.
        assert!(last.contains("failed=8") && last.contains("others=1"), "{last}");
        assert!(last.contains("the last"), "{last}");
        let text = logged(|| {
            let remarks = remarks();
            remarks.accepted(&answer(0, "deprecated"), LOGS, 5);
        });
        assert!(
            text.contains("accepted all log records, with a warning"),
            "{text}"
        );
        assert!(text.contains("collector:4318/l"), "{text}");
    }
}
