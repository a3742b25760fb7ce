//! Secrets of a config, in two respects.
//!
//! One that is empty, most often because the variable or file that it comes from is: sent as it is, it would fail at the peer, with a
//! message that does not name the cause. And one that a peer repeats in its answer, as a debug page or a proxy does with the headers of a
//! request: it must not get into the log and `/status`.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The violation of an empty secret.
pub(crate) const EMPTY: &str =
    "is empty; hint: check the variable or file that it comes from, or remove the key";

/// The violation of a proxy with a user and no password.
pub(crate) const EMPTY_PASSWORD: &str = "has a user with an empty password; hint: check the variable or file that it comes from, or leave out the colon before `@`";

const NO_CREDENTIALS: &str = "has a scheme without credentials; hint: check the variable or file that they come from, or remove the key";

/// The violation of a header that carries nothing, if it is one.
pub(crate) fn header_fault(name: &str, value: &str) -> Option<&'static str> {
    let value = value.trim();
    if value.is_empty() {
        return Some(EMPTY);
    }
    let is_one_of = |names: &[HeaderName]| {
        names
            .iter()
            .any(|known| known.as_str().eq_ignore_ascii_case(name))
    };
    // A token without a scheme is one that some services ask for; these two words are not tokens.
    let is_scheme = ["basic", "bearer"]
        .iter()
        .any(|scheme| scheme.eq_ignore_ascii_case(value));
    (is_scheme && is_one_of(&[AUTHORIZATION, PROXY_AUTHORIZATION])).then_some(NO_CREDENTIALS)
}

/// Whether a URL has a user and an empty password.
pub(crate) fn has_empty_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    authority
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.ends_with(':'))
}

/// The shortest value that is struck out. A shorter one protects nothing, and would be found in any text.
const MIN_LEN: usize = 4;

/// Characters that a URL has otherwise: all but the unreserved ones of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Stands for a secret in a text, as in addresses.
const STRUCK: &str = "REDACTED";

/// Values that an exporter sends and that must not be shown. Cloning it shares them.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Arc<[String]>);

impl Secrets {
    /// `values`, such as those of headers, and what is secret within them: the credentials after a scheme (`Bearer …`), and user and
    /// password of `Basic …`. Each also as a URL, XML and JSON have it, as a peer may repeat it in an answer of these.
    pub(crate) fn new<V: AsRef<str>>(values: impl IntoIterator<Item = V>) -> Self {
        let mut all = Vec::new();
        for value in values {
            let value = value.as_ref().trim();
            all.push(value.to_owned());
            let Some((scheme, credentials)) = value.split_once(' ') else {
                continue;
            };
            all.push(credentials.trim().to_owned());
            let pair = STANDARD.decode(credentials.trim()).ok();
            let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
            if let Some(pair) = pair.filter(|_| scheme.eq_ignore_ascii_case("basic")) {
                if let Some((_, password)) = pair.split_once(':') {
                    all.push(password.to_owned());
                }
                all.push(pair);
            }
        }
        all.retain(|secret| secret.len() >= MIN_LEN);
        let encoded: Vec<_> = all.iter().flat_map(|secret| encoded(secret)).collect();
        all.extend(encoded);
        // The longest first: one that is part of another must not leave the rest of that.
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        Self(all.into())
    }

    /// `text` without them, and without the beginning of one at its end, where a text that is too long was cut.
    pub(crate) fn strike<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &*self.0 {
            if text.contains(&**secret) {
                text = Cow::Owned(text.replace(&**secret, STRUCK));
            }
        }
        let cut = self.0.iter().filter_map(|secret| {
            let lengths = (MIN_LEN..secret.len()).rev();
            lengths
                .filter(|&length| secret.is_char_boundary(length))
                .find(|&length| text.ends_with(&secret[..length]))
        });
        if let Some(length) = cut.max() {
            let kept = text.len() - length;
            text = Cow::Owned(format!("{}{STRUCK}", &text[..kept]));
        }
        text
    }
}

/// `secret` as a URL has it, as XML has it, and as JSON has it in two ways.
fn encoded(secret: &str) -> [String; 4] {
    let xml = secret
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let json = secret.replace('\\', "\\\\").replace('"', "\\\"");
    [
        utf8_percent_encode(secret, ENCODED).to_string(),
        xml.replace('"', "&quot;").replace('\'', "&apos;"),
        json.replace('/', "\\/"),
        json,
    ]
}

impl std::fmt::Debug for Secrets {
    /// Their number alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_without_a_value_or_with_a_scheme_alone_is_a_fault() {
        for (name, value) in [
            ("Authorization", ""),
            ("authorization", "Bearer "),
            ("Authorization", "basic"),
            ("Proxy-Authorization", "Bearer\t"),
            ("X-Api-Key", " "),
        ] {
            assert!(header_fault(name, value).is_some(), "{name}: {value:?}");
        }
        for (name, value) in [
            ("Authorization", "Bearer t0ken"),
            ("Authorization", "t0ken"),
            ("X-Scheme", "bearer"),
        ] {
            assert_eq!(header_fault(name, value), None, "{name}: {value:?}");
        }
    }

    #[test]
    fn a_proxy_with_a_user_and_no_password_is_found() {
        for (url, expected) in [
            ("http://user:@proxy:3128", true),
            ("socks5://user:@proxy", true),
            ("http://user:secret@proxy:3128", false),
            ("http://user@proxy:3128", false),
            ("http://proxy:3128/?a=b:@c", false),
        ] {
            assert_eq!(has_empty_password(url), expected, "{url}");
        }
    }
    #[test]
    fn secrets_are_struck_out_whole_without_their_scheme_and_where_a_text_is_cut() {
        // `user:hunter2-password` in base64.
        let basic = "Basic dXNlcjpodW50ZXIyLXBhc3N3b3Jk";
        let secrets = Secrets::new(["Bearer hunter2sEcReT", basic, "tenant-a", "a/b+c=&\"d", "x", ""]);
        for (text, expected) in [
            ("authorization=Bearer hunter2sEcReT", "authorization=REDACTED"),
            ("bad token `hunter2sEcReT`.", "bad token `REDACTED`."),
            ("got Basic dXNlcjpodW50ZXIyLXBhc3N3b3Jk", "got REDACTED"),
            ("dXNlcjpodW50ZXIyLXBhc3N3b3Jk", "REDACTED"),
            ("no user:hunter2-password here", "no REDACTED here"),
            ("password hunter2-password is wrong", "password REDACTED is wrong"),
            ("unknown tenant-a", "unknown REDACTED"),
            // Too short to be a secret.
            ("x marks the text", "x marks the text"),
            ("token=hunter2sE", "token=REDACTED"),
            ("Bearer hunter2sEcRe", "REDACTED"),
            ("<Token>a/b+c=&amp;&quot;d</Token>", "<Token>REDACTED</Token>"),
            (r#"{"token":"a\/b+c=&\"d"}"#, r#"{"token":"REDACTED"}"#),
            (r#"{"token":"a/b+c=&\"d"}"#, r#"{"token":"REDACTED"}"#),
            ("/x?token=a%2Fb%2Bc%3D%26%22d&y", "/x?token=REDACTED&y"),
        ] {
            assert_eq!(secrets.strike(text), expected, "{text}");
        }
        assert!(!format!("{secrets:?}").contains("hunter2"));
        assert_eq!(Secrets::default().strike("Bearer x"), "Bearer x");
    }
}
