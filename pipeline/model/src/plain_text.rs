//! Text of others as every output has it: without control characters, marks that reorder text and characters that do not show.
//!
//! The kernel keeps 16 bytes of a process's name that the process itself chooses (prctl(2), `PR_SET_NAME`), without an
//! encoding: control sequences for the terminal that shows them, line breaks, bytes that are not UTF-8. Names of a cluster
//! are as hostile if a recording or an API server holds them. One rule applies to labels of metrics, fields of log records
//! and JSON alike, so that a name joins between them, and no exporter, log or command has to escape it once more. Series are
//! distinguished by the original bytes; two names may look alike.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns `text` with hostile characters as `\xNN` for each of their bytes.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_owned(text.into())
}

/// Returns a name for a sentence or a row of text: escaped, and in quotes if it is empty or begins or ends with a blank, which would not
/// show.
pub fn name(name: &str) -> Cow<'_, str> {
    // The blank pattern of braille is not white space to Unicode, and looks like it.
    let is_blank = |c: char| c.is_whitespace() || c == '\u{2800}';
    let escaped = escape(name);
    if escaped.is_empty() || escaped.starts_with(is_blank) || escaped.ends_with(is_blank) {
        return Cow::Owned(format!("\"{escaped}\""));
    }
    escaped
}

/// Longest text of others that a message has, in characters.
pub const MAX_IN_MESSAGE: usize = 300;

/// Returns the beginning of `text` for a message, with `…` in the place of the rest if it is longer than [`MAX_IN_MESSAGE`].
pub fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_IN_MESSAGE) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Returns `comm` up to its NUL, escaped; what is not UTF-8 as U+FFFD.
pub fn process_name(comm: &[u8; 16]) -> Cow<'_, str> {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    escape_owned(String::from_utf8_lossy(&comm[..end]))
}

fn escape_owned(text: Cow<'_, str>) -> Cow<'_, str> {
    // Nearly all text is of these, and bytes are compared several at a time.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !text.contains(is_hostile) {
        return text;
    }
    let mut plain = String::with_capacity(4 * text.len());
    for c in text.chars() {
        if is_hostile(c) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a string does not fail.
                let _ = write!(plain, "\\x{byte:02x}");
            }
        } else {
            plain.push(c);
        }
    }
    plain.into()
}

/// Whether `c` moves a cursor, ends a line, reorders text or does not show: the general categories Cc, Cf, Zl and Zp of Unicode, and what
/// has the property `Default_Ignorable_Code_Point`. Two names that differ in such characters alone look alike.
pub fn is_hostile(c: char) -> bool {
    c.is_control() || is_separator_of_lines(c) || is_format(c) || is_ignorable(c)
}

const fn is_separator_of_lines(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// Those of the general category Cf that [`is_ignorable`] does not have.
const fn is_format(c: char) -> bool {
    matches!(c,
        '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{fff9}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}')
}

/// `Default_Ignorable_Code_Point` (UAX 44): nothing shows where a font does not know them.
const fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &[u8]) -> String {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name);
        process_name(&comm).into_owned()
    }

    #[test]
    fn plain_names_are_as_they_are() {
        for name in [
            "nginx",
            "",
            " ",
            "a\"b",
            "a\\b",
            "{x=\"y\"}",
            "other",
            "日本語日本",
            "0123456789abcdef",
        ] {
            assert_eq!(named(name.as_bytes()), name);
        }
        assert!(matches!(
            process_name(b"nginx\0\0\0\0\0\0\0\0\0\0\0"),
            Cow::Borrowed("nginx")
        ));
        assert_eq!(named(b"nginx\0secret"), "nginx");
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_replaced_and_hide_nothing() {
        assert_eq!(named(b"\xff\xfe\x80"), "\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(named(b"ok\xffnext"), "ok\u{fffd}next");
        // Cut by the kernel after 15 bytes, in the middle of a character.
        assert_eq!(named(&"日本語日本語".as_bytes()[..14]), "日本語日\u{fffd}");
    }

    #[test]
    fn control_characters_and_marks_that_reorder_are_escaped() {
        for (name, text) in [
            ("\u{1}\u{1b}[31m", "\\x01\\x1b[31m"),
            ("a\nb", "a\\x0ab"),
            ("a\tb\rc", "a\\x09b\\x0dc"),
            ("a\u{7f}", "a\\x7f"),
            ("a\u{9b}2J", "a\\xc2\\x9b2J"),
            ("\u{202e}cba", "\\xe2\\x80\\xaecba"),
            ("a\u{2028}", "a\\xe2\\x80\\xa8"),
        ] {
            assert_eq!(named(name.as_bytes()), text);
            assert!(!text.contains(is_hostile));
        }
        assert_eq!(escape("a\u{200b}b\u{ad}"), "a\\xe2\\x80\\x8bb\\xc2\\xad");
        // A C1 byte alone is not UTF-8, but a terminal may still obey it.
        assert_eq!(named(b"\x9b2J"), "\u{fffd}2J");
    }

    /// Against the tables of Unicode that `regex-syntax` has.
    #[test]
    fn characters_that_do_not_show_are_those_of_unicode() {
        let class =
            regex_syntax::parse(r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]").unwrap();
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = class.kind() else {
            panic!("{class:?}");
        };
        let holds = |c: char| {
            class
                .ranges()
                .iter()
                .any(|range| range.start() <= c && c <= range.end())
        };
        let differ: Vec<_> = ('\0'..=char::MAX)
            .filter(|&c| is_hostile(c) != holds(c))
            .collect();
        assert!(differ.is_empty(), "{differ:?}");
    }

    #[test]
    fn a_name_that_would_not_show_is_in_quotes() {
        for (text, expected) in [
            ("web", "web"),
            ("a b", "a b"),
            ("", "\"\""),
            ("  ", "\"  \""),
            ("\u{2800}", "\"\u{2800}\""),
            ("\u{3000}x", "\"\u{3000}x\""),
            ("web ", "\"web \""),
            ("\u{200b}", "\\xe2\\x80\\x8b"),
            ("\n", "\\x0a"),
        ] {
            assert_eq!(name(text), expected, "{text:?}");
        }
    }

    #[test]
    fn text_for_a_message_is_cut_at_its_bound() {
        let long = "é".repeat(MAX_IN_MESSAGE);
        assert!(matches!(cut(&long), Cow::Borrowed(_)));
        assert_eq!(cut(&(long.clone() + "x")), long + "…");
    }
}
