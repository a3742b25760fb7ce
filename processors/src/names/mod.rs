//! The processor `names`: what is the peer's address called?
//!
//! In: DNS transactions with their answers, flows of every signal. Out: flows with `peer_name`. The rules:
//!
//! 1. An answer names its addresses in the network namespace of the socket that asked, for its time to live and at least for
//!    `min_ttl`; the latest answer counts where two names have one address.
//! 2. A socket keeps the name that its peer had when it was first seen, for as long as it lives: a connection outlives the answer
//!    that it was opened by.
//! 3. `/etc/hosts` of the node names an address in every network namespace, without a limit in time.
//! 4. Both tables are bounded; what was not used for longest is evicted, and counted.
//!
//! The time is that of the records and watermarks, so a recording has the same names when it is replayed.

mod config;
mod factory;
mod hosts;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::{
    BuildContext, DnsRecord, Flow, FlowBatch, NameSource, PeerName, Processor, Role, Subscription, Timestamp,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

pub use self::config::{Config, Source};
pub use self::factory::FACTORY;
use self::hosts::Hosts;
use crate::recent::Recent;

/// Sockets and peers whose name is kept.
const SOCKETS: usize = 1 << 17;

/// A name of an address.
#[derive(Clone, Debug)]
struct Named {
    name: Arc<str>,
    expires: Timestamp,
}

/// The processor.
#[derive(Debug)]
pub struct Names {
    sources: Vec<Source>,
    min_ttl: Duration,
    /// By network namespace and address.
    addresses: Recent<(u32, IpAddr), Named>,
    /// By network namespace, cookie and peer: a UDP socket has several.
    sockets: Recent<(u32, u64, IpAddr), PeerName>,
    hosts: Option<Subscription<Hosts>>,
    now: Timestamp,
    evicted: Counter<u64>,
    processor: KeyValue,
}

impl Names {
    /// A processor that has seen no answer yet.
    pub fn new(config: &Config, context: &BuildContext) -> Self {
        let evicted = context
            .meter
            .u64_counter("processor_evicted_names")
            .with_description("Names of addresses and sockets that were evicted from a full table.")
            .with_unit("{name}")
            .build();
        let processor = KeyValue::new("processor", context.id.to_string());
        evicted.add(0, std::slice::from_ref(&processor));
        Self {
            sources: config.sources.clone(),
            min_ttl: config.min_ttl,
            addresses: Recent::new(config.max_addresses),
            sockets: Recent::new(SOCKETS),
            hosts: config
                .has(Source::Hosts)
                .then(|| Subscription::new(&hosts::follow(&config.hosts_file))),
            now: Timestamp::default(),
            evicted,
            processor,
        }
    }

    /// Rule 1. Returns how many entries were evicted.
    fn learn(&mut self, record: &DnsRecord) -> usize {
        let Some(answer) = record
            .answer
            .as_ref()
            .filter(|_| record.flow.role == Role::Client)
        else {
            return 0;
        };
        self.now = self.now.max(record.at);
        let mut evicted = 0;
        for (address, ttl) in &answer.addresses {
            let ttl = Duration::from_secs((*ttl).into()).max(self.min_ttl);
            let named = Named {
                name: Arc::clone(&answer.name),
                expires: record.at.plus(ttl),
            };
            evicted += self.addresses.insert((record.flow.netns, *address), named);
        }
        evicted
    }

