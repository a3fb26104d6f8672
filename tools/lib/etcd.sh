# etcd, for the test of a control plane of separate processes. Debian's package
# is unpacked in .tools: installing it would start a service on this machine.
# Without it that part of the test prints `skipped:`.

install_etcd() {
    [ -d .tools/etcd ] && return 0
    rm -rf .tools/etcd.new
    mkdir -p .tools/etcd.new
    if (cd .tools/etcd.new && apt-get download etcd-server && unpack_here ./*.deb); then
        mv .tools/etcd.new .tools/etcd
    else
        echo "skipped: etcd cannot be downloaded; its part of a test will be skipped"
    fi
}
