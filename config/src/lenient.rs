//! Reading a struct although parts of it are wrong, so that every mistake is reported at once.
//!
//! Deserialization stops at the first error. So what the error names is put right and the rest is read again, in this order:
//!
//! 1. A value that can be read in another way is ([`Source::others`]): the text of a number where text is wanted.
//! 2. A key without a value is taken out: its default takes its place.
//! 3. Anything else is a mistake, and what its hint advises is done, so that the next mistake is the one that would be left: a key
//!    with another program's name gets the right one, an entry without its list a list.
//! 4. Without such advice a key that is wrong is taken out; a key that is missing gets a stand-in, so that what surrounds it can be
//!    read.
//!
//! The value then has stand-ins and defaults in place of wrong parts. It is for further checks, not
//! for use. Paths below are those of the schema; `Reading::shown` returns the one that the user wrote.

use std::collections::{HashMap, HashSet};

use figment::error::{Actual, Error, Kind};
use figment::value::{Dict, Empty, Value};

use crate::secret;
use crate::shape::Shape;
use crate::suggest;
use crate::words::{self, Words};

/// One mistake, below the value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Where; indices are those of the original lists.
    pub path: Vec<String>,
    /// Message, without the place.
    pub message: String,
    /// Fix.
    pub help: Option<String>,
    /// The word, if it is one that is not among those that are possible, and its key by the schema.
    pub(crate) word: Option<(Vec<String>, String)>,
    /// Whether what is at `path` was corrected and read again, so that a further mistake there is part of this one.
    is_corrected: bool,
}

/// More mistakes than this in one component are not looked for.
const MAX_MISTAKES: usize = 100;

/// More attempts than this are not made. Each mistake takes a few.
const MAX_ATTEMPTS: usize = 2000;

/// Further knowledge of a value. Paths are below it, indices those of the original lists.
pub(crate) trait Source {
    /// Other ways to read the value at `path`, which now is `value`.
    fn others(&self, _path: &[String], _value: &Value) -> Vec<Value> {
        Vec::new()
    }

    /// Suggestion for the key `key` of the mapping at `path`, which has the value `value` and may have the keys `possible`.
    fn instead_of(
        &self,
        _path: &[String],
        key: &str,
        value: Option<&Value>,
        possible: &[&str],
    ) -> Suggestion {
        Suggestion::closest(key, value, possible)
    }

    /// The word that is probably meant by the word `word` at `path`.
    fn instead_of_word(&self, _path: &[String], _word: &str) -> Option<&'static str> {
        None
    }
}

/// Suggestion for an unknown key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Suggestion {
    /// For the user.
    pub(crate) hint: String,
    /// The key of the same mapping, if it is one.
    pub(crate) key: Option<String>,
    /// The value that that key gets; `None` if it is not known.
    pub(crate) value: Option<Value>,
}

impl Suggestion {
    /// The key that was probably meant, or all possible keys.
    pub(crate) fn closest(key: &str, value: Option<&Value>, possible: &[&str]) -> Self {
        match suggest::closest(key, possible.iter().copied()) {
            Some(like) => Self {
                hint: format!("did you mean `{like}`?"),
                key: Some(like.to_owned()),
                value: value.cloned(),
            },
            None => Self::of_all(possible),
        }
    }

    /// All keys that there are.
    pub(crate) fn of_all(possible: &[&str]) -> Self {
        Self {
            hint: if possible.is_empty() {
                "no keys are available here".to_owned()
            } else {
                format!("possible here: {}", possible.join(", "))
            },
            key: None,
            value: None,
        }
    }
}

/// Result of reading.
pub(crate) struct Outcome<T> {
    /// `None` if it can't be read even without what is wrong.
    pub(crate) read: Option<T>,
    pub(crate) mistakes: Vec<DecodeError>,
    /// Where what was read is not what the user wrote.
    changed: HashSet<Vec<String>>,
    names: Names,
}

