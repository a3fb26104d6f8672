//! The life of pods: a minimal kubelet for every node of a lab.
//!
//! [`kubelet`] watches the pods of a [`node`] and runs a [`worker`] for each:
//! sandbox and removal ([`pod`]), order of the containers ([`pod_containers`]), the
//! process of one container ([`supervise`]), status ([`pod_status`]). What a
//! container gets: its environment ([`environment`]), files ([`etc`]) and
//! volumes ([`volumes`]). [`shared`] is what the kubelets of a lab share.

pub mod backoff;
pub mod container;
pub mod cri_log;
pub mod environment;
pub mod etc;
pub mod events;
pub mod expand;
pub mod facts;
pub mod handlers;
pub mod kubelet;
pub mod node;
pub mod objects;
pub mod plugin;
pub mod pod;
pub mod pod_containers;
pub mod pod_status;
pub mod probe;
pub mod projection;
pub mod shared;
pub mod supervise;
pub mod tls;
pub mod volumes;
pub mod worker;
