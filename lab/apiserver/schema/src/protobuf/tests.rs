use serde_json::{Value, json};

use super::decode;
use super::error::{DecodeError, MAGIC};
use super::messages::{self, Cardinality, Field, Type};
use crate::{
    describe::{Definitions, describe},
    openapi::built_in,
};

/// Builds messages as Kubernetes clients encode them.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u32, value: i64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value.cast_unsigned());
        self
    }

    fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn with(self, field: u32, message: Self) -> Self {
        self.bytes(field, &message.0)
    }

    fn entry(self, field: u32, key: &str, value: Self) -> Self {
        self.with(field, Self::default().text(1, key).with(2, value))
    }
}

fn message() -> Message {
    Message::default()
}

fn envelope(version: &str, kind: &str, object: Message) -> Vec<u8> {
    let types = message().text(1, version).text(2, kind);
    let envelope = message().with(1, types).with(2, object).text(3, "").text(4, "");
    [MAGIC, envelope.0.as_slice()].concat()
}

fn check(version: &str, kind: &str, object: Message, expected: Value) {
    let decoded = decode(&envelope(version, kind, object)).unwrap();
    let mut expected = expected;
    expected["apiVersion"] = json!(version);
    expected["kind"] = json!(kind);
    assert_eq!(decoded, expected, "{decoded:#}");
}

/// Metadata as Go encodes it: unset fields are present and empty.
fn metadata(name: &str) -> Message {
    let empty_time = message();
    message().text(1, name).text(2, "").text(3, "").text(5, "").text(6, "").number(7, 0).with(8, empty_time)
}

#[test]
fn unit_a_deployment_is_decoded_to_json() {
    let port = message().text(1, "").number(2, 0).number(3, 8080).text(4, "").text(5, "");
    let limits = message().entry(1, "cpu", message().text(1, "500m"));
    let probe = message()
        .with(1, message().with(2, message().text(1, "/").with(2, message().number(1, 1).text(3, "web"))));
    let variable = message().text(1, "COLOR").text(2, "blue");
    let container = message().text(1, "web").text(2, "echo").text(4, "").text(4, "-v").with(6, port);
    let container = container.with(7, variable).with(8, limits).with(10, probe).number(16, 0);
    let secret = message().with(6, message().text(1, "tls").number(3, 0o400));
    let volume = message().text(1, "keys").with(2, secret);
    let pod = message().with(1, volume).with(2, container).text(3, "").number(4, 0).number(11, 0);
    let labels = |message: Message| message.with(11, Message::default().text(1, "app").text(2, "web"));
    let template = message().with(1, labels(metadata(""))).with(2, pod);
    let selector = message().with(1, message().text(1, "app").text(2, "web"));
    let surge = message().number(1, 0).number(2, 0).text(3, "");
    let strategy = message().text(1, "").with(2, message().with(2, surge));
    let spec = message().number(1, 0).with(2, selector).with(3, template).with(4, strategy).number(5, 0);
    let deployment = message().with(1, labels(metadata("web"))).with(2, spec).with(3, message().number(1, 0));
    check(
        "apps/v1",
        "Deployment",
        deployment,
        json!({
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {
                // Zero replicas are a value; zero seconds are an unset field.
                "replicas": 0,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"rollingUpdate": {"maxSurge": 0}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {
                        "terminationGracePeriodSeconds": 0,
                        "volumes": [{"name": "keys", "secret": {"secretName": "tls", "defaultMode": 256}}],
                        "containers": [{
                            "name": "web", "image": "echo", "args": ["", "-v"],
                            "ports": [{"containerPort": 8080}],
                            "env": [{"name": "COLOR", "value": "blue"}],
                            "resources": {"limits": {"cpu": "500m"}},
                            "livenessProbe": {"httpGet": {"path": "/", "port": "web"}},
                        }],
                    },
                },
            },
            "status": {},
        }),
    );
}

