//! Documents of a file, and the mistakes in them.

use std::borrow::Cow;

use flowtap_model::plain_text::cut;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::decode::found;
use super::violation::Violation;

/// Mistakes that a message names: a file may have as many as lines.
const MAX_LINES: usize = 100;

/// Every mistake in a file, a line each up to a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct ManifestError(pub Vec<Violation>);

fn lines(violations: &[Violation]) -> String {
    let shown = violations.iter().take(MAX_LINES).map(ToString::to_string);
    let further = violations.len().saturating_sub(MAX_LINES);
    let further = (further > 0).then(|| format!("and {further} more mistakes"));
    let lines: Vec<_> = shown.chain(further).collect();
    lines.join("\n")
}

/// An object, and where it is from.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// `web.yaml, document 2` or `web.yaml, document 1, items[4]`.
    pub(super) place: String,
    pub(super) value: Value,
}

impl Document {
    /// Its place, with the object's kind and name as far as it has them.
    pub(super) fn named_place(&self) -> String {
        let text = |pointer| {
            let text = self.value.pointer(pointer).and_then(Value::as_str);
            text.filter(|text| !text.is_empty()).map(cut)
        };
        let Some(name) = text("/metadata/name") else {
            return self.place.clone();
        };
        let kind = text("/kind").map_or(Cow::Borrowed(""), |kind| format!("{kind} ").into());
        match text("/metadata/namespace") {
            Some(namespace) => format!("{} ({kind}{namespace}/{name})", self.place),
            None => format!("{} ({kind}{name})", self.place),
        }
    }

    /// The mistake of an object of another kind than `expected`: its key, and the message.
    pub(super) fn other_kind(&self, expected: &str) -> (&'static str, String) {
        for key in ["kind", "apiVersion"] {
            match self.value.get(key) {
                Some(Value::String(text)) if !text.is_empty() => {}
                None | Some(Value::Null | Value::String(_)) => {
                    return (key, format!("missing; expected {expected}"));
                }
                Some(value) => {
                    let found = found(value);
                    return (
                        key,
                        format!("expected a string, found {found}; expected {expected}"),
                    );
                }
            }
        }
        let (version, kind) = self.kind();
        let message = format!("`{}` of `{}`; expected {expected}", cut(kind), cut(version));
        ("kind", message)
    }

    pub(super) fn kind(&self) -> (&str, &str) {
        let text = |key| self.value.get(key).and_then(Value::as_str).unwrap_or_default();
        (text("apiVersion"), text("kind"))
    }
}

/// An object as a YAML document.
///
/// # Errors
/// A value that YAML has no form for; those of this crate's types have one.
pub fn to_yaml(value: &Value) -> Result<String, serde_saphyr::SerializeError> {
    serde_saphyr::to_string(value)
}

/// The error of a document that can't be read. The parser's own text names a setting of its library for a key that is there twice.
fn message(error: &serde_saphyr::Error) -> String {
    let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet() else {
        // It has lines of the file, of any length.
        let text = error.to_string();
        let lines: Vec<_> = text.lines().map(cut).collect();
        return lines.join("\n");
    };
    let key = key
        .as_ref()
        .map_or_else(String::new, |key| format!(" `{}`", cut(key)));
    format!(
        "line {}, column {}: duplicate key{key}; hint: keep one of the two",
        location.line(),
        location.column()
    )
}

/// A list without items.
#[derive(Debug)]
pub(super) struct EmptyList {
    pub(super) place: String,
    pub(super) version: String,
    pub(super) kind: String,
}

impl EmptyList {
    /// Its kind for a message.
    pub(super) fn shown(&self) -> String {
        match &*self.version {
            "" => format!("an empty `{}` without `apiVersion`", cut(&self.kind)),
            version => format!("an empty `{}` of `{}`", cut(&self.kind), cut(version)),
        }
    }

    /// Whether it is of one of these kinds, or a list of any: that of `kubectl`.
    pub(super) fn is_of(&self, kinds: &[(&str, &str)]) -> bool {
        let item = self.kind.strip_suffix("List").unwrap_or_default();
        let kind = (&*self.version, item);
        kind == ("v1", "") || kinds.contains(&kind)
    }
}

/// The objects of a file, those of lists included, and the lists without any. Documents count from 1; empty ones do not count.
pub(super) fn documents(file: &str, text: &str) -> Result<(Vec<Document>, Vec<EmptyList>), ManifestError> {
    let options = serde_saphyr::options! {
        // A cluster's pods are much; the size of a file is limited by the caller.
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_documents: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
    };
    let text = separated(text);
    let values: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, options).map_err(|error| {
        ManifestError(vec![Violation {
            place: file.to_owned(),
            key: String::new(),
            message: message(&error),
        }])
    })?;
    let (mut documents, mut empty) = (Vec::new(), Vec::new());
    for (number, mut value) in (1..).zip(values) {
        let place = format!("{file}, document {number}");
        let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        let items = match value.get_mut("items") {
            Some(Value::Array(items)) if is_list => std::mem::take(items),
            // As `kubectl` reads it.
            Some(Value::Null) if is_list => Vec::new(),
            _ => {
                documents.push(Document { place, value });
                continue;
            }
        };
        // Items of a typed list need not repeat their kind.
        let of = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (of("apiVersion"), of("kind"));
        if items.is_empty() {
            empty.push(EmptyList { place, version, kind });
            continue;
        }
        let item_kind = kind.strip_suffix("List").unwrap_or_default();
        for (index, mut item) in items.into_iter().enumerate() {
            if let Value::Object(item) = &mut item
                && !item_kind.is_empty()
            {
                item.entry("kind").or_insert_with(|| item_kind.into());
                item.entry("apiVersion").or_insert_with(|| version.clone().into());
            }
            documents.push(Document {
                place: format!("{place}, items[{index}]"),
                value: item,
            });
        }
    }
    Ok((documents, empty))
}

/// JSON objects that follow each other without anything between, as `jq` writes them and `kubectl` reads them: as YAML documents, so that
/// all else about them is checked as ever. Lines stay what they are.
fn separated(text: &str) -> Cow<'_, str> {
    let json = text.trim_start_matches('\u{feff}');
    if !json.trim_start().starts_with('{') {
        return Cow::Borrowed(text);
    }
    let mut objects = serde_json::Deserializer::from_str(json).into_iter::<IgnoredAny>();
    let mut ends = Vec::new();
    while let Some(object) = objects.next() {
        if object.is_err() {
            // Not JSON alone.
            return Cow::Borrowed(text);
        }
        ends.push(objects.byte_offset());
    }
    let Some((last, between)) = ends.split_last().filter(|(_, between)| !between.is_empty()) else {
        return Cow::Borrowed(text);
    };
    let mut separated = json[..between[0]].to_owned();
    for (from, to) in between.iter().zip(between[1..].iter().chain([last])) {
        let object = json[*from..*to].trim_start();
        let space = &json[*from..*to - object.len()];
        separated.push_str(space);
        if !space.ends_with('\n') {
            separated.push('\n');
        }
        separated.push_str("--- ");
        separated.push_str(object);
    }
    Cow::Owned(separated)
}
