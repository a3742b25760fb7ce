//! DNS datagrams of the kernel side, for the observer of transactions.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use flowtap_ebpf::udp::abi::{DnsDatagram, DnsHead};
use flowtap_pipeline::{BuildContext, DnsRecord, Endpoint, FlowBatch, Timestamp};

use crate::containers::Containers;
use crate::dns::{Config, Observer, Owner, Packet};
use crate::ebpf::address::address;

/// The observer, with what hides the kernel's addresses.
#[derive(Debug)]
pub(super) struct Dns {
    observer: Observer,
    /// Where the hooks have no cookie a socket's id is an address in the kernel, which must not leave the receiver.
    key: RandomState,
}

impl Dns {
    /// `None` if the config does not ask for it.
    pub(super) fn new(config: &Config, context: &BuildContext) -> Option<Self> {
        (!config.kernel_ports().is_empty()).then(|| Self {
            observer: Observer::new(config, context),
            key: RandomState::new(),
        })
    }

    /// Takes a query or an answer.
    pub(super) fn take(&mut self, datagram: &DnsDatagram<'_>) {
        let head = &datagram.head;
        let end = |bytes, port| Endpoint::new(address(head.family, bytes), port);
        self.observer.take(&Packet {
            at: head.time_ns,
            is_sent: head.direction == DnsHead::SENT,
            local: end(head.local_addr, head.local_port),
            remote: end(head.remote_addr, head.remote_port),
            owner: Owner {
                netns: head.netns,
                cookie: self.key.hash_one(head.socket),
                pid: head.pid,
                comm: head.comm,
                cgroup_id: head.cgroup_id,
            },
            length: head.payload_bytes,
            payload: datagram.payload,
        });
    }

    /// Adds transactions that were answered to `batch`. `now_ns` is of the clock of datagrams.
    pub(super) fn answered(&mut self, now_ns: u64, containers: &mut Containers, batch: &mut FlowBatch) {
        let known = batch.dns.len();
        self.observer.take_ended(now_ns, Timestamp::now(), batch);
        name_containers(containers, &mut batch.dns[known..]);
    }

    /// The same, and those whose time is out: every datagram up to `now_ns` has been taken.
    pub(super) fn flush(&mut self, now_ns: u64, containers: &mut Containers, batch: &mut FlowBatch) {
        let known = batch.dns.len();
        self.observer.flush(now_ns, Timestamp::now(), batch);
        name_containers(containers, &mut batch.dns[known..]);
    }

    /// No more datagrams come.
    pub(super) fn abandon(&mut self) {
        self.observer.abandon();
    }
}

fn name_containers(containers: &mut Containers, records: &mut [DnsRecord]) {
    for record in records {
        let age = Duration::from_micros(record.latency_us.into());
        record.flow.container_id = containers.id_of(&record.flow, age);
    }
}
