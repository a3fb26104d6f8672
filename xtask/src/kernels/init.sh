#!/bin/sh
# The only process of the machine: mounts what every system has, runs the
# test programs one after the other, and switches off. What the tests print
# goes to the second serial port, each program's part under a line
# `=== NAME`, ended by `=== status NUMBER`.
export PATH=/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
stty -F /dev/ttyS1 raw
exec >/dev/ttyS1 2>&1 </dev/null
echo "=== release $(uname -r)"
cd /tmp
for list in /tests/*.list; do
    program=${list%.list}
    echo "=== $(basename "$program")"
    # One at a time: emulated, the machine has no time to spare.
    "$program" --test-threads=1 --show-output --exact $(cat "$list")
    echo "=== status $?"
done
echo "=== end"
# The port's buffer is emptied by an emulated clock.
sleep 1
poweroff -f
