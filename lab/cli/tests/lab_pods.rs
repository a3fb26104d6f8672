//! Pod behaviour as in Kubernetes: environment, lifecycle, termination, logs
//! and events.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::path::Path;
use std::time::Duration;

use beeline_lab::harness::TestLab;
use beeline_lab_net::record::LabRecord;
use nix::sys::signal::Signal;
use serde_json::Value;

fn get(lab: &TestLab, path: &str) -> Value {
    serde_json::from_str(&lab.api(path, "").succeeds().stdout).unwrap()
}

fn pod(lab: &TestLab, name: &str) -> Value {
    get(lab, &format!("/api/v1/namespaces/default/pods/{name}"))
}

/// Creates pods without waiting for them.
fn create(lab: &TestLab, manifests: &str) {
    for manifest in manifests.split("---\n") {
        let pod: Value = serde_saphyr::from_str(manifest).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pod.to_string()).unwrap();
        let how =
            format!("--fail -H 'Content-Type: application/json' --data-binary @{}", file.path().display());
        lab.api("/api/v1/namespaces/default/pods", &how).succeeds();
    }
}

fn condition(pod: &Value, kind: &str) -> String {
    let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|one| one["type"] == kind);
    found.and_then(|one| one["status"].as_str()).unwrap_or("none").to_owned()
}

