//! The layers: files, environment, `--set`; and where each value of their sum came from.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use flowtap_pipeline::Registry;

use crate::defaults;
use crate::diagnostic::{Diagnostic, Origin};
use crate::document::{Document, value_and_texts, value_from_yaml};
use crate::lenient::fill_in;
use crate::service_links;
use crate::suggest::closest;
use crate::{aliases, secret};

/// Prefix of flowtap's environment variables.
const PREFIX: &str = "FLOWTAP_";

/// flowtap's variables that are not part of the config: the command line's own, and the tests'.
const OTHER_VARIABLES: [&str; 2] = ["FLOWTAP_CONFIG", "FLOWTAP_LOG"];
const TEST_PREFIX: &str = "FLOWTAP_TEST_";

/// The top-level sections.
pub(crate) const SECTIONS: [&str; 5] = ["receivers", "processors", "exporters", "extensions", "service"];

/// Everything that a config is made of but the defaults, lowest first.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Files, `*.yaml`, `*.yml` or `*.toml`.
    pub files: Vec<PathBuf>,
    /// Environment variables: `FLOWTAP_EXPORTERS__PROMETHEUS__ENDPOINT=0.0.0.0:9464`, and whatever is substituted.
    pub env: Vec<(String, String)>,
    /// `exporters.prometheus.endpoint=0.0.0.0:9464`
    pub set: Vec<String>,
}

/// One layer, read.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: String,
    document: Document,
    /// The path of a value that is the text as it was given, for which the key decides how it is read.
    literal: Option<Vec<String>>,
}

impl Source {
    fn new(name: impl Into<String>, values: Dict) -> Self {
        Self {
            name: name.into(),
            document: Document {
                values,
                ..Document::default()
            },
            literal: None,
        }
    }
}

impl Provider for Source {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.document.values.clone())]))
    }
}

/// The sum of all layers.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) values: Dict,
    /// Lowest first; the defaults are the first.
    sources: Vec<Source>,
    /// Values that were substituted and read again as something else than text, as the text that they were.
    pub(crate) texts: HashMap<Vec<String>, String>,
    /// Keys with what variables and files have put there.
    pub(crate) substituted: Vec<(String, String)>,
    /// Every file that was read for it.
    pub(crate) files: Vec<PathBuf>,
    /// Suspicious settings of the layers that are not errors.
    pub(crate) warnings: Vec<Diagnostic>,
}

impl Merged {
    /// Whether a layer has a value at `path`.
    pub(crate) fn has(&self, path: &[String]) -> bool {
        self.sources
            .iter()
            .any(|source| has(&source.document.values, path))
    }

    /// Where the value at `path` came from; if there is none, where the nearest one above it did.
    pub(crate) fn origin(&self, path: &[String]) -> Option<Origin> {
        (1..=path.len()).rev().find_map(|length| {
            let path = &path[..length];
            let mut sources = self.sources.iter().rev();
            // A list, or its text in `--set`, takes the place of all that the layers below have there.
            let source = sources.find(|source| {
                has(&source.document.values, path) || replaces(&source.document.values, path)
            })?;
            if !has(&source.document.values, path) {
                return None;
            }
            let place = source.document.places.get(path).copied();
            Some(Origin {
                name: source.name.clone(),
                place,
                line: place.and_then(|place| source.document.line(place)),
            })
        })
    }

    /// Other ways to read `value`, the one at `path`: a number as the text that it was, or a text as what YAML makes of it.
    pub(crate) fn others(&self, path: &[String], value: &Value) -> Vec<Value> {
        if let Some(text) = self.texts.get(path) {
            return vec![Value::from(text.as_str())];
        }
        let is_below = |literal: &Vec<String>| path.len() > literal.len() && path.starts_with(literal);
        let mut sources = self.sources.iter().rev();
        let Some(source) = sources.find(|source| {
            has(&source.document.values, path) || source.literal.as_ref().is_some_and(is_below)
        }) else {
            return Vec::new();
        };
        if let Some(literal) = source.literal.as_ref().filter(|literal| is_below(literal)) {
            // A list or mapping that was text first.
            let text = find(&source.document.values, literal).and_then(Value::as_str);
            let texts = text
                .and_then(|text| value_and_texts(text).ok())
                .map(|(_, texts)| texts);
            let text = texts.and_then(|mut texts| texts.remove(&path[literal.len()..]));
            return text.into_iter().map(Value::from).collect();
        }
        if let Some(text) = source.document.texts.get(path) {
            return vec![Value::from(text.as_str())];
        }
        if source.literal.as_deref() != Some(path) {
            return Vec::new();
        }
        let read = value.as_str().and_then(|text| value_from_yaml(text).ok());
        read.into_iter().collect()
    }

