//! Folding of findings into the window.
//!
//! Where `watch` is in the pipeline, and no label distinguishes peers or processes, the series exist from the start, at 0, and never leave:
//! the first finding of a kind is an increase then, and so is one that comes after a long pause.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowtap_pipeline::catalog::{FamilyId, Label};
use flowtap_pipeline::{Endpoint, FindingKind, FindingRecord, Flow, FlowKind, PeerClass};

use super::super::event_label::EventLabel;
use super::super::key::KeyInputs;
use super::Window;

const ROLES: [FlowKind; 2] = [FlowKind::Egress, FlowKind::Ingress];

/// An address of each family.
const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

impl Window {
    pub(super) fn fold_finding(&mut self, finding: &FindingRecord) {
        self.add(FamilyId::Findings, &finding.flow, inputs(finding.kind), 1);
    }

    /// Whether the series of findings exist from the start, and never leave.
    pub(super) fn keeps_findings(&self) -> bool {
        self.catalog.is_enabled(FamilyId::Findings)
            && self.catalog.has_few_series(FamilyId::Findings)
            && self.findings.has_watcher_in(&self.pipeline)
    }

    /// Opens the series of findings that are still missing: all of them at first, those of classes that a reload brings in later.
    pub(super) fn open_findings(&mut self) {
        let labels = self.catalog.labels_of(FamilyId::Findings);
        let Some(labels) = labels.filter(|_| self.keeps_findings()) else {
            return;
        };
        let roles = &ROLES[..if labels.has(Label::Flow) { 2 } else { 1 }];
        let addresses = &ADDRESSES[..if labels.has(Label::NetworkType) { 2 } else { 1 }];
        for class in PeerClass::known() {
            for kind in FindingKind::ALL
                .into_iter()
                .filter(|kind| is_possible(*kind, class))
            {
                for role in roles {
                    for addr in addresses {
                        let nobody = Endpoint::new(*addr, 0);
                        let flow = Flow {
                            class: Some(class),
                            kind: Some(*role),
                            ..Flow::new(nobody, nobody)
                        };
                        let key = self.catalog.key(FamilyId::Findings, &flow, inputs(kind));
                        if key.is_some_and(|key| !self.sums.has(&key)) {
                            self.add(FamilyId::Findings, &flow, inputs(kind), 0);
                        }
                    }
                }
            }
        }
    }
}

fn inputs(kind: FindingKind) -> KeyInputs<'static> {
    KeyInputs {
        cause: Some(EventLabel::Finding(kind)),
        ..KeyInputs::default()
    }
}

/// Whether a finding of this kind can be about a peer of this class.
const fn is_possible(kind: FindingKind, class: PeerClass) -> bool {
    match kind {
        FindingKind::BlackList => matches!(class, PeerClass::AbnormalFlowBlackList),
        FindingKind::NotOnWhiteList => matches!(class, PeerClass::ExternalHosts),
        // Of external peers, and of those whose class is not known.
        FindingKind::Beacon => matches!(
            class,
            PeerClass::ExternalHosts | PeerClass::AbnormalFlowBlackList | PeerClass::Unknown
        ),
        FindingKind::FirstContact
        | FindingKind::FanOut
        | FindingKind::FailureSurge
        | FindingKind::VolumeSurge => true,
    }
}
