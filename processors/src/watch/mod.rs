//! The processor `watch`: what has changed, as findings that say why.
//!
//! In: records with role, class and owner. Out: the same, and findings in the batch. Its memory is bounded: a subject (a
//! workload, a container, a process), the other end (a workload, or a range of addresses), the port that is served. The rules:
//!
//! 1. For `learn` nothing is found, but what the lists say.
//! 2. A contact that is not known is a `first_contact`, if the subject opened it; so is one with a country, where `geoip` names it.
//! 3. At the end of each interval: many addresses or ports that a subject tried are `fan_out`; a contact whose connects fail, and
//!    used not to, is a `failure_surge`; one with far more bytes than in its history, or a subject that sends far more to external
//!    peers, is a `volume_surge`; an external contact with small traffic at regular pauses is a `beacon`.
//! 4. A finding about the same ends and of the same kind is not repeated for `repeat`.
//!
//! Ephemeral ports are one port: a server whose port the kernel chose has another one after each start.
//!
//! Of UDP a flow's first record is an attempt, and no failures are judged. A subject that asks many name servers is a resolver, all of
//! whose servers are one contact.
//!
//! Its clock is the time between watermarks, so a recording gives the same findings. `docs/findings.md` explains each kind.

mod attempts;
mod bounds;
mod clock;
mod config;
mod counted;
mod cut;
mod ends;
mod factory;
mod findings;
mod history;
mod interval;
mod lock;
mod memory;
mod numbers;
mod paths;
mod seen;
mod state;

