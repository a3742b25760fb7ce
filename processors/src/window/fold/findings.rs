//! Folding of findings into the window.

use flowtap_pipeline::FindingRecord;
use flowtap_pipeline::catalog::FamilyId;

use super::super::event_label::EventLabel;
use super::super::key::KeyInputs;
use super::Window;

impl Window {
    pub(super) fn fold_finding(&mut self, finding: &FindingRecord) {
        let inputs = KeyInputs {
            cause: Some(EventLabel::Finding(finding.kind)),
            ..KeyInputs::default()
        };
        self.add(FamilyId::Findings, &finding.flow, inputs, 1);
    }
}
