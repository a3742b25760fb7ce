//! A transport session (RFC 7011, section 10): its templates come first, and records are numbered from 0.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowtap_pipeline::{Exported, Timestamp};
use tokio::time::Instant;
use tower::BoxError;

use super::elements::{HEADER, Totals, push_domain, template_messages};
use super::link::{Link, Target, is_refusal};
use super::message;
use super::telemetry::Telemetry;
use crate::push::{self, Request};

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

    /// Ends the session.
    pub(super) async fn close(&self) {
        let session = self.0.state().session.take();
        if let Some(session) = session {
            session.link.close().await;
        }
    }
}

impl push::Client for Client {
    async fn send(&self, request: Request) -> Result<Exported, BoxError> {
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
        state.session = Some(session);
        Ok(Exported {
            sent: request.items,
            failed: 0,
        })
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
        self.send(&mut session, &mut bytes, records).await?;
        Ok(session)
    }

    async fn open(&self) -> Result<Session, BoxError> {
        let mut session = Session {
            link: self.target.open().await?,
            sequence: 0,
            refreshed: Instant::now(),
        };
        self.send_templates(&mut session).await?;
        session.link.accepts().await?;
        self.send_domain(&mut session).await?;
        Ok(session)
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
            self.send(session, &mut bytes, 0).await?;
        }
        Ok(())
    }

    async fn send_domain(&self, session: &mut Session) -> Result<(), BoxError> {
        let mut bytes = vec![0; HEADER];
        let totals = self.state().totals;
        push_domain(self.domain.id, &self.domain.name, totals, &mut bytes);
        self.send(session, &mut bytes, 1).await
    }

    /// Sends a message with `records`, after its header is filled in.
    async fn send(&self, session: &mut Session, bytes: &mut [u8], records: u32) -> Result<(), BoxError> {
        let seconds = Timestamp::now().as_nanos() / 1_000_000_000;
        // The header has the time in 32 bits, which are enough until 2106.
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        message::finish(bytes, seconds, session.sequence, self.domain.id);
        session.link.send(bytes).await?;
        session.sequence = session.sequence.wrapping_add(records);
        let mut state = self.state();
        state.totals.messages += 1;
        state.totals.octets += bytes.len() as u64;
        Ok(())
    }
}
