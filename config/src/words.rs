//! Plain words for what a value must be and for what was found: messages name no type of the code.

use figment::error::{Actual, Kind};

use crate::quote::{actual, list};
use crate::shape::Shape;
use crate::suggest;

/// Message and hint for an error of deserialization.
pub(crate) struct Words {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Words {
    fn new(message: impl Into<String>, hint: Option<String>) -> Self {
        Self {
            message: message.into(),
            hint,
        }
    }
}

/// Words for `kind`, an error at a value of `shape`. `secret`: the value is not shown.
pub(crate) fn of(kind: &Kind, shape: Option<Shape<'_>>, secret: bool) -> Words {
    match kind {
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            let expected = shape
                .and_then(Shape::wanted)
                .unwrap_or_else(|| expectation(expected));
            if secret {
                // A list or a mapping is not the secret's value.
                let found = match found {
                    Actual::Seq | Actual::Map => format!(", found {}", actual(found)),
                    _ => String::new(),
                };
                return Words::new(format!("expected {expected}{found}"), None);
            }
            let hint = shape.and_then(|shape| shape.hint(found));
            Words::new(format!("expected {expected}, found {}", actual(found)), hint)
        }
        Kind::UnknownVariant(..) if secret => Words::new("is not one of the possible values", None),
        Kind::UnknownVariant(found, expected) => unknown(found, expected, None),
        Kind::MissingField(name) => Words::new(format!("`{name}` must be set"), None),
        Kind::Message(message) if secret => {
            // Repeats the value, as a rule.
            let _ = message;
            Words::new("can't be read", None)
        }
        Kind::Message(message) => {
            let (message, hint) = split_hint(message);
            Words::new(message, hint.or_else(|| shape.and_then(Shape::example)))
        }
        Kind::InvalidLength(length, _) => {
            Words::new(format!("has {length} entries, which does not fit"), None)
        }
        Kind::DuplicateField(name) => Words::new(format!("duplicate key `{name}`"), None),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => Words::new("is too large a number", None),
        _ => Words::new("can't be read", None),
    }
}

/// Words for `found`, which is none of the words that are `possible`. `meant`: the one that another program's word stands for.
pub(crate) fn unknown(found: &str, possible: &[&str], meant: Option<&str>) -> Words {
    /// More than these are a list to search, which a message does not have in its middle.
    const FEW: usize = 10;
    let meant = meant.filter(|meant| possible.contains(meant));
    let like = meant.or_else(|| suggest::closest(found, possible.iter().copied()));
    let hint = like.map(|like| format!("did you mean `{like}`?"));
    if possible.len() <= FEW {
        return Words::new(format!("`{found}` is not one of {}", list(possible)), hint);
    }
    let hint = hint.unwrap_or_else(|| format!("available: {}", possible.join(", ")));
    Words::new(format!("`{found}` is not a possible value"), Some(hint))
}

/// The two parts of a component's message: what is wrong, and what to do.
///
/// A list of what is `available` becomes the one that is most like the word in question, if there is one.
pub(crate) fn split_hint(message: &str) -> (String, Option<String>) {
    if let Some((message, hint)) = message.split_once("; hint: ") {
        return (message.to_owned(), Some(hint.to_owned()));
    }
    let Some((message, names)) = message.split_once("; available: ") else {
        return (message.to_owned(), None);
    };
    let word = message.split('`').nth(1).unwrap_or_default();
    // As it is in an exposition, after a namespace.
    let behind = |name: &&str| {
        word.strip_suffix(name)
            .is_some_and(|before| before.ends_with('_'))
    };
    let named = || names.split(", ").filter(behind).max_by_key(|name| name.len());
    let hint = match suggest::closest(word, names.split(", ")).or_else(named) {
        Some(like) => format!("did you mean `{like}`?"),
        None => format!("available: {names}"),
    };
    (message.to_owned(), Some(hint))
}

/// Words for what serde expected, where the schema says no more.
fn expectation(expected: &str) -> String {
    let most = |most: u64| format!("a whole number from 0 to {most}");
    let from_one = |most: u64| format!("a whole number from 1 to {most}");
    match expected {
        "u8" => most(u8::MAX.into()),
        "u16" => most(u16::MAX.into()),
        "u32" => most(u32::MAX.into()),
        "u64" | "usize" | "u128" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "path string" => "a path".to_owned(),
        "a string" | "string" | "a character" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        "a duration" => "a duration".to_owned(),
        "a nonzero u8" => from_one(u8::MAX.into()),
        "a nonzero u16" => from_one(u16::MAX.into()),
        "a nonzero u32" => from_one(u32::MAX.into()),
        text if text.starts_with("a nonzero") => "a whole number, 1 or more".to_owned(),
        text if text.starts_with("struct ") => "a mapping".to_owned(),
        text if text.starts_with("enum ") || text.contains("variant") => "a word".to_owned(),
        // From a component with custom messages: `expected` is written by its author.
        text => text.to_owned(),
    }
}
