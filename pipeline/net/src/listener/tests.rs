use super::*;
use axum::routing::get;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::tests::{authority, listener_files};

/// Far more than anything here takes, so that only a hang fails.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn serve_routes(max_connections: usize, routes: Router) -> Served {
    serve_with(|listener| listener, max_connections, routes).await
}

async fn serve_with(
    change: impl FnOnce(Listener) -> Listener,
    max_connections: usize,
    routes: Router,
) -> Served {
    let closed = ClosedConnections::new(&opentelemetry::global::meter("test"), "test");
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), closed)
        .await
        .unwrap();
    let (address, stop) = (listener.address(), CancellationToken::new());
    let serving = change(listener)
        .limits(max_connections, WAIT_TIMEOUT)
        .serve(routes, stop.clone());
    Served {
        address,
        stop,
        task: tokio::spawn(serving),
    }
}

async fn served(max_connections: usize) -> Served {
    serve_routes(
        max_connections,
        Router::new().route("/", get(|| async { "ok\n" })),
    )
    .await
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read(&mut stream).await
}

async fn read(stream: &mut TcpStream) -> String {
    let mut response = Vec::new();
    // Closed, or reset, whichever comes first.
    let reading = stream.read_to_end(&mut response);
    let _ = tokio::time::timeout(WAIT_TIMEOUT, reading).await.expect("an end");
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test]
async fn idle_connections_and_half_requests_lock_nobody_out() {
    let served = served(4).await;
    let mut waiting = join_all((0..40).map(|_| TcpStream::connect(served.address))).await;
    for (i, stream) in waiting.iter_mut().enumerate() {
        if i % 2 == 0 {
            // Those that are closed already can't take it.
            let _ = stream
                .as_mut()
                .unwrap()
                .write_all(b"GET / HTTP/1.1\r\nHost: ")
                .await;
        }
    }
    for _ in 0..20 {
        let response = ask(served.address, "GET / HTTP/1.0\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.0 200"), "{response}");
    }
}

#[tokio::test]
async fn a_request_under_way_is_not_closed_for_a_newcomer() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let handler = move || {
        let mut wait = wait.clone();
        async move {
            let _ = wait.wait_for(|released| *released).await;
            "done\n"
        }
    };
    let served = serve_routes(1, Router::new().route("/", get(handler))).await;
    let mut first = TcpStream::connect(served.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    // Until the request has been read the connection counts as idle; then newcomers are closed.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut second = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(read(&mut second).await, "");
    release.send(true).unwrap();
    let response = read(&mut first).await;
    assert!(response.ends_with("done\n"), "{response}");
}

async fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn one_client_address_has_half_of_the_connections_and_no_more() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let (handling, mut handled) = tokio::sync::mpsc::channel(4);
    let slow = move || {
        let (mut wait, handling) = (wait.clone(), handling.clone());
        async move {
            handling.send(()).await.unwrap();
            let _ = wait.wait_for(|released| *released).await;
            "done\n"
        }
    };
    let routes = Router::new()
        .route("/slow", get(slow))
        .route("/", get(|| async { "ok\n" }));
    let served = serve_routes(4, routes).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = connect_from("127.0.0.2", served.address).await;
        stream.write_all(b"GET /slow HTTP/1.0\r\n\r\n").await.unwrap();
        handled.recv().await.unwrap();
        held.push(stream);
    }
    // Both are at work, so a third one is not accepted, although the listener has room: for others.
    let mut third = connect_from("127.0.0.2", served.address).await;
    assert_eq!(read(&mut third).await, "");
    for _ in 0..3 {
        let response = ask(served.address, "GET / HTTP/1.0\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.0 200"), "{response}");
    }
    release.send(true).unwrap();
    for mut stream in held {
        let response = read(&mut stream).await;
        assert!(response.ends_with("done\n"), "{response}");
    }
}

#[tokio::test]
async fn http_1_only_with_a_head_of_16_kib() {
    let served = served(4).await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0";
    let response = ask(served.address, preface).await;
    // A SETTINGS frame would be type 4 in the fourth byte.
    assert!(
        response.is_empty() || response.starts_with("HTTP/1.1 4"),
        "{response:?}"
    );
    let long = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    let response = ask(served.address, &long).await;
    assert!(response.starts_with("HTTP/1.1 431"), "{response}");
}