impl<T> Outcome<T> {
    /// Whether what was read at `path` is not what the user wrote, so that nothing more can be said of it.
    pub(crate) fn is_changed(&self, path: &[String]) -> bool {
        let mut changed = self.changed.iter();
        changed.any(|changed| path.starts_with(changed) || !path.is_empty() && changed.starts_with(path))
    }

    /// The place, as the user wrote it, of what was read at `path`.
    pub(crate) fn shown(&self, path: &[String]) -> Vec<String> {
        self.names.shown(path)
    }

    /// Places whose names in what was read are not those that the user wrote.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Words for the mistakes that are about a word, where `possible` has fewer words for its key than its type has.
    pub(crate) fn narrow(
        &mut self,
        source: &dyn Source,
        possible: impl Fn(&T, &[String]) -> Option<Vec<&'static str>>,
    ) {
        let Some(read) = &self.read else {
            return;
        };
        for mistake in &mut self.mistakes {
            let Some((path, word)) = &mistake.word else {
                continue;
            };
            if let Some(possible) = possible(read, path) {
                let Words { message, hint } =
                    words::unknown(word, &possible, source.instead_of_word(path, word));
                (mistake.message, mistake.help) = (message, hint);
            }
        }
    }
}

/// Reads `value`, which is of `shape`, with `parse`.
pub(crate) fn read<T>(
    mut value: Value,
    shape: Option<Shape<'_>>,
    source: &dyn Source,
    mut parse: impl FnMut(&Value) -> Result<T, Error>,
) -> Outcome<T> {
    let misshapen = shape.map(|shape| shape.check(&mut value)).unwrap_or_default();
    let mut reading = Reading {
        value,
        shape,
        source,
        removed: Removed::default(),
        names: Names::default(),
        tried: HashMap::new(),
        known: HashSet::new(),
        misspelt: HashSet::new(),
        stand_ins: HashMap::new(),
        mistakes: Vec::new(),
    };
    for wrong in misshapen {
        reading.known.insert(wrong.path.clone());
        reading.mistakes.push(DecodeError {
            path: wrong.path,
            message: wrong.message,
            help: wrong.hint,
            word: None,
            is_corrected: false,
        });
    }
    for _ in 0..MAX_ATTEMPTS {
        let error = match parse(&reading.value) {
            Ok(read) => return reading.ended(Some(read)),
            Err(error) => error,
        };
        if reading.mistakes.len() >= MAX_MISTAKES || !reading.put_right(&error) {
            break;
        }
    }
    reading.ended(None)
}

/// On the way to a value that can be read.
struct Reading<'s> {
    value: Value,
    shape: Option<Shape<'s>>,
    source: &'s dyn Source,
    removed: Removed,
    names: Names,
    /// Number of other ways in which a value was tried, by its path, and the error of the value
    /// itself.
    tried: HashMap<Vec<String>, (usize, Kind)>,
    /// Where nothing more is reported.
    known: HashSet<Vec<String>>,
    /// Keys that are there under another name, so that they are not missing.
    misspelt: HashSet<Vec<String>>,
    /// Keys that are missing, and how many stand-ins were tried for each.
    stand_ins: HashMap<Vec<String>, usize>,
    mistakes: Vec<DecodeError>,
}

/// Tried in this order for a key that is missing: its type is not known.
fn stand_ins() -> [Value; 7] {
    [
        Value::from("x"),
        Value::from(Vec::<String>::new()),
        Value::from(Dict::new()),
        Value::from(1),
        Value::from(true),
        Value::from("1s"),
        Value::from("127.0.0.1:1"),
    ]
}

