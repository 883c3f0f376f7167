#!/bin/busybox sh
# The first process of the machine: runs the steps in /vm/steps, or has them run and
# becomes the command in /vm/init. To the console goes, between lines that begin with
# the mark, what each step prints, its exit code and the kernel's messages since the
# step before.
b=/bin/busybox
$b --install -s /bin
export PATH=/bin:/sbin HOME=/root TERM=dumb NO_COLOR=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
ip link set lo up
mark=$(cat /vm/mark)
# Not by the shell itself: the end of an orphan is a signal to it, and what its
# builtin printf is writing then is lost.
say() { $b printf '\n%s %s\n' "$mark" "$*"; }

steps() {
	say log boot
	dmesg -r -c
	for step in /vm/steps/*; do
		n=${step##*/}
		say begin "$n"
		cd /root
		timeout "$(cat /vm/limit)" sh "$step" 2>&1
		say end "$n" $?
		dmesg -r -c
	done
	say off
	poweroff -f
}

exec </dev/null >/dev/console 2>&1
if [ -s /vm/init ]; then
	steps &
	exec $(cat /vm/init)
fi
steps
