//! The tap: keeps the newest snapshot of every pipeline, for queries, and its newest records while somebody asks.
//!
//! It is an exporter like others, with its own queue; the snapshot is the one that all exporters
//! share. Only for round-trip times, whose points hold totals, it keeps the values of the window
//! before. Its [`Observer`]s see the records: they add up those of the last 15 minutes, and keep the newest ones while there is a client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::{
    ExportService, Exported, Exporter, Observer, PipelineKind, Points, Snapshot, StageError, metrics_only,
};
use futures::future::{BoxFuture, ready};
use tower::service_fn;

use super::latest::{Before, Latest};
use super::observed::Observed;
use super::timeline::{KEPT, Timeline};
use super::{Flow, Flows, Map, Sort, Verdicts, causes, join, per_second};
use crate::verdict::{judge, verdicts};

/// Its id among the exporters. No type is called so, so no config can have it.
pub const ID: &str = "live";

/// The newest snapshots and records, by pipeline. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub struct Tap {
    snapshots: Arc<Mutex<Tapped>>,
    records: Arc<Mutex<BTreeMap<Arc<str>, Arc<Observed>>>>,
}

#[derive(Debug, Default)]
struct Tapped {
    /// Every pipeline of the config.
    pipelines: Vec<Pipeline>,
    latest: BTreeMap<Arc<str>, Arc<Latest>>,
}

/// A pipeline of the config, as far as the live view needs to know it.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Its id.
    pub name: Arc<str>,
    /// Its kind: only those of series have flows.
    pub kind: PipelineKind,
    /// Labels of its series that have another name, by that name.
    pub renamed: Vec<(String, Label)>,
}

/// The name of a pipeline, its records, and the names of all pipelines.
type OfPipeline = (String, Arc<Observed>, Vec<String>);

/// A query for flows.
#[derive(Clone, Debug)]
pub struct Request {
    /// Of which pipeline; of the first one, if none is said.
    pub pipeline: Option<String>,
    /// The order.
    pub sort: Sort,
    /// Maximum number of flows.
    pub limit: usize,
}

/// A query for something that does not exist; the message is for the client.
#[derive(Debug, PartialEq, Eq)]
pub struct QueryError(pub(super) String);

impl std::fmt::Display for QueryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tap {
    /// Sets the pipelines of the config, at the start and with each reload.
    pub fn set_pipelines(&self, pipelines: Vec<Pipeline>) {
        self.lock().pipelines = pipelines;
    }

    /// The flows of the newest window; none as long as no window has closed.
    ///
    /// # Errors
    /// [`QueryError`] if the pipeline does not exist, or has no flows.
    pub fn flows(&self, request: &Request) -> Result<Flows, QueryError> {
        let (latest, pipelines, renamed) = {
            let tapped = self.lock();
            let pipelines = tapped.with_flows();
            let name = request.pipeline.as_deref();
            if let Some(name) = name {
                tapped.check(name, &pipelines)?;
            }
            let Some(name) = name.or(pipelines.first().map(String::as_str)) else {
                return Ok(Flows::default());
            };
            let Some(latest) = tapped.latest.get(name) else {
                return Ok(Flows {
                    pipelines,
                    ..Flows::default()
                });
            };
            let latest = Arc::clone(latest);
            let known = tapped.pipelines.iter().find(|known| *known.name == *name);
            let renamed = known.map_or_else(Vec::new, |known| known.renamed.clone());
            (latest, pipelines, renamed)
        };
        let mut flows = join::flows(&latest, &renamed);
        let measured = self
            .records_of(&latest.snapshot.pipeline)
            .and_then(|observed| observed.recent.ask());
        if let Some(measured) = &measured {
            causes::attach(&mut flows, &measured.sums);
        }
        // From 0: the sum of nothing is -0.
        let sum = |side: fn(&Flow) -> f64| flows.iter().map(side).fold(0.0, |sum, rate| sum + rate);
        let answer = Flows {
            pipeline: latest.snapshot.pipeline.to_string(),
            pipelines,
            at: latest.snapshot.at.as_secs_f64(),
            window_seconds: latest.snapshot.window.as_secs_f64(),
            total: flows.len(),
            outbound_bytes_per_second: sum(|flow| per_second(flow.outbound)),
            inbound_bytes_per_second: sum(|flow| per_second(flow.inbound)),
            flows: Vec::new(),
        };
        flows.sort_by(|a, b| request.sort.compare(a, b));
        flows.truncate(request.limit);
        Ok(Flows { flows, ..answer })
    }

