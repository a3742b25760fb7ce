//! Reports with key, file and line, as the user wrote them.

use flowtap_pipeline::{ComponentKind, Violation};

use super::Checker;
use crate::diagnostic::{Diagnostic, key_of};
use crate::lenient::{DecodeError, Outcome};
use crate::secret;
use crate::words::split_hint;

const KINDS: [ComponentKind; 4] = [
    ComponentKind::Receiver,
    ComponentKind::Processor,
    ComponentKind::Exporter,
    ComponentKind::Extension,
];

impl Checker<'_> {
    pub(crate) fn diagnostic(
        &self,
        path: &[String],
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        let path = self.as_written(path);
        Diagnostic {
            origin: self.merged.origin(&path),
            key: key_of(&path),
            message: message.into(),
            help,
        }
    }

    /// The place, as the user wrote it, of a key of a component's config.
    fn as_written(&self, path: &[String]) -> Vec<String> {
        if let [section, id, key @ ..] = path
            && crate::layers::find(&self.merged.values, path).is_none()
            && let Some(kind) = KINDS.into_iter().find(|kind| kind.section() == section)
            && let Some((at, names)) = self.written.get(&(kind, id.clone()))
        {
            return [&at[..], &names.shown(key)].concat();
        }
        path.to_vec()
    }

    pub(crate) fn report(&mut self, path: &[String], message: impl Into<String>, help: Option<String>) {
        let message = message.into();
        let message = shortened(secret::without_credentials(&message).unwrap_or(message));
        let diagnostic = self.diagnostic(path, message, help);
        self.diagnostics.push(diagnostic);
    }

    fn report_mistakes(&mut self, above: &[String], mistakes: Vec<DecodeError>) {
        for mistake in mistakes {
            let DecodeError {
                path, message, help, ..
            } = mistake;
            self.report(&[above, &path].concat(), message, help);
        }
    }

    /// Reports what came of reading the value at `at`, and what is wrong with what could be read.
    pub(super) fn report_outcome<T>(
        &mut self,
        at: &[String],
        mut outcome: Outcome<T>,
        faults: impl FnOnce(&T) -> Vec<Violation>,
    ) -> Option<T> {
        self.report_mistakes(at, std::mem::take(&mut outcome.mistakes));
        for fault in outcome.read.as_ref().map(faults).unwrap_or_default() {
            // A stand-in is wrong in its own way.
            if !outcome.is_changed(&fault.path) {
                let (message, hint) = split_hint(&fault.message);
                let path = outcome.shown(&fault.path);
                self.report(&[at, &path].concat(), message, hint);
            }
        }
        outcome.read
    }

    pub(super) fn warn(&mut self, at: &[String], message: impl Into<String>, help: Option<String>) {
        let warning = self.diagnostic(at, message, help);
        self.warnings.push(warning);
    }
}

/// A message without what makes it longer than anybody reads: a value can have any length.
fn shortened(message: String) -> String {
    const SHOWN: usize = 1000;
    let start = message.char_indices().nth(SHOWN);
    let end = message.char_indices().nth_back(SHOWN);
    match (start, end) {
        (Some((start, _)), Some((end, _))) if start < end => {
            format!("{} ... {}", &message[..start], &message[end..])
        }
        _ => message,
    }
}
