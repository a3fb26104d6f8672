//! Migration of a node from kube-proxy to Beeline: connections established
//! through kube-proxy's rules continue, new ones are handled by Beeline.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::time::Duration;

use beeline_lab::harness::{Background, ExecTarget, TestLab};

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: node-1
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  nodeName: node-1
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
"#;

const NODE: [&str; 2] = ["172.30.0.11", "fd00:172:30::11"];
const NODE_PORT: u16 = 30080;
const TIMEOUT: Duration = Duration::from_secs(20);

/// Sends a line ten times a second over one connection and prints the echoes;
/// exits after five seconds without an echo.
const CLIENT: &str = r#"
exec 3<>"/dev/tcp/$0/$1" || exit 1
while echo "line $((++lines))" >&3 && read -r -t 5 answer <&3; do
  echo "heard $answer"
  sleep 0.1
done
"#;

fn talk(from: &ExecTarget<'_>, address: &str, port: u16) -> Background {
    from.start(["bash", "-c", CLIENT, address, &port.to_string()])
}

/// Rules like those of kube-proxy in nftables mode: a ClusterIP and a NodePort
/// with one backend, and masquerading of external traffic. The counter counts
/// new connections.
fn rules(family: usize, service: &str, pod: &str) -> String {
    let (table, ip) = [("ip", "ip"), ("ip6", "ip6")][family];
    let target = if family == 0 { format!("{pod}:8080") } else { format!("[{pod}]:8080") };
    let node = NODE[family];
    format!(
        "table {table} kube-proxy {{
            counter begun {{}}
            chain nat-prerouting {{
                type nat hook prerouting priority dstnat;
                {ip} daddr {service} tcp dport 80 counter name begun dnat to {target}
                {ip} daddr {node} tcp dport {NODE_PORT} counter name begun meta mark set 0x4000 dnat to {target}
            }}
            chain nat-postrouting {{
                type nat hook postrouting priority srcnat;
                meta mark 0x4000 masquerade
            }}
        }}\n"
    )
}

#[test]
fn lab_connections_survive_the_takeover_from_kube_proxy() {
    let lab = TestLab::up_with("takeover", &["--nodes", "1"]);
    lab.apply(MANIFEST);
    let services = lab.service("web").cluster_ips;
    let pods: Vec<String> = lab.pods("web")[0].ips.iter().map(ToString::to_string).collect();
    let (node, client, asker) = (lab.node("node-1"), lab.client(), lab.pod("asker"));

    // A node without Beeline's programs: the kernel forwards and kube-proxy's
    // rules translate.
    lab.verb(&["agent", "node-1", "stop"]).succeeds();
    let pins = lab.paths().node("node-1").bpffs();
    for path in std::fs::read_dir(&pins).unwrap().map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => std::fs::remove_dir_all(path).unwrap(),
            // Created by the kernel in every bpffs.
            false if path.extension().is_some_and(|extension| extension == "debug") => {}
            false => std::fs::remove_file(path).unwrap(),
        }
    }
    let ruleset: String = (0..2).map(|family| rules(family, &services[family], &pods[family])).collect();
    node.run_with_stdin(["nft", "-f", "-"], &ruleset).succeeds();
    let begun = || node.run(["nft", "list", "counters"]).succeeds().stdout;
    // The kernel detaches the programs some time after their pins are removed.
    let sees = |from: &ExecTarget<'_>, address: &str, port: u16| {
        let before = begun();
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        from.run(["curl", "-gs", "--max-time", "1", &format!("http://{host}:{port}/")]);
        begun() != before
    };
    for family in 0..2 {
        lab.wait_until("kube-proxy's rules translate", TIMEOUT, || {
            sees(&client, NODE[family], NODE_PORT) && sees(&asker, &services[family], 80)
        });
    }
    let clients: Vec<Background> = (0..2)
        .flat_map(|family| [talk(&client, NODE[family], NODE_PORT), talk(&asker, &services[family], 80)])
        .collect();
    clients.iter().for_each(|client| client.wait_for("heard line 3\n", TIMEOUT));

    lab.verb(&["agent", "node-1", "start"]).succeeds();
    lab.wait_until("the agent has found kube-proxy's rules", TIMEOUT, || {
        lab.cli(&["status"]).stdout.contains("nft delete table ip6 kube-proxy")
    });
    let before = begun();
    for client in &clients {
        client.wait_for("heard line 40\n", TIMEOUT);
    }
    // New connections are handled by Beeline and do not hit the rules.
    for family in 0..2 {
        talk(&client, NODE[family], NODE_PORT).wait_for("heard line 2\n", TIMEOUT);
        talk(&asker, &services[family], 80).wait_for("heard line 2\n", TIMEOUT);
    }
    assert_eq!(begun(), before, "kube-proxy's rules have translated a new connection");
    let output = node.shell("curl -s http://127.0.0.1:9879/metrics").succeeds();
    let left = |kind: &str| {
        let name = format!("beeline_kube_proxy_leftovers{{kind=\"{kind}\"}} ");
        let found = output.stdout.lines().find_map(|line| line.strip_prefix(&name));
        found.and_then(|count| count.parse::<u64>().ok()).unwrap_or_else(|| panic!("{name}\n{output}"))
    };
    assert_eq!(left("nftables"), 2, "{output}");
    assert!(left("connections") >= 4, "those of four clients at least\n{output}");
    for client in clients {
        let outcome = client.stop(nix::sys::signal::Signal::SIGKILL);
        assert!(outcome.stdout.contains("heard line 40\n"), "{outcome}");
    }
    lab.down();
}
