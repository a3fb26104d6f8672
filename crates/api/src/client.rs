//! A blocking client for the node's socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::{API_VERSION, ApiError, Call, LINE_BYTES_MAX, Request, Response};

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The agent does not listen on the socket.
    #[error(
        "cannot connect to the agent on {}: {error}; check that beeline-agent is running on this node and that this is its socket",
        path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system error.
        error: io::Error,
    },
    /// The agent did not respond in time.
    #[error("the agent on {} did not respond within {} s; see its log", path.display(), timeout.as_secs())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long the client waited.
        timeout: Duration,
    },
    /// The connection was lost.
    #[error("lost the connection to the agent on {}: {error}; see the agent's log", path.display())]
    Disconnected {
        /// The socket.
        path: PathBuf,
        /// The system error.
        error: io::Error,
    },
    /// The response does not follow the protocol.
    #[error(
        "cannot decode the response of the agent on {} ({detail}); check that both programs are of the same release",
        path.display()
    )]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is invalid.
        detail: String,
    },
    /// The agent reported an error.
    #[error(transparent)]
    CallFailed(#[from] ApiError),
}

/// The socket of an agent and the timeout of calls.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the agent on this socket with a timeout of 10 seconds.
    pub fn new(path: impl Into<PathBuf>) -> Client {
        Client { path: path.into(), timeout: Duration::from_secs(10) }
    }

    /// Sets the timeout.
    pub fn with_timeout(self, timeout: Duration) -> Client {
        Client { timeout, ..self }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends a call and waits for the response. [`Response::Error`] becomes
    /// [`ClientError::CallFailed`].
    pub fn call(&self, call: Call) -> Result<Response, ClientError> {
        let mut responses = self.stream(call)?;
        responses.next().unwrap_or_else(|| Err(self.closed_early("closed before the response")))
    }

    /// Sends a call and reads all lines of the response ([`Call::Drops`]). The
    /// timeout applies to the first line only; a stream may be idle for long.
    pub fn stream(&self, call: Call) -> Result<Responses, ClientError> {
        let stream = self.connect()?;
        let mut line = serde_json::to_vec(&Request { version: API_VERSION, call })
            .map_err(|error| self.protocol(error.to_string()))?;
        line.push(b'\n');
        (&stream).write_all(&line).map_err(|error| self.io(error))?;
        Ok(Responses { client: self.clone(), reader: BufReader::new(stream), first: true, failed: false })
    }

    fn connect(&self) -> Result<UnixStream, ClientError> {
        let stream = UnixStream::connect(&self.path)
            .map_err(|error| ClientError::Unreachable { path: self.path.clone(), error })?;
        stream.set_read_timeout(Some(self.timeout)).map_err(|error| self.io(error))?;
        stream.set_write_timeout(Some(self.timeout)).map_err(|error| self.io(error))?;
        Ok(stream)
    }

    fn io(&self, error: io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ClientError::TimedOut { path, timeout: self.timeout }
            }
            _ => ClientError::Disconnected { path, error },
        }
    }

    /// The agent closed the connection early.
    fn closed_early(&self, how: &'static str) -> ClientError {
        ClientError::Disconnected {
            path: self.path.clone(),
            error: io::Error::new(io::ErrorKind::UnexpectedEof, how),
        }
    }

    fn protocol(&self, detail: String) -> ClientError {
        ClientError::Protocol { path: self.path.clone(), detail }
    }
}

/// The lines of a response, as they arrive. Ends with the connection or after
/// the first error.
pub struct Responses {
    client: Client,
    reader: BufReader<UnixStream>,
    first: bool,
    failed: bool,
}

impl Responses {
    fn read(&mut self) -> Result<Option<Response>, ClientError> {
        let mut line = Vec::new();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut line);
        read.map_err(|error| self.client.io(error))?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') && line.len() <= LINE_BYTES_MAX {
            return Err(self.client.closed_early("closed in the middle of a response"));
        }
        if line.last() != Some(&b'\n') {
            return Err(self.client.protocol(format!("no line feed within {} bytes", line.len())));
        }
        if std::mem::take(&mut self.first) {
            let unlimited = self.reader.get_ref().set_read_timeout(None);
            unlimited.map_err(|error| self.client.io(error))?;
        }
        match serde_json::from_slice(&line).map_err(|error| self.client.protocol(error.to_string()))? {
            Response::Error(error) => Err(ClientError::CallFailed(error)),
            response => Ok(Some(response)),
        }
    }
}

impl Iterator for Responses {
    type Item = Result<Response, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.read().transpose();
        self.failed = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// Answers one connection with `response` and returns the request.
    fn serve(response: &'static [u8]) -> (tempfile::TempDir, Client, thread::JoinHandle<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            (&stream).write_all(response).unwrap();
            line
        });
        (directory, Client::new(path), server)
    }

    #[test]
    fn unit_a_call_is_one_line_with_the_version_and_its_name() {
        let (_directory, client, server) = serve(b"\"done\"\n");
        assert!(matches!(client.call(Call::Ready), Ok(Response::Done)));
        assert_eq!(server.join().unwrap(), "{\"version\":1,\"call\":\"ready\"}\n");
    }

    #[test]
    fn unit_an_error_of_the_agent_is_an_error_of_the_call() {
        let (_directory, client, _server) =
            serve(b"{\"error\":{\"kind\":\"exhausted\",\"message\":\"no address is left\"}}\n");
        match client.call(Call::Ready) {
            Err(ClientError::CallFailed(error)) => assert_eq!(error.kind, ErrorKind::Exhausted),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unit_an_unreachable_agent_is_reported_with_its_socket() {
        let error = Client::new("/nonexistent/agent.sock").call(Call::Ready).unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }));
        assert!(error.to_string().contains("/nonexistent/agent.sock"), "{error}");
    }

    #[test]
    fn unit_invalid_json_is_a_protocol_error_and_a_truncated_response_a_lost_connection() {
        let (_directory, client, _server) = serve(b"no json\n");
        assert!(matches!(client.call(Call::Ready), Err(ClientError::Protocol { .. })));
        for response in [&b"\"done\""[..], b""] {
            let (_directory, client, _server) = serve(response);
            assert!(
                matches!(client.call(Call::Ready), Err(ClientError::Disconnected { .. })),
                "{response:?}"
            );
        }
    }

    #[test]
    fn unit_a_stream_ends_with_the_connection() {
        let (_directory, client, _server) = serve(b"\"done\"\n\"done\"\n");
        let responses: Result<Vec<_>, _> = client.stream(Call::Drops { follow: false }).unwrap().collect();
        assert_eq!(responses.unwrap().len(), 2);
    }
}
