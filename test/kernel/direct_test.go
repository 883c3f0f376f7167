package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"livepatch/internal/testkit/vm"
)

// TestDirect applies patches that do without the livepatch core: one is put on,
// a newer one takes its place while the function is called and the list of
// redirected functions is read all the time, and all is taken back. 6.1 is tried
// with LIVEPATCH_SLOW; TestDirectKernel in internal/kmod loads such modules there.
func TestDirect(t *testing.T) {
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			if v != "6.12" && os.Getenv("LIVEPATCH_SLOW") == "" {
				t.Skip("set LIVEPATCH_SLOW=1 for it")
			}
			k := fetched(t, v)
			s := k.session(t)
			s.config.Timeout, s.config.Limit = 20*time.Minute, 5*time.Minute
			pairs := map[string]string{}
			for _, c := range k.cases(t) {
				pairs[c.name] = c.pairs
			}
			dir := t.TempDir()
			for name, p := range map[string]struct{ pairs, flavour, dispatch string }{
				"one": {"changed-string", "direct", "direct"}, "two": {"new-global", "direct", "direct"}, "klp": {"changed-string", "auto", "direct"},
				"first": {"changed-string", "direct", "shared"}, "second": {"new-global", "direct", "shared"},
			} {
				file := filepath.Join(dir, name+".lpatch")
				if code, said := k.create(t, pairs[p.pairs], file, "--name", name, "--flavour", p.flavour, "--dispatch", p.dispatch); code != 0 {
					t.Fatalf("create %s: exit %d\n%s", name, code, said)
				}
				s.config.Files = append(s.config.Files, vm.File{Name: "/" + name + ".lpatch", From: file})
			}
			s.config.Files = append(s.config.Files, crossBuilt(t, dir, "amd64")...)
			s.doAll(directSteps)
			s.doAll(sharedSteps)
			s.run(t)
		})
	}
}

// A saying is a step with what it prints.
type saying struct {
	name, script string
	exit         int
	output       []string // patterns, see says
}

// doAll adds steps. The console is a terminal, on which progress is shown; a
// file is none.
func (s *session) doAll(steps []saying) {
	for _, step := range steps {
		s.do(step.name, "(\n"+step.script+"\n) >/tmp/out 2>&1; e=$?; cat /tmp/out; exit $e", says(step.exit, step.output...))
	}
}

// says is the check that a step ends with a code, prints lines that these
// patterns fit ("!": none fits), and the kernel does not complain.
func says(exit int, patterns ...string) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		quiet(exit)(t, r)
		for _, p := range patterns {
			none := p[0] == '!'
			if none {
				p = p[1:]
			}
			if regexp.MustCompile("(?m)"+p).MatchString(r.Output) == none {
				t.Errorf("printed\n%s\nwant %q (not: %t)", r.Output, p, none)
			}
		}
	}
}

// TestDirectARM64 does the same on Debian's unmodified kernel for arm64, which has
// no livepatch core, with patches that nobody wrote: functions that return an
// error at once.
func TestDirectARM64(t *testing.T) {
	k := &target{vm.Fetched(t, "--arch", "arm64", "6.12"), "6.12"}
	dir := t.TempDir()
	s := &session{target: k, config: vm.Config{Kernel: k.Kernel, Timeout: 20 * time.Minute, Limit: 5 * time.Minute, Files: crossBuilt(t, dir, "arm64")}}
	for name, args := range map[string][]string{
		"one": {"--return", "-EPERM", "cmdline_proc_show"}, "two": {"--return", "-EACCES", "cmdline_proc_show", "version_proc_show"},
		"late": {"--return", "-EPERM", "version_proc_show"}, "first": {"--return", "-EPERM", "--dispatch", "shared", "cmdline_proc_show", "version_proc_show"}, "second": {"--return", "-EACCES", "--dispatch", "shared", "cmdline_proc_show"},
	} {
		file := filepath.Join(dir, name+".lpatch")
		args = append(args, "--config", k.Path("config"), "--symvers", k.Path("headers/Module.symvers"))
		if code, said := k.stub(t, file, args...); code != 0 || !strings.Contains(said, ", direct calls\n") && !strings.Contains(said, ", one handler\n") {
			t.Fatalf("%s: exit %d:\n%s", name, code, said)
		}
		s.config.Files = append(s.config.Files, vm.File{Name: "/" + name + ".lpatch", From: file})
	}
	s.doAll(arm64Steps)
	s.doAll(arm64SharedSteps)
	s.run(t)
}

