//! `${env:X}`, `${env:X:-default}` and `${file:P}` in values, and `$$` for a dollar sign.
//!
//! Substitution works on parsed values, so that what a variable or file holds can't change the structure of a config. A
//! value that is one substitution and nothing else is read again as a scalar, so that `max_series: ${env:N}` is a number; where
//! text is wanted it stays the text that it was, so that a password may be all digits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use flowtap_pipeline::files;

use crate::diagnostic::{Diagnostic, key_of};
use crate::document::value_from_yaml;
use crate::layers::Merged;

/// Stands for a value that was substituted.
const CONCEALED: &str = "(the substituted value)";

/// A larger file can't be a value.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The reason why a value can't be used, and a hint.
#[derive(Debug, PartialEq, Eq)]
struct SubstitutionError {
    message: String,
    help: String,
}

/// Substitutes in all of `merged`.
pub(crate) fn substitute(merged: &mut Merged, env: &[(String, String)], diagnostics: &mut Vec<Diagnostic>) {
    let mut values = std::mem::take(&mut merged.values);
    let mut substitution = Substitution {
        env,
        path: Vec::new(),
        texts: HashMap::new(),
        substituted: Vec::new(),
        files: Vec::new(),
        failures: Vec::new(),
    };
    substitution.in_dict(&mut values);
    merged.values = values;
    merged.texts = substitution.texts;
    merged.substituted = substitution.substituted;
    merged.files.append(&mut substitution.files);
    for (path, failure) in substitution.failures {
        diagnostics.push(Diagnostic {
            origin: merged.origin(&path),
            key: key_of(&path),
            message: failure.message,
            help: Some(failure.help),
        });
    }
}

/// On its way through the values.
struct Substitution<'e> {
    env: &'e [(String, String)],
    path: Vec<String>,
    texts: HashMap<Vec<String>, String>,
    substituted: Vec<(String, String)>,
    files: Vec<PathBuf>,
    failures: Vec<(Vec<String>, SubstitutionError)>,
}

impl Substitution<'_> {
    fn in_dict(&mut self, values: &mut Dict) {
        for (key, value) in values {
            self.path.push(key.clone());
            self.in_value(value);
            self.path.pop();
        }
    }

    fn in_value(&mut self, value: &mut Value) {
        match value {
            Value::String(tag, text) if text.contains('$') => {
                let expanded = expand(text, self.env, &mut self.files);
                if let Ok((expanded, _)) = &expanded
                    && text.contains("${")
                {
                    self.substituted.push((key_of(&self.path), expanded.clone()));
                }
                match expanded {
                    Ok((expanded, true)) => {
                        if let Some(scalar) = value_from_yaml(&expanded).ok().filter(is_scalar) {
                            *value = scalar;
                            self.texts.insert(self.path.clone(), expanded);
                        } else {
                            *value = Value::String(*tag, expanded);
                        }
                    }
                    Ok((expanded, false)) => *text = expanded,
                    Err(failure) => {
                        self.failures.push((self.path.clone(), failure));
                    }
                }
            }
            Value::Array(_, list) => {
                for (index, value) in list.iter_mut().enumerate() {
                    self.path.push(index.to_string());
                    self.in_value(value);
                    self.path.pop();
                }
            }
            Value::Dict(_, dict) => self.in_dict(dict),
            _ => {}
        }
    }
}

/// Puts [`CONCEALED`] in place of what variables and files have put into values, wherever a message repeats it: it may be a secret
/// that landed in the wrong key.
pub(crate) fn conceal(substituted: &[(String, String)], key: &str, message: &str) -> String {
    let mut message = message.to_owned();
    for (_, value) in substituted.iter().filter(|(at, _)| at.starts_with(key)) {
        let trimmed = value.trim();
        for value in [value.as_str(), trimmed] {
            if value.is_empty() {
                continue;
            }
            for quote in ['`', '"', '\''] {
                message = message.replace(&format!("{quote}{value}{quote}"), CONCEALED);
            }
            // A short one may be part of any word.
            if value.len() >= 4 {
                let escaped = format!("{value:?}");
                message = message.replace(&escaped[1..escaped.len() - 1], CONCEALED);
                message = message.replace(value, CONCEALED);
            }
        }
    }
    message
}