#[tokio::test]
async fn another_host_gets_421_and_every_response_is_for_its_own_origin() {
    let served = served(4).await;
    let request = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let response = ask(served.address, &request("evil.example.com")).await;
    assert!(response.starts_with("HTTP/1.1 421"), "{response}");
    assert!(response.contains("allowed_hosts"), "{response}");
    let response = ask(served.address, &request("localhost:1")).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    for line in [
        "x-content-type-options: nosniff\r\n",
        "cross-origin-resource-policy: same-origin\r\n",
    ] {
        assert!(response.contains(line), "{response}");
    }
}

#[tokio::test]
async fn it_stops_whatever_its_clients_do() {
    let large = || async { "x".repeat(8 << 20) };
    let served = serve_routes(4, Router::new().route("/", get(large))).await;
    let mut half = TcpStream::connect(served.address).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    // Does not read what it has asked for.
    let mut unread = TcpStream::connect(served.address).await.unwrap();
    let pipelined = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20);
    unread.write_all(pipelined.as_bytes()).await.unwrap();
    unread.readable().await.unwrap();
    let began = Instant::now();
    served.stop.cancel();
    tokio::time::timeout(WAIT_TIMEOUT, served.task)
        .await
        .unwrap()
        .unwrap();
    assert!(began.elapsed() < DRAIN_TIMEOUT * 4, "{:?}", began.elapsed());
    // The connections are also closed.
    assert_eq!(read(&mut half).await, "");
}

/// A connection over TLS on which a request for `/` has been answered.
async fn asked(address: SocketAddr, client: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = client.connect("localhost".try_into().unwrap(), stream).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await?;
    let mut response = Vec::new();
    while !response.ends_with(b"ok\n") {
        if stream.read_buf(&mut response).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(stream)
}

#[tokio::test]
async fn connections_of_clients_that_were_checked_with_authorities_before_end_with_their_request() {
    let dir = tempfile::tempdir().unwrap();
    let files = listener_files(dir.path());
    let ((first, of_first), (second, of_second)) = (authority(&files, "one"), authority(&files, "two"));
    let file = files.client_ca_file.clone().unwrap();
    std::fs::write(&file, first).unwrap();
    let (release, wait) = tokio::sync::watch::channel(false);
    let slow = move || {
        let mut wait = wait.clone();
        async move {
            let _ = wait.wait_for(|released| *released).await;
            "done\n"
        }
    };
    let routes = Router::new()
        .route("/slow", get(slow))
        .route("/", get(|| async { "ok\n" }));
    let tls = ListenerTls::new(&files).unwrap();
    let served = serve_with(|listener| listener.tls(tls), 16, routes).await;
    let mut idle = asked(served.address, &of_first).await.unwrap();
    let mut at_work = asked(served.address, &of_first).await.unwrap();
    at_work
        .write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    asked(served.address, &of_second).await.unwrap_err();

    std::fs::write(&file, second).unwrap();
    let mut rest = Vec::new();
    let reading = idle.read_to_end(&mut rest);
    let _ = tokio::time::timeout(WAIT_TIMEOUT, reading).await.expect("an end");
    assert!(rest.is_empty(), "{rest:?}");
    asked(served.address, &of_first).await.unwrap_err();
    let mut stays = asked(served.address, &of_second).await.unwrap();
    release.send(true).unwrap();
    let reading = at_work.read_to_end(&mut rest);
    let _ = tokio::time::timeout(WAIT_TIMEOUT, reading).await.expect("an end");
    let text = String::from_utf8_lossy(&rest);
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("done\n"),
        "{text}"
    );

    // Until the next change.
    stays
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(stays.read_buf(&mut rest).await.unwrap() > 0);
    served.stop.cancel();
    tokio::time::timeout(WAIT_TIMEOUT, served.task)
        .await
        .unwrap()
        .unwrap();
}