// crossBuilt builds the programs that steps use for a machine.
func crossBuilt(t testing.TB, dir, arch string) (files []vm.File) {
	t.Helper()
	for name, pkg := range map[string]string{"livepatch": "livepatch/cmd/livepatch", "probe": "./testdata/probe", "bpf": "livepatch/internal/klp/testdata/bpf"} {
		to := filepath.Join(dir, arch+"-"+name)
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", to, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", pkg, err, out)
		}
		files = append(files, vm.File{Name: "/bin/" + name, From: to})
	}
	return files
}

var arm64Steps = []saying{
	{"before", "livepatch status --kernel; livepatch conflicts /two.lpatch --kernel; livepatch verify /one.lpatch --running-kernel", 0, []string{
		`^no patches$`, `^no conflicts$`}},
	{"a place that is taken", `mkdir -p /tmp/two && tar xf /two.lpatch -C /tmp/two && cd /tmp/two/payload || exit 9
bpf fentry version_proc_show 0 >/tmp/bpf & p=$!; until grep -q attached /tmp/bpf; do sleep 0.1; done
livepatch apply /two.lpatch --kernel; insmod 1.ko && insmod 0.ko; grep -c ^livepatch_two /proc/modules
dmesg | grep -o 'livepatch_direct: .*'; cat /proc/cmdline; kill $p; rmmod livepatch_direct`, 0, []string{
		`^vmlinux: version_proc_show: .*EBUSY.*\[function-claimed\]$`, `^livepatch: nothing was changed$`, `^insmod: can't insert '0.ko': Device or resource busy$`, `^0$`,
		`^livepatch_direct: livepatch_two: version_proc_show cannot be redirected: error -16$`, `console=`}},
	{"a place that is taken unseen", unseen("version_proc_show", "/two.lpatch"), 0, []string{
		`^livepatch: error: load module livepatch_two: device or resource busy: `, `^kernel: livepatch_direct: livepatch_two: version_proc_show cannot be redirected: error -16$`, `^livepatch: nothing was changed$`, `^0$`}},
	{"apply", "livepatch apply /one.lpatch --kernel; cat /proc/cmdline", 1, []string{
		`patched 1 function of kernel \S+: new calls run the new code, those that run finish in the old$`, `^cat: read error: Operation not permitted$`}},
	{"retarget under load", `rm -f /tmp/stop
(n=0; while [ ! -e /tmp/stop ]; do read a </proc/cmdline && echo "unpatched: $a"; n=$((n+1)); done; echo "calls $n") >/tmp/calls 2>&1 &
(n=0; while [ ! -e /tmp/stop ]; do grep -q ^cmdline_proc_show /sys/kernel/tracing/enabled_functions || echo gone; n=$((n+1)); done; echo "looks $n") >/tmp/looks &
sleep 1; livepatch apply /two.lpatch --kernel; sleep 1; touch /tmp/stop; wait; cat /tmp/calls /tmp/looks; cat /proc/cmdline; cat /proc/version`, 1, []string{
		`livepatch_one was replaced and is retired`, `patched 2 functions`, `^calls [1-9]\d`, `^looks [1-9]`, `!unpatched`, `!gone`,
		`(?s)cat: read error: Permission denied\n.*cat: read error: Permission denied`}},
	{"status", "livepatch status --kernel", 0, []string{`^livepatch_one +retired`, `^livepatch_two +enabled +vmlinux +cmdline_proc_show version_proc_show$`}},
	{"revert", "livepatch revert two --kernel; grep -c console /proc/cmdline; grep -c Linux /proc/version", 0, []string{
		`livepatch_two is retired until the next boot`, `reverted 2 functions`, `^1\n1$`}},
	{"again", "livepatch apply /one.lpatch --kernel; cat /proc/cmdline; livepatch revert --all --kernel; grep -c console /proc/cmdline", 0, []string{
		`patched 1 function`, `Operation not permitted$`, `reverted 1 function`, `^1$`}},
	{"end", "livepatch status --kernel; grep -c . /sys/kernel/tracing/enabled_functions", 1, []string{`^livepatch_one +retired`, `^livepatch_two +retired`, `^0$`}},
}

// unseen is the script that has a function called directly by a BPF program and
// applies a package where ftrace's files are not there to tell of it.
func unseen(function, pkg string) string {
	return "bpf fentry " + function + ` 0 >/tmp/bpf & p=$!; until grep -q attached /tmp/bpf; do sleep 0.1; done
umount /sys/kernel/debug/tracing; umount /sys/kernel/tracing; umount /sys/kernel/debug
livepatch apply ` + pkg + ` --kernel
mount -t debugfs debugfs /sys/kernel/debug; mount -t tracefs tracefs /sys/kernel/tracing; kill $p; wait $p; grep -c '^livepatch_' /proc/modules; true`
}

