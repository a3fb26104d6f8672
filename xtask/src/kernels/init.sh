#!/bin/sh
# The init process of the machine: mounts the usual file systems, runs the test
# programs one after the other and powers off. Their output goes to the second
# serial port: for each program a line `=== NAME`, its output, and a line
# `=== status NUMBER`.
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
    # One test at a time: an emulated machine is slow enough for timeouts.
    "$program" --test-threads=1 --show-output --exact $(cat "$list")
    echo "=== status $?"
done
echo "=== end"
# The serial port's buffer is drained by an emulated clock.
sleep 1
poweroff -f
