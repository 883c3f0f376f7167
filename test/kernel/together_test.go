package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/pack"
	"livepatch/internal/testkit/vm"
)

// makeOne makes the package of a case under another name.
func (k *target) makeOne(t *testing.T, name, as string, more ...string) vm.File {
	t.Helper()
	for _, c := range k.cases(t) {
		if c.name != name {
			continue
		}
		out := filepath.Join(t.TempDir(), as+".lpatch")
		if code, said := k.create(t, c.pairs, out, more...); code != 0 {
			t.Fatalf("create %s: exit %d:\n%s", name, code, said)
		}
		return vm.File{Name: "/" + as + ".lpatch", From: out}
	}
	t.Fatalf("no case %s", name)
	return vm.File{}
}

// moduleOf is the module of a package of that name.
func moduleOf(name string) string { return "livepatch_" + name }

func applied(name string) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		if r.Exit != 0 {
			t.Errorf("exit %d", r.Exit)
		}
		transition(t, r.Log, moduleOf(name), logApply, "")
	}
}

func reverted(name string) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		if r.Exit != 0 {
			t.Errorf("exit %d", r.Exit)
		}
		transition(t, r.Log, moduleOf(name), logRevert, "")
	}
}

// refused is the check that a step ends with 3, says why and what became of the
// kernel, and that the kernel noticed nothing.
func refused(words ...string) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		if r.Exit != 3 {
			t.Errorf("exit %d, want 3", r.Exit)
		}
		for _, w := range append(words, "nothing was changed") {
			if !strings.Contains(r.Output, w) {
				t.Errorf("it does not say %q", w)
			}
		}
		logged(t, r.Log, "")
	}
}

// TestTogether loads several patches: two at once, one that conflicts with them,
// one for another kernel, and one that takes the place of all.
func TestTogether(t *testing.T) {
	for i, v := range versions {
		t.Run(v, func(t *testing.T) {
			k, other := fetched(t, v), fetched(t, versions[(i+1)%len(versions)])
			s := k.session(t)
			s.config.Files = append(s.config.Files,
				k.makeOne(t, "changed-string", "first", "--no-replace"),
				k.makeOne(t, "function-pointer", "second", "--no-replace"),
				k.makeOne(t, "new-global", "third", "--no-replace"),
				k.makeOne(t, "new-global", "all"),
				other.makeOne(t, "new-static", "wrong"))
			const look = "cut -d' ' -f1 /proc/loadavg | tr -s 0-9 '#'; cut -d' ' -f1 /proc/version | sed s/second/first/; cut -d' ' -f1 /proc/uptime | tr -s 0-9 '#'\n"
			none, two, all := "#.#\nLinux\n#.#\n", "load\nfirst\n#.#\n", "word\nLinux\nword\n"
			s.do("wrong kernel", "livepatch apply /wrong.lpatch --kernel", refused(other.Release, k.Release))
			s.do("before", look, printed(none, ""))
			s.do("first", "livepatch apply /first.lpatch --kernel", applied("first"))
			s.do("second", "livepatch apply /second.lpatch --kernel", applied("second"))
			s.do("two", look, printed(two, ""))
			s.do("status of two", "livepatch status --kernel", mentions("first", "second", "loadavg_proc_show", "version_proc_show"))
			s.do("conflict", "livepatch apply /third.lpatch --kernel", refused("first", "loadavg_proc_show"))
			s.do("still two", look, printed(two, ""))
			s.do("replace", "livepatch apply /all.lpatch --kernel", applied("all"))
			s.do("all", look, printed(all, ""))
			s.do("status of all", "livepatch status --kernel; cat /sys/kernel/livepatch/*/enabled; ls /sys/kernel/livepatch", mentions("all", "uptime_proc_show", "1\nlivepatch_all\n"))
			s.do("revert", "livepatch revert all --kernel", reverted("all"))
			s.do("reverted", look, printed(none, ""))
			s.do("unload", "for m in livepatch_first livepatch_second; do [ ! -e /sys/module/$m ] || livepatch revert $m --kernel || rmmod $m; done; grep -c '^livepatch_' /proc/modules", func(t *testing.T, r *vm.StepResult) {
				if !strings.HasSuffix(strings.TrimSpace(r.Output), "0") {
					t.Error("modules are left")
				}
				logged(t, r.Log, "")
			})
			s.run(t)
		})
	}
}

// TestSignatureEnforced boots kernels that load signed modules only: that is said
// before anything is tried.
func TestSignatureEnforced(t *testing.T) {
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			k := fetched(t, v)
			s := k.session(t)
			s.config.Append = "module.sig_enforce=1"
			s.config.Files = append(s.config.Files, k.makeOne(t, "changed-string", "unsigned"))
			s.do("apply", "livepatch apply /unsigned.lpatch --kernel", refused("sign"))
			s.do("not loaded", "cat /proc/modules; ls /sys/kernel/livepatch", printed("", ""))
			s.run(t)
		})
	}
}

// TestCycles loads and unloads a patch again and again while its functions are in use:
// five times, fifty where LIVEPATCH_SLOW is set.
func TestCycles(t *testing.T) {
	cycles := 5
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		cycles = 50
	}
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			k := fetched(t, v)
			file, err := os.ReadFile(k.makeOne(t, "jump-label", "cycle").From)
			if err != nil {
				t.Fatal(err)
			}
			p, err := pack.Read(file)
			if err != nil {
				t.Fatal(err)
			}
			s := k.session(t)
			s.config.Limit = s.config.Timeout
			// Newer kernels rewrite each cond_resched when a transition begins and ask all
			// other processors to notice; busy ones that are emulated in turn take minutes.
			s.config.CPUs = 1
			s.config.Files = append(s.config.Files, vm.File{Name: "/cycle.ko", Data: p.Members[p.Manifest.Kernel.Payload.Member]})
			script := fmt.Sprintf(cyclesScript, cycles)
			s.do("cycles", script, func(t *testing.T, r *vm.StepResult) {
				if want := fmt.Sprintf("%d cycles\n", cycles); r.Exit != 0 || !strings.HasSuffix(r.Output, want) {
					t.Errorf("exit %d, want 0 after %q", r.Exit, want)
				}
				log := strings.Repeat(strings.ReplaceAll(logApply+logRevert, "NAME", moduleOf("cycle")), cycles)
				var rest []vm.Line
				for _, l := range r.Log {
					if !strings.HasPrefix(l.Text, moduleOf("cycle")+": ") {
						rest = append(rest, l)
					}
				}
				logged(t, rest, log)
			})
			s.run(t)
		})
	}
}

// cyclesScript keeps the patched function busy in several processes and counts the
// cycles.
const cyclesScript = `
for i in 1 2 3; do
	while :; do dd if=/dev/urandom of=/dev/null bs=7 count=2000 2>/dev/null; dd if=/dev/urandom of=/dev/null bs=100000 count=1 2>/dev/null; done &
done
p=/sys/kernel/livepatch/livepatch_cycle
n=0
while [ $n -lt %d ]; do
	insmod /cycle.ko || exit
	until [ "$(cat $p/transition)" = 0 ]; do usleep 50000; done
	[ $(dd if=/dev/urandom bs=7 count=1 2>/dev/null | grep -c ready-7) = 1 ] || exit
	echo 0 >$p/enabled
	while [ -e $p ]; do usleep 50000; done
	until rmmod livepatch_cycle 2>/dev/null; do usleep 50000; done
	n=$((n+1))
done
kill $(jobs -p)
echo $n cycles
`
