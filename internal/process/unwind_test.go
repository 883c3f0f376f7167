//go:build linux && (amd64 || arm64)

package process

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// throwing builds the target of throwing.cc and a package that replaces its
// functions.
func throwing(t *testing.T, way trampoline.Dispatch, link []string, flags ...string) (target string, pkg *pack.Package) {
	t.Helper()
	object := func(name string, more ...string) string {
		return compile(t, name, append(append([]string{"-c"}, append(flags, more...)...), "throwing.cc")...)
	}
	before, after := object("before.o"), object("after.o", "-DFIXED")
	target = compile(t, "throwing", append(append([]string{}, link...), "-pthread", before, "-x", "none", "-lstdc++")...)
	return target, dispatched(t, way, "fix", target, before, after)
}

// sides makes sure that the target's functions are all of one side, and that what
// its threads saw was right.
func (r *running) sides(result int) {
	r.t.Helper()
	_, calls, _ := r.ask()
	time.Sleep(20 * time.Millisecond)
	if a, n, wrong := r.ask(); a != result || n <= calls || wrong != 0 {
		r.t.Fatalf("%d, %d calls after %d, %d wrong; want %d", a, n, calls, wrong, result)
	}
}

// What decide(2) throws, before and after.
const thrownOld, thrownNew = 100002, 101002

// Exceptions fly in, through and out of replacements while these come and go, in
// programs with a libgcc_s, with a copy of it, and with nothing but copies.
func TestExceptions(t *testing.T) {
	for _, tc := range []struct {
		name   string
		way    trampoline.Dispatch
		link   []string
		flags  []string
		rounds int
	}{
		{"direct", trampoline.Direct, nil, []string{"-fPIE"}, 3},
		{"gated", trampoline.Gated, nil, []string{"-fPIE", "-O1"}, 1},
		{"one handler", trampoline.Shared, nil, []string{"-fPIE"}, 1},
		{"slot", trampoline.Slot, nil, []string{"-fPIE", "-fpatchable-function-entry=16,11", "-falign-functions=16"}, 1},
		{"static", trampoline.Direct, []string{"-static"}, []string{"-fno-pie"}, 1},
	} {
		if tc.name == "static" && machine == elf.EM_AARCH64 {
			continue // a thread that does nothing but throw holds an address of a function in a register at nearly all times
		}
		t.Run(tc.name, func(t *testing.T) {
			target, pkg := throwing(t, tc.way, tc.link, tc.flags...)
			if u := pkg.Manifest.Targets[0].Unwind; u != manifest.UnwindNeeded {
				t.Fatalf("unwind is %q", u)
			}
			s := start(t, target, throwers)
			s.sides(thrownOld)
			for range tc.rounds {
				_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
				must(t, err)
				s.sides(thrownNew)
				if list := reports(t, s.pid); len(list) != 1 || list[0].Unwinding != "registered" {
					t.Fatalf("status %+v", list)
				}
				_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
				must(t, err)
				s.sides(thrownOld)
			}
		})
	}
}

// Without symbols nobody finds the unwinder of a static program.
func TestUnwinderNotFound(t *testing.T) {
	target, pkg := throwing(t, trampoline.Direct, []string{"-static"}, "-fno-pie")
	testkit.Run(t, "strip", target)
	s := start(t, target, "1")
	_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	wantCode(t, err, refusal.UnwindNeeded)
	s.sides(thrownOld)
}

// The loader is killed when it lets a thread tell the unwinder of the patch. The
// thread finishes what it was about, and another loader applies the patch.
func TestLoaderDiesTelling(t *testing.T) {
	target, pkg := throwing(t, trampoline.Direct, nil, "-fPIE")
	for _, step := range []string{"telling:1", "run:1", "sigreturn:2", "told:1"} {
		t.Run(step, func(t *testing.T) {
			s := start(t, target, "2")
			killedAt(t, s, pkg, step)
			s.sides(thrownOld)
			_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
			must(t, err)
			s.sides(thrownNew)
			_, err = Repair([]int{s.pid}, 0, Options{Timeout: time.Minute})
			must(t, err)
			_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
			must(t, err)
			s.sides(thrownOld)
		})
	}
}

