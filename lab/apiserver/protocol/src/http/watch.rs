//! Watch streams of JSON lines.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use beeline_apiserver_objects::ApiError;
use beeline_apiserver_schema::Kind;
use beeline_apiserver_storage::{EventKind, Watch, WatchEvent};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::table;

/// Timeout of a watch without `timeoutSeconds`.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Pending events are combined into frames of about this size.
const FRAME_BYTES: usize = 32 * 1024;

/// With a kind in `table`, objects are sent as tables of one row.
pub(super) fn stream(
    watch: Watch,
    timeout_seconds: Option<u64>,
    bookmarks: bool,
    table: Option<(Arc<Kind>, table::Include)>,
) -> Body {
    let timeout =
        timeout_seconds.filter(|seconds| *seconds > 0).map_or(TIMEOUT, Duration::from_secs).min(TIMEOUT);
    let state = State { watch, end: Instant::now() + timeout, bookmarks, table, ended: false };
    let frames = stream::unfold(state, |mut state| async move {
        let bytes = state.next_frame().await?;
        Some((Ok::<_, Infallible>(bytes), state))
    });
    Body::from_stream(frames)
}

struct State {
    watch: Watch,
    end: Instant,
    bookmarks: bool,
    table: Option<(Arc<Kind>, table::Include)>,
    ended: bool,
}

impl State {
    async fn next_frame(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut lines = Vec::new();
        match tokio::time::timeout_at(self.end, self.watch.next()).await {
            Err(_) => return self.last_frame(),
            Ok(Err(error)) => self.fail(&error, &mut lines),
            Ok(Ok(event)) => {
                self.write_event(&event, &mut lines);
                self.add_ready(&mut lines);
            }
        }
        Some(Bytes::from(lines))
    }

    fn add_ready(&mut self, lines: &mut Vec<u8>) {
        while lines.len() < FRAME_BYTES && !self.ended {
            match self.watch.try_next() {
                Ok(Some(event)) => self.write_event(&event, lines),
                Ok(None) => return,
                Err(error) => self.fail(&error, lines),
            }
        }
    }

    /// At the timeout, a bookmark gives the client the revision to continue from.
    fn last_frame(&mut self) -> Option<Bytes> {
        self.ended = true;
        let mut lines = Vec::new();
        if self.bookmarks {
            self.write_event(&self.watch.bookmark(), &mut lines);
        }
        (!lines.is_empty()).then(|| Bytes::from(lines))
    }

    fn write_event(&self, event: &WatchEvent, lines: &mut Vec<u8>) {
        match &self.table {
            Some((kind, include)) if event.kind != EventKind::Bookmark => {
                write_line(event.kind.as_str(), &table::of_one(kind, &event.object, *include), lines);
            }
            _ => write_line(event.kind.as_str(), &event.object, lines),
        }
    }

    fn fail(&mut self, error: &ApiError, lines: &mut Vec<u8>) {
        self.ended = true;
        write_line("ERROR", &error.to_status(), lines);
    }
}

fn write_line(event_type: &str, object: &Value, lines: &mut Vec<u8>) {
    lines.extend_from_slice(format!("{{\"type\":{},\"object\":", json!(event_type)).as_bytes());
    // Writing JSON into memory cannot fail.
    let _ = serde_json::to_writer(&mut *lines, object);
    lines.extend_from_slice(b"}\n");
}

/// A stream with one error event, where watch clients expect errors.
pub(super) fn error_stream(error: &ApiError) -> Body {
    let mut lines = Vec::new();
    write_line("ERROR", &error.to_status(), &mut lines);
    Body::from(lines)
}
