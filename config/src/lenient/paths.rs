//! Paths in a value: what is there, what was taken out, and what the user wrote in its place.

use std::collections::{HashMap, HashSet};

use figment::value::Value;

/// The value at `path`.
pub(super) fn find<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| match value {
        Value::Dict(_, dict) => dict.get(name),
        Value::Array(_, list) => list.get(name.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Puts `new` at `path`, the last part of which may be a new key; false if there is no place for it.
pub(super) fn put(value: &mut Value, path: &[String], new: Value) -> bool {
    let Some((name, rest)) = path.split_first() else {
        *value = new;
        return true;
    };
    match value {
        Value::Dict(_, dict) if rest.is_empty() => {
            dict.insert(name.clone(), new);
            true
        }
        Value::Dict(_, dict) => dict.get_mut(name).is_some_and(|value| put(value, rest, new)),
        Value::Array(_, list) => {
            let entry = name.parse::<usize>().ok().and_then(|index| list.get_mut(index));
            entry.is_some_and(|value| put(value, rest, new))
        }
        _ => false,
    }
}

/// Takes what is at `path` out of `value`; false if there is nothing.
pub(super) fn remove(value: &mut Value, path: &[String]) -> bool {
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

/// Places whose names in the value are not those that the user wrote.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// The name that the user wrote, by the path of the key that it was taken for.
    renamed: HashMap<Vec<String>, String>,
    /// Lists around an entry that the user wrote without one.
    wrapped: HashSet<Vec<String>>,
}

impl Names {
    pub(super) fn rename(&mut self, meant: Vec<String>, written: &str) {
        self.renamed.insert(meant, written.to_owned());
    }

    pub(super) fn wrap(&mut self, path: &[String]) {
        self.wrapped.insert(path.to_vec());
    }

    /// The path that the user wrote for `path`.
    pub(crate) fn shown(&self, path: &[String]) -> Vec<String> {
        let mut shown = Vec::with_capacity(path.len());
        for (index, part) in path.iter().enumerate() {
            if self.wrapped.contains(&path[..index]) {
                continue;
            }
            let written = self.renamed.get(&path[..=index]);
            shown.push(written.unwrap_or(part).clone());
        }
        shown
    }
}

/// Original indices of what was taken out of lists, by the list's path, so that later errors can be put where the user
/// sees them.
#[derive(Default)]
pub(super) struct Removed(HashMap<Vec<String>, Vec<usize>>);

impl Removed {
    /// `path` with its indices as they were before anything was taken out.
    pub(super) fn before(&self, path: &[String]) -> Vec<String> {
        let mut original: Vec<String> = Vec::with_capacity(path.len());
        for part in path {
            let part = match (self.0.get(&original), part.parse::<usize>()) {
                (Some(removed), Ok(index)) => removed
                    .iter()
                    .fold(index, |index, before| index + usize::from(*before <= index))
                    .to_string(),
                _ => part.clone(),
            };
            original.push(part);
        }
        original
    }

    /// Remembers the original path of what was taken out.
    pub(super) fn add(&mut self, original: &[String]) {
        if let Some((last, list)) = original.split_last()
            && let Ok(index) = last.parse()
        {
            let removed = self.0.entry(list.to_vec()).or_default();
            removed.push(index);
            removed.sort_unstable();
        }
    }
}
