//! Text of others as every exporter has it: without control characters and marks that reorder text.
//!
//! The kernel keeps 16 bytes of a process's name that the process itself chooses (prctl(2), `PR_SET_NAME`), without an
//! encoding: control sequences for the terminal that shows them, line breaks, bytes that are not UTF-8. Names of a cluster
//! are as hostile if a recording or an API server holds them. One rule applies to labels of metrics, fields of log records
//! and JSON alike, so that a name joins between them, and no exporter, log or command has to escape it once more. Series are
//! distinguished by the original bytes; two names may look alike.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns `text` with control characters and marks that reorder text as `\xNN` for each of their bytes.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_owned(text.into())
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

/// C0, DEL and C1; separators of lines and paragraphs; marks, embeddings, overrides and isolates of the bidirectional algorithm (UAX 9).
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
        // A C1 byte alone is not UTF-8, but a terminal may still obey it.
        assert_eq!(named(b"\x9b2J"), "\u{fffd}2J");
    }
}
