//! The processor `watch`: what has changed, as findings that say why.
//!
//! In: records with role, class and owner. Out: the same, and findings in the batch. Its memory is bounded: a subject (a
//! workload, a container, a process), the other end (a workload, or a range of addresses), the port that is served. The rules:
//!
//! 1. For `learn` nothing is found, but what the lists say.
//! 2. A contact that is not known is a `first_contact`, if the subject opened it.
//! 3. At the end of each interval: many addresses or ports that a subject tried are `fan_out`; a contact whose connects fail, and
//!    used not to, is a `failure_surge`; one with far more bytes than in its history, or a subject that sends far more to external
//!    peers, is a `volume_surge`; an external contact with small traffic at regular pauses is a `beacon`.
//! 4. A finding about the same ends and of the same kind is not repeated for `repeat`.
//!
//! Its clock is the watermarks, so a recording gives the same findings. `docs/findings.md` explains each kind.

mod attempts;
mod config;
mod ends;
mod findings;
mod history;
mod interval;
mod memory;
mod state;

pub use config::Config;

use std::collections::HashMap;
use std::sync::Arc;

use flowtap_pipeline::findings::Registration;
use flowtap_pipeline::telemetry::ProcessorTelemetry;
use flowtap_pipeline::{
    BuildContext, BuildError, Events, Factory, FindingKind, FlowBatch, FlowKind, PeerClass, Processor,
    ProcessorConfig, Stability, TcpRecord, Timestamp,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Gauge;

use self::attempts::{Sent, Tried};
use self::ends::{ContactKey, Names, is_external, server_port};
use self::findings::{Draft, Outbox};

use self::memory::Memory;
use self::state::{Saved, Saver};

/// Subjects that are remembered.
const MAX_SUBJECTS: usize = 4096;

/// Intervals between two saves of the state.
const SAVE_EVERY: u32 = 5;

/// The processor type `watch`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "watch",
    "finds what has changed: first contacts, scans, failures, surges, beacons, peers on lists",
    Stability::Alpha,
);

/// The processor.
#[derive(Debug)]
pub struct Watch {
    config: Config,
    memory: Memory,
    names: Names,
    /// Contacts that did something in the open interval.
    active: Vec<ContactKey>,
    /// Ends that subjects tried to reach in the open interval.
    tried: HashMap<u32, Tried>,
    /// Bytes that subjects sent to external peers in the open interval, with the newest flow.
    sent: HashMap<u32, Sent>,
    outbox: Outbox,
    now: Timestamp,
    /// Whether its clock was set: it is part of a pipeline that runs.
    has_begun: bool,
    /// End of the open interval.
    closes: Timestamp,
    intervals: u32,
    saver: Option<Saver>,
    /// For clients that ask what is watched.
    registration: Registration,
    telemetry: Telemetry,
}

#[derive(Debug)]
struct Telemetry {
    contacts: Gauge<u64>,
    untracked: ProcessorTelemetry,
    processor: KeyValue,
}

/// Why a record is not watched.
const FULL: &str = "watch_full";

/// Why a finding is not reported.
const FINDINGS_FULL: &str = "findings_full";

impl Watch {
    /// A watch that knows what the state file holds.
    ///
    /// # Errors
    /// A state file that can't be read, in strict mode.
    pub fn new(config: &Config, context: &BuildContext) -> Result<Self, BuildError> {
        let (saved, saver) = restore(config, context)?;
        let registration = context.findings.register(context.id.as_str(), &context.pipeline);
        Ok(Self {
            config: config.clone(),
            memory: saved.memory,
            names: Names::default(),
            active: Vec::new(),
            tried: HashMap::new(),
            sent: HashMap::new(),
            outbox: Outbox::new(Arc::clone(&context.findings), config.repeat, saved.said),
            now: Timestamp::default(),
            has_begun: false,
            closes: Timestamp::default(),
            intervals: 0,
            saver,
            registration,
            telemetry: Telemetry {
                contacts: context
                    .meter
                    .u64_gauge("processor_watch_contacts")
                    .with_description("Contacts that the processor `watch` remembers.")
                    .with_unit("{contact}")
                    .build(),
                untracked: ProcessorTelemetry::new(
                    &context.meter,
                    &context.id,
                    &context.pipeline,
                    &[FULL, FINDINGS_FULL],
                ),
                processor: KeyValue::new("processor", context.id.to_string()),
            },
        })
    }

    fn is_learning(&self) -> bool {
        let since = Timestamp::from_nanos(self.memory.since);
        self.memory.since == 0 || self.now.since(since) < self.config.learn
    }

    fn seconds(&self) -> u32 {
        u32::try_from(self.now.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX)
    }

