//! The tap: keeps the newest snapshot of every pipeline, for queries, and its newest records while somebody asks.
//!
//! It is an exporter like others, with its own queue; the snapshot is the one that all exporters
//! share. Only for round-trip times, whose points hold totals, it keeps the values of the window
//! before. Its [`Observer`]s see the records, which cost a look at a flag per batch unless there is a client.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Query, rejection::QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flowtap_pipeline::{
    ExportService, Exported, Exporter, Observer, Points, Snapshot, StageError, metrics_only,
};
use futures::future::{BoxFuture, ready};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tower::service_fn;

use super::latest::{Before, Latest};
use super::recent::Recent;
use super::{Flow, Flows, Sort, Verdicts, causes, join, per_second};
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
    snapshots: Arc<Mutex<BTreeMap<Arc<str>, Arc<Latest>>>>,
    records: Arc<Mutex<BTreeMap<Arc<str>, Arc<Recent>>>>,
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
    /// The flows of the newest window.
    ///
    /// # Errors
    /// [`QueryError`] if the pipeline does not exist.
    pub fn flows(&self, request: &Request) -> Result<Flows, QueryError> {
        let (latest, pipelines) = {
            let all = self.lock();
            let latest = match &request.pipeline {
                Some(name) => all.get(name.as_str()),
                None => all.values().next(),
            };
            (
                latest.cloned(),
                all.keys().map(ToString::to_string).collect::<Vec<_>>(),
            )
        };
        let Some(latest) = latest else {
            return match &request.pipeline {
                // Before the first window, no pipeline is known.
                Some(name) if !pipelines.is_empty() => Err(unknown(name, &pipelines)),
                _ => Ok(Flows::default()),
            };
        };
        let mut flows = join::flows(&latest);
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
                (None, Some(name)) => return Err(unknown(name, &pipelines)),
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
            move |query: Result<Query<Parameters>, QueryRejection>| {
                let request = query.map_err(|error| QueryError(error.body_text()));
                let request = request.and_then(|Query(parameters)| parameters.request());
                let tap = tap.clone();
                answer(request, Arc::clone(&permits), move |request: Request| {
                    tap.flows(&request)
                })
            }
        };
        let verdicts = {
            let tap = self.clone();
            move |query: Result<Query<VerdictParameters>, QueryRejection>| {
                let request = query.map_err(|error| QueryError(error.body_text()));
                let tap = tap.clone();
                answer(
                    request.map(|Query(parameters)| parameters),
                    Arc::clone(&permits),
                    move |request: VerdictParameters| {
                        let limit = request.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
                        tap.verdicts(request.pipeline.as_deref(), limit)
                    },
                )
            }
        };
        Router::new()
            .route("/flows", get(flows))
            .route("/verdicts", get(verdicts))
    }

    fn take(&self, snapshot: Arc<Snapshot>) {
        let mut all = self.lock();
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Latest>>> {
        // The map is whole after every statement above, so a panic elsewhere can't have torn it.
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The query of `/flows`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    limit: Option<usize>,
    sort: Option<String>,
    pipeline: Option<String>,
}

impl Parameters {
    fn request(self) -> Result<Request, QueryError> {
        let sort = match self.sort {
            None => Sort::default(),
            Some(name) => Sort::from_name(&name).ok_or_else(|| {
                let names = Sort::ALL.map(Sort::name).join(", ");
                QueryError(format!("sort: unknown column `{name}`; available: {names}"))
            })?,
        };
        Ok(Request {
            pipeline: self.pipeline,
            sort,
            limit: self.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT),
        })
    }
}

/// The query of `/verdicts`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerdictParameters {
    limit: Option<usize>,
    pipeline: Option<String>,
}

fn unknown(pipeline: &str, pipelines: &[String]) -> QueryError {
    QueryError(format!(
        "unknown pipeline `{pipeline}`; available: {}",
        pipelines.join(", ")
    ))
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
        assert_eq!(tap.flows(&request(Some("a"))), Ok(Flows::default()));
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
    fn an_order_that_there_is_not_is_refused_with_those_that_there_are() {
        let parameters = |sort: &str| Parameters {
            limit: Some(usize::MAX),
            sort: Some(sort.to_owned()),
            pipeline: None,
        };
        let refused = parameters("colour").request().unwrap_err().to_string();
        assert!(
            refused.contains("`colour`") && refused.contains("retransmits"),
            "{refused}"
        );
        assert_eq!(parameters("rtt").request().unwrap().limit, MAX_LIMIT);
    }
}
