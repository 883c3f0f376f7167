package kernel

// sharedSteps are the life of two patches of the shared dispatch, after that of
// directSteps, whose modules are there and retired.
var sharedSteps = []saying{
	{"shared: a place that is taken", `mkdir -p /tmp/first && tar xf /first.lpatch -C /tmp/first && cd /tmp/first/payload || exit 9
livepatch apply /klp.lpatch --kernel; livepatch apply /first.lpatch --kernel; insmod 0.ko
grep -c ^livepatch_first /proc/modules; dmesg | grep -o 'livepatch_direct: livepatch_first.*'; livepatch revert klp --kernel; grep -c . /sys/kernel/tracing/enabled_functions`, 1, []string{
		`^vmlinux: loadavg_proc_show: livepatch_klp: the livepatch core and the shared handler cannot share a function.*\[function-claimed\]$`, `^livepatch: nothing was changed$`,
		`^insmod: can't insert '0.ko': Device or resource busy$`, `^0$`, `^livepatch_direct: livepatch_first: loadavg_proc_show cannot be redirected: error -16$`}},
	{"shared: apply", "livepatch apply /first.lpatch --kernel; livepatch status --kernel; " + word + "; grep ^loadavg /sys/kernel/tracing/enabled_functions", 0, []string{
		`patched 1 function of kernel \S+: new calls run the new code`, `^livepatch_first +enabled, shared +vmlinux +loadavg_proc_show$`, `^load$`, ` I .*livepatch_shared`}},
	{"shared: beside others", "livepatch conflicts /klp.lpatch --kernel; livepatch apply /two.lpatch --kernel; echo 1 >/sys/module/livepatch_two/parameters/enabled; " + word, 0, []string{
		`^vmlinux: loadavg_proc_show +blocks +livepatch_first: the livepatch core and the shared handler cannot share`,
		`^vmlinux: loadavg_proc_show: livepatch_first: a direct call and the shared handler cannot share.*\[function-claimed\]$`, `Device or resource busy$`, `^load$`}},
	{"shared: retarget under load", `rm -f /tmp/stop
(n=0; while [ ! -e /tmp/stop ]; do read a </proc/loadavg; n=$((n+1)); case "$a" in load*|word*) ;; *) echo "unpatched: $a" ;; esac; done; echo "calls $n") >/tmp/calls &
(n=0; while [ ! -e /tmp/stop ]; do grep -q '^loadavg_proc_show.* I ' /sys/kernel/tracing/enabled_functions || echo gone; n=$((n+1)); done; echo "looks $n") >/tmp/looks &
sleep 1; livepatch apply /second.lpatch --kernel; sleep 1; touch /tmp/stop; wait; cat /tmp/calls /tmp/looks
` + word + "; cut -c1-4 /proc/uptime", 0, []string{
		`livepatch_first was replaced and is retired`, `patched 2 functions`, `^calls [1-9]\d`, `^looks [1-9]`, `!unpatched`, `!gone`, `^word$`, `^word`}},
	{"shared: back to the first", "livepatch apply /first.lpatch --kernel; " + word + "; cut -c1-4 /proc/uptime; livepatch status --kernel; livepatch conflicts /second.lpatch --kernel", 0, []string{
		`livepatch_second was replaced and is retired`, `^load$`, `!word`, `^livepatch_second +retired`}},
	{"shared: revert", "grep -c ' I ' /sys/kernel/tracing/enabled_functions; livepatch revert --all --kernel; " + word + "; grep -c . /sys/kernel/tracing/enabled_functions", 1, []string{
		`^1$`, `reverted 1 function`, `^#`, `^0$`}},
	{"shared: beside BPF", `bpf fentry loadavg_proc_show 0 >/tmp/bpf & p=$!; until grep -q attached /tmp/bpf; do sleep 0.1; done
livepatch conflicts /first.lpatch --kernel; livepatch apply /first.lpatch --kernel; ` + word + `; kill $p; wait $p 2>/dev/null; ` + word + `
bpf fexit loadavg_proc_show 0 >/tmp/bpf & p=$!; until grep -q attached /tmp/bpf; do sleep 0.1; done; ` + word + `; kill $p; livepatch revert first --kernel; ` + word, 0, []string{
		`patched 1 function`, `(?s)^load$.*^load$.*^load$`, `^#`}},
	{"shared: end", "livepatch status --kernel; grep -c . /sys/kernel/tracing/enabled_functions", 1, []string{`^livepatch_first +retired`, `^livepatch_second +retired`, `^0$`}},
}

