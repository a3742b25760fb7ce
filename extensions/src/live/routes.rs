//! The live view's requests: `/flows`, `/verdicts`, `/map` and `/timeline`.

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde::Serialize;

use super::tap::{QueryError, Request, Tap};
use super::{Flows, Sort};
use crate::places::Places;
use crate::query::Parameters;

/// Flows in an answer unless the request says otherwise, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 10_000;

/// Answers that are made at a time: a window of many series takes memory and time to sort.
const MAX_CONCURRENT: usize = 2;

/// Flows of a window from which on the memory that an answer took is returned to the system: the allocator would keep it.
const MANY_FLOWS: usize = 5_000;

impl Tap {
    /// `GET /flows?limit=&sort=&pipeline=`, `GET /verdicts?limit=&pipeline=`, `GET /map?limit=&pipeline=` and
    /// `GET /timeline?pipeline=`. `trim` returns free memory to the system.
    pub fn routes(&self, trim: fn()) -> Router {
        let places = Places::new(MAX_CONCURRENT);
        let trim_after = move |flows: &Flows| {
            if flows.total >= MANY_FLOWS {
                trim();
            }
        };
        Router::new()
            .route(
                "/flows",
                self.route(&places, request, |tap, request| tap.flows(&request), trim_after),
            )
            .route(
                "/verdicts",
                self.route(
                    &places,
                    limited_request,
                    |tap, (pipeline, limit)| tap.verdicts(pipeline.as_deref(), limit),
                    |_| (),
                ),
            )
            .route(
                "/map",
                self.route(
                    &places,
                    limited_request,
                    |tap, (pipeline, limit)| tap.map(pipeline.as_deref(), limit),
                    |_| (),
                ),
            )
            .route(
                "/timeline",
                self.route(
                    &places,
                    pipeline_request,
                    |tap, pipeline| tap.timeline(pipeline.as_deref()),
                    |_| (),
                ),
            )
    }

    /// Answers what `read` makes of the query with what `work` returns; does `after` once it is written.
    fn route<R: Send + 'static, A: Serialize + 'static>(
        &self,
        places: &Places,
        read: fn(Option<&str>) -> Result<R, QueryError>,
        work: fn(&Self, R) -> Result<A, QueryError>,
        after: impl FnOnce(&A) + Copy + Send + Sync + 'static,
    ) -> MethodRouter {
        let (tap, places) = (self.clone(), places.clone());
        get(move |RawQuery(query): RawQuery| {
            let tap = tap.clone();
            let request = read(query.as_deref());
            answer(request, places.clone(), move |request| work(&tap, request), after)
        })
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

/// Reads the query of `/verdicts` and `/map`: the pipeline and the limit.
fn limited_request(query: Option<&str>) -> Result<(Option<String>, usize), QueryError> {
    let mut parameters = Parameters::of(query).map_err(QueryError)?;
    let request = (parameters.take("pipeline"), limit(&mut parameters)?);
    parameters.finish(&["limit", "pipeline"]).map_err(QueryError)?;
    Ok(request)
}

/// Reads the query of `/timeline`: the pipeline.
fn pipeline_request(query: Option<&str>) -> Result<Option<String>, QueryError> {
    let mut parameters = Parameters::of(query).map_err(QueryError)?;
    let pipeline = parameters.take("pipeline");
    parameters.finish(&["pipeline"]).map_err(QueryError)?;
    Ok(pipeline)
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
async fn answer<R: Send + 'static, A: Serialize>(
    request: Result<R, QueryError>,
    places: Places,
    work: impl FnOnce(R) -> Result<A, QueryError> + Send + 'static,
    after: impl FnOnce(&A) + Send + 'static,
) -> Response {
    let request = match request {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let work = move || {
        let answer = work(request)?;
        let body = serde_json::to_vec(&answer);
        after(&answer);
        Ok::<_, QueryError>(body)
    };
    match places.work(work).await {
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

    #[test]
    fn a_query_is_read_or_refused_with_what_is_possible() {
        let query = request(Some("sort=rtt&limit=10000&pipeline=metrics%2Fa")).unwrap();
        assert_eq!((query.sort, query.limit), (Sort::Rtt, MAX_LIMIT));
        assert_eq!(query.pipeline.as_deref(), Some("metrics/a"));
        let refused = |query: &str| request(Some(query)).unwrap_err().to_string();
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
            limited_request(Some("limit=10001")).unwrap_err().to_string(),
            "limit: 10001 is too much; expected at most 10000"
        );
        assert_eq!(
            refused("colour=red"),
            "unknown parameter `colour`; available: limit, sort, pipeline"
        );
        assert_eq!(limited_request(Some("limit=3")).unwrap(), (None, 3));
        assert_eq!(
            limited_request(Some("sort=rtt")).unwrap_err().to_string(),
            "unknown parameter `sort`; available: limit, pipeline"
        );
    }

    #[test]
    fn the_time_line_is_asked_for_by_its_pipeline_alone() {
        assert_eq!(pipeline_request(None), Ok(None));
        assert_eq!(pipeline_request(Some("pipeline=a")), Ok(Some("a".to_owned())));
        assert_eq!(
            pipeline_request(Some("limit=5")).unwrap_err().to_string(),
            "unknown parameter `limit`; available: pipeline"
        );
    }
}
