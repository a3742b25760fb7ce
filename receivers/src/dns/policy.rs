//! Which names leave the receiver, and how many of them become values of a label.
//!
//! In: names of transactions. Out: text for records, by the config's `names`. The rules:
//!
//! 1. `none`: no name leaves the receiver, whatever else is configured.
//! 2. A name that a host, service or zone can't have is `invalid`, whatever bytes it has.
//! 3. `registered_domain`: the part below the public suffix, `example.co.uk` of `www.example.co.uk`; `in-addr.arpa` and `ip6.arpa` of
//!    names of addresses; `unqualified` of a name of one label.
//! 4. The first `max_names` names are values of a label, further ones are `other`. A name that was not asked for in ten minutes makes
//!    room for another one.

use std::collections::HashMap;
use std::sync::Arc;

use flowtap_pipeline::Violation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::DomainName;

/// Time after which a name that nobody asks for is no longer one of `max_names`.
const IDLE_NS: u64 = 600_000_000_000;

/// Value for names beyond `max_names`.
const OTHER: &str = "other";

/// Value for names that are not text.
const INVALID: &str = "invalid";

/// Value for names of one label where only registered domains are wanted.
const UNQUALIFIED: &str = "unqualified";

/// Names in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Names {
    /// No name leaves the receiver.
    #[default]
    None,
    /// The registered domain: `example.co.uk` of `www.example.co.uk`.
    RegisteredDomain,
    /// The whole name.
    Full,
}

/// The names of a transaction, as far as they are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Value of a label: one of `max_names`, `other` or `invalid`.
    pub label: Option<Arc<str>>,
    /// The name, however many there are; `None` if it is not valid.
    pub name: Option<Arc<str>>,
}

/// The policy, and the names that are values of a label.
#[derive(Debug)]
pub struct NamePolicy {
    names: Names,
    max_names: usize,
    /// Names with the time at which they were last asked for.
    known: HashMap<Arc<str>, u64>,
    /// When names that were idle were last dropped.
    swept: u64,
    invalid: Arc<str>,
    other: Arc<str>,
    folded: u64,
    rejected: u64,
}

impl NamePolicy {
    /// No name is known.
    pub fn new(names: Names, max_names: usize) -> Self {
        Self {
            names,
            max_names,
            known: HashMap::new(),
            swept: 0,
            invalid: INVALID.into(),
            other: OTHER.into(),
            folded: 0,
            rejected: 0,
        }
    }

    /// Names that were folded into `other` so far.
    pub const fn folded(&self) -> u64 {
        self.folded
    }

    /// Names that were not valid so far.
    pub const fn invalid(&self) -> u64 {
        self.rejected
    }

    /// The names of a transaction that ended at `now`, by the clock of the packets.
    pub fn name(&mut self, name: &DomainName, now: u64) -> Named {
        if self.names == Names::None {
            return Named::default();
        }
        let Some(full) = name.to_text() else {
            return self.invalid_name();
        };
        let name = match self.names {
            Names::RegisteredDomain => registered_domain(&full),
            Names::None | Names::Full => &full,
        };
        if let Some((known, used)) = self.known.get_key_value(name) {
            let known = Arc::clone(known);
            if *used != now {
                self.known.insert(Arc::clone(&known), now);
            }
            return Named {
                label: Some(Arc::clone(&known)),
                name: Some(known),
            };
        }
        if self.known.len() >= self.max_names {
            self.sweep(now);
        }
        let name: Arc<str> = name.into();
        let label = if self.known.len() < self.max_names {
            self.known.insert(Arc::clone(&name), now);
            Arc::clone(&name)
        } else {
            self.folded += 1;
            Arc::clone(&self.other)
        };
        Named {
            label: Some(label),
            name: Some(name),
        }
    }

    /// The names where there is no valid one; counts it.
    pub(crate) fn invalid_name(&mut self) -> Named {
        if self.names == Names::None {
            return Named::default();
        }
        self.rejected += 1;
        Named {
            label: Some(Arc::clone(&self.invalid)),
            name: None,
        }
    }

    /// Drops idle names, at most once in a tenth of their time: a flood of names must not cost a pass over all known ones each.
    fn sweep(&mut self, now: u64) {
        if now.saturating_sub(self.swept) >= IDLE_NS / 10 {
            self.swept = now;
            self.known.retain(|_, used| now.saturating_sub(*used) < IDLE_NS);
        }
    }
}

