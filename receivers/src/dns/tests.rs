use std::time::Duration;

use flowtap_pipeline::dns::DnsOutcome;
use flowtap_pipeline::{BuildContext, DnsRecord, Endpoint, FlowBatch, Role, RoleSource, Timestamp};
use proptest::prelude::*;

use super::message::tests::Made;
use super::{Config, Names, Observer, Owner, Packet, Rejected, Transaction, Transactions};

const A: u16 = 1;
const AAAA: u16 = 28;
const MS: u64 = 1_000_000;

fn end(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(address.ip(), address.port())
}

/// One socket of this machine with its name server.
#[derive(Clone, Copy)]
struct Socket {
    local: Endpoint,
    remote: Endpoint,
    owner: Owner,
}

impl Socket {
    fn client() -> Self {
        Self {
            local: end("192.0.2.1:40000"),
            remote: end("198.51.100.53:53"),
            owner: Owner {
                netns: 7,
                cookie: 1,
                pid: 42,
                ..Owner::default()
            },
        }
    }

    fn server() -> Self {
        let client = Self::client();
        Self {
            local: client.remote,
            remote: client.local,
            owner: Owner {
                netns: 8,
                pid: 1,
                ..Owner::default()
            },
        }
    }
}

struct Table(Transactions);

impl Table {
    fn new() -> Self {
        Self(Transactions::new(100, Duration::from_secs(5), true))
    }

    fn pass(&mut self, at: u64, socket: Socket, is_sent: bool, message: Made) -> Option<Transaction> {
        let payload = message.bytes();
        self.0.take(&Packet {
            at: at * MS,
            is_sent,
            local: socket.local,
            remote: socket.remote,
            owner: socket.owner,
            length: payload.len().try_into().unwrap(),
            payload: &payload,
        })
    }

    fn send(&mut self, at: u64, message: Made) -> Option<Transaction> {
        self.pass(at, Socket::client(), true, message)
    }

    fn receive(&mut self, at: u64, message: Made) -> Option<Transaction> {
        self.pass(at, Socket::client(), false, message)
    }

    fn expired(&mut self, at: u64) -> Vec<Transaction> {
        let mut all = Vec::new();
        self.0.expire(at * MS, |transaction| all.push(transaction));
        all
    }
}

#[test]
fn an_answer_ends_its_query_with_the_time_between() {
    let mut table = Table::new();
    assert_eq!(table.send(10, Made::query(7, "www.example.com", A)), None);
    let answer = Made::answer(7, "WWW.example.com", A, 0).with(1, 60, &[203, 0, 113, 9]);
    let ended = table.receive(25, answer).unwrap();
    assert_eq!(ended.latency, 15 * MS);
    assert_eq!(ended.outcome, DnsOutcome::Answered(0));
    assert_eq!((ended.role, ended.qtype, ended.retries), (Role::Client, A, 0));
    assert_eq!(ended.owner, Socket::client().owner);
    assert_eq!(ended.addresses, [("203.0.113.9".parse().unwrap(), 60)]);
    assert_eq!((ended.query_bytes, ended.answer_bytes), (33, 49));
    assert_eq!(table.0.waiting(), 0);
    assert_eq!(*table.0.rejected(), Rejected::default());
}

#[test]
fn both_ids_of_one_socket_are_paired_in_any_order() {
    let mut table = Table::new();
    // As glibc asks: two questions in a row.
    table.send(0, Made::query(1, "host.example", A));
    table.send(0, Made::query(2, "host.example", AAAA));
    let second = table
        .receive(5, Made::answer(2, "host.example", AAAA, 0))
        .unwrap();
    let first = table.receive(9, Made::answer(1, "host.example", A, 0)).unwrap();
    assert_eq!((second.qtype, second.latency), (AAAA, 5 * MS));
    assert_eq!((first.qtype, first.latency), (A, 9 * MS));
}

