//! Classes of problems, by which people sort events.

use serde::{Deserialize, Serialize};

use Reason::{
    AddressUnusable, AnnotationInvalid, ExternalIpRefused, FrontendCollision, HostNetwork,
    KubeProxyLeftovers, NoDirectRoute, NodeCollision, NodeIncomplete, ObjectUnreadable, PortInvalid,
    SctpPortDiffers, ServiceMissing, SocketsRemain, SourceRangeInvalid, TableIncomplete, TooManyEndpoints,
    TypeUnknown,
};

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
    /// More endpoints than shares can be exact for.
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
    /// Every class.
    pub const ALL: [Reason; 18] = [
        ObjectUnreadable,
        TypeUnknown,
        AddressUnusable,
        PortInvalid,
        SourceRangeInvalid,
        AnnotationInvalid,
        FrontendCollision,
        ExternalIpRefused,
        SctpPortDiffers,
        TooManyEndpoints,
        ServiceMissing,
        NodeIncomplete,
        NodeCollision,
        NoDirectRoute,
        HostNetwork,
        SocketsRemain,
        TableIncomplete,
        KubeProxyLeftovers,
    ];

    /// As events spell it.
    pub const fn name(self) -> &'static str {
        match self {
            ObjectUnreadable => "ObjectUnreadable",
            TypeUnknown => "TypeUnknown",
            AddressUnusable => "AddressUnusable",
            PortInvalid => "PortInvalid",
            SourceRangeInvalid => "SourceRangeInvalid",
            AnnotationInvalid => "AnnotationInvalid",
            FrontendCollision => "FrontendCollision",
            ExternalIpRefused => "ExternalIPRefused",
            SctpPortDiffers => "SCTPPortDiffers",
            TooManyEndpoints => "TooManyEndpoints",
            ServiceMissing => "ServiceMissing",
            NodeIncomplete => "NodeIncomplete",
            NodeCollision => "NodeCollision",
            NoDirectRoute => "NoDirectRoute",
            HostNetwork => "HostNetwork",
            SocketsRemain => "SocketsRemain",
            TableIncomplete => "TableIncomplete",
            KubeProxyLeftovers => "KubeProxyLeftovers",
        }
    }

    /// It is one node's problem, whatever object it is about.
    pub const fn is_local(self) -> bool {
        matches!(self, NoDirectRoute | HostNetwork | SocketsRemain | TableIncomplete | KubeProxyLeftovers)
    }
}
