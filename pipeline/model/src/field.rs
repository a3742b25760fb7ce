//! The fields of a record that a pipeline fills on the way.

use std::fmt;

/// The fields of a flow record that some components fill and others need, in groups that are filled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RecordField {
    /// `kind`, and `role` and `role_source` as decided for every record.
    Role,
    /// `class`.
    Class,
    /// `peer_names` and `local_names`.
    ClusterNames,
    /// `pid`, `comm` and `cgroup_id`.
    Process,
    /// `container_id`.
    Container,
    /// `netns`.
    Netns,
    /// `qname` and `answer` of a DNS transaction.
    DnsName,
    /// `peer_name`.
    PeerName,
    /// `peer_network`.
    PeerNetwork,
    /// `peer_place`.
    PeerPlace,
    /// `translation`.
    Translation,
    /// `policy_rule`.
    PolicyRule,
    /// `inspection.protocol`.
    Protocol,
    /// `inspection.server_name`.
    ServerName,
}

impl RecordField {
    /// The consequence for a pipeline in which nothing fills the field.
    pub const fn if_missing(self) -> &'static str {
        match self {
            Self::Role => "every connection is treated as one that this machine opened",
            Self::Class => "every peer is of class `unknown`",
            Self::ClusterNames => "the names of pods, services and nodes stay empty",
            Self::Process => "processes stay empty",
            Self::Container => "container ids stay empty",
            Self::Netns => "network namespaces stay empty",
            Self::DnsName => "DNS names stay empty",
            Self::PeerName => "names of peers stay empty",
            Self::PeerNetwork => "networks of peers stay empty",
            Self::PeerPlace => "operators and countries of peers stay empty",
            Self::PolicyRule => "rules of classes stay empty",
            Self::Protocol => "application protocols stay empty",
            Self::ServerName => "names of TLS servers stay empty",
            Self::Translation => "backends of services and clients behind a masquerade stay empty",
        }
    }
}

impl fmt::Display for RecordField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Role => "the role (client or server)",
            Self::Class => "the peer's class",
            Self::ClusterNames => "Kubernetes names",
            Self::Process => "the process",
            Self::Container => "the container id",
            Self::Netns => "the network namespace",
            Self::DnsName => "the DNS name",
            Self::PeerName => "the peer's name",
            Self::PeerNetwork => "the peer's network",
            Self::PeerPlace => "the peer's place",
            Self::Translation => "the addresses on the wire",
            Self::PolicyRule => "the rule of the class",
            Self::Protocol => "the application protocol",
            Self::ServerName => "the name of the TLS server",
        })
    }
}
