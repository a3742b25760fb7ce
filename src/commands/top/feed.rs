//! Where the flows come from: a daemon's `/flows`, or the tap of this process.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use flowtap_extensions::admin::findings::Answer as Findings;
use flowtap_extensions::live::tap::{Request, Tap};
use flowtap_extensions::live::{Flows, Sort};

use super::state::Event;
use crate::commands::ask::{AskError, get};

/// Poll interval.
const INTERVAL: Duration = Duration::from_secs(1);

/// Flows that are asked for: more than a terminal shows, so that a filter finds what is not at the top.
const LIMIT: usize = 1000;

/// Findings that are asked for: as many as a high terminal shows.
const FINDINGS: usize = 60;

/// Where to ask.
#[derive(Debug)]
pub(super) enum Source {
    /// A daemon, at its admin listener.
    Daemon(SocketAddr),
    /// This process.
    InProcess(Tap),
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
        if let Source::Daemon(address) = source {
            // A daemon without verdicts, or an older one, still has flows to show.
            let findings = get::<Findings>(*address, &format!("/findings?limit={FINDINGS}"));
            if events
                .send(Event::Findings(findings.unwrap_or_default()))
                .is_err()
            {
                return;
            }
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
/// [`AskError`] with whose fault it is.
pub(super) fn ask(address: SocketAddr, pipeline: Option<&str>, sort: Sort) -> Result<Flows, AskError> {
    get(address, &path(pipeline, sort))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipelines_name_stands_in_the_path_whatever_it_is() {
        assert_eq!(
            path(Some("a b&c"), Sort::Rtt),
            "/flows?limit=1000&sort=rtt&pipeline=a%20b%26c"
        );
    }
}
