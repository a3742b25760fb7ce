//! The admin listener's page, `/`, and the JSON of the daemon itself that it shows, `/pipelines`.
//!
//! The page is one document without outside assets, joined from the files in `status_page`. Its policy (CSP) lets the browser run
//! that document's own script and nothing else, and has it refuse markup that the script would make of text: label values come from
//! the network and from processes' names.

use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flowtap_config::Config;
use ring::digest::{SHA256, digest};
use serde::Serialize;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flowtap_pipeline::ComponentId;

use crate::telemetry::{Reader, Sample};

const PAGE: &str = concat!(
    include_str!("status_page/head.html"),
    "<style>\n",
    include_str!("status_page/style.css"),
    "</style>\n",
    include_str!("status_page/body.html"),
    "<script>\n",
    include_str!("status_page/base.js"),
    include_str!("status_page/flows.js"),
    include_str!("status_page/timeline.js"),
    include_str!("status_page/map.js"),
    include_str!("status_page/verdicts.js"),
    include_str!("status_page/daemon.js"),
    include_str!("status_page/page.js"),
    "</script>\n</body>\n</html>\n",
);

/// The answer to `GET /pipelines`.
#[derive(Debug, Serialize)]
struct Graph<'a> {
    /// Wiring of the pipelines.
    pipelines: &'a [Pipeline],
    /// The daemon's own counters and gauges, as its `/metrics` names them. The page makes rates of them.
    metrics: Vec<Sample>,
}

/// A pipeline's components, by their ids.
#[derive(Clone, Debug, Serialize)]
struct Pipeline {
    name: String,
    receivers: Vec<String>,
    processors: Vec<String>,
    exporters: Vec<String>,
}

/// The pipelines that are at work. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct Pipelines(Arc<ArcSwap<Vec<Pipeline>>>);

impl Pipelines {
    /// Those of `config`.
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(pipelines(config))))
    }

    /// Those of `config` are at work from now on.
    pub fn set(&self, config: &Config) {
        self.0.store(Arc::new(pipelines(config)));
    }
}

fn pipelines(config: &Config) -> Vec<Pipeline> {
    let ids = |ids: &[ComponentId]| ids.iter().map(ToString::to_string).collect();
    let pipelines = config.pipelines.iter().map(|(name, pipeline)| Pipeline {
        name: name.to_string(),
        receivers: ids(&pipeline.receivers),
        processors: ids(&pipeline.processors),
        exporters: ids(&pipeline.exporters),
    });
    pipelines.collect()
}

/// `/` and `/pipelines`.
pub fn routes(pipelines: Pipelines, telemetry: Reader) -> Router {
    let policy = policy(PAGE);
    let page = move || {
        let head = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
            (header::CONTENT_SECURITY_POLICY, policy.clone()),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (header::REFERRER_POLICY, "no-referrer".to_owned()),
            (header::CACHE_CONTROL, "no-store".to_owned()),
        ];
        async move { (head, PAGE) }
    };
    let status = move || {
        let status = Graph {
            pipelines: &pipelines.0.load(),
            metrics: telemetry.samples(),
        };
        let answer = json(&status);
        async move { answer }
    };
    Router::new()
        .route("/", get(page))
        .route("/pipelines", get(status))
}

fn json(status: &Graph<'_>) -> Response {
    match serde_json::to_vec(status) {
        Ok(body) => {
            let head = [
                (header::CONTENT_TYPE, "application/json"),
                (header::CACHE_CONTROL, "no-store"),
            ];
            (head, body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Content security policy of `page`: run its own script, by its hash, use its own style, and query
/// this listener.
fn policy(page: &str) -> String {
    let hash = |tag: &str| {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let text = page
            .split_once(&open)
            .and_then(|(_, behind)| behind.split_once(&close))
            .map_or("", |(text, _)| text);
        format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())))
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash("script"),
        hash("style")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_pages_own_script_and_style_by_their_hashes() {
        // printf 'x' | openssl dgst -sha256 -binary | base64
        let policy = policy("<style>x</style><script>x</script>");
        assert_eq!(
            policy
                .matches("'sha256-LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE='")
                .count(),
            2,
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_makes_no_markup_of_text() {
        // A link leads elsewhere only when it is followed.
        let page = PAGE
            .replace("href=\"https://github.com/flowtap/flowtap/", "")
            .replace("\"http://www.w3.org/2000/svg\"", "");
        for forbidden in [
            "http://",
            "https://",
            "src=",
            "@import",
            "url(",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "style=",
            "onclick",
            "eval(",
        ] {
            assert!(!page.contains(forbidden), "the page has `{forbidden}`");
        }
        for tag in ["<script>", "<style>"] {
            assert_eq!(
                PAGE.matches(tag).count(),
                1,
                "one {tag}, which its hash is made of"
            );
        }
    }
}
