//! The node's socket: one JSON line per request and response (a stream for
//! drops). Only root may connect; line length and number of connections are
//! bounded.

use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use beeline_api::{API_VERSION, ApiError, Call, ErrorKind, LINE_BYTES_MAX, Request, Response};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::drops::Subscription;

/// Connections served at once; further ones wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Handles the calls.
pub trait Handler: Send + Sync + 'static {
    /// Handles every call except [`Call::Drops`]. May block.
    fn handle(&self, call: Call) -> Response;
    /// The recent drops and a channel for new ones.
    fn drops(&self) -> Subscription;
}

/// Binds the socket with access for root only. A stale socket is replaced.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let context = || format!("cannot create the socket {}", path.display());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(context)?;
    }
    // Bound under a temporary name and renamed: the permissions are set before
    // the socket is reachable, and the path always exists.
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).with_context(context)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600)).with_context(context)?;
    std::fs::rename(&temporary, path).with_context(context)?;
    Ok(listener)
}

/// Serves forever.
pub async fn serve(listener: UnixListener, handler: Arc<dyn Handler>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = handler.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve_connection(stream, handler).await {
                        debug!("the connection to a client failed: {error}");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                warn!("cannot accept a connection on the socket: {error}; retrying");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(stream: UnixStream, handler: Arc<dyn Handler>) -> std::io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(LINE_BYTES_MAX as u64 + 1));
    let request = match authorize(caller, nix::unistd::geteuid().as_raw()) {
        Ok(()) => read_request(&mut reader).await,
        Err(error) => Err(error),
    };
    match request {
        Err(error) => send(&mut writer, &Response::Error(error)).await,
        Ok(Call::Drops { follow }) => {
            let mut reader = reader.into_inner().into_inner();
            let mut byte = [0; 1];
            // A disconnected client is noticed even if no event arrives.
            tokio::select! {
                sent = stream_drops(&mut writer, handler.drops(), follow) => sent,
                _ = reader.read(&mut byte), if follow => Ok(()),
            }
        }
        Ok(call) => {
            // Runs on this thread, to avoid the latency of waking another one.
            let response = tokio::task::block_in_place(|| self::call(&*handler, call));
            send(&mut writer, &response).await
        }
    }
}

/// A panic in a call is answered with an error. The handler keeps its own state
/// consistent.
fn call(handler: &dyn Handler, call: Call) -> Response {
    catch_unwind(AssertUnwindSafe(|| handler.handle(call))).unwrap_or_else(|_| {
        error_response(ErrorKind::Internal, "the agent failed to handle this call; see its log".to_owned())
    })
}

/// Root may call, and the agent's own user (in tests; in production it is
/// root).
fn authorize(caller: u32, own: u32) -> Result<(), ApiError> {
    if caller == 0 || caller == own {
        return Ok(());
    }
    let message = format!("user {caller} is not permitted to call the agent; run as root");
    Err(ApiError { kind: ErrorKind::Denied, message })
}

