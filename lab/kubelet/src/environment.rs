//! The environment of a container, from its specification and the objects that
//! it references. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Service};
use kube::ResourceExt;

use crate::expand::expand;
use crate::facts::PodFacts;
use crate::objects::{Objects, Reference};

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// The ConfigMaps and Secrets that the variables of a container reference.
pub fn references(container: &Container) -> Vec<Reference> {
    let mut found = Vec::new();
    for source in container.env_from.iter().flatten() {
        found.extend(source.config_map_ref.iter().map(|one| Reference::config_map(&one.name)));
        found.extend(source.secret_ref.iter().map(|one| Reference::secret(&one.name)));
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        found.extend(source.config_map_key_ref.iter().map(|one| Reference::config_map(&one.name)));
        found.extend(source.secret_key_ref.iter().map(|one| Reference::secret(&one.name)));
    }
    found
}

/// The environment of a container. Order of precedence, lowest first:
/// variables set by the lab, Services, `envFrom`, `env`.
pub fn environment(
    container: &Container,
    facts: &PodFacts,
    services: &Environment,
    objects: &Objects,
) -> Result<Environment> {
    let mut result = own_variables(facts);
    result.extend(services.clone());
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (data, optional) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(map), _) => (objects.all(&Reference::config_map(&map.name)), map.optional),
            (_, Some(secret)) => (objects.all(&Reference::secret(&secret.name)), secret.optional),
            _ => bail!("an entry of envFrom has neither configMapRef nor secretRef"),
        };
        let Some(data) = needed(data, optional)? else { continue };
        for (key, value) in data {
            let name = format!("{prefix}{key}");
            // Not valid as environment variable names; the kubelet skips such
            // keys, too.
            if !name.is_empty() && !name.contains(['=', '\0']) {
                result.insert(name, String::from_utf8_lossy(&value).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let text = variable.value.as_deref().unwrap_or_default();
                Some(expand(text, |name| result.get(name).cloned()))
            }
            Some(source) => from_source(source, container, facts, objects)
                .with_context(|| format!("the variable {}", variable.name))?,
        };
        if let Some(value) = value {
            result.insert(variable.name.clone(), value);
        }
    }
    Ok(result)
}

