//! The ids of components, and their kinds.

use std::fmt;
use std::str::FromStr;

/// The kinds of components.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ComponentKind {
    /// Where records come from.
    Receiver,
    /// Fills, changes or removes records.
    Processor,
    /// Where snapshots go.
    Exporter,
    /// A component beside the pipelines.
    Extension,
}

impl ComponentKind {
    /// Every kind, in the order of the config's sections.
    pub const ALL: [Self; 4] = [Self::Receiver, Self::Processor, Self::Exporter, Self::Extension];

    /// The config's section for this kind.
    pub const fn section(self) -> &'static str {
        match self {
            Self::Receiver => "receivers",
            Self::Processor => "processors",
            Self::Exporter => "exporters",
            Self::Extension => "extensions",
        }
    }
}

impl fmt::Display for ComponentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section().trim_end_matches('s'))
    }
}

/// A component's id in the config: `type` or `type/name`, as in the OpenTelemetry Collector.
///
/// ```
/// use flowtap_pipeline::ComponentId;
///
/// let id: ComponentId = "otlp/backup".parse()?;
/// assert_eq!((id.type_name(), id.name()), ("otlp", Some("backup")));
/// assert!("Otlp".parse::<ComponentId>().is_err());
/// # Ok::<(), flowtap_pipeline::InvalidComponentId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComponentId {
    text: String,
    type_len: usize,
}

impl ComponentId {
    /// The part before the slash: which type of component this is.
    pub fn type_name(&self) -> &str {
        &self.text[..self.type_len]
    }

    /// The part after the slash, if there is one.
    pub fn name(&self) -> Option<&str> {
        self.text.get(self.type_len + 1..)
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is not a valid component id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a valid component id: expected `type` or `type/name`, type in lower case letters, digits and `_`"
)]
pub struct InvalidComponentId(String);

impl FromStr for ComponentId {
    type Err = InvalidComponentId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (type_name, name) = match text.split_once('/') {
            Some((type_name, name)) => (type_name, Some(name)),
            None => (text, None),
        };
        let type_ok = type_name.starts_with(|c: char| c.is_ascii_lowercase())
            && type_name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let name_ok = name
            .is_none_or(|name| !name.is_empty() && !name.contains(|c: char| c == '/' || c.is_whitespace()));
        if type_ok && name_ok {
            Ok(Self {
                text: text.to_owned(),
                type_len: type_name.len(),
            })
        } else {
            Err(InvalidComponentId(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_type_with_an_optional_name() {
        let id: ComponentId = "otlp/backup".parse().unwrap();
        assert_eq!((id.type_name(), id.name()), ("otlp", Some("backup")));
        let id: ComponentId = "sock_diag".parse().unwrap();
        assert_eq!((id.type_name(), id.name()), ("sock_diag", None));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "", "/x", "otlp/", "otlp/a/b", "Otlp", "9otlp", "ot lp", "otlp/a b",
        ] {
            assert!(text.parse::<ComponentId>().is_err(), "{text:?} was taken");
        }
    }
}