/// Message of a build without the Public Suffix List.
const NO_REGISTERED_DOMAINS: &str = "this build does not know registered domains; hint: write `full` or `none`, or build flowtap with \
    the feature `registered-domains`";

impl Names {
    /// A violation at `key`, if this build can't give such names.
    pub(crate) fn violation(self, key: &str) -> Option<Violation> {
        (self == Self::RegisteredDomain && cfg!(not(feature = "registered-domains")))
            .then(|| Violation::new(key, NO_REGISTERED_DOMAINS))
    }
}

/// The registered domain of a name in lower case. The config rejects builds without it.
#[cfg(not(feature = "registered-domains"))]
const fn registered_domain(_: &str) -> &str {
    UNQUALIFIED
}

/// The registered domain of a name in lower case.
#[cfg(feature = "registered-domains")]
fn registered_domain(name: &str) -> &str {
    for zone in ["in-addr.arpa", "ip6.arpa"] {
        if name.ends_with(zone) {
            return zone;
        }
    }
    match psl::domain_str(name) {
        Some(domain) => domain,
        // Of a public suffix itself, such as `com` or `co.uk`, there is none.
        None if name == "." || psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix.is_known()) => name,
        None => UNQUALIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::name;
    use super::*;

    fn label(policy: &mut NamePolicy, text: &str, now: u64) -> Option<String> {
        policy.name(&name(text), now).label.map(|label| label.to_string())
    }

    #[test]
    fn without_names_no_name_is_known_at_all() {
        let mut policy = NamePolicy::new(Names::None, 200);
        assert_eq!(policy.name(&name("www.example.com"), 1), Named::default());
        assert!(policy.known.is_empty());
    }

    #[test]
    fn the_registered_domain_is_below_the_public_suffix() {
        for (full, domain) in [
            ("www.example.com", "example.com"),
            ("a.b.example.co.uk", "example.co.uk"),
            ("co.uk", "co.uk"),
            ("com", "com"),
            (".", "."),
            ("db", "unqualified"),
            ("kubernetes.default.svc.cluster.local", "cluster.local"),
            ("7.2.0.192.in-addr.arpa", "in-addr.arpa"),
            ("b.a.9.8.7.6.ip6.arpa", "ip6.arpa"),
        ] {
            assert_eq!(registered_domain(full), domain, "{full}");
        }
    }

    #[test]
    fn names_beyond_the_limit_are_other_until_one_is_idle() {
        let mut policy = NamePolicy::new(Names::Full, 2);
        assert_eq!(label(&mut policy, "a.example", 1).as_deref(), Some("a.example"));
        assert_eq!(label(&mut policy, "b.example", 1).as_deref(), Some("b.example"));
        let named = policy.name(&name("c.example"), 2);
        assert_eq!(named.label.as_deref(), Some("other"));
        assert_eq!(named.name.as_deref(), Some("c.example"));
        assert_eq!(policy.folded(), 1);
        let later = IDLE_NS + 1;
        assert_eq!(
            label(&mut policy, "a.example", later - 1).as_deref(),
            Some("a.example")
        );
        assert_eq!(
            label(&mut policy, "c.example", later).as_deref(),
            Some("c.example"),
            "b is idle"
        );
        assert_eq!(label(&mut policy, "b.example", later).as_deref(), Some("other"));
    }

    #[test]
    fn hostile_names_are_counted_and_never_become_a_label() {
        let mut policy = NamePolicy::new(Names::Full, 200);
        let hostile = ["a\r\nX: b.example", "\u{1b}[2J", "\u{ff}\u{fe}.example", "a b"];
        for text in hostile {
            let named = policy.name(&name(text), 1);
            assert_eq!(named.label.as_deref(), Some("invalid"), "{text:?}");
            assert_eq!(named.name, None);
        }
        assert_eq!(policy.invalid(), hostile.len() as u64);
        assert!(policy.known.is_empty());
    }

    #[test]
    fn a_name_of_the_greatest_length_is_kept_whole() {
        let label = "x".repeat(61);
        let long = [&*label; 4].join(".");
        let mut policy = NamePolicy::new(Names::Full, 1);
        assert_eq!(policy.name(&name(&long), 1).name.as_deref(), Some(&*long));
    }
}
