//! Advice for keys and words that no config has: what was probably meant.

use figment::value::Value;

use crate::aliases::{self, Meant};
use crate::layers::Merged;
use crate::lenient::{self, Suggestion};
use crate::quote;

/// Known places at and below the value at `at`.
pub(super) struct Below<'a> {
    pub(super) merged: &'a Merged,
    pub(super) at: &'a [String],
    /// The same place as aliases have it: section and type.
    pub(super) known: &'a [&'a str],
}

impl lenient::Source for Below<'_> {
    fn others(&self, path: &[String], value: &Value) -> Vec<Value> {
        self.merged.others(&[self.at, path].concat(), value)
    }

    fn instead_of(&self, path: &[String], key: &str, value: Option<&Value>, possible: &[&str]) -> Suggestion {
        let whole: Vec<&str> = self
            .known
            .iter()
            .copied()
            .chain(path.iter().map(String::as_str))
            .collect();
        instead_of(&whole, key, value, possible)
    }

    fn instead_of_word(&self, path: &[String], word: &str) -> Option<&'static str> {
        let mut keys = path.iter().rev();
        let key = keys.find(|part| part.parse::<usize>().is_err())?;
        aliases::word(key, word)
    }
}

/// Suggestion for the unknown `key` in the mapping `at`, in which components are types: the counterpart of another program's key,
/// the key that was probably meant, or all possible keys.
pub(super) fn instead_of(at: &[&str], key: &str, value: Option<&Value>, possible: &[&str]) -> Suggestion {
    let is_possible = |alias: &&aliases::Alias| match alias.meant {
        Meant::Key(key) | Meant::Written(key, _) | Meant::Unit(key, _) => possible.contains(&key),
        Meant::At(_) | Meant::Note(_) => true,
    };
    if let Some(alias) = aliases::find(at, key).filter(is_possible) {
        let hint = alias.hint(value);
        let (key, value) = match alias.meant {
            Meant::Key(key) => (Some(key), value.cloned()),
            Meant::Unit(key, unit) => (Some(key), value.and_then(|value| with_unit(value, unit))),
            Meant::Written(key, _) => (Some(key), None),
            Meant::At(_) | Meant::Note(_) => (None, None),
        };
        return Suggestion {
            hint,
            key: key.map(str::to_owned),
            value,
        };
    }
    Suggestion::closest(key, value, possible)
}

/// A number as a text with its unit.
fn with_unit(value: &Value, unit: &str) -> Option<Value> {
    let number = quote::text(&quote::found(value));
    number
        .parse::<f64>()
        .is_ok()
        .then(|| Value::from(format!("{number}{unit}")))
}