    /// Whether a layer above the defaults has something at `path`.
    pub(crate) fn user_has(&self, path: &[String]) -> bool {
        self.sources
            .iter()
            .skip(1)
            .any(|source| has(&source.document.values, path))
    }
}

fn has(values: &Dict, path: &[String]) -> bool {
    find(values, path).is_some()
}

/// Whether there is something else than a mapping above `path`.
fn replaces(values: &Dict, path: &[String]) -> bool {
    let mut above = (1..path.len()).filter_map(|length| find(values, &path[..length]));
    above.any(|value| !matches!(value, Value::Dict(..)))
}

/// The value at `path`; an index is a decimal number.
pub(crate) fn find<'a>(values: &'a Dict, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(values.get(first)?, |value, name| match value {
            Value::Dict(_, dict) => dict.get(name),
            Value::Array(_, list) => list.get(name.parse::<usize>().ok()?),
            _ => None,
        })
}

impl Layers {
    /// With the environment of this process.
    pub fn from_process(files: Vec<PathBuf>, set: Vec<String>) -> Self {
        // Variables that are not UTF-8 are ignored.
        let env =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self {
            files,
            env: env.collect(),
            set,
        }
    }

    /// Reads every layer and puts them over one another.
    pub(crate) fn merge(&self, registry: &Registry, diagnostics: &mut Vec<Diagnostic>) -> Merged {
        let mut sources = vec![Source::new(
            "the built-in defaults",
            defaults::values(registry, &self.env),
        )];
        for path in &self.files {
            match Document::read(path) {
                Ok(document) => sources.push(Source {
                    name: path.display().to_string(),
                    document,
                    literal: None,
                }),
                Err(diagnostic) => diagnostics.push(diagnostic),
            }
        }
        let (links, env): (Vec<_>, Vec<_>) = self
            .env
            .iter()
            .partition(|(name, value)| service_links::is_one(name, value));
        sources.extend(
            env.into_iter()
                .filter_map(|(name, value)| from_env(name, value, diagnostics)),
        );
        sources.extend(
            self.set
                .iter()
                .filter_map(|setting| from_set(setting, diagnostics)),
        );
        drop_default_pipeline(&mut sources);

        let figment = sources
            .iter()
            .fold(Figment::new(), |figment, source| figment.merge(source.clone()));
        let values = match figment.find_value("") {
            Ok(Value::Dict(_, values)) => values,
            // The providers here can't fail, and each gives a mapping.
            _ => Dict::new(),
        };
        Merged {
            values,
            sources,
            texts: HashMap::new(),
            substituted: Vec::new(),
            files: self.files.clone(),
            warnings: service_links::warning(&links).into_iter().collect(),
        }
    }
}

/// Removes the default pipeline if the user defines pipelines, unless it is among them.
fn drop_default_pipeline(sources: &mut [Source]) {
    let path = ["service", "pipelines"].map(str::to_owned);
    let Some((built_in, user)) = sources.split_first_mut() else {
        return;
    };
    let defined: Vec<_> = user
        .iter()
        .filter_map(|source| find(&source.document.values, &path))
        .collect();
    let names_it = |value: &&Value| {
        value
            .as_dict()
            .is_some_and(|dict| dict.contains_key(defaults::PIPELINE))
    };
    if !defined.is_empty() && !defined.iter().any(names_it) {
        built_in.document.values.remove("service");
    }
}

