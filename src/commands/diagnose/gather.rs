//! Gathers evidence of the target's records, in place of a window.

use std::sync::{Arc, Mutex, PoisonError};

use flowtap_extensions::verdict::{Sums, Tally};
use flowtap_pipeline::{Aggregator, FlowBatch, Output, Snapshot, Timestamp};

use super::target::Target;

/// The end of the path.
#[derive(Debug)]
pub(super) struct Gather {
    target: Arc<Target>,
    tally: Tally,
    gathered: Arc<Mutex<Sums>>,
}

impl Gather {
    /// Gathers what belongs to `target`; the sums are there when it has finished.
    pub(super) fn new(target: Arc<Target>) -> (Self, Arc<Mutex<Sums>>) {
        let gathered = Arc::<Mutex<Sums>>::default();
        let gather = Self {
            target,
            tally: Tally::default(),
            gathered: Arc::clone(&gathered),
        };
        (gather, gathered)
    }
}

impl Aggregator for Gather {
    fn begin(&mut self, _: Timestamp) {}

    fn fold(&mut self, batch: &FlowBatch) {
        let target = &self.target;
        for record in batch.tcp.iter().filter(|record| target.matches(&record.flow)) {
            self.tally.add_tcp(batch.receiver, record);
        }
        let is_peer = matches!(**target, Target::Peer(..));
        let listening = batch.listening.iter();
        for record in listening.filter(|record| is_peer || target.matches_listener(&record.flow)) {
            self.tally.add_listening(batch.receiver, record);
        }
        for record in &batch.drops {
            self.tally.add_drop(record);
        }
    }

    fn advance(&mut self, _: Timestamp) -> Option<Output> {
        None
    }

    fn finish(&mut self, at: Timestamp) -> Output {
        let is_peer = matches!(*self.target, Target::Peer(..));
        // Of a peer those listening sockets count that it is connected to.
        let counts = |port, sums: &Sums| {
            let mut peers = sums.peers.keys();
            !is_peer || peers.any(|peer| peer.serves && peer.port == port)
        };
        let sums = self.tally.sums(None, counts);
        *self.gathered.lock().unwrap_or_else(PoisonError::into_inner) = sums;
        Output::from(Snapshot::of_nothing(at))
    }
}

#[cfg(test)]
mod tests {
    use flowtap_extensions::verdict::{Cause, judge};
    use flowtap_pipeline::testing::record;
    use flowtap_pipeline::{Endpoint, Flow, FlowKind, ListeningRecord, TcpRecord};

    use super::*;

    fn gathered(target: &str, tcp: Vec<TcpRecord>, listening: Vec<ListeningRecord>) -> Sums {
        let (mut gather, gathered) = Gather::new(Arc::new(Target::parse(target).unwrap()));
        gather.fold(&FlowBatch {
            tcp,
            listening,
            ..FlowBatch::default()
        });
        gather.finish(Timestamp::from_nanos(1));
        gathered.lock().unwrap().clone()
    }

    #[test]
    fn evidence_is_of_what_belongs_to_the_target() {
        let of = |remote: &str| TcpRecord {
            sent_bytes: 100,
            ..record("10.0.0.1:40000", remote)
        };
        let records = vec![of("192.0.2.7:443"), of("192.0.2.7:443"), of("192.0.2.8:443")];
        let found = gathered("192.0.2.7", records, Vec::new());
        assert_eq!((found.all.sent_bytes, found.peers.len()), (200, 1));
    }

    #[test]
    fn a_peer_has_the_listening_sockets_that_it_is_connected_to() {
        let listener = |port, drops| {
            let local = Endpoint::new([10, 0, 0, 1].into(), port);
            let record = ListeningRecord::new(local);
            ListeningRecord {
                drops,
                backlog: 5,
                limit: 4,
                flow: Flow {
                    cookie: u64::from(port),
                    ..record.flow
                },
                ..ListeningRecord::new(local)
            }
        };
        let served = record("10.0.0.1:80", "192.0.2.7:40000").with_flow(|flow| Flow {
            kind: Some(FlowKind::Ingress),
            ..flow
        });
        let listening = vec![listener(80, 40), listener(80, 5), listener(81, 7)];
        let found = gathered("192.0.2.7", vec![served], listening);
        assert_eq!((found.all.listening.drops, found.all.listening.limit), (45, 4));
        assert_eq!(judge(&found.all).cause, Cause::AcceptQueue);
    }
}