    /// The name of a flow's peer, with how many entries were evicted to keep it.
    fn name(&mut self, flow: &Flow) -> (Option<PeerName>, usize) {
        let socket = (flow.netns, flow.cookie, flow.remote.addr);
        let mut evicted = 0;
        if flow.cookie != 0 {
            let (known, more) = self.sockets.get(socket);
            evicted += more;
            if known.is_some() {
                return (known, evicted);
            }
        }
        let mut found = None;
        for source in &self.sources {
            found = match source {
                Source::Dns => {
                    let (named, more) = self.addresses.get((flow.netns, flow.remote.addr));
                    evicted += more;
                    let named = named.filter(|named| self.now < named.expires);
                    named.map(|named| PeerName {
                        name: named.name,
                        source: NameSource::Dns,
                    })
                }
                Source::Hosts => {
                    let hosts = self.hosts.as_ref().map(Subscription::last);
                    let name = hosts.and_then(|hosts| hosts.get(&flow.remote.addr));
                    name.map(|name| PeerName {
                        name: Arc::clone(name),
                        source: NameSource::Hosts,
                    })
                }
            };
            if found.is_some() {
                break;
            }
        }
        if let Some(name) = found.as_ref().filter(|_| flow.cookie != 0) {
            evicted += self.sockets.insert(socket, name.clone());
        }
        (found, evicted)
    }
}

impl Processor for Names {
    fn begin(&mut self, at: Timestamp) {
        self.now = at;
    }

    fn process(&mut self, batch: &mut FlowBatch) {
        if let Some(hosts) = &mut self.hosts {
            hosts.refresh();
        }
        // Answers first: the connection that an answer was for may be in the same batch.
        let mut evicted: usize = batch.dns.iter().map(|record| self.learn(record)).sum();
        for flow in batch.flows_mut() {
            let (name, more) = self.name(flow);
            evicted += more;
            flow.peer_name = name;
        }
        if evicted > 0 {
            self.evicted
                .add(evicted as u64, std::slice::from_ref(&self.processor));
        }
    }

