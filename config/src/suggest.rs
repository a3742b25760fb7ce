//! The name that was most likely meant, by edit distance.

/// The candidate that `name` is a typing mistake of, if it is one of any: a letter in three may differ, case and separators do
/// not count.
pub(crate) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = plain(name);
    let scored = candidates.into_iter().map(|candidate| {
        let other = self::plain(candidate);
        // Swapped letters count once.
        (
            strsim::damerau_levenshtein(&plain, &other),
            other.len(),
            candidate,
        )
    });
    let (distance, length, best) = scored.min_by_key(|(distance, ..)| *distance)?;
    let allowed = match plain.len().min(length) {
        0..=2 => 0,
        3..=5 => 1,
        length => length / 3,
    };
    (distance <= allowed).then_some(best)
}

fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| !matches!(c, '_' | '-' | '.' | ' '));
    letters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_are_recognized_and_other_words_are_not() {
        let keys = [
            "interval",
            "max_bytes",
            "max_age",
            "max_files",
            "password",
            "endpoint",
            "tls",
        ];
        for (name, meant) in [
            ("intervall", Some("interval")),
            ("intreval", Some("interval")),
            ("maxBytes", Some("max_bytes")),
            ("Max-Age", Some("max_age")),
            ("endpont", Some("endpoint")),
            ("pasword", Some("password")),
            ("tsl", Some("tls")),
            // Findings of users: each was taken for another key.
            ("interfaces", None),
            ("max_days", None),
            ("max_backups", None),
            ("password_file", None),
            ("x", None),
        ] {
            assert_eq!(closest(name, keys), meant, "{name}");
        }
        assert_eq!(closest("prometheusremotewrite", ["prometheus"]), None);
        assert_eq!(closest("ebfp", ["ebpf", "replay"]), Some("ebpf"));
    }
}