// arm64SharedSteps are the same where there is no livepatch core.
var arm64SharedSteps = []saying{
	{"shared: a place that is taken", `livepatch apply /late.lpatch --kernel; livepatch apply /first.lpatch --kernel
mkdir -p /tmp/first && tar xf /first.lpatch -C /tmp/first && insmod /tmp/first/payload/0.ko
cat /proc/cmdline; dmesg | grep -o 'livepatch_direct: livepatch_first.*'; livepatch revert late --kernel; grep -c . /sys/kernel/tracing/enabled_functions`, 1, []string{
		`^vmlinux: version_proc_show: livepatch_late: .*\[function-claimed\]$`, `^insmod: can't insert '/tmp/first/payload/0.ko': Device or resource busy$`, `console=`,
		`^livepatch_direct: livepatch_first: version_proc_show cannot be redirected: error -16$`, `^0$`}},
	{"shared: apply", "livepatch apply /first.lpatch --kernel; livepatch status --kernel; cat /proc/cmdline; cat /proc/version; grep ^cmdline /sys/kernel/tracing/enabled_functions", 0, []string{
		`patched 2 functions`, `^livepatch_first +enabled, shared `, `(?s)Operation not permitted\n.*Operation not permitted\n`, ` I .*livepatch_shared`}},
	{"shared: beside others", "livepatch apply /one.lpatch --kernel; echo 1 >/sys/module/livepatch_one/parameters/enabled; cat /proc/cmdline", 1, []string{
		`^vmlinux: cmdline_proc_show: livepatch_first: a direct call and the shared handler cannot share.*\[function-claimed\]$`, `Device or resource busy$`, `Operation not permitted$`}},
	{"shared: retarget under load", `rm -f /tmp/stop
(n=0; while [ ! -e /tmp/stop ]; do read a </proc/cmdline && echo "unpatched: $a"; n=$((n+1)); done; echo "calls $n") >/tmp/calls 2>&1 &
(n=0; while [ ! -e /tmp/stop ]; do grep -q '^cmdline_proc_show.* I ' /sys/kernel/tracing/enabled_functions || echo gone; n=$((n+1)); done; echo "looks $n") >/tmp/looks &
sleep 1; livepatch apply /second.lpatch --kernel; sleep 1; touch /tmp/stop; wait; cat /tmp/calls /tmp/looks; cat /proc/cmdline; cat /proc/version`, 0, []string{
		`livepatch_first was replaced and is retired`, `patched 1 function`, `^calls [1-9]\d`, `^looks [1-9]`, `!unpatched`, `!gone`, `cat: read error: Permission denied`, `^Linux version`}},
	{"shared: a place that is kept", "grep ' I ' /sys/kernel/tracing/enabled_functions; livepatch conflicts /two.lpatch --kernel", 3, []string{
		`^version_proc_show .* I `, `^vmlinux: version_proc_show +blocks +livepatch_first: was taken back, but keeps its functions`}},
	{"shared: revert", "livepatch revert second --kernel; grep -c console /proc/cmdline; grep -c . /sys/kernel/tracing/enabled_functions", 1, []string{`reverted 1 function`, `^1$`, `^0$`}},
	{"shared: beside BPF", `for kind in fentry fexit; do echo $kind; bpf $kind cmdline_proc_show 0 >/tmp/bpf & p=$!; until grep -q attached /tmp/bpf; do sleep 0.1; done
livepatch conflicts /first.lpatch --kernel; livepatch apply /first.lpatch --kernel; cat /proc/cmdline; grep -A1 ^cmdline /sys/kernel/tracing/enabled_functions; kill $p; wait $p 2>/dev/null; livepatch revert first --kernel; done`, 0, []string{`(?s)fentry\n.*patched 2 functions.*Operation not permitted.*direct-->bpf.*fexit\n.*patched 2 functions.*Operation not permitted.*direct-->bpf`}},
	{"shared: end", "livepatch status --kernel; grep -c . /sys/kernel/tracing/enabled_functions", 1, []string{`^livepatch_first +retired`, `^livepatch_second +retired`, `^0$`}},
}
