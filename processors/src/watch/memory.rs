//! Knowledge of subjects and contacts: the part that survives a restart.

use std::collections::HashMap;

use flowtap_pipeline::Flow;
use serde::{Deserialize, Serialize};

use super::ends::ContactKey;
use super::history::{History, Mean, Rhythm};

/// A contact, as remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Contact {
    /// Seconds since the epoch when it was seen last.
    pub(super) last: u32,
    /// Bytes per interval in which any moved.
    pub(super) volume: History,
    /// Part of the connects that failed, per interval in which any was tried.
    pub(super) failures: Mean,
    pub(super) rhythm: Rhythm,
    /// Whether it was regular while nothing was reported: then it is usual.
    pub(super) is_regular: bool,
    /// Of the open interval.
    #[serde(skip)]
    pub(super) now: Activity,
    /// A flow of the open interval.
    #[serde(skip)]
    pub(super) newest: Option<Box<Flow>>,
}

/// Activity of a contact in the open interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Activity {
    pub(super) bytes: u64,
    pub(super) opened: u32,
    pub(super) failed: u32,
}

/// A subject, as remembered, without its contacts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) name: String,
    /// Seconds since the epoch when it was seen last.
    pub(super) last: u32,
    /// Bytes sent to external peers, per interval in which any were.
    pub(super) sent: History,
    /// Addresses tried per interval in which any was.
    pub(super) destinations: Mean,
}

/// Everything that was learned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// When learning began, in nanoseconds since the epoch; 0 before the first watermark.
    pub(super) since: u64,
    pub(super) subjects: Vec<Option<Subject>>,
    pub(super) contacts: HashMap<ContactKey, Contact>,
    #[serde(skip)]
    numbers: HashMap<String, u32>,
}

impl Memory {
    /// The number of the subject of this name; a new one if there is room.
    pub(super) fn number(&mut self, name: String, max: usize) -> Option<u32> {
        if let Some(number) = self.numbers.get(&name) {
            return Some(*number);
        }
        if self.numbers.len() >= max {
            return None;
        }
        let free = self.subjects.iter().position(Option::is_none);
        let number = free.unwrap_or(self.subjects.len());
        if free.is_none() {
            self.subjects.push(None);
        }
        self.subjects[number] = Some(Subject {
            name: name.clone(),
            ..Subject::default()
        });
        // There are fewer than `max`.
        let number = u32::try_from(number).ok()?;
        self.numbers.insert(name, number);
        Some(number)
    }

    pub(super) fn subject_mut(&mut self, number: u32) -> Option<&mut Subject> {
        self.subjects.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn name(&self, number: u32) -> &str {
        let subject = self.subjects.get(number as usize);
        subject
            .and_then(Option::as_ref)
            .map_or("unknown", |subject| &subject.name)
    }

    /// Forgets what was seen before `limit`, in seconds since the epoch.
    pub(super) fn forget(&mut self, limit: u32) {
        self.contacts.retain(|_, contact| contact.last >= limit);
        for place in &mut self.subjects {
            if let Some(subject) = place.take_if(|subject| subject.last < limit) {
                self.numbers.remove(&subject.name);
            }
        }
        let subjects = &self.subjects;
        self.contacts
            .retain(|key, _| subjects.get(key.subject as usize).is_some_and(Option::is_some));
    }

    /// Finds the numbers again after it was read from a file.
    pub(super) fn index(&mut self) {
        let named = self.subjects.iter().zip(0_u32..);
        self.numbers = named
            .filter_map(|(subject, number)| Some((subject.as_ref()?.name.clone(), number)))
            .collect();
    }
}