    fn observe(&mut self, record: &TcpRecord) {
        let flow = &record.flow;
        let serves = flow.kind == Some(FlowKind::Ingress);
        let is = |event| record.events.contains(event);
        let tries = is(Events::OPENED) || is(Events::FAILED);
        let moved = |bytes: i64| bytes.max(0).unsigned_abs();
        let bytes = moved(record.sent_bytes) + moved(record.received_bytes);
        if !tries && bytes == 0 {
            return;
        }
        let memory = &mut self.memory;
        let subject = self.names.subject(flow, |name| memory.number(name, MAX_SUBJECTS));
        let Some(subject) = subject else {
            self.telemetry.untracked.dropped(1, bytes, FULL);
            return;
        };
        let now = self.seconds();
        if let Some(subject) = self.memory.subject_mut(subject) {
            subject.last = now;
        }
        let object = self.names.object(
            flow,
            self.config.first_contact.ipv4_prefix,
            self.config.first_contact.ipv6_prefix,
        );
        let key = ContactKey {
            subject,
            object,
            port: server_port(flow),
            serves,
        };
        self.judge_lists(&key, record);
        if !serves {
            if tries {
                self.tried.entry(subject).or_default().push(flow);
            }
            if is_external(flow.class) {
                self.sent
                    .entry(subject)
                    .or_default()
                    .push(flow, moved(record.sent_bytes));
            }
        }
        let is_new = !self.memory.contacts.contains_key(&key);
        if is_new {
            if self.memory.contacts.len() >= self.config.max_contacts.get() {
                self.telemetry.untracked.dropped(1, bytes, FULL);
                return;
            }
            if self.config.first_contact.enabled && !serves && !self.is_learning() {
                let draft = Draft::first_contact(self.memory.name(subject), &key, record);
                self.outbox.put(&key, draft, self.now);
            }
        }
        let contact = self.memory.contacts.entry(key.clone()).or_default();
        contact.last = now;
        if contact.newest.is_none() {
            contact.newest = Some(Box::new(flow.clone()));
            self.active.push(key);
        }
        contact.now.bytes += bytes;
        contact.now.opened += u32::from(is(Events::OPENED));
        contact.now.failed += u32::from(is(Events::FAILED));
        contact.rhythm.push(now, bytes);
    }

    fn judge_lists(&mut self, key: &ContactKey, record: &TcpRecord) {
        let kind = match record.flow.class {
            Some(PeerClass::AbnormalFlowBlackList) if self.config.lists.black_list => FindingKind::BlackList,
            Some(PeerClass::ExternalHosts) if self.config.lists.not_on_white_list => {
                FindingKind::NotOnWhiteList
            }
            _ => return,
        };
        let draft = Draft::on_list(kind, self.memory.name(key.subject), key, record);
        self.outbox.put(key, draft, self.now);
    }

    fn save(&mut self) {
        self.intervals = self.intervals.wrapping_add(1);
        if let Some(saver) = &self.saver
            && self.intervals.is_multiple_of(SAVE_EVERY)
        {
            saver.save(&self.memory, self.outbox.said());
        }
    }
}

fn restore(config: &Config, context: &BuildContext) -> Result<(Saved, Option<Saver>), BuildError> {
    let Some(file) = &config.state_file else {
        return Ok((Saved::default(), None));
    };
    let failed = |error: &dyn std::error::Error| BuildError {
        id: context.id.clone(),
        message: format!(
            "state_file: {}: {error}\n  hint: name a regular file; remove a damaged one to learn anew, or correct its permissions",
            file.display()
        ),
    };
    let saved = match state::read(file) {
        Ok(saved) => saved.unwrap_or_default(),
        // Its next version would be renamed over a device or FIFO.
        Err(error) if context.strict || error.is_other_kind() => return Err(failed(&error)),
        Err(error) => {
            tracing::warn!(
                file = %file.display(),
                %error,
                "what was learned can't be read; the processor `watch` learns anew\n  \
                 hint: remove the file, or correct its permissions"
            );
            Saved::default()
        }
    };
    let saver = Saver::start(file.clone(), Arc::clone(&context.pipeline)).map_err(|error| failed(&error))?;
    Ok((saved, Some(saver)))
}

impl Processor for Watch {
    fn begin(&mut self, at: Timestamp) {
        self.has_begun = true;
        self.now = at;
        if self.memory.since == 0 {
            self.memory.since = at.as_nanos();
        }
        let since = Timestamp::from_nanos(self.memory.since);
        self.registration.learns_until(since.plus(self.config.learn));
        self.closes = at.plus(self.config.interval);
        self.outbox.begin(at);
    }

    fn process(&mut self, batch: &mut FlowBatch) {
        for record in &batch.tcp {
            self.observe(record);
        }
    }

    fn advance(&mut self, to: Timestamp, batch: &mut FlowBatch) {
        self.now = to;
        if to >= self.closes {
            self.close_interval();
            self.closes = to.plus(self.config.interval);
            self.save();
        }
        self.outbox.take(batch, to);
        let left_out = std::mem::take(&mut self.outbox.left_out);
        if left_out > 0 {
            self.telemetry.untracked.dropped(left_out, 0, FINDINGS_FULL);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Not one that never ran, as of `flowtap validate` or of a reload that was refused: it would replace what another has learned
        // since, or a file that it could not read.
        if let Some(saver) = self.saver.as_mut().filter(|_| self.has_begun) {
            saver.finish(&self.memory, self.outbox.said());
        }
    }
}

#[cfg(test)]
mod tests;
