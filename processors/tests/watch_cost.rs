//! The cost of the processor `watch` with 100,000 peers: memory, CPU time, and a flood of further peers.
//!
//! One test, so that the memory of the process is the processor's. The bounds are those of `docs/findings.md`; those of CPU time hold with
//! optimisation. For the numbers of that page:
//! `WATCH_COST_INTERVALS=34 cargo test --release -p flowtap-processors --test watch_cost -- --nocapture`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "in helpers of tests")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use flowtap_pipeline::testing::{config, context};
use flowtap_pipeline::{
    Endpoint, Events, Flow, FlowBatch, FlowKind, PeerClass, Processor, ProcessorStage, TcpRecord, Timestamp,
};
use flowtap_processors::watch::FACTORY;

const PEERS: u32 = 100_000;

/// Bytes of a contact that has been active in few intervals, and in so many that its history is full.
const BYTES_PER_CONTACT: usize = 1_000;

/// CPU time of a record, and of an active contact at the end of an interval, in nanoseconds: some three times what is measured, as CPUs
/// differ.
const OF_RECORD: u64 = 3_000;
const OF_CONTACT: u64 = 6_000;

/// The same of a record beyond `max_contacts`.
const OF_FLOOD: u64 = 1_000;

/// Memory of 200,000 attempts in an interval, by however many processes.
const OF_ATTEMPTS: usize = 24 << 20;

fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Nanoseconds that this thread has had a CPU.
fn cpu() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

/// A record of the peer with this number, each in a /24 of its own, by one of so many processes.
fn record(peer: u32, processes: u32, events: Events) -> TcpRecord {
    let local = Endpoint::new(Ipv4Addr::new(10, 0, 0, 1).into(), 40_000);
    let addr = IpAddr::from(Ipv4Addr::from(0x2000_0001 + peer * 256));
    let mut comm = [0; 16];
    comm[..10].copy_from_slice(format!("crawler{:03}", peer % processes).as_bytes());
    let mut record = TcpRecord::new(Flow {
        comm,
        kind: Some(FlowKind::Egress),
        class: Some(PeerClass::ExternalHosts),
        ..Flow::new(local, Endpoint::new(addr, 443))
    });
    record.events = events;
    record.sent_bytes = 1_000 + i64::from(peer % 100);
    record
}

struct Measured {
    watch: Box<dyn Processor>,
    /// Since its start.
    seconds: u64,
    findings: usize,
}

impl Measured {
    fn new(text: &str) -> Self {
        let config = config(FACTORY, text).unwrap();
        let ProcessorStage::Transform(watch) = config.build(&context("watch")).unwrap() else {
            panic!("an aggregator");
        };
        let mut measured = Self {
            watch,
            seconds: 0,
            findings: 0,
        };
        measured
            .watch
            .begin(Timestamp::from_nanos(1_750_000_000 * 1_000_000_000));
        measured.end_interval();
        measured
    }

    /// Passes a record each of `peers`, in batches; returns the CPU time of a record.
    fn pass(&mut self, peers: std::ops::Range<u32>, processes: u32) -> u64 {
        let (mut spent, count) = (0, u64::from(peers.end - peers.start));
        let mut batch = FlowBatch::default();
        let mut next = peers.start;
        while next < peers.end {
            let end = (next + 1_000).min(peers.end);
            batch
                .tcp
                .extend((next..end).map(|peer| record(peer, processes, Events::OPENED)));
            let before = cpu();
            self.watch.process(&mut batch);
            spent += cpu() - before;
            batch.clear();
            next = end;
        }
        spent / count
    }

    /// Ends the interval; returns the CPU time that it took.
    fn end_interval(&mut self) -> u64 {
        self.advance(60)
    }

    /// Lets so many seconds pass; returns the CPU time that it took.
    fn advance(&mut self, seconds: u64) -> u64 {
        self.seconds += seconds;
        let mut batch = FlowBatch::default();
        let before = cpu();
        self.watch.advance(
            Timestamp::from_nanos((1_750_000_000 + self.seconds) * 1_000_000_000),
            &mut batch,
        );
        self.findings += batch.findings.len();
        cpu() - before
    }
}

#[test]
fn a_hundred_thousand_peers_take_no_more_than_the_docs_say_and_further_ones_nothing() {
    let mut measured = Measured::new("{learn: 0s, max_contacts: 100000}");
    let before = resident();
    // With optimisation until every history is full.
    let intervals = match std::env::var("WATCH_COST_INTERVALS") {
        Ok(text) => text.parse().unwrap(),
        Err(_) if cfg!(debug_assertions) => 2,
        Err(_) => 34,
    };
    let (mut of_record, mut of_contact) = (0, 0);
    for interval in 1..=intervals {
        of_record = measured.pass(0..PEERS, 1);
        of_contact = measured.end_interval() / u64::from(PEERS);
        if interval == 1 {
            // A scan as such, and no more first contacts than the bounds of findings, of all and of a subject.
            assert!((1..=1_011).contains(&measured.findings), "{}", measured.findings);
        }
    }
    let memory = (resident() - before) / PEERS as usize;
    println!(
        "{memory} bytes per contact, {of_record} ns per record, {of_contact} ns per contact and interval"
    );
    assert!(memory <= BYTES_PER_CONTACT, "{memory} bytes per contact");
    let is_optimised = !cfg!(debug_assertions);
    assert!(
        !is_optimised || of_record <= OF_RECORD,
        "{of_record} ns per record"
    );
    assert!(
        !is_optimised || of_contact <= OF_CONTACT,
        "{of_contact} ns per contact"
    );

    // Twice as many again find no room: nothing is remembered of them.
    let before = resident();
    let of_record = measured.pass(PEERS..3 * PEERS, 1);
    measured.end_interval();
    let grown = resident().saturating_sub(before);
    println!("a flood of 200,000 further peers: {grown} bytes, {of_record} ns per record");
    assert!(grown <= 16 << 20, "{grown} bytes");
    assert!(
        !is_optimised || of_record <= OF_FLOOD,
        "{of_record} ns per record of a flood"
    );
}

#[test]
fn attempts_of_many_processes_take_no_more_than_the_docs_say() {
    const CHILD: &str = "WATCH_COST_CHILD";
    if std::env::var_os(CHILD).is_none() {
        // Its memory is that of a separate process: what another test has freed would be used again.
        let this = std::env::current_exe().unwrap();
        let name = "attempts_of_many_processes_take_no_more_than_the_docs_say";
        let status = Command::new(this)
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let mut measured = Measured::new("{learn: 1h, max_contacts: 10}");
    let before = resident();
    for (processes, bound) in [(1, 4 << 20), (50, OF_ATTEMPTS), (400, OF_ATTEMPTS)] {
        let of_record = measured.pass(0..2 * PEERS, processes);
        let grown = resident().saturating_sub(before);
        println!(
            "attempts to 200,000 peers by {processes} processes: {grown} bytes, {of_record} ns per record"
        );
        assert!(grown <= bound, "{grown} bytes, {processes} processes");
        measured.end_interval();
    }
    // Those of the second half of an interval are kept for half of the next one, which has others.
    measured.advance(30);
    measured.pass(0..2 * PEERS, 400);
    let spent = measured.advance(30) / u64::from(2 * PEERS);
    let of_record = measured.pass(2 * PEERS..4 * PEERS, 400);
    let grown = resident().saturating_sub(before);
    println!(
        "as many others in half an interval each: {grown} bytes, {of_record} ns per record, {spent} ns per attempt at the end of the first"
    );
    assert!(grown <= OF_ATTEMPTS, "{grown} bytes of two halves");
}
