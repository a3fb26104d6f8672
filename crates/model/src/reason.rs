//! Classes of problems, by which people sort events.

use serde::{Deserialize, Serialize};

/// What class of problem an object has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// Nothing of the object can be read.
    ObjectUnreadable,
    /// A type (of a Service, of addresses) is not known.
    TypeUnknown,
    /// An address is none, or none that packets can be sent to.
    AddressUnusable,
    /// A port or its protocol is none, or listed twice.
    PortInvalid,
    /// A range of clients cannot be read.
    SourceRangeInvalid,
    /// An annotation of Beeline's has no meaning.
    AnnotationInvalid,
    /// An address and port has another owner.
    FrontendCollision,
    /// An externalIP is not allowed.
    ExternalIpRefused,
    /// SCTP would need another port, which its checksum forbids.
    SctpPortDiffers,
    /// Too many endpoints for an exact distribution by a Maglev table.
    TooManyEndpoints,
    /// A slice names a Service that does not exist.
    ServiceMissing,
    /// A Node without usable address or PodCIDR.
    NodeIncomplete,
    /// Two Nodes have one address or PodCIDR.
    NodeCollision,
    /// This node has no way of its own to another one.
    NoDirectRoute,
    /// Devices, routes or programs of this node.
    HostNetwork,
    /// Sockets of this node outlive their backends.
    SocketsRemain,
    /// A table of this node lacks entries.
    TableIncomplete,
    /// kube-proxy's rules are on this node.
    KubeProxyLeftovers,
}

impl Reason {
    /// As events spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::ObjectUnreadable => "ObjectUnreadable",
            Reason::TypeUnknown => "TypeUnknown",
            Reason::AddressUnusable => "AddressUnusable",
            Reason::PortInvalid => "PortInvalid",
            Reason::SourceRangeInvalid => "SourceRangeInvalid",
            Reason::AnnotationInvalid => "AnnotationInvalid",
            Reason::FrontendCollision => "FrontendCollision",
            Reason::ExternalIpRefused => "ExternalIPRefused",
            Reason::SctpPortDiffers => "SCTPPortDiffers",
            Reason::TooManyEndpoints => "TooManyEndpoints",
            Reason::ServiceMissing => "ServiceMissing",
            Reason::NodeIncomplete => "NodeIncomplete",
            Reason::NodeCollision => "NodeCollision",
            Reason::NoDirectRoute => "NoDirectRoute",
            Reason::HostNetwork => "HostNetwork",
            Reason::SocketsRemain => "SocketsRemain",
            Reason::TableIncomplete => "TableIncomplete",
            Reason::KubeProxyLeftovers => "KubeProxyLeftovers",
        }
    }

    /// It is one node's problem, whatever object it is about.
    pub const fn is_local(self) -> bool {
        matches!(
            self,
            Reason::NoDirectRoute
                | Reason::HostNetwork
                | Reason::SocketsRemain
                | Reason::TableIncomplete
                | Reason::KubeProxyLeftovers
        )
    }
}