fn own_variables(facts: &PodFacts) -> Environment {
    let field = |path: &str| facts.variable(path).unwrap_or_default();
    [
        ("POD_NAME", field("metadata.name")),
        ("POD_NAMESPACE", field("metadata.namespace")),
        ("NODE_NAME", field("spec.nodeName")),
        ("POD_IP", field("status.podIP")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// None if the reference is optional and missing.
fn from_source(
    source: &EnvVarSource,
    container: &Container,
    facts: &PodFacts,
    objects: &Objects,
) -> Result<Option<String>> {
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    if let Some(field) = &source.field_ref {
        return facts.variable(&field.field_path).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        return facts.resource(field, Some(container)).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let found = objects.one(&Reference::config_map(&key.name), &key.key);
        return Ok(needed(found, key.optional)?.map(text));
    }
    if let Some(key) = &source.secret_key_ref {
        let found = objects.one(&Reference::secret(&key.name), &key.key);
        return Ok(needed(found, key.optional)?.map(text));
    }
    Err(anyhow!("its valueFrom must be one of fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef"))
}

/// Turns a missing optional reference into none.
pub fn needed<T>(found: Result<T>, optional: Option<bool>) -> Result<Option<T>> {
    match found {
        Err(_) if optional == Some(true) => Ok(None),
        found => found.map(Some),
    }
}

/// The variables for Services: those of the pod's namespace, and always
/// `kubernetes`.
pub fn of_services<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> Environment {
    let api = |service: &Service| {
        service.namespace().as_deref() == Some("default") && service.name_any() == "kubernetes"
    };
    let near = |service: &&Service| links && service.namespace().as_deref() == Some(namespace);
    // A Service of the pod's namespace takes precedence over
    // default/kubernetes.
    let (ours, others): (Vec<&Service>, Vec<&Service>) =
        services.into_iter().filter(|one| near(one) || api(one)).partition(near);
    let mut result = Environment::new();
    for service in others.into_iter().chain(ours) {
        result.extend(of_service(service));
    }
    result
}

fn of_service(service: &Service) -> Environment {
    let mut result = Environment::new();
    let spec = service.spec.clone().unwrap_or_default();
    let address = spec.cluster_ip.unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let Some(first) = ports.first().filter(|_| !matches!(address.as_str(), "" | "None")) else {
        return result;
    };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(&service.name_any());
    let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
    result.insert(format!("{prefix}_SERVICE_HOST"), address.clone());
    result.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let url = |port: i32, protocol: &str| format!("{}://{host}:{port}", protocol.to_lowercase());
    result.insert(format!("{prefix}_PORT"), url(first.port, first.protocol.as_deref().unwrap_or("TCP")));
    for port in &ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            result.insert(format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.port.to_string());
        }
        let one = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        result.insert(one.clone(), url(port.port, protocol));
        result.insert(format!("{one}_PROTO"), protocol.to_lowercase());
        result.insert(format!("{one}_PORT"), port.port.to_string());
        result.insert(format!("{one}_ADDR"), address.clone());
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn objects() -> Objects {
        let mut objects = Objects::default();
        let data = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect())
        };
        objects.insert(Reference::config_map("cm"), data(&[("a", "1"), ("b", "2")]));
        objects.insert(Reference::secret("s"), data(&[("pass", "word")]));
        objects.insert(Reference::config_map("none"), None);
        objects
    }

    fn of(container: Value) -> Result<Environment> {
        let container: Container = serde_json::from_value(container).unwrap();
        let pod = json!({"metadata": {"name": "p", "labels": {"app": "web"}}});
        let facts = PodFacts { pod: serde_json::from_value(pod).unwrap(), ..PodFacts::default() };
        let services = [("DB_SERVICE_HOST".to_owned(), "10.96.0.9".to_owned())].into();
        environment(&container, &facts, &services, &objects())
    }

    #[test]
    fn unit_later_variable_sources_override_earlier_ones() {
        let environment = of(json!({
            "name": "c",
            "envFrom": [
                {"prefix": "CM_", "configMapRef": {"name": "cm"}},
                {"secretRef": {"name": "s"}},
                {"configMapRef": {"name": "none", "optional": true}},
            ],
            "env": [
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "URL", "value": "http://$(DB_SERVICE_HOST)/$(LABEL)?$(CM_a)&$(LATER)&$$(LABEL)"},
                {"name": "LATER", "value": "x"},
                {"name": "CM_b", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pass"}}},
                {"name": "ABSENT", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "z", "optional": true}}},
            ],
        }))
        .unwrap();
        assert_eq!(environment["CM_a"], "1");
        assert_eq!(environment["pass"], "word");
        assert_eq!(environment["URL"], "http://10.96.0.9/web?1&$(LATER)&$(LABEL)");
        assert_eq!(environment["CM_b"], "word");
        assert!(!environment.contains_key("ABSENT"));
    }

    #[test]
    fn unit_missing_required_references_are_named() {
        let check = |env: Value, words: &str| {
            let error = format!("{:#}", of(json!({"name": "c", "env": [env]})).unwrap_err());
            assert!(error.contains(words), "{error}");
        };
        let from = |source: Value| json!({"name": "V", "valueFrom": source});
        check(from(json!({"configMapKeyRef": {"name": "none", "key": "a"}})), "configmap \"none\" not found");
        check(from(json!({"secretKeyRef": {"name": "s", "key": "a"}})), "couldn't find key a in Secret");
        check(from(json!({"fieldRef": {"fieldPath": "spec.x"}})), "spec.x");
    }

    #[test]
    fn unit_services_become_docker_link_variables() {
        let service = |namespace: &str, name: &str, ip: &str| -> Service {
            serde_json::from_value(json!({
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"clusterIP": ip, "ports": [
                    {"port": 80, "name": "web-ui"}, {"port": 53, "protocol": "UDP"},
                ]},
            }))
            .unwrap()
        };
        let services = [
            service("default", "kubernetes", "10.96.0.1"),
            service("default", "other", "10.96.0.2"),
            service("shop", "my-db", "10.96.0.3"),
            service("shop", "headless", "None"),
            service("shop", "six", "fd00::6"),
        ];
        let environment = of_services(&services, "shop", true);
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("MY_DB_SERVICE_HOST", "10.96.0.3"),
            ("MY_DB_SERVICE_PORT", "80"),
            ("MY_DB_SERVICE_PORT_WEB_UI", "80"),
            ("MY_DB_PORT", "tcp://10.96.0.3:80"),
            ("MY_DB_PORT_53_UDP", "udp://10.96.0.3:53"),
            ("MY_DB_PORT_53_UDP_PROTO", "udp"),
            ("MY_DB_PORT_80_TCP_ADDR", "10.96.0.3"),
            ("SIX_PORT", "tcp://[fd00::6]:80"),
        ] {
            assert_eq!(environment.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!environment.keys().any(|name| name.starts_with("OTHER") || name.starts_with("HEADLESS")));
        let without = of_services(&services, "shop", false);
        assert!(without.keys().all(|name| name.starts_with("KUBERNETES_")), "{without:?}");
    }
}