pub use self::config::Config;
pub use self::factory::FACTORY;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::findings::Registration;
use flowtap_pipeline::telemetry::ProcessorTelemetry;
use flowtap_pipeline::{
    BuildContext, BuildError, FindingKind, Flow, FlowBatch, NodeInfo, PeerClass, Processor, Subscription,
    Timestamp,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

use self::attempts::{Sent, Tried};
use self::clock::{Clock, Jump};
use self::cut::Part;
use self::ends::{ContactKey, Names, Object, is_external, server_port};
use self::findings::{Draft, MAX_WAITING, Outbox};
use self::lock::Lock;
use self::memory::{Country, Memory, country_code};
use self::seen::Seen;
use self::state::{Found, Saved, Saver, StateError};

/// Intervals between two saves of the state.
const SAVE_EVERY: u32 = 5;

/// The processor.
#[derive(Debug)]
pub struct Watch {
    config: Config,
    memory: Memory,
    /// Has the range of ephemeral ports.
    node: Subscription<NodeInfo>,
    names: Names,
    /// Contacts that did something in the open interval.
    active: Vec<ContactKey>,
    /// Ends that subjects tried to reach in the open interval.
    tried: HashMap<u32, Tried>,
    /// Bytes that subjects sent to external peers in the open interval.
    sent: HashMap<u32, Sent>,
    /// A connect that failed, of contacts with so many in the open interval that they may be a surge. As many as findings that wait.
    failing: HashMap<ContactKey, Flow>,
    outbox: Outbox,
    clock: Clock,
    /// Whether a jump of the system's clock was logged.
    has_logged_jump: bool,
    /// Whether its clock was set: it is part of a pipeline that runs.
    has_begun: bool,
    /// Beginning, middle and end of the open interval.
    opened: Timestamp,
    middle: Timestamp,
    closes: Timestamp,
    intervals: u32,
    /// Whether subjects found no room since some were last forgotten.
    is_short_of_subjects: bool,
    saver: Option<Saver>,
    /// For clients that ask what is watched.
    registration: Registration,
    telemetry: Telemetry,
}

#[derive(Debug)]
struct Telemetry {
    contacts: Gauge<u64>,
    jumps: Counter<u64>,
    left_out: Counter<u64>,
    uncounted: Counter<u64>,
    untracked: ProcessorTelemetry,
    /// Its id and its pipeline.
    labels: [KeyValue; 2],
}

impl Telemetry {
    fn count_left_out(&self, kind: FindingKind, count: u64) {
        let [processor, pipeline] = self.labels.clone();
        self.left_out.add(
            count,
            &[processor, pipeline, KeyValue::new("finding", kind.as_str())],
        );
    }
}

/// Why a record is not watched: there is no room for its contact.
const FULL: &str = "watch_full";

/// Why a record is watched as one of the subject `other`: there is no room for its own.
const SUBJECTS_FULL: &str = "watch_subjects_full";

/// Why a finding is not reported.
const FINDINGS_FULL: &str = "findings_full";

impl Watch {
    /// A watch that knows what the state file holds.
    ///
    /// # Errors
    /// A state file that can't be read, in strict mode.
    pub fn new(config: &Config, context: &BuildContext) -> Result<Self, BuildError> {
        let (mut saved, saver) = restore(config, context)?;
        let first = &config.first_contact;
        let changes = saved
            .memory
            .adapt(config.interval, first.ipv4_prefix, first.ipv6_prefix);
        if !changes.is_empty() {
            tracing::info!(
                processor = %context.id,
                changes = changes.join(", "),
                "what the processor `watch` has learned is of other settings; it is adapted, and amounts are learned anew"
            );
        }
        let registration = context.findings.register(context.id.as_str(), &context.pipeline);
        Ok(Self {
            config: config.clone(),
            memory: saved.memory,
            node: Subscription::new(&context.node),
            names: Names::default(),
            active: Vec::new(),
            tried: HashMap::new(),
            sent: HashMap::new(),
            failing: HashMap::new(),
            outbox: Outbox::new(Arc::clone(&context.findings), config.repeat, saved.said),
            clock: Clock::default(),
            has_logged_jump: false,
            has_begun: false,
            opened: Timestamp::default(),
            middle: Timestamp::default(),
            closes: Timestamp::default(),
            intervals: 0,
            is_short_of_subjects: false,
            saver,
            registration,
            telemetry: Telemetry {
                contacts: context
                    .meter
                    .u64_gauge("processor_watch_contacts")
                    .with_description("Contacts that the processor `watch` remembers.")
                    .with_unit("{contact}")
                    .build(),
                jumps: context
                    .meter
                    .u64_counter("processor_watch_clock_jumps")
                    .with_description("Jumps of the system's clock, and sleeps of the machine, that the processor `watch` did not count as time.")
                    .with_unit("{jump}")
                    .build(),
                left_out: context
                    .meter
                    .u64_counter("processor_watch_left_out_findings")
                    .with_description("Findings for which there was no room between two looks at sockets, by kind.")
                    .with_unit("{finding}")
                    .build(),
                uncounted: context
                    .meter
                    .u64_counter("processor_watch_uncounted_attempts")
                    .with_description("Attempts of a subject to addresses and ports beyond those that are counted in an interval.")
                    .with_unit("{attempt}")
                    .build(),
                untracked: ProcessorTelemetry::new(
                    &context.meter,
                    &context.id,
                    &context.pipeline,
                    &[FULL, SUBJECTS_FULL, FINDINGS_FULL],
                ),
                labels: [
                    KeyValue::new("processor", context.id.to_string()),
                    KeyValue::new("pipeline", context.pipeline.to_string()),
                ],
            },
        })
    }

    fn is_learning(&self) -> bool {
        let since = Timestamp::from_nanos(self.memory.since);
        self.memory.since == 0 || self.now().since(since) < self.config.learn
    }

    /// Time by its own clock.
    const fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn seconds(&self) -> u32 {
        memory::seconds(self.now())
    }

    fn observe(&mut self, seen: &Seen<'_>) {
        let flow = seen.flow;
        let bytes = seen.sent + seen.received;
        if !seen.tries() && bytes == 0 {
            return;
        }
        let Some(subject) = self.subject(flow, bytes) else {
            return;
        };
        let (now, is_late) = (self.seconds(), self.now() >= self.middle);
        let key = self.key(subject, seen);
        self.judge_lists(&key, seen);
        let (key, is_merged) = self.merged(key, flow);
        let is_attempt = !key.serves && seen.tries() && !seen.is_dns();
        if is_attempt && !self.tried.entry(subject).or_default().push(flow, is_late) {
            self.telemetry.uncounted.add(1, &self.telemetry.labels);
        }
        // Whichever side opened the connection: bytes leave by both.
        if is_external(flow.class) && seen.sent > 0 {
            self.sent
                .entry(subject)
                .or_default()
                .push(flow, seen.sent, is_late);
        }
        let is_new = !self.memory.contacts.contains_key(&key);
        if is_new && self.memory.contacts.len() >= self.config.max_contacts.get() {
            self.telemetry.untracked.dropped(1, bytes, FULL);
            return;
        }
        if !is_merged {
            self.judge_first(&key, seen, is_new && !self.memory.knows_wider(&key));
        }
        let contact = self.memory.contact(key.clone());
        contact.last = now;
        let part = Part {
            bytes,
            opened: seen.opened.into(),
            failed: seen.failed.into(),
        };
        contact.now.push(part, is_late);
        contact.rhythm.push(now, bytes, self.clock.pace.interval());
        let failed = contact.now.whole.failed;
        let before = contact.before.of(self.intervals).filter(|_| !is_late);
        let cut = failed + before.map_or(0, |before| before.late.failed);
        if seen.failed
            && [failed, cut]
                .map(|failed| failed as usize)
                .contains(&self.config.failure_surge.failures.get())
            && self.failing.len() < MAX_WAITING
        {
            self.failing.insert(key.clone(), flow.clone());
        }
        if contact.vote(flow, bytes) {
            self.active.push(key);
        }
    }

    /// The number of the subject of `flow`, which it is seen with; that of `other` if there is no room.
    fn subject(&mut self, flow: &Flow, bytes: u64) -> Option<u32> {
        let (memory, max) = (&mut self.memory, self.config.max_subjects.get());
        let own = self.names.subject(flow, |name| memory.number(name, max));
        let subject = if let Some(own) = own {
            own
        } else {
            self.is_short_of_subjects = true;
            self.telemetry.untracked.dropped(1, bytes, SUBJECTS_FULL);
            memory.other()?
        };
        let now = self.seconds();
        self.memory.subject_mut(subject)?.see(now);
        Some(subject)
    }

    /// The two ends of a record.
    fn key(&mut self, subject: u32, seen: &Seen<'_>) -> ContactKey {
        let first = &self.config.first_contact;
        let (port, ephemeral) = (server_port(seen.flow), self.node.last().ephemeral_ports);
        ContactKey {
            subject,
            object: self.names.object(seen.flow, first.ipv4_prefix, first.ipv6_prefix),
            port: if ephemeral.contains(port) { 0 } else { port },
            serves: seen.serves(),
            is_udp: seen.is_udp(),
        }
    }

    /// The contact that a record between these ends belongs to, and whether it is one of many ends. Further servers of a resolver are one;
    /// so are the clients of a UDP port, whose addresses anybody can forge: they would fill the memory of contacts.
    fn merged(&self, mut key: ContactKey, flow: &Flow) -> (ContactKey, bool) {
        let is_forgeable = key.is_udp && key.serves;
        let is_merged = is_forgeable || key.is_dns() && self.memory.asks_beyond_its_servers(&key);
        if is_merged {
            key.object = Object::everywhere(flow.remote.addr);
        }
        (key, is_merged)
    }

    /// First contacts: with another end, or with a country.
    fn judge_first(&mut self, key: &ContactKey, seen: &Seen<'_>, is_new: bool) {
        if key.serves {
            return;
        }
        let flow = seen.flow;
        let place = flow.peer_place.as_deref();
        let country = place.and_then(|place| Country::try_from(place.country.as_bytes()).ok());
        let is_new_country = country.is_some_and(|country| {
            self.memory
                .visit(key.subject, country, self.now(), self.config.learn)
        });
        if !self.config.first_contact.enabled || self.is_learning() {
            return;
        }
        let subject = self.memory.name(key.subject);
        let country = country.as_ref().map_or("", country_code);
        if is_new {
            let draft = Draft::first_contact(subject, key, seen, country, is_new_country);
            self.outbox.put(key, draft, self.now());
        } else if is_new_country {
            let draft = Draft::first_in_country(subject, seen, country);
            self.outbox.put_of_subject(key.subject, draft, self.now());
        }
    }

    fn judge_lists(&mut self, key: &ContactKey, seen: &Seen<'_>) {
        let kind = match seen.flow.class {
            Some(PeerClass::AbnormalFlowBlackList) if self.config.lists.black_list => FindingKind::BlackList,
            Some(PeerClass::ExternalHosts) if self.config.lists.not_on_white_list => {
                FindingKind::NotOnWhiteList
            }
            _ => return,
        };
        let draft = Draft::on_list(kind, self.memory.name(key.subject), key, seen);
        self.outbox.put(key, draft, self.now());
    }

    fn open_interval(&mut self) {
        self.opened = self.now();
        self.middle = self.opened.plus(self.config.interval / 2);
        self.closes = self.opened.plus(self.config.interval);
    }

    /// The end of learning, by the system's clock. One that was reached stays, whatever that clock shows later. If only an older state file
    /// knows of it, it is as long ago as by its own clock, which counts neither jumps nor all of a long stop: then it was earlier than is
    /// said.
    fn report_learning(&mut self) {
        let learned = self.now().since(Timestamp::from_nanos(self.memory.since));
        let now = self.clock.system();
        if self.is_learning() {
            self.memory.learned_until = 0;
            let left = self.config.learn.saturating_sub(learned);
            self.registration.learns_until(now.plus(left));
            return;
        }
        if self.memory.learned_until == 0 {
            let ago = learned.saturating_sub(self.config.learn);
            let until = now.since(Timestamp::default()).saturating_sub(ago);
            // 0 stands for never.
            self.memory.learned_until = Timestamp::default().plus(until).as_nanos().max(1);
        }
        let until = Timestamp::from_nanos(self.memory.learned_until);
        self.registration.has_learned_until(until);
    }

    fn report_contacts(&self) {
        let contacts = self.memory.contacts.len() as u64;
        self.telemetry.contacts.record(contacts, &self.telemetry.labels);
    }

    fn report_jump(&mut self, jump: Jump) {
        self.report_learning();
        self.telemetry.jumps.add(1, &self.telemetry.labels);
        if !std::mem::replace(&mut self.has_logged_jump, true) {
            tracing::info!(
                processor = %self.telemetry.labels[0].value,
                seconds = jump.seconds,
                "the system's clock was set, or the machine slept: the processor `watch` does not count that as time; further jumps are \
                 counted in flowtap_processor_watch_clock_jumps_total"
            );
        }
    }

    /// Counts the findings that found no room.
    fn report_left_out(&mut self) {
        for (kind, left_out) in self.outbox.take_left_out() {
            self.telemetry.untracked.dropped(left_out, 0, FINDINGS_FULL);
            self.telemetry.count_left_out(kind, left_out);
        }
    }

    fn save(&mut self) {
        self.intervals = self.intervals.wrapping_add(1);
        if let Some(saver) = &mut self.saver
            && self.intervals.is_multiple_of(SAVE_EVERY)
        {
            saver.save(&self.memory, self.outbox.said());
        }
    }
}

fn restore(config: &Config, context: &BuildContext) -> Result<(Saved, Option<Saver>), BuildError> {
    // A daemon's state is of another time than a recording, and must not be replaced by it.
    let Some(file) = config.state_file.as_ref().filter(|_| !context.is_replay) else {
        return Ok((Saved::default(), None));
    };
    let file = state::target(file);
    let failed = |error: &dyn std::error::Error| BuildError {
        id: context.id.clone(),
        is_temporary: false,
        message: format!(
            "state_file: {}: {error}\n  hint: name a regular file; remove a damaged one to learn anew, or correct its permissions",
            file.display()
        ),
    };
    let lock = Lock::take(&file).map_err(|error| BuildError {
        id: context.id.clone(),
        is_temporary: true,
        message: format!("state_file: {error}"),
    })?;
    let saved = match read(&file, config, context) {
        Ok(Found::Own(saved)) => *saved,
        Ok(Found::Others(others)) => {
            if !others.is_empty() {
                warn_of_others(&file, &others, context);
            }
            Saved::default()
        }
        // Its next version would be renamed over a device or FIFO.
        Err(error) if context.strict || error.is_other_kind() => return Err(failed(&error)),
        Err(error) => {
            warn_unread(&file, &error, context);
            Saved::default()
        }
    };
    let saver =
        Saver::start(file.clone(), Arc::clone(&context.pipeline), lock).map_err(|error| failed(&error))?;
    Ok((saved, Some(saver)))
}

/// Reads the state of this pipeline, or the one that the config names in its place while this one learns.
fn read(file: &Path, config: &Config, context: &BuildContext) -> Result<Found, StateError> {
    let own = state::read(file, &context.pipeline)?;
    let learned = match &own {
        Found::Own(saved) => saved.memory.learned(),
        Found::Others(_) => Duration::ZERO,
    };
    let Some(earlier) = config.state_of.as_ref().filter(|_| learned < config.learn) else {
        return Ok(own);
    };
    match state::read(file, earlier)? {
        Found::Own(saved) if saved.memory.learned() > learned => {
            tracing::info!(
                processor = context.id.as_str(),
                pipeline = &*context.pipeline,
                file = %file.display(),
                state_of = earlier,
                "the processor goes on with what was learned in the pipeline that `state_of` names"
            );
            Ok(Found::Own(saved))
        }
        _ => Ok(own),
    }
}

/// Logs that a processor learns anew beside the states of other pipelines: its own may be one of these, under an earlier name.
fn warn_of_others(file: &Path, others: &[String], context: &BuildContext) {
    tracing::warn!(
        processor = context.id.as_str(),
        pipeline = &*context.pipeline,
        file = %file.display(),
        states_of = others.join(", "),
        "the state file has no state of this pipeline, but of others: the processor learns anew\n  \
         hint: if the pipeline was renamed, or `watch` was moved to it from another one, set `state_of` of the processor to \
         the earlier name while it learns, or rename the pipeline back; if `watch` is new here, nothing is to be done"
    );
}

/// Logs that a processor begins without what was learned, and what becomes of the file.
fn warn_unread(file: &Path, error: &StateError, context: &BuildContext) {
    let (processor, pipeline) = (context.id.as_str(), &*context.pipeline);
    if error.is_content() {
        tracing::warn!(
            processor,
            pipeline,
            file = %file.display(),
            %error,
            "what was learned can't be read: the processor learns anew, and overwrites the file within {SAVE_EVERY} intervals\n  \
             hint: stop flowtap and put a good file in its place, or let it learn anew: this one is kept as {} then",
            state::corrupt(file).display()
        );
    } else {
        tracing::warn!(
            processor,
            pipeline,
            file = %file.display(),
            %error,
            "what was learned can't be read: the processor learns anew, and saves nothing while the file can't be read\n  \
             hint: correct the permissions of the file and its folder"
        );
    }
}

impl Processor for Watch {
    fn begin(&mut self, at: Timestamp) {
        self.has_begun = true;
        let now = self.memory.resume(at, self.config.learn, self.config.forget);
        self.clock = Clock::new(now, at);
        self.report_learning();
        self.open_interval();
        self.outbox.begin(now);
        // From the start, so that an increase of the counter is one.
        self.telemetry.jumps.add(0, &self.telemetry.labels);
        self.telemetry.uncounted.add(0, &self.telemetry.labels);
        for kind in FindingKind::ALL {
            self.telemetry.count_left_out(kind, 0);
        }
        self.report_contacts();
    }

    fn process(&mut self, batch: &mut FlowBatch) {
        self.node.refresh();
        for record in &batch.tcp {
            self.observe(&Seen::of_tcp(record));
        }
        for seen in batch.udp.iter().filter_map(Seen::of_udp) {
            self.observe(&seen);
        }
    }

    fn advance(&mut self, to: Timestamp, batch: &mut FlowBatch) {
        if let Some(jump) = self.clock.advance(to, self.config.interval) {
            self.report_jump(jump);
        }
        self.memory.tick(self.clock.now(), self.clock.system());
        if self.memory.learned_until == 0 && !self.is_learning() {
            self.report_learning();
        }
        if self.now() >= self.closes {
            self.close_interval();
            self.open_interval();
            self.save();
        }
        self.outbox.take(batch, to);
        self.report_left_out();
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
