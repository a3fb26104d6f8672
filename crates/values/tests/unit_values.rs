//! What users write, and what becomes of it.

use std::fs;
use std::path::Path;

use beeline_values::schema::{self, Key, Kind, Support};
use beeline_values::{Settings, Values};

fn errors(arguments: &[&str]) -> String {
    Settings::from_set(arguments).expect_err("must be refused").to_string()
}

#[test]
fn unit_a_cilium_users_command_line_is_understood() {
    let parsed = Settings::from_set(&[
        "kubeProxyReplacement=strict",
        "k8sServiceHost=172.30.0.2",
        "k8sServicePort=6443",
        "bpf.masquerade=true",
        "routingMode=native",
        "autoDirectNodeRoutes=true",
        "ipv4.nativeRoutingCIDR=10.0.0.0/8",
        "loadBalancer.mode=dsr",
    ])
    .unwrap()
    .parse();
    let values = &parsed.values;
    assert_eq!(values.k8s_service_host.as_deref(), Some("172.30.0.2"));
    assert_eq!(values.k8s_service_port, Some(6443));
    assert!(values.masquerade_ipv4 && values.masquerade_ipv6 && values.auto_direct_node_routes);
    assert_eq!(values.native_ranges, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(
        parsed.notices,
        [
            "kubeProxyReplacement=strict is deprecated: use kubeProxyReplacement=true",
            "ipv4.nativeRoutingCIDR is deprecated: use ipv4NativeRoutingCIDR",
        ]
    );
    assert_eq!(
        parsed.not_implemented,
        ["loadBalancer.mode=dsr is not implemented: ignored, loadBalancer.mode=snat is used instead"]
    );
}

#[test]
fn unit_unknown_names_and_wrong_types_say_what_was_meant() {
    assert_eq!(errors(&["rooutingMode=native"]), "unknown value `rooutingMode`; did you mean `routingMode`?");
    assert_eq!(errors(&["zzzzzzzzzzzzzzz=1"]), "unknown value `zzzzzzzzzzzzzzz`");
    assert_eq!(errors(&["MTU=big"]), "MTU=big: expected a whole number from 0 to 65535");
    assert_eq!(errors(&["routingMode=fast"]), "routingMode=fast: expected one of native, tunnel");
    assert_eq!(
        errors(&["ipv4NativeRoutingCIDR=10.0.0.0"]),
        "ipv4NativeRoutingCIDR=10.0.0.0: expected an IPv4 prefix such as 10.0.0.0/8"
    );
    assert_eq!(errors(&["kubeProxyReplacement=maybe"]), "kubeProxyReplacement=maybe: expected true or false");
    assert!(errors(&["loadBalancer=dsr"]).starts_with("`loadBalancer` is a group, not a value: set one of"));
    assert!(errors(&["routingMode"]).contains("write NAME=VALUE"));
    assert_eq!(errors(&["a=b", "MTU=x"]).lines().count(), 2, "all errors are reported at once");
}

#[test]
fn unit_yaml_and_set_mean_the_same_and_merge() {
    let yaml = "# mine\nbpf:\n  masquerade: true\n  natPortRange: 50000-59999\nipv4:\n  enabled: true\n  nativeRoutingCIDR: 10.0.0.0/8\ndevices: [eth0, eth1]\nimage:\n  tag: v1\n";
    let set = [
        "bpf.masquerade=true,bpf.natPortRange=50000-59999",
        "ipv4.enabled=true",
        "ipv4-native-routing-cidr=10.0.0.0/8",
        "devices={eth0,eth1}",
        "image.tag=v1",
    ];
    let from_yaml = Settings::from_yaml(yaml).unwrap();
    assert_eq!(from_yaml.to_yaml(), Settings::from_set(&set).unwrap().to_yaml());
    let again = Settings::from_yaml(&from_yaml.to_yaml()).unwrap();
    assert_eq!(again.parse().values, from_yaml.parse().values);

    let mut merged = from_yaml;
    merged.merge(Settings::from_set(&["bpf.masquerade=null", "bpf.natPortRange=40000-49999"]).unwrap());
    let values = merged.parse().values;
    assert!(!values.masquerade_ipv4);
    assert_eq!(values.nat_ports, Some(40_000..=49_999));
    assert_eq!(values.devices, ["eth0", "eth1"]);
}

#[test]
fn unit_deprecated_names_are_accepted_with_a_notice() {
    for (old, name, current) in [
        ("tunnel=disabled", "routingMode", "native"),
        ("tunnel=geneve", "tunnelProtocol", "geneve"),
        ("nativeRoutingCIDR=10.0.0.0/8", "ipv4NativeRoutingCIDR", "10.0.0.0/8"),
        ("global.kubeProxyReplacement=probe", "kubeProxyReplacement", "true"),
        ("kubeProxyReplacement=disabled", "kubeProxyReplacement", "false"),
        ("hostServices.enabled=true", "socketLB.enabled", "true"),
        ("nodePort.mode=hybrid", "loadBalancer.mode", "hybrid"),
        ("bpf-lb-mode=dsr", "loadBalancer.mode", "dsr"),
        ("bandwidthManager=true", "bandwidthManager.enabled", "true"),
        ("device=eth1", "devices", "[\"eth1\"]"),
    ] {
        let settings = Settings::from_set(&[old]).unwrap_or_else(|e| panic!("{old}: {e}"));
        let value = settings.get(name).unwrap_or_else(|| panic!("{old} must set {name}"));
        assert_eq!(value.as_str().map_or(value.to_string(), str::to_owned), current, "{old}");
        assert!(!settings.parse().notices.is_empty(), "{old} must give a notice");
    }
}

#[test]
fn unit_nothing_set_means_defaults_and_silence() {
    for text in ["", "# nothing\n", "{}", "bpf: {}\n"] {
        let parsed = Settings::from_yaml(text).unwrap().parse();
        assert_eq!(parsed.values, Values::default());
        assert!(parsed.notices.is_empty() && parsed.not_implemented.is_empty(), "{parsed:?}");
    }
    let values = Values::default();
    assert_eq!(values.prometheus_port, 9962);
    assert!(values.socket_lb_enabled && values.node_port && values.auto_direct_node_routes);
    assert!(Settings::from_yaml("- a\n- b\n").is_err());
    assert!(Settings::from_yaml("a: [").is_err());
}

#[test]
fn unit_every_default_fits_its_own_type() {
    for key in schema::KEYS.iter().filter(|key| !key.default.is_empty()) {
        let settings = Settings::from_set(&[format!("{}={}", key.name, key.default.replace(',', "\\,"))])
            .unwrap_or_else(|e| panic!("{}: {e}", key.name));
        let parsed = settings.parse();
        assert!(parsed.notices.is_empty(), "{}: {:?}", key.name, parsed.notices);
        let is_quiet = parsed.not_implemented.is_empty() || key.support == Support::Chart;
        assert!(is_quiet, "{}: {:?}", key.name, parsed.not_implemented);
    }
    let mut names: Vec<_> = schema::KEYS.iter().map(|key| key.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "every name is in the schema once");
}

/// Another setting than the default.
fn another(key: &Key) -> String {
    let value = match key.kind {
        Kind::Bool => (key.default != "true").to_string(),
        Kind::Integer(min, max) => if key.default == max.to_string() { min } else { max }.to_string(),
        Kind::Text => "x".into(),
        Kind::Choice(words) => {
            words.iter().find(|word| **word != key.default).expect("a choice has two values").to_string()
        }
        Kind::Ipv4Cidr => "10.9.0.0/16".into(),
        Kind::Ipv6Cidr => "fd09::/16".into(),
        Kind::List => "{x}".into(),
        Kind::Cidrs => "{10.9.0.0/16}".into(),
        Kind::Ports => "31000-31999".into(),
        Kind::Any => "{a}".into(),
    };
    format!("{}={value}", key.name)
}

/// What the schema says of a value is what becomes of it: a setting has an
/// effect if and only if it is implemented.
#[test]
fn unit_a_setting_has_an_effect_if_the_schema_says_so() {
    // What other values depend on.
    let base = ["bpf.masquerade=true", "ipMasqAgent.enabled=true", "externalIPs.enabled=true"];
    let before = Settings::from_set(&base).unwrap().parse();
    for key in schema::KEYS {
        let setting = match base.iter().find(|setting| setting.starts_with(&format!("{}=", key.name))) {
            Some(_) => format!("{}=false", key.name),
            None => another(key),
        };
        let mut settings = Settings::from_set(&base).unwrap();
        settings.merge(Settings::from_set(&[&setting]).unwrap());
        let parsed = settings.parse();
        let (has_effect, is_full) = (parsed.values != before.values, key.support == Support::Full);
        assert_eq!(has_effect, is_full, "{setting}: does it have an effect?");
        assert_eq!(parsed.not_implemented.is_empty(), is_full, "{setting}: {:?}", parsed.not_implemented);
    }
}

#[test]
fn unit_every_field_is_read_by_a_program() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    let mut folders = vec![crates.join("agent/src"), crates.join("../lab/cli/src")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => sources.push_str(&fs::read_to_string(path).unwrap()),
            }
        }
    }
    let own = fs::read_to_string(crates.join("values/src/values.rs")).unwrap();
    let fields = own.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": "));
    let fields: Vec<&str> = fields.map(|(field, _)| field).collect();
    assert!(fields.len() > 20, "{fields:?}");
    for field in fields {
        assert!(
            sources.contains(&format!("values.{field}")) || sources.contains(&format!("asked.{field}")),
            "no program reads `{field}`"
        );
    }
}
