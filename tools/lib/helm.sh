# Helm's library, with which the tests render the chart. It is large and only
# they need it: without it they are skipped, and say so.

install_helm_library() {
    [ -d .tools/helm ] && return 0
    rm -rf .tools/helm.new
    if python3 -m pip install --disable-pip-version-check --no-deps --require-hashes --target .tools/helm.new \
        --requirement tools/helm/requirements.txt; then
        mv .tools/helm.new .tools/helm
    else
        echo "Helm's library could not be had: the chart's tests will be skipped."
    fi
}
