//! `/findings`: the newest findings of the processors `watch`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::Router;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flowtap_pipeline::{FindingKind, FindingRecord, Findings, Timestamp, findings, plain_text};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Number, Value};

use crate::query::Parameters;

/// Findings in an answer unless the request says otherwise.
const DEFAULT_LIMIT: usize = 100;

/// The response to `GET /findings`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Number of findings since the daemon started. `findings` has at most the newest 1,000, of which the kind with the most makes room.
    pub total: u64,
    /// The numbers by kind, of the kinds that have any, whichever the request asks for.
    #[serde(default)]
    pub kinds: BTreeMap<String, Count>,
    /// The newest first.
    pub findings: Vec<Finding>,
    /// Processors that make findings.
    #[serde(default)]
    pub watchers: Vec<Watcher>,
}

/// Numbers of findings of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Since the daemon started.
    pub total: u64,
    /// Those that the daemon keeps.
    pub kept: usize,
}

/// The numbers by kind, of the kinds that have any.
pub fn counts(findings: &Findings) -> BTreeMap<String, Count> {
    let counts = findings.counts().into_iter();
    counts
        .map(|(kind, findings::Count { total, kept })| (kind.to_string(), Count { total, kept }))
        .collect()
}

/// A processor that makes findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watcher {
    /// Its id.
    pub processor: String,
    /// The pipeline that it is in.
    pub pipeline: String,
    /// End of the period in which it learns and reports only what lists say (RFC 3339); `null` before its first records.
    pub learns_until: Option<String>,
    /// Whether that period lasts at `now`, the time of the answer or of the end of a recording.
    pub is_learning: bool,
}

impl Watcher {
    /// As it is at `now`.
    pub fn at(watcher: &findings::Watcher, now: Timestamp) -> Self {
        Self {
            processor: watcher.processor.clone(),
            pipeline: watcher.pipeline.clone(),
            learns_until: watcher.learns_until.map(rfc3339),
            is_learning: !watcher.has_learned && watcher.learns_until.is_none_or(|until| now < until),
        }
    }
}

fn rfc3339(at: Timestamp) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(at.as_nanos())).to_string()
}

/// A finding.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// When it was made (RFC 3339).
    pub at: String,
    /// Kind of the finding.
    pub kind: String,
    /// Whose traffic it is.
    pub subject: String,
    /// The other end; empty if there are many.
    pub object: String,
    /// A sentence.
    pub text: String,
    /// The numbers that it rests on. Whole ones have no decimal point in JSON.
    #[serde(serialize_with = "as_short_numbers")]
    pub numbers: BTreeMap<String, f64>,
    /// Address of the peer of its newest flow.
    pub raddr: String,
    /// Port of the side that serves, if it is known.
    pub server_port: Option<u16>,
    /// Class of the peer.
    #[serde(rename = "type")]
    pub class: Option<String>,
    /// Local address of its newest flow.
    #[serde(default)]
    pub laddr: String,
    /// Inode number of the network namespace, if it is known.
    #[serde(default)]
    pub netns: Option<u32>,
    /// Process, if it is known.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Name of the process; empty if it is not known.
    #[serde(default)]
    pub comm: String,
    /// Container, if it is known.
    #[serde(default)]
    pub container_id: Option<String>,
}

impl Finding {
    /// The numbers as `name=value` pairs, as they are in JSON and in log records.
    pub fn numbers_text(&self) -> String {
        let numbers = self.numbers.iter().map(|(name, value)| format!("{name}={value}"));
        numbers.collect::<Vec<_>>().join(" ")
    }

    fn shown_comm(&self) -> String {
        if self.comm.is_empty() {
            return String::new();
        }
        plain_text::name(&self.comm).into_owned()
    }

    /// Where to look: the ends of its newest flow, its process and its network namespace, as far as they are known, as such pairs.
    pub fn place_text(&self) -> String {
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        let pairs = [
            ("raddr", self.raddr.clone()),
            ("laddr", self.laddr.clone()),
            ("pid", number(self.pid)),
            ("comm", self.shown_comm()),
            ("netns", number(self.netns)),
        ];
        let known = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let known = known.map(|(name, value)| format!("{name}={value}"));
        known.collect::<Vec<_>>().join(" ")
    }
}

