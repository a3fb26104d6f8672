# Helm's library, with which the tests render the chart. Without it they print
# `skipped:`.

install_helm_library() {
    [ -d .tools/helm ] && return 0
    rm -rf .tools/helm.new
    if python3 -m pip install --disable-pip-version-check --no-deps --require-hashes --target .tools/helm.new \
        --requirement tools/helm/requirements.txt; then
        mv .tools/helm.new .tools/helm
    else
        echo "skipped: Helm's library cannot be downloaded; the tests of the chart will be skipped"
    fi
}