    fn advance(&mut self, to: Timestamp, _: &mut FlowBatch) {
        self.now = to;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flowtap_pipeline::dns::{DnsAnswer, DnsOutcome};
    use flowtap_pipeline::{NodeInfo, TcpRecord};

    use super::*;
    use crate::testing::{context, flow, record};

    const NETNS: u32 = 7;
    const PEER: &str = "203.0.113.9:443";

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn names(config: &Config) -> Names {
        let mut names = Names::new(config, &context(NodeInfo::default()));
        names.advance(at(100), &mut FlowBatch::default());
        names
    }

    fn from_dns() -> Names {
        names(&Config {
            sources: vec![Source::Dns],
            ..Config::default()
        })
    }

    fn answer(name: &str, ttl: u32, netns: u32, role: Role, at: Timestamp) -> DnsRecord {
        let flow = Flow {
            netns,
            role,
            ..flow("192.0.2.1:40000", "198.51.100.53:53")
        };
        DnsRecord {
            at,
            answer: Some(DnsAnswer {
                name: name.into(),
                addresses: vec![("203.0.113.9".parse().unwrap(), ttl)],
            }),
            ..DnsRecord::new(flow, 1, DnsOutcome::Answered(0))
        }
    }

    fn connection(cookie: u64, netns: u32) -> TcpRecord {
        record("192.0.2.1:41000", PEER).with_flow(|flow| Flow {
            cookie,
            netns,
            ..flow
        })
    }

    fn named(names: &mut Names, dns: Vec<DnsRecord>, tcp: TcpRecord) -> Option<String> {
        let mut batch = FlowBatch {
            dns,
            tcp: vec![tcp],
            ..FlowBatch::default()
        };
        names.process(&mut batch);
        let name = batch.tcp[0].flow.peer_name.clone()?;
        Some(format!("{} {}", name.source.as_str(), name.name))
    }

    #[test]
    fn an_answer_names_connections_of_its_namespace_in_the_same_batch_and_later() {
        let mut names = from_dns();
        let dns = vec![answer("www.example.com", 300, NETNS, Role::Client, at(100))];
        let expected = Some("dns www.example.com".to_owned());
        assert_eq!(named(&mut names, dns, connection(1, NETNS)), expected);
        assert_eq!(named(&mut names, vec![], connection(2, NETNS)), expected);
        assert_eq!(named(&mut names, vec![], connection(3, NETNS + 1)), None);
        assert_eq!(named(&mut names, vec![], connection(0, NETNS)), expected);
    }

    #[test]
    fn answers_that_this_machine_gave_name_nothing_here() {
        let mut names = from_dns();
        let dns = vec![answer("www.example.com", 300, NETNS, Role::Server, at(100))];
        assert_eq!(named(&mut names, dns, connection(1, NETNS)), None);
    }

    #[test]
    fn a_name_from_before_the_beginning_has_expired_also_without_a_watermark() {
        let mut names = Names::new(
            &Config {
                sources: vec![Source::Dns],
                min_ttl: Duration::ZERO,
                ..Config::default()
            },
            &context(NodeInfo::default()),
        );
        names.begin(at(1_000));
        let old = answer("old.example.", 1, NETNS, Role::Client, at(100));
        assert_eq!(named(&mut names, vec![old], connection(1, NETNS)), None);
        let new = answer("new.example.", 1, NETNS, Role::Client, at(1_000));
        let name = named(&mut names, vec![new], connection(2, NETNS));
        assert_eq!(name.as_deref(), Some("dns new.example."));
    }

    #[test]
    fn a_name_expires_for_new_connections_and_stays_for_those_that_it_opened() {
        let mut names = from_dns();
        let dns = vec![answer("www.example.com", 300, NETNS, Role::Client, at(100))];
        let expected = Some("dns www.example.com".to_owned());
        assert_eq!(named(&mut names, dns, connection(1, NETNS)), expected);
        names.advance(at(399), &mut FlowBatch::default());
        assert_eq!(named(&mut names, vec![], connection(2, NETNS)), expected);
        names.advance(at(400), &mut FlowBatch::default());
        assert_eq!(named(&mut names, vec![], connection(3, NETNS)), None);
        assert_eq!(named(&mut names, vec![], connection(1, NETNS)), expected);
        // Named again, a connection without a name gets one.
        let dns = vec![answer("cdn.example.net", 1, NETNS, Role::Client, at(400))];
        let renamed = Some("dns cdn.example.net".to_owned());
        assert_eq!(named(&mut names, dns, connection(3, NETNS)), renamed);
        assert_eq!(named(&mut names, vec![], connection(1, NETNS)), expected);
        // For `min_ttl`, although the answer lives for a second.
        names.advance(at(459), &mut FlowBatch::default());
        assert_eq!(named(&mut names, vec![], connection(4, NETNS)), renamed);
        names.advance(at(460), &mut FlowBatch::default());
        assert_eq!(named(&mut names, vec![], connection(5, NETNS)), None);
    }

    #[test]
    fn the_hosts_file_names_addresses_in_every_namespace_after_dns() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"203.0.113.9 db\n").unwrap();
        let config = Config {
            hosts_file: file.path().to_owned(),
            ..Config::default()
        };
        let mut both = names(&config);
        assert_eq!(
            named(&mut both, vec![], connection(1, NETNS)).as_deref(),
            Some("hosts db")
        );
        let dns = vec![answer("www.example.com", 300, NETNS, Role::Client, at(100))];
        assert_eq!(
            named(&mut both, dns.clone(), connection(2, NETNS)).as_deref(),
            Some("dns www.example.com")
        );
        let mut hosts_first = names(&Config {
            sources: vec![Source::Hosts, Source::Dns],
            ..config
        });
        assert_eq!(
            named(&mut hosts_first, dns, connection(1, NETNS)).as_deref(),
            Some("hosts db")
        );
    }

    #[test]
    fn a_flood_of_answers_evicts_addresses_that_are_not_used_and_keeps_the_bound() {
        let mut names = names(&Config {
            sources: vec![Source::Dns],
            max_addresses: 100,
            ..Config::default()
        });
        let used = answer("www.example.com", 3000, NETNS, Role::Client, at(100));
        assert!(named(&mut names, vec![used], connection(0, NETNS)).is_some());
        for number in 0..5_000_u32 {
            let mut flood = answer("flood.example", 3000, NETNS, Role::Client, at(100));
            if let Some(answer) = &mut flood.answer {
                answer.addresses = vec![(std::net::Ipv4Addr::from(number).into(), 3000)];
            }
            assert_eq!(
                named(&mut names, vec![flood], connection(0, NETNS)).as_deref(),
                Some("dns www.example.com"),
                "after {number}"
            );
        }
        assert!(names.addresses.len() <= 100);
    }
}
