//! Classes of remote addresses: those that are built in, and those that an operator defines.

use std::sync::{PoisonError, RwLock};

/// Class of the remote address, the Go exporter's `ip_source_type`.
///
/// ```
/// use flowtap_model::PeerClass;
///
/// assert_eq!(PeerClass::K8sPod.as_str(), "k8sPod");
/// assert!(PeerClass::is_built_in("dns"));
/// let partners = PeerClass::custom("partners").expect("fewer than 65,000 names");
/// assert_eq!(partners.as_str(), "partners");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "each variant is its label value, and the policy processor documents them"
)]
pub enum PeerClass {
    K8sPod,
    K8sSvc,
    Dns,
    Localhost,
    Docker,
    InternalHosts,
    ExternalHosts,
    AbnormalFlowBlackList,
    AbnormalFlowWhiteList,
    Unknown,
    Error,
    /// A class of the operator's own.
    Custom(CustomClassId),
}

/// A class of the operator's own: the number of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CustomClassId(u16);

impl CustomClassId {
    /// Maximum number of names.
    const MAX: u16 = 65_000;

    /// The number of the first, after those that are built in.
    const FIRST: u16 = 11;
}

/// Names of classes that configs have brought in. Each is kept for good, so that a class is as small as a built-in one; only
/// a config can add to them.
static CUSTOM_CLASSES: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

impl PeerClass {
    /// Every class that is built in.
    pub const BUILT_IN: [Self; 11] = [
        Self::K8sPod,
        Self::K8sSvc,
        Self::Dns,
        Self::Localhost,
        Self::Docker,
        Self::InternalHosts,
        Self::ExternalHosts,
        Self::AbnormalFlowBlackList,
        Self::AbnormalFlowWhiteList,
        Self::Unknown,
        Self::Error,
    ];

    /// Every class that there is so far, in the order of their numbers.
    pub fn known() -> Vec<Self> {
        let custom = CUSTOM_CLASSES
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        let custom = (0..CustomClassId::MAX)
            .take(custom)
            .map(|index| Self::Custom(CustomClassId(index)));
        Self::BUILT_IN.into_iter().chain(custom).collect()
    }

    /// Whether a class of this name is built in.
    pub fn is_built_in(name: &str) -> bool {
        Self::BUILT_IN.iter().any(|class| class.as_str() == name)
    }

    /// The class of the operator's own with this name; `None` if there have been 65,000 others since flowtap started.
    pub fn custom(name: &str) -> Option<Self> {
        let mut names = CUSTOM_CLASSES.write().unwrap_or_else(PoisonError::into_inner);
        let index = names.iter().position(|known| *known == name);
        let class = u16::try_from(index.unwrap_or(names.len())).ok()?;
        let class = CustomClassId((class < CustomClassId::MAX).then_some(class)?);
        if index.is_none() {
            names.push(Box::leak(name.into()));
        }
        Some(Self::Custom(class))
    }

    /// Its index, below `u16::MAX`: half as large, for tables of many classes.
    pub const fn index(self) -> u16 {
        match self {
            Self::K8sPod => 0,
            Self::K8sSvc => 1,
            Self::Dns => 2,
            Self::Localhost => 3,
            Self::Docker => 4,
            Self::InternalHosts => 5,
            Self::ExternalHosts => 6,
            Self::AbnormalFlowBlackList => 7,
            Self::AbnormalFlowWhiteList => 8,
            Self::Unknown => 9,
            Self::Error => 10,
            Self::Custom(CustomClassId(index)) => index + CustomClassId::FIRST,
        }
    }

    /// The class with this number.
    pub fn from_index(index: u16) -> Option<Self> {
        if let Some(built_in) = Self::BUILT_IN.get(usize::from(index)) {
            return Some(*built_in);
        }
        let own = index - CustomClassId::FIRST;
        (own < CustomClassId::MAX).then_some(Self::Custom(CustomClassId(own)))
    }

    /// The value of the label `type`, spelt as the seed spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::K8sPod => "k8sPod",
            Self::K8sSvc => "k8sSvc",
            Self::Dns => "dns",
            Self::Localhost => "localhost",
            Self::Docker => "docker",
            Self::InternalHosts => "internalHosts",
            Self::ExternalHosts => "externalHosts",
            Self::AbnormalFlowBlackList => "abnormalFlowBlackList",
            Self::AbnormalFlowWhiteList => "abnormalFlowWhiteList",
            Self::Unknown => "unknown",
            Self::Error => "error",
            Self::Custom(CustomClassId(index)) => {
                let names = CUSTOM_CLASSES.read().unwrap_or_else(PoisonError::into_inner);
                // An index is only obtained together with its name.
                names.get(usize::from(index)).copied().unwrap_or("unknown")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_comes_back_from_its_number() {
        let own = ["partners", "backups", "partners"].map(|name| PeerClass::custom(name).unwrap());
        assert_eq!(own[0], own[2]);
        assert_ne!(own[0], own[1]);
        assert_eq!(own[1].as_str(), "backups");
        for class in PeerClass::BUILT_IN.into_iter().chain(own) {
            assert_eq!(PeerClass::from_index(class.index()), Some(class));
        }
        assert_eq!(PeerClass::from_index(u16::MAX), None);
    }
}
