//! A transport session (RFC 7011, section 10): its templates come first, and records are numbered from 0.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowtap_pipeline::{Exported, Timestamp};
use tokio::time::{Instant, sleep, timeout};
use tower::BoxError;

use super::acks::Acks;
use super::elements::{HEADER, Totals, push_domain, template_messages};
use super::link::{CLOSE_WAIT, Link, Target, is_refusal};
use super::message;
use super::telemetry::Telemetry;
use crate::push::{self, Request};

/// When flowtap stops, time for writing once more what was not acknowledged.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// When flowtap stops, pause before a further connection.
const LAST_PAUSE: Duration = Duration::from_millis(200);

/// The observation domain and how it is reported.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub(super) id: u32,
    /// The node's name.
    pub(super) name: String,
    pub(super) biflow: bool,
    /// Interval of templates over UDP, and of the domain's record.
    pub(super) refresh: Duration,
}

/// Sends messages in sessions. Cloning it shares the session.
#[derive(Clone)]
pub(super) struct Client(Arc<Inner>);

struct Inner {
    target: Target,
    domain: Domain,
    telemetry: Telemetry,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Not here while a message is sent. An attempt that fails or is given up drops it, which ends the session.
    session: Option<Session>,
    totals: Totals,
    /// Of the newest stream.
    acks: Option<Acks>,
    /// Messages with flows that are not acknowledged, in their order.
    kept: VecDeque<Kept>,
    /// Log records in them.
    unacknowledged: Arc<AtomicU64>,
}

/// A message that was written, and not acknowledged yet.
#[derive(Clone)]
struct Kept {
    request: Request,
    /// The mark at which it is acknowledged; `None` if it has to be written again.
    mark: Option<u64>,
}

impl State {
    /// Forgets messages that are acknowledged.
    fn forget_acknowledged(&mut self) {
        let Some(acks) = &mut self.acks else {
            return;
        };
        if self.kept.is_empty() {
            return;
        }
        let acknowledged = acks.mark();
        let is_acknowledged = |kept: &Kept| kept.mark.is_some_and(|mark| mark <= acknowledged);
        while self.kept.front().is_some_and(is_acknowledged) {
            let items = self.kept.pop_front().map_or(0, |kept| kept.request.items);
            self.unacknowledged.fetch_sub(items, Ordering::Relaxed);
        }
    }

    fn keep(&mut self, request: Request, mark: Option<u64>) {
        self.unacknowledged.fetch_add(request.items, Ordering::Relaxed);
        self.kept.push_back(Kept { request, mark });
    }
}

/// An open session.
struct Session {
    link: Link,
    /// Records in the messages so far.
    sequence: u32,
    /// When templates, or the domain's record, were sent last.
    refreshed: Instant,
}

impl Client {
    pub(super) fn new(target: Target, domain: Domain, telemetry: Telemetry) -> Self {
        Self(Arc::new(Inner {
            target,
            domain,
            telemetry,
            state: Mutex::default(),
        }))
    }

    /// Counts log records that were given up, for the domain's record.
    pub(super) fn not_sent(&self, records: u64) {
        self.0.state().totals.not_sent += records;
    }

    /// Log records that were sent and are not acknowledged.
    pub(super) fn unacknowledged(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.state().unacknowledged)
    }

    /// Ends the session. Messages that are not acknowledged are written again, on a new connection, until they are: the run has its own
    /// deadline. Those that are not by then are counted.
    pub(super) async fn close(&self) {
        let unsettled = Unsettled(&self.0);
        let mut session = self.0.state().session.take();
        self.0.settle().await;
        while !self.0.state().kept.is_empty() {
            // Also before the first: a collector that has just begun to listen again takes them then.
            sleep(LAST_PAUSE).await;
            session = match timeout(LAST_WAIT, self.0.open()).await {
                Ok(Ok(session)) => Some(session),
                Ok(Err(_)) | Err(_) => None,
            };
            self.0.settle().await;
        }
        drop(unsettled);
        if let Some(session) = session {
            session.link.close().await;
        }
    }
}

/// Counts what is not acknowledged when the session has ended, also where the deadline cuts its end.
struct Unsettled<'a>(&'a Inner);

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        let records = self.0.state().unacknowledged.load(Ordering::Relaxed);
        if records > 0 {
            self.0.telemetry.unacknowledged(records);
            tracing::warn!(
                records,
                "log records that were sent last were not acknowledged by the collector's host, and may be lost; \
                hint: look for the reason in the collector's log; raise service.shutdown_timeout if it is slow"
            );
        }
    }
}

impl push::Client for Client {
    async fn send(&self, request: Request) -> Result<Exported, BoxError> {
        let sent = request.items;
        let session = self.0.state().session.take();
        let outcome = self.0.deliver(session, &request).await;
        if let Err(error) = &outcome
            && is_refusal(error)
        {
            self.0.telemetry.refused();
        }
        let session = outcome?;
        let mut state = self.0.state();
        state.totals.flows += u64::from(message::records(&request.body));
        let mark = state.acks.as_mut().map(|acks| acks.wrote(request.body.len()));
        if mark.is_some() {
            state.forget_acknowledged();
            state.keep(request, mark);
        }
        state.session = Some(session);
        Ok(Exported { sent, failed: 0 })
    }

