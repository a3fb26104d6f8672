# What has to be installed: found by probing for the thing itself, so that a
# machine that has it another way is left alone.

# Sets `missing_packages` (all), and `missing_rust` (those of them that are
# Debian's Rust and could be in conflict with the user's own).
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

# The tests render the chart with it; see tools/lib/helm.sh.
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
    # Tests set the clock of a lab, and not the machine's.
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || missing_packages+=(libfaketime)
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 "$@"; }

install_packages() {
    [ ${#missing_packages[@]} -gt 0 ] || { echo "Nothing is missing."; return 0; }
    apt update || stop "the package lists could not be read" \
        "Check the network and the sources below /etc/apt, then try again."
    refuse_to_remove
    echo "Installing: ${missing_packages[*]}"
    apt install -y --no-install-recommends "${missing_packages[@]}"
}

# apt solves a conflict by removing; a user's package is not ours to remove.
refuse_to_remove() {
    local plan removed
    plan=$(apt-get -s install --no-install-recommends "${missing_packages[@]}" 2>&1) || {
        printf '%s\n' "$plan" | tail -n 8
        stop "apt does not know how to install: ${missing_packages[*]}" \
            "On Debian 12 they come from bookworm and bookworm-security: are both in the sources below /etc/apt?
On another system install a C compiler and Rust ${rust_minimum} or newer, and for the eBPF programs a nightly toolchain:
    rustup toolchain install nightly --component rust-src"
    }
    removed=$(printf '%s\n' "$plan" | sed -n 's/^Remv \([^ ]*\).*/\1/p' | tr '\n' ' ')
    [ -z "$removed" ] || stop "apt would remove packages of yours to install these: $removed" \
        "Beeline removes nothing. Either remove them yourself, or use a toolchain of your own beside them, from https://rustup.rs:
    rustup toolchain install stable
    rustup toolchain install nightly --component rust-src"
}
