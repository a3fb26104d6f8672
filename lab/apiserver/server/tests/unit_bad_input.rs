//! Malformed requests get a `Status` with a reason, never a closed connection.

#![expect(clippy::unwrap_used, reason = "a test panics if it cannot continue")]

use beeline_apiserver::{ApiServer, Config};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

struct TestServer {
    client: Client,
    kubeconfig: String,
    _server: ApiServer,
}

async fn test_server() -> TestServer {
    let server = ApiServer::start(Config::default()).unwrap();
    let handle = server.serve(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let kubeconfig = server.kubeconfig(&format!("https://{}", handle.address()));
    TestServer { client: client(&kubeconfig).await, kubeconfig, _server: server }
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// A request to send.
struct Sent<'a> {
    path: &'a str,
    content_type: &'a str,
    accept: &'a str,
    body: Vec<u8>,
}

impl Default for Sent<'_> {
    fn default() -> Self {
        Self { path: MAPS, content_type: "application/json", accept: "application/json", body: Vec::new() }
    }
}

async fn post(client: &Client, sent: Sent<'_>) -> Result<Value, kube::core::Status> {
    let request = http::Request::post(sent.path)
        .header("content-type", sent.content_type)
        .header("accept", sent.accept)
        .body(sent.body)
        .unwrap();
    match client.request::<Value>(request).await {
        Ok(value) => Ok(value),
        Err(kube::Error::Api(status)) => Err(*status),
        Err(other) => panic!("not an answer of the API: {other:?}"),
    }
}

#[track_caller]
fn refused(answer: Result<Value, kube::core::Status>, code: u16, reason: &str, words: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code, status.reason.as_str()), (code, reason), "{}", status.message);
    assert!(status.message.contains(words), "it should say {words:?}: {}", status.message);
}

fn json_body(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A message in the protobuf envelope; all lengths are below 128.
fn enveloped(version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let field =
        |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let types = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &types), field(2, object)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_bad_bodies_get_a_status() {
    let server = test_server().await;
    let client = &server.client;
    for (body, code, reason, words) in [
        (b"{".to_vec(), 400, "BadRequest", "not JSON"),
        (b"[]".to_vec(), 400, "BadRequest", "must be a JSON object"),
        (json_body(&json!({"kind": "Nothing"})), 400, "BadRequest", "\"Nothing\""),
        (json_body(&json!({"apiVersion": "v2"})), 400, "BadRequest", "\"v2\""),
        (json_body(&json!({"metadata": {"name": "A"}})), 422, "Invalid", "metadata.name"),
        (
            json_body(&json!({"metadata": {"name": "a"}, "data": {"key": ["a"]}})),
            400,
            "BadRequest",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal array into field \
             data.key of type string",
        ),
        (vec![b' '; 3 * 1024 * 1024 + 1], 413, "RequestEntityTooLarge", "limit is 3145728"),
    ] {
        refused(post(client, Sent { body, ..Sent::default() }).await, code, reason, words);
    }
    // A body of the maximum size is read and refused as invalid JSON.
    let largest = Sent { body: vec![b' '; 3 * 1024 * 1024], ..Sent::default() };
    refused(post(client, largest).await, 400, "BadRequest", "not JSON");
    let picture = Sent { content_type: "image/png", ..Sent::default() };
    refused(post(client, picture).await, 415, "UnsupportedMediaType", "image/png");
    let nowhere = Sent { path: "/api/v1/namespaces/default/nothings", ..Sent::default() };
    refused(post(client, nowhere).await, 404, "NotFound", "could not find the requested resource");
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_protobuf_is_accepted_and_json_returned() {
    let server = test_server().await;
    let client = &server.client;
    // metadata {name: "words"}, data {"a": "b"}
    let object = b"\x0a\x07\x0a\x05words\x12\x06\x0a\x01a\x12\x01b";
    let sent = |accept, body: Vec<u8>| Sent { content_type: PROTOBUF, accept, body, ..Sent::default() };
    let both = format!("{PROTOBUF},application/json");
    let made = post(client, sent(&both, enveloped("v1", "ConfigMap", object))).await.unwrap();
    assert_eq!(made["data"], json!({"a": "b"}));
    assert_eq!(made["metadata"]["namespace"], "default");
    let only = post(client, sent(PROTOBUF, enveloped("v1", "ConfigMap", object))).await;
    refused(only, 406, "NotAcceptable", "application/json");
    let wrong = post(client, sent(&both, enveloped("v1", "Secret", object))).await;
    refused(wrong, 400, "BadRequest", "\"Secret\"");
    let unknown = post(client, sent(&both, enveloped("bees.example/v1", "Hive", b""))).await;
    refused(unknown, 400, "BadRequest", "no kind \"Hive\" is registered");
    refused(post(client, sent(&both, b"{}".to_vec())).await, 400, "BadRequest", "expected prefix");
    refused(post(client, sent(&both, b"k8s\0\x0a\x7f".to_vec())).await, 400, "BadRequest", "truncated");
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_a_wrong_token_is_unauthorized() {
    let server = test_server().await;
    let lines = server.kubeconfig.lines().map(|line| match line.find("token:") {
        Some(at) => format!("{}token: wrong", &line[..at]),
        None => line.to_owned(),
    });
    let stranger = client(&lines.collect::<Vec<_>>().join("\n")).await;
    refused(post(&stranger, Sent::default()).await, 401, "Unauthorized", "Unauthorized");
}
