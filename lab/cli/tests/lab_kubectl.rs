//! The lab with kubectl: Debian's kubectl 1.20 and a current version,
//! configured by KUBECONFIG only.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod kubectl;

use std::fs;
use std::time::Duration;

use beeline_lab::harness::TestLab;

use kubectl::{Kubectl, all};

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: beeline/echo
        ports: [{containerPort: 8080}]
        env: [{name: COLOR, value: blue}]
"#;

const REST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {greeting: hello}
"#;

const HIVES: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hives.bees.example}
spec:
  group: bees.example
  scope: Namespaced
  names: {plural: hives, kind: Hive, shortNames: [hv]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    schema:
      openAPIV3Schema:
        description: A place where bees live.
        type: object
        properties:
          spec:
            type: object
            required: [color]
            properties:
              color: {type: string, enum: [brown, yellow], description: What it looks like.}
              size: {type: integer, minimum: 0, default: 1}
          status: {type: object, properties: {size: {type: integer}}}
"#;

#[test]
fn lab_works_with_old_and_current_kubectl() {
    let found = all();
    if found.is_empty() {
        return;
    }
    let external = ["--set", "externalIPs.enabled=true", "--set", "externalIPs.allowedCIDRs=198.51.100.0/24"];
    let lab = TestLab::up_with("kubectl", &[&["--nodes", "2"], &external[..]].concat());
    for kubectl in found {
        let kubectl = kubectl.of_lab(&lab);
        a_directory_is_applied(&kubectl);
        things_are_shown(&kubectl);
        a_deployment_is_changed_and_rolled(&kubectl);
        a_node_is_drained(&kubectl);
        changes_are_tried_before_they_are_made(&kubectl);
        the_server_tells_of_itself(&kubectl);
        things_are_generated(&kubectl);
        kinds_come_with_their_definition(&kubectl);
        what_is_wrong_is_on_the_object(&kubectl);
        nonsense_is_refused(&kubectl);
        things_are_deleted(&kubectl);
    }
    lab.down();
}

fn a_directory_is_applied(kubectl: &Kubectl) {
    let directory = kubectl.directory();
    fs::write(directory.join("deployment.yaml"), DEPLOYMENT).unwrap();
    fs::write(directory.join("rest.yaml"), REST).unwrap();
    kubectl.reading("apply -f -", &kubectl.namespace_manifest());
    for word in ["created", "unchanged"] {
        let applied = kubectl.run("apply -f DIR");
        for object in ["deployment.apps/web", "service/web", "configmap/words"] {
            applied.stdout_contains(&format!("{object} {word}"));
        }
    }
    kubectl.run("rollout status deployment/web --timeout=60s").stdout_contains("successfully rolled out");
    kubectl
        .run("wait --for=condition=Available deployment/web --timeout=20s")
        .stdout_contains("condition met");
}

fn things_are_shown(kubectl: &Kubectl) {
    let wide = kubectl.run("get pods -o wide");
    wide.stdout_contains("READY")
        .stdout_contains("RESTARTS")
        .stdout_contains("NODE")
        .stdout_contains("1/1")
        .stdout_contains("node-");
    kubectl.run("get pods --show-labels").stdout_contains("app=web,pod-template-hash=");
    kubectl.run("get pods -l app=web,tier!=back -o name").stdout_contains("pod/web-");
    kubectl.run("get pods -l app!=web").stderr_contains("No resources found");
    kubectl
        .run("get pods --field-selector status.phase=Running -o jsonpath={.items[*].status.phase}")
        .stdout_contains("Running Running");
    kubectl.run("get deployment web").stdout_contains("2/2");
    kubectl
        .run("get deployment web -o yaml")
        .stdout_contains("name: COLOR")
        .stdout_contains("observedGeneration");
    kubectl.run("get configmap words -o json").stdout_contains(r#""greeting": "hello""#);
    kubectl
        .run("get all")
        .stdout_contains("service/web")
        .stdout_contains("deployment.apps/web")
        .stdout_contains("replicaset.apps/web-")
        .stdout_contains("pod/web-");
    kubectl
        .plain("get nodes -o wide")
        .stdout_contains("node-2")
        .stdout_contains("Ready")
        .stdout_contains("INTERNAL-IP");
    let pods = kubectl.run("describe pods -l app=web");
    pods.stdout_contains("Conditions:").stdout_contains("Container ID").stdout_contains("Ready");
    let output = kubectl.run("get events");
    output
        .stdout_contains("Successfully assigned")
        .stdout_contains("Started container")
        .stdout_contains("Created pod: web-");
    let deployment = kubectl.run("describe deployment web");
    deployment
        .stdout_contains("2 desired")
        .stdout_contains("NewReplicaSet:")
        .stdout_contains("Scaled up replica set web-");
    kubectl.run("describe service web").stdout_contains("Endpoints:").stdout_contains(":8080");
    kubectl.plain("describe node node-1").stdout_contains("PodCIDR").stdout_contains("Non-terminated Pods");
    kubectl.run("get endpointslices").stdout_contains("web-");
}

fn a_deployment_is_changed_and_rolled(kubectl: &Kubectl) {
    let watch = kubectl.start("get deployment web -w");
    watch.wait_for("2/2", Duration::from_secs(20));
    kubectl.run("scale deployment web --replicas=0").stdout_contains("scaled");
    watch.wait_for("0/0", Duration::from_secs(20));
    drop(watch);
    kubectl.run("wait --for=delete pod -l app=web --timeout=30s");
    kubectl.run("get pods").stderr_contains("No resources found");
    kubectl.run("scale deployment web --replicas=2 --current-replicas=0").stdout_contains("scaled");
    kubectl.run("rollout status deployment/web --timeout=60s").stdout_contains("successfully rolled out");

    kubectl.run(r#"patch deployment web -p {"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"SIZE","value":"1"}]}]}}}}"#).stdout_contains("patched");
    kubectl
        .run("get deployment web -o jsonpath={.spec.template.spec.containers[0].env[*].name}")
        .stdout_contains("SIZE COLOR");
    kubectl
        .run(r#"patch configmap words --type merge -p {"data":{"greeting":null,"parting":"bye"}}"#)
        .stdout_contains("patched");
    kubectl
        .run(r#"patch configmap words --type json -p [{"op":"add","path":"/data/third","value":"3"}]"#)
        .stdout_contains("patched");
    kubectl
        .run("get configmap words -o jsonpath={.data}")
        .stdout_contains("parting")
        .stdout_contains("third")
        .stdout_lacks("greeting");
    kubectl.run("label configmap words tier=front").stdout_contains("labeled");
    kubectl.run("label configmap words tier=back").fails().stderr_contains("already has a value");
    kubectl.run("label configmap words tier=back --overwrite").stdout_contains("labeled");
    kubectl.run("annotate configmap words note=read").stdout_contains("annotated");
    kubectl.run("get configmap words --show-labels").stdout_contains("tier=back");

    kubectl.run("rollout status deployment/web --timeout=60s").stdout_contains("successfully rolled out");
    kubectl.run("rollout restart deployment/web").stdout_contains("restarted");
    kubectl.run("rollout status deployment/web --timeout=60s").stdout_contains("successfully rolled out");
    kubectl
        .run("rollout history deployment/web")
        .stdout_contains("REVISION")
        .stdout_contains("1 ")
        .stdout_contains("2 ")
        .stdout_contains("3 ");
    kubectl.run("rollout undo deployment/web --to-revision=1").stdout_contains("rolled back");
    kubectl.run("rollout status deployment/web --timeout=60s").stdout_contains("successfully rolled out");
    let names = kubectl.run("get deployment web -o jsonpath={.spec.template.spec.containers[0].env[*].name}");
    names.stdout_contains("COLOR").stdout_lacks("SIZE");
    kubectl.run("rollout history deployment/web").stdout_contains("4 ").stdout_lacks("1 ");
}

fn a_node_is_drained(kubectl: &Kubectl) {
    let there = "get pods --field-selector spec.nodeName=node-2 -o name";
    kubectl.run(there).stdout_contains("pod/web-");
    let drained = kubectl.plain("drain node-2 --ignore-daemonsets --delete-emptydir-data --timeout=60s");
    drained.stdout_contains("node/node-2 cordoned").stdout_contains("pod/web-").stdout_contains("evicted");
    assert_eq!(kubectl.run(there).lines(), 0, "pods are on a drained node");
    kubectl.run("rollout status deployment/web --timeout=60s").stdout_contains("successfully rolled out");
    kubectl.plain("get node node-2").stdout_contains("Ready,SchedulingDisabled");
    kubectl.plain("uncordon node-2").stdout_contains("uncordoned");
    kubectl.plain("get node node-2").stdout_lacks("SchedulingDisabled");
}

fn changes_are_tried_before_they_are_made(kubectl: &Kubectl) {
    let changed = DEPLOYMENT.replace("blue", "green");
    fs::write(kubectl.directory().join("deployment.yaml"), changed).unwrap();
    let difference = kubectl.run("diff -f DIR/deployment.yaml");
    assert_eq!(difference.code, Some(1), "exit code 1 means a difference\n{difference}");
    difference.stdout_contains("-          value: blue").stdout_contains("+          value: green");
    kubectl
        .run("apply --dry-run=server -f DIR/deployment.yaml")
        .stdout_contains("configured (server dry run)");
    kubectl.run("get deployment web -o yaml").stdout_contains("value: blue").stdout_lacks("value: green");
    kubectl.edit("s/parting: bye/parting: farewell/", "edit configmap words").stdout_contains("edited");
    kubectl.run("get configmap words -o yaml").stdout_contains("parting: farewell");
    kubectl.run("apply -f DIR/deployment.yaml").stdout_contains("deployment.apps/web configured");
    kubectl.run("rollout status deployment/web --timeout=60s").stdout_contains("successfully rolled out");
    assert_eq!(kubectl.run("diff -f DIR/deployment.yaml").code, Some(0));
}

fn the_server_tells_of_itself(kubectl: &Kubectl) {
    kubectl.plain("api-versions").stdout_contains("apps/v1").stdout_contains("v1");
    kubectl
        .plain("api-resources")
        .stdout_contains("deployments")
        .stdout_contains("Deployment")
        .stdout_contains("deploy");
    kubectl.plain("api-resources --namespaced=false").stdout_contains("nodes").stdout_lacks("deployments");
    kubectl.plain("explain deployment.spec.replicas").stdout_contains("integer");
    kubectl
        .plain("explain pods.spec.containers")
        .stdout_contains("imagePullPolicy")
        .stdout_contains("-required-");
    kubectl.plain("explain pods --recursive").stdout_contains("containerPort");
    kubectl.run("auth can-i create pods").stdout_contains("yes");
    kubectl.run("auth can-i --list").stdout_contains("*.*");
    let stranger = kubectl.run("auth can-i create pods --as=system:serviceaccount:default:nobody").fails();
    stranger.stdout_contains("no");
    kubectl.plain("version").stdout_contains("Server Version");
    kubectl.plain("cluster-info").stdout_contains("is running at");
}

/// An old kubectl sends generated objects as JSON, a current one as protobuf.
fn things_are_generated(kubectl: &Kubectl) {
    for (line, created) in [
        ("deployment gen --image=beeline/echo", "deployment.apps/gen created"),
        ("configmap gen --from-literal=a=b", "configmap/gen created"),
        ("secret generic gen --from-literal=password=x", "secret/gen created"),
        ("service clusterip gen --tcp=80:8080", "service/gen created"),
        ("service nodeport gen-node --tcp=80:8080", "service/gen-node created"),
        ("serviceaccount gen", "serviceaccount/gen created"),
        ("role gen --verb=get --resource=pods", "role.rbac.authorization.k8s.io/gen created"),
    ] {
        kubectl.run(&format!("create {line}")).stdout_contains(created);
    }
    kubectl
        .run("create rolebinding gen --role=gen --serviceaccount=NS:gen")
        .stdout_contains("rolebinding.rbac.authorization.k8s.io/gen created");
    kubectl.run("auth can-i get pods --as=system:serviceaccount:NS:gen").stdout_contains("yes");
    kubectl.plain("create namespace NS-more").stdout_contains("namespace/NS-more created");
    kubectl.plain("delete namespace NS-more --timeout=60s").stdout_contains("deleted");
    kubectl.run("create configmap gen").fails().stderr_contains("configmaps \"gen\" already exists");
    kubectl.run("create deployment Gen --image=a").fails().stderr_contains("metadata.name: Invalid value");
    if kubectl.is_current() {
        kubectl.run("create token gen --duration=15m").stdout_contains(".");
    }
    kubectl
        .run("get deployment gen -o jsonpath={.spec.replicas}:{.spec.template.spec.containers[0].image}")
        .stdout_contains("1:beeline/echo");
    kubectl.run("get secret gen -o jsonpath={.data.password}").stdout_contains("eA==");
    kubectl
        .run("get service gen-node -o jsonpath={.spec.type}:{.spec.ports[0].targetPort}")
        .stdout_contains("NodePort:8080");
    kubectl.run("run alone --image=beeline/echo --port=8080").stdout_contains("pod/alone created");
    kubectl
        .run("expose deployment web --port=81 --target-port=8080 --name=exposed")
        .stdout_contains("service/exposed exposed");
    kubectl.run("set image deployment/gen echo=beeline/echo:2").stdout_contains("image updated");
    kubectl.run("get secret gen").stdout_contains("Opaque");
    kubectl.run("get services").stdout_contains("NodePort").stdout_contains("81/TCP");
    kubectl.run("get endpoints").stdout_contains(":8080");
    kubectl.run("run alone --image=beeline/echo").fails().stderr_contains("pods \"alone\" already exists");
    kubectl.run("wait --for=condition=Ready pod/alone --timeout=30s").stdout_contains("condition met");
}

fn kinds_come_with_their_definition(kubectl: &Kubectl) {
    let hive = |spec: &str| {
        format!("apiVersion: bees.example/v1\nkind: Hive\nmetadata: {{name: home}}\nspec: {{{spec}}}\n")
    };
    kubectl.reading("apply -f -", HIVES).stdout_contains("created");
    kubectl
        .plain("wait --for=condition=Established crd/hives.bees.example --timeout=10s")
        .stdout_contains("condition met");
    kubectl.reading("apply -f -", &hive("color: brown")).stdout_contains("hive.bees.example/home created");
    kubectl.reading("apply -f -", &hive("color: yellow")).stdout_contains("configured");
    kubectl.run("get hv").stdout_contains("COLOR").stdout_contains("yellow");
    kubectl.run("scale hive home --replicas=3").stdout_contains("scaled");
    kubectl.run("get hive home -o jsonpath={.spec.size}").stdout_contains("3");
    kubectl.plain("explain hive.spec.color").stdout_contains("What it looks like.");
    let refused = kubectl.reading("apply -f -", &hive("color: red, size: -1")).fails();
    refused
        .stderr_contains("spec.color: Unsupported value: \"red\"")
        .stderr_contains("spec.size: Invalid value: -1");
    kubectl.plain("delete crd hives.bees.example").stdout_contains("deleted");
    // By full name: an old kubectl caches discovery for minutes.
    let gone = kubectl.plain("get --raw /apis/bees.example/v1").fails();
    gone.stderr_contains("the server could not find the requested resource");
}

/// Two Services with the same address and port: the problem is reported on the
/// one that is not served.
fn what_is_wrong_is_on_the_object(kubectl: &Kubectl) {
    let watch = kubectl.start("get events -w");
    for name in ["first", "second"] {
        let spec = "{externalIPs: [198.51.100.7], ports: [{port: 80}]}";
        let service = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n");
        kubectl.reading("apply -f -", &service).stdout_contains("created");
    }
    watch.wait_for("FrontendCollision", Duration::from_secs(20));
    drop(watch);
    let described = kubectl.run("describe service second");
    described.stdout_contains("Warning").stdout_contains("FrontendCollision").stdout_contains("beeline");
    described.stdout_contains(
        "its externalIP 198.51.100.7 port 80/TCP conflicts with Service NS/first, which keeps it",
    );
    kubectl.run("describe service first").stdout_lacks("FrontendCollision");
    let listed = kubectl.run("get events --field-selector reason=FrontendCollision -o name");
    assert_eq!(listed.lines(), 1, "reported once\n{listed}");
    kubectl.run("delete service first second").stdout_contains("deleted");
}

fn nonsense_is_refused(kubectl: &Kubectl) {
    let service =
        |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: bad}}\nspec: {{{spec}}}\n");
    kubectl
        .run("get nothings")
        .fails()
        .stderr_contains("the server doesn't have a resource type \"nothings\"");
    kubectl.run("get pod nobody").fails().stderr_contains("pods \"nobody\" not found");
    kubectl
        .reading("create -f -", "apiVersion: v1\nkind: Nothing\nmetadata: {name: x}\n")
        .fails()
        .stderr_contains("no matches for kind \"Nothing\"");
    let refused = kubectl.reading("create -f -", &service("ports: [{port: 70000}]")).fails();
    refused.stderr_contains("spec.ports[0].port: Invalid value: 70000");
    kubectl.reading("create -f -", &service("prots: [{port: 80}]")).fails().stderr_contains("unknown field");
    kubectl
        .reading("create -f - --validate=false", &service("ports: [{port: 80}], colour: red"))
        .stdout_contains("created");
    kubectl
        .run("get pods --field-selector spec.colour=red")
        .fails()
        .stderr_contains("field label not supported");
    let huge = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: huge}}\ndata: {{a: {}}}\n",
        "x".repeat(3 << 20)
    );
    kubectl.reading("create -f -", &huge).fails().stderr_contains("limit is 3145728");
    kubectl
        .with_token("wrong", "get pods")
        .fails()
        .stderr_contains("You must be logged in to the server (Unauthorized)");
}

fn things_are_deleted(kubectl: &Kubectl) {
    kubectl.run("delete pod alone").stdout_contains("pod \"alone\"").stdout_contains("deleted");
    kubectl.run("get pod alone").fails().stderr_contains("not found");
    kubectl.run("delete deployment gen --cascade=foreground --timeout=60s").stdout_contains("deleted");
    kubectl.run("get pods -l app=gen").stderr_contains("No resources found");
    kubectl.run("delete replicasets -l app=web --cascade=orphan --wait=false").stdout_contains("deleted");
    kubectl.run("delete deployment web --cascade=orphan").stdout_contains("deleted");
    kubectl.run("get pods -l app=web -o name").stdout_contains("pod/web-");
    kubectl.run("delete pods -l app=web --grace-period=0 --force").stdout_contains("deleted");
    kubectl.run("delete -f DIR --ignore-not-found").stdout_contains("service \"web\"");
    kubectl.plain("delete namespace NS --timeout=60s").stdout_contains("deleted");
    kubectl.plain("get namespace NS").fails().stderr_contains("not found");
}
