//! Domain names as they are compared: labels in lower case, in wire format without the root.

use domain::base::ParsedName;
use domain::base::name::ToLabelIter;

/// Longest text of a name (RFC 1035: 255 bytes on the wire, with a length before each label and the root).
const MAX_TEXT: usize = 253;

/// A domain name, up to 254 bytes. Resolvers that mix case to recognize answers compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DomainName(Box<[u8]>);

impl DomainName {
    /// The name in a message.
    pub(super) fn parsed(name: &ParsedName<&[u8]>) -> Self {
        let mut wire = Vec::with_capacity(64);
        for label in name.iter_labels().filter(|label| !label.is_root()) {
            // A label is at most 63 bytes long.
            wire.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            wire.extend(label.iter().map(|byte| byte.to_ascii_lowercase()));
        }
        Self(wire.into())
    }

    /// The name of a host as text, such as TLS has it (RFC 6066: no dot at the end); `None` if its labels can't be those of a name.
    pub(crate) fn from_host(host: &[u8]) -> Option<Self> {
        if host.len() > MAX_TEXT {
            return None;
        }
        let mut wire = Vec::with_capacity(host.len() + 1);
        for label in host.split(|byte| *byte == b'.') {
            let length = u8::try_from(label.len()).ok();
            wire.push(length.filter(|length| (1..=63).contains(length))?);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Some(Self(wire.into()))
    }

    /// Its labels, the root not among them.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            let (label, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            Some(label)
        })
    }

    /// Its first label; empty for the root.
    pub(super) fn first_label(&self) -> &[u8] {
        self.labels().next().unwrap_or_default()
    }

    /// The name as text, if it is one that a host, a service or a zone can have: letters, digits, hyphens and underscores. Any
    /// other byte is legal on the wire, and would be a control character, a dot inside a label or broken UTF-8 in a metric.
    pub fn to_text(&self) -> Option<String> {
        let mut text = String::with_capacity(self.0.len());
        for label in self.labels() {
            if !text.is_empty() {
                text.push('.');
            }
            for byte in label {
                if !byte.is_ascii_alphanumeric() && !b"-_".contains(byte) {
                    return None;
                }
                text.push(char::from(*byte));
            }
        }
        if text.is_empty() {
            text.push('.');
        }
        (text.len() <= MAX_TEXT).then_some(text)
    }

    /// Whether a resolver's search list can have made `self` before the resolver asked for `next`: `next` is `self` without one run
    /// of labels after the first one, as `db.ns.svc.cluster.local` precedes `db.svc.cluster.local`, and that `db`.
    pub(super) fn is_search_step_before(&self, next: &Self) -> bool {
        let (ours, theirs): (Vec<_>, Vec<_>) = (self.labels().collect(), next.labels().collect());
        if theirs.is_empty() || theirs.len() >= ours.len() {
            return false;
        }
        let leading = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        let trailing = ours
            .iter()
            .rev()
            .zip(theirs.iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        leading > 0 && leading + trailing >= theirs.len()
    }
}

#[cfg(test)]
pub(super) fn name(text: &str) -> DomainName {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend(label.bytes());
    }
    DomainName(wire.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_text_only_if_a_host_or_zone_can_have_it() {
        assert_eq!(
            name("_http._tcp.a-b.example.com").to_text().as_deref(),
            Some("_http._tcp.a-b.example.com")
        );
        assert_eq!(name("").to_text().as_deref(), Some("."));
        for hostile in ["a\nb.example", "a b", "\u{e9}.example", "a\"b", "a\u{7f}"] {
            assert_eq!(name(hostile).to_text(), None, "{hostile:?}");
        }
        let dot_inside = DomainName(b"\x03a.b\x03com".to_vec().into());
        assert_eq!(dot_inside.to_text(), None);
        let invalid_utf8 = DomainName(b"\x02\xff\xfe\x03com".to_vec().into());
        assert_eq!(invalid_utf8.to_text(), None);
    }

    #[test]
    fn a_host_is_a_name_if_its_labels_are() {
        let text = |host: &[u8]| DomainName::from_host(host)?.to_text();
        assert_eq!(text(b"API.Example.test").as_deref(), Some("api.example.test"));
        assert_eq!(text(b"localhost").as_deref(), Some("localhost"));
        let long = ["x".repeat(64), "a.".repeat(126) + "bc"];
        for hostile in [
            &b""[..],
            b".",
            b"a..b",
            b"a.test.",
            b"a\nb.test",
            b"\xff.test",
            b"a b.test",
            long[0].as_bytes(),
            long[1].as_bytes(),
        ] {
            assert_eq!(text(hostile), None, "{hostile:?}");
        }
    }

    #[test]
    fn search_steps_lack_one_run_of_labels_after_the_first() {
        let before = |before: &str, next: &str| name(before).is_search_step_before(&name(next));
        // In the order of a pod's search list.
        assert!(before("db.ns.svc.cluster.local", "db.svc.cluster.local"));
        assert!(before("db.svc.cluster.local", "db.cluster.local"));
        assert!(before("db.cluster.local", "db"));
        assert!(before("www.example.com.cluster.local", "www.example.com"));
        assert!(!before("db.cluster.local", "db.cluster.local"));
        assert!(!before("db.cluster.local", "web.cluster.local"));
        assert!(!before("db", "db.cluster.local"));
        assert!(!before("a.example.com", "example.com"));
        assert!(!before("a.example.com", ""));
    }
}
