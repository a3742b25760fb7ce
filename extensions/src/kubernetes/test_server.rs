//! Just enough of the Kubernetes API for the tests: lists and watches of objects that the test adds, changes and removes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// A message sent to a watch.
#[derive(Clone, Debug)]
enum Message {
    /// An event of one path.
    Event(String, Value),
    /// The connections of all watches end, in the middle of a line.
    Disconnect,
}

/// An answer that no API server gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// To lists and watches: a page of a proxy.
    Html,
    /// To lists: one that never ends.
    EndlessList,
    /// To watches: a line that never ends.
    EndlessLine,
}

#[derive(Debug)]
struct Shared {
    /// Objects by path of their list and by name.
    objects: Mutex<BTreeMap<String, BTreeMap<String, Value>>>,
    /// Paths that are answered with this status, so many times.
    refused: Mutex<HashMap<String, (u16, usize)>>,
    /// Paths that are answered with something else than the API's.
    broken: Mutex<HashMap<String, Broken>>,
    version: Mutex<u64>,
    messages: broadcast::Sender<Message>,
    lists: Mutex<HashMap<String, usize>>,
}

impl Shared {
    /// The status that a request for `path` is refused with.
    fn refusal(&self, path: &str) -> Option<u16> {
        let mut refused = self.refused.lock().unwrap();
        let (status, times) = refused.get_mut(path)?;
        *times = times.checked_sub(1)?;
        Some(*status).filter(|status| *status != 200)
    }
}

/// The server. Ends with the test.
#[derive(Debug)]
pub(super) struct TestServer {
    shared: Arc<Shared>,
    uri: Uri,
    _stop: tokio_util::sync::DropGuard,
}

impl TestServer {
    pub(super) async fn start() -> Self {
        let shared = Arc::new(Shared {
            objects: Mutex::default(),
            refused: Mutex::default(),
            broken: Mutex::default(),
            version: Mutex::new(100),
            messages: broadcast::channel(1024).0,
            lists: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            let server = axum::serve(listener, app);
            tokio::select! {
                () = stopped => {}
                result = server => result.unwrap(),
            }
        });
        Self {
            shared,
            uri,
            _stop: stop.drop_guard(),
        }
    }

    pub(super) fn client(&self) -> kube::Client {
        super::bounded::client(kube::Config::new(self.uri.clone())).unwrap()
    }

