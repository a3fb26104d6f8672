# The two toolchains: one for user space (any Rust of the minimum version or
# newer), one for the eBPF programs (docs/decisions/0003).

rust_minimum=1.88
llvm=22
bpf_linker_version=0.13.0
bpf_target=bpfel-unknown-none

# newer_or_equal 1.95.0 1.88
newer_or_equal() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Sets `cargo` to the user's, else Debian's; fails when none is new enough.
choose_cargo() {
    local candidate version
    for candidate in "$(command -v cargo || true)" "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" /usr/bin/cargo; do
        [ -x "$candidate" ] || continue
        version=$("$candidate" --version 2>/dev/null | cut -d' ' -f2) || continue
        newer_or_equal "${version:-0}" $rust_minimum || continue
        cargo=$candidate
        export PATH
        case $cargo in /usr/bin/cargo) export RUSTC=/usr/bin/rustc ;; esac
        return 0
    done
    return 1
}

# Debian's compiler has a prebuilt `core` for eBPF.
debian_has_ebpf_core() {
    local dir
    dir=$(/usr/bin/rustc --print target-libdir --target $bpf_target 2>/dev/null) || return 1
    compgen -G "$dir/libcore-*.rlib" >/dev/null
}

# A nightly of rustup builds `core` from its sources.
nightly_has_sources() {
    local sysroot
    command -v rustup >/dev/null 2>&1 || return 1
    sysroot=$(RUSTUP_AUTO_INSTALL=0 rustup run nightly rustc --print sysroot 2>/dev/null) || return 1
    [ -d "$sysroot/lib/rustlib/src/rust/library/core" ]
}

find_bpf_linker() {
    local candidate
    for candidate in "$top/.tools/bin/bpf-linker" "$(command -v bpf-linker || true)"; do
        [ -x "$candidate" ] && "$candidate" --version >/dev/null 2>&1 && return 0
    done
    return 1
}

build_bpf_linker() {
    find_bpf_linker && return 0
    # bpf-linker reads the bitcode of the compiler: both need the same LLVM.
    if debian_has_ebpf_core; then
        LLVM_PREFIX=/usr/lib/llvm-$llvm "$cargo" install bpf-linker@$bpf_linker_version --locked \
            --no-default-features --features llvm-$llvm --root .tools
    else
        rustup run nightly cargo install bpf-linker@$bpf_linker_version --locked --root .tools
    fi
}

crates_stamp() {
    sha256sum Cargo.lock crates/ebpf/Cargo.lock 2>/dev/null || true
    echo "${CARGO_HOME:-$HOME/.cargo}"
}

crates_are_here() { [ "$(crates_stamp)" = "$(cat .tools/crates-fetched 2>/dev/null)" ]; }

# Every build is --locked. A lock file that does not match its Cargo.toml stops
# the run here, with a message that is clearer than cargo's.
check_lock_files() {
    local lock manifest answer offline=''
    crates_are_here && offline=--offline
    for lock in Cargo.lock crates/ebpf/Cargo.lock; do
        manifest=${lock%.lock}.toml
        [ -f "$manifest" ] || continue
        answer=$("$cargo" update --quiet --workspace --locked $offline --manifest-path "$manifest" 2>&1) && continue
        case $answer in
        *"cannot update the lock file"*)
            stop "$lock does not match the Cargo.toml files" \
                "A Cargo.toml was committed without $lock, or the other way round. To fix it:
    cargo metadata --format-version 1 --manifest-path $manifest >/dev/null
    git add $lock   # and the Cargo.toml files, in one commit"
            ;;
        esac
        # Other errors, such as a missing network, are reported by the fetch that follows.
    done
}

# Fetches the crates of every chore, so that later runs need no network.
fetch_crates() {
    local host
    crates_are_here && return 0
    host=$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')
    "$cargo" fetch --locked --target "$host"
    if [ -f crates/ebpf/Cargo.lock ]; then
        "$cargo" fetch --locked --manifest-path crates/ebpf/Cargo.toml --target "$host"
    fi
    mkdir -p .tools
    crates_stamp >.tools/crates-fetched
}
