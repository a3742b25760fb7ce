//! A verdict: the decision of each direction, and in words why.

use std::fmt;

use flowtap_model::plain_text::name;

use crate::policy::Direction;

/// Why no policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// The end is not a pod that policies can select.
    NotAPod,
    /// The other end is the same pod.
    SamePod,
    /// The other end is the pod's own node.
    OwnNode,
}

/// A rule, by its place in its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// `namespace/name` of the policy.
    pub policy: String,
    /// The direction.
    pub direction: Direction,
    /// The rule's index.
    pub rule: usize,
    /// Index of the peer that matched; `None` if the rule names none.
    pub peer: Option<usize>,
    /// Index of the port that matched; `None` if the rule names none.
    pub port: Option<usize>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} spec.{}[{}]", self.policy, self.direction, self.rule)?;
        if let Some(peer) = self.peer {
            write!(f, ".{}[{peer}]", self.direction.peers_key())?;
        }
        match (self.peer, self.port) {
            (Some(_), Some(port)) => write!(f, " and .ports[{port}]"),
            (None, Some(port)) => write!(f, ".ports[{port}]"),
            (_, None) => Ok(()),
        }
    }
}

/// The decision of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No policy is asked.
    Exempt(Exemption),
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// A rule allows it.
    Allowed(RuleRef),
    /// It is not known which policies select the pod, and each of these allows it.
    AllowedByEach {
        /// These policies.
        policies: Vec<String>,
    },
    /// It depends on a pod, or on labels of a namespace, that are not known.
    Undecided {
        /// The policies that would have to be asked.
        policies: Vec<String>,
        /// The rule that may allow it; `None` if it is not known which policies select the pod.
        rule: Option<RuleRef>,
        /// The namespace whose labels decide and are not known; `None` if it is a pod that is not known.
        namespace: Option<String>,
    },
    /// No rule of the policies that isolate the pod allows it.
    Denied {
        /// These policies.
        policies: Vec<String>,
        /// A rule that names the peer, with other ports.
        near: Option<(RuleRef, String)>,
    },
}

impl Decision {
    /// The outcome.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Exempt(_) | Self::NotIsolated | Self::Allowed(_) | Self::AllowedByEach { .. } => {
                Outcome::Allowed
            }
            Self::Undecided { .. } => Outcome::Undecided,
            Self::Denied { .. } => Outcome::Denied,
        }
    }

    /// The name of its kind, for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Exempt(Exemption::NotAPod) => "not_a_pod",
            Self::Exempt(Exemption::SamePod) => "same_pod",
            Self::Exempt(Exemption::OwnNode) => "own_node",
            Self::NotIsolated => "not_isolated",
            Self::Allowed(_) => "allowed",
            Self::AllowedByEach { .. } => "allowed_by_each",
            Self::Undecided { .. } => "undecided",
            Self::Denied { .. } => "denied",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exempt(Exemption::NotAPod) => f.write_str("not a pod that policies can select"),
            Self::Exempt(Exemption::SamePod) => f.write_str("a pod always reaches itself"),
            Self::Exempt(Exemption::OwnNode) => f.write_str("a pod and its own node always reach each other"),
            Self::NotIsolated => f.write_str("no policy isolates the pod"),
            Self::Allowed(rule) => write!(f, "allowed by {rule}"),
            Self::AllowedByEach { policies } => write!(
                f,
                "allowed whether or not {} the unknown pod",
                selecting(policies, "selects", "select")
            ),
            Self::Undecided {
                rule: Some(rule),
                namespace: Some(namespace),
                ..
            } => write!(
                f,
                "depends on labels of the namespace {}, which is not listed: {rule}",
                name(namespace)
            ),
            Self::Undecided { rule: Some(rule), .. } => write!(f, "depends on an unknown pod: {rule}"),
            Self::Undecided {
                policies, rule: None, ..
            } => {
                write!(
                    f,
                    "depends on whether {} the unknown pod",
                    selecting(policies, "selects", "select")
                )
            }
            Self::Denied { policies, near } => {
                write!(
                    f,
                    "isolated by {}, no rule of which allows it",
                    policies.join(", ")
                )?;
                match near {
                    Some((rule, ports)) => write!(f, "; {rule} allows the peer on {ports}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// `x/a selects`, `x/a, x/b select`.
fn selecting(policies: &[String], one: &str, many: &str) -> String {
    let verb = if policies.len() == 1 { one } else { many };
    format!("{} {verb}", policies.join(", "))
}

/// Whether a conversation is allowed. In this order the worse wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It is.
    Allowed,
    /// It can't be known.
    Undecided,
    /// It is not.
    Denied,
}

impl Outcome {
    /// Its name, for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Undecided => "undecided",
            Self::Denied => "denied",
        }
    }
}

/// The decisions of both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Of the client's pod.
    pub egress: Decision,
    /// Of the server's pod.
    pub ingress: Decision,
}

impl Verdict {
    /// The outcome for the conversation.
    pub fn outcome(&self) -> Outcome {
        self.egress.outcome().max(self.ingress.outcome())
    }
}
