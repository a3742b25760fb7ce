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

mod paths;

use std::collections::{HashMap, HashSet};

use figment::error::{Actual, Error, Kind};
use figment::value::{Dict, Empty, Value};

pub(crate) use self::paths::Names;
use self::paths::{Removed, find, put, remove};
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
mod tests;
