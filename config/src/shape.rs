//! The form of values by a component's JSON Schema: words and examples for messages, and mistakes of form that serde lets pass.
//!
//! serde takes a list for a struct, field by field, and a number for a word of an enumeration. Neither is ever meant.

use std::time::Duration;

use figment::error::Actual;
use figment::value::{Dict, Empty, Value};
use flowtap_pipeline::schema;
use serde_json::Value as Json;

use crate::quote;

/// Durations above this are mistakes: clocks, timers and dates overflow at some length that depends on their use.
const LONGEST: Duration = Duration::from_secs(100 * 31_557_600);

/// A node of a schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'s>(&'s Json);

/// A value whose form is wrong.
pub(crate) struct Misshapen {
    pub(crate) path: Vec<String>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl<'s> Shape<'s> {
    pub(crate) const fn new(schema: &'s Json) -> Self {
        Self(schema)
    }

    /// This node and the alternatives in it.
    fn alternatives(self) -> Vec<Self> {
        let mut found = vec![self];
        let mut next = 0;
        while let Some(Shape(node)) = found.get(next).copied() {
            for key in ["anyOf", "oneOf", "allOf"] {
                let choices = node.get(key).and_then(Json::as_array).into_iter().flatten();
                found.extend(choices.map(Shape));
            }
            next += 1;
        }
        found
    }

    fn step(self, part: &str) -> Option<Self> {
        self.alternatives().into_iter().find_map(|Shape(node)| {
            let property = node.get("properties").and_then(|properties| properties.get(part));
            let property =
                property.or_else(|| node.get("additionalProperties").filter(|other| other.is_object()));
            let item = || node.get("items").filter(|_| part.parse::<usize>().is_ok());
            property.or_else(item).map(Shape)
        })
    }

    /// The node of the value at `path` below this one.
    pub(crate) fn at(self, path: &[String]) -> Option<Self> {
        path.iter().try_fold(self, |shape, part| shape.step(part))
    }

    fn is(self, name: &str) -> bool {
        self.alternatives()
            .into_iter()
            .any(|Shape(node)| match node.get("type") {
                Some(Json::String(only)) => only == name,
                Some(Json::Array(several)) => several.iter().any(|one| one == name),
                _ => false,
            })
    }

    /// The words that it can be, if it is an enumeration.
    fn choices(self) -> Vec<&'s str> {
        let of_one = |Shape(node): Self| {
            let one = node.get("const").and_then(Json::as_str);
            let several = node.get("enum").and_then(Json::as_array).into_iter().flatten();
            one.into_iter()
                .chain(several.filter_map(Json::as_str))
                .collect::<Vec<_>>()
        };
        self.alternatives().into_iter().flat_map(of_one).collect()
    }

