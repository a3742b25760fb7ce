//! Secrets that are empty, most often because the variable or file that they come from is. Sent as they are, they would fail at the peer,
//! with a message that does not name the cause.

use http::HeaderName;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};

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
    // A token without a scheme is one that some services ask for; these two words are no token.
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
}