#[test]
fn one_id_for_two_questions_is_two_transactions() {
    let mut table = Table::new();
    table.send(0, Made::query(1, "host.example", A));
    table.send(0, Made::query(1, "host.example", AAAA));
    assert_eq!(table.0.waiting(), 2);
    assert_eq!(
        table
            .receive(1, Made::answer(1, "host.example", A, 0))
            .unwrap()
            .qtype,
        A
    );
    assert_eq!(
        table
            .receive(1, Made::answer(1, "host.example", AAAA, 0))
            .unwrap()
            .qtype,
        AAAA
    );
}

#[test]
fn a_query_sent_again_is_a_retry_and_the_time_counts_from_the_first() {
    let mut table = Table::new();
    for at in [0, 1000, 3000] {
        table.send(at, Made::query(7, "host.example", A));
    }
    let ended = table
        .receive(3001, Made::answer(7, "host.example", A, 0))
        .unwrap();
    assert_eq!((ended.retries, ended.latency), (2, 3001 * MS));
    // The answers to the other two.
    assert_eq!(table.receive(3002, Made::answer(7, "host.example", A, 0)), None);
    assert_eq!(table.0.rejected().unmatched, 1);
}

#[test]
fn a_query_without_an_answer_times_out_after_its_last_retry_and_a_late_answer_is_counted() {
    let mut table = Table::new();
    table.send(0, Made::query(7, "host.example", A));
    table.send(4000, Made::query(7, "host.example", A));
    assert_eq!(table.expired(8999), []);
    let ended = table.expired(9000);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].outcome, DnsOutcome::TimedOut);
    assert_eq!((ended[0].retries, ended[0].latency), (1, 0));
    assert_eq!(table.receive(9001, Made::answer(7, "host.example", A, 0)), None);
    assert_eq!(table.0.rejected().unmatched, 1);
    assert_eq!(table.0.waiting(), 0);
}

#[test]
fn an_answer_belongs_to_its_own_namespace_peer_id_and_question_only() {
    let mut table = Table::new();
    table.send(0, Made::query(7, "host.example", A));
    let socket = Socket::client();
    let other_namespace = Socket {
        owner: Owner {
            netns: 9,
            ..socket.owner
        },
        ..socket
    };
    let other_peer = Socket {
        remote: end("198.51.100.54:53"),
        ..socket
    };
    let answer = || Made::answer(7, "host.example", A, 0);
    assert_eq!(table.pass(1, other_namespace, false, answer()), None);
    assert_eq!(table.pass(1, other_peer, false, answer()), None);
    assert_eq!(table.receive(1, Made::answer(8, "host.example", A, 0)), None);
    assert_eq!(table.receive(1, Made::answer(7, "spoofed.example", A, 0)), None);
    assert_eq!(table.receive(1, Made::answer(7, "host.example", AAAA, 0)), None);
    assert_eq!(table.0.rejected().unmatched, 5);
    assert!(table.receive(2, answer()).is_some());
}

#[test]
fn the_two_sides_of_an_exchange_are_a_transaction_each() {
    let mut table = Table::new();
    let (client, server) = (Socket::client(), Socket::server());
    let query = || Made::query(7, "host.example", A);
    let answer = || Made::answer(7, "host.example", A, 2);
    table.pass(0, client, true, query());
    table.pass(1, server, false, query());
    let served = table.pass(4, server, true, answer()).unwrap();
    let asked = table.pass(5, client, false, answer()).unwrap();
    assert_eq!((served.role, served.latency), (Role::Server, 3 * MS));
    assert_eq!((asked.role, asked.latency), (Role::Client, 5 * MS));
    assert_eq!(served.remote, client.local);
    assert_eq!(served.outcome, DnsOutcome::Answered(2));
}

#[test]
fn a_socket_that_asks_itself_is_both_sides() {
    let mut table = Table::new();
    let own = Socket {
        local: end("127.0.0.1:53"),
        remote: end("127.0.0.1:53"),
        ..Socket::client()
    };
    table.pass(0, own, true, Made::query(7, "host.example", A));
    table.pass(1, own, false, Made::query(7, "host.example", A));
    let served = table.pass(2, own, true, Made::answer(7, "host.example", A, 0));
    let asked = table.pass(3, own, false, Made::answer(7, "host.example", A, 0));
    assert_eq!(served.map(|ended| ended.latency), Some(MS));
    assert_eq!(asked.map(|ended| ended.latency), Some(3 * MS));
}