    /// Adds an object to the list at `path`, or replaces it.
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["metadata"]["resourceVersion"] = self.next_version().into();
        let mut objects = self.shared.objects.lock().unwrap();
        let before = objects
            .entry(path.to_owned())
            .or_default()
            .insert(name, object.clone());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.send(path, &json!({"type": kind, "object": object}));
    }

    pub(super) fn remove(&self, path: &str, name: &str) {
        let mut object = self
            .shared
            .objects
            .lock()
            .unwrap()
            .get_mut(path)
            .unwrap()
            .remove(name)
            .unwrap();
        object["metadata"]["resourceVersion"] = self.next_version().into();
        self.send(path, &json!({"type": "DELETED", "object": object}));
    }

    /// Changes from now on are not sent to watches, which have to list again.
    pub(super) fn put_silently(&self, path: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.next_version();
        let mut objects = self.shared.objects.lock().unwrap();
        objects.entry(path.to_owned()).or_default().insert(name, object);
    }

    /// The version that the watches of `path` have is too old.
    pub(super) fn gone(&self, path: &str) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version", "reason": "Expired", "code": 410
        });
        self.send(path, &json!({"type": "ERROR", "object": status}));
    }

    /// Ends every watch in the middle of a line.
    pub(super) fn disconnect(&self) {
        let _ = self.shared.messages.send(Message::Disconnect);
    }

    /// Answers every request for `path` with `status`; 200 for what it has.
    pub(super) fn refuse(&self, path: &str, status: u16) {
        self.refuse_times(path, status, usize::MAX);
    }

    /// Answers so many requests for `path` with `status`.
    pub(super) fn refuse_times(&self, path: &str, status: u16, times: usize) {
        self.shared
            .refused
            .lock()
            .unwrap()
            .insert(path.to_owned(), (status, times));
    }

    /// Requests for `path` that are yet to be refused.
    pub(super) fn left_to_refuse(&self, path: &str) -> usize {
        self.shared.refused.lock().unwrap()[path].1
    }

    /// Answers requests for `path` in this way; `None` for what it has.
    pub(super) fn break_off(&self, path: &str, broken: Option<Broken>) {
        let mut all = self.shared.broken.lock().unwrap();
        match broken {
            Some(broken) => all.insert(path.to_owned(), broken),
            None => all.remove(path),
        };
    }

    /// Number of times that `path` was listed.
    pub(super) fn lists(&self, path: &str) -> usize {
        self.shared.lists.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    fn next_version(&self) -> String {
        let mut version = self.shared.version.lock().unwrap();
        *version += 1;
        version.to_string()
    }

    fn send(&self, path: &str, event: &Value) {
        // There are no watches yet: a client lists first.
        let _ = self
            .shared
            .messages
            .send(Message::Event(path.to_owned(), event.clone()));
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let path = uri.path().to_owned();
    if let Some(status) = shared.refusal(&path) {
        let reason = match status {
            403 => "Forbidden",
            404 => "NotFound",
            429 => "TooManyRequests",
            _ => "InternalError",
        };
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!("{path} is refused"), "reason": reason, "code": status
        });
        let status = StatusCode::from_u16(status).unwrap();
        return (
            status,
            [(header::CONTENT_TYPE, "application/json")],
            body.to_string(),
        )
            .into_response();
    }
    let broken = shared.broken.lock().unwrap().get(&path).copied();
    let endless = |begin: &'static str| {
        let more = futures::stream::repeat(Bytes::from(vec![b' '; 1 << 20]));
        let begin = futures::stream::once(async move { Bytes::from(begin) });
        Body::from_stream(begin.chain(more).map(Ok::<_, std::io::Error>)).into_response()
    };
    match (broken, query.contains_key("watch")) {
        (Some(Broken::Html), _) => return "<html>please log in</html>\n".into_response(),
        (Some(Broken::EndlessList), false) => return endless("{\"items\": [\n"),
        (Some(Broken::EndlessLine), true) => return endless("{\"type\": "),
        _ => {}
    }
    if let Some((list, name)) = path.rsplit_once('/') {
        let objects = shared.objects.lock().unwrap();
        if let Some(object) = objects.get(list).and_then(|objects| objects.get(name)) {
            return ([(header::CONTENT_TYPE, "application/json")], object.to_string()).into_response();
        }
    }
    if query.contains_key("watch") {
        return stream(&shared, path);
    }
    *shared.lists.lock().unwrap().entry(path.clone()).or_default() += 1;
    let items: Vec<Value> = shared
        .objects
        .lock()
        .unwrap()
        .get(&path)
        .map(|objects| objects.values().cloned().collect())
        .unwrap_or_default();
    let list = json!({
        "kind": "List", "apiVersion": "v1",
        "metadata": {"resourceVersion": shared.version.lock().unwrap().to_string()},
        "items": items
    });
    ([(header::CONTENT_TYPE, "application/json")], list.to_string()).into_response()
}

fn stream(shared: &Shared, path: String) -> Response {
    let messages = shared.messages.subscribe();
    let lines = futures::stream::unfold(Some(messages), move |messages| {
        let path = path.clone();
        async move {
            let mut messages = messages?;
            loop {
                match messages.recv().await {
                    Ok(Message::Event(of, event)) if of == path => {
                        return Some((Ok(Bytes::from(format!("{event}\n"))), Some(messages)));
                    }
                    Ok(Message::Event(..)) => {}
                    Ok(Message::Disconnect) | Err(_) => {
                        let cut = Err(std::io::Error::other("cut"));
                        return Some((cut, None));
                    }
                }
            }
        }
    });
    let body = Body::from_stream(lines.boxed());
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
