# containerd, with which a test runs the CNI plugin as on a node. Debian's
# packages are unpacked in .tools: installing them would start a service on this
# machine. Without them the test prints `skipped:`.

install_containerd() {
    [ -d .tools/containerd ] && return 0
    if command -v containerd >/dev/null && command -v ctr >/dev/null && command -v runc >/dev/null; then
        return 0
    fi
    rm -rf .tools/containerd.new
    mkdir -p .tools/containerd.new
    if (cd .tools/containerd.new && apt-get download containerd runc && unpack_here ./*.deb); then
        mv .tools/containerd.new .tools/containerd
    else
        echo "skipped: containerd cannot be downloaded; its test will be skipped"
    fi
}

unpack_here() {
    local package
    for package in "$@"; do
        dpkg -x "$package" . && rm "$package" || return 1
    done
}
