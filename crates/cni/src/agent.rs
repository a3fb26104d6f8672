//! The calls to the agent.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use beeline_api::{Allocation, Attachment, Call, Client, ClientError, ErrorKind, Response};

use crate::environment::Environment;
use crate::error::{CniError, Code};

/// Timeout of a call. Commit returns when the datapath of the pod is
/// programmed, which may take long on a busy node.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long ADD retries while the agent restarts.
const RETRY_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A client of the agent on this node.
#[derive(Debug)]
pub struct Agent {
    client: Client,
}

impl Agent {
    /// A client of the agent on this socket.
    pub fn at(socket: &Path) -> Agent {
        Agent { client: Client::new(socket).with_timeout(CALL_TIMEOUT) }
    }

    /// Allocates addresses for the pod.
    pub fn allocate(&self, environment: &Environment) -> Result<Allocation, CniError> {
        let call = Call::Allocate {
            attachment: environment.attachment.clone(),
            pod_namespace: environment.pod.namespace.clone(),
            pod_name: environment.pod.name.clone(),
            pod_uid: environment.pod.uid.clone(),
            netns: environment.netns.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        };
        match self.call_with_retry(&call)? {
            Response::Allocated(allocation) => Ok(allocation),
            other => Err(unexpected("Allocate", &other)),
        }
    }

    /// Has the agent program the datapath for an interface that was created.
    pub fn commit(
        &self,
        attachment: &Attachment,
        host_ifindex: u32,
        pod_mac: String,
        netns_cookie: u64,
    ) -> Result<(), CniError> {
        let call = Call::Commit { attachment: attachment.clone(), host_ifindex, pod_mac, netns_cookie };
        match self.call_with_retry(&call)? {
            Response::Done => Ok(()),
            other => Err(unexpected("Commit", &other)),
        }
    }

    /// Retries the call while the agent restarts. Allocate and Commit are
    /// idempotent.
    fn call_with_retry(&self, call: &Call) -> Result<Response, ClientError> {
        let deadline = Instant::now() + RETRY_TIMEOUT;
        loop {
            match self.client.call(call.clone()) {
                Err(ClientError::Unreachable { .. } | ClientError::Disconnected { .. })
                    if Instant::now() < deadline =>
                {
                    thread::sleep(RETRY_INTERVAL);
                }
                other => return other,
            }
        }
    }

    /// Releases the addresses of an attachment. It is no error if the agent
    /// does not know it.
    pub fn release(&self, attachment: &Attachment) -> Result<(), CniError> {
        match self.client.call(Call::Release { attachment: attachment.clone() }) {
            Err(ClientError::CallFailed(refusal)) if refusal.kind == ErrorKind::Unknown => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Has the agent check the attachment.
    pub fn check(&self, attachment: &Attachment) -> Result<(), CniError> {
        self.expect_done(Call::Check { attachment: attachment.clone() })
    }

    /// Releases every attachment that is not in `valid`.
    pub fn collect(&self, valid: Vec<Attachment>) -> Result<(), CniError> {
        self.expect_done(Call::Collect { valid })
    }

    /// Checks that the agent is ready for ADD.
    pub fn ready(&self) -> Result<(), CniError> {
        self.expect_done(Call::Ready)
    }

    fn expect_done(&self, call: Call) -> Result<(), CniError> {
        match self.client.call(call)? {
            Response::Done => Ok(()),
            other => Err(unexpected("the call", &other)),
        }
    }
}

fn unexpected(call: &str, response: &Response) -> CniError {
    CniError::new(Code::Agent, format!("the agent sent an unexpected response to {call}: {response:?}"))
        .with_details("compare the versions of beeline-cni and beeline-agent")
}
