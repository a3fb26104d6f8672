//! What the packet path does already. Tables, planner and agent are ready for
//! all of it: when the programs follow, one line here switches it on, for the
//! schema (what is answered with "not built yet", and the defaults) and for
//! the agent alike. The chart's pages are printed anew then.

/// NodePorts and LoadBalancer addresses (`nodePort.*`, source ranges).
pub const NODE_PORT: bool = true;
/// externalIPs that an allow-list names.
pub const EXTERNAL_IPS: bool = true;
/// hostPorts.
pub const HOST_PORT: bool = true;
/// `sessionAffinity: ClientIP`.
pub const SESSION_AFFINITY: bool = true;
/// Masquerading, and what is exempt from it.
pub const MASQUERADE: bool = true;