#[test]
fn unit_values_of_every_type_are_read() {
    let data = message().text(1, "a").bytes(2, &[0, 255]);
    let no_value = message().text(1, "b");
    let secret = message().with(1, metadata("s")).with(2, data).with(2, no_value).text(3, "Opaque");
    let expected = json!({"metadata": {"name": "s"}, "data": {"a": "AP8=", "b": ""}, "type": "Opaque"});
    check("v1", "Secret", secret, expected);

    let owned = metadata("c").with(8, message().number(1, 1_700_000_000)).with(17, message().bytes(7, &[]));
    let managed = message().text(1, "kubectl").with(7, message().text(1, r#"{"f:data":{}}"#));
    check(
        "v1",
        "ConfigMap",
        message().with(1, owned.with(17, managed)),
        json!({"metadata": {
            "name": "c", "creationTimestamp": "2023-11-14T22:13:20Z",
            "managedFields": [{}, {"manager": "kubectl", "fieldsV1": {"f:data": {}}}],
        }}),
    );

    let times =
        message().text(1, "me").number(2, 15).with(4, message().number(1, 1_700_000_000).number(2, 5000));
    let expected = json!({"metadata": {"name": "l"}, "spec": {
        "holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2023-11-14T22:13:20.000005Z",
    }});
    check("coordination.k8s.io/v1", "Lease", message().with(1, metadata("l")).with(2, times), expected);

    check(
        "scheduling.k8s.io/v1",
        "PriorityClass",
        message().with(1, metadata("low")).number(2, -5).number(3, 1),
        json!({"metadata": {"name": "low"}, "value": -5, "globalDefault": true}),
    );

    let extra = message().text(1, "scopes").with(2, message().text(1, "a").text(1, "b"));
    let attributes = message().text(1, "default").text(2, "create").text(5, "pods");
    let review = message().with(2, message().with(1, attributes).text(3, "bob").with(5, extra));
    check(
        "authorization.k8s.io/v1",
        "SubjectAccessReview",
        review,
        json!({"spec": {
            "resourceAttributes": {"namespace": "default", "verb": "create", "resource": "pods"},
            "user": "bob", "extra": {"scopes": ["a", "b"]},
        }}),
    );
}

#[test]
fn unit_schemas_and_their_alternatives_are_read() {
    let text = message().text(5, "string").with(8, message().text(1, "\"red\""));
    let no_more = message().number(1, 0);
    let list = message().text(5, "array").with(24, message().with(1, text.clone())).number(16, 0);
    let schema = message().text(5, "object").with(29, message().text(1, "color").with(2, text));
    let schema = schema.with(29, message().text(1, "list").with(2, list)).with(30, no_more).number(40, 0);
    let version = message().text(1, "v1").number(2, 1).number(3, 1).with(4, message().with(1, schema));
    let definition = message().with(1, metadata("hives.bees.example")).with(2, message().with(7, version));
    check(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        definition,
        json!({"metadata": {"name": "hives.bees.example"}, "spec": {"versions": [{
            "name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {
                    "color": {"type": "string", "default": "red"},
                    "list": {"type": "array", "items": {"type": "string", "default": "red"}, "maxItems": 0},
                },
                "additionalProperties": false,
            }},
        }]}}),
    );
}

#[test]
fn unit_delete_options_are_read_in_every_group() {
    for version in ["v1", "apps/v1", "policy/v1"] {
        let expected = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Foreground"});
        check(version, "DeleteOptions", message().number(1, 0).text(4, "Foreground"), expected);
    }
}

#[test]
fn unit_malformed_messages_are_refused() {
    let refused = |body: &[u8]| decode(body).unwrap_err();
    assert_eq!(refused(b"{}"), DecodeError::NoMagic);
    assert_eq!(refused(b"k8s\0\x0a\x7f"), DecodeError::Truncated);
    assert_eq!(refused(b"k8s\0\x0b"), DecodeError::WireType { wire: 3, number: 1 });
    let hive = envelope("bees.example/v1", "Hive", message());
    assert_eq!(refused(&hive).to_string(), r#"no kind "Hive" is registered for version "bees.example/v1""#);
    let wrong = envelope("v1", "ConfigMap", message().number(1, 7));
    assert_eq!(refused(&wrong), DecodeError::WrongType { field: "metadata" });
    let binary = envelope("v1", "ConfigMap", message().with(1, message().bytes(1, &[0xff])));
    assert_eq!(refused(&binary), DecodeError::Content { field: "name", expected: "UTF-8" });
    // Schemas nested beyond the limit.
    let deep = (0..1000).fold(message(), |inner, _| message().with(28, inner));
    let version = message().with(4, message().with(1, deep));
    let definition = message().with(2, message().with(7, version));
    let body = envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", definition);
    assert_eq!(refused(&body), DecodeError::TooDeep);
    // Every truncation of a valid body is an error, not a panic.
    let good = envelope("v1", "ConfigMap", message().with(1, metadata("c")));
    for end in 0..good.len() {
        let _ = decode(&good[..end]);
    }
    // Unknown fields are skipped.
    assert!(decode(&envelope("v1", "ConfigMap", message().number(900, 1))).is_ok());
}

/// Every field of every schema has a number and the right type.
#[test]
fn unit_the_table_has_every_field_of_the_schemas() {
    let mut definitions = built_in();
    describe_reviews(&mut definitions);
    let mut problems = Vec::new();
    for (name, schema) in &definitions {
        let Some((package, message)) = package_and_message(name) else { continue };
        let fields = fields_of(package, message);
        let is_object = schema["properties"].get("metadata").is_some() || message == "DeleteOptions";
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            if is_object && matches!(field.as_str(), "apiVersion" | "kind") {
                continue;
            }
            match fields.iter().find(|one| one.name == field) {
                None => problems.push(format!("{name} has no number for {field}")),
                Some(found) if !fits(found, schema) => {
                    problems.push(format!("{name}.{field} is {found:?}, its schema {schema}"))
                }
                Some(_) => {}
            }
        }
    }
    assert!(definitions.len() > 200, "only {} schemas were looked at", definitions.len());
    assert!(problems.is_empty(), "{problems:#?}");
}