    fn pattern(self) -> Option<&'s str> {
        let mut nodes = self.alternatives().into_iter();
        nodes.find_map(|Shape(node)| node.get("pattern").and_then(Json::as_str))
    }

    fn is_duration(self) -> bool {
        self.pattern() == Some(schema::DURATION)
    }

    fn is_address(self) -> bool {
        self.pattern() == Some(schema::ADDRESS)
    }

    fn is_size(self) -> bool {
        self.pattern() == Some(schema::SIZE)
    }

    /// The expected value, where this is more specific than serde's message.
    pub(crate) fn wanted(self) -> Option<String> {
        let choices = self.choices();
        if !choices.is_empty() {
            return Some(format!("one of {}", quote::list(&choices)));
        }
        if self.is_duration() {
            return Some("a duration such as `500ms`, `5s` or `1m30s`".to_owned());
        }
        if self.is_size() {
            return Some("a size in bytes such as `4194304` or `4MiB`".to_owned());
        }
        if self.is_address() {
            return Some("an address and port such as `127.0.0.1:9464` or `:9464`".to_owned());
        }
        let (least, most) = self.range()?;
        Some(format!("a whole number from {least} to {most}"))
    }

    /// The least and the largest number that it can be, if it is a whole number and has both.
    fn range(self) -> Option<(u64, u64)> {
        self.alternatives().into_iter().find_map(|Shape(node)| {
            let bound = |key| node.get(key).and_then(Json::as_u64);
            let (least, most) = (bound("minimum")?, bound("maximum")?);
            self.is("integer").then_some((least, most))
        })
    }

    /// An example of it, for a text that can't be read.
    pub(crate) fn example(self) -> Option<String> {
        let text = if self.is_duration() {
            "write a duration such as `500ms`, `5s` or `1m30s`"
        } else if self.is_address() {
            "write an address and port such as `127.0.0.1:9464`, or `0.0.0.0:9464` to listen on every address"
        } else {
            return None;
        };
        Some(text.to_owned())
    }

    /// Suggestion for `found`, if there is one.
    pub(crate) fn hint(self, found: &Actual) -> Option<String> {
        let text = quote::text(found);
        let is_number = matches!(found, Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_));
        if self.is_duration() && is_number {
            return Some(format!(
                "write the unit, such as `{text}s`; others are `ms`, `m`, `h` and `d`"
            ));
        }
        if self.is("number")
            && let Ok(time) = humantime_serde::re::humantime::parse_duration(&text)
        {
            return Some(format!(
                "write a number without a unit; in seconds it is {}",
                time.as_secs_f64()
            ));
        }
        if self.is_address() && is_number {
            return Some(format!(
                "write `127.0.0.1:{text}`, or `0.0.0.0:{text}` to listen on every address"
            ));
        }
        if self.is("array") && !matches!(found, Actual::Seq) {
            return Some(match (self.entry(), text.is_empty()) {
                (Some(entry), _) => format!("write a list: `[{entry}]`"),
                (None, false) => format!("write a list: `[{text}]`"),
                (None, true) => "write a list: `[a, b]`".to_owned(),
            });
        }
        if self.is("object") && !matches!(found, Actual::Map) {
            return self
                .mapping()
                .map(|example| format!("write a mapping: `{example}`"));
        }
        None
    }

    /// The node of an entry, if this is a list and nothing else.
    pub(crate) fn entry_of_list(self) -> Option<Self> {
        if ["object", "string", "integer", "number", "boolean"]
            .iter()
            .any(|other| self.is(other))
        {
            return None;
        }
        let mut nodes = self.alternatives().into_iter();
        nodes.find_map(|Shape(node)| node.get("items").map(Shape))
    }

    /// The keys of a mapping; none if it is not one, or can have any.
    pub(crate) fn keys(self) -> Vec<&'s str> {
        let properties = |Shape(node): Self| node.get("properties").and_then(Json::as_object);
        let mut names: Vec<_> = self
            .alternatives()
            .into_iter()
            .filter_map(properties)
            .flat_map(|properties| properties.keys().map(String::as_str))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Form of an entry of a list, if it is a mapping.
    fn entry(self) -> Option<String> {
        let mut nodes = self.alternatives().into_iter();
        let item = nodes.find_map(|Shape(node)| node.get("items").map(Shape))?;
        item.mapping()
    }

    /// Form of a mapping: its keys that must be set, or the first few.
    fn mapping(self) -> Option<String> {
        self.alternatives().into_iter().find_map(|Shape(node)| {
            let properties = node.get("properties")?.as_object()?;
            let required: Vec<_> = node
                .get("required")
                .and_then(Json::as_array)
                .into_iter()
                .flatten()
                .collect();
            let mut keys: Vec<_> = properties
                .iter()
                .filter(|(name, _)| required.is_empty() || required.iter().any(|key| *key == *name))
                .take(3)
                .map(|(name, property)| {
                    let form = if Shape(property).is("array") {
                        "[...]"
                    } else {
                        "..."
                    };
                    format!("{name}: {form}")
                })
                .collect();
            if required.is_empty() && properties.len() > keys.len() {
                keys.push("...".to_owned());
            }
            (!keys.is_empty()).then(|| format!("{{{}}}", keys.join(", ")))
        })
    }

    /// Where below this node a key `name` is, at most two mappings deep, if it is at one place alone.
    pub(crate) fn find(self, name: &str) -> Option<String> {
        let mut found = Vec::new();
        self.collect(name, &mut Vec::new(), &mut found);
        match &found[..] {
            [only] => Some(only.clone()),
            _ => None,
        }
    }

    fn collect(self, name: &str, above: &mut Vec<String>, found: &mut Vec<String>) {
        if above.len() > 2 {
            return;
        }
        for Shape(node) in self.alternatives() {
            let properties = node
                .get("properties")
                .and_then(Json::as_object)
                .into_iter()
                .flatten();
            for (key, property) in properties {
                above.push(key.clone());
                if key == name {
                    found.push(above.join("."));
                }
                Shape(property).collect(name, above, found);
                above.pop();
            }
        }
    }

    /// Takes out of `value` what has the wrong form, and says so.
    pub(crate) fn check(self, value: &mut Value) -> Vec<Misshapen> {
        let mut found = Vec::new();
        self.check_below(value, &mut Vec::new(), &mut found);
        found
    }

    /// Whether `value` may stay; what is wrong below it is taken out.
    fn check_below(self, value: &mut Value, path: &mut Vec<String>, found: &mut Vec<Misshapen>) -> bool {
        let others = || ["integer", "number", "boolean"].iter().any(|name| self.is(name));
        let number = match value {
            Value::Num(..) | Value::Bool(..) if !self.choices().is_empty() && !others() => {
                Some(quote::text(&quote::found(value)))
            }
            _ => None,
        };
        if let Some(text) = number {
            // serde reports it as a word that is none of the possible ones.
            *value = Value::from(text);
            return true;
        }
        if let Value::String(_, text) = &*value
            && self.is_duration()
            && humantime_serde::re::humantime::parse_duration(text).is_ok_and(|duration| duration > LONGEST)
        {
            found.push(Misshapen {
                path: path.clone(),
                message: format!("`{text}` is too long: at most 100 years are allowed"),
                hint: Some("write a shorter duration; `100y` is the longest".to_owned()),
            });
            return false;
        }
        if matches!(value, Value::Array(..)) && self.is("object") && !self.is("array") {
            found.push(Misshapen {
                path: path.clone(),
                message: "expected a mapping, found a list".to_owned(),
                hint: self.hint(&Actual::Seq),
            });
            return false;
        }
        match value {
            Value::Dict(_, dict) => {
                let mut kept = Dict::new();
                for (key, mut value) in std::mem::take(dict) {
                    path.push(key.clone());
                    if self
                        .step(&key)
                        .is_none_or(|shape| shape.check_below(&mut value, path, found))
                    {
                        kept.insert(key, value);
                    }
                    path.pop();
                }
                *dict = kept;
            }
            Value::Array(_, list) => {
                for (index, value) in list.iter_mut().enumerate() {
                    path.push(index.to_string());
                    let shape = self.step(&index.to_string());
                    if shape.is_some_and(|shape| !shape.check_below(value, path, found)) {
                        // Nothing in its place, so that the indices of the others stay what the user sees.
                        *value = Value::Empty(value.tag(), Empty::None);
                    }
                    path.pop();
                }
            }
            _ => {}
        }
        true
    }
}
