#!/bin/bash
# From a fresh machine to `cargo xtask CHORE`: checks the machine, announces
# downloads and duration, installs missing packages, builds the tools of the
# build and runs the chore. The Makefile calls it:
# tools/bootstrap.sh CHORE [ARGS]...
#
# cargo runs as the calling user. Only apt and the lab need root, which is asked
# for once, before the long build.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# The output of the system's tools is parsed: it has to be in English.
export LC_ALL=C.UTF-8

chore=${1:?usage: tools/bootstrap.sh CHORE [ARGS]...}
shift
pure=${PURE:-0}

. tools/lib/say.sh
. tools/lib/root.sh
. tools/lib/toolchain.sh
. tools/lib/preflight.sh
. tools/lib/packages.sh
. tools/lib/helm.sh
. tools/lib/containerd.sh
. tools/lib/etcd.sh
. tools/lib/kubectl.sh

main() {
    run_as_owner_of_tree "$@"
    trap restore_owner EXIT
    decide_what_is_needed
    preflight
    [ "$chore" = preflight ] && exit 0
    [ -z "$needs_root" ] || ask_for_root
    preflight_as_root
    step packages install_packages
    preflight_of_devices
    choose_cargo || stop "there is no Rust ${rust_minimum} or newer after the installation" \
        "Install Rust from https://rustup.rs, or Debian's cargo-web and rustc-web, and try again."
    step "build tools" install_build_tools
    export BEELINE_STEPS_BEFORE=$steps_done
    "$cargo" xtask "$chore" "$@"
}

# Sets needs_ebpf, needs_lab, needs_root (empty means no) and steps_total.
decide_what_is_needed() {
    needs_ebpf=yes needs_lab='' needs_root=''
    case $chore in
    demo) steps_after=4 needs_lab=yes ;;
    bench) steps_after=2 needs_lab=yes ;;
    test) steps_after=8 needs_lab=yes ;;
    build) steps_after=2 ;;
    ebpf) steps_after=2 ;;
    test-kernels) steps_after=5 ;;
    docs) steps_after=3 ;;
    fuzz) steps_after=1 needs_ebpf='' ;;
    deny) steps_after=0 needs_ebpf='' ;;
    *) steps_after=1 needs_ebpf='' ;;
    esac
    if [ "$chore" = test ] && { [ "$pure" = 1 ] || ! may_become_root; }; then
        needs_ebpf='' needs_lab='' steps_after=4
    fi
    steps_total=$((steps_after + 2))
    find_missing_packages
    [ -n "$needs_lab" ] && needs_root=yes
    [ ${#missing_packages[@]} -gt 0 ] && needs_root=yes
    return 0
}

install_build_tools() {
    check_lock_files
    fetch_crates
    [ -z "$needs_ebpf" ] || build_bpf_linker
    [ "$chore" != test ] || install_helm_library
    [ "$chore" != test ] || [ -z "$needs_lab" ] || install_containerd
    [ "$chore" != test ] || [ -z "$needs_lab" ] || install_etcd
    [ "$chore" != test ] || [ -z "$needs_lab" ] || install_kubectl
    "$cargo" build --locked --release --package xtask
}

main "$@"
