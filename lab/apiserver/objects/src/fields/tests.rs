use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Map, Value, json};

use super::managed::{APPLY, UPDATE};
use super::set::FieldSet;
use super::walk::{check_lists, fields_of};
use super::*;

const DEPLOYMENT: &str = "apps/v1";

fn kind() -> Type<'static> {
    Type::of_kind("Deployment")
}

fn manager(name: &str) -> Manager {
    Manager::new(name, "", true)
}

/// One object and its managers.
#[derive(Clone, Debug, Default, PartialEq)]
struct World {
    live: Value,
}

impl World {
    fn apply(&mut self, name: &str, applied: &Value, force: bool) -> Result<(), Vec<String>> {
        let managers = read(&self.live);
        let manager = manager(name);
        let one = ApplyConfiguration {
            kind: kind(),
            api_version: DEPLOYMENT,
            manager: &manager,
            force,
            config: applied,
            pruned_config: applied,
        };
        let live = if self.live.is_null() { json!({}) } else { self.live.clone() };
        let (mut next, managers) = apply(&live, managers, &one).map_err(|conflicts| {
            let error = conflict_error(conflicts);
            error
                .details
                .causes
                .iter()
                .map(|one| format!("{}: {}", one.field, one.message))
                .collect::<Vec<_>>()
        })?;
        write(&mut next, managers, &read(&self.live));
        self.live = next;
        Ok(())
    }

    fn update(&mut self, name: &str, change: impl Fn(&mut Value)) {
        let before = self.live.clone();
        let mut after = if before.is_null() { json!({"metadata": {}}) } else { before.clone() };
        change(&mut after);
        let known = (!before.is_null()).then_some(&before);
        track(kind(), DEPLOYMENT, known, &mut after, read(&before), &manager(name));
        self.live = after;
    }

    fn owned(&self, name: &str) -> Value {
        let own = read(&self.live).into_iter().find(|entry| entry.manager == name);
        own.map(|entry| entry.set.to_json()).unwrap_or_default()
    }

    /// The object without managed fields and with keyed lists sorted.
    fn content(&self) -> Value {
        let mut content = self.live.clone();
        if let Some(metadata) = content["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        sorted(content)
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(field, value)| (field, sorted(value)))
            .filter(|(_, value)| *value != json!({}) && *value != json!([]))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => {
            let mut list: Vec<Value> = list.into_iter().map(sorted).collect();
            list.sort_by_key(Value::to_string);
            list.into()
        }
        other => other,
    }
}

fn containers(list: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": list}}}})
}

/// Three managers: one applies, a second scales, the first conflicts, forces, and gives the field up.
#[test]
fn unit_a_field_has_one_owner_who_may_give_it_up() {
    let mut world = World::default();
    let two = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"replicas": 2, "paused": true}});
    world.apply("git", &two, false).unwrap();
    world.update("autoscaler", |object| object["spec"]["replicas"] = json!(5));
    assert_eq!(world.owned("autoscaler"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(
        world.owned("git"),
        json!({"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:paused": {}}})
    );

    let conflicts = world.apply("git", &two, false).unwrap_err();
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert!(
        conflicts[0].starts_with(".spec.replicas: conflict with \"autoscaler\" using apps/v1 at "),
        "{conflicts:?}"
    );
    let before = world.clone();
    let without = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"paused": true}});
    world.apply("git", &without, false).unwrap();
    assert_eq!(world.live["spec"]["replicas"], 5, "it is the other's: {before:?}");
    world.apply("git", &two, true).unwrap();
    assert_eq!((world.owned("autoscaler"), &world.live["spec"]["replicas"]), (Value::Null, &json!(2)));
    world.apply("git", &json!({"spec": {"paused": true}}), false).unwrap();
    assert_eq!(world.content(), json!({"spec": {"paused": true}}), "fields without a manager are removed");
}

