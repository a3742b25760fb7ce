//! Spellings of other programs, each with the one that flowtap has: keys of the OpenTelemetry Collector and its SDKs, of
//! Prometheus, Vector, OBI and Beyla.
//!
//! A test compares the table with the real components: what it suggests exists, and what it explains does not.

mod alias;
mod exporters;
mod processors;
mod sections;
mod values;

pub use self::alias::{Alias, Meant};

/// Every spelling that is known. Of those that match, the first counts.
pub fn all() -> impl Iterator<Item = &'static Alias> {
    [sections::TABLE, processors::TABLE, exporters::TABLE]
        .into_iter()
        .flatten()
}

/// The alias `name` in the mapping `at`, in which ids of components are types.
pub(crate) fn find<'a>(at: &[&str], name: &str) -> Option<&'a Alias> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    all().find(|alias| alias.name == name && matches(alias.at, at))
}

fn matches(pattern: &str, at: &[&str]) -> bool {
    let parts: Vec<_> = pattern.split('.').filter(|part| !part.is_empty()).collect();
    parts.len() == at.len() && parts.iter().zip(at).all(|(part, at)| *part == "*" || part == at)
}

/// The alias of a section.
pub(crate) fn section(name: &str) -> Option<&'static Alias> {
    find(&[], name)
}

/// The key, and its value, that the name `name` of a type in `section` implies in addition to the type that is meant.
pub(crate) fn implied(section: &str, name: &str) -> Option<(&'static str, &'static str)> {
    let mut implied = sections::IMPLIED.iter();
    implied
        .find(|(at, other, ..)| *at == section && *other == name)
        .map(|(_, _, key, value)| (*key, *value))
}

/// The replacement of `word` as the value of the last of `keys`, without the indices.
pub(crate) fn word(key: &str, word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    // The labels that `attributes` drops.
    let key = if key == "drop" { "labels" } else { key };
    let mut words = values::WORDS.iter();
    words
        .find(|(of, other, _)| *of == key && *other == word)
        .map(|(_, _, meant)| *meant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Meant::Key;

    #[test]
    fn an_alias_is_found_by_its_place() {
        let meant = |at: &[&str], name| find(at, name).map(|alias| alias.meant);
        assert_eq!(meant(&[], "sinks"), Some(Key("exporters")));
        assert_eq!(
            meant(&["exporters", "otlp"], "retry-on-failure"),
            Some(Key("retry"))
        );
        assert_eq!(
            meant(&["exporters", "own", "sending_queue"], "queue_size"),
            Some(Key("size"))
        );
        assert_eq!(meant(&["exporters", "file"], "queue_size"), None);
        assert_eq!(word("naming", "OpenTelemetry"), Some("otel"));
    }

    #[test]
    fn none_is_there_twice() {
        let mut seen: Vec<_> = all().map(|alias| (alias.at, alias.name)).collect();
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
        assert!(count >= 100, "{count}");
    }
}
