//! The name that was most likely meant: by edit distance, or as the only one that begins or ends with what was written.

/// The candidate that `name` is a typing mistake of, if it is one of any: a letter in three may differ, case and separators do
/// not count. Else the only candidate that has `name` as its beginning or its end: `tcp_bytes` of `network_tcp_bytes`.
pub(crate) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<_> = candidates.into_iter().collect();
    by_distance(name, &candidates).or_else(|| by_part(name, &candidates))
}

/// The least length of a part: shorter ones begin or end too many names.
const PART: usize = 5;

fn by_part<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let part = plain(name);
    let has_part = |candidate: &&&str| {
        let whole = plain(candidate);
        whole.starts_with(&part) || whole.ends_with(&part)
    };
    let mut found = candidates.iter().filter(has_part);
    let (first, second) = (found.next()?, found.next());
    (part.len() >= PART && second.is_none()).then_some(*first)
}

fn by_distance<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let plain = plain(name);
    let scored = candidates.iter().map(|&candidate| {
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

    #[test]
    fn a_part_is_recognized_where_it_is_of_one_name() {
        let classes = ["internalHosts", "externalHosts", "k8sPod"];
        assert_eq!(closest("external", classes), Some("externalHosts"));
        assert_eq!(closest("hosts", classes), None, "of two");
        assert_eq!(closest("pod", classes), None, "too short");
        let families = ["network_tcp_bytes", "network_tcp_connection_bytes"];
        assert_eq!(closest("tcp_bytes", families), Some("network_tcp_bytes"));
    }
}