/// `FLOWTAP_A__B__C=value`
fn from_env(name: &str, text: &str, diagnostics: &mut Vec<Diagnostic>) -> Option<Source> {
    let key = name.strip_prefix(PREFIX)?;
    if OTHER_VARIABLES.contains(&name) || name.starts_with(TEST_PREFIX) {
        return None;
    }
    let path: Vec<String> = key.to_ascii_lowercase().split("__").map(str::to_owned).collect();
    let origin = || {
        Some(Origin {
            name: format!("environment variable {name}"),
            place: None,
            line: None,
        })
    };
    if path.len() < 2 || !SECTIONS.contains(&path[0].as_str()) || path.iter().any(String::is_empty) {
        let section = closest(&path[0], SECTIONS)
            .unwrap_or("exporters")
            .to_ascii_uppercase();
        let help = aliases::section(&path[0]).map_or_else(
            || format!("write {PREFIX}{section}__COMPONENT__KEY, or unset it"),
            |alias| format!("{alias}; variables are called {PREFIX}SECTION__COMPONENT__KEY"),
        );
        diagnostics.push(Diagnostic {
            origin: origin(),
            key: String::new(),
            message: "is not the name of a key of the config".to_owned(),
            help: Some(help),
        });
        return None;
    }
    // Taken as it is: a dollar sign is one.
    let text = text.replace('$', "$$");
    nested(path, &text, origin(), diagnostics)
}

/// `a.b.c=value`
fn from_set(setting: &str, diagnostics: &mut Vec<Diagnostic>) -> Option<Source> {
    let origin = || {
        Some(Origin {
            // The key alone: the value may be a secret, which must not reach a log or terminal.
            name: match setting.split_once('=') {
                Some((key, _)) => format!("--set {key}"),
                None => "--set".to_owned(),
            },
            place: None,
            line: None,
        })
    };
    let split = setting
        .split_once('=')
        .filter(|(key, _)| !key.split('.').any(str::is_empty));
    let Some((key, text)) = split else {
        diagnostics.push(Diagnostic {
            origin: origin(),
            key: String::new(),
            message: "is not a valid setting".to_owned(),
            help: Some("write KEY=VALUE, such as receivers.ebpf.interval=1s".to_owned()),
        });
        return None;
    };
    nested(
        key.split('.').map(str::to_owned).collect(),
        text,
        origin(),
        diagnostics,
    )
}

/// A layer with one value. It is text, unless it has to be a mapping or looks like one, or is null: what reads it decides
/// whether it is used as that, or as what YAML makes of it.
fn nested(
    path: Vec<String>,
    text: &str,
    origin: Option<Origin>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Source> {
    let name = origin
        .as_ref()
        .map(|origin| origin.name.clone())
        .unwrap_or_default();
    let (read, below) = match value_and_texts(text) {
        Ok((value, texts)) => (Ok(value), texts),
        Err(error) => (Err(error), BTreeMap::new()),
    };
    let structural = is_structural(&path);
    let (value, other) = match read {
        Err(error) if structural => {
            diagnostics.push(Diagnostic {
                origin,
                key: path.join("."),
                message: error.message,
                help: None,
            });
            return None;
        }
        Ok(mut value) if structural => {
            fill_in(&mut value);
            (value, None)
        }
        _ if secret::is_secret(&path) => (Value::from(text), None),
        Ok(value @ Value::Dict(..)) if text.trim_start().starts_with('{') => (value, Some(text)),
        Ok(value @ Value::Empty(..)) if !text.is_empty() => (value, Some(text)),
        _ => (Value::from(text), None),
    };
    let literal = value.as_str().is_some().then(|| path.clone());
    let mut texts = HashMap::new();
    if value.as_dict().is_some() {
        texts.extend(
            below
                .into_iter()
                .map(|(below, text)| ([&path[..], &below].concat(), text)),
        );
    }
    texts.extend(other.map(|text| (path.clone(), text.replace("$$", "$"))));
    let value = path
        .into_iter()
        .rev()
        .fold(value, |value, key| Value::from(Dict::from([(key, value)])));
    let mut source = Source::new(name, crate::lenient::into_dict(value)?);
    source.document.texts = texts;
    Some(Source { literal, ..source })
}

/// Whether the value at `path` is a section, a component or a pipeline.
fn is_structural(path: &[String]) -> bool {
    match path {
        [_] => true,
        [section, second] => section != "service" || second == "pipelines",
        [service, pipelines, _] => service == "service" && pipelines == "pipelines",
        _ => false,
    }
}