/// Reasons and messages of a pod's events.
fn events(lab: &TestLab, pod: &str) -> String {
    let path = format!("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={pod}");
    let list = get(lab, &path);
    let lines = list["items"].as_array().unwrap().iter().map(|event| {
        format!(
            "{}: {}",
            event["reason"].as_str().unwrap_or_default(),
            event["message"].as_str().unwrap_or_default()
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

const FOUND_AT_THE_START: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, "app.conf": "first\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: open sesame}
---
apiVersion: v1
kind: Service
metadata: {name: my-db}
spec: {ports: [{port: 5432, name: sql}]}
"#;

const FULL: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: full, labels: {app: full, tier: "1"}, annotations: {note: "hello"}}
spec:
  hostname: web
  subdomain: shop
  terminationGracePeriodSeconds: 0
  hostAliases: [{ip: 192.0.2.1, hostnames: [elsewhere]}]
  volumes:
    - {name: scratch, emptyDir: {}}
    - {name: conf, configMap: {name: settings, defaultMode: 288}}
    - {name: secret, secret: {secretName: keys, items: [{key: password, path: deep/pass, mode: 256}]}}
    - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
    - {name: disk, hostPath: {path: /var/lib/thing, type: DirectoryOrCreate}}
    - name: all
      projected:
        sources:
          - configMap: {name: settings, items: [{key: colour, path: colour}]}
          - secret: {name: absent, optional: true}
          - serviceAccountToken: {path: token, expirationSeconds: 3600}
          - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
  containers:
    - name: main
      image: any
      command: [sh, -c]
      args: ["env > /no/such/place/env; pwd > /no/such/place/pwd; echo '$(GREETING)' '$$(GREETING)'; sleep infinity"]
      workingDir: /made/for/it
      resources: {limits: {cpu: 1500m}}
      envFrom:
        - {configMapRef: {name: settings}, prefix: CM_}
      env:
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        - {name: TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
        - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: CPUS, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
        - {name: ABSENT, valueFrom: {configMapKeyRef: {name: settings, key: none, optional: true}}}
        - {name: GREETING, value: "$(PASSWORD) on $(NODE), db $(MY_DB_SERVICE_HOST), $(UNKNOWN)"}
      volumeMounts:
        - {name: scratch, mountPath: /no/such/place}
        - {name: conf, mountPath: /etc/app}
        - {name: conf, mountPath: /etc/one.conf, subPath: app.conf}
        - {name: secret, mountPath: /secret}
        - {name: about, mountPath: /about}
        - {name: all, mountPath: /all}
        - {name: disk, mountPath: /disk}
        - {name: scratch, mountPath: /part, subPath: a/part}
    - name: other
      image: any
      command: [sleep, infinity]
      volumeMounts:
        - {name: scratch, mountPath: /shared, readOnly: true}
"#;

#[test]
fn lab_pods_have_their_variables_volumes_and_files() {
    let lab = TestLab::up_with("found", &["--nodes", "2"]);
    lab.apply(FOUND_AT_THE_START);
    lab.apply(FULL);
    let inside = lab.pod("full");
    let read = |path: &str| inside.run(["cat", path]).succeeds().stdout;

    let environment = read("/no/such/place/env");
    let status = &lab.pods("full")[0];
    let service = lab.service("my-db");
    let greeting = format!("open sesame on {}, db {}, $(UNKNOWN)", status.node, service.cluster_ips[0]);
    for line in [
        "CM_colour=blue".to_owned(),
        format!("NODE={}", status.node),
        "TIER=1".into(),
        format!("IP={}", status.ips[0]),
        "CPUS=2".into(),
        "HOSTNAME=web".into(),
        "MY_DB_SERVICE_PORT_SQL=5432".into(),
        format!("GREETING={greeting}"),
    ] {
        assert!(environment.lines().any(|one| one == line), "{line} is missing in\n{environment}");
    }
    assert!(environment.contains("KUBERNETES_SERVICE_HOST=") && !environment.contains("ABSENT="));
    assert_eq!(read("/no/such/place/pwd"), "/made/for/it\n");
    assert_eq!(
        lab.verb(&["logs", "full", "-c", "main"]).succeeds().stdout,
        format!("{greeting} $(GREETING)\n")
    );

    assert_eq!(read("/etc/app/app.conf"), "first\n");
    assert_eq!(read("/etc/one.conf"), "first\n");
    assert_eq!(read("/secret/deep/pass"), "open sesame");
    assert_eq!(
        inside.run(["stat", "-Lc", "%a", "/secret/deep/pass", "/etc/app/colour"]).succeeds().stdout,
        "400\n440\n"
    );
    assert_eq!(read("/about/labels"), "app=\"full\"\ntier=\"1\"");
    assert_eq!(read("/all/colour"), "blue");
    assert_eq!(read("/all/token").split('.').count(), 3, "a token of the ServiceAccount");
    assert!(read("/all/ca.crt").contains("BEGIN CERTIFICATE"));
    asks_the_api_as_its_account(&lab);
    inside.shell("echo x > /etc/app/new").fails();
    assert!(read("/etc/passwd").contains("root"), "what the machine has beside a mount is there");

    assert_eq!(inside.run(["hostname"]).succeeds().stdout, "web\n");
    assert_eq!(read("/etc/hostname"), "web\n");
    let hosts = read("/etc/hosts");
    assert!(
        hosts.contains(&format!("{}\tweb.shop.default.svc.cluster.local\tweb", status.ips[0])),
        "{hosts}"
    );
    assert!(hosts.contains("192.0.2.1\telsewhere"), "{hosts}");

    assert!(read("/etc/resolv.conf").starts_with("search default.svc.cluster.local svc.cluster.local"));
    let resolved = inside.run(["getent", "ahostsv4", "my-db"]).succeeds().stdout;
    assert!(resolved.starts_with(&format!("{} ", service.cluster_ips[0])), "{resolved}");

    let other = |command: &str| lab.verb(&["exec", "full", "-c", "other", "--", "sh", "-c", command]);
    assert!(other("cat /shared/env").succeeds().stdout.contains("CM_colour"), "containers share a volume");
    other("echo x > /shared/x").fails();
    other("cat /etc/app/colour").fails();
    assert!(other("test -d /shared/a/part").succeeds().stdout.is_empty());
    lab.verb(&["exec", "full", "-c", "none", "--", "true"]).fails().stderr_contains("it has main, other");

    // Files in a hostPath are on the node's disk, not on the host's.
    inside.shell("echo kept > /disk/file").succeeds();
    let disk = lab.paths().node(&status.node).disk();
    assert_eq!(std::fs::read_to_string(disk.join("var/lib/thing/file")).unwrap(), "kept\n");
    for path in ["/no", "/made", "/secret", "/about", "/all", "/disk", "/etc/app", "/etc/one.conf", "/part"] {
        assert!(!Path::new(path).exists(), "{path} must not be on this machine");
    }

    lab.apply(&FOUND_AT_THE_START.replace("first", "second").replace("colour: blue", "colour: red"));
    lab.wait_until("the mounted files have changed", Duration::from_secs(10), || {
        read("/etc/app/app.conf") == "second\n" && read("/all/colour") == "red"
    });
    assert_eq!(read("/etc/one.conf"), "first\n", "a subPath stays as it was");
    lab.down();
}

const LIVES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: lives}
spec: {selector: {app: lives}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: lives, labels: {app: lives}}
spec:
  terminationGracePeriodSeconds: 20
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
    - {name: first, image: any, command: [sh, -c, "echo first >> /v/order; echo done; sleep 0.2"], volumeMounts: [{name: v, mountPath: /v}]}
    - name: side
      image: any
      restartPolicy: Always
      command: [sh, -c, "echo side >> /v/order; touch /v/side; trap 'echo side-ends >> /v/order; exit 0' TERM; while :; do sleep 0.05; done"]
      startupProbe: {exec: {command: [test, -e, /v/side]}, periodSeconds: 1}
      volumeMounts: [{name: v, mountPath: /v}]
  containers:
    - name: main
      image: any
      command: [sh, -c, "echo main >> /v/order; touch /v/ready; trap 'echo main-ends >> /v/order; sleep 5; exit 0' TERM; while :; do sleep 0.05; done"]
      lifecycle:
        postStart: {exec: {command: [sh, -c, "touch /v/post-start"]}}
        preStop: {exec: {command: [sh, -c, "echo pre-stop >> /v/order; cp /v/order /v/before"]}}
      readinessProbe: {exec: {command: [test, -e, /v/ready]}, periodSeconds: 1, failureThreshold: 1}
      volumeMounts: [{name: v, mountPath: /v}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: beeline/echo
      ports: [{name: http, containerPort: 8080}]
      readinessProbe: {httpGet: {port: http}, periodSeconds: 1}
      livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
"#;

const FAILS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: any
      command: [sh, -c, "echo run of $(date +%N); echo why it failed > /dev/termination-log; exit 3"]
---
apiVersion: v1
kind: Pod
metadata: {name: no-image}
spec:
  containers: [{name: main, image: "example.org/nothing:1"}]
"#;

/// Pods that never become ready.
const WAITS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: no-config}
spec:
  containers:
    - {name: main, image: any, command: [sleep, infinity], env: [{name: X, valueFrom: {secretKeyRef: {name: later, key: x}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: no-volume}
spec:
  volumes: [{name: v, configMap: {name: nowhere}}]
  containers: [{name: main, image: any, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: hangs}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: any
      command: [sleep, infinity]
      livenessProbe: {exec: {command: [sh, -c, "echo not well; exit 1"]}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: job}
spec:
  restartPolicy: Never
  initContainers: [{name: side, image: any, restartPolicy: Always, command: [sleep, infinity]}]
  containers: [{name: main, image: any, command: [sh, -c, "echo worked; exit 0"]}]
"#;

/// Accesses the API like client libraries in a pod: by the Service's name,
/// with the mounted credentials.
fn asks_the_api_as_its_account(lab: &TestLab) {
    let inside = lab.pod("full");
    let ask = |path: &str| {
        inside.shell(&format!(
            "cd /var/run/secrets/kubernetes.io/serviceaccount && cat namespace && curl -sS --max-time 5 \
             --cacert ca.crt -H \"Authorization: Bearer $(cat token)\" https://kubernetes.default.svc{path}"
        ))
    };
    let version = ask("/version").succeeds();
    assert!(version.stdout.starts_with("default") && version.stdout.contains("gitVersion"), "{version}");
    let stranger = ask("/api/v1/nodes").succeeds();
    for words in ["system:serviceaccount:default:default", "cannot list resource"] {
        assert!(stranger.stdout.contains(words), "{words}\n{stranger}");
    }
}

fn endpoint(lab: &TestLab, service: &str) -> Option<[bool; 3]> {
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name=";
    let slices = get(lab, &format!("{path}{service}"));
    let slices = slices["items"].as_array()?;
    let slice = slices.iter().find(|slice| slice["addressType"] == "IPv4")?;
    let conditions = &slice["endpoints"].as_array()?.first()?["conditions"];
    Some(["ready", "serving", "terminating"].map(|name| conditions[name] == true))
}

#[test]
fn lab_pods_follow_their_lifecycle_specification() {
    let lab = TestLab::up_with("lives", &["--nodes", "1"]);
    lab.apply(LIVES);
    assert!(lab.pods("web")[0].ready);
    let inside = lab.pod("lives");
    assert_eq!(inside.run(["cat", "/v/order"]).succeeds().stdout, "first\nside\nmain\n");
    inside.run(["test", "-e", "/v/post-start"]).succeeds();
    inside.run(["curl", "--silent", "--show-error", "--fail", "--max-time", "5", "http://web/"]).succeeds();
    assert_eq!(endpoint(&lab, "lives"), Some([true, true, false]));
    let status = pod(&lab, "lives")["status"].clone();
    let first = &status["initContainerStatuses"][0];
    assert_eq!(first["state"]["terminated"]["reason"], "Completed", "{status}");

    inside.run(["rm", "/v/ready"]).succeeds();
    lab.wait_until("the probe has failed", Duration::from_secs(10), || {
        endpoint(&lab, "lives") == Some([false, false, false])
    });
    assert!(events(&lab, "lives").contains("Unhealthy: Readiness probe failed"), "{}", events(&lab, "lives"));
    inside.run(["touch", "/v/ready"]).succeeds();
    lab.wait_until("the probe succeeds again", Duration::from_secs(10), || {
        endpoint(&lab, "lives") == Some([true, true, false])
    });

    // While terminating it still serves, until its readiness probe fails.
    lab.api("/api/v1/namespaces/default/pods/lives", "-X DELETE").succeeds();
    lab.wait_until("the endpoint is terminating", Duration::from_secs(5), || {
        endpoint(&lab, "lives") == Some([false, true, true])
    });
    inside.run(["rm", "-f", "/v/ready"]).succeeds();
    lab.wait_until("it does not serve any more", Duration::from_secs(4), || {
        endpoint(&lab, "lives") == Some([false, false, true])
    });
    assert_eq!(inside.run(["cat", "/v/before"]).succeeds().stdout, "first\nside\nmain\npre-stop\n");
    let order = inside.run(["cat", "/v/order"]).succeeds().stdout;
    assert!(
        order.ends_with("pre-stop\nmain-ends\n"),
        "the sidecar outlives the pod's main container:\n{order}"
    );
    lab.wait_until("the pod is gone", Duration::from_secs(15), || lab.pods("lives").is_empty());
    assert!(!lab.paths().pod("default", "lives").root().exists());

    pods_that_fail_say_why(&lab);
    logs_are_kept(&lab);
    pods_go_that_are_deleted_while_they_start(&lab);
    lab.down();
}

/// A pod may be deleted at any time during its start, also between sandbox
/// creation and its first container.
fn pods_go_that_are_deleted_while_they_start(lab: &TestLab) {
    const COUNT: usize = 24;
    for number in 0..COUNT {
        create(
            lab,
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: short-{number}, labels: {{app: short}}}}\n\
                 spec: {{terminationGracePeriodSeconds: 2, containers: [{{name: c, image: x, \
                 command: [sleep, '1000']}}]}}\n"
            ),
        );
        std::thread::sleep(Duration::from_millis(4 * number as u64));
        let path = format!("/api/v1/namespaces/default/pods/short-{number}");
        lab.api(&path, "-X DELETE").succeeds();
    }
    lab.wait_until("all have gone", Duration::from_secs(20), || {
        let left = get(lab, "/api/v1/namespaces/default/pods?labelSelector=app=short");
        left["items"].as_array().is_some_and(Vec::is_empty)
    });
}

fn pods_that_fail_say_why(lab: &TestLab) {
    let output = lab.verb_with_stdin(&["apply", "-f", "-"], FAILS).fails();
    assert!(output.stderr.contains("CrashLoopBackOff") && output.stderr.contains("--image"), "{output}");
    create(lab, WAITS);
    let waits = |name: &str| {
        let pod = pod(lab, name);
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let check = |name: &str, reason: &str, words: &str| {
        lab.wait_until(&format!("{name}: {reason}"), Duration::from_secs(15), || {
            waits(name) == reason && events(lab, name).contains(words)
        });
    };
    check("crash", "CrashLoopBackOff", "BackOff: Back-off restarting failed container main in pod crash");
    let last = pod(lab, "crash")["status"]["containerStatuses"][0].clone();
    let ended = &last["lastState"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&3.into(), &"Error".into()), "{last}");
    assert_eq!(ended["message"], "why it failed\n", "{last}");
    assert!(last["restartCount"].as_i64().unwrap() >= 1, "{last}");
    check("no-config", "CreateContainerConfigError", "secret \"later\" not found");
    check(
        "no-volume",
        "ContainerCreating",
        "FailedMount: MountVolume.SetUp failed for volume \"v\": configmap \"nowhere\" not found",
    );
    check("no-image", "ImagePullBackOff", "Failed to pull image \"example.org/nothing:1\"");
    lab.wait_until("a pod that hangs is started again", Duration::from_secs(15), || {
        lab.pods("hangs")[0].restarts > 0
            && events(lab, "hangs").contains("Container main failed liveness probe, will be restarted")
    });
    assert!(events(lab, "hangs").contains("not well"), "{}", events(lab, "hangs"));

    lab.wait_until("a pod that has done its work has succeeded", Duration::from_secs(15), || {
        pod(lab, "job")["status"]["phase"] == "Succeeded"
    });
    assert_eq!(condition(&pod(lab, "job"), "Ready"), "False");

    let later = "apiVersion: v1\nkind: Secret\nmetadata: {name: later}\nstringData: {x: value}\n---\n\
                 apiVersion: v1\nkind: ConfigMap\nmetadata: {name: nowhere}\ndata: {a: b}\n";
    lab.apply(later);
    lab.wait_until("what was missing has come", Duration::from_secs(30), || {
        ["no-config", "no-volume"].iter().all(|name| lab.pods(name)[0].ready)
    });
}

fn logs_are_kept(lab: &TestLab) {
    let talks = "
apiVersion: v1
kind: Pod
metadata: {name: talks}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: main, image: any, command: [sh, -c, 'for i in 1 2 3 4 5; do echo line $i; done; sleep 0.2; echo wrong >&2; while :; do sleep 0.2; echo more; done']}
    - {name: other, image: any, command: [sh, -c, 'echo other; sleep infinity']}
";
    lab.apply(talks);
    lab.wait_until("it has printed its lines", Duration::from_secs(5), || {
        lab.verb(&["logs", "talks"]).succeeds().stdout.contains("more\n")
    });
    let printed = lab.verb(&["logs", "talks", "-c", "main"]).succeeds().stdout;
    assert!(
        printed.starts_with("line 1\nline 2\nline 3\nline 4\nline 5\n") && printed.contains("wrong\n"),
        "{printed}"
    );
    assert_eq!(lab.verb(&["logs", "talks", "-c", "other"]).succeeds().stdout, "other\n");
    lab.verb(&["logs", "talks", "-c", "none"]).fails().stderr_contains("it has main, other");
    lab.verb(&["logs", "nobody"]).fails().stderr_contains("there is no pod default/nobody");
    lab.verb(&["logs", "talks", "--previous"]).fails().stderr_contains("has no previous instance");
    assert_eq!(lab.verb(&["logs", "job", "-c", "main"]).succeeds().stdout, "worked\n", "also after the end");
    let runs = |previous: &str| lab.verb(&["logs", "crash", previous]).stdout;
    assert!(
        runs("--previous").starts_with("run of") && runs("--previous") != runs("--tail=9"),
        "two runs, two logs"
    );

    let log = "/api/v1/namespaces/default/pods/talks/log";
    let asked = |query: &str| lab.api(&format!("{log}?{query}"), "").stdout;
    assert_eq!(asked("container=other"), "other\n");
    assert!(asked("container=main&limitBytes=10") == "line 1\nlin");
    assert!(asked("container=main&tailLines=1") == "more\n");
    assert!(
        asked("").contains("a container name must be specified for pod talks, choose one of: [main other]")
    );
    assert!(asked("container=main&previous=true").contains("previous terminated container"));
    let stamped = asked("container=other&timestamps=true");
    let time = stamped.split(' ').next().unwrap();
    assert!(time.ends_with('Z') && time.starts_with("20"), "{stamped}");
    assert_eq!(asked("container=other&sinceTime=2999-01-01T00:00:00Z"), "");

    // A follower gets new lines and ends when the container exits.
    let ends = "
apiVersion: v1
kind: Pod
metadata: {name: ends}
spec:
  restartPolicy: Never
  containers: [{name: main, image: any, command: [sh, -c, 'echo begin; sleep 1; echo end']}]
";
    lab.apply(ends);
    assert_eq!(lab.verb(&["logs", "-f", "ends"]).succeeds().stdout, "begin\nend\n");
    let again = lab.api("/api/v1/namespaces/default/pods/ends/log?follow=true", "");
    assert_eq!(again.stdout, "begin\nend\n");
}

#[test]
fn lab_pods_leave_no_mount_when_their_daemon_is_killed() {
    let lab = TestLab::up_with("mounts", &["--nodes", "1"]);
    lab.apply(FOUND_AT_THE_START);
    lab.apply(FULL);
    let record = LabRecord::read(&lab.paths()).unwrap().unwrap();
    assert!(record.daemon.signal(Signal::SIGKILL));
    lab.wait_until("the daemon is dead", Duration::from_secs(5), || !record.daemon.alive());
    let inside = lab.pod("full");
    assert_eq!(inside.run(["cat", "/etc/app/colour"]).succeeds().stdout, "blue");
    assert!(!lab.verb(&["logs", "full"]).succeeds().stdout.is_empty());
    lab.down();
}
