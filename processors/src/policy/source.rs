//! Sources of address ranges.

use std::fmt;

/// Where a range comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A list of the config, by its key.
    List(&'static str),
    /// A class of the config's own, by its name.
    CustomClass(&'static str),
    /// The name servers of `resolv.conf`.
    Resolvers,
    /// The networks of this machine's Docker bridges.
    DockerBridges,
    /// The Kubernetes cluster.
    Cluster,
}

impl Source {
    /// Its name in the label `policy_rule`.
    pub const fn short(self) -> &'static str {
        match self {
            Self::List(key) => key,
            Self::CustomClass(name) => name,
            Self::Resolvers => "resolv.conf",
            Self::DockerBridges => "docker_bridges",
            Self::Cluster => "cluster",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(key) => write!(f, "the list `{key}`"),
            Self::CustomClass(name) => write!(f, "the class `{name}` of the config"),
            Self::Resolvers => f.write_str("resolv.conf"),
            Self::DockerBridges => f.write_str("this machine's Docker bridges"),
            Self::Cluster => f.write_str("the Kubernetes cluster"),
        }
    }
}
