//! Source of pod logs, provided by the host program. The server has no logs itself, as kube-apiserver
//! reads them from the kubelets.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;

/// Which log to read, and how much of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the container.
    pub container: String,
    /// Read the previous run of the container.
    pub previous: bool,
    /// Follow the log until the container exits.
    pub follow: bool,
    /// Prefix each line with its time.
    pub timestamps: bool,
    /// Maximum number of lines from the end.
    pub tail_lines: Option<u64>,
    /// Maximum age of lines in seconds.
    pub since_seconds: Option<u64>,
    /// Earliest time of lines (RFC 3339).
    pub since_time: Option<String>,
    /// Maximum number of bytes.
    pub limit_bytes: Option<u64>,
}

/// A source of pod logs.
pub trait PodLogs: Send + Sync {
    /// Starts to read a log. None if it does not exist.
    fn open(&self, query: &LogQuery) -> Option<BoxStream<'static, Bytes>>;
}

/// The log source of a server.
#[derive(Clone)]
pub struct LogSource(pub Arc<dyn PodLogs>);

impl std::fmt::Debug for LogSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogSource")
    }
}