#[test]
fn a_truncated_answer_is_marked() {
    let mut table = Table::new();
    table.send(0, Made::query(7, "big.example", A));
    let ended = table.receive(1, Made::answer(7, "big.example", A, 0).truncated());
    assert!(ended.unwrap().is_truncated);
}

#[test]
fn an_error_without_a_question_belongs_to_the_only_query_of_its_id() {
    let mut table = Table::new();
    let refused = || {
        let mut bytes = Made::answer(7, "host.example", A, 5).bytes();
        bytes[5] = 0;
        bytes.truncate(12);
        bytes
    };
    let packet = |bytes: &[u8]| {
        let socket = Socket::client();
        Packet {
            at: 2 * MS,
            is_sent: false,
            local: socket.local,
            remote: socket.remote,
            owner: socket.owner,
            length: 12,
            payload: bytes.to_vec().leak(),
        }
    };
    table.send(0, Made::query(7, "host.example", A));
    table.send(0, Made::query(7, "host.example", AAAA));
    assert_eq!(table.0.take(&packet(&refused())), None, "either can be meant");
    table.receive(1, Made::answer(7, "host.example", A, 0)).unwrap();
    let ended = table.0.take(&packet(&refused())).unwrap();
    assert_eq!((ended.outcome, ended.qtype), (DnsOutcome::Answered(5), AAAA));
}

#[test]
fn queries_beyond_the_limit_are_counted() {
    let mut table = Table(Transactions::new(2, Duration::from_secs(5), false));
    for id in 0..5 {
        table.send(0, Made::query(id, "host.example", A));
    }
    assert_eq!((table.0.waiting(), table.0.rejected().pending_full), (2, 3));
    // A retry of one that waits needs no room.
    table.send(1, Made::query(0, "host.example", A));
    assert_eq!(table.0.rejected().pending_full, 3);
    table.receive(1, Made::answer(0, "host.example", A, 0)).unwrap();
    table.send(2, Made::query(9, "host.example", A));
    assert_eq!((table.0.waiting(), table.0.rejected().pending_full), (2, 3));
    table.0.abandon();
    assert_eq!((table.0.waiting(), table.0.rejected().unfinished), (0, 2));
}

#[test]
fn a_query_to_a_multicast_address_ends_at_once() {
    let mut table = Table::new();
    let socket = Socket {
        remote: end("224.0.0.251:5353"),
        local: end("192.0.2.1:5353"),
        ..Socket::client()
    };
    let ended = table.pass(0, socket, true, Made::query(0, "printer.local", A));
    assert_eq!(ended.unwrap().outcome, DnsOutcome::Multicast);
    assert_eq!(table.0.waiting(), 0);
}

/// The searches of one lookup, as the lines of a name server's log show them.
fn search(table: &mut Table, steps: &[(&str, u8)]) -> u32 {
    let mut misses = 0;
    for (index, (name, rcode)) in (0..).zip(steps) {
        for (id, qtype) in [(2 * index, A), (2 * index + 1, AAAA)] {
            let at = u64::from(index) * 10;
            table.send(at, Made::query(id, name, qtype));
            let ended = table.receive(at + 1, Made::answer(id, name, qtype, *rcode));
            misses += ended.unwrap().search_misses;
        }
    }
    misses
}

#[test]
fn names_that_the_search_list_made_are_counted_with_the_query_that_shows_it() {
    let pod = [
        ("www.example.com.ns.svc.cluster.local", 3),
        ("www.example.com.svc.cluster.local", 3),
        ("www.example.com.cluster.local", 3),
        ("www.example.com", 0),
    ];
    assert_eq!(search(&mut Table::new(), &pod), 6);
    let service = [("db.ns.svc.cluster.local", 3), ("db.svc.cluster.local", 0)];
    assert_eq!(search(&mut Table::new(), &service), 2);
    // Domains that have nothing in common: known once the name itself is asked for.
    let foreign = [("db.corp.example", 3), ("db.lab.test", 3), ("db", 3)];
    assert_eq!(search(&mut Table::new(), &foreign), 4);
}