const fn is_scalar(value: &Value) -> bool {
    matches!(value, Value::Bool(..) | Value::Num(..))
}

/// `text` with everything substituted, and whether it was one substitution and nothing else. Files that it names are added to
/// `files`, whether they can be read or not.
fn expand(
    text: &str,
    env: &[(String, String)],
    files: &mut Vec<PathBuf>,
) -> Result<(String, bool), SubstitutionError> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = after.strip_prefix('{') {
            let (inner, after) = inner.split_once('}').ok_or_else(|| SubstitutionError {
                message: "a `${` without its `}`".to_owned(),
                help: "close it; a dollar sign is `$$`".to_owned(),
            })?;
            out.push_str(&lookup(inner, env, files)?);
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

fn lookup(
    inner: &str,
    env: &[(String, String)],
    files: &mut Vec<PathBuf>,
) -> Result<String, SubstitutionError> {
    if let Some(path) = inner.strip_prefix("file:") {
        files.push(PathBuf::from(path));
        return read(path);
    }
    let Some(reference) = inner.strip_prefix("env:") else {
        return Err(SubstitutionError {
            message: format!("`${{{inner}}}` is not a valid substitution"),
            help: "write ${env:NAME}, ${env:NAME:-default} or ${file:PATH}; a dollar sign is `$$`".to_owned(),
        });
    };
    if reference.is_empty() {
        return Err(SubstitutionError {
            message: format!("`${{{inner}}}` names no variable"),
            help: "write ${env:NAME}, or ${env:NAME:-default}".to_owned(),
        });
    }
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
        .map(str::to_owned)
        .ok_or_else(|| SubstitutionError {
            message: format!("the environment variable {name} is not set"),
            help: "set it, or give a default: ${env:NAME:-default}".to_owned(),
        })
}

/// Reads the file at `path`, without the newline at its end, which editors and `echo` add.
fn read(path: &str) -> Result<String, SubstitutionError> {
    let failed = |what: String| SubstitutionError {
        message: format!("the file {path} can't be read: {what}"),
        help: "name a file that flowtap may read; its path is absolute, or from where flowtap is started"
            .to_owned(),
    };
    let bytes = files::read(Path::new(path), MAX_FILE_BYTES).map_err(|error| failed(error.to_string()))?;
    let mut text = String::from_utf8(bytes).map_err(|_| failed("it is not UTF-8".to_owned()))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    // Most often a secret that was not written, or is being written: used as it is, it would protect nothing.
    if text.trim().is_empty() {
        return Err(SubstitutionError {
            message: format!("the file {path} is empty"),
            help: "write the value into it, or remove the key".to_owned(),
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<(String, bool), SubstitutionError> {
        expand(
            text,
            &[
                ("A".to_owned(), "1".to_owned()),
                ("B".to_owned(), "x: y".to_owned()),
            ],
            &mut Vec::new(),
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
        assert!(expanded("${env:C}").unwrap_err().message.contains('C'));
        assert!(expanded("${env:A").is_err());
        assert!(expanded("${fiel:A}").unwrap_err().help.contains("${file:PATH}"));
    }

    #[test]
    fn a_file_is_read_without_its_last_newline_and_named_if_it_cant_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let reference = format!("${{file:{}}}", path.display());
        for (holds, expected) in [
            ("a b\n", "a b"),
            ("a\n\n", "a\n"),
            ("a\r\n", "a"),
            ("${env:A}\n", "${env:A}"),
        ] {
            std::fs::write(&path, holds).unwrap();
            assert_eq!(expanded(&reference), Ok((expected.to_owned(), true)), "{holds:?}");
        }
        for blank in ["", "\n", " \t\n\n"] {
            std::fs::write(&path, blank).unwrap();
            let message = expanded(&reference).unwrap_err().message;
            assert_eq!(
                message,
                format!("the file {} is empty", path.display()),
                "{blank:?}"
            );
        }
        std::fs::write(&path, [0xff]).unwrap();
        for (text, why) in [
            (reference.as_str(), "UTF-8"),
            ("${file:/nowhere/secret}", "/nowhere/secret"),
            ("${file:/dev/zero}", "expected a regular file"),
            ("${file:/}", "is a directory"),
        ] {
            let message = expanded(text).unwrap_err().message;
            assert!(message.contains(why), "{message}");
        }
    }
}
