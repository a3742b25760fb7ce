//! Reading a struct although parts of it are wrong, so that every mistake is told at once.
//!
//! Deserialization stops at the first error. So the key that it names is taken out (its default takes its place) and the
//! rest is read again, until it can be read or the error names nothing that could be taken out.

use std::collections::HashMap;

use figment::error::{Error, Kind};
use figment::value::{Dict, Value};

use crate::diagnostic::closest;

/// One mistake, below the value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where; indices are those of the original lists.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// More mistakes than this in one component are not looked for.
const MAX_MISTAKES: usize = 100;

/// Reads `value` with `parse`. The result is `None` if it can't be read even without the keys that are wrong.
pub fn read<T>(
    mut value: Value,
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
        let removed = !matches!(error.kind, Kind::MissingField(_)) && remove(&mut value, &path);
        mistakes.push(Mistake {
            message: message(&error.kind),
            help: help(&error.kind),
            path: if removed { taken.original(path) } else { path },
        });
        if !removed {
            break;
        }
    }
    (None, mistakes)
}

fn message(kind: &Kind) -> String {
    match kind {
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
    /// `path` with its last index as it was before anything was taken out; remembers it as taken.
    fn original(&mut self, mut path: Vec<String>) -> Vec<String> {
        let Some(mut index) = path.last().and_then(|last| last.parse::<usize>().ok()) else {
            return path;
        };
        path.pop();
        let taken = self.0.entry(path.clone()).or_default();
        for &before in taken.iter() {
            if before <= index {
                index += 1;
            }
        }
        taken.push(index);
        taken.sort_unstable();
        path.push(index.to_string());
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
    fn what_is_no_mapping_can_not_be_read() {
        let (sample, mistakes) = read_yaml("text");
        assert!(sample.is_none());
        assert_eq!(mistakes.len(), 1);
    }
}
