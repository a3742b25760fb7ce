//! A file's values, with the place of every key.

mod toml;
mod yaml;

use std::collections::HashMap;
use std::path::Path;

use figment::value::{Dict, Empty, Tag, Value};

use crate::diagnostic::{Diagnostic, Origin};

/// How deep a config may nest: deeper than any that makes sense, and never deep enough for the stack.
const MAX_DEPTH: usize = 32;

/// Line and column, both from 1.
pub type Place = (usize, usize);

/// Values, and where they stand.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The values.
    pub values: Dict,
    /// The place of each key (or list entry), by its path.
    pub places: HashMap<Vec<String>, Place>,
}

/// A mistake in a file's syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where.
    pub place: Option<Place>,
    /// What.
    pub message: String,
}

impl Document {
    /// Reads the file at `path`, by the ending of its name.
    ///
    /// # Errors
    /// What is wrong, with the place.
    pub fn read(path: &Path) -> Result<Self, Diagnostic> {
        let name = path.display().to_string();
        let failed = |place, message, help| Diagnostic {
            origin: Some(Origin {
                name: name.clone(),
                place,
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
                    "is neither YAML nor TOML by its name".to_owned(),
                    help,
                ));
            }
        };
        let text = std::fs::read_to_string(path).map_err(|error| failed(None, error.to_string(), None))?;
        parse(&text).map_err(|error| failed(error.place, error.message, None))
    }

    /// Reads YAML.
    ///
    /// # Errors
    /// What is wrong, with the place.
    pub fn from_yaml(text: &str) -> Result<Self, SyntaxError> {
        yaml::parse(text).map(Self::with_whole_components)
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// What is wrong, with the place.
    pub fn from_toml(text: &str) -> Result<Self, SyntaxError> {
        toml::parse(text).map(Self::with_whole_components)
    }

    /// A section or component without a value has all its defaults: `direction:` means `direction: {}`.
    fn with_whole_components(mut self) -> Self {
        for section in ["receivers", "processors", "exporters"] {
            if let Some(value) = self.values.get_mut(section) {
                fill_in(value);
                if let Value::Dict(_, components) = value {
                    components.values_mut().for_each(fill_in);
                }
            }
        }
        self
    }
}

fn fill_in(value: &mut Value) {
    if let Value::Empty(tag, Empty::None | Empty::Unit) = value {
        *value = Value::Dict(*tag, Dict::new());
    }
}

/// Reads one value as YAML has it, for `--set` and the environment: `5s`, `[a, b]`, `true`.
///
/// # Errors
/// What is wrong.
pub fn value_from_yaml(text: &str) -> Result<Value, SyntaxError> {
    yaml::parse_value(text)
}

/// A scalar that nothing is known of yet.
const fn tag() -> Tag {
    Tag::Default
}
