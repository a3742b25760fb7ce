//! A cursor over a JSON value that knows its key, so that each mistake is reported with it.

use flowtap_model::plain_text::cut;
use serde_json::Value;

use super::violation::Violation;

/// Collects mistakes in one document.
#[derive(Debug)]
pub(super) struct Report {
    place: String,
    pub(super) violations: Vec<Violation>,
}

impl Report {
    pub(super) const fn new(place: String) -> Self {
        Self {
            place,
            violations: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, key: &str, message: impl Into<String>) {
        let violation = Violation::new(self.place.clone(), key, message.into());
        self.violations.push(violation);
    }
}

/// A value and its key.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) key: String,
    pub(super) value: &'a Value,
}

impl<'a> Field<'a> {
    pub(super) const fn root(value: &'a Value) -> Self {
        Self {
            key: String::new(),
            value,
        }
    }

    /// The member `name`; `None` if it is absent or null, which the API treats alike.
    pub(super) fn get(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        let key = if self.key.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.key)
        };
        Some(Self { key, value })
    }

    /// Reports members other than `allowed`, or that it is not a mapping. Returns whether it is one.
    pub(super) fn check_keys(&self, allowed: &[&str], report: &mut Report) -> bool {
        let Value::Object(members) = self.value else {
            report.add(&self.key, format!("expected a mapping, found {}", self.found()));
            return false;
        };
        for name in members.keys().filter(|name| !allowed.contains(&name.as_str())) {
            let key = if self.key.is_empty() {
                name.clone()
            } else {
                format!("{}.{name}", self.key)
            };
            report.add(
                &key,
                format!("unknown key; expected one of {}", allowed.join(", ")),
            );
        }
        true
    }

    /// The elements of a list.
    pub(super) fn list(&self, report: &mut Report) -> Vec<Self> {
        let Value::Array(elements) = self.value else {
            report.add(&self.key, format!("expected a list, found {}", self.found()));
            return Vec::new();
        };
        let field = |(index, value)| Self {
            key: format!("{}[{index}]", self.key),
            value,
        };
        elements.iter().enumerate().map(field).collect()
    }

    /// The text of a string.
    pub(super) fn text(&self, report: &mut Report) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            let hint = match self.value {
                Value::Bool(_) | Value::Number(_) => "; hint: quote it",
                _ => "",
            };
            report.add(
                &self.key,
                format!("expected a string, found {}{hint}", self.found()),
            );
        }
        text
    }

    /// The members of a mapping to strings.
    pub(super) fn text_map(&self, report: &mut Report) -> Vec<(String, String)> {
        let Value::Object(members) = self.value else {
            report.add(&self.key, format!("expected a mapping, found {}", self.found()));
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, value) in members {
            let member = Field {
                key: format!("{}.{name}", self.key),
                value,
            };
            if let Some(text) = member.text(report) {
                pairs.push((name.clone(), text.to_owned()));
            }
        }
        pairs
    }

    /// Replacement for a whole number in another notation.
    pub(super) fn digits_hint(&self) -> &'static str {
        let is_fraction = self.value.as_i64().is_none() && self.value.as_u64().is_none();
        if self.value.is_number() && is_fraction {
            "; hint: digits alone, without a leading 0, a point or an exponent; `0100` is octal for kubectl, which reads 64"
        } else {
            ""
        }
    }

    /// The value for a message.
    pub(super) fn found(&self) -> String {
        found(self.value)
    }
}

/// A value for a message.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(value) => format!("the number {}", cut(&value.to_string())),
        Value::String(value) => format!("\"{}\"", cut(value)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}
