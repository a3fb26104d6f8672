//! The CNI plugin with containerd on a node of a lab, with an image made from
//! scratch.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use beeline_lab::harness::{TestLab, program};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The container's program: sends a request over TCP and prints the response.
const ASK: &str = r#"
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    (void)argc;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) { perror("connect"); return 1; }
    const char *request = "GET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n";
    write(fd, request, strlen(request));
    char answer[4096];
    for (ssize_t n; (n = read(fd, answer, sizeof answer)) > 0;) fwrite(answer, 1, n, stdout);
    return 0;
}
"#;

/// Runs containerd on the node in a separate mount namespace, with the plugin
/// and configuration installed by `beeline-cni install`. `$@` is the command
/// in the container.
const DRIVE: &str = r#"
set -eu
work=$1 labs=$2 socket=$3 plugin=$4; shift 4
mount --make-rprivate /
# What is written here is seen by this shell and its children alone, and gone
# with them.
mkdir "$work/labs" "$work/upper" "$work/overlay"
mount -t overlay -o "lowerdir=/etc,upperdir=$work/upper,workdir=$work/overlay" none /etc
mount -t tmpfs none /opt
mount --bind "$labs" "$work/labs"
mount -t tmpfs none /run
mkdir -p "$labs"
mount --bind "$work/labs" "$labs"
"$plugin" install --socket "$socket"
containerd -c "$work/config.toml" >"$work/containerd.log" 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon || true' EXIT
tries=0
until [ -S "$work/c.sock" ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { cat "$work/containerd.log"; exit 1; }
    sleep 0.1
done
ctr -a "$work/c.sock" image import --snapshotter native "$work/image.tar"
ctr -a "$work/c.sock" run --rm --cgroup "" --snapshotter native --cni local/ask:1 asker "$@"
"#;

#[test]
fn lab_containerd_connects_a_container_through_the_plugin() {
    let Some(path) = path_of_containerd() else { return };
    let lab = TestLab::up_with("containerd", &["--nodes", "2"]);
    lab.apply(include_str!("containerd/server.yaml"));
    let address = lab.service("server").cluster_ips.into_iter().find(|ip| ip.contains('.')).unwrap();

    let work = tempfile::tempdir().unwrap();
    configure(work.path());
    make_image(work.path());
    let labs = lab.paths().kubeconfig();
    let labs = labs.parent().and_then(Path::parent).unwrap();
    let socket = lab.paths().node("node-1").socket();
    let words = [
        "env".into(),
        format!("PATH={path}"),
        "unshare".into(),
        "--mount".into(),
        "sh".into(),
        "-c".into(),
        DRIVE.into(),
        "drive".into(),
        work.path().display().to_string(),
        labs.display().to_string(),
        socket.display().to_string(),
        program("beeline-cni").display().to_string(),
        "/ask".into(),
        address,
        "80".into(),
    ];
    let outcome = lab.node("node-1").run(words).succeeds();
    let answer = outcome.stdout.rsplit("\r\n\r\n").next().unwrap();
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    assert_eq!(answer["pod"], "server", "{outcome}");
    let client = answer["client"].as_str().unwrap();
    assert!(client.starts_with("10.244.1."), "an address of node-1's range: {answer}");

    // containerd has called DEL when the container exited.
    let endpoints = Command::new(program("beeline"))
        .args(["endpoint", "list", "-o", "json", "--node", "node-1", "--name", lab.name().as_str()])
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&endpoints.stdout);
    assert!(endpoints.status.success() && !listed.contains(client), "{client} is still there: {listed}");
    let links = lab.node("node-1").shell("ip -o link show type veth").succeeds();
    assert!(!links.stdout.contains("bee"), "{links}");
    lab.down();
}

/// `PATH` with Debian's containerd, which `make test` unpacks, or that of the
/// host.
fn path_of_containerd() -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/")) {
        println!("skipped: the root is a directory, not a mount (a chroot); runc cannot change it there");
        return None;
    }
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/containerd");
    let machine = std::env::var("PATH").unwrap_or_default();
    let path = format!("{0}/usr/bin:{0}/usr/sbin:{machine}:/usr/sbin:/sbin", unpacked.display());
    let has = |name: &str| std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    if ["containerd", "ctr", "runc"].into_iter().all(has) {
        return Some(path);
    }
    println!("skipped: containerd and runc are not here; `make test` unpacks Debian's");
    None
}

fn configure(work: &Path) {
    let directory = work.display();
    let config = format!(
        "version = 2\nroot = \"{directory}/root\"\nstate = \"{directory}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{directory}/c.sock\"\n"
    );
    fs::write(work.join("config.toml"), config).unwrap();
}

/// An OCI image (image-spec 1.0) with a single static program.
fn make_image(work: &Path) {
    let (content, layout) = (work.join("content"), work.join("layout"));
    fs::create_dir_all(&content).unwrap();
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(work.join("ask.c"), ASK).unwrap();
    let (source, ask) = (work.join("ask.c"), content.join("ask"));
    run(Command::new("cc").args(["-static", "-O1", "-o"]).args([&ask, &source]));
    let layer = work.join("layer.tar");
    run(Command::new("tar").arg("-cf").args([&layer, Path::new("-C"), &content, Path::new("ask")]));

    let layer = blob(&layout, &fs::read(layer).unwrap(), "application/vnd.oci.image.layer.v1.tar");
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Cmd": ["/ask"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = blob(&layout, config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let described = json!({"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": [layer]});
    let mut described = blob(&layout, described.to_string().as_bytes(), manifest);
    described["annotations"] = json!({"io.containerd.image.name": "local/ask:1"});
    let index = json!({"schemaVersion": 2, "manifests": [described]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let image: PathBuf = work.join("image.tar");
    run(Command::new("tar").arg("-cf").args([&image, Path::new("-C"), &layout, Path::new(".")]));
}

/// Stores a blob and returns its descriptor.
fn blob(layout: &Path, bytes: &[u8], media_type: &str) -> Value {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(layout.join("blobs/sha256").join(&digest), bytes).unwrap();
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
