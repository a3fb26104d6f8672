//! The lab as a user of kubectl meets it: Debian's kubectl 1.20 and a current
//! one do what people do, with nothing but KUBECONFIG.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

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
fn lab_serves_kubectl_old_and_new() {
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
    let folder = kubectl.folder();
    fs::write(folder.join("deployment.yaml"), DEPLOYMENT).unwrap();
    fs::write(folder.join("rest.yaml"), REST).unwrap();
    kubectl.reading("apply -f -", &kubectl.namespace_manifest());
    for word in ["created", "unchanged"] {
        let applied = kubectl.run("apply -f DIR");
        for object in ["deployment.apps/web", "service/web", "configmap/words"] {
            applied.says(&format!("{object} {word}"));
        }
    }
    kubectl.run("rollout status deployment/web --timeout=60s").says("successfully rolled out");
    kubectl.run("wait --for=condition=Available deployment/web --timeout=20s").says("condition met");
}

fn things_are_shown(kubectl: &Kubectl) {
    let wide = kubectl.run("get pods -o wide");
    wide.says("READY").says("RESTARTS").says("NODE").says("1/1").says("node-");
    kubectl.run("get pods --show-labels").says("app=web,pod-template-hash=");
    kubectl.run("get pods -l app=web,tier!=back -o name").says("pod/web-");
    kubectl.run("get pods -l app!=web").says_on_error("No resources found");
    kubectl
        .run("get pods --field-selector status.phase=Running -o jsonpath={.items[*].status.phase}")
        .says("Running Running");
    kubectl.run("get deployment web").says("2/2");
    kubectl.run("get deployment web -o yaml").says("name: COLOR").says("observedGeneration");
    kubectl.run("get configmap words -o json").says(r#""greeting": "hello""#);
    kubectl
        .run("get all")
        .says("service/web")
        .says("deployment.apps/web")
        .says("replicaset.apps/web-")
        .says("pod/web-");
    kubectl.plain("get nodes -o wide").says("node-2").says("Ready").says("INTERNAL-IP");
    let pods = kubectl.run("describe pods -l app=web");
    pods.says("Conditions:").says("Container ID").says("Ready");
    let told = kubectl.run("get events");
    told.says("Successfully assigned").says("Started container").says("Created pod: web-");
    let deployment = kubectl.run("describe deployment web");
    deployment.says("2 desired").says("NewReplicaSet:").says("Scaled up replica set web-");
    kubectl.run("describe service web").says("Endpoints:").says(":8080");
    kubectl.plain("describe node node-1").says("PodCIDR").says("Non-terminated Pods");
    kubectl.run("get endpointslices").says("web-");
}

fn a_deployment_is_changed_and_rolled(kubectl: &Kubectl) {
    let watch = kubectl.start("get deployment web -w");
    watch.wait_for("2/2", Duration::from_secs(20));
    kubectl.run("scale deployment web --replicas=0").says("scaled");
    watch.wait_for("0/0", Duration::from_secs(20));
    drop(watch);
    kubectl.run("wait --for=delete pod -l app=web --timeout=30s");
    kubectl.run("get pods").says_on_error("No resources found");
    kubectl.run("scale deployment web --replicas=2 --current-replicas=0").says("scaled");
    kubectl.run("rollout status deployment/web --timeout=60s").says("successfully rolled out");

    kubectl.run(r#"patch deployment web -p {"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"SIZE","value":"1"}]}]}}}}"#).says("patched");
    kubectl
        .run("get deployment web -o jsonpath={.spec.template.spec.containers[0].env[*].name}")
        .says("SIZE COLOR");
    kubectl
        .run(r#"patch configmap words --type merge -p {"data":{"greeting":null,"parting":"bye"}}"#)
        .says("patched");
    kubectl
        .run(r#"patch configmap words --type json -p [{"op":"add","path":"/data/third","value":"3"}]"#)
        .says("patched");
    kubectl.run("get configmap words -o jsonpath={.data}").says("parting").says("third").says_not("greeting");
    kubectl.run("label configmap words tier=front").says("labeled");
    kubectl.run("label configmap words tier=back").fails().says_on_error("already has a value");
    kubectl.run("label configmap words tier=back --overwrite").says("labeled");
    kubectl.run("annotate configmap words note=read").says("annotated");
    kubectl.run("get configmap words --show-labels").says("tier=back");

    kubectl.run("rollout status deployment/web --timeout=60s").says("successfully rolled out");
    kubectl.run("rollout restart deployment/web").says("restarted");
    kubectl.run("rollout status deployment/web --timeout=60s").says("successfully rolled out");
    kubectl.run("rollout history deployment/web").says("REVISION").says("1 ").says("2 ").says("3 ");
    kubectl.run("rollout undo deployment/web --to-revision=1").says("rolled back");
    kubectl.run("rollout status deployment/web --timeout=60s").says("successfully rolled out");
    let names = kubectl.run("get deployment web -o jsonpath={.spec.template.spec.containers[0].env[*].name}");
    names.says("COLOR").says_not("SIZE");
    kubectl.run("rollout history deployment/web").says("4 ").says_not("1 ");
}

fn a_node_is_drained(kubectl: &Kubectl) {
    let there = "get pods --field-selector spec.nodeName=node-2 -o name";
    kubectl.run(there).says("pod/web-");
    let drained = kubectl.plain("drain node-2 --ignore-daemonsets --delete-emptydir-data --timeout=60s");
    drained.says("node/node-2 cordoned").says("pod/web-").says("evicted");
    assert_eq!(kubectl.run(there).lines(), 0, "pods are on a drained node");
    kubectl.run("rollout status deployment/web --timeout=60s").says("successfully rolled out");
    kubectl.plain("get node node-2").says("Ready,SchedulingDisabled");
    kubectl.plain("uncordon node-2").says("uncordoned");
    kubectl.plain("get node node-2").says_not("SchedulingDisabled");
}

fn changes_are_tried_before_they_are_made(kubectl: &Kubectl) {
    let changed = DEPLOYMENT.replace("blue", "green");
    fs::write(kubectl.folder().join("deployment.yaml"), changed).unwrap();
    let difference = kubectl.run("diff -f DIR/deployment.yaml");
    assert_eq!(difference.code, Some(1), "a difference is told by 1\n{difference}");
    difference.says("-          value: blue").says("+          value: green");
    kubectl.run("apply --dry-run=server -f DIR/deployment.yaml").says("configured (server dry run)");
    kubectl.run("get deployment web -o yaml").says("value: blue").says_not("value: green");
    kubectl.edit("s/parting: bye/parting: farewell/", "edit configmap words").says("edited");
    kubectl.run("get configmap words -o yaml").says("parting: farewell");
    kubectl.run("apply -f DIR/deployment.yaml").says("deployment.apps/web configured");
    kubectl.run("rollout status deployment/web --timeout=60s").says("successfully rolled out");
    assert_eq!(kubectl.run("diff -f DIR/deployment.yaml").code, Some(0));
}

fn the_server_tells_of_itself(kubectl: &Kubectl) {
    kubectl.plain("api-versions").says("apps/v1").says("v1");
    kubectl.plain("api-resources").says("deployments").says("Deployment").says("deploy");
    kubectl.plain("api-resources --namespaced=false").says("nodes").says_not("deployments");
    kubectl.plain("explain deployment.spec.replicas").says("integer");
    kubectl.plain("explain pods.spec.containers").says("imagePullPolicy").says("-required-");
    kubectl.plain("explain pods --recursive").says("containerPort");
    kubectl.run("auth can-i create pods").says("yes");
    kubectl.run("auth can-i --list").says("*.*");
    let stranger = kubectl.run("auth can-i create pods --as=system:serviceaccount:default:nobody").fails();
    stranger.says("no");
    kubectl.plain("version").says("Server Version");
    kubectl.plain("cluster-info").says("is running at");
}

/// An old kubectl sends what it generates as JSON, a current one as protobuf.
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
        kubectl.run(&format!("create {line}")).says(created);
    }
    kubectl
        .run("create rolebinding gen --role=gen --serviceaccount=NS:gen")
        .says("rolebinding.rbac.authorization.k8s.io/gen created");
    kubectl.run("auth can-i get pods --as=system:serviceaccount:NS:gen").says("yes");
    kubectl.plain("create namespace NS-more").says("namespace/NS-more created");
    kubectl.plain("delete namespace NS-more --timeout=60s").says("deleted");
    kubectl.run("create configmap gen").fails().says_on_error("configmaps \"gen\" already exists");
    kubectl.run("create deployment Gen --image=a").fails().says_on_error("metadata.name: Invalid value");
    if kubectl.is_current() {
        kubectl.run("create token gen --duration=15m").says(".");
    }
    kubectl
        .run("get deployment gen -o jsonpath={.spec.replicas}:{.spec.template.spec.containers[0].image}")
        .says("1:beeline/echo");
    kubectl.run("get secret gen -o jsonpath={.data.password}").says("eA==");
    kubectl
        .run("get service gen-node -o jsonpath={.spec.type}:{.spec.ports[0].targetPort}")
        .says("NodePort:8080");
    kubectl.run("run alone --image=beeline/echo --port=8080").says("pod/alone created");
    kubectl
        .run("expose deployment web --port=81 --target-port=8080 --name=exposed")
        .says("service/exposed exposed");
    kubectl.run("set image deployment/gen echo=beeline/echo:2").says("image updated");
    kubectl.run("get secret gen").says("Opaque");
    kubectl.run("get services").says("NodePort").says("81/TCP");
    kubectl.run("get endpoints").says(":8080");
    kubectl.run("run alone --image=beeline/echo").fails().says_on_error("pods \"alone\" already exists");
    kubectl.run("wait --for=condition=Ready pod/alone --timeout=30s").says("condition met");
}

fn kinds_come_with_their_definition(kubectl: &Kubectl) {
    let hive = |spec: &str| {
        format!("apiVersion: bees.example/v1\nkind: Hive\nmetadata: {{name: home}}\nspec: {{{spec}}}\n")
    };
    kubectl.reading("apply -f -", HIVES).says("created");
    kubectl
        .plain("wait --for=condition=Established crd/hives.bees.example --timeout=10s")
        .says("condition met");
    kubectl.reading("apply -f -", &hive("color: brown")).says("hive.bees.example/home created");
    kubectl.reading("apply -f -", &hive("color: yellow")).says("configured");
    kubectl.run("get hv").says("COLOR").says("yellow");
    kubectl.run("scale hive home --replicas=3").says("scaled");
    kubectl.run("get hive home -o jsonpath={.spec.size}").says("3");
    kubectl.plain("explain hive.spec.color").says("What it looks like.");
    let refused = kubectl.reading("apply -f -", &hive("color: red, size: -1")).fails();
    refused
        .says_on_error("spec.color: Unsupported value: \"red\"")
        .says_on_error("spec.size: Invalid value: -1");
    kubectl.plain("delete crd hives.bees.example").says("deleted");
    // Not by its name: an old kubectl remembers for minutes what is served.
    let gone = kubectl.plain("get --raw /apis/bees.example/v1").fails();
    gone.says_on_error("the server could not find the requested resource");
}

/// Two Services want one address and port: it is told on the one that does not get it.
fn what_is_wrong_is_on_the_object(kubectl: &Kubectl) {
    let watch = kubectl.start("get events -w");
    for name in ["first", "second"] {
        let spec = "{externalIPs: [198.51.100.7], ports: [{port: 80}]}";
        let service = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n");
        kubectl.reading("apply -f -", &service).says("created");
    }
    watch.wait_for("FrontendCollision", Duration::from_secs(20));
    drop(watch);
    let described = kubectl.run("describe service second");
    described.says("Warning").says("FrontendCollision").says("beeline");
    described.says("its externalIP 198.51.100.7 port 80/TCP conflicts with Service NS/first, which keeps it");
    kubectl.run("describe service first").says_not("FrontendCollision");
    let listed = kubectl.run("get events --field-selector reason=FrontendCollision -o name");
    assert_eq!(listed.lines(), 1, "told once\n{listed}");
    kubectl.run("delete service first second").says("deleted");
}

fn nonsense_is_refused(kubectl: &Kubectl) {
    let service =
        |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: bad}}\nspec: {{{spec}}}\n");
    kubectl.run("get nothings").fails().says_on_error("the server doesn't have a resource type \"nothings\"");
    kubectl.run("get pod nobody").fails().says_on_error("pods \"nobody\" not found");
    kubectl
        .reading("create -f -", "apiVersion: v1\nkind: Nothing\nmetadata: {name: x}\n")
        .fails()
        .says_on_error("no matches for kind \"Nothing\"");
    let refused = kubectl.reading("create -f -", &service("ports: [{port: 70000}]")).fails();
    refused.says_on_error("spec.ports[0].port: Invalid value: 70000");
    kubectl.reading("create -f -", &service("prots: [{port: 80}]")).fails().says_on_error("unknown field");
    kubectl
        .reading("create -f - --validate=false", &service("ports: [{port: 80}], colour: red"))
        .says("created");
    kubectl
        .run("get pods --field-selector spec.colour=red")
        .fails()
        .says_on_error("field label not supported");
    let huge = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: huge}}\ndata: {{a: {}}}\n",
        "x".repeat(3 << 20)
    );
    kubectl.reading("create -f -", &huge).fails().says_on_error("limit is 3145728");
    kubectl
        .with_token("wrong", "get pods")
        .fails()
        .says_on_error("You must be logged in to the server (Unauthorized)");
}

fn things_are_deleted(kubectl: &Kubectl) {
    kubectl.run("delete pod alone").says("pod \"alone\"").says("deleted");
    kubectl.run("get pod alone").fails().says_on_error("not found");
    kubectl.run("delete deployment gen --cascade=foreground --timeout=60s").says("deleted");
    kubectl.run("get pods -l app=gen").says_on_error("No resources found");
    kubectl.run("delete replicasets -l app=web --cascade=orphan --wait=false").says("deleted");
    kubectl.run("delete deployment web --cascade=orphan").says("deleted");
    kubectl.run("get pods -l app=web -o name").says("pod/web-");
    kubectl.run("delete pods -l app=web --grace-period=0 --force").says("deleted");
    kubectl.run("delete -f DIR --ignore-not-found").says("service \"web\"");
    kubectl.plain("delete namespace NS --timeout=60s").says("deleted");
    kubectl.plain("get namespace NS").fails().says_on_error("not found");
}
