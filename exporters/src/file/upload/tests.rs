//! Uploads to a server that speaks as much of S3 as they need.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use flowtap_pipeline::{Timestamp, UploadProbe};

use super::*;

/// A store that refuses one object, and takes all others.
#[derive(Clone, Debug)]
struct Server {
    address: SocketAddr,
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// The end of the path of the refused one.
    refused: Arc<Mutex<String>>,
    /// Of a refused request its answer repeats this header (`:path` is the path), or has this text.
    repeated: Arc<Mutex<String>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            objects: Arc::default(),
            refused: Arc::default(),
            repeated: Arc::default(),
        };
        let answering = server.clone();
        // It ends with the process of the tests.
        let serve = move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let answer = answering.answer(&mut BufReader::new(&connection));
                connection.write_all(answer.as_bytes()).unwrap();
            }
        };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(serve)
            .unwrap();
        server
    }

    fn answer(&self, request: &mut impl BufRead) -> String {
        let mut line = || {
            let mut line = String::new();
            request.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        };
        let first = line();
        let path = first.split(' ').nth(1).unwrap().to_owned();
        let (mut length, mut said) = (0, self.repeated.lock().unwrap().clone());
        if said == ":path" {
            said.clone_from(&path);
        }
        loop {
            let header = line();
            let Some((name, value)) = header.split_once(": ") else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().unwrap();
            } else if name.eq_ignore_ascii_case(&said) {
                value.clone_into(&mut said);
            }
        }
        let mut body = vec![0; length];
        request.read_exact(&mut body).unwrap();
        let refused = self.refused.lock().unwrap().clone();
        let object = path.split('?').next().unwrap();
        let (status, body) = if !refused.is_empty() && object.ends_with(&refused) {
            let error = format!("<Error><Code>AccessDenied</Code><Message>{said}.</Message></Error>");
            ("403 Forbidden", error)
        } else {
            self.objects.lock().unwrap().insert(path, body);
            ("200 OK", String::new())
        };
        format!(
            "HTTP/1.1 {status}\r\nETag: \"x\"\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn config(&self) -> UploadConfig {
        let pair = [("access_key_id", "x"), ("secret_access_key", "y")];
        UploadConfig {
            url: "s3://flows/fleet".to_owned(),
            endpoint: Some(format!("http://{}", self.address)),
            credentials: pair
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            retry_interval: Duration::from_millis(10),
            max_retry_interval: Duration::from_millis(50),
            ..UploadConfig::default()
        }
    }

    async fn has(&self, objects: usize) {
        let has = async {
            while self.objects.lock().unwrap().len() < objects {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), has).await.unwrap();
    }
}

/// Files, each with its name, the oldest first.
fn files<const N: usize>(root: &Path, keys: [&str; N]) -> [(Name, PathBuf); N] {
    let mut second = 0;
    keys.map(|key| {
        second += 1;
        fs::write(root.join(key), key).unwrap();
        let start = Timestamp::from_nanos(second * 1_000_000_000);
        (Name::starting(start), root.join(key))
    })
}

fn uploads(server: &Server, root: &Path) -> Uploads {
    let context = BuildContext::new("file".parse().unwrap());
    Uploads::new(&server.config(), root.to_owned(), &context).unwrap()
}

#[tokio::test]
async fn an_object_that_the_store_refuses_is_in_no_other_files_way() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let root = root.path();
    "/b".clone_into(&mut server.refused.lock().unwrap());
    let uploads = uploads(&server, root);
    let mut task = UploadTask::default();
    uploads.start(&mut task);
    for (name, path) in files(root, ["a", "b", "c", "d"]) {
        uploads.finished(&name, &path);
    }
    server.has(3).await;
    let health = uploads.telemetry.health().clone();
    while uploads.queue.len() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It is failing, although others were uploaded after it.
    let status = health.uploads();
    assert_eq!(status.pending_files, 1);
    assert!(status.failing_since_unix_nano.is_some());
    assert_eq!(status.last_failure.unwrap().file, "b");
    server.refused.lock().unwrap().clear();
    server.has(4).await;
    task.stop().await;
    assert_eq!(health.uploads().pending_files, 0);
    assert_eq!(health.uploads().failing_since_unix_nano, None);
    let objects = server.objects.lock().unwrap();
    assert_eq!(objects["/flows/fleet/b"], b"b");
}

#[tokio::test]
async fn at_the_end_a_refused_file_does_not_keep_the_others_here() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let root = root.path();
    "/a".clone_into(&mut server.refused.lock().unwrap());
    let uploads = uploads(&server, root);
    for (name, path) in files(root, ["a", "b", "c"]) {
        uploads.finished(&name, &path);
    }
    let mut task = UploadTask::default();
    task.stop.cancel();
    uploads.start(&mut task);
    task.stop().await;
    let objects = server.objects.lock().unwrap();
    assert_eq!(
        objects.keys().collect::<Vec<_>>(),
        ["/flows/fleet/b", "/flows/fleet/c"]
    );
}

#[tokio::test]
async fn another_store_gets_the_files_that_the_one_before_has() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let files = files(root, ["a", "b"]);
    let stores = [Server::start(), Server::start()];
    for store in [&stores[0], &stores[0], &stores[1]] {
        let uploads = uploads(store, root);
        for (name, path) in &files {
            uploads.finished(name, path);
        }
        let mut task = UploadTask::default();
        uploads.start(&mut task);
        store.has(2).await;
        task.stop().await;
    }
}

/// URL, credentials, and the texts that the store repeats.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[tokio::test]
async fn a_store_that_repeats_a_request_does_not_bring_its_secrets_into_the_log_and_the_status() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    "/a".clone_into(&mut server.refused.lock().unwrap());
    let [(_, path)] = files(root.path(), ["a"]);
    let s3 = [
        ("access_key_id", "hunter2-id"),
        ("secret_access_key", "hunter2/secret"),
        ("session_token", "hunter2/token+=="),
    ];
    let google = [("bearer_token", "hunter2-bearer")];
    let azure = [("account_name", "flows"), ("access_key", "aHVudGVyMi1rZXk=")];
    let signed = [
        ("account_name", "flows"),
        ("sas_key", "sv=1&sp=w&sig=hunter2%2Fsig%3D"),
    ];
    let cases: [Case<'_>; 4] = [
        (
            "s3://flows",
            &s3,
            &[
                "authorization",
                "x-amz-security-token",
                "hunter2-id",
                "the key is hunter2/secret",
                "hunter2%2Ftoken%2B%3D%3D",
            ],
        ),
        ("gs://flows", &google, &["authorization", "hunter2-bearer"]),
        ("az://flows", &azure, &["authorization", "aHVudGVyMi1rZXk="]),
        ("az://flows", &signed, &[":path", "hunter2/sig="]),
    ];
    for (url, credentials, repeated) in cases {
        let config = UploadConfig {
            url: url.to_owned(),
            credentials: credentials
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..server.config()
        };
        let store = Store::new(&config).unwrap();
        for text in repeated {
            (*text).clone_into(&mut server.repeated.lock().unwrap());
            let error = store.upload(&path, "a").await.unwrap_err();
            let shown = store.shown(&error);
            assert!(
                shown.contains("403") && shown.contains("REDACTED"),
                "{url} {text}: {shown}"
            );
            for secret in ["hunter2", "aHVudGVyMi1rZXk=", "Signature=", "SharedKey"] {
                assert!(!shown.contains(secret), "{url} {text}: {shown}");
            }
        }
    }
}
