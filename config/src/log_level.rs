//! Levels of logs: which words are one, and which was meant by another.

use crate::quote;
use crate::suggest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Words of syslog, Python, Java and others.
const OTHERS: [(&str, &str); 16] = [
    ("warning", "warn"),
    ("information", "info"),
    ("informational", "info"),
    ("notice", "info"),
    ("err", "error"),
    ("fatal", "error"),
    ("critical", "error"),
    ("crit", "error"),
    ("severe", "error"),
    ("verbose", "debug"),
    ("fine", "debug"),
    ("dbg", "debug"),
    ("all", "trace"),
    ("none", "off"),
    ("quiet", "off"),
    ("disabled", "off"),
];

/// Checks the levels of `text`, a level or a filter of `target=level` directives. A word that is not a level would be taken for a
/// target, of which nothing is ever logged.
///
/// # Errors
/// The word, what is allowed, and after `; hint: ` what was meant.
pub fn check(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(format!("is empty: expected {}", quote::list(&LEVELS)));
    }
    for directive in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (target, word) = directive.rsplit_once('=').unwrap_or(("", directive));
        let word = word.trim();
        let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
        if !target.trim().chars().all(is_path) {
            return Err(format!(
                "`{}` is not a valid target of logs: expected the path of a module, such as `flowtap_receivers::ebpf`; \
                 hint: filters by span or field are not supported",
                target.trim()
            ));
        }
        if is_level(word) {
            continue;
        }
        let lower = word.to_ascii_lowercase();
        let other = OTHERS.iter().find(|(other, _)| *other == lower);
        let meant = other
            .map(|(_, meant)| *meant)
            .or_else(|| suggest::closest(&lower, LEVELS));
        let hint = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "a filter has directives such as `flowtap=debug,info`".to_owned(),
        };
        return Err(format!(
            "`{word}` is not a valid log level: expected {}; hint: {hint}",
            quote::list(&LEVELS)
        ));
    }
    Ok(())
}

/// Case does not count, and a digit from 0 to 5 stands for the level in that place.
fn is_level(word: &str) -> bool {
    let digit = matches!(word.as_bytes(), [b'0'..=b'5']);
    digit || LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_not_a_level_comes_with_the_one_that_was_meant() {
        for text in [
            "info",
            "WARN",
            "off",
            "flowtap=debug,info",
            "3",
            "info, h2=off",
            "flowtap_receivers::ebpf=trace",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for (text, meant) in [
            ("warning", "`warn`"),
            ("WARNING", "`warn`"),
            ("flowtap=verbose,info", "`debug`"),
            ("none", "`off`"),
            ("inof", "`info`"),
            ("flowtap", "flowtap=debug,info"),
            ("debug,flowtap", "flowtap=debug,info"),
            ("", "expected `off`"),
            ("a[b{c=d}]=trace", "expected the path of a module"),
            ("[b]=info", "filters by span or field"),
            ("a=b=info", "`a=b` is not a valid target"),
        ] {
            let message = check(text).unwrap_err();
            assert!(message.contains(meant), "{text}: {message}");
        }
    }
}