impl Reading<'_> {
    fn ended<T>(self, read: Option<T>) -> Outcome<T> {
        let mut changed = self.known;
        changed.extend(self.stand_ins.into_keys());
        changed.extend(self.misspelt);
        Outcome {
            read,
            mistakes: self.mistakes,
            changed,
            names: self.names,
        }
    }

    /// Changes the value so that `error` is not met again; false if that can't be done.
    fn put_right(&mut self, error: &Error) -> bool {
        // An unknown key is the last part of its error's path, a missing one is not.
        let path = &error.path;
        let original = self.removed.before(path);
        if let Kind::MissingField(name) = &error.kind {
            return self.stand_in(path, &original, name);
        }
        if let Some(at) =
            (0..=original.len()).find(|&length| self.stand_ins.contains_key(&original[..length]))
        {
            return self.next_stand_in(&path[..at], &original[..at]);
        }
        if let Kind::UnknownField(name, possible) = &error.kind {
            return self.unknown_key(path, &original, name, possible);
        }
        if let Some(other) = self.other_way(path, &original, &error.kind) {
            return put(&mut self.value, path, other);
        }
        let is_entry = path.last().is_none_or(|last| last.parse::<usize>().is_ok());
        if !is_entry && matches!(find(&self.value, path), Some(Value::Empty(..))) {
            return remove(&mut self.value, path);
        }
        if self.known.insert(original.clone()) {
            let kind = self.telling(&original, &error.kind).clone();
            let mistake = self.mistake(&kind, &original);
            self.add(mistake);
        }
        if self.wrap(path, &original) {
            let shown = self.names.shown(&original);
            let mut here = self.mistakes.iter_mut().filter(|mistake| mistake.path == shown);
            if let Some(mistake) = here.next_back() {
                mistake.is_corrected = true;
            }
            return true;
        }
        let removed = remove(&mut self.value, path);
        if removed {
            self.removed.add(&original);
        }
        removed
    }

    /// Reports a mistake, as part of an earlier one if that is about the same entry, which is to be changed once.
    fn add(&mut self, mistake: DecodeError) {
        let mut known = self.mistakes.iter_mut();
        let is_same = |known: &&mut DecodeError| known.path == mistake.path && known.is_corrected;
        match known.find(is_same) {
            Some(known) => {
                let more = mistake.help.unwrap_or(mistake.message);
                known.help = Some(match known.help.take() {
                    Some(help) => {
                        if help.ends_with('?') {
                            format!("{help} {more}")
                        } else {
                            format!("{help}; {more}")
                        }
                    }
                    None => more,
                });
            }
            None => self.mistakes.push(mistake),
        }
    }

    /// Reports the key at `path`, which the mapping there can't have. The value goes to the key that is meant, if that can have it.
    fn unknown_key(&mut self, path: &[String], original: &[String], name: &str, possible: &[&str]) -> bool {
        let (Some((_, above)), Some((_, original_above))) = (path.split_last(), original.split_last()) else {
            return false;
        };
        let value = find(&self.value, path);
        let Suggestion { hint, key, value } = self.source.instead_of(original_above, name, value, possible);
        let new = key
            .as_ref()
            .map(|key| [above, std::slice::from_ref(key)].concat());
        let is_free = new.as_ref().is_some_and(|new| find(&self.value, new).is_none());
        let is_possible = key.as_ref().is_some_and(|key| possible.contains(&&**key));
        let moved = value.filter(|_| is_free && is_possible);
        if self.known.insert(original.to_vec()) {
            let elsewhere = || {
                let at = self.shape?.at(original_above)?.find(name)?;
                Some(format!("did you mean `{at}`?"))
            };
            let hint = if key.is_none() && hint.starts_with("possible here") {
                elsewhere().unwrap_or(hint)
            } else {
                hint
            };
            self.mistakes.push(DecodeError {
                path: self.names.shown(original),
                message: format!("unknown key `{name}`"),
                help: Some(hint),
                word: None,
                is_corrected: moved.is_some(),
            });
        }
        let removed = remove(&mut self.value, path);
        let Some((key, new)) = key.zip(new).filter(|_| removed) else {
            return removed;
        };
        let meant = [original_above, &[key]].concat();
        let Some(value) = moved else {
            // It is there, if under another name: one mistake, not two.
            self.misspelt.insert(meant);
            return true;
        };
        self.names.rename(meant, name);
        put(&mut self.value, &new, value)
    }

    /// Makes a list of the value at `path` if it is an entry of one without the list around it.
    fn wrap(&mut self, path: &[String], original: &[String]) -> bool {
        let Some(entry) = self.shape.and_then(|shape| shape.at(original)?.entry_of_list()) else {
            return false;
        };
        let Some(value) = find(&self.value, path) else {
            return false;
        };
        let fits = match value {
            Value::Dict(_, dict) => {
                let keys = entry.keys();
                let at = [original, &["0".to_owned()]].concat();
                let is_key = |key: &String| {
                    let suggested = || self.source.instead_of(&at, key, None, &keys).key;
                    keys.contains(&&**key) || suggested().is_some()
                };
                !keys.is_empty() && dict.keys().any(is_key)
            }
            Value::String(..) | Value::Num(..) => entry.keys().is_empty(),
            _ => false,
        };
        if !fits {
            return false;
        }
        let list = Value::from(vec![value.clone()]);
        self.names.wrap(original);
        put(&mut self.value, path, list)
    }

    fn mistake(&self, kind: &Kind, original: &[String]) -> DecodeError {
        let shown = self.names.shown(original);
        let secret = secret::is_secret(original) || secret::is_secret(&shown);
        let shape = self.shape.and_then(|shape| shape.at(original));
        let mut words = words::of(kind, shape, secret);
        let mut word = None;
        if let (Kind::UnknownVariant(found, possible), false) = (kind, secret) {
            words = words::unknown(found, possible, self.source.instead_of_word(original, found));
            word = Some((original.to_vec(), found.clone()));
        }
        let Words { message, hint } = words;
        DecodeError {
            path: shown,
            message,
            help: hint,
            word,
            is_corrected: false,
        }
    }

    /// The next way to read the value at `path`.
    fn other_way(&mut self, path: &[String], original: &[String], kind: &Kind) -> Option<Value> {
        let value = find(&self.value, path)?;
        let first = || (0, kind.clone());
        let (tried, _) = self.tried.entry(original.to_vec()).or_insert_with(first);
        let others = self.source.others(&self.names.shown(original), value);
        let other = others.into_iter().nth(*tried).filter(|other| other != value)?;
        *tried += 1;
        Some(other)
    }

    /// Of the ways to read the value at `original`, which all failed, the error of the one that is not text, if there is one.
    fn telling<'k>(&'k self, original: &[String], last: &'k Kind) -> &'k Kind {
        match (self.tried.get(original), last) {
            (
                Some((1.., first)),
                Kind::InvalidType(Actual::Str(_), _)
                | Kind::InvalidValue(Actual::Str(_), _)
                | Kind::Message(_),
            ) => first,
            _ => last,
        }
    }

    /// Reports that the mapping at `path` lacks `name`, and puts something there.
    fn stand_in(&mut self, path: &[String], original: &[String], name: &str) -> bool {
        let missing = [original, &[name.to_owned()]].concat();
        if !self.known.contains(&missing) && !self.misspelt.contains(&missing) {
            let shape = self.shape.and_then(|shape| shape.at(&missing));
            self.mistakes.push(DecodeError {
                path: self.names.shown(original),
                message: format!("`{name}` must be set"),
                help: shape.and_then(Shape::example),
                word: None,
                is_corrected: false,
            });
        }
        self.stand_ins.insert(missing.clone(), 0);
        self.next_stand_in(&[path, &[name.to_owned()]].concat(), &missing)
    }

    fn next_stand_in(&mut self, path: &[String], original: &[String]) -> bool {
        let tried = self.stand_ins.entry(original.to_vec()).or_default();
        *tried += 1;
        let tried = *tried - 1;
        if let Some(value) = stand_ins().into_iter().nth(tried) {
            return put(&mut self.value, path, value);
        }
        // Nothing fits, so what lacks it is taken out as a whole.
        self.stand_ins.remove(original);
        let Some((_, above)) = path.split_last() else {
            return false;
        };
        let Some((_, original)) = original.split_last() else {
            return false;
        };
        self.known.insert(original.to_vec());
        let removed = remove(&mut self.value, above);
        if removed {
            self.removed.add(original);
        }
        removed
    }
}

