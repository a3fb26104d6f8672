//! Container logs, served through the API.

use std::path::PathBuf;

use beeline_apiserver::{LogQuery, PodLogs};
use beeline_lab_kubelet::cri_log::{self, FOLLOW_PAUSE, LogOptions, LogReader};
use beeline_lab_net::paths::LabPaths;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use hyper::body::Bytes;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The logs of a lab.
pub struct LabLogs {
    paths: LabPaths,
}

impl LabLogs {
    /// Those in the lab's directory.
    pub fn new(paths: LabPaths) -> LabLogs {
        LabLogs { paths }
    }
}

impl PodLogs for LabLogs {
    fn open(&self, query: &LogQuery) -> Option<BoxStream<'static, Bytes>> {
        let container = self.paths.pod(&query.namespace, &query.pod).container(&query.container);
        Some(read(cri_log::find(&container, query.previous)?, options(query), query.follow))
    }
}

fn options(query: &LogQuery) -> LogOptions {
    let seconds = query.since_seconds.and_then(|seconds| i64::try_from(seconds).ok());
    let since =
        seconds.and_then(|seconds| Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok());
    LogOptions {
        tail: query.tail_lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
        since: since.or_else(|| query.since_time.as_deref()?.parse().ok()),
        timestamps: query.timestamps,
        limit_bytes: query.limit_bytes,
    }
}

fn read(path: PathBuf, options: LogOptions, follow: bool) -> BoxStream<'static, Bytes> {
    let reader = LogReader::open(&path, options);
    let parts = stream::unfold(Some((reader, false)), move |state| async move {
        let (mut reader, begun) = state?;
        if begun {
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
        // Logs are bounded and usually in the page cache, so this does not
        // block for long.
        let (bytes, ended) = reader.read_more().ok()?;
        let next = (follow && !ended).then_some((reader, true));
        Some((Bytes::from(bytes), next))
    });
    parts.filter(|bytes| std::future::ready(!bytes.is_empty())).boxed()
}
