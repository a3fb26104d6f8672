//! Rule sets as kube-proxy 1.36 writes them in iptables and nftables mode, for
//! the same Services with three endpoints each.

use std::fmt::Write;
use std::net::Ipv4Addr;

/// A Service of the benchmark.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its ClusterIP; the port is [`PORT`].
    pub ip: Ipv4Addr,
    /// Its nodePort, if it has one.
    pub node_port: Option<u16>,
    /// Its endpoints.
    pub endpoints: [(Ipv4Addr, u16); 3],
}

/// Port of every Service.
pub const PORT: u16 = 80;
/// Connections from other sources are masqueraded.
const PODS: &str = "10.244.0.0/16";

/// Input for `iptables-restore`: one rule per Service jumps to the Service's
/// chain, which selects an endpoint by probability. The rules of the first entry
/// are in the middle, after half of the others.
pub fn iptables(entries: &[Entry]) -> String {
    let middle = |mut list: Vec<(usize, Entry)>| {
        let half = list.len() / 2;
        list[..=half].rotate_left(1);
        list
    };
    let numbered: Vec<(usize, Entry)> = entries.iter().cloned().enumerate().collect();
    let with_port: Vec<_> = numbered.iter().filter(|(_, entry)| entry.node_port.is_some()).cloned().collect();
    let by_ip = middle(numbered);
    let by_port = if with_port.is_empty() { with_port } else { middle(with_port) };
    let mut text = String::from(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n",
    );
    for number in 0..entries.len() {
        let _ = writeln!(text, ":KUBE-SVC-{number:016} - [0:0]\n:KUBE-EXT-{number:016} - [0:0]");
        for end in 0..3 {
            let _ = writeln!(text, ":KUBE-SEP-{number:014}{end:02} - [0:0]");
        }
    }
    text.push_str(
        "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n",
    );
    for (number, Entry { ip, .. }) in &by_ip {
        let _ = writeln!(
            text,
            "-A KUBE-SERVICES -d {ip}/32 -p tcp -m comment --comment \"default/s-{number} cluster IP\" -m tcp \
             --dport {PORT} -j KUBE-SVC-{number:016}"
        );
    }
    text.push_str("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n");
    for (number, entry) in &by_port {
        if let Some(port) = entry.node_port {
            let _ = writeln!(
                text,
                "-A KUBE-NODEPORTS -p tcp -m comment --comment \"default/s-{number}\" -m tcp --dport {port} -j \
                 KUBE-EXT-{number:016}"
            );
        }
    }
    entries.iter().enumerate().for_each(|(number, entry)| iptables_chains(&mut text, number, entry));
    text.push_str("COMMIT\n");
    text
}

fn iptables_chains(text: &mut String, number: usize, entry: &Entry) {
    let service = format!("KUBE-SVC-{number:016}");
    let _ = writeln!(
        text,
        "-A KUBE-EXT-{number:016} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{number:016} -j {service}\n\
         -A {service} ! -s {PODS} -d {}/32 -p tcp -m tcp --dport {PORT} -j KUBE-MARK-MASQ",
        entry.ip
    );
    let probabilities = [
        "-m statistic --mode random --probability 0.33333333349 ",
        "-m statistic --mode random --probability 0.5 ",
        "",
    ];
    for (end, ((ip, port), probability)) in entry.endpoints.iter().zip(probabilities).enumerate() {
        let chain = format!("KUBE-SEP-{number:014}{end:02}");
        let _ = writeln!(
            text,
            "-A {service} {probability}-j {chain}\n-A {chain} -s {ip}/32 -j KUBE-MARK-MASQ\n\
             -A {chain} -p tcp -m tcp -j DNAT --to-destination {ip}:{port}"
        );
    }
}

/// Input for `nft -f`: a verdict map selects the Service's chain, which selects
/// an endpoint by a random number.
pub fn nftables(entries: &[Entry], node: Ipv4Addr) -> String {
    let mut text = format!(
        "table ip kube-proxy {{\n\
         chain mark-for-masquerade {{ mark set mark or 0x4000; }}\n\
         chain masquerading {{ mark & 0x4000 == 0 return; mark set mark xor 0x4000; masquerade fully-random; }}\n\
         set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }} }}\n"
    );
    entries.iter().enumerate().for_each(|(number, entry)| nftables_chains(&mut text, number, entry));
    let by_ip = entries
        .iter()
        .enumerate()
        .map(|(number, entry)| format!("{} . tcp . {PORT} : goto service-{number}", entry.ip));
    let by_ip: Vec<String> = by_ip.collect();
    let by_port = entries
        .iter()
        .enumerate()
        .filter_map(|(number, entry)| Some(format!("tcp . {} : goto external-{number}", entry.node_port?)));
    let by_port: Vec<String> = by_port.collect();
    let elements = |list: Vec<String>| match list.is_empty() {
        true => String::new(),
        false => format!("elements = {{ {} }}", list.join(",\n")),
    };
    let _ = write!(
        text,
        "map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; {} }}\n\
         map service-nodeports {{ type inet_proto . inet_service : verdict; {} }}\n\
         chain services {{\n ip daddr . meta l4proto . th dport vmap @service-ips;\n \
         ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports; }}\n\
         chain nat-prerouting {{ type nat hook prerouting priority -100; policy accept; jump services; }}\n\
         chain nat-output {{ type nat hook output priority -100; policy accept; jump services; }}\n\
         chain nat-postrouting {{ type nat hook postrouting priority 100; policy accept; jump masquerading; }}\n}}\n",
        elements(by_ip),
        elements(by_port)
    );
    text
}

fn nftables_chains(text: &mut String, number: usize, entry: &Entry) {
    for (end, (ip, port)) in entry.endpoints.iter().enumerate() {
        let _ = writeln!(
            text,
            "chain endpoint-{number}-{end} {{ ip saddr {ip} jump mark-for-masquerade; meta l4proto tcp dnat to {ip}:{port}; }}"
        );
    }
    let _ = writeln!(
        text,
        "chain service-{number} {{ ip daddr {} tcp dport {PORT} ip saddr != {PODS} jump mark-for-masquerade; \
         numgen random mod 3 vmap {{ 0 : goto endpoint-{number}-0, 1 : goto endpoint-{number}-1, 2 : goto \
         endpoint-{number}-2 }}; }}",
        entry.ip
    );
    if entry.node_port.is_some() {
        let _ =
            writeln!(text, "chain external-{number} {{ jump mark-for-masquerade; goto service-{number}; }}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_each_service_has_its_chains_and_one_lookup_entry() {
        let entry = |last: u8, node_port| Entry {
            ip: Ipv4Addr::new(10, 96, 0, last),
            node_port,
            endpoints: [1, 2, 3].map(|end| (Ipv4Addr::new(10, 244, end, 2), 8080)),
        };
        let entries = [entry(1, Some(30001)), entry(2, None)];
        let text = iptables(&entries);
        assert_eq!(text.matches("-j DNAT").count(), 6);
        assert_eq!(text.lines().filter(|line| line.starts_with("-A KUBE-SERVICES -d")).count(), 2);
        assert_eq!(text.lines().filter(|line| line.starts_with("-A KUBE-NODEPORTS")).count(), 1);
        let text = nftables(&entries, Ipv4Addr::new(172, 30, 0, 11));
        assert_eq!(text.matches("dnat to").count(), 6);
        assert_eq!(text.matches(": goto service-").count(), 2);
        assert!(text.contains("tcp . 30001 : goto external-0"));
    }
}
