//! When a receiver reports every open connection once more.
//!
//! Such a census costs a record for each of them, and an idle connection should cost nothing; so there is none by the clock, but
//! only when somebody may be wrong about what is open:
//!
//! 1. At once, if a pipeline asks for it: its window is new.
//! 2. After records were lost, as soon as a scan has passed without a further loss; while there are more and more, at every
//!    fourth.

use flowtap_pipeline::{Census, FlowBatch};

/// Scans after which a census is due, whatever is still being lost.
const WAIT_TIMEOUT: u8 = 4;

/// Decides before each scan.
#[derive(Clone, Debug, Default)]
pub(crate) struct CensusPlan {
    /// Records lost when this was asked last.
    lost: u64,
    /// Scans since records were lost that no census has made up for.
    waited: Option<u8>,
}

impl CensusPlan {
    /// Whether the next scan should be a census. `wanted`: a pipeline asks for it; `lost`: running total of records that were lost
    /// and may have been of connections that closed. A census that fails is due again: see [`CensusPlan::failed`].
    pub(crate) fn is_due(&mut self, wanted: bool, lost: u64) -> bool {
        let more = std::mem::replace(&mut self.lost, lost) != lost;
        if more && self.waited.is_none() {
            self.waited = Some(0);
        }
        let due = match &mut self.waited {
            Some(waited) => {
                *waited += 1;
                !more || *waited >= WAIT_TIMEOUT
            }
            None => false,
        };
        if due || wanted {
            // Losses in the meantime are left to the next census.
            self.waited = None;
        }
        due || wanted
    }

    /// Records lost when this was asked last.
    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }

    /// The census that was due has not come to its end.
    pub(crate) fn failed(&mut self) {
        self.waited = Some(WAIT_TIMEOUT);
    }
}

/// Marks `batch` as where a census begins; whatever is in it already comes after that.
pub(crate) fn begin(batch: &mut FlowBatch) {
    batch.census = Census {
        begins: true,
        ends: false,
    };
}

/// Marks `batch` as where a census ends.
pub(crate) fn end(batch: &mut FlowBatch) {
    batch.census.ends = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans at which a census is made, when so many records have been lost by each.
    fn scans(lost: &[u64]) -> Vec<usize> {
        let mut plan = CensusPlan::default();
        let due = lost.iter().map(|lost| plan.is_due(false, *lost));
        let due = due.enumerate().filter(|(_, due)| *due);
        due.map(|(scan, _)| scan).collect()
    }

    #[test]
    fn without_a_loss_there_is_none_and_after_one_there_is_one_at_the_next_scan() {
        assert_eq!(scans(&[0; 20]), Vec::<usize>::new());
        assert_eq!(scans(&[0, 5, 5, 5, 5, 5]), [2]);
        assert_eq!(scans(&[0, 5, 5, 7, 7, 7]), [2, 4]);
    }

    #[test]
    fn while_records_are_being_lost_every_fourth_scan_is_one() {
        assert_eq!(scans(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9]), [3, 7, 9]);
    }

    #[test]
    fn one_that_a_pipeline_asks_for_is_made_at_once_and_makes_up_for_losses() {
        let mut plan = CensusPlan::default();
        assert!(plan.is_due(true, 0));
        assert!(!plan.is_due(false, 0));
        assert!(plan.is_due(true, 5));
        assert!(!plan.is_due(false, 5));
    }

    #[test]
    fn one_that_failed_is_due_again() {
        let mut plan = CensusPlan::default();
        assert!(plan.is_due(true, 0));
        plan.failed();
        assert!(plan.is_due(false, 0));
        assert!(!plan.is_due(false, 0));
    }
}