#[test]
fn unit_fields_may_have_two_owners_who_agree() {
    let mut world = World::default();
    let one = json!({"spec": {"replicas": 2}});
    world.apply("a", &one, false).unwrap();
    world.apply("b", &one, false).unwrap();
    assert_eq!(world.owned("a"), world.owned("b"));
    world.apply("a", &json!({}), false).unwrap();
    assert_eq!(world.live["spec"]["replicas"], 2, "b still owns it");
    world.apply("b", &json!({}), false).unwrap();
    assert_eq!(world.content(), json!({}));
}

#[test]
fn unit_elements_of_lists_are_owned_by_their_keys() {
    let mut world = World::default();
    let port = |protocol: Option<&str>| match protocol {
        Some(protocol) => json!({"containerPort": 53, "protocol": protocol}),
        None => json!({"containerPort": 53}),
    };
    world
        .apply("a", &containers(json!([{"name": "dns", "image": "x", "ports": [port(None)]}])), false)
        .unwrap();
    world
        .apply(
            "b",
            &containers(json!([{"name": "dns", "ports": [port(Some("UDP"))]}, {"name": "side"}])),
            false,
        )
        .unwrap();
    let list = &world.live["spec"]["template"]["spec"]["containers"];
    assert_eq!(list[0]["ports"], json!([port(None), port(Some("UDP"))]));
    let key = |protocol: &str| format!("k:{{\"containerPort\":53,\"protocol\":\"{protocol}\"}}");
    let udp = json!({".": {}, "f:containerPort": {}, "f:protocol": {}});
    let expected = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {
        "k:{\"name\":\"dns\"}": {".": {}, "f:name": {}, "f:ports": {key("UDP"): udp}},
        "k:{\"name\":\"side\"}": {".": {}, "f:name": {}},
    }}}}});
    assert_eq!(world.owned("b"), expected);
    world.apply("b", &containers(json!([{"name": "dns"}])), false).unwrap();
    let list = &world.live["spec"]["template"]["spec"]["containers"];
    assert_eq!(*list, json!([{"name": "dns", "image": "x", "ports": [port(None)]}]));
}

#[test]
fn unit_atomic_values_have_one_owner_as_a_whole() {
    let mut world = World::default();
    let selector = |app: &str| json!({"spec": {"selector": {"matchLabels": {"app": app}}}});
    world.apply("a", &selector("web"), false).unwrap();
    assert_eq!(world.owned("a"), json!({"f:spec": {"f:selector": {}}}));
    let conflicts = world.apply("b", &json!({"spec": {"selector": {"matchLabels": {"tier": "1"}}}}), false);
    assert_eq!(conflicts.unwrap_err(), [".spec.selector: conflict with \"a\""]);
}

#[test]
fn unit_the_creator_owns_what_it_set() {
    let mut world = World::default();
    world.update("kubectl-create", |object| {
        *object = json!({
            "metadata": {"name": "web", "uid": "1", "labels": {"app": "web"}},
            "spec": {"replicas": 1, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
                     "template": {"spec": {"containers": [{"name": "a", "resources": {}}]}}},
            "status": {"replicas": 1},
        });
    });
    let expected = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
            "f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:resources": {}},
            }}},
        },
    });
    assert_eq!(world.owned("kubectl-create"), expected);
    assert_eq!(read(&world.live)[0].operation, UPDATE);
}

#[test]
fn unit_many_updaters_become_ancient() {
    let mut world = World::default();
    for index in 0..15 {
        world.update(&format!("m{index}"), |object| {
            object["metadata"]["labels"][format!("l{index}")] = json!("x");
        });
    }
    let managers = read(&world.live);
    assert_eq!(managers.len(), 10, "{managers:?}");
    assert!(managers.iter().any(|entry| entry.manager == "ancient-changes"));
    let all = managers.iter().fold(FieldSet::default(), |all, entry| all.union(&entry.set));
    let labels = all.paths().iter().filter(|path| path.starts_with(".metadata.labels.")).count();
    assert_eq!(labels, 15, "nothing was lost");
}

