//! Folding of DNS transactions.

use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::dns::DnsOutcome;
use flowtap_pipeline::{DnsRcode, DnsRecord, DnsType, Role};

use super::super::event_label::{DnsLabels, EventLabel, FailureReason};
use super::super::key::KeyInputs;
use super::{MEMORY_LIMIT, Window};

impl Window {
    pub(super) fn fold_dns(&mut self, record: &DnsRecord) {
        let flow = &record.flow;
        let labels = DnsLabels::new(DnsType::of(record.qtype), record.outcome.rcode());
        let inputs = KeyInputs {
            cause: Some(EventLabel::Dns(labels)),
            qname: record.qname.as_ref(),
            ..KeyInputs::default()
        };
        let counts = [
            (FamilyId::DnsQueries, 1),
            (FamilyId::DnsRetries, record.retries),
            (FamilyId::DnsTruncated, u32::from(record.truncated)),
            (FamilyId::DnsSearchMisses, record.search_misses),
        ];
        for (family, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            self.add(family, flow, inputs, count.into());
        }
        if let DnsOutcome::Answered(_) = record.outcome {
            let seconds = f64::from(record.latency_us) / 1e6;
            self.observe(FamilyId::DnsDuration, flow, inputs, seconds);
            if flow.role == Role::Client {
                let inputs = KeyInputs {
                    cause: error_type(record.outcome.rcode()).map(EventLabel::Reason),
                    ..inputs
                };
                self.observe(FamilyId::DnsLookupDuration, flow, inputs, seconds);
            }
        }
    }

    /// Counts the transactions that would have been folded in, and drops them.
    pub(super) fn shed_dns(&self, records: &[DnsRecord]) {
        self.shed.dropped(records.len() as u64, 0, MEMORY_LIMIT);
    }
}

/// The value of OpenTelemetry's `error.type` for a lookup: the names of errors of `getaddrinfo`. None for one that did not fail.
const fn error_type(rcode: DnsRcode) -> Option<FailureReason> {
    match rcode {
        DnsRcode::NoError | DnsRcode::Multicast => None,
        DnsRcode::NxDomain => Some(FailureReason::HostNotFound),
        DnsRcode::ServFail | DnsRcode::Timeout => Some(FailureReason::TryAgain),
        DnsRcode::FormErr
        | DnsRcode::NotImp
        | DnsRcode::Refused
        | DnsRcode::NotAuth
        | DnsRcode::BadVers
        | DnsRcode::Other => Some(FailureReason::NoRecovery),
    }
}
