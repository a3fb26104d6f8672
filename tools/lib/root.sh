# Who runs what: cargo as the owner of the tree, apt and the lab as root.

am_root() { [ "$(id -u)" -eq 0 ]; }

may_become_root() { am_root || command -v sudo >/dev/null 2>&1; }

as_root() {
    if am_root; then "$@"; else sudo -n "$@"; fi
}

# `sudo make demo` in a user's tree: go back to being that user, so that cargo
# finds the user's toolchain and the tree stays the user's.
run_as_owner_of_tree() {
    local owner
    owner=$(stat -c %u "$top")
    am_root && [ "$owner" -ne 0 ] && [ "${SUDO_UID:-}" = "$owner" ] || return 0
    exec sudo -u "#$owner" -H --preserve-env=CI,PURE,NO_COLOR "$top/tools/bootstrap.sh" "$chore" "$@"
}

# Root in somebody else's tree (a container with a mounted folder): what was
# made here becomes the owner's.
give_tree_back() {
    local owner group
    [ -n "${sudo_keeper:-}" ] && kill "$sudo_keeper" 2>/dev/null
    owner=$(stat -c %u "$top") group=$(stat -c %g "$top")
    if am_root && [ "$owner" -ne 0 ]; then
        find "$top" -xdev -user 0 -exec chown -h "$owner:$group" {} +
    fi
    return 0
}

# Asks for the password once and keeps the answer valid during the build.
ask_for_root() {
    am_root && return 0
    if ! sudo -n true 2>/dev/null; then
        echo "Root is needed for ${root_reason}; cargo runs as $(id -un)."
        sudo -v || stop "sudo did not give root" "Run as root, or as a user who may use sudo."
    fi
    while sleep 50 && kill -0 $$ 2>/dev/null; do sudo -n true || exit 0; done </dev/null >/dev/null 2>&1 &
    sudo_keeper=$!
}
