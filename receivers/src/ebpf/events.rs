//! Mode `events` at work.
//!
//! Two threads: one reads the rings, as fast as it can, into a bounded channel; this receiver's own
//! takes events from the channel into the pipelines. Events that do not fit are counted at each
//! hop: in the rings by the kernel side, at the channel here. Counts of both hops travel with the
//! batches and become the families `bpf_event_recv` and `bpf_event_chan_drop`.
//!
//! Ticks go through the same channel, after the events that came before them, and are never
//! dropped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use flowtap_ebpf::{Event, Losses, ProgramMisses, Ring, RingWatch};
use flowtap_pipeline::Ticker;
use flowtap_pipeline::{EventCount, EventHop, EventType, FlowBatch, StageError, Timestamp};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::convert;
use super::event_programs::{EventPrograms, Origin};
use super::known::Known;
use super::losses::{ChannelLosses, LossTelemetry};
use super::programs::{Left, scan_listeners};
use super::sockets::{adopt, broken};
use crate::census;
use crate::containers;
use crate::coverage::MeteredSink;
use crate::listen_scan;

/// Events per message of the channel.
const BATCH_EVENTS: usize = 1024;

/// A message in the channel.
#[expect(
    clippy::large_enum_variant,
    reason = "most messages are batches, and a box for each would be an allocation more"
)]
enum Message {
    Batch(FlowBatch),
    /// Everything up to then has gone before; with all that was lost up to now.
    Tick(Timestamp, Box<Lost>),
}

/// Running totals of losses: the kernel side's, unless they can't be read, and those at the channel.
struct Lost {
    kernel: Option<Losses>,
    misses: Vec<ProgramMisses>,
    channel: ChannelLosses,
    /// Connections whose addresses on the wire found no room.
    translations: u64,
}