    /// The verdicts on the peers of the newest records.
    ///
    /// # Errors
    /// [`QueryError`] if the pipeline does not exist.
    pub fn verdicts(&self, pipeline: Option<&str>, limit: usize) -> Result<Verdicts, QueryError> {
        let Some((name, observed, pipelines)) = self.observed(pipeline)? else {
            return Ok(Verdicts::default());
        };
        let Some(measured) = observed.recent.ask() else {
            return Ok(Verdicts {
                pipeline: name,
                pipelines,
                ..Verdicts::default()
            });
        };
        let sums = measured.sums;
        Ok(Verdicts {
            pipeline: name,
            pipelines,
            at: measured.at.as_secs_f64(),
            seconds: measured.length.as_secs_f64(),
            verdict: judge(&sums.all),
            measured: sums.all.clone(),
            drops: sums
                .drops
                .iter()
                .map(|(reason, packets)| ((*reason).to_owned(), *packets))
                .collect(),
            total: sums.peers.len(),
            peers: verdicts(&sums, limit),
            records_of_further_peers: sums.further,
            records_without_queues: sums.unqueued,
        })
    }

    /// The traffic between processes of this node and their peers, by the newest records: at most `limit` edges.
    ///
    /// # Errors
    /// [`QueryError`] if the pipeline does not exist.
    pub fn map(&self, pipeline: Option<&str>, limit: usize) -> Result<Map, QueryError> {
        let Some((name, observed, pipelines)) = self.observed(pipeline)? else {
            return Ok(Map::default());
        };
        let mut map = Map {
            pipeline: name,
            pipelines,
            ..Map::default()
        };
        if let Some((measured, edges)) = observed.recent.ask_with_edges() {
            map.at = measured.at.as_secs_f64();
            map.seconds = measured.length.as_secs_f64();
            edges.fill(&mut map, limit, &measured.sums);
        }
        Ok(map)
    }

    /// The sums over the records of the last 15 minutes, step by step.
    ///
    /// # Errors
    /// [`QueryError`] if the pipeline does not exist.
    pub fn timeline(&self, pipeline: Option<&str>) -> Result<Timeline, QueryError> {
        let Some((name, observed, pipelines)) = self.observed(pipeline)? else {
            return Ok(Timeline::default());
        };
        Ok(Timeline {
            pipeline: name,
            pipelines,
            kept_seconds: KEPT.as_secs_f64(),
            points: observed.steps.points(),
        })
    }

