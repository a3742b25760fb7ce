//! Authentication of scrapes: by user name and password (RFC 7617) or by token (RFC 6750).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// A name and a password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    /// The name. Must not contain a colon.
    pub username: String,
    /// The password; `${env:SCRAPE_PASSWORD}` keeps it out of the config.
    pub password: String,
}

/// Credentials that a request must have. None, if neither is set.
#[derive(Debug, Default)]
pub(super) struct Auth {
    basic: Option<String>,
    bearer: Option<String>,
}

impl Auth {
    pub(super) fn new(basic: Option<&BasicAuth>, bearer: Option<&str>) -> Self {
        let encoded = |auth: &BasicAuth| STANDARD.encode(format!("{}:{}", auth.username, auth.password));
        Self {
            basic: basic.map(encoded),
            bearer: bearer.map(str::to_owned),
        }
    }

    /// The challenge to a client without valid credentials.
    pub(super) const fn challenge(&self) -> &'static str {
        if self.basic.is_some() {
            "Basic realm=\"flowtap\", charset=\"UTF-8\""
        } else {
            "Bearer realm=\"flowtap\""
        }
    }

    /// Whether `headers` let their sender in.
    pub(super) fn allows(&self, headers: &HeaderMap) -> bool {
        if self.basic.is_none() && self.bearer.is_none() {
            return true;
        }
        let Some(Ok(given)) = headers.get(AUTHORIZATION).map(|value| value.to_str()) else {
            return false;
        };
        let Some((scheme, given)) = given.split_once(' ') else {
            return false;
        };
        let expected = match scheme.to_ascii_lowercase().as_str() {
            "basic" => &self.basic,
            "bearer" => &self.bearer,
            _ => &None,
        };
        // The time that this takes does not reveal how much was right.
        expected
            .as_ref()
            .is_some_and(|expected| expected.as_bytes().ct_eq(given.trim().as_bytes()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_the_right_password_or_token_opens() {
        let basic = BasicAuth {
            username: "Aladdin".to_owned(),
            password: "open sesame".to_owned(),
        };
        let auth = Auth::new(Some(&basic), Some("t0ken"));
        // The example of RFC 7617, section 2.
        assert!(auth.allows(&with("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")));
        assert!(auth.allows(&with("bearer t0ken")));
        for wrong in [
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ",
            "Basic t0ken",
            "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "Bearer ",
            "t0ken",
            "Digest t0ken",
        ] {
            assert!(!auth.allows(&with(wrong)), "{wrong}");
        }
        assert!(!auth.allows(&HeaderMap::new()));
        assert!(Auth::default().allows(&HeaderMap::new()));
    }
}
