//! Names and values as messages quote them.

use figment::error::Actual;
use figment::value::{Num, Value};

/// `a`, `b` or `c`.
pub(crate) fn list(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

/// Words for what was found.
pub(crate) fn actual(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => format!("`{value}`"),
        Actual::Unsigned(number) => format!("number `{number}`"),
        Actual::Signed(number) => format!("number `{number}`"),
        Actual::Float(number) => format!("floating-point number `{number}`"),
        Actual::Char(text) => format!("text `{text}`"),
        Actual::Str(text) if text.is_empty() => "empty text".to_owned(),
        Actual::Str(text) => format!("text `{text}`"),
        Actual::Unit | Actual::Option => "no value".to_owned(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a mapping".to_owned(),
        _ => "something else".to_owned(),
    }
}

/// The text of a scalar; empty for anything else.
pub(crate) fn text(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Char(text) => text.to_string(),
        Actual::Str(text) => text.clone(),
        _ => String::new(),
    }
}

/// Kind of a value, as serde reports it.
pub(crate) fn found(value: &Value) -> Actual {
    match value {
        Value::String(_, text) => Actual::Str(text.clone()),
        Value::Char(_, text) => Actual::Char(*text),
        Value::Bool(_, value) => Actual::Bool(*value),
        Value::Num(_, number) => match number {
            Num::F32(number) => Actual::Float(f64::from(*number)),
            Num::F64(number) => Actual::Float(*number),
            number => number.to_i128().map_or_else(
                || Actual::Unsigned(number.to_u128().unwrap_or_default()),
                Actual::Signed,
            ),
        },
        Value::Empty(..) => Actual::Unit,
        Value::Dict(..) => Actual::Map,
        Value::Array(..) => Actual::Seq,
    }
}