/// The value at `path`.
fn find<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| match value {
        Value::Dict(_, dict) => dict.get(name),
        Value::Array(_, list) => list.get(name.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Puts `new` at `path`, the last part of which may be a new key; false if there is no place for it.
fn put(value: &mut Value, path: &[String], new: Value) -> bool {
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

/// Places whose names in the value are not those that the user wrote.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// The name that the user wrote, by the path of the key that it was taken for.
    renamed: HashMap<Vec<String>, String>,
    /// Lists around an entry that the user wrote without one.
    wrapped: HashSet<Vec<String>>,
}

impl Names {
    fn rename(&mut self, meant: Vec<String>, written: &str) {
        self.renamed.insert(meant, written.to_owned());
    }

    fn wrap(&mut self, path: &[String]) {
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
struct Removed(HashMap<Vec<String>, Vec<usize>>);

impl Removed {
    /// `path` with its indices as they were before anything was taken out.
    fn before(&self, path: &[String]) -> Vec<String> {
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
    fn add(&mut self, original: &[String]) {
        if let Some((last, list)) = original.split_last()
            && let Ok(index) = last.parse()
        {
            let removed = self.0.entry(list.to_vec()).or_default();
            removed.push(index);
            removed.sort_unstable();
        }
    }
}

/// A value's entries, if it is a mapping.
pub(crate) fn into_dict(value: Value) -> Option<Dict> {
    match value {
        Value::Dict(_, dict) => Some(dict),
        _ => None,
    }
}

/// Puts an empty mapping in place of nothing.
pub(crate) fn fill_in(value: &mut Value) {
    if let Value::Empty(tag, Empty::None | Empty::Unit) = value {
        *value = Value::Dict(*tag, Dict::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::path::PathBuf;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        size: u8,
        name: String,
        ports: Vec<u16>,
        auth: Option<Auth>,
        classes: Vec<Class>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read for its mistakes")]
    struct Auth {
        username: String,
        password_from: PathBuf,
        address: std::net::IpAddr,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read for its mistakes")]
    struct Class {
        name: String,
        sizes: Vec<u8>,
    }

    /// Both could be read as text.
    struct Texts;

    impl Source for Texts {
        fn others(&self, path: &[String], value: &Value) -> Vec<Value> {
            if (path == ["name"] || path == ["size"]) && !matches!(value, Value::Empty(..)) {
                vec![Value::from("7")]
            } else {
                Vec::new()
            }
        }
    }

    fn read_yaml(text: &str) -> (Option<Sample>, Vec<DecodeError>) {
        let value = crate::document::value_from_yaml(text).unwrap();
        let outcome = read(value, None, &Texts, Value::deserialize);
        (outcome.read, outcome.mistakes)
    }

    fn paths(mistakes: &[DecodeError]) -> Vec<String> {
        let mut paths: Vec<_> = mistakes.iter().map(|mistake| mistake.path.join(".")).collect();
        paths.sort();
        paths
    }

    #[test]
    fn every_mistake_is_found_and_the_rest_is_read() {
        let (sample, mistakes) = read_yaml("{size: big, nme: x, ports: [1, a, 2, b, 3], name: y}");
        let sample = sample.unwrap();
        assert_eq!(
            (sample.size, &*sample.name, &*sample.ports),
            (0, "y", &[1, 2, 3][..])
        );
        assert_eq!(paths(&mistakes), ["nme", "ports.1", "ports.3", "size"]);
        let unknown = mistakes.iter().find(|mistake| mistake.path == ["nme"]).unwrap();
        assert_eq!(unknown.help.as_deref(), Some("did you mean `name`?"));
    }

    #[test]
    fn a_missing_key_hides_no_other_mistake() {
        let (sample, mistakes) = read_yaml(
            "{auth: {username: [], colour: red}, classes: [{name: a}, {sizes: [x]}, 7], zone: 1, ports: [z]}",
        );
        assert!(sample.is_some());
        assert_eq!(
            paths(&mistakes),
            [
                "auth", // address
                "auth", // password_from
                "auth.colour",
                "auth.username",
                "classes.0", // sizes
                "classes.1", // name
                "classes.1.sizes.0",
                "classes.2",
                "ports.0",
                "zone",
            ]
        );
        let missing: Vec<_> = mistakes.iter().map(|mistake| &*mistake.message).collect();
        for name in ["address", "password_from", "sizes", "name"] {
            assert!(
                missing.contains(&&*format!("`{name}` must be set")),
                "{missing:?}"
            );
        }
    }

    #[test]
    fn a_key_under_another_name_is_one_mistake() {
        let (_, mistakes) = read_yaml("{classes: [{nam: a, sizes: []}]}");
        assert_eq!(paths(&mistakes), ["classes.0.nam"]);
    }

    #[test]
    fn what_is_below_a_key_under_another_name_is_read_as_what_is_meant() {
        let (sample, mistakes) = read_yaml("{clases: [{name: a, sizes: [x]}], port: [1, a], nmae: y}");
        let sample = sample.unwrap();
        assert_eq!((&*sample.name, &*sample.ports), ("y", &[1][..]));
        assert_eq!(
            paths(&mistakes),
            ["clases", "clases.0.sizes.0", "nmae", "port", "port.1"]
        );
        // One entry is to be changed, so it is one mistake.
        let (_, mistakes) = read_yaml("{sise: big}");
        assert_eq!(paths(&mistakes), ["sise"]);
        let help = mistakes[0].help.as_deref().unwrap();
        assert!(
            help.starts_with("did you mean `size`? expected a whole number"),
            "{help}"
        );
        // Both are there: the one with the right name counts.
        let (sample, mistakes) = read_yaml("{nmae: x, name: y}");
        assert_eq!(
            (sample.unwrap().name.as_str(), paths(&mistakes)),
            ("y", vec!["nmae".to_owned()])
        );
    }

    #[test]
    fn an_entry_without_its_list_is_read_as_one() {
        let schema = serde_json::json!({"properties": {
            "ports": {"type": "array", "items": {"type": "integer"}},
            "classes": {"type": "array", "items": {"type": "object", "properties": {"name": {}, "sizes": {"type": "array"}}}},
        }});
        let read_yaml = |text: &str| {
            let value = crate::document::value_from_yaml(text).unwrap();
            let outcome = read(
                value,
                Some(Shape::new(&schema)),
                &Texts,
                Value::deserialize::<Sample>,
            );
            (outcome.read, paths(&outcome.mistakes))
        };
        let (sample, mistakes) = read_yaml("{ports: 7, classes: {name: a, sizes: [x]}}");
        let sample = sample.unwrap();
        assert_eq!((&*sample.ports, sample.classes.len()), (&[7][..], 1));
        assert_eq!(mistakes, ["classes", "classes.sizes.0", "ports"]);
        // Nothing of an entry is there, so it is not one.
        let (_, mistakes) = read_yaml("{classes: {shop: [1]}}");
        assert_eq!(mistakes, ["classes"]);
        let (_, mistakes) = read_yaml("{classes: shop, ports: http}");
        assert_eq!(mistakes, ["classes", "ports"]);
    }

    #[test]
    fn a_key_without_a_value_has_its_default() {
        let (sample, mistakes) = read_yaml("{size: , ports: , classes: , auth: }");
        assert_eq!(mistakes, []);
        assert_eq!(sample.unwrap().ports, [0; 0]);
        let (_, mistakes) = read_yaml("{classes: [{name: , sizes: []}], ports: [null, 1]}");
        assert_eq!(paths(&mistakes), ["classes.0", "ports.0"]);
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
