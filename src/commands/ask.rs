//! Questions to a daemon, at its admin listener.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use flowtap_pipeline::plain;
use serde::de::DeserializeOwned;

/// Maximum time for a response.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A longer response is not from flowtap.
const MAX_ANSWER: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    /// Nobody was reached.
    Connection(io::Error),
    /// Something listens there, and does not answer in time.
    Silent,
    /// The daemon does not have what was asked for.
    Refused(String),
    /// The daemon is of a version that does not have it.
    Version,
    /// The server that answered is not flowtap.
    Answer(String),
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connection(error) => write!(f, "{error}"),
            Self::Silent => write!(f, "no complete response within {} s", TIMEOUT.as_secs()),
            Self::Version => f.write_str("this daemon is of a version without it"),
            Self::Refused(text) | Self::Answer(text) => f.write_str(text),
        }
    }
}

impl AskError {
    /// The error of a command that asked the daemon at `address` for `what`: whether no flowtap answers there, or one that has no such
    /// thing.
    pub(crate) fn sentence(&self, what: &str, address: SocketAddr) -> String {
        match self {
            Self::Connection(_) | Self::Silent | Self::Answer(_) => {
                format!("no flowtap answers at {address}: {self}")
            }
            Self::Refused(_) | Self::Version => format!("no {what} at {address}: {self}"),
        }
    }

    /// Remedy, for the reader of the error: how the daemon at `address` comes to answer.
    pub(crate) fn remedy(&self, address: SocketAddr) -> String {
        match self {
            Self::Silent => {
                format!(
                    "the daemon at {address} is stopped or overloaded: look at its state (`ps`) and its log, or restart it"
                )
            }
            Self::Version => "upgrade the daemon, or use the `flowtap` of its version".to_owned(),
            _ => format!(
                "name the admin listener of the daemon that runs, `--admin ADDRESS:PORT`, or start `flowtap run` with \
                 service.admin.endpoint={address}"
            ),
        }
    }
}

/// `GET path` over HTTP/1.0, whose answer ends with the connection.
///
/// # Errors
/// [`AskError`] with whose fault it is.
pub(crate) fn get<T: DeserializeOwned>(address: SocketAddr, path: &str) -> Result<T, AskError> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(AskError::Connection)?;
    let answer = fetch(stream, address, path).map_err(|error| match error.kind() {
        // A socket's timeout is EAGAIN, "Resource temporarily unavailable" (socket(7)).
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Silent,
        _ => AskError::Connection(error),
    })?;
    content(&answer)
}

fn fetch(mut stream: TcpStream, address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // In one segment: a server that does not read all of it may end the connection before the rest.
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let (mut answer, until) = (Vec::new(), Instant::now() + TIMEOUT);
    let mut chunk = vec![0; 64 << 10];
    // The timeout of the socket is for each read; a peer that sends a byte now and then would never reach it.
    while (answer.len() as u64) < MAX_ANSWER {
        match stream.read(&mut chunk)? {
            0 => return Ok(answer),
            read => answer.extend_from_slice(&chunk[..read]),
        }
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Err(io::Error::other("the response is too long"))
}

/// Returns the decoded body of a response, or an error with what came instead.
fn content<T: DeserializeOwned>(answer: &[u8]) -> Result<T, AskError> {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    const STRANGE: &str = "the endpoint is not a flowtap admin listener";
    let strange = || AskError::Answer(STRANGE.to_owned());
    let end = answer
        .windows(END_OF_HEAD.len())
        .position(|bytes| bytes == END_OF_HEAD)
        .ok_or_else(strange)?;
    let (head, body) = (&answer[..end], &answer[end + END_OF_HEAD.len()..]);
    let head = String::from_utf8_lossy(head);
    let status = head.split_whitespace().nth(1).ok_or_else(strange)?;
    match status {
        "200" => {
            serde_json::from_slice(body).map_err(|error| AskError::Answer(format!("{STRANGE}: {error}")))
        }
        // Also with the words of a later version about paths that it does not have.
        "404" if body.is_empty() || body.starts_with(b"not found; ") => Err(AskError::Version),
        _ => {
            let text = String::from_utf8_lossy(body);
            let line = text.lines().next().unwrap_or_default();
            // Any program may listen on the port: its text must not control the terminal.
            let shown = |text: &str| plain::plain(text).into_owned();
            Err(match status {
                "400" | "404" => AskError::Refused(shown(line)),
                _ => AskError::Answer(shown(&format!("{status}: {line}"))),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use flowtap_extensions::live::Flows;

    use super::*;

    #[test]
    fn a_listener_that_never_answers_is_silent_and_its_remedy_is_not_to_start_another() {
        // As of a process that is stopped: the kernel accepts.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let error = get::<Flows>(address, "/flows").unwrap_err();
        assert!(matches!(error, AskError::Silent), "{error:?}");
        assert_eq!(error.to_string(), "no complete response within 5 s");
        let remedy = error.remedy(address);
        assert!(remedy.contains("stopped or overloaded"), "{remedy}");
        drop(listener);
        let error = get::<Flows>(address, "/flows").unwrap_err();
        assert!(error.remedy(address).contains("start `flowtap run`"), "{error}");
    }

    #[test]
    fn without_a_flowtap_that_answers_the_error_says_so_and_else_what_it_does_not_have() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        for error in [
            AskError::Connection(refused),
            AskError::Silent,
            AskError::Answer("the endpoint is not a flowtap admin listener".to_owned()),
        ] {
            let expected = format!("no flowtap answers at 127.0.0.1:9: {error}");
            assert_eq!(error.sentence("findings", address), expected);
        }
        for error in [AskError::Version, AskError::Refused("unknown kind".to_owned())] {
            let expected = format!("no findings at 127.0.0.1:9: {error}");
            assert_eq!(error.sentence("findings", address), expected);
        }
        assert!(AskError::Version.remedy(address).contains("upgrade"));
    }

    #[test]
    fn an_answer_is_what_was_asked_for_or_a_sentence() {
        let body = serde_json::to_string(&Flows::default()).unwrap();
        let answer = format!("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{body}");
        assert_eq!(content::<Flows>(answer.as_bytes()).unwrap(), Flows::default());
        let refused =
            content::<Flows>(b"HTTP/1.0 404 Not Found\r\n\r\nunknown pipeline `x`; available: metrics\n")
                .unwrap_err();
        assert!(matches!(&refused, AskError::Refused(_)), "{refused:?}");
        assert_eq!(refused.to_string(), "unknown pipeline `x`; available: metrics");
        let hostile = content::<Flows>(b"HTTP/1.0 500 x\r\n\r\n\x1b]0;PWNED\x07\n").unwrap_err();
        assert_eq!(hostile.to_string(), "500: \\u{1b}]0;PWNED\\u{7}");
        for strange in [
            &b""[..],
            b"220 smtp ready\r\n",
            b"\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n<html>",
        ] {
            assert!(
                content::<Flows>(strange)
                    .unwrap_err()
                    .to_string()
                    .contains("not a flowtap admin listener"),
                "{strange:?}"
            );
        }
        assert!(
            content::<Flows>(b"HTTP/1.0 404 Not Found\r\n\r\n")
                .unwrap_err()
                .to_string()
                .contains("version")
        );
    }
}
