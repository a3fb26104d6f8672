# etcd, for the test of a control plane of processes. Debian's package is
# unpacked below .tools: installing it would start a service on this machine.
# Without it that part of the test is skipped, and says so.

install_etcd() {
    [ -d .tools/etcd ] && return 0
    rm -rf .tools/etcd.new
    mkdir -p .tools/etcd.new
    if (cd .tools/etcd.new && apt-get download etcd-server && unpack_here ./*.deb); then
        mv .tools/etcd.new .tools/etcd
    else
        echo "etcd could not be had: its part of a test will be skipped."
    fi
}