    /// The observer of the records of `pipeline`, which lives on over reloads.
    pub fn observer(&self, pipeline: &Arc<str>) -> Arc<dyn Observer> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::<Observed>::clone(records.entry(Arc::clone(pipeline)).or_default())
    }

    /// Forgets the records of pipelines that are not among `pipelines`.
    pub fn retain(&self, pipelines: &[Arc<str>]) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|name, _| pipelines.contains(name));
    }

    fn records_of(&self, pipeline: &str) -> Option<Arc<Observed>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.get(pipeline).cloned()
    }

    /// The records of a pipeline, of the first one if none is said, with its name and those of all; `None` if there is none yet.
    ///
    /// # Errors
    /// [`QueryError`] if the pipeline does not exist.
    fn observed(&self, pipeline: Option<&str>) -> Result<Option<OfPipeline>, QueryError> {
        let (found, pipelines) = {
            let all = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let found = match pipeline {
                Some(name) => all.get_key_value(name),
                None => all.iter().next(),
            };
            let found = found.map(|(name, observed)| (name.to_string(), Arc::clone(observed)));
            (found, all.keys().map(ToString::to_string).collect::<Vec<_>>())
        };
        match (found, pipeline) {
            (Some((name, observed)), _) => Ok(Some((name, observed, pipelines))),
            (None, Some(name)) => self.lock().check(name, &pipelines).map(|()| None),
            (None, None) => Ok(None),
        }
    }

    fn take(&self, snapshot: Arc<Snapshot>) {
        let all = &mut self.lock().latest;
        let before = all
            .remove(&snapshot.pipeline)
            .map(|latest| totals(&latest.snapshot))
            .unwrap_or_default();
        // The mark of a removed pipeline.
        if snapshot.last && snapshot.window.is_zero() {
            return;
        }
        all.insert(
            Arc::clone(&snapshot.pipeline),
            Arc::new(Latest { snapshot, before }),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Tapped> {
        // Both are whole after every statement above, so a panic elsewhere can't have torn them.
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tapped {
    /// Pipelines with flows: those of the config, and those that a reload has removed as long as they have a window.
    fn with_flows(&self) -> Vec<String> {
        let configured = self.pipelines.iter();
        let configured = configured.filter(|pipeline| pipeline.kind == PipelineKind::Metrics);
        let names: BTreeSet<_> = configured
            .map(|pipeline| pipeline.name.to_string())
            .chain(self.latest.keys().map(ToString::to_string))
            .collect();
        names.into_iter().collect()
    }

    /// Whether `name` is one of `available`, those with flows.
    fn check(&self, name: &str, available: &[String]) -> Result<(), QueryError> {
        if available.iter().any(|known| known == name) {
            return Ok(());
        }
        let is_configured = self.pipelines.iter().any(|pipeline| *pipeline.name == *name);
        let fault = if is_configured {
            format!("pipeline `{name}` gives log records and has no flows")
        } else {
            format!("unknown pipeline `{name}`")
        };
        let available = match available {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        Err(QueryError(format!("{fault}; available: {available}")))
    }
}

/// Totals of the series that are compared with the next window.
fn totals(snapshot: &Snapshot) -> Vec<Before> {
    let compared = snapshot
        .families
        .iter()
        .filter(|family| join::is_compared(family.family));
    let mut totals = Vec::new();
    for family in compared {
        match &family.points {
            Points::Histograms(points) => totals.extend(points.iter().map(|point| Before {
                series: point.series.clone(),
                count: point.count(),
                sum: point.sum,
            })),
            Points::Values(points) => totals.extend(points.iter().map(|point| Before {
                series: point.series.clone(),
                count: 0,
                sum: point.value,
            })),
            Points::Sums(_) => {}
        }
    }
    totals
}

impl Exporter for Tap {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        let tap = self.clone();
        let service = service_fn(move |snapshot: Arc<Snapshot>| {
            let sent = snapshot.points() as u64;
            tap.take(snapshot);
            ready(Ok(Exported { sent, failed: 0 }))
        });
        Box::pin(ready(Ok(metrics_only(service))))
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowtap_pipeline::Timestamp;
    use std::time::Duration;
    use tower::{Service, ServiceExt};

    fn snapshot(pipeline: &str, at: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            pipeline: pipeline.into(),
            at: Timestamp::from_nanos(at * 1_000_000_000),
            window: Duration::from_secs(1),
            last: false,
            replaced: false,
            families: Vec::new(),
        })
    }

    fn request(pipeline: Option<&str>) -> Request {
        Request {
            pipeline: pipeline.map(str::to_owned),
            sort: Sort::default(),
            limit: 10,
        }
    }

    #[tokio::test]
    async fn the_newest_snapshot_of_each_pipeline_is_served_and_the_first_pipelines_by_default() {
        let mut tap = Tap::default();
        let pipeline = |name: &str, kind| Pipeline {
            name: name.into(),
            kind,
            renamed: Vec::new(),
        };
        tap.set_pipelines(vec![
            pipeline("logs", PipelineKind::Logs),
            pipeline("a", PipelineKind::Metrics),
        ]);
        // Before the first window.
        assert_eq!(tap.flows(&request(Some("a"))).unwrap().pipelines, ["a"]);
        assert_eq!(
            tap.flows(&request(Some("logs"))).unwrap_err().to_string(),
            "pipeline `logs` gives log records and has no flows; available: a"
        );
        tap.set_pipelines(vec![pipeline("a", PipelineKind::Metrics)]);
        let mut service = tap.start().await.unwrap();
        for snapshot in [snapshot("b", 1), snapshot("a", 2), snapshot("a", 3)] {
            service
                .ready()
                .await
                .unwrap()
                .call(flowtap_pipeline::Output::Metrics(snapshot))
                .await
                .unwrap();
        }
        let first = tap.flows(&request(None)).unwrap();
        assert_eq!(
            (first.pipeline.as_str(), first.at.to_string()),
            ("a", "3".to_owned())
        );
        assert_eq!(first.pipelines, ["a", "b"]);
        assert_eq!(tap.flows(&request(Some("b"))).unwrap().pipeline, "b");
        let error = tap.flows(&request(Some("c"))).unwrap_err();
        assert_eq!(error.to_string(), "unknown pipeline `c`; available: a, b");
        // Nothing observes records here.
        assert_eq!(tap.map(None, 10), Ok(Map::default()));
        assert_eq!(tap.timeline(None), Ok(Timeline::default()));
        for error in [
            tap.map(Some("c"), 10).unwrap_err(),
            tap.timeline(Some("c")).unwrap_err(),
        ] {
            assert_eq!(error.to_string(), "unknown pipeline `c`; available: none");
        }
        let mut gone = Snapshot::clone(&snapshot("b", 4));
        (gone.last, gone.window) = (true, Duration::ZERO);
        service
            .ready()
            .await
            .unwrap()
            .call(flowtap_pipeline::Output::from(gone))
            .await
            .unwrap();
        assert_eq!(tap.flows(&request(None)).unwrap().pipelines, ["a"]);
    }
}
