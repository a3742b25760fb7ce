//! Where the flows come from: a daemon's `/flows`, or the tap of this process.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use flowtap_extensions::admin::findings::Answer as Findings;
use flowtap_extensions::live::tap::{Request, Tap};
use flowtap_extensions::live::{Flows, Sort};

use super::state::Event;
use crate::commands::ask::{AskError, get};

/// Flows that are asked for: more than a terminal shows, so that a filter finds what is not at the top.
const LIMIT: usize = 1000;

/// Findings that are asked for: as many as a high terminal shows.
const FINDINGS: usize = 60;

/// The order to ask for, and the time between two questions.
pub(super) type Order = (Sort, Duration);

/// Where to ask.
#[derive(Debug)]
pub(super) enum Source {
    /// A daemon, at its admin listener.
    Daemon(SocketAddr),
    /// This process.
    InProcess(Tap),
}

/// Changes what the feed asks for. The feed ends with it.
#[derive(Debug)]
pub(super) struct Orders {
    latest: Arc<Mutex<Order>>,
    wake_up: SyncSender<()>,
}

impl Orders {
    /// Asks for this from now on.
    pub(super) fn set(&self, order: Order) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = order;
        // Full: the feed is about to look anyway.
        let _ = self.wake_up.try_send(());
    }
}

/// Asks again and again on its own thread, and at once when the order or the interval changes. Ends when either channel does.
///
/// # Errors
/// The system gave no thread.
pub(super) fn spawn(
    source: Source,
    pipeline: Option<String>,
    order: Order,
    events: SyncSender<Event>,
) -> io::Result<Orders> {
    let (wake_up, woken) = sync_channel(1);
    let latest = Arc::new(Mutex::new(order));
    let orders = Orders {
        latest: Arc::clone(&latest),
        wake_up,
    };
    let feed = move || feed(&source, pipeline.as_deref(), &latest, &woken, &events);
    thread::Builder::new().name("top-feed".to_owned()).spawn(feed)?;
    Ok(orders)
}

fn feed(
    source: &Source,
    pipeline: Option<&str>,
    latest: &Mutex<Order>,
    woken: &Receiver<()>,
    events: &SyncSender<Event>,
) {
    loop {
        let (sort, interval) = *latest.lock().unwrap_or_else(PoisonError::into_inner);
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
        if woken.recv_timeout(interval) == Err(RecvTimeoutError::Disconnected) {
            return;
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
