//! Names of folders, by time.

use super::name::Name;
use super::placeholder::unknown;

/// A part of a folder's name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `2026-01-02`
    Date,
    /// `03`
    Hour,
}

/// The name of a folder, by time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder(Vec<Part>);

impl Folder {
    pub(super) fn parse(mut text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        while let Some(begin) = text.find('{') {
            let (before, rest) = text.split_at(begin);
            let end = rest.find('}').map_or(rest.len(), |end| end + 1);
            parts.push(Part::Text(before.to_owned()));
            parts.push(match &rest[..end] {
                "{date}" => Part::Date,
                "{hour}" => Part::Hour,
                other => return Err(unknown(other)),
            });
            text = &rest[end..];
        }
        parts.push(Part::Text(text.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Self(parts))
    }

    pub(super) fn is_fixed(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Text(_)))
    }

    pub(super) fn at(&self, name: &Name) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Date => text.push_str(&name.date()),
                Part::Hour => text.push_str(name.hour()),
            }
        }
        text
    }

    /// Whether a folder of this name can be one of ours.
    pub(super) fn matches(&self, mut text: &str) -> bool {
        let digits = |text: &str, length: usize| {
            text.get(..length)
                .is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
        };
        for part in &self.0 {
            let length = match part {
                Part::Text(part) if text.starts_with(&**part) => part.len(),
                Part::Date if digits(text, 10) => 10,
                Part::Hour if digits(text, 2) => 2,
                Part::Text(_) | Part::Date | Part::Hour => return false,
            };
            text = &text[length..];
        }
        text.is_empty()
    }
}
