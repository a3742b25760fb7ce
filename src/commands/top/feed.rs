//! Where the flows come from: a daemon's `/flows`, or the tap of this process.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use flowtap_pipeline::plain;

use flowtap_extensions::live::tap::{Request, Tap};
use flowtap_extensions::live::{Flows, Sort};

use super::state::Event;

/// Poll interval.
const INTERVAL: Duration = Duration::from_secs(1);

/// Maximum time for a response.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Flows that are asked for: more than a terminal shows, so that a filter finds what is not at the top.
const LIMIT: usize = 1000;

/// A longer response is not from flowtap.
const MAX_ANSWER: u64 = 64 << 20;

/// Where to ask.
#[derive(Debug)]
pub(super) enum Source {
    /// A daemon, at its admin listener.
    Daemon(SocketAddr),
    /// This process.
    InProcess(Tap),
}

/// Why there are no flows.
#[derive(Debug)]
pub(super) enum FeedError {
    /// Nobody was reached.
    Connection(io::Error),
    /// The server that answered is not flowtap.
    Answer(String),
}

impl std::fmt::Display for FeedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connection(error) => write!(f, "{error}"),
            Self::Answer(text) => f.write_str(text),
        }
    }
}

/// Asks again and again on its own thread, and at once when the order changes. Ends when either channel does.
///
/// # Errors
/// The system gave no thread.
pub(super) fn spawn(
    source: Source,
    pipeline: Option<String>,
    sort: Sort,
    events: SyncSender<Event>,
) -> io::Result<SyncSender<Sort>> {
    let (sender, orders) = sync_channel(1);
    let feed = move || feed(&source, pipeline.as_deref(), sort, &orders, &events);
    thread::Builder::new().name("top-feed".to_owned()).spawn(feed)?;
    Ok(sender)
}

fn feed(
    source: &Source,
    pipeline: Option<&str>,
    mut sort: Sort,
    orders: &Receiver<Sort>,
    events: &SyncSender<Event>,
) {
    loop {
        let answer = match source {
            Source::Daemon(address) => ask(*address, pipeline, sort).map_err(|error| error.to_string()),
            Source::InProcess(tap) => {
                let request = Request {
                    pipeline: pipeline.map(str::to_owned),
                    sort,
                    limit: LIMIT,
                };
                tap.flows(&request).map_err(|error| error.to_string())
            }
        };
        if events
            .send(answer.map_or_else(Event::FeedFailed, Event::Flows))
            .is_err()
        {
            return;
        }
        match orders.recv_timeout(INTERVAL) {
            Ok(order) => sort = order,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// `GET /flows` over HTTP/1.0, whose answer ends with the connection.
///
/// # Errors
/// [`FeedError`] with whose fault it is.
pub(super) fn ask(address: SocketAddr, pipeline: Option<&str>, sort: Sort) -> Result<Flows, FeedError> {
    let answer = get(address, &path(pipeline, sort)).map_err(FeedError::Connection)?;
    flows(&answer).map_err(FeedError::Answer)
}

fn path(pipeline: Option<&str>, sort: Sort) -> String {
    let mut path = format!("/flows?limit={LIMIT}&sort={}", sort.name());
    if let Some(pipeline) = pipeline {
        path.push_str("&pipeline=");
        for byte in pipeline.bytes() {
            if byte.is_ascii_alphanumeric() {
                path.push(char::from(byte));
            } else {
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
    path
}

fn get(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    )?;
    let (mut answer, until) = (Vec::new(), Instant::now() + TIMEOUT);
    let mut chunk = vec![0; 64 << 10];
    // The timeout of the socket is for each read; a peer that sends a byte now and then would never reach it.
    while (answer.len() as u64) < MAX_ANSWER {
        match stream.read(&mut chunk)? {
            0 => return Ok(answer),
            read => answer.extend_from_slice(&chunk[..read]),
        }
        if Instant::now() > until {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no complete response within {} s", TIMEOUT.as_secs()),
            ));
        }
    }
    Err(io::Error::other("the response is too long"))
}

/// The flows in an answer, or what was answered instead.
fn flows(answer: &[u8]) -> Result<Flows, String> {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    let strange = || "the endpoint is not a flowtap admin listener".to_owned();
    let end = answer
        .windows(END_OF_HEAD.len())
        .position(|bytes| bytes == END_OF_HEAD)
        .ok_or_else(strange)?;
    let (head, body) = (&answer[..end], &answer[end + END_OF_HEAD.len()..]);
    let head = String::from_utf8_lossy(head);
    let status = head.split_whitespace().nth(1).ok_or_else(strange)?;
    match status {
        "200" => serde_json::from_slice(body).map_err(|error| format!("{}: {error}", strange())),
        "404" if body.is_empty() => Err("this daemon is of a version without /flows".to_owned()),
        // Any program may listen on the port: its text must not control the terminal.
        _ => {
            let text = String::from_utf8_lossy(body);
            let line = text.lines().next().unwrap_or_default();
            Err(plain::plain(&format!("{status}: {line}")).into_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_flows_or_a_sentence() {
        let body = serde_json::to_string(&Flows::default()).unwrap();
        let answer = format!("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{body}");
        assert_eq!(flows(answer.as_bytes()), Ok(Flows::default()));
        let refused =
            flows(b"HTTP/1.0 404 Not Found\r\n\r\nunknown pipeline `x`; available: flows\n").unwrap_err();
        assert_eq!(refused, "404: unknown pipeline `x`; available: flows");
        let hostile = flows(b"HTTP/1.0 500 x\r\n\r\n\x1b]0;PWNED\x07\n").unwrap_err();
        assert_eq!(hostile, "500: \\u{1b}]0;PWNED\\u{7}");
        for strange in [
            &b""[..],
            b"220 smtp ready\r\n",
            b"\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n<html>",
        ] {
            assert!(
                flows(strange)
                    .unwrap_err()
                    .contains("not a flowtap admin listener"),
                "{strange:?}"
            );
        }
        assert!(
            flows(b"HTTP/1.0 404 Not Found\r\n\r\n")
                .unwrap_err()
                .contains("version")
        );
    }

    #[test]
    fn a_pipelines_name_stands_in_the_path_whatever_it_is() {
        assert_eq!(
            path(Some("a b&c"), Sort::Rtt),
            "/flows?limit=1000&sort=rtt&pipeline=a%20b%26c"
        );
    }
}
