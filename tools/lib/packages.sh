# Missing packages. The probes look for commands and files, not for packages:
# software that was installed in another way is used as it is.

# Sets `missing_packages` (all), and `missing_rust` (those of Debian's Rust,
# which may conflict with packages of the user).
find_missing_packages() {
    missing_packages=() missing_rust=()
    want_command cc gcc libc6-dev
    choose_cargo || missing_rust+=(cargo-web rustc-web)
    [ -z "$needs_ebpf" ] || want_ebpf_toolchain
    [ -z "$needs_lab" ] || want_lab_tools
    [ "$chore" != test ] || want_helm_library
    missing_packages+=("${missing_rust[@]}")
}

want_command() {
    local command=$1
    shift
    command -v "$command" >/dev/null 2>&1 || missing_packages+=("$@")
}

want_ebpf_toolchain() {
    if debian_has_ebpf_core; then
        find_bpf_linker || want_llvm
    elif ! nightly_has_sources; then
        missing_rust=(cargo-web rustc-web libstd-rust-web-dev-bpf)
        find_bpf_linker || want_llvm
    fi
}

# See tools/lib/helm.sh.
want_helm_library() {
    want_command python3 python3
    [ -d .tools/helm ] || python3 -m pip --version >/dev/null 2>&1 || missing_packages+=(python3-pip)
}

want_llvm() {
    [ -x /usr/lib/llvm-$llvm/bin/llvm-config ] || missing_rust+=(llvm-$llvm-dev)
}

want_lab_tools() {
    want_command ping iputils-ping
    want_command curl curl
    want_command ip iproute2
    [ "$chore" = test ] || [ "$chore" = bench ] || return 0
    want_command iptables-legacy-restore iptables
    want_command nft nftables
    [ "$chore" = test ] || return 0
    want_command tcpdump tcpdump
    want_command ethtool ethtool
    # Tests change the clock of a lab's processes, not that of the machine.
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || missing_packages+=(libfaketime)
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 "$@"; }

install_packages() {
    [ ${#missing_packages[@]} -gt 0 ] || { echo "Nothing is missing."; return 0; }
    apt update || stop "the package lists cannot be updated" \
        "Check the network and the sources in /etc/apt, then try again."
    refuse_to_remove
    echo "Installing: ${missing_packages[*]}"
    apt install -y --no-install-recommends "${missing_packages[@]}"
}

# apt resolves conflicts by removing packages. A package of the user is never removed.
refuse_to_remove() {
    local plan removed
    plan=$(apt-get -s install --no-install-recommends "${missing_packages[@]}" 2>&1) || {
        printf '%s\n' "$plan" | tail -n 8
        stop "apt does not know how to install: ${missing_packages[*]}" \
            "On Debian 12 they are in bookworm and bookworm-security: check that both are in the sources in /etc/apt.
On another system install a C compiler and Rust ${rust_minimum} or newer, and for the eBPF programs a nightly toolchain:
    rustup toolchain install nightly --component rust-src"
    }
    removed=$(printf '%s\n' "$plan" | sed -n 's/^Remv \([^ ]*\).*/\1/p' | tr '\n' ' ')
    [ -z "$removed" ] || stop "apt would remove packages of yours to install these: $removed" \
        "Beeline removes no packages. Either remove them, or install a toolchain from https://rustup.rs in addition:
    rustup toolchain install stable
    rustup toolchain install nightly --component rust-src"
}
