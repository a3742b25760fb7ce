//! Reading a struct although parts of it are wrong, so that every mistake is reported at once.
//!
//! Deserialization stops at the first error. So the key that it names is taken out (its default takes its place) and the
//! rest is read again, until it can be read or the error names nothing that could be taken out.

use std::collections::HashMap;

use figment::error::{Error, Kind};
use figment::value::{Dict, Value};

use crate::diagnostic::closest;
use crate::secret;

/// One mistake, below the value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where; indices are those of the original lists.
    pub path: Vec<String>,
    /// Message, without the place.
    pub message: String,
    /// Fix.
    pub help: Option<String>,
}

/// More mistakes than this in one component are not looked for.
const MAX_MISTAKES: usize = 100;

/// Reads `value` with `parse`. The result is `None` if it can't be read even without the keys that
/// are wrong. A value that `text` knows as text is also tried as text.
pub fn read<T>(
    mut value: Value,
    text: impl Fn(&[String]) -> Option<String>,
    mut parse: impl FnMut(&Value) -> Result<T, Error>,
) -> (Option<T>, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    let mut taken = Taken::default();
    while mistakes.len() < MAX_MISTAKES {
        let error = match parse(&value) {
            Ok(read) => return (Some(read), mistakes),
            Err(error) => error,
        };
        // An unknown key is the last part of its error's path.
        let path = error.path.clone();
        if matches!(error.kind, Kind::InvalidType(..))
            && let Some(text) = text(&taken.before(&path))
            && make_text(&mut value, &path, text)
        {
            continue;
        }
        let removed = !matches!(error.kind, Kind::MissingField(_)) && remove(&mut value, &path);
        mistakes.push(Mistake {
            message: message(&error.kind, secret::is_secret(&path)),
            help: help(&error.kind),
            path: if removed {
                taken.original(&path)
            } else {
                taken.before(&path)
            },
        });
        if !removed {
            break;
        }
    }
    (None, mistakes)
}

fn message(kind: &Kind, secret: bool) -> String {
    match kind {
        // The value that was found is omitted: it may be the secret.
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) if secret => {
            format!("must be {expected}; quotes make a text of a number")
        }
        Kind::UnknownField(..) => "there is no such key".to_owned(),
        Kind::UnknownVariant(found, _) => format!("`{found}` is none of the possible values"),
        Kind::Message(message) => message.clone(),
        kind => kind.to_string(),
    }
}

fn help(kind: &Kind) -> Option<String> {
    let (Kind::UnknownField(found, expected) | Kind::UnknownVariant(found, expected)) = kind else {
        return None;
    };
    Some(match closest(found, expected.iter().copied()) {
        Some(like) => format!("did you mean `{like}`?"),
        None if expected.is_empty() => "nothing can be set here".to_owned(),
        None => format!("possible here: {}", expected.join(", ")),
    })
}

/// Puts `text` at `path`; false if there is text already, or nothing.
fn make_text(value: &mut Value, path: &[String], text: String) -> bool {
    let Some((name, rest)) = path.split_first() else {
        let other = !matches!(value, Value::String(..));
        *value = Value::from(text);
        return other;
    };
    let below = match value {
        Value::Dict(_, dict) => dict.get_mut(name),
        Value::Array(_, list) => name.parse::<usize>().ok().and_then(|index| list.get_mut(index)),
        _ => None,
    };
    below.is_some_and(|value| make_text(value, rest, text))
}

/// Takes what is at `path` out of `value`; false if there is nothing.
fn remove(value: &mut Value, path: &[String]) -> bool {
    let Some((name, rest)) = path.split_first() else {
        return false;
    };
    match value {
        Value::Dict(_, dict) if rest.is_empty() => dict.remove(name).is_some(),
        Value::Dict(_, dict) => dict.get_mut(name).is_some_and(|value| remove(value, rest)),
        Value::Array(_, list) => match name.parse::<usize>() {
            Ok(index) if index < list.len() && rest.is_empty() => {
                list.remove(index);
                true
            }
            Ok(index) => list.get_mut(index).is_some_and(|value| remove(value, rest)),
            Err(_) => false,
        },
        _ => false,
    }
}

/// Original indices of what was taken out of lists, by the list's path, so that later errors can be put where the user
/// sees them.
#[derive(Default)]
struct Taken(HashMap<Vec<String>, Vec<usize>>);

impl Taken {
    /// `path` with its indices as they were before anything was taken out.
    fn before(&self, path: &[String]) -> Vec<String> {
        let mut original: Vec<String> = Vec::with_capacity(path.len());
        for part in path {
            let part = match (self.0.get(&original), part.parse::<usize>()) {
                (Some(taken), Ok(index)) => taken
                    .iter()
                    .fold(index, |index, before| index + usize::from(*before <= index))
                    .to_string(),
                _ => part.clone(),
            };
            original.push(part);
        }
        original
    }

    /// The same, and remembers it as taken.
    fn original(&mut self, path: &[String]) -> Vec<String> {
        let path = self.before(path);
        if let Some((last, list)) = path.split_last()
            && let Ok(index) = last.parse()
        {
            let taken = self.0.entry(list.to_vec()).or_default();
            taken.push(index);
            taken.sort_unstable();
        }
        path
    }
}

/// A value's entries, if it is a mapping.
pub(crate) fn into_dict(value: Value) -> Option<Dict> {
    match value {
        Value::Dict(_, dict) => Some(dict),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        size: u8,
        name: String,
        ports: Vec<u16>,
    }

    fn read_yaml(text: &str) -> (Option<Sample>, Vec<Mistake>) {
        read(
            crate::document::value_from_yaml(text).unwrap(),
            |path| (path == ["name"] || path == ["size"]).then(|| "7".to_owned()),
            Value::deserialize,
        )
    }

    #[test]
    fn every_mistake_is_found_and_the_rest_is_read() {
        let (sample, mistakes) = read_yaml("{size: big, nme: x, ports: [1, a, 2, b, 3], name: y}");
        let sample = sample.unwrap();
        assert_eq!(
            (sample.size, &*sample.name, &*sample.ports),
            (0, "y", &[1, 2, 3][..])
        );
        let mut paths: Vec<_> = mistakes.iter().map(|mistake| mistake.path.join(".")).collect();
        paths.sort();
        assert_eq!(paths, ["nme", "ports.1", "ports.3", "size"]);
        let unknown = mistakes.iter().find(|mistake| mistake.path == ["nme"]).unwrap();
        assert_eq!(unknown.help.as_deref(), Some("did you mean `name`?"));
    }

    #[test]
    fn what_was_text_before_its_substitution_is_text_where_that_is_wanted() {
        let (sample, mistakes) = read_yaml("{name: 7, size: 7}");
        let sample = sample.unwrap();
        assert_eq!((sample.name.as_str(), sample.size), ("7", 7));
        assert_eq!(mistakes, []);
        // Tried once, not for ever.
        let (_, mistakes) = read_yaml("{size: [7]}");
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    }

    #[test]
    fn what_is_no_mapping_can_not_be_read() {
        let (sample, mistakes) = read_yaml("text");
        assert!(sample.is_none());
        assert_eq!(mistakes.len(), 1);
    }
}