    fn reconnect(&self) {
        // The attempt that was given up had taken the session out.
        self.0.state().session = None;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every statement under the lock leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `request` in `session`, or in a new one, and returns the session.
    async fn deliver(&self, session: Option<Session>, request: &Request) -> Result<Session, BoxError> {
        let mut session = match session {
            Some(session) => self.refreshed(session).await?,
            None => self.open().await?,
        };
        session.link.check().await?;
        let mut bytes = request.body.to_vec();
        let records = message::records(&bytes);
        self.send(&mut session, &mut bytes, records, true).await?;
        Ok(session)
    }

    async fn open(&self) -> Result<Session, BoxError> {
        // The connection before has failed, or it is given up: it must not deliver what is written again.
        let before = {
            let mut state = self.state();
            state.forget_acknowledged();
            for kept in &mut state.kept {
                kept.mark = None;
            }
            state.acks.take()
        };
        if let Some(acks) = before {
            acks.reset();
        }
        let mut refusal = None;
        for link in self.target.open().await? {
            match self.begin(link).await {
                // Another address of the name may have a listener.
                Err(error) if is_refusal(&error) => refusal = Some(error),
                outcome => return outcome,
            }
        }
        Err(refusal.unwrap_or_else(|| "the name has no address".into()))
    }

    /// A session over `link`, which begins with what was written to the one before and not acknowledged.
    async fn begin(&self, mut link: Link) -> Result<Session, BoxError> {
        let acks = link.acks().await;
        self.state().acks = acks;
        let mut session = Session {
            link,
            sequence: 0,
            refreshed: Instant::now(),
        };
        self.send_templates(&mut session).await?;
        session.link.accepts().await?;
        self.send_domain(&mut session).await?;
        let kept: Vec<_> = self
            .state()
            .kept
            .iter()
            .map(|kept| kept.request.clone())
            .collect();
        for (index, request) in kept.into_iter().enumerate() {
            let mut bytes = request.body.to_vec();
            let records = message::records(&bytes);
            self.send(&mut session, &mut bytes, records, true).await?;
            let mut state = self.state();
            let mark = state.acks.as_mut().map(|acks| acks.wrote(bytes.len()));
            if let Some(kept) = state.kept.get_mut(index) {
                kept.mark = mark;
            }
        }
        Ok(session)
    }

    /// Waits until everything is acknowledged, for as long as a part of it is from moment to moment, and forgets what is.
    async fn settle(&self) {
        loop {
            let acks = self.state().acks.take();
            let Some(mut acks) = acks else {
                return;
            };
            let before = acks.mark();
            let is_settled = acks.settle(CLOSE_WAIT).await;
            let is_moving = acks.mark() > before;
            let mut state = self.state();
            state.acks = Some(acks);
            state.forget_acknowledged();
            if is_settled || !is_moving {
                return;
            }
        }
    }

    /// `session` after what is due in it.
    async fn refreshed(&self, mut session: Session) -> Result<Session, BoxError> {
        if session.refreshed.elapsed() < self.domain.refresh {
            return Ok(session);
        }
        session.refreshed = Instant::now();
        // Over a connection templates hold until it ends (RFC 7011, section 8.2).
        if let Some(peer) = session.link.peer() {
            if self.target.has_left(peer).await {
                return self.open().await;
            }
            self.send_templates(&mut session).await?;
        }
        self.send_domain(&mut session).await?;
        Ok(session)
    }

    async fn send_templates(&self, session: &mut Session) -> Result<(), BoxError> {
        for mut bytes in template_messages(self.domain.biflow) {
            self.send(session, &mut bytes, 0, false).await?;
        }
        Ok(())
    }

    async fn send_domain(&self, session: &mut Session) -> Result<(), BoxError> {
        let mut bytes = vec![0; HEADER];
        let totals = self.state().totals;
        push_domain(self.domain.id, &self.domain.name, totals, &mut bytes);
        self.send(session, &mut bytes, 1, false).await
    }

    /// Sends a message with `records`, after its header is filled in. One that `has_flows` is marked by the caller.
    async fn send(
        &self,
        session: &mut Session,
        bytes: &mut [u8],
        records: u32,
        has_flows: bool,
    ) -> Result<(), BoxError> {
        let seconds = Timestamp::now().as_nanos() / 1_000_000_000;
        // The header has the time in 32 bits, which are enough until 2106.
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        message::finish(bytes, seconds, session.sequence, self.domain.id);
        session.link.send(bytes).await?;
        if !has_flows && let Some(acks) = &mut self.state().acks {
            acks.wrote(bytes.len());
        }
        session.sequence = session.sequence.wrapping_add(records);
        let mut state = self.state();
        state.totals.messages += 1;
        state.totals.octets += bytes.len() as u64;
        Ok(())
    }
}
