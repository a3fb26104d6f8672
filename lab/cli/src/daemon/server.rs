//! The daemon's socket: one call per connection, see [`crate::protocol`].
//! Accessible to root only.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::lab::Lab;
use super::{node_operations, status, wait_for_sync};
use crate::protocol::{Call, Line, Manifest};

/// Maximum size of a request in bytes; manifests are sent inline.
const REQUEST_BYTES_MAX: u64 = 64 << 20;

/// Binds the socket; it is renamed to its final path after its mode is set.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let draft = path.with_extension("new");
    let bind = || -> std::io::Result<UnixListener> {
        let listener = UnixListener::bind(&draft)?;
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&draft, path)?;
        Ok(listener)
    };
    bind().with_context(|| format!("cannot create the socket {}", path.display()))
}

/// Serves for as long as the daemon runs.
pub async fn serve(lab: Arc<Lab>, listener: UnixListener) -> Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let lab = lab.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(&lab, stream).await {
                        tracing::debug!("a client disconnected: {error:#}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(lab: &Lab, stream: UnixStream) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(REQUEST_BYTES_MAX));
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let call = match serde_json::from_str(&line) {
        Ok(call) => call,
        Err(error) => {
            let message = format!("invalid request: {error}; use binaries of the same build");
            return send(&mut writer, &Line::Error(message)).await;
        }
    };
    let (progress, mut lines) = unbounded_channel();
    let work = async {
        let answer = answer(lab, call, &progress).await;
        // The last sender: the loop below ends when everything is sent.
        let _ = progress.send(answer.unwrap_or_else(|error| Line::Error(format!("{error:#}"))));
        drop(progress);
    };
    let forward = async {
        while let Some(line) = lines.recv().await {
            send(&mut writer, &line).await?;
        }
        Ok(())
    };
    tokio::join!(work, forward).1
}

async fn send(writer: &mut OwnedWriteHalf, line: &Line) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(writer.write_all(&text).await?)
}

async fn answer(lab: &Lab, call: Call, progress: &UnboundedSender<Line>) -> Result<Line> {
    match call {
        Call::Apply { manifests } => apply(lab, &manifests, progress).await,
        Call::Status => Ok(Line::Status(Box::new(status::status(lab).await?))),
        Call::Agent { node, action } => node_operations::agent(lab, &node)?.act(action).await.map(Line::Done),
        Call::Link { node, uplink, change } => {
            node_operations::change_link(lab, &node, &uplink, &change).await.map(Line::Done)
        }
        Call::Node { node, action } => node_operations::act(lab, &node, action).await.map(Line::Done),
    }
}

/// Applies all valid objects and waits for them; the invalid ones are combined
/// in one error. New notices of the agents are reported.
async fn apply(lab: &Lab, manifests: &[Manifest], progress: &UnboundedSender<Line>) -> Result<Line> {
    let report = |text: String| {
        // The client may have disconnected; the work continues.
        let _ = progress.send(Line::Progress(text));
    };
    let known = status::notes(lab).await;
    let (mut applied, mut problems) = (Vec::new(), Vec::new());
    for manifest in manifests {
        let outcome = lab.api.apply(&manifest.source, &manifest.text);
        outcome.applied.iter().for_each(|one| report(one.to_string()));
        applied.extend(outcome.applied);
        problems.extend(outcome.problems.iter().map(ToString::to_string));
    }
    let count = applied.len();
    let synced = wait_for_sync::objects(lab, &applied, &report).await;
    problems.extend(synced.err().map(|error| format!("{error:#}")));
    for note in status::notes(lab).await.difference(&known) {
        report(format!("note: {note}"));
    }
    if problems.is_empty() {
        let objects = if count == 1 { "1 object".to_owned() } else { format!("{count} objects") };
        return Ok(Line::Done(format!("{objects} applied and programmed")));
    }
    bail!("{}", problems.join("\n"))
}