// word is the first word that a function of /proc prints.
const word = "cut -d' ' -f1 /proc/loadavg | tr 0-9 '#'"

// directSteps are the life of two patches of one function, of which the second
// patches another one too.
var directSteps = []saying{
	{"a place that is taken", `mkdir -p /tmp/two && tar xf /two.lpatch -C /tmp/two && cd /tmp/two/payload || exit 9
livepatch apply /klp.lpatch --kernel; insmod 1.ko && insmod 0.ko
grep -c ^livepatch_two /proc/modules; cut -c1-4 /proc/uptime; dmesg | grep -o 'livepatch_direct: .*'
livepatch revert klp --kernel; rmmod livepatch_direct; grep -c . /sys/kernel/tracing/enabled_functions`, 1, []string{
		`^insmod: can't insert '0.ko': Device or resource busy$`, `^0$`, `!word`, `^livepatch_direct: livepatch_two: loadavg_proc_show cannot be redirected: error -16$`, `livepatch_klp was disabled`}},
	{"a place that is taken unseen", unseen("loadavg_proc_show", "/two.lpatch"), 0, []string{
		`^livepatch: error: load module livepatch_two: device or resource busy: `, `^kernel: livepatch_direct: livepatch_two: loadavg_proc_show cannot be redirected: error -16$`, `^livepatch: nothing was changed$`, `^0$`}},
	{"none", "livepatch status --kernel; livepatch conflicts /one.lpatch --kernel", 0, []string{`^no patches$`, `^no conflicts$`}},
	{"apply", "livepatch apply /one.lpatch --kernel; " + word, 0, []string{
		`^vmlinux: loadavg_proc_show$`, `patched 1 function of kernel \S+: new calls run the new code, those that run finish in the old$`, `^load$`}},
	{"status", "livepatch status --kernel", 0, []string{`^livepatch_one +enabled +vmlinux +loadavg_proc_show$`}},
	{"again", "livepatch apply /one.lpatch --kernel", 3, []string{`\[already-applied\]$`, `nothing was changed$`}},
	{"livepatch core", "livepatch conflicts /klp.lpatch --kernel; livepatch apply /klp.lpatch --kernel", 3, []string{
		`^vmlinux: loadavg_proc_show +blocks +livepatch_one: the livepatch core and a direct call cannot share a function`, `\[function-claimed\]$`, `nothing was changed$`}},
	{"retarget under load", `rm -f /tmp/stop
(n=0; while [ ! -e /tmp/stop ]; do read a </proc/loadavg; n=$((n+1)); case "$a" in load*|word*) ;; *) echo "unpatched: $a" ;; esac; done; echo "calls $n") >/tmp/calls &
(n=0; while [ ! -e /tmp/stop ]; do grep -q ^loadavg_proc_show /sys/kernel/tracing/enabled_functions || echo gone; n=$((n+1)); done; echo "looks $n") >/tmp/looks &
sleep 1; livepatch apply /two.lpatch --kernel; sleep 1; touch /tmp/stop; wait; cat /tmp/calls /tmp/looks
` + word + "; cut -c1-4 /proc/uptime", 0, []string{
		`livepatch_one was replaced and is retired`, `patched 2 functions`, `^calls [1-9]\d`, `^looks [1-9]`, `!unpatched`, `!gone`, `^word$`, `^word`}},
	{"both", "livepatch status --kernel --json", 0, []string{`"flavour": "direct"`, `"state": "retired"`, `"state": "enabled"`}},
	{"revert", "livepatch revert two --kernel; " + word + "; grep -c direct- /sys/kernel/tracing/enabled_functions; cut -c1-4 /proc/uptime", 0, []string{
		`livepatch_two is retired until the next boot`, `reverted 2 functions`, `^#`, `^0$`, `!word`}},
	{"again the first", "livepatch apply /one.lpatch --kernel; " + word, 0, []string{`patched 1 function`, `^load$`}},
	{"revert all", "livepatch revert --all --kernel; " + word + "; livepatch status --kernel", 0, []string{`reverted 1 function`, `^livepatch_one +retired`, `^livepatch_two +retired`}},
	{"through the core", "livepatch apply /klp.lpatch --kernel; livepatch conflicts /two.lpatch --kernel; livepatch apply /two.lpatch --kernel", 3, []string{
		`^vmlinux: loadavg_proc_show +blocks +livepatch_klp: `, `\[function-claimed\]$`, `nothing was changed$`}},
	{"end", "livepatch revert --all --kernel; " + word + "; grep -c . /sys/kernel/tracing/enabled_functions", 1, []string{`^#`, `^0$`}},
}
