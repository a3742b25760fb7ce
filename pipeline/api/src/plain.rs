//! Text of others for terminals and logs: control characters are shown, not obeyed.
//!
//! A response, a process name or a file name can hold escape sequences that change a terminal, or a line break that forges a
//! line of the log. In: any text. Out: the same without control characters, each as Rust writes it (`\u{1b}`, `\n`). Text that
//! exporters pass on is escaped before, by [`plain_text`](flowtap_model::plain_text), whose characters these are.

use std::borrow::Cow;
use std::fmt::Write as _;

use flowtap_model::plain_text::is_hostile;

/// Returns `text` as one line without control characters.
pub fn plain(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// Returns `text` without control characters other than the line breaks between its lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| c == '\n')
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let hostile = |c: char| is_hostile(c) && !keep(c);
    if !text.contains(hostile) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if hostile(c) {
            // Writing to a String does not fail.
            let _ = write!(escaped, "{}", c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_forged_lines_are_shown_and_not_obeyed() {
        let hostile = "\u{1b}]0;PWNED\u{7}\u{1b}[31mevil\nFAKE INFO line\r\n\u{9b}2J\u{202e}";
        assert_eq!(
            plain(hostile),
            "\\u{1b}]0;PWNED\\u{7}\\u{1b}[31mevil\\nFAKE INFO line\\r\\n\\u{9b}2J\\u{202e}"
        );
        assert_eq!(lines("a\nb\u{1b}\n"), "a\nb\\u{1b}\n");
        assert!(matches!(plain("größe 名 café"), Cow::Borrowed("größe 名 café")));
    }
}
