# How the bootstrap talks: numbered steps with elapsed time, a log for each,
# and problems that say what to do. `cargo xtask` goes on in the same form.

steps_done=0
steps_total=0
logs=target/log

# stop PROBLEM NEXT_STEP: ends the run.
stop() {
    printf '\nStopped: %s.\n%s\n' "$1" "${2:-}" >&2
    exit 1
}

# step NAME COMMAND...: runs COMMAND with its output in a log.
step() {
    local name=$1 log started status ticker=''
    shift
    steps_done=$((steps_done + 1))
    mkdir -p "$logs"
    log=$logs/$steps_done-${name// /-}.log
    started=$SECONDS
    if [ -t 1 ]; then
        tick "$name" "$started" &
        ticker=$!
    fi
    # A subshell of its own, and not inside a condition: else `set -e` would
    # not hold in it.
    set +e
    (set -e && "$@") >"$log" 2>&1 </dev/null
    status=$?
    set -e
    [ -z "$ticker" ] || stop_ticking "$ticker"
    step_line "$name" "$started"
    [ $status -eq 0 ] || step_failed "$name" "$log"
}

tick() {
    while kill -0 $$ 2>/dev/null; do
        printf '\r%s' "$(step_line "$1" "$2")"
        sleep 0.2
    done
}

stop_ticking() {
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    printf '\r'
}

step_line() {
    local elapsed=$((SECONDS - $2))
    printf '[%d/%d] %s %d:%02d\n' "$steps_done" "$steps_total" "$1" $((elapsed / 60)) $((elapsed % 60))
}

step_failed() {
    printf '\n' >&2
    tail -n 25 "$2" >&2
    stop "the step '$1' failed" "The whole log: $top/$2"
}