#[test]
fn names_that_do_not_exist_are_no_search_if_nothing_shows_it() {
    assert_eq!(
        search(&mut Table::new(), &[("a.example.com", 3), ("b.example.com", 0)]),
        0
    );
    assert_eq!(
        search(&mut Table::new(), &[("a.example.com", 2), ("a.com", 0)]),
        0,
        "SERVFAIL stops a search"
    );
    let mut table = Table::new();
    table.send(0, Made::query(1, "a.example.com", A));
    table.receive(1, Made::answer(1, "a.example.com", A, 3)).unwrap();
    table.expired(6000);
    table.send(6001, Made::query(2, "a", A));
    let ended = table.receive(6002, Made::answer(2, "a", A, 3)).unwrap();
    assert_eq!(ended.search_misses, 0, "too late");
}

#[test]
fn a_client_that_asks_for_names_without_end_fills_no_memory() {
    let mut table = Table(Transactions::new(10, Duration::from_secs(5), false));
    for index in 0..6000_u32 {
        let name = format!("random{index}.example");
        table.send(1, Made::query(7, &name, A));
        table.receive(1, Made::answer(7, &name, A, 3)).unwrap();
    }
    assert_eq!(table.0.rejected().search_table_full, 6000 - 4096);
    assert_eq!(table.0.waiting(), 0);
}

#[test]
fn a_hook_that_knows_no_process_takes_that_of_the_other_message() {
    let mut table = Table::new();
    let unknown = |socket: Socket| Socket {
        owner: Owner {
            pid: 0,
            ..socket.owner
        },
        ..socket
    };
    let query = || Made::query(7, "host.example", A);
    let answer = || Made::answer(7, "host.example", A, 0);
    let (client, server) = (Socket::client(), Socket::server());
    table.pass(0, client, true, query());
    table.pass(1, unknown(server), false, query());
    let served = table.pass(2, server, true, answer()).unwrap();
    let asked = table.pass(3, unknown(client), false, answer()).unwrap();
    assert_eq!((served.owner.pid, asked.owner.pid), (1, 42));
}

/// The records of one lookup of `www.example.co.uk` and one of a name with control characters.
fn observed(config: &Config) -> Vec<DnsRecord> {
    let mut observer = Observer::new(config, &BuildContext::new("ebpf".parse().unwrap()));
    let socket = Socket::client();
    let mut pass = |at, is_sent, message: Made| {
        let payload = message.bytes();
        observer.take(&Packet {
            at,
            is_sent,
            local: socket.local,
            remote: socket.remote,
            owner: socket.owner,
            length: payload.len().try_into().unwrap(),
            payload: &payload,
        });
    };
    for (id, name) in [(1, "www.example.co.uk"), (2, "a\r\nb.example")] {
        pass(1_000_000, true, Made::query(id, name, A));
        let answer = Made::answer(id, name, A, 0).with(1, 60, &[203, 0, 113, 9]);
        pass(1_345_678, false, answer);
    }
    let mut batch = FlowBatch::default();
    observer.flush(2_000_000, Timestamp::from_nanos(50_000_000), &mut batch);
    batch.dns
}

#[test]
fn a_record_has_the_socket_the_time_and_the_outcome_and_no_name_unless_the_config_wants_one() {
    let records = observed(&Config::default());
    assert_eq!(records.len(), 2);
    let record = &records[0];
    assert_eq!(record.latency_us, 345);
    assert_eq!(record.at, Timestamp::from_nanos(49_345_678));
    assert_eq!(record.flow.local, Socket::client().local);
    assert_eq!((record.flow.netns, record.flow.pid), (7, 42));
    assert_eq!(
        (record.flow.role, record.flow.role_source),
        (Role::Client, RoleSource::Message)
    );
    for record in &records {
        assert_eq!((&record.qname, &record.answer), (&None, &None));
        let recorded = postcard::to_stdvec(record).unwrap();
        assert!(!recorded.windows(7).any(|bytes| bytes == b"example"));
    }
}

