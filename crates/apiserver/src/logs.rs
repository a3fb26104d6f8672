//! What the host of the server knows of pods' logs: the server has none itself, as Kubernetes' asks the
//! kubelets.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;

/// Which log, and how much of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// A container that it has.
    pub container: String,
    /// The run before the last.
    pub previous: bool,
    /// Go on until the container ends.
    pub follow: bool,
    /// With the time before each line.
    pub timestamps: bool,
    /// The last so many lines.
    pub tail_lines: Option<u64>,
    /// Nothing that is older, in seconds.
    pub since_seconds: Option<u64>,
    /// Nothing from before this time (RFC 3339).
    pub since_time: Option<String>,
    /// Not more than so many bytes.
    pub limit_bytes: Option<u64>,
}

/// Whoever has the logs.
pub trait PodLogs: Send + Sync {
    /// Begins to read. None: there is no such log.
    fn open(&self, query: &LogQuery) -> Option<BoxStream<'static, Bytes>>;
}

/// Where a server has its pods' logs from.
#[derive(Clone)]
pub struct LogSource(pub Arc<dyn PodLogs>);

impl std::fmt::Debug for LogSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogSource")
    }
}