fn describe_reviews(definitions: &mut Definitions) {
    use k8s_openapi::api::{authentication::v1 as who, authorization::v1 as may};
    describe::<who::TokenRequest>(definitions);
    describe::<who::TokenReview>(definitions);
    describe::<who::SelfSubjectReview>(definitions);
    describe::<may::LocalSubjectAccessReview>(definitions);
    describe::<may::SelfSubjectAccessReview>(definitions);
    describe::<may::SelfSubjectRulesReview>(definitions);
    describe::<may::SubjectAccessReview>(definitions);
    describe::<k8s_openapi::api::autoscaling::v1::Scale>(definitions);
    describe::<k8s_openapi::api::core::v1::Binding>(definitions);
    describe::<k8s_openapi::api::policy::v1::Eviction>(definitions);
    describe::<k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions>(definitions);
}

/// `io.k8s.api.core.v1.Pod` is the message `Pod` of `core.v1`.
fn package_and_message(definition: &str) -> Option<(&str, &str)> {
    let (package, message) = definition.rsplit_once('.')?;
    let package =
        ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis.", "io.k8s.apiextensions-apiserver.pkg.apis."]
            .iter()
            .find_map(|start| package.strip_prefix(start))?;
    Some((package, message))
}

/// Fields of a message as in JSON, with inlined messages expanded.
fn fields_of(package: &str, message: &str) -> Vec<Field> {
    let found = messages::find(package, message).unwrap_or_else(|| panic!("{package} has no {message}"));
    let of = |field: &Field| match field.kind {
        Type::Message { package, name } if field.name.is_empty() => fields_of(package, name),
        _ => vec![*field],
    };
    found.values().flat_map(of).collect()
}

fn fits(field: &Field, schema: &Value) -> bool {
    let (cardinality, value) = match (schema.get("items"), schema.get("additionalProperties")) {
        (Some(items), _) => (Cardinality::List, items),
        (_, Some(values)) => (Cardinality::Map, values),
        _ => (Cardinality::One, schema),
    };
    if field.kind == Type::Strings {
        return cardinality == Cardinality::Map && value["items"]["type"] == "string";
    }
    let is_right = match (value["type"].as_str(), value["format"].as_str(), field.kind) {
        (Some("integer"), _, Type::Int) | (Some("boolean"), _, Type::Bool) => true,
        (Some("number"), _, Type::Double) => true,
        (Some("string"), Some("byte"), Type::Bytes) => true,
        (Some("string"), Some("date-time"), Type::Time | Type::MicroTime) => true,
        (Some("string"), None, Type::Text | Type::Quantity) => true,
        (Some("object"), None, Type::Json) => true,
        (None, _, Type::IntOrString) => value["x-kubernetes-int-or-string"] == true,
        (None, _, Type::Json | Type::OrBool | Type::OrArray | Type::OrStrings) => value.get("$ref").is_none(),
        (None, _, Type::Message { package, name }) => match value["$ref"].as_str() {
            Some(reference) => package_and_message(reference) == Some((package, name)),
            None => messages::find(package, name).is_some_and(|message| message.is_empty()),
        },
        _ => false,
    };
    cardinality == field.cardinality && is_right
}
