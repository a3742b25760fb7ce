//! A file's values, with the place of every key.

mod syntax;
mod toml;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;

use figment::value::Value;
use flowtap_pipeline::files;

use self::syntax::place_of;
pub use self::syntax::{Document, Place, SyntaxError};
use crate::diagnostic::{Diagnostic, Origin};
use crate::lenient::fill_in;
use crate::secret;

/// A larger file can't be a config: lists of ranges have separate files.
const MAX_BYTES: u64 = 4 << 20;

impl Document {
    /// Reads the file at `path`, by the ending of its name.
    ///
    /// # Errors
    /// A [`Diagnostic`] with the place of the error.
    pub fn read(path: &Path) -> Result<Self, Diagnostic> {
        let name = path.display().to_string();
        let failed = |place, line, message, help| Diagnostic {
            origin: Some(Origin {
                name: name.clone(),
                place,
                line,
            }),
            key: String::new(),
            message,
            help,
        };
        let parse = match path.extension().and_then(|ending| ending.to_str()) {
            Some("yaml" | "yml") => Self::from_yaml,
            Some("toml") => Self::from_toml,
            _ => {
                let help = Some("name it *.yaml, *.yml or *.toml".to_owned());
                return Err(failed(
                    None,
                    None,
                    "is neither YAML nor TOML by its name".to_owned(),
                    help,
                ));
            }
        };
        let bytes =
            files::read(path, MAX_BYTES).map_err(|error| failed(None, None, error.to_string(), None))?;
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let valid = String::from_utf8_lossy(valid);
                let place = place_of(&valid, valid.len());
                let help = Some("write it in UTF-8".to_owned());
                return Err(failed(
                    Some(place),
                    None,
                    "is not UTF-8 from here on".to_owned(),
                    help,
                ));
            }
        };
        match parse(&text) {
            Ok(document) => Ok(Self { text, ..document }),
            Err(error) => {
                let line = error.place.and_then(|place| line_of(&text, place));
                let help = error.place.and_then(|place| quotes_hint(&text, place));
                Err(failed(error.place, line, error.message, help))
            }
        }
    }

    /// The line at `place`, if it can be shown.
    pub(crate) fn line(&self, place: Place) -> Option<String> {
        // Each of thousands of mistakes asks for one: none looks for its line from the beginning.
        let starts = self.line_starts.get_or_init(|| {
            let ends = self.text.match_indices('\n').map(|(end, _)| end + 1);
            std::iter::once(0).chain(ends).collect()
        });
        let before = place.0.saturating_sub(2);
        let text = self.text.get(*starts.get(before)?..)?;
        line_of(text, (place.0 - before, place.1))
    }

    /// Reads YAML.
    ///
    /// # Errors
    /// A [`SyntaxError`] with the place of the error.
    pub fn from_yaml(text: &str) -> Result<Self, SyntaxError> {
        yaml::parse(text).map(Self::with_whole_components)
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// A [`SyntaxError`] with the place of the error.
    pub fn from_toml(text: &str) -> Result<Self, SyntaxError> {
        toml::parse(text).map(Self::with_whole_components)
    }

    /// A section, component or pipeline without a value has all its defaults: `direction:` means `direction: {}`.
    fn with_whole_components(mut self) -> Self {
        for section in ["receivers", "processors", "exporters", "extensions", "service"] {
            let Some(value) = self.values.get_mut(section) else {
                continue;
            };
            fill_in(value);
            let Value::Dict(_, entries) = value else { continue };
            if section == "service" {
                // Without any, the pipelines of the layers below stay.
                if matches!(entries.get("pipelines"), Some(Value::Empty(..))) {
                    entries.remove("pipelines");
                }
                if let Some(Value::Dict(_, pipelines)) = entries.get_mut("pipelines") {
                    pipelines.values_mut().for_each(fill_in);
                }
            } else {
                entries.values_mut().for_each(fill_in);
            }
        }
        self
    }
}

/// The line at `place`, unless it or the one before may hold a secret: errors end up in logs.
fn line_of(text: &str, place: Place) -> Option<String> {
    let mut lines = text.lines().skip(place.0.saturating_sub(2));
    let before = if place.0 > 1 { lines.next()? } else { "" };
    let line = lines.next()?;
    let shown = !secret::may_hold_secret(before) && !secret::may_hold_secret(line);
    shown.then(|| line.to_owned())
}

/// Reads one value as YAML has it, for `--set` and the environment: `5s`, `[a, b]`, `true`.
///
/// # Errors
/// A [`SyntaxError`].
pub fn value_from_yaml(text: &str) -> Result<Value, SyntaxError> {
    yaml::parse_value(text).map(|(value, _)| value)
}

/// The same, with its numbers and truth values as they are written, by their paths.
pub(crate) fn value_and_texts(text: &str) -> Result<(Value, BTreeMap<Vec<String>, String>), SyntaxError> {
    yaml::parse_value(text)
}
/// Advice about a `${...}` without quotes on the line at `place`: its braces are syntax inside of other ones.
fn quotes_hint(text: &str, place: Place) -> Option<String> {
    let line = text.lines().nth(place.0.checked_sub(1)?)?;
    let (before, _) = line.split_once("${")?;
    let is_quoted = |quote: char| before.matches(quote).count() % 2 == 1;
    (!is_quoted('"') && !is_quoted('\'')).then(|| {
        "put quotes around a value with `${...}` between braces or brackets: `{password: \"${file:/path}\"}`".to_owned()
    })
}