async fn read_request(reader: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Result<Call, ApiError> {
    let invalid = |message: String| ApiError { kind: ErrorKind::Invalid, message };
    let mut line = Vec::new();
    match tokio::time::timeout(REQUEST_TIMEOUT, reader.read_until(b'\n', &mut line)).await {
        Err(_) => return Err(invalid("no request received within 10 s".to_owned())),
        Ok(Err(error)) => return Err(invalid(format!("cannot read the request: {error}"))),
        Ok(Ok(_)) if line.last() == Some(&b'\n') => {}
        Ok(Ok(_)) if line.len() > LINE_BYTES_MAX => {
            return Err(invalid(format!("the request is longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok(Ok(_)) => return Err(invalid("the request does not end with a line feed".to_owned())),
    }
    let request: Request = serde_json::from_slice(&line)
        .map_err(|error| invalid(format!("cannot decode the request: {error}")))?;
    if request.version != API_VERSION {
        return Err(invalid(format!(
            "protocol version {} is not supported, this agent supports {API_VERSION}; use programs of one \
                 release",
            request.version
        )));
    }
    Ok(request.call)
}

async fn stream_drops(
    writer: &mut (impl AsyncWriteExt + Unpin),
    mut subscription: Subscription,
    follow: bool,
) -> std::io::Result<()> {
    for record in subscription.recent.drain(..) {
        send(writer, &Response::Drop(Box::new((*record).clone()))).await?;
    }
    if !follow {
        return send(writer, &Response::Done).await;
    }
    while let Some(record) = subscription.next().await {
        send(writer, &Response::Drop(Box::new((*record).clone()))).await?;
    }
    Ok(())
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), response: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

fn error_response(kind: ErrorKind, message: String) -> Response {
    Response::Error(ApiError { kind, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::Drops;
    use beeline_api::{Client, ClientError};
    use std::io::{Read, Write};

    struct Echo(Drops);

    impl Handler for Echo {
        fn handle(&self, call: Call) -> Response {
            match call {
                Call::Ready => Response::Done,
                Call::Names => panic!("a call that fails"),
                _ => error_response(ErrorKind::Unknown, "not in this test".into()),
            }
        }
        fn drops(&self) -> Subscription {
            self.0.subscribe()
        }
    }

    /// Runs `body` against a served socket.
    fn with_server(body: impl FnOnce(&Path)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(async { bind(&path).unwrap() });
        runtime.spawn(serve(listener, Arc::new(Echo(Drops::new()))));
        body(&path);
        runtime.shutdown_background();
    }

    fn raw(path: &Path, bytes: &[u8]) -> Response {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        // The server may respond and close before it has read everything.
        let _ = stream.write_all(bytes);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    #[test]
    fn unit_malformed_requests_are_answered_and_the_next_one_is_served() {
        with_server(|path| {
            let too_long = [vec![b'x'; LINE_BYTES_MAX + 1], vec![b'\n']].concat();
            let bad: [&[u8]; 7] = [
                b"\n",
                b"{\n",
                b"{}\n",
                b"{\"version\":1,\"call\":\"ready\"}",
                b"{\"version\":7,\"call\":\"ready\"}\n",
                b"{\"version\":1,\"call\":\"format-disk\"}\n",
                &[0xff, 0xfe, b'\n'],
            ];
            for bytes in bad {
                match raw(path, bytes) {
                    Response::Error(error) => assert_eq!(error.kind, ErrorKind::Invalid),
                    other => panic!("{other:?}"),
                }
            }
            drop(std::os::unix::net::UnixStream::connect(path).map(|mut s| s.write_all(&too_long)));
            assert!(matches!(Client::new(path).call(Call::Ready), Ok(Response::Done)));
        });
    }

    #[test]
    fn unit_a_call_that_fails_is_an_internal_error_and_the_next_one_is_served() {
        with_server(|path| {
            match Client::new(path).call(Call::Names) {
                Err(ClientError::CallFailed(error)) => assert_eq!(error.kind, ErrorKind::Internal),
                other => panic!("{other:?}"),
            }
            assert!(Client::new(path).call(Call::Ready).is_ok());
        });
    }

    #[test]
    fn unit_more_callers_than_slots_are_all_served() {
        with_server(|path| {
            std::thread::scope(|scope| {
                for _ in 0..CONNECTIONS_MAX * 3 {
                    scope.spawn(|| Client::new(path).call(Call::Ready).unwrap());
                }
            });
        });
    }

    #[test]
    fn unit_the_socket_is_for_root_and_its_owner_alone() {
        assert!(authorize(0, 500).is_ok() && authorize(500, 500).is_ok());
        assert_eq!(authorize(1000, 0).unwrap_err().kind, ErrorKind::Denied);
        with_server(|path| {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        });
    }

    #[test]
    fn unit_drops_end_with_done_unless_they_are_followed() {
        with_server(|path| {
            let answers: Vec<_> = Client::new(path).stream(Call::Drops { follow: false }).unwrap().collect();
            assert!(matches!(answers[..], [Ok(Response::Done)]), "{answers:?}");
        });
    }
}
