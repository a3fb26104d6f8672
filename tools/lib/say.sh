# Output of the bootstrap: numbered steps with elapsed time and a log for each,
# and errors that say what to do. `cargo xtask` continues in the same form.

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
    local name=$1 log started status ticker
    shift
    steps_done=$((steps_done + 1))
    mkdir -p "$logs"
    log=$logs/$steps_done-${name// /-}.log
    started=$SECONDS
    tick "$name" "$started" "$log" &
    ticker=$!
    # In a subshell, and not in a condition, where `set -e` has no effect.
    set +e
    (set -e && "$@") >"$log" 2>&1 </dev/null
    status=$?
    set -e
    stop_ticking "$ticker"
    step_line "$name" "$started"
    [ $status -eq 0 ] || step_failed "$name" "$log"
}

# tick NAME STARTED LOG: on a terminal one line that is rewritten, else a line
# every quarter of a minute; with the last line of the log, which says what is
# being installed or compiled.
tick() {
    local interval=15 before='' after='\n'
    if [ -t 1 ]; then
        interval=0.5 before='\r' after='\033[K'
    fi
    while sleep $interval </dev/null >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        printf "$before%s%s$after" "$(step_line "$1" "$2")" "$(last_line "$3")"
    done
}

last_line() {
    local line
    line=$(tail -c 400 "$1" 2>/dev/null | tr '\r' '\n' | tr -cd '[:print:]\n' | sed 's/^ *//' | grep . | tail -n 1) || true
    printf '%s' "${line:+, ${line:0:60}}"
}

stop_ticking() {
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    [ ! -t 1 ] || printf '\r\033[K'
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