#[test]
fn names_are_in_records_as_far_as_the_config_wants_and_never_hostile_ones() {
    for (names, expected) in [
        (Names::RegisteredDomain, "example.co.uk"),
        (Names::Full, "www.example.co.uk"),
    ] {
        let records = observed(&Config {
            names,
            ..Config::default()
        });
        assert_eq!(records[0].qname.as_deref(), Some(expected));
        let answer = records[0].answer.as_ref().unwrap();
        assert_eq!(&*answer.name, expected);
        assert_eq!(answer.addresses, [("203.0.113.9".parse().unwrap(), 60)]);
        assert_eq!(records[1].qname.as_deref(), Some("invalid"));
        assert_eq!(records[1].answer, None);
    }
}

#[test]
fn a_query_without_an_answer_is_a_record_when_it_has_timed_out() {
    let mut observer = Observer::new(&Config::default(), &BuildContext::new("ebpf".parse().unwrap()));
    let payload = Made::query(1, "host.example", A).bytes();
    let socket = Socket::client();
    observer.take(&Packet {
        at: 0,
        is_sent: true,
        local: socket.local,
        remote: socket.remote,
        owner: socket.owner,
        length: payload.len().try_into().unwrap(),
        payload: &payload,
    });
    let mut batch = FlowBatch::default();
    observer.flush(4_999_999_999, Timestamp::from_nanos(0), &mut batch);
    assert!(batch.is_empty());
    observer.flush(5_000_000_000, Timestamp::from_nanos(0), &mut batch);
    assert_eq!(batch.dns.len(), 1);
    assert_eq!(batch.dns[0].outcome, DnsOutcome::TimedOut);
}

/// A message with some of its bytes replaced, and cut off somewhere.
fn any_message() -> impl Strategy<Value = (bool, Vec<u8>, u32)> {
    let valid = (0..3_u16, any::<bool>(), 0..4_u8).prop_map(|(id, is_answer, rcode)| {
        if is_answer {
            Made::answer(id, "www.example.com", A, rcode).with(1, 60, &[192, 0, 2, 7])
        } else {
            Made::query(id, "www.example.com", A)
        }
    });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (any::<bool>(), valid.prop_map(Made::bytes), changes, 0..80_usize).prop_map(
        |(is_sent, mut bytes, changes, cut)| {
            for (index, byte) in changes {
                *index.get_mut(&mut bytes) = byte;
            }
            let length = u32::try_from(bytes.len()).unwrap();
            // Half of them are whole.
            if cut < 40 {
                bytes.truncate(cut);
            }
            (is_sent, bytes, length)
        },
    )
}

proptest! {
    #[test]
    fn every_message_is_an_outcome_a_retry_or_counted(messages in prop::collection::vec(any_message(), 0..40)) {
        let mut transactions = Transactions::new(4, Duration::from_secs(5), true);
        let socket = Socket::client();
        let (mut ended, mut retries) = (Vec::new(), 0);
        for (at, (is_sent, payload, length)) in (0..).zip(&messages) {
            ended.extend(transactions.take(&Packet {
                at: at * 500 * MS,
                is_sent: *is_sent,
                local: socket.local,
                remote: socket.remote,
                owner: socket.owner,
                length: *length,
                payload,
            }));
            transactions.expire(at * 500 * MS, |transaction| ended.push(transaction));
            prop_assert!(transactions.waiting() <= 4);
        }
        transactions.expire(u64::MAX, |transaction| ended.push(transaction));
        for transaction in &ended {
            retries += u64::from(transaction.retries);
        }
        let of = |outcome| ended.iter().filter(|ended| ended.outcome == outcome).count() as u64;
        let answered = ended.len() as u64 - of(DnsOutcome::TimedOut);
        let rejected = transactions.rejected();
        let dropped = rejected.malformed + rejected.cut + rejected.other_opcode + rejected.pending_full + rejected.unmatched;
        // A query and its answer are two messages of one transaction.
        prop_assert_eq!(
            messages.len() as u64,
            2 * answered + of(DnsOutcome::TimedOut) + retries + dropped
        );
    }
}
