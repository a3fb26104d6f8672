//! Every command of the documentation is run on a lab. The few that a test
//! cannot run are listed, each with the reason.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod docs;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use beeline_lab::harness::{TestLab, program};

use docs::{commands, fill, top};

/// Beginnings of commands that are not run here, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("apt-get ", "changes the packages of this machine; `make` on a minimal Debian 12 does the same"),
    ("beeline-agent ", "every lab starts its agents with these options"),
    ("cargo ", "compiles; the tests are themselves run by `cargo xtask test`"),
    (
        "export KUBEBUILDER_ASSETS",
        "Kubernetes' programs are in no registry: lab_runs_on_kubernetes_own_control_plane",
    ),
    ("git clone ", "needs the network"),
    ("kubectl -n kube-system delete daemonset kube-proxy", "a lab has no kube-proxy: lab_takeover"),
    ("kubectl apply --server-side", "named without a file: lab_kubectl applies one"),
    ("kubectl create deployment", "named without a Deployment: lab_kubectl creates one"),
    ("kubectl explain", "named without a kind: lab_kubectl asks for some"),
    ("make ", "the tests are themselves run by make; the targets are checked below"),
    ("rm ", "removes the files of an installation"),
    ("rustup ", "downloads a toolchain"),
];

/// Commands that run until they are stopped.
const ENDLESS: &[&str] =
    &["beeline drops -f", "beeline drops --follow", "beeline lab logs -f", "beeline lab router -- tcpdump"];

/// Values for placeholders where a command is only parsed.
const EXAMPLES: &[(&str, &str)] = &[("NAMESPACE/POD", "a/b"), ("ADDRESS", "192.0.2.1"), ("PORT", "80")];

/// What the pages' examples are about, beside examples/hello.
const FIXTURES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: app}
data: {colour: blue}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  volumes: [{name: app, configMap: {name: app}}]
  containers:
  - name: web
    image: beeline/echo
    ports: [{containerPort: 8080}]
    volumeMounts: [{name: app, mountPath: /etc/app}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: db, image: beeline/echo, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: db}, ports: [{port: 80, targetPort: 8080}]}
";

fn reason(text: &str) -> Option<&'static str> {
    NOT_RUN.iter().find(|(beginning, _)| text.starts_with(beginning)).map(|(_, reason)| *reason)
}

/// The command as a shell finds it, and without a name of a lab.
fn plain(text: &str) -> String {
    text.trim_start_matches("./").replace(" --name LAB", "")
}

#[test]
fn unit_every_reason_not_to_run_a_command_is_needed() {
    let commands = commands();
    assert!(commands.len() > 60, "only {} commands were found", commands.len());
    for (beginning, reason) in NOT_RUN {
        let is_needed = commands.iter().any(|command| command.text.starts_with(beginning));
        assert!(is_needed, "no page says `{beginning}...` any more: {reason}");
    }
}

#[test]
fn unit_every_target_of_make_in_the_documentation_exists() {
    let makefile = fs::read_to_string(top().join("Makefile")).unwrap();
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY: ")).unwrap();
    for command in commands() {
        let Some(words) = command.text.strip_prefix("make ") else { continue };
        let target = words.split(' ').next().unwrap();
        assert!(phony.split(' ').any(|known| known == target), "{}: make {target}", command.location);
    }
}

/// Whole commands are parsed; in running text, the beginning of one may stand.
#[test]
fn unit_every_command_line_in_the_documentation_is_valid() {
    for command in commands() {
        let text = fill(&plain(&command.text), EXAMPLES);
        let words: Vec<&str> = text.split(' ').map(|word| word.trim_matches('"')).collect();
        let (cli, words) = match words[..] {
            ["beeline", "lab", ..] => (beeline_lab::verbs::command(), &words[1..]),
            ["beeline", ..] => (beeline_cli::command(), &words[..]),
            _ => continue,
        };
        let parsed = cli.clone().try_get_matches_from(words);
        let is_beginning = !command.is_block && is_subcommand(&cli, &words[1..]);
        let is_help = parsed.as_ref().err().is_some_and(|error| !error.use_stderr());
        assert!(
            parsed.is_ok() || is_beginning || is_help,
            "{}: {text}\n{}",
            command.location,
            parsed.unwrap_err()
        );
    }
}

fn is_subcommand(cli: &clap::Command, words: &[&str]) -> bool {
    let Some((first, rest)) = words.split_first() else { return true };
    cli.find_subcommand(first).is_some_and(|sub| is_subcommand(sub, rest))
}

