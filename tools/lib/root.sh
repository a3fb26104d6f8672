# Users: cargo runs as the owner of the repository, apt and the lab as root.

am_root() { [ "$(id -u)" -eq 0 ]; }

may_become_root() { am_root || command -v sudo >/dev/null 2>&1; }

as_root() {
    if am_root; then "$@"; else sudo -n "$@"; fi
}

# `sudo make demo` in a user's repository: continues as that user, so that cargo
# finds the user's toolchain and new files belong to the user.
run_as_owner_of_tree() {
    local owner
    owner=$(stat -c %u "$top")
    am_root && [ "$owner" -ne 0 ] && [ "${SUDO_UID:-}" = "$owner" ] || return 0
    exec sudo -u "#$owner" -H --preserve-env=CI,PURE,NO_COLOR "$top/tools/bootstrap.sh" "$chore" "$@"
}

# Root in a user's repository (a container with a mounted folder): the files
# that root created are given to the owner.
restore_owner() {
    local owner group
    [ -n "${sudo_keeper:-}" ] && kill "$sudo_keeper" 2>/dev/null
    owner=$(stat -c %u "$top") group=$(stat -c %g "$top")
    if am_root && [ "$owner" -ne 0 ]; then
        find "$top" -xdev -user 0 -exec chown -h "$owner:$group" {} +
    fi
    return 0
}

# Asks for the password once and keeps sudo's credentials valid during the build.
ask_for_root() {
    am_root && return 0
    if ! sudo -n true 2>/dev/null; then
        echo "Root is needed for ${root_reason}; cargo runs as $(id -un)."
        sudo -v || stop "sudo was refused" "Run as root, or as a user who may use sudo."
    fi
    while sleep 50 && kill -0 $$ 2>/dev/null; do sudo -n true || exit 0; done </dev/null >/dev/null 2>&1 &
    sudo_keeper=$!
}