fn as_short_numbers<S: Serializer>(
    numbers: &BTreeMap<String, f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    // Beyond it not every whole number is one of f64.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    serializer.collect_map(numbers.iter().map(|(name, value)| {
        let is_whole = value.fract() == 0.0 && value.abs() <= EXACT;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is whole, and in the range of i64"
        )]
        let number = if is_whole {
            Number::from(*value as i64).into()
        } else {
            Value::from(*value)
        };
        (name, number)
    }))
}

impl From<&FindingRecord> for Finding {
    fn from(record: &FindingRecord) -> Self {
        let flow = &record.flow;
        let port = match flow.kind {
            Some(flowtap_pipeline::FlowKind::Ingress) => flow.local.port,
            _ => flow.remote.port,
        };
        Self {
            at: rfc3339(record.at),
            kind: record.kind.to_string(),
            subject: record.subject.to_string(),
            object: record.object.to_string(),
            text: record.text.to_string(),
            numbers: record
                .numbers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
            raddr: flow.remote.addr.to_string(),
            server_port: (port != 0).then_some(port),
            class: flow.class.map(|class| class.as_str().to_owned()),
            laddr: flow.local.addr.to_string(),
            netns: (flow.netns != 0).then_some(flow.netns),
            pid: (flow.pid != 0).then_some(flow.pid),
            comm: plain_text::process_name(&flow.comm).into_owned(),
            container_id: flow.container_id.as_deref().map(str::to_owned),
        }
    }
}

/// `GET /findings?limit=100&kind=beacon`.
pub fn routes(findings: Arc<Findings>) -> Router {
    let answer = move |RawQuery(query): RawQuery| async move { answer(&findings, query.as_deref()) };
    Router::new().route("/findings", get(answer))
}

fn answer(findings: &Findings, query: Option<&str>) -> Response {
    let (limit, kind) = match request(query) {
        Ok(request) => request,
        Err(fault) => return (StatusCode::BAD_REQUEST, format!("{fault}\n")).into_response(),
    };
    let newest = findings.newest(usize::MAX);
    let chosen = newest
        .iter()
        .filter(|record| kind.is_none_or(|kind| record.kind == kind))
        .take(limit);
    let now = Timestamp::now();
    let watchers = findings.watchers();
    Json(Answer {
        total: findings.total(),
        kinds: counts(findings),
        findings: chosen.map(|record| Finding::from(&**record)).collect(),
        watchers: watchers.iter().map(|watcher| Watcher::at(watcher, now)).collect(),
    })
    .into_response()
}