#[test]
fn lab_every_command_of_the_documentation_works() {
    let lab = TestLab::named("docs");
    let directory = tempfile::tempdir().unwrap();
    let has_kubectl = prepare(directory.path(), &lab);
    let (mut section, mut is_up, mut failed) = (String::new(), false, Vec::new());
    for command in commands() {
        let text = plain(&command.text);
        let is_part = !command.is_block && !is_whole(&text);
        let is_missing = text.starts_with("kubectl ") && !has_kubectl;
        if reason(&text).is_some() || is_part || is_missing {
            continue;
        }
        let starts = text.starts_with("beeline lab up");
        if is_up && (starts || section != command.section) {
            lab.verb(&["down"]).succeeds();
            is_up = false;
        }
        section = command.section.clone();
        if !is_up && !starts {
            lab.verb(&["up"]).succeeds();
            apply_fixtures(&lab);
            is_up = true;
        }
        let mut outcome = run(&lab, directory.path(), &text);
        // An agent whose link has just changed may still be connecting.
        let tries = if text == "beeline status" { 10 } else { 0 };
        for _ in 0..tries {
            if outcome.is_err() {
                std::thread::sleep(Duration::from_secs(1));
                outcome = run(&lab, directory.path(), &text);
            }
        }
        if starts && outcome.is_ok() {
            apply_fixtures(&lab);
            is_up = true;
        }
        is_up &= !text.starts_with("beeline lab down");
        println!("{}: {text}", command.location);
        failed.extend(outcome.err().map(|error| format!("{}: {text}\n{error}", command.location)));
    }
    assert!(failed.is_empty(), "{} commands failed:\n{}", failed.len(), failed.join("\n"));
    lab.down();
}

/// Whether words of running text are a whole command.
fn is_whole(text: &str) -> bool {
    let text = fill(text, EXAMPLES);
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["beeline", "lab", ..] => beeline_lab::verbs::command().try_get_matches_from(&words[1..]).is_ok(),
        ["beeline", ..] => beeline_cli::command().try_get_matches_from(&words).is_ok(),
        _ => true,
    }
}

/// A directory of commands as a user has them, but for this lab.
fn prepare(directory: &Path, lab: &TestLab) -> bool {
    let script = format!(
        "#!/bin/sh\n\
         case $1 in\n\
         lab) verb=$2; shift 2; exec {0} lab \"$verb\" --name {1} \"$@\" ;;\n\
         *) exec {0} \"$@\" --name {1} ;;\n\
         esac\n",
        program("beeline").display(),
        lab.name()
    );
    fs::write(directory.join("beeline"), script).unwrap();
    fs::set_permissions(directory.join("beeline"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink(program("beeline-cni"), directory.join("beeline-cni")).unwrap();
    for below in ["cni/bin", "cni/net.d"] {
        fs::create_dir_all(directory.join(below)).unwrap();
    }
    let kubectl = top().join(".tools/kubectl/current/kubectl");
    if !kubectl.exists() {
        println!("skipped: the commands of kubectl, which is not below .tools: run make test");
        return false;
    }
    symlink(kubectl, directory.join("kubectl")).unwrap();
    true
}

fn apply_fixtures(lab: &TestLab) {
    lab.verb(&["apply", "-f", top().join("examples/hello").to_str().unwrap()]).succeeds();
    lab.apply(FIXTURES);
}

/// Runs a command as a user would type it at the top of the repository.
fn run(lab: &TestLab, directory: &Path, text: &str) -> Result<(), String> {
    let pods = if lab.paths().kubeconfig().exists() { lab.pods("hello") } else { Vec::new() };
    let pod = pods.first().map_or("", |pod| pod.name.as_str());
    let address = pods.last().map_or("", |pod| pod.ips[0].as_str());
    let here = directory.display().to_string();
    let text = fill(
        text,
        &[
            ("NAMESPACE/POD", &format!("default/{pod}")),
            ("NAMESPACE/NAME", "default/hello"),
            ("service NAME", "service hello"),
            ("POD", pod),
            ("ADDRESS", address),
            ("DESTINATION", address),
            ("PORT", "8080"),
            ("CMD", "true"),
            ("/opt/cni/bin", &format!("{here}/cni/bin")),
            ("/etc/cni/net.d", &format!("{here}/cni/net.d")),
        ],
    );
    // On a node.
    let text = if text.starts_with("ip ") { format!("beeline lab node node-1 -- {text}") } else { text };
    let is_endless = ENDLESS.iter().any(|beginning| text.starts_with(beginning));
    let path = format!("{here}:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("timeout");
    command.args([if is_endless { "2" } else { "120" }, "sh", "-c", &text]).current_dir(top());
    command.env("PATH", path).env("HOME", directory).env("KUBECONFIG", lab.paths().kubeconfig());
    let output = command.output().unwrap();
    // What `timeout` returns for a command that it had to stop.
    let expected = if is_endless { 124 } else { 0 };
    if output.status.code() == Some(expected) {
        return Ok(());
    }
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    Err(format!("ran as: {text}\nreturned {:?}, not {expected}\n{}", output.status.code(), said.concat()))
}
