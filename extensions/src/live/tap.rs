//! The tap: keeps the newest snapshot of every pipeline, for queries, and its newest records while somebody asks.
//!
//! It is an exporter like others, with its own queue; the snapshot is the one that all exporters
//! share. Only for round-trip times, whose points hold totals, it keeps the values of the window
//! before. Its [`Observer`]s see the records, which cost a look at a flag per batch unless there is a client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::{
    ExportService, Exported, Exporter, Observer, PipelineKind, Points, Snapshot, StageError, metrics_only,
};
use futures::future::{BoxFuture, ready};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tower::service_fn;

use super::latest::{Before, Latest};
use super::recent::Recent;
use super::{Flow, Flows, Sort, Verdicts, causes, join, per_second};
use crate::query::Parameters;
use crate::verdict::{judge, verdicts};

/// Its id among the exporters. No type is called so, so no config can have it.
pub const ID: &str = "live";

/// Flows in an answer unless the request says otherwise, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 10_000;

/// Answers that are made at a time: a window of many series takes memory and time to sort.
const MAX_CONCURRENT: usize = 2;

/// The newest snapshots and records, by pipeline. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub struct Tap {
    snapshots: Arc<Mutex<Tapped>>,
    records: Arc<Mutex<BTreeMap<Arc<str>, Arc<Recent>>>>,
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
pub struct QueryError(String);

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
            .recent(&latest.snapshot.pipeline)
            .and_then(|recent| recent.ask());
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
        let (name, recent, pipelines) = {
            let all = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let found = match pipeline {
                Some(name) => all.get_key_value(name),
                None => all.iter().next(),
            };
            let found = found.map(|(name, recent)| (name.to_string(), Arc::clone(recent)));
            let pipelines: Vec<_> = all.keys().map(ToString::to_string).collect();
            match (found, pipeline) {
                (Some((name, recent)), _) => (name, recent, pipelines),
                (None, Some(name)) => {
                    self.lock().check(name, &pipelines)?;
                    return Ok(Verdicts::default());
                }
                (None, None) => return Ok(Verdicts::default()),
            }
        };
        let Some(measured) = recent.ask() else {
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
            measured: sums.all,
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

    /// The observer of the records of `pipeline`, which lives on over reloads.
    pub fn observer(&self, pipeline: &Arc<str>) -> Arc<dyn Observer> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::<Recent>::clone(records.entry(Arc::clone(pipeline)).or_default())
    }

    /// Forgets the records of pipelines that are not among `pipelines`.
    pub fn retain(&self, pipelines: &[Arc<str>]) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|name, _| pipelines.contains(name));
    }

    fn recent(&self, pipeline: &str) -> Option<Arc<Recent>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.get(pipeline).cloned()
    }

    /// `GET /flows?limit=&sort=&pipeline=` and `GET /verdicts?limit=&pipeline=`.
    pub fn routes(&self) -> Router {
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT));
        let flows = {
            let (tap, permits) = (self.clone(), Arc::clone(&permits));
            move |RawQuery(query): RawQuery| {
                let tap = tap.clone();
                let request = request(query.as_deref());
                answer(request, Arc::clone(&permits), move |request: Request| {
                    tap.flows(&request)
                })
            }
        };
        let verdicts = {
            let tap = self.clone();
            move |RawQuery(query): RawQuery| {
                let tap = tap.clone();
                let request = verdict_request(query.as_deref());
                answer(request, Arc::clone(&permits), move |(pipeline, limit)| {
                    tap.verdicts(pipeline.as_deref(), limit)
                })
            }
        };
        Router::new()
            .route("/flows", get(flows))
            .route("/verdicts", get(verdicts))
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

/// Reads the query of `/flows`.
fn request(query: Option<&str>) -> Result<Request, QueryError> {
    let mut parameters = Parameters::of(query).map_err(QueryError)?;
    let sort = match parameters.take("sort") {
        None => Sort::default(),
        Some(name) => Sort::from_name(&name).ok_or_else(|| {
            let names = Sort::ALL.map(Sort::name).join(", ");
            QueryError(format!("sort: unknown column `{name}`; available: {names}"))
        })?,
    };
    let request = Request {
        pipeline: parameters.take("pipeline"),
        sort,
        limit: limit(&mut parameters)?,
    };
    parameters
        .finish(&["limit", "sort", "pipeline"])
        .map_err(QueryError)?;
    Ok(request)
}

/// Reads the query of `/verdicts`: the pipeline and the limit.
fn verdict_request(query: Option<&str>) -> Result<(Option<String>, usize), QueryError> {
    let mut parameters = Parameters::of(query).map_err(QueryError)?;
    let request = (parameters.take("pipeline"), limit(&mut parameters)?);
    parameters.finish(&["limit", "pipeline"]).map_err(QueryError)?;
    Ok(request)
}

fn limit(parameters: &mut Parameters) -> Result<usize, QueryError> {
    let limit = parameters.number("limit").map_err(QueryError)?;
    match limit.unwrap_or(DEFAULT_LIMIT) {
        // A shorter answer than was asked for would look complete.
        limit if limit > MAX_LIMIT => Err(QueryError(format!(
            "limit: {limit} is too much; expected at most {MAX_LIMIT}"
        ))),
        limit => Ok(limit),
    }
}

/// Answers `request` with what `work` returns, as JSON, one of few at a time.
async fn answer<R: Send + 'static, A: Serialize + 'static>(
    request: Result<R, QueryError>,
    permits: Arc<Semaphore>,
    work: impl FnOnce(R) -> Result<A, QueryError> + Send + 'static,
) -> Response {
    let request = match request {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    // The semaphore is never closed.
    let _permit = permits.acquire().await;
    let work = move || work(request).map(|answer| serde_json::to_vec(&answer));
    match spawn_blocking(work).await {
        Ok(Ok(Ok(body))) => {
            let head = [
                (header::CONTENT_TYPE, "application/json"),
                (header::CACHE_CONTROL, "no-store"),
            ];
            (head, body).into_response()
        }
        Ok(Err(error)) => (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
        Ok(Ok(Err(error))) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
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

    #[test]
    fn a_query_is_read_or_refused_with_what_is_possible() {
        let query = super::request(Some("sort=rtt&limit=10000&pipeline=metrics%2Fa")).unwrap();
        assert_eq!((query.sort, query.limit), (Sort::Rtt, MAX_LIMIT));
        assert_eq!(query.pipeline.as_deref(), Some("metrics/a"));
        let refused = |query: &str| super::request(Some(query)).unwrap_err().to_string();
        let colour = refused("sort=colour");
        assert!(
            colour.contains("`colour`") && colour.contains("retransmits"),
            "{colour}"
        );
        assert_eq!(
            refused("limit=abc"),
            "limit: expected a whole number, found `abc`"
        );
        assert_eq!(
            refused("limit=10001"),
            "limit: 10001 is too much; expected at most 10000"
        );
        assert_eq!(
            verdict_request(Some("limit=10001")).unwrap_err().to_string(),
            "limit: 10001 is too much; expected at most 10000"
        );
        assert_eq!(
            refused("colour=red"),
            "unknown parameter `colour`; available: limit, sort, pipeline"
        );
        assert_eq!(verdict_request(Some("limit=3")).unwrap(), (None, 3));
        assert_eq!(
            verdict_request(Some("sort=rtt")).unwrap_err().to_string(),
            "unknown parameter `sort`; available: limit, pipeline"
        );
    }
}
