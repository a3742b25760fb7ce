//! `${env:X}` and `${env:X:-default}` in values, and `$$` for a dollar sign.
//!
//! Substitution works on parsed values, so that what a variable holds can't change the structure of a config. A value that
//! is one substitution and nothing else is read again as a scalar, so that `max_series: ${env:N}` is a number.

use figment::value::{Dict, Value};

use crate::diagnostic::{Diagnostic, key_of};
use crate::document::value_from_yaml;
use crate::layers::Merged;

/// Substitutes in all of `merged`.
pub(crate) fn substitute(merged: &mut Merged, env: &[(String, String)], diagnostics: &mut Vec<Diagnostic>) {
    let mut values = std::mem::take(&mut merged.values);
    let mut failures = Vec::new();
    in_dict(&mut values, &mut Vec::new(), env, &mut failures);
    merged.values = values;
    for (path, message) in failures {
        diagnostics.push(Diagnostic {
            origin: merged.origin(&path),
            key: key_of(&path),
            message,
            help: Some("set it, or give a default: ${env:NAME:-default}; a dollar sign is `$$`".to_owned()),
        });
    }
}

type Failures = Vec<(Vec<String>, String)>;

fn in_dict(values: &mut Dict, path: &mut Vec<String>, env: &[(String, String)], failures: &mut Failures) {
    for (key, value) in values {
        path.push(key.clone());
        in_value(value, path, env, failures);
        path.pop();
    }
}

fn in_value(value: &mut Value, path: &mut Vec<String>, env: &[(String, String)], failures: &mut Failures) {
    match value {
        Value::String(tag, text) if text.contains('$') => match expand(text, env) {
            Ok((expanded, true)) => {
                let scalar = value_from_yaml(&expanded).ok().filter(is_scalar);
                *value = scalar.unwrap_or(Value::String(*tag, expanded));
            }
            Ok((expanded, false)) => *text = expanded,
            Err(message) => failures.push((path.clone(), message)),
        },
        Value::Array(_, list) => {
            for (index, value) in list.iter_mut().enumerate() {
                path.push(index.to_string());
                in_value(value, path, env, failures);
                path.pop();
            }
        }
        Value::Dict(_, dict) => in_dict(dict, path, env, failures),
        _ => {}
    }
}

const fn is_scalar(value: &Value) -> bool {
    matches!(value, Value::Bool(..) | Value::Num(..))
}

/// `text` with everything substituted, and whether it was one substitution and nothing else.
fn expand(text: &str, env: &[(String, String)]) -> Result<(String, bool), String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = after.strip_prefix('{') {
            let (inner, after) = inner.split_once('}').ok_or("a `${` without its `}`")?;
            out.push_str(lookup(inner, env)?);
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    let whole = text.starts_with("${") && text.find('}') == Some(text.len() - 1);
    Ok((out, whole))
}

fn lookup<'a>(inner: &'a str, env: &'a [(String, String)]) -> Result<&'a str, String> {
    let Some(reference) = inner.strip_prefix("env:") else {
        return Err(format!("`${{{inner}}}` is no substitution: write ${{env:NAME}}"));
    };
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let found = env
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str());
    found
        .or(default)
        .ok_or_else(|| format!("the environment variable {name} is not set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<(String, bool), String> {
        expand(
            text,
            &[
                ("A".to_owned(), "1".to_owned()),
                ("B".to_owned(), "x: y".to_owned()),
            ],
        )
    }

    #[test]
    fn variables_defaults_and_dollar_signs_are_expanded() {
        for (text, expected, whole) in [
            ("${env:A}", "1", true),
            ("a-${env:A}-b", "a-1-b", false),
            ("${env:A}${env:A}", "11", false),
            ("${env:C:-7}", "7", true),
            ("${env:C:-}", "", true),
            ("$${env:A}", "${env:A}", false),
            ("5$", "5$", false),
            ("${env:B}", "x: y", true),
        ] {
            assert_eq!(expanded(text), Ok((expected.to_owned(), whole)), "{text}");
        }
    }

    #[test]
    fn what_is_not_set_or_not_closed_is_an_error_that_names_it() {
        assert!(expanded("${env:C}").unwrap_err().contains('C'));
        assert!(expanded("${env:A").is_err());
        assert!(expanded("${file:A}").is_err());
    }
}