#[test]
fn unit_unowned_fields_get_an_owner_on_first_apply() {
    let old = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "paused": true}});
    let mut world = World { live: old };
    let conflicts = world.apply("git", &json!({"spec": {"replicas": 2}}), false).unwrap_err();
    assert!(
        conflicts[0].starts_with(".spec.replicas: conflict with \"before-first-apply\""),
        "{conflicts:?}"
    );
    world.apply("git", &json!({"spec": {"replicas": 3}}), false).unwrap();
    assert_eq!(world.owned("before-first-apply"), json!({"f:spec": {"f:paused": {}, "f:replicas": {}}}));
}

/// Migration from client-side to server-side `kubectl apply`: fields in the annotation change their
/// manager, fields that another manager changed since do not.
#[test]
fn unit_kubectl_migrates_from_client_side_apply() {
    let applied = json!({"spec": {"replicas": 2, "paused": true}});
    let mut world = World::default();
    world.update("kubectl-client-side-apply", |object| {
        *object = applied.clone();
        object["metadata"] = json!({"annotations": {apply::LAST_APPLIED: applied.to_string()}});
    });
    let applied = json!({"spec": {"replicas": 4, "paused": true}});
    assert!(world.clone().apply("flux", &applied, false).is_err(), "only kubectl migrates");
    world.apply("kubectl", &applied, false).unwrap();
    assert_eq!(world.owned("kubectl"), json!({"f:spec": {"f:paused": {}, "f:replicas": {}}}));
    world.update("jane", |object| object["metadata"]["labels"] = json!({"a": "1"}));
    let conflicts = world.apply("kubectl", &json!({"metadata": {"labels": {"a": "2"}}}), false).unwrap_err();
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
}

#[test]
fn unit_keys_of_map_lists_are_required_and_unique() {
    let twice = containers(json!([{"name": "a"}, {"name": "a"}]));
    assert!(check_lists(&twice, kind()).unwrap_err().contains("duplicate entries"));
    assert!(
        check_lists(&containers(json!([{"image": "a"}])), kind()).unwrap_err().contains("omits key field")
    );
    assert!(check_lists(&containers(json!([{"name": "a"}, {"name": "b"}])), kind()).is_ok());
}

/// The table of list keys agrees with the keys by which k8s-openapi's types merge. Those have only
/// the first key of each list.
#[test]
fn unit_list_keys_agree_with_k8s_openapi() {
    use k8s_openapi::DeepMerge;
    use k8s_openapi::api::core::v1::{PodSpec, ServiceSpec};
    fn both<T: DeepMerge + serde::Serialize + serde::de::DeserializeOwned>(
        left: &Value,
        right: &Value,
    ) -> Value {
        let mut merged: T = serde_json::from_value(left.clone()).unwrap();
        merged.merge_from(serde_json::from_value(right.clone()).unwrap());
        serde_json::to_value(merged).unwrap()
    }
    let pod = |container: Value| json!({"containers": [container]});
    let check = |name: &'static str, left: Value, right: Value, merged: Value| {
        let ours = walk::merge(&left, &right, Type::Named(name));
        assert_eq!(ours, merged, "{name}");
    };
    for (left, right) in [
        (pod(json!({"name": "a", "image": "1"})), pod(json!({"name": "a", "tty": true}))),
        (
            pod(json!({"name": "a", "env": [{"name": "x", "value": "1"}]})),
            pod(json!({"name": "a", "env": [{"name": "x", "value": "2"}]})),
        ),
        (
            pod(json!({"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/a"}]})),
            pod(json!({"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/a", "readOnly": true}]})),
        ),
        (pod(json!({"name": "a", "args": ["1", "2"]})), pod(json!({"name": "a", "args": ["3"]}))),
        (
            json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "a"}]}),
            json!({"containers": [], "volumes": [{"name": "v"}], "tolerations": [{"key": "b"}]}),
        ),
    ] {
        let merged = both::<PodSpec>(&left, &right);
        check("PodSpec", left, right, merged);
    }
    let left = json!({"ports": [{"name": "a", "port": 80, "protocol": "TCP"}], "externalIPs": ["1.2.3.4"]});
    let right =
        json!({"ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}], "externalIPs": ["1.2.3.5"]});
    let merged = both::<ServiceSpec>(&left, &right);
    check("ServiceSpec", left, right, merged);
}

/// The schema of a custom resource gives the same result.
#[test]
fn unit_custom_resources_follow_their_schema() {
    let schema = json!({"properties": {"spec": {"properties": {
        "rules": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {"properties": {}}},
        "tags": {"x-kubernetes-list-type": "set", "items": {}},
        "whole": {"x-kubernetes-map-type": "atomic"},
        "plain": {"items": {}},
    }}}});
    let object = json!({"spec": {"rules": [{"name": "a", "x": 1}], "tags": ["t"], "whole": {"a": 1}, "plain": [1], "free": {"b": 1}}});
    let expected = json!({"f:spec": {
        "f:rules": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:x": {}}}, "f:tags": {"v:\"t\"": {}},
        "f:whole": {}, "f:plain": {}, "f:free": {"f:b": {}},
    }});
    assert_eq!(fields_of(&object, Type::Custom(&schema)).to_json(), expected);
}

