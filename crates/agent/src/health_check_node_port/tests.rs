//! Tests over real sockets on loopback.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn name() -> ObjectName {
    ObjectName::new("shop", "web")
}

fn check(port: u16, local_endpoints: u32) -> BTreeMap<ObjectName, Option<HealthCheck>> {
    BTreeMap::from([(name(), Some(HealthCheck { service: name(), port, local_endpoints }))])
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap().port()
}

/// The response head in lower case and the body. `None` if nothing listens.
async fn get(ip: IpAddr, port: u16, path: &str) -> Option<(String, serde_json::Value)> {
    let mut stream = TcpStream::connect((ip, port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Some((head.to_lowercase(), serde_json::from_str(body).unwrap_or_default()))
}

/// Waits until the port is open or closed.
async fn wait(ip: IpAddr, port: u16, listens: bool) {
    for _ in 0..500 {
        if get(ip, port, "/").await.is_some() == listens {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("port {port}: after 10 s still not in the expected state (listening: {listens})");
}

#[tokio::test]
async fn unit_health_check_ports_report_local_endpoints() {
    let health = Arc::new(Health::default());
    let addresses = vec![LOOPBACK, IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let serving = tokio::spawn(serve_checks(health.clone(), addresses, Vec::new()));
    let port = free_port();
    health.set_node(true, false);
    health.set_checks(check(port, 2));
    wait(LOOPBACK, port, true).await;
    wait(IpAddr::V6(Ipv6Addr::LOCALHOST), port, true).await;

    let (head, body) = get(LOOPBACK, port, "/").await.unwrap();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
    ] {
        assert!(head.contains(header), "{head}");
    }
    let expected = json!({
        "service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true
    });
    assert_eq!(body, expected);
    assert_eq!(get(LOOPBACK, port, "/healthz").await.unwrap().1, expected, "whatever the path");

    // The last local endpoint is removed.
    health.set_checks(check(port, 0));
    let (head, body) = get(LOOPBACK, port, "/").await.unwrap();
    assert!(head.starts_with("http/1.1 503") && head.contains("weight: 0"), "{head}");
    assert_eq!(body["localEndpoints"], 0);

    // There are endpoints, but the agent is not ready.
    health.set_checks(check(port, 1));
    health.set_node(false, false);
    let (head, body) = get(LOOPBACK, port, "/").await.unwrap();
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert_eq!((&body["localEndpoints"], &body["serviceProxyHealthy"]), (&json!(1), &json!(false)));

    // The port changes, then the health check is removed.
    let other = free_port();
    health.set_checks(check(other, 1));
    wait(LOOPBACK, other, true).await;
    wait(LOOPBACK, port, false).await;
    health.set_checks(BTreeMap::from([(name(), None)]));
    wait(LOOPBACK, other, false).await;
    serving.abort();
}

#[tokio::test]
async fn unit_healthz_and_livez_report_the_node() {
    let health = Arc::new(Health::default());
    let port = free_port();
    let serving = tokio::spawn({
        let health = health.clone();
        async move { serve_node(&format!("127.0.0.1:{port}"), health).await }
    });
    wait(LOOPBACK, port, true).await;
    let status = async |path: &str| {
        let (head, body) = get(LOOPBACK, port, path).await.unwrap();
        let code: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, body)
    };
    assert_eq!(status("/healthz").await.0, 503, "nothing is programmed yet");
    health.set_node(true, false);
    let (code, body) = status("/healthz").await;
    assert_eq!((code, &body["nodeEligible"]), (200, &json!(true)));
    assert_eq!(body["lastUpdated"], body["currentTime"]);
    body["currentTime"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(status("/livez").await.0, 200);

    // The cluster autoscaler is removing the node.
    health.set_node(true, true);
    let (code, body) = status("/healthz").await;
    assert_eq!((code, &body["nodeEligible"]), (503, &json!(false)));
    let (code, body) = status("/livez").await;
    assert_eq!((code, body.get("nodeEligible")), (200, None));
    serving.abort();

    let error = serve_node("10256", health).await.unwrap_err();
    assert!(format!("{error:#}").contains("kubeProxyReplacementHealthzBindAddr=10256"), "{error:#}");
}

#[tokio::test]
async fn unit_only_addresses_in_range_are_served() {
    let health = Arc::new(Health::default());
    let ranges = vec!["127.0.0.2/32".parse().unwrap(), "::1/128".parse().unwrap()];
    let serving = tokio::spawn(serve_checks(health.clone(), unspecified_addresses(), ranges));
    let port = free_port();
    health.set_node(true, false);
    health.set_checks(check(port, 1));
    let chosen = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    wait_for_ok(chosen, port).await;
    wait_for_ok(IpAddr::V6(Ipv6Addr::LOCALHOST), port).await;
    let mut stream = TcpStream::connect((LOOPBACK, port)).await.unwrap();
    // The connection may be closed before the write or before the read.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer, b"", "127.0.0.1 is no chosen address");
    serving.abort();
}

async fn wait_for_ok(ip: IpAddr, port: u16) {
    wait(ip, port, true).await;
    let (head, _) = get(ip, port, "/").await.unwrap();
    assert!(head.starts_with("http/1.1 200"), "{head}");
}
