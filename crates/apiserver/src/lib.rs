//! The lab's embedded Kubernetes API and controllers; in memory, not for production.