/// Runs until `stop` is cancelled; then passes on the remaining events of the rings.
pub(super) async fn run(
    config: &Config,
    losses: &mut LossTelemetry,
    mut left: Left<EventPrograms>,
    mut output: MeteredSink<'_>,
    stop: CancellationToken,
) -> Result<Left<EventPrograms>, StageError> {
    // A message holds at least one event, so this many messages are never short of room.
    let (sender, receiver) = channel(config.channel_capacity.max(1));
    let queued = Arc::new(AtomicUsize::new(0));
    let census_wanted = Arc::new(AtomicBool::new(output.wants_census()));
    let reader = Reader {
        batch: std::mem::take(&mut left.found),
        left,
        sender,
        queued: Arc::clone(&queued),
        capacity: config.channel_capacity,
        counts: Counts::default(),
        dropped_changes: 0,
        census_wanted: Arc::clone(&census_wanted),
    };
    let (interval, rescan, proc_root) = (
        config.interval,
        config.scan_listen_interval,
        config.proc_root.clone(),
    );
    let reading = thread::Builder::new()
        .name("recv-ebpf-ring".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(reader.run(Ticker::new(interval), Ticker::new(rescan), proc_root, stop))
        })
        .map_err(broken)?;
    consume(receiver, &queued, &census_wanted, losses, &mut output).await;
    match reading.join() {
        Ok(ended) => ended.map_err(broken),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Takes messages into the pipelines until the reader has ended.
async fn consume(
    mut receiver: Receiver<Message>,
    queued: &AtomicUsize,
    census_wanted: &AtomicBool,
    losses: &mut LossTelemetry,
    output: &mut MeteredSink<'_>,
) {
    while let Some(message) = receiver.recv().await {
        match message {
            Message::Batch(mut batch) => {
                queued.fetch_sub(batch.tcp.len(), Ordering::AcqRel);
                output.accept(&mut batch);
            }
            Message::Tick(at, lost) => {
                let refused = lost.kernel.as_ref().and_then(|kernel| losses.update(kernel));
                losses.update_misses(&lost.misses);
                let dropped = losses.update_channel(&lost.channel);
                let reasons: Vec<_> = [refused, dropped].into_iter().flatten().collect();
                if !reasons.is_empty() {
                    output.records_refused(&reasons.join("; "));
                }
                losses.update_translations(lost.translations);
                output.watermark(at);
                // By the reader's next tick. Asked here: it must not wait for a pipeline.
                census_wanted.store(output.wants_census(), Ordering::Release);
            }
        }
    }
}

const fn event_type(ring: Ring) -> EventType {
    match ring {
        Ring::Segments => EventType::TcpFlow,
        Ring::Connections => EventType::TcpConn,
    }
}

/// Events seen at this hop since the last batch, by type.
#[derive(Default)]
struct Counts {
    received: [u64; 2],
    dropped: [u64; 2],
}

impl Counts {
    /// Takes the counts that are not zero, for a batch, and resets them.
    fn take(&mut self) -> Vec<EventCount> {
        let hops = [
            (EventHop::Received, self.received),
            (EventHop::Dropped, self.dropped),
        ];
        *self = Self::default();
        let types = [EventType::TcpFlow, EventType::TcpConn];
        let all = hops.into_iter().flat_map(|(hop, counts)| {
            types
                .into_iter()
                .zip(counts)
                .map(move |(event_type, count)| EventCount {
                    hop,
                    event_type,
                    count,
                })
        });
        all.filter(|event| event.count > 0).collect()
    }
}

/// The ring side.
struct Reader {
    left: Left<EventPrograms>,
    sender: Sender<Message>,
    queued: Arc<AtomicUsize>,
    capacity: usize,
    batch: FlowBatch,
    counts: Counts,
    /// Records of connections that opened or closed, dropped at the channel.
    dropped_changes: u64,
    /// Whether a pipeline asks for a census.
    census_wanted: Arc<AtomicBool>,
}

impl Reader {
    async fn run(
        mut self,
        mut ticks: Ticker,
        mut rescans: Ticker,
        proc_root: std::path::PathBuf,
        stop: CancellationToken,
    ) -> io::Result<Left<EventPrograms>> {
        let [segments, connections]: [RingWatch; 2] = self.left.programs.watch()?;
        let cgroups = self.left.known.containers.events()?;
        self.rescan_listeners(&proc_root);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    let now = Timestamp::now();
                    self.drain()?;
                    self.send_rest().await;
                    self.tick(now).await;
                    return Ok(self.left);
                }
                tick = ticks.tick() => {
                    self.drain()?;
                    if self.is_census_due() {
                        self.census()?;
                    }
                    self.tick(tick).await;
                }
                filled = segments.filled() => { filled?; self.drain()?; }
                filled = connections.filled() => { filled?; self.drain()?; }
                filled = containers::filled(cgroups.as_ref()) => {
                    filled?;
                    self.left.known.containers.catch_up();
                }
                _ = rescans.tick() => {
                    self.sweep();
                    self.adopt();
                    self.rescan_listeners(&proc_root);
                }
            }
        }
    }

    /// Segments before the connections that they are of: a record after its connection's close would be decided about anew.
    fn drain(&mut self) -> io::Result<()> {
        let (programs, mut lane) = self.lane();
        programs.drain(|event, ring| {
            lane.take(event, event_type(ring));
        })?;
        lane.send();
        Ok(())
    }

    fn lane(&mut self) -> (&mut EventPrograms, Lane<'_>) {
        let Self {
            left:
                Left {
                    programs,
                    known,
                    lost,
                    found: _,
                    census: _,
                    listeners: _,
                },
            sender,
            queued,
            capacity,
            batch,
            counts,
            dropped_changes,
            ..
        } = self;
        let lane = Lane {
            sender,
            queued,
            capacity: *capacity,
            batch,
            known,
            counts,
            lost,
            dropped_changes,
        };
        (programs, lane)
    }

    fn is_census_due(&mut self) -> bool {
        let programs = &self.left.programs;
        let lost = match (programs.losses(), programs.program_misses()) {
            (Ok(losses), Ok(misses)) => {
                // A change is missed only where every program was; what a program at segments misses comes with the next.
                let at_changes = misses.iter().filter(|program| program.program.contains("state"));
                let changes = at_changes.map(|program| program.misses).min();
                losses.flows
                    + losses.openings
                    + losses.untracked
                    + losses.missed_closes
                    + changes.unwrap_or(0)
                    + self.dropped_changes
            }
            // Logged when the losses are read.
            _ => self.left.census.lost(),
        };
        let wanted = self.census_wanted.swap(false, Ordering::AcqRel);
        self.left.census.is_due(wanted, lost)
    }

    /// Reports every connection that is open. Fails, and is due again, if the channel has no room for that.
    fn census(&mut self) -> io::Result<()> {
        if self.batch.census.ends {
            // The one before still waits for the channel.
            self.left.census.failed();
            return Ok(());
        }
        census::begin(&mut self.batch);
        let (programs, mut lane) = self.lane();
        lane.known.translations.begin_census();
        let mut has_room = true;
        let shown = programs.census(|event, origin| match origin {
            Origin::Event(ring) => has_room &= lane.take(event, event_type(ring)),
            Origin::Census => has_room = has_room && lane.show(event),
        });
        if let Err(error) = &shown
            && error.kind() == io::ErrorKind::InvalidData
        {
            return shown;
        }
        if let Err(error) = &shown {
            tracing::warn!(%error, "the open connections can't all be read; the next census recovers it; \
                hint: report this if it comes again");
        }
        if has_room && shown.is_ok() {
            census::end(lane.batch);
            lane.known.translations.end_census();
            lane.send();
        } else {
            self.left.census.failed();
        }
        Ok(())
    }

    /// Messages that found no room in the channel wait for it.
    async fn send_rest(&mut self) {
        let (_, mut lane) = self.lane();
        lane.send();
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.queued.fetch_add(batch.tcp.len(), Ordering::AcqRel);
            // An error means that the consumer has panicked, which ends the run by itself.
            let _ = self.sender.send(Message::Batch(batch)).await;
        }
    }

    async fn tick(&mut self, at: Timestamp) {
        let left = &mut self.left;
        scan_listeners(
            false,
            &mut left.listeners,
            &mut self.batch,
            &mut left.known.containers,
        );
        self.lane().1.send();
        let kernel = self.left.programs.losses();
        if let Err(error) = &kernel {
            tracing::warn!(%error, "the kernel side's counters can't be read; \
                hint: restart flowtap if it comes again");
        }
        let misses = self.left.programs.program_misses();
        if let Err(error) = &misses {
            tracing::warn!(%error, "the programs' counters can't be read; \
                hint: restart flowtap if it comes again");
        }
        let lost = Lost {
            kernel: kernel.ok(),
            misses: misses.unwrap_or_default(),
            channel: self.left.lost,
            translations: self.left.known.translations.refused(),
        };
        // Waits for room. An error means that the consumer has panicked, which ends the run by itself.
        let _ = self.sender.send(Message::Tick(at, Box::new(lost))).await;
    }

    /// Takes out connections whose close no program has seen: on a kernel that hides a process from tracing nothing else finds them.
    /// They are counted as lost, and a census follows.
    fn sweep(&mut self) {
        if let EventPrograms::Shared(sockets) = &mut self.left.programs
            && let Err(error) = sockets.sweep()
        {
            tracing::warn!(%error, "connections whose close was missed can't be looked for; the next rescan does; \
                hint: report this if it comes again");
        }
    }

    /// Finds the processes of connections that were accepted and of listening sockets, and listening sockets of other namespaces.
    fn adopt(&mut self) {
        let Left { programs, known, .. } = &mut self.left;
        match programs {
            EventPrograms::Shared(sockets) => adopt(sockets, &mut self.batch, known),
            EventPrograms::Own(events) => find_listeners(events),
        }
    }

    fn rescan_listeners(&mut self, proc_root: &std::path::Path) {
        match listen_scan::scan(proc_root) {
            Ok(change) => self.batch.listeners.push(change),
            Err(error) => tracing::warn!(%error, "listening ports could not be read again; \
                hint: check receivers.ebpf.proc_root"),
        }
    }
}

