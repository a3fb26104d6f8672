//! A multi-node cluster out of network namespaces on one machine.
