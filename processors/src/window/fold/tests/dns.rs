//! Folding of DNS transactions.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowtap_pipeline::dns::{DnsOutcome, DnsRecord};
use flowtap_pipeline::{Points, Snapshot};

use super::*;

const A: u16 = 1;

fn query(outcome: DnsOutcome, latency_us: u32) -> DnsRecord {
    let flow = Flow {
        kind: Some(FlowKind::Egress),
        role: Role::Client,
        ..record("192.0.2.1:40000", "198.51.100.53:53").flow
    };
    DnsRecord {
        latency_us,
        ..DnsRecord::new(flow, A, outcome)
    }
}

fn fold(window: &mut Window, dns: Vec<DnsRecord>) -> Snapshot {
    window.fold(&FlowBatch {
        dns,
        ..FlowBatch::default()
    });
    window.finish(at(5))
}

/// Totals of a family by their labels; of a histogram its count.
fn totals(snapshot: &Snapshot, name: &str) -> BTreeMap<String, u64> {
    let family = snapshot.families.iter().find(|family| family.family.name == name);
    match family.map(|family| &family.points) {
        Some(Points::Sums(points)) => points
            .iter()
            .map(|point| (point.series.joined_labels(), point.total))
            .collect(),
        Some(Points::Histograms(points)) => points
            .iter()
            .map(|point| (point.series.joined_labels(), point.count()))
            .collect(),
        Some(Points::Values(_)) | None => BTreeMap::new(),
    }
}

fn expect(snapshot: &Snapshot, name: &str, expected: &[(&str, u64)]) {
    let expected = expected
        .iter()
        .map(|(labels, total)| ((*labels).to_owned(), *total))
        .collect();
    assert_eq!(totals(snapshot, name), expected, "{name}");
}

#[test]
fn a_transaction_is_in_each_family_that_it_says_something_about() {
    let transactions = vec![
        query(DnsOutcome::Answered(0), 1_500),
        DnsRecord {
            qtype: 28,
            truncated: true,
            ..query(DnsOutcome::Answered(0), 700)
        },
        DnsRecord {
            retries: 2,
            ..query(DnsOutcome::TimedOut, 0)
        },
        DnsRecord {
            search_misses: 3,
            ..query(DnsOutcome::Answered(3), 90)
        },
    ];
    let snapshot = fold(&mut window(100, 600), transactions);
    let of = |rest: &str| format!(r#"raddr="198.51.100.53",flow="egress"{rest}"#);
    expect(
        &snapshot,
        "network_dns_queries",
        &[
            (&of(r#",qtype="A",rcode="NOERROR""#), 1),
            (&of(r#",qtype="AAAA",rcode="NOERROR""#), 1),
            (&of(r#",qtype="A",rcode="timeout""#), 1),
            (&of(r#",qtype="A",rcode="NXDOMAIN""#), 1),
        ],
    );
    // A time-out has no duration.
    expect(
        &snapshot,
        "network_dns_duration",
        &[(&of(r#",qtype="A""#), 2), (&of(r#",qtype="AAAA""#), 1)],
    );
    expect(&snapshot, "network_dns_retries", &[(&of(""), 2)]);
    expect(&snapshot, "network_dns_truncated", &[(&of(""), 1)]);
    expect(
        &snapshot,
        "network_dns_search_misses",
        &[(r#"raddr="198.51.100.53""#, 3)],
    );
}

#[test]
fn names_are_a_label_where_it_is_configured_and_sums_stay_true_beyond_the_budget() {
    let labels = FamilyConfig {
        labels: Some(vec![Label::Qname, Label::Rcode]),
        ..FamilyConfig::default()
    };
    let config = Config {
        families: [("network_dns_queries".to_owned(), labels)].into(),
        ..Config::default()
    };
    let named = |name: &str, rcode| DnsRecord {
        qname: Some(Arc::from(name)),
        ..query(DnsOutcome::Answered(rcode), 1)
    };
    let transactions = vec![
        named("a.example", 0),
        named("a.example", 0),
        named("b.example", 0),
        named("c.example", 0),
        named("d.example", 3),
    ];
    let snapshot = fold(&mut window_of(config, 2, 600), transactions);
    expect(
        &snapshot,
        "network_dns_queries",
        &[
            (r#"qname="a.example",rcode="NOERROR""#, 2),
            (r#"qname="b.example",rcode="NOERROR""#, 1),
            (r#"qname="other",rcode="NOERROR""#, 1),
            (r#"qname="other",rcode="NXDOMAIN""#, 1),
        ],
    );
}

#[test]
fn by_opentelemetrys_naming_a_lookup_has_the_error_of_getaddrinfo() {
    let enabled = FamilyConfig {
        enabled: Some(true),
        ..FamilyConfig::default()
    };
    let config = Config {
        naming: Naming::Otel,
        families: [("network_dns_lookup_duration".to_owned(), enabled)].into(),
        ..Config::default()
    };
    let named = |outcome, role| {
        let mut record = query(outcome, 1);
        record.qname = Some(Arc::from("a.example"));
        record.flow.role = role;
        record
    };
    let transactions = vec![
        named(DnsOutcome::Answered(0), Role::Client),
        named(DnsOutcome::Answered(0), Role::Server),
        named(DnsOutcome::Answered(3), Role::Client),
        named(DnsOutcome::Answered(2), Role::Client),
    ];
    let snapshot = fold(&mut window_of(config, 100, 600), transactions);
    expect(
        &snapshot,
        "dns.lookup.duration",
        &[
            (r#"dns_question_name="a.example""#, 1),
            (r#"dns_question_name="a.example",error_type="host_not_found""#, 1),
            (r#"dns_question_name="a.example",error_type="try_again""#, 1),
        ],
    );
    let queries: u64 = totals(&snapshot, "flowtap.dns.queries").values().sum();
    assert_eq!(queries, 4);
}