/// Finds the processes of listening sockets that were not seen to begin.
pub(super) fn find_listeners(programs: &mut flowtap_ebpf::Events) {
    if let Err(error) = programs.find_listeners() {
        tracing::warn!(
            %error,
            "processes of sockets that listened before flowtap started are not known: connections that they accept have none \
             until a process accepts or closes them; \
                hint: start flowtap before the servers, or use a kernel with iterators over files (5.8)"
        );
    }
}

/// The way from a ring into the channel.
struct Lane<'a> {
    sender: &'a Sender<Message>,
    queued: &'a AtomicUsize,
    capacity: usize,
    batch: &'a mut FlowBatch,
    known: &'a mut Known,
    counts: &'a mut Counts,
    lost: &'a mut ChannelLosses,
    dropped_changes: &'a mut u64,
}

impl Lane<'_> {
    /// Takes an event; returns whether there was room for it.
    fn take(&mut self, event: Event, event_type: EventType) -> bool {
        let lane = event_type as usize;
        self.counts.received[lane] += 1;
        // Listeners are few and always fit; a record that doesn't is dropped here, and counted with its bytes.
        if let Event::Flow(flow) = &event
            && !self.has_room()
        {
            self.counts.dropped[lane] += 1;
            self.lost.add(flow.sent, flow.received);
            *self.dropped_changes += u64::from(event_type == EventType::TcpConn);
            return false;
        }
        self.push(event);
        true
    }

    /// Takes a record that a census has found; whether there was room for it.
    fn show(&mut self, event: Event) -> bool {
        let has_room = self.has_room();
        if has_room {
            self.push(event);
        }
        has_room
    }

    fn has_room(&self) -> bool {
        self.queued.load(Ordering::Acquire) + self.batch.tcp.len() < self.capacity
    }

    fn push(&mut self, event: Event) {
        convert::push(self.batch, self.known, event);
        if self.batch.tcp.len() >= BATCH_EVENTS {
            self.send();
        }
    }

    fn send(&mut self) {
        self.batch.counts.extend(self.counts.take());
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(self.batch);
        let records = batch.tcp.len();
        self.queued.fetch_add(records, Ordering::AcqRel);
        // A batch that finds no room (of listeners alone: records are bounded above) or no consumer waits here.
        if let Err(TrySendError::Full(Message::Batch(batch)) | TrySendError::Closed(Message::Batch(batch))) =
            self.sender.try_send(Message::Batch(batch))
        {
            self.queued.fetch_sub(records, Ordering::AcqRel);
            *self.batch = batch;
        }
    }
}