/// The limit and the kind that a query asks for.
fn request(query: Option<&str>) -> Result<(usize, Option<FindingKind>), String> {
    let mut parameters = Parameters::of(query)?;
    let limit = parameters.number("limit")?.unwrap_or(DEFAULT_LIMIT);
    let kind = match parameters.take("kind") {
        None => None,
        Some(name) => {
            let found = FindingKind::ALL.into_iter().find(|kind| kind.as_str() == name);
            Some(found.ok_or_else(|| {
                let names = FindingKind::ALL.map(FindingKind::as_str).join(", ");
                format!("kind: unknown kind of finding `{name}`; available: {names}")
            })?)
        }
    };
    parameters.finish(&["limit", "kind"])?;
    Ok((limit, kind))
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::testing::flow;
    use flowtap_pipeline::{FindingKind, PeerClass};

    use super::*;

    #[test]
    fn a_query_is_read_or_refused_with_what_is_possible() {
        assert_eq!(request(None), Ok((DEFAULT_LIMIT, None)));
        assert_eq!(
            request(Some("limit=5&kind=beacon")),
            Ok((5, Some(FindingKind::Beacon)))
        );
        let unknown = request(Some("kind=x")).unwrap_err();
        assert!(
            unknown.starts_with("kind: unknown kind of finding `x`; available: "),
            "{unknown}"
        );
        assert!(unknown.contains("first_contact"), "{unknown}");
        assert_eq!(
            request(Some("sort=x")).unwrap_err(),
            "unknown parameter `sort`; available: limit, kind"
        );
    }

    #[test]
    fn a_processor_learns_until_its_time_has_come() {
        let second = |second: u64| Timestamp::from_nanos(second * 1_000_000_000);
        let mut watcher = findings::Watcher {
            processor: "watch".to_owned(),
            pipeline: "metrics".to_owned(),
            learns_until: None,
            has_learned: false,
        };
        assert!(Watcher::at(&watcher, second(9)).is_learning);
        watcher.learns_until = Some(second(10));
        let shown = Watcher::at(&watcher, second(9));
        assert_eq!(shown.learns_until.as_deref(), Some("1970-01-01T00:00:10Z"));
        assert!(shown.is_learning && !Watcher::at(&watcher, second(10)).is_learning);
        // The system's clock was set back.
        watcher.has_learned = true;
        assert!(!Watcher::at(&watcher, second(1)).is_learning);
    }

    #[test]
    fn the_name_of_a_process_that_does_not_show_is_in_quotes() {
        let place = |comm: &str| {
            let mut flow = flow("10.0.0.1:40000", "45.33.32.156:443");
            flow.comm[..comm.len()].copy_from_slice(comm.as_bytes());
            let finding = Finding {
                comm: plain_text::process_name(&flow.comm).into_owned(),
                pid: Some(7),
                ..Finding::default()
            };
            finding.place_text()
        };
        for (comm, expected) in [
            ("shop", "pid=7 comm=shop"),
            ("", "pid=7"),
            ("  ", "pid=7 comm=\"  \""),
            ("\u{200b}", "pid=7 comm=\\xe2\\x80\\x8b"),
        ] {
            assert_eq!(place(comm), expected, "{comm:?}");
        }
    }

    #[test]
    fn a_finding_is_shown_with_its_time_its_numbers_and_its_peer() {
        let mut flow = flow("10.0.0.1:40000", "45.33.32.156:443");
        flow.class = Some(PeerClass::ExternalHosts);
        flow.pid = 4711;
        flow.comm[..4].copy_from_slice(b"shop");
        flow.netns = 4_026_531_840;
        let record = FindingRecord {
            flow,
            kind: FindingKind::Beacon,
            at: Timestamp::from_nanos(1_750_000_000_000_000_000),
            subject: "shop".into(),
            object: "45.33.32.0/24".into(),
            text: "shop is in touch".into(),
            numbers: vec![("period_seconds", 60.0), ("variation", 0.5)],
        };
        assert!(
            serde_json::to_string(&Finding::from(&record))
                .unwrap()
                .contains(r#"{"period_seconds":60,"variation":0.5}"#)
        );
        let json = serde_json::to_value(Finding::from(&record)).unwrap();
        let expected = serde_json::json!({
            "at": "2025-06-15T15:06:40Z",
            "kind": "beacon",
            "subject": "shop",
            "object": "45.33.32.0/24",
            "text": "shop is in touch",
            "numbers": {"period_seconds": 60, "variation": 0.5},
            "raddr": "45.33.32.156",
            "server_port": 443,
            "type": "externalHosts",
            "laddr": "10.0.0.1",
            "netns": 4_026_531_840_u32,
            "pid": 4711,
            "comm": "shop",
            "container_id": null,
        });
        assert_eq!(json, expected);
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/findings.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, fields) = page.split_once("\n## Fields\n").unwrap();
        let (fields, _) = fields.split_once("\n## ").unwrap();
        for key in expected.as_object().unwrap().keys() {
            assert!(fields.contains(&format!("\n| `{key}` | ")), "{key}");
        }
        let shown = Finding::from(&record);
        assert_eq!(shown.numbers_text(), "period_seconds=60 variation=0.5");
        assert_eq!(
            shown.place_text(),
            "raddr=45.33.32.156 laddr=10.0.0.1 pid=4711 comm=shop netns=4026531840"
        );
        assert_eq!(Finding::default().place_text(), "");
    }
}