/// An applied configuration: labels, finalizers, replicas and containers.
fn applied_configs() -> impl Strategy<Value = Value> {
    let letter = || prop::sample::select(vec!["a", "b", "c"]);
    let number = || prop::sample::select(vec![1, 2]);
    let labels = prop::collection::btree_map(letter(), prop::sample::select(vec!["1", "2"]), 0..3);
    let finalizers = prop::collection::btree_set(letter(), 0..3);
    let env = prop::collection::btree_map(letter(), number(), 0..3);
    let ports =
        prop::collection::btree_map((number(), prop::sample::select(vec!["TCP", "UDP"])), letter(), 0..3);
    let container = (prop::option::of(letter()), env, ports);
    let containers = prop::collection::btree_map(letter(), container, 0..3);
    let all = (labels, finalizers, prop::option::of(number()), prop::option::of(letter()), containers);
    all.prop_map(|(labels, finalizers, replicas, selector, containers)| {
        let containers = containers.into_iter().map(|(name, (image, env, ports))| {
            let env: Vec<Value> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            let ports = ports.iter().map(
                |((number, protocol), name)| json!({"containerPort": number, "protocol": protocol, "name": name}),
            );
            json!({"name": name, "image": image, "env": env, "ports": ports.collect::<Vec<_>>()})
        });
        let mut object = json!({
            "metadata": {"labels": labels, "finalizers": finalizers},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": containers.collect::<Vec<_>>()}}},
        });
        if let Some(app) = selector {
            object["spec"]["selector"] = json!({"matchLabels": {"app": app}});
        }
        bare(object)
    })
}

/// Without nulls and empty values.
fn bare(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(field, value)| (field, bare(value)));
            fields
                .filter(|(_, value)| !value.is_null() && *value != json!({}) && *value != json!([]))
                .collect::<Map<_, _>>()
                .into()
        }
        Value::Array(list) => list.into_iter().map(bare).collect(),
        other => other,
    }
}

fn own(world: &World, name: &str) -> FieldSet {
    read(&world.live)
        .into_iter()
        .find(|entry| entry.manager == name)
        .map(|entry| entry.set)
        .unwrap_or_default()
}

