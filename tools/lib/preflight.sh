# Checks the machine, in less than five seconds. Each problem says what is
# missing, what needs it and what to do. Then announces download and duration.

kernel_minimum=6.1
disk_mb_minimum=6000
packages_mb=300 crates_mb=40

problems=()

problem() { problems+=("- $1. Needed for $2. $3"); }

preflight() {
    root_reason=$(reason_for_root)
    check_root
    [ -z "$needs_lab" ] || check_kernel
    check_disk
    check_network
    stop_at_problems
    announce
}

# The checks that need root.
preflight_as_root() {
    [ -n "$needs_lab" ] || return 0
    check_capabilities
    stop_at_problems
}

# The checks that need `ip`, which may have just been installed.
preflight_of_devices() {
    [ -n "$needs_lab" ] || return 0
    check_device veth "type veth peer name bl-other" CONFIG_VETH "pods"
    check_device bridge "type bridge" CONFIG_BRIDGE "the lab's network"
    stop_at_problems
}

check_device() {
    as_root unshare --net ip link add bl-probe $2 2>/dev/null ||
        problem "The kernel has no $1 devices" "$4" "Use a kernel with $3 (as a module: modprobe $1)."
}

stop_at_problems() {
    [ ${#problems[@]} -gt 0 ] || return 0
    printf 'This machine cannot run `make %s` yet:\n\n' "$chore" >&2
    printf '%s\n' "${problems[@]}" >&2
    exit 1
}

reason_for_root() {
    local reasons=''
    [ ${#missing_packages[@]} -gt 0 ] && reasons="installing packages"
    [ -n "$needs_lab" ] && reasons="${reasons:+$reasons and }the lab (network namespaces, eBPF)"
    echo "$reasons"
}

check_root() {
    [ -z "$needs_root" ] || may_become_root && return 0
    problem "You are not root and there is no sudo" "$root_reason" "Run as root, or have an administrator install: ${missing_packages[*]:-sudo}"
}

check_kernel() {
    local release
    release=$(uname -r)
    newer_or_equal "${release%%-*}" $kernel_minimum ||
        problem "The kernel is $release" "the eBPF programs ($kernel_minimum or newer)" "Boot a newer kernel (Debian 12's own is 6.1)."
    [ -r /sys/kernel/btf/vmlinux ] ||
        problem "/sys/kernel/btf/vmlinux is missing" "loading eBPF programs" "Use a kernel with CONFIG_DEBUG_INFO_BTF=y, and mount /sys (mount -t sysfs sys /sys)."
    [ -e /proc/sys/kernel/unprivileged_bpf_disabled ] ||
        problem "There is no bpf system call, or /proc is not mounted" "the datapath" "Use a kernel with CONFIG_BPF_SYSCALL=y."
    check_filesystem bpf "keeping the datapath loaded without its agent" CONFIG_BPF_SYSCALL
    check_filesystem cgroup2 "attaching socket programs to each node of the lab" CONFIG_CGROUPS
    [ -e /proc/self/ns/net ] ||
        problem "There are no network namespaces" "the lab's nodes and pods" "Use a kernel with CONFIG_NET_NS=y."
}

check_filesystem() {
    grep -qw "$1" /proc/filesystems 2>/dev/null ||
        problem "The kernel has no $1 file system" "$2" "Use a kernel with $3=y."
}

# In a container, root often lacks capabilities.
check_capabilities() {
    as_root unshare --net true 2>/dev/null ||
        problem "Root cannot create network namespaces" "the lab's nodes and pods" "In a container: run it privileged (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF)."
    as_root sh -c 'd=$(mktemp -d) && trap "rmdir $d" EXIT && mount -t bpf bpf "$d" && umount "$d"' 2>/dev/null ||
        problem "Root cannot mount a bpf file system" "keeping the datapath loaded without its agent" "In a container: run it privileged (CAP_SYS_ADMIN)."
}

check_disk() {
    local free_mb
    [ -x target/release/beeline ] && return 0
    free_mb=$(df -Pm "$top" | awk 'NR == 2 { print $4 }')
    [ "$free_mb" -ge $disk_mb_minimum ] ||
        problem "$free_mb MB are free in $top" "the build ($disk_mb_minimum MB)" "Free some space, or clone to another disk."
}

# Only when there is something to download, and not behind a proxy, which is
# left to apt and cargo.
check_network() {
    local site
    [ -z "${https_proxy:-}${HTTPS_PROXY:-}${http_proxy:-}${ALL_PROXY:-}" ] || return 0
    if [ ${#missing_packages[@]} -gt 0 ]; then
        command -v apt-get >/dev/null 2>&1 || {
            problem "There is no apt-get" "installing ${missing_packages[*]}" "Install the equivalent packages of your system."
            return 0
        }
        site=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | head -n 1 | sed 's,^[a-z]*://,,; s,/.*,,')
        reachable "${site:-deb.debian.org}" 80 "installing ${missing_packages[*]}"
    fi
    crates_are_here || cargo_has_a_mirror || reachable index.crates.io 443 "the crates that Beeline depends on"
}

cargo_has_a_mirror() { grep -qs replace-with "${CARGO_HOME:-$HOME/.cargo}"/config "${CARGO_HOME:-$HOME/.cargo}"/config.toml; }

reachable() {
    local host=${1%%:*} port=$2
    case $1 in *:*) port=${1##*:} ;; esac
    timeout 2 bash -c ": </dev/tcp/$host/$port" 2>/dev/null ||
        problem "$host does not answer on port $port" "$3" "Check the network; behind a proxy set http_proxy and https_proxy."
}

announce() {
    local download=0 cores minutes
    [ ${#missing_rust[@]} -gt 0 ] && download=$((download + packages_mb))
    crates_are_here || download=$((download + crates_mb))
    if [ $download -eq 0 ] && [ -x target/release/beeline ]; then
        echo "Nothing to download."
        return 0
    fi
    cores=$(nproc)
    minutes=$(wall_minutes "$cores")
    case $download in 0) download="no download" ;; *) download="a download of about $download MB" ;; esac
    echo "First run: $download, up to 4 GB of disk, up to $minutes minutes on $cores cores."
    [ ${#missing_packages[@]} -eq 0 ] || echo "Packages to install: ${missing_packages[*]}"
}

# wall_minutes CORES: how long a first run of the chore may take. `cpu` is the CPU
# minutes of its compilers: measured for the demo on two cores (20 to 26), estimated
# from it for the others. `other` is the minutes that do not depend on the number of
# cores: downloads, and the tests themselves. The estimate assumes that compilers use
# four fifths of the cores, and takes at least four minutes, because crates wait for
# each other.
wall_minutes() {
    local cores=$1 cpu other=2 compile
    case $chore in
    demo | build | bench | docs | preflight) cpu=26 ;;
    test) cpu=46 other=14 ;;
    test-kernels) cpu=14 other=8 ;;
    *) cpu=6 ;;
    esac
    compile=$(((cpu * 5 + 4 * cores - 1) / (4 * cores)))
    [ $compile -ge 4 ] || compile=4
    echo $((compile + other))
}