// gdb unwinds through a replacement, and names it, with what Symbols returns.
func TestDebugger(t *testing.T) {
	gdb := testkit.Tool(t, "gdb")
	target, pkg := throwing(t, trampoline.Direct, nil, "-fPIE", "-fomit-frame-pointer")
	s := start(t, target)
	_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	must(t, err)
	list, err := Symbols(s.pid)
	must(t, err)
	if len(list) != 1 || list[0].Patch != "fix" || !slices.ContainsFunc(list[0].Functions, func(f Function) bool { return strings.Contains(f.Name, "added") }) {
		t.Fatalf("%+v", list)
	}
	file := filepath.Join(t.TempDir(), "fix.elf")
	must(t, os.WriteFile(file, list[0].Data, 0o600))
	_, err = io.WriteString(s.in, "s\n")
	must(t, err)
	var out []byte
	for asleep := false; !asleep; { // main has to come to its call
		time.Sleep(10 * time.Millisecond)
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", s.pid))
		must(t, err)
		asleep = strings.HasPrefix(string(b), fmt.Sprint(unix.SYS_CLOCK_NANOSLEEP)+" ")
	}
	cmd := exec.Command(gdb, "-nx", "-batch", "-p", strconv.Itoa(s.pid), "-ex", "set confirm off",
		"-ex", fmt.Sprintf("add-symbol-file %s %#x", file, list[0].Text), "-ex", "bt")
	out, err = cmd.CombinedOutput()
	must(t, err)
	at := -1
	for _, frame := range []string{"usleep", "stay", "main"} {
		i := strings.Index(string(out[max(at, 0):]), " "+frame+" (")
		if i < 0 {
			t.Fatalf("no frame of %s in its place:\n%s", frame, out)
		}
		at = max(at, 0) + i
	}
}

// perf names replacements by the map that the symbols command writes, and goes on
// through them by frame pointers. By unwind tables it does not: it reads those of
// files only.
func TestProfiler(t *testing.T) {
	perf := testkit.Tool(t, "perf")
	data := filepath.Join(t.TempDir(), "perf.data")
	record := func(mode string, args ...string) ([]byte, error) {
		return exec.Command(perf, append([]string{"record", "-q", "-o", data, "-e", "cpu-clock", "-F", "500", "--call-graph", mode}, args...)...).CombinedOutput()
	}
	if out, err := record("fp", "true"); err != nil {
		t.Skipf("this kernel does not let perf sample: %v\n%s", err, out)
	}
	object := func(name string, more ...string) string {
		return compile(t, name, append([]string{"-c", "-fPIE", "-fno-omit-frame-pointer"}, append(more, "profiled.c")...)...)
	}
	before, after := object("before.o"), object("after.o", "-DFIXED")
	target := compile(t, "profiled", before)
	s := start(t, target)
	// Gated, for it never leaves the old function for long.
	_, err := Apply([]int{s.pid}, dispatched(t, trampoline.Gated, "fix", target, before, after), Options{Timeout: time.Minute})
	must(t, err)
	list, err := Symbols(s.pid)
	must(t, err)
	path := fmt.Sprintf("/tmp/perf-%d.map", s.pid)
	var b strings.Builder
	for _, f := range list[0].Functions {
		fmt.Fprintf(&b, "%x %x %s\n", f.Address, f.Size, f.Name)
	}
	must(t, os.WriteFile(path, []byte(b.String()), 0o644))
	t.Cleanup(func() { os.Remove(path) })
	for mode, want := range map[string]string{"fp": "work", "dwarf,1024": ""} {
		above, tries := callersOf("answer ("+path+")", nil), 10 // a busy machine gives the target little time to be seen in
		for ; above[want] == 0 && tries > 0; tries-- {
			if out, err := record(mode, "-p", strconv.Itoa(s.pid), "--", "sleep", "1"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out, err := exec.Command(perf, "script", "-i", data, "-F", "ip,sym,dso").Output()
			must(t, err)
			above = callersOf("answer ("+path+")", out)
		}
		if above[want] == 0 || want == "" && len(above) > 1 {
			t.Errorf("--call-graph %s: callers of the replacement are %v, not %q", mode, above, want)
		}
	}
}

// callersOf counts the callers of a function in the chains that perf script prints;
// "" if a chain ends there.
func callersOf(function string, script []byte) map[string]int {
	callers := map[string]int{}
	for chain := range strings.SplitSeq(string(script), "\n\n") {
		frames := strings.Split(strings.TrimSpace(chain), "\n")
		for i, f := range frames {
			if !strings.HasSuffix(f, " "+function) {
				continue
			}
			caller := []string{"", ""}
			if i+1 < len(frames) {
				caller = strings.Fields(frames[i+1])
			}
			callers[caller[1]]++
		}
	}
	return callers
}