/// Test cases from one seed, which a failure prints and `BEELINE_SEED` sets.
fn cases() -> ProptestConfig {
    let given = std::env::var("BEELINE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random::<u64>);
    println!("BEELINE_SEED={seed}");
    ProptestConfig { rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    /// A second identical apply changes nothing, including the times of the entries.
    #[test]
    fn unit_property_apply_is_idempotent(first in applied_configs(), second in applied_configs(), other in applied_configs()) {
        let mut world = World::default();
        world.apply("other", &other, true).unwrap();
        world.apply("me", &first, true).unwrap();
        world.apply("me", &second, true).unwrap();
        let once = world.clone();
        world.apply("me", &second, false).unwrap();
        prop_assert_eq!(world, once);
    }

    /// A manager owns exactly what it applied.
    #[test]
    fn unit_property_ownership_is_what_was_applied(before in applied_configs(), first in applied_configs(), second in applied_configs()) {
        let mut world = World::default();
        world.update("creator", |object| *object = before.clone());
        world.apply("me", &first, true).unwrap();
        world.apply("me", &second, true).unwrap();
        prop_assert_eq!(own(&world, "me"), fields_of(&second, kind()));
        let live = fields_of(&world.live, kind());
        prop_assert_eq!(live.intersection(&own(&world, "me")), own(&world, "me"), "all of it is there");
        for entry in read(&world.live).iter().filter(|entry| entry.operation == APPLY) {
            prop_assert_eq!(&entry.manager, "me");
        }
    }

    /// An empty apply removes only fields that the manager alone owned.
    #[test]
    fn unit_property_giving_up_fields_leaves_those_of_others(mine in applied_configs(), theirs in applied_configs()) {
        let mut alone = World::default();
        alone.apply("they", &theirs, false).unwrap();
        let mut world = alone.clone();
        // Where both differ, the earlier value of the other manager is restored.
        world.apply("me", &mine, true).unwrap();
        world.apply("they", &theirs, true).unwrap();
        world.apply("me", &json!({}), true).unwrap();
        prop_assert_eq!(world.content(), alone.content());
    }

    /// The result does not depend on the order of managers with different fields.
    #[test]
    fn unit_property_order_does_not_matter_where_fields_differ(one in applied_configs(), other in applied_configs()) {
        let (left, right) = (fields_of(&one, kind()), fields_of(&other, kind()));
        // Shared list elements stay in both configurations so that keys and names agree.
        let shared = left.intersection(&right);
        let leaves = FieldSet::from_json(&shared.to_json());
        let other = walk::merge(&other, &only(&one, &leaves), kind());
        let run = |order: [(&str, &Value); 2]| {
            let mut world = World::default();
            for (name, applied) in order {
                world.apply(name, applied, false).map_err(|conflicts| format!("{conflicts:?}"))?;
            }
            Ok::<_, String>((world.content(), own(&world, "a"), own(&world, "b")))
        };
        prop_assert_eq!(run([("a", &one), ("b", &other)]), run([("b", &other), ("a", &one)]));
    }

    /// Only a forced apply changes fields of another manager.
    #[test]
    fn unit_property_what_is_owned_stays_without_force(theirs in applied_configs(), mine in applied_configs()) {
        let mut world = World::default();
        world.apply("they", &theirs, false).unwrap();
        let before = own(&world, "they");
        let had = only(&world.live, &before);
        match world.apply("me", &mine, false) {
            Ok(()) => prop_assert_eq!(sorted(only(&world.live, &before)), sorted(had)),
            Err(conflicts) => prop_assert!(!conflicts.is_empty()),
        }
        prop_assert_eq!(own(&world, "they"), before);
    }

    /// An update owns what it changed; other fields keep their managers; removed fields have none.
    #[test]
    fn unit_property_updates_own_what_they_change(before in applied_configs(), after in applied_configs()) {
        let mut world = World::default();
        world.update("creator", |object| {
            *object = before.clone();
            // An update of an object without managed fields adds none.
            object["metadata"]["annotations"] = json!({"a": "b"});
        });
        world.update("editor", |object| {
            let managers = object["metadata"]["managedFields"].clone();
            *object = after.clone();
            object["metadata"]["managedFields"] = managers;
        });
        let (creator, editor) = (own(&world, "creator"), own(&world, "editor"));
        prop_assert!(creator.intersection(&editor).is_empty(), "{:?}", world);
        let live = fields_of(&world.content(), kind());
        let all = creator.union(&editor);
        prop_assert!(live.difference(&all).is_empty(), "every field has an owner: {:?}", live.difference(&all).paths());
    }
}

/// The part of a value that a set selects.
fn only(value: &Value, set: &FieldSet) -> Value {
    let others = fields_of(value, kind()).difference(&set.with_parent_fields());
    walk::remove(value, &others, kind())
}
