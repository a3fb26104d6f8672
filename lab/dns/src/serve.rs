//! DNS server: UDP with truncation, TCP, EDNS.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, LowerQuery, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Record};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::answer::{Answer, answer};
use crate::watch::SharedFacts;

/// Maximum UDP response in bytes, which avoids fragmentation. Clients retry
/// larger ones over TCP.
const UDP_BYTES_MAX: u16 = 1232;

/// Minimum UDP response limit in bytes.
const UDP_BYTES_MIN: u16 = 512;

/// Idle timeout of TCP connections.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// Maximum number of queued responses of a TCP connection.
const TCP_ANSWERS_MAX: usize = 32;

/// Listening sockets of both families.
#[derive(Debug, Default)]
pub struct Sockets {
    /// UDP.
    pub udp: Vec<UdpSocket>,
    /// TCP.
    pub tcp: Vec<TcpListener>,
}

/// Serves until a socket fails (the error) or the future is dropped.
pub async fn serve(sockets: Sockets, facts: Arc<SharedFacts>) -> Result<()> {
    let mut server = Server::new(Handler { facts, turn: AtomicUsize::new(0) });
    for socket in sockets.udp {
        socket.set_nonblocking(true)?;
        server.register_socket(tokio::net::UdpSocket::from_std(socket)?);
    }
    for listener in sockets.tcp {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        server.register_listener(listener, TCP_IDLE, TCP_ANSWERS_MAX);
    }
    server.block_until_done().await.context("a socket of the DNS server failed")
}

struct Handler {
    facts: Arc<SharedFacts>,
    /// Rotation of address records.
    turn: AtomicUsize,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let edns = request.edns.as_ref().map(own_edns);
        let answer = self.answer(request);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.authoritative;
        // There is no upstream server, so no recursion and no referral.
        metadata.recursion_available = true;
        let soa: Vec<&Record> = answer.start_of_authority.iter().collect();
        let message = builder.build(metadata, &answer.answers, [], soa, &answer.additionals);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!("DNS: an answer cannot be sent to {}: {error}", request.src());
                let mut failed = Metadata::response_from_request(&request.metadata);
                failed.response_code = ResponseCode::ServFail;
                ResponseInfo::from(hickory_server::proto::op::Header {
                    metadata: failed,
                    counts: Default::default(),
                })
            }
        }
    }
}

impl Handler {
    fn answer(&self, request: &Request) -> Answer {
        let error = |code| Answer { code, ..Answer::default() };
        if request.metadata.op_code != OpCode::Query {
            return error(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return error(ResponseCode::BADVERS);
        }
        let [query] = request.queries.queries() else { return error(ResponseCode::FormErr) };
        if query.query_class() != DNSClass::IN {
            return error(ResponseCode::Refused);
        }
        // Before the initial list is complete, NXDOMAIN would be wrong.
        self.look_up(query).unwrap_or_else(|| error(ResponseCode::ServFail))
    }

    fn look_up(&self, query: &LowerQuery) -> Option<Answer> {
        let kind = query.query_type();
        let mut found = self.facts.read(|facts| answer(facts, query.original().name(), kind))?;
        let first = found.answers.iter().position(|record| record.record_type() == kind);
        let several = &mut found.answers[first.unwrap_or_default()..];
        if !several.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            several.rotate_left(turn % several.len());
        }
        Some(found)
    }
}

fn own_edns(asked: &Edns) -> Edns {
    let mut own = Edns::new();
    own.set_version(0);
    own.set_max_payload(asked.max_payload().clamp(UDP_BYTES_MIN, UDP_BYTES_MAX));
    own
}
