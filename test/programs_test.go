//go:build linux && amd64

package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"livepatch/internal/build"
	"livepatch/internal/pack"
	"livepatch/internal/process"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// program is a running program of testdata/binaries: one line in, one line out.
// It ends when its standard input does, at the latest with the test.
type program struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t testing.TB, path string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(path, args...)}
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { testkit.End(t, p.cmd) })
	return p
}

func (p *program) pid() int { return p.cmd.Process.Pid }

// ask sends a line and returns the answer.
func (p *program) ask(format string, args ...any) string {
	p.t.Helper()
	defer testkit.Bound(p.cmd)()
	line := fmt.Sprintf(format, args...)
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatalf("%s: %v", line, err)
	}
	answer, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%s: %v", line, err)
	}
	return strings.TrimSuffix(answer, "\n")
}

// expect asks and compares.
func (p *program) expect(line, want string) {
	p.t.Helper()
	if got := p.ask("%s", line); got != want {
		p.t.Errorf("%s: %q, want %q", line, got, want)
	}
}

// counters is testdata/src/counter.c in Go: one state, two versions.
type counters struct {
	ticks, seen, tickN, tockN uint64
	calls, odd                [4]uint64
	mood                      string
	fixed                     bool
}

func newCounters() *counters {
	return &counters{tickN: 100, tockN: 200, calls: [4]uint64{1, 2, 3, 4}, mood: "calm"}
}

func (c *counters) tick(slot uint64) uint64 {
	c.tickN++
	c.ticks++
	factor := uint64(1)
	if c.fixed {
		factor = 10
	}
	slot &= 3
	c.seen++
	c.calls[slot] += 2
	c.odd[slot] += c.calls[slot] & 1
	return c.seen + c.tickN*factor
}

func (c *counters) tock(slot uint64) uint64 {
	c.tockN += 2
	c.ticks++
	switch {
	case !c.fixed:
		return c.odd[slot&3] + c.ticks*c.tockN
	case slot > 3:
		return 0
	}
	return c.odd[slot] + c.ticks + c.tockN
}

func (c *counters) feel(limit uint64) string {
	if c.ticks > limit {
		c.mood = "busy"
		if c.fixed {
			c.mood = "hectic"
		}
	}
	return c.mood
}

// compare asks the program and the model the same questions.
func (c *counters) compare(p *program) {
	p.t.Helper()
	for slot := range uint64(6) {
		p.expect(fmt.Sprintf("tick %d", slot), fmt.Sprint(c.tick(slot)))
		p.expect(fmt.Sprintf("tock %d", slot), fmt.Sprint(c.tock(slot)))
	}
	p.expect("mood 1000000", c.mood)
	p.expect("mood 20", c.feel(20))
	p.expect("ticks", fmt.Sprint(c.ticks))
}

func binary(name string) string { return filepath.Join(binaries, name) }

// Static state keeps its value through apply and revert, in programs of every
// kind, with and without symbols, from both compilers.
func TestCountersCarryOn(t *testing.T) {
	for _, c := range []struct{ name, program, object string }{
		{"PIE", "x86_64-gcc/prog", "O2"},
		{"PIE, stripped", "x86_64-gcc/prog.stripped", "O2"},
		{"fixed address, stripped", "x86_64-gcc/prog.exec", "nopie"},
		{"clang, PIE", "x86_64-clang/prog", "O2"},
		{"clang, PIE, stripped", "x86_64-clang/prog.stripped", "O2"},
		{"clang, fixed address, stripped", "x86_64-clang/prog.exec", "nopie"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := binary(filepath.Dir(c.program))
			pkg := createPackage(t, "counters", binary(c.program), objectPair(dir, "counter."+c.object))
			p, model := start(t, binary(c.program), "4"), newCounters()
			model.compare(p)
			pages := executablePages(t, p.pid())
			for range 3 {
				apply(t, pkg, p)
				model.fixed = true
				model.compare(p)
				revert(t, "counters", p)
				model.fixed = false
				model.compare(p)
				comparePages(t, pages, executablePages(t, p.pid()))
			}
		})
	}
}

func apply(t testing.TB, pkg *pack.Package, programs ...*program) *process.Result {
	t.Helper()
	var pids []int
	for _, p := range programs {
		pids = append(pids, p.pid())
	}
	res, err := process.Apply(pids, pkg, process.Options{})
	if err != nil {
		t.Fatalf("apply: %v (%s)", err, process.StateOf(err))
	}
	return res
}

func revert(t testing.TB, name string, p *program) {
	t.Helper()
	if _, err := process.Revert(p.pid(), name, process.Options{}); err != nil {
		t.Fatalf("revert: %v (%s)", err, process.StateOf(err))
	}
}

// Pairs whose functions use switches, calls, pointers, new data and
// thread-local state.
func TestOtherPairs(t *testing.T) {
	type answer struct{ line, before, after string }
	for _, c := range []struct {
		object  string
		answers []answer
	}{
		{"switch.O2", []answer{
			{"jump 6 4", "1 7 -1", "1 2 -7"}, {"name 8", "inc", "xor"}, {"name 9", "?", "not"}, {"name 2", "mul", "mul"},
			{"value 1", "28", "29"}, {"goto 5", "-12", "-11"}, {"goto 0", "-2", "-1"},
		}},
		{"calls.O2", []answer{{"same", "1 1", "1 1"}, {"weight 3", "3", "3"}}},
		{"tls.O2", []answer{{"tls 0", "7", "7"}}},
	} {
		for _, prog := range []string{"x86_64-gcc/prog.stripped", "x86_64-clang/prog.stripped"} {
			t.Run(c.object+" "+filepath.Dir(prog), func(t *testing.T) {
				pkg := createPackage(t, "pair", binary(prog), objectPair(binary(filepath.Dir(prog)), c.object))
				p := start(t, binary(prog), "2")
				for range 2 {
					for _, a := range c.answers {
						p.expect(a.line, a.before)
					}
					apply(t, pkg, p)
					for _, a := range c.answers {
						p.expect(a.line, a.after)
					}
					revert(t, "pair", p)
				}
			})
		}
	}
}

// New functions and data come with the patch, and thread-local state is shared.
func TestNewStateAndThreadLocals(t *testing.T) {
	const prog = "x86_64-gcc/prog.stripped"
	dir := binary("x86_64-gcc")
	pkg := createPackage(t, "both", binary(prog), objectPair(dir, "calls.O2"), objectPair(dir, "tls.O2"))
	p := start(t, binary(prog))
	p.expect("sum 1 2", "19")  // (1+2+3)*3 ^ 1
	p.expect("tls 5", "12")    // 5 + 7
	p.expect("weight 10", "3") // from now on 10
	apply(t, pkg, p)
	p.expect("sum 1 2", "93")  // 63 + (5+1)+(7+2)+(11+3) ^ 1
	p.expect("sum 1 2", "100") // the new counter went on from 3: 63 + (5+4)+(7+5)+(11+6) ^ 1
	p.expect("tls 5", "1007")  // 10*100 + 7
	revert(t, "both", p)
	p.expect("sum 1 2", "61")
	p.expect("tls 5", "22")
}

// One library in two processes.
func TestSharedLibraryInTwoProcesses(t *testing.T) {
	const lib, prog = "x86_64-gcc/libcounter.so", "x86_64-gcc/libprog"
	pkg := createPackage(t, "library", binary(lib), objectPair(binary("x86_64-gcc"), "counter.pic"))
	a, b := start(t, binary(prog)), start(t, binary(prog))
	modelA, modelB := newCounters(), newCounters()
	modelA.compare(a)
	b.ask("ticks")
	apply(t, pkg, a, b)
	modelA.fixed, modelB.fixed = true, true
	modelA.compare(a)
	modelB.compare(b)
	revert(t, "library", a)
	modelA.fixed = false
	modelA.compare(a)
	modelB.compare(b)
	revert(t, "library", b)
	modelB.fixed = false
	modelB.compare(b)
}

func TestManyThreads(t *testing.T) {
	pkg := createPackage(t, "counters", binary("x86_64-gcc/prog"), objectPair(binary("x86_64-gcc"), "counter.O2"))
	p, model := start(t, binary("x86_64-gcc/prog"), "128"), newCounters()
	model.compare(p)
	res := apply(t, pkg, p)
	if n := res.Processes[0].Threads; n != 129 {
		t.Errorf("%d threads, want 129", n)
	}
	model.fixed = true
	model.compare(p)
	t.Logf("129 threads: paused for %v", res.Pause.Total)
	revert(t, "counters", p)
}

// A function of a C++ program that no exception crosses.
func TestCPlusPlus(t *testing.T) {
	dir := binary("x86_64-gcc")
	pkg := createPackage(t, "plain", binary("x86_64-gcc/except"), objectPair(dir, "except.O2"))
	p := start(t, binary("x86_64-gcc/except"))
	p.expect("plain 4", "9")
	p.expect("catch -3", "-3")
	apply(t, pkg, p)
	p.expect("plain 4", "1010")
	p.expect("catch -3", "-3")
	p.expect("catch 3", "9")
	p.expect("count", "2")
	revert(t, "plain", p)
	p.expect("plain 4", "11")
}

// One that catches what a function of the program throws, and cleans up.
func TestCatching(t *testing.T) {
	dir := binary("x86_64-gcc")
	pkg := createPackage(t, "catching", binary("x86_64-gcc/except"), [2]string{filepath.Join(dir, "except.O2.before.o"), filepath.Join(dir, "except.catch.after.o")})
	p := start(t, binary("x86_64-gcc/except"))
	p.expect("catch 3", "9")
	p.expect("catch -3", "-3")
	apply(t, pkg, p)
	p.expect("catch 3", "10")
	p.expect("catch -3", "-3")
	revert(t, "catching", p)
	p.expect("catch 3", "9")
	p.expect("catch -3", "-3")
}

// createError makes a package that must be refused.
func createError(t *testing.T, program string, pair [2]string) error {
	t.Helper()
	target := build.Target{Name: filepath.Base(program), File: openImage(t, program).File}
	target.Pairs = []build.Pair{{
		OrigName: filepath.Base(pair[0]), PatchedName: filepath.Base(pair[1]),
		Orig: openImage(t, pair[0]).File, Patched: openImage(t, pair[1]).File,
	}}
	_, err := build.Create(build.Inputs{Name: "refused", Version: "test", Targets: []build.Target{target}})
	if err == nil {
		t.Fatal("a package was made")
	}
	return err
}

func wantCode(t *testing.T, err error, want refusal.Code) {
	t.Helper()
	for _, r := range refusal.Of(err) {
		if r.Code == want {
			return
		}
	}
	t.Errorf("refused with %v, want the code %s", err, want)
}

func TestCreateRefuses(t *testing.T) {
	dir := binary("x86_64-gcc")
	for _, c := range []struct {
		name, program, before, after string
		want                         refusal.Code
	}{
		{"unrelated objects", "prog", "counter.O2.before.o", "switch.O2.after.o", refusal.ObjectsUnrelated},
		{"an object of another build", "prog", "counter.O0.before.o", "counter.O0.after.o", refusal.NotTheRunningCode},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := createError(t, filepath.Join(dir, c.program), [2]string{filepath.Join(dir, c.before), filepath.Join(dir, c.after)})
			wantCode(t, err, c.want)
		})
	}
}

// unchanged runs f, which must fail, and checks that the code did not change and the
// program works as before.
func unchanged(t *testing.T, p *program, f func() error) error {
	t.Helper()
	pages := executablePages(t, p.pid())
	err := f()
	if err == nil {
		t.Fatal("nothing was refused")
	}
	if s := process.StateOf(err); s != process.Unchanged {
		t.Errorf("%v: %s, want %s", err, s, process.Unchanged)
	}
	comparePages(t, pages, executablePages(t, p.pid()))
	return err
}

// A function that is never off the stack.
func TestBusy(t *testing.T) {
	pkg := createPackage(t, "busy", binary("x86_64-gcc/prog"), objectPair(binary("x86_64-gcc"), "busy.O2"))
	p, model := start(t, binary("x86_64-gcc/prog"), "3", "linger"), newCounters()
	for p.ask("turns") == "0" {
		time.Sleep(time.Millisecond)
	}
	err := unchanged(t, p, func() error {
		_, err := process.Apply([]int{p.pid()}, pkg, process.Options{Timeout: 300 * time.Millisecond})
		return err
	})
	var busy *process.BusyError
	if !errors.As(err, &busy) {
		t.Errorf("%v is no BusyError", err)
	}
	model.compare(p)
}

func TestApplyRefuses(t *testing.T) {
	dir := binary("x86_64-gcc")
	pkg := createPackage(t, "counters", binary("x86_64-gcc/prog"), objectPair(dir, "counter.O2"))
	applyTo := func(p *program) error {
		_, err := process.Apply([]int{p.pid()}, pkg, process.Options{Timeout: time.Second})
		return err
	}
	t.Run("another build", func(t *testing.T) {
		p := start(t, binary("x86_64-clang/prog"))
		p.ask("ticks")
		wantCode(t, unchanged(t, p, func() error { return applyTo(p) }), refusal.WrongTarget)
		newCounters().compare(p)
	})
	t.Run("a breakpoint in the site", func(t *testing.T) {
		p := start(t, binary("x86_64-gcc/prog"))
		p.ask("ticks")
		f := pkg.Manifest.Targets[0].Functions[0]
		old := poke(t, p, "prog", f.Site.Address, []byte{0xcc})
		wantCode(t, unchanged(t, p, func() error { return applyTo(p) }), refusal.SiteChanged)
		poke(t, p, "prog", f.Site.Address, old)
		newCounters().compare(p)
	})
	t.Run("applied twice", func(t *testing.T) {
		p, model := start(t, binary("x86_64-gcc/prog")), newCounters()
		model.compare(p)
		apply(t, pkg, p)
		wantCode(t, unchanged(t, p, func() error { return applyTo(p) }), refusal.AlreadyApplied)
		model.fixed = true
		model.compare(p)
	})
}

// A process that somebody traces already is left alone.
func TestTracedIsRefused(t *testing.T) {
	pkg := createPackage(t, "counters", binary("x86_64-gcc/prog"), objectPair(binary("x86_64-gcc"), "counter.O2"))
	p := start(t, binary("x86_64-gcc/prog"))
	p.ask("ticks")
	if got := startRole(t, true, "trace", strconv.Itoa(p.pid())); got != "traced" {
		t.Fatal(got)
	}
	wantCode(t, unchanged(t, p, func() error {
		_, err := process.Apply([]int{p.pid()}, pkg, process.Options{})
		return err
	}), refusal.AlreadyTraced)
	newCounters().compare(p)
}

// A program whose seccomp filter permits nothing is patched by those who may
// suspend the filter, and refused to others.
func TestStrictSeccomp(t *testing.T) {
	pkg := createPackage(t, "counters", binary("x86_64-gcc/prog"), objectPair(binary("x86_64-gcc"), "counter.O2"))
	b, err := pack.Write(pkg)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "counters.lpatch")
	if err := os.WriteFile(file, b, 0o666); err != nil {
		t.Fatal(err)
	}
	p, model := start(t, binary("x86_64-gcc/prog")), newCounters()
	p.ask("ticks") // the C library has set itself up
	p.expect("strict", "0")
	pages := executablePages(t, p.pid())
	if got, want := startRole(t, false, "apply", strconv.Itoa(p.pid()), file), "seccomp, nothing was changed"; got != want {
		t.Errorf("without privilege: %q, want %q", got, want)
	}
	comparePages(t, pages, executablePages(t, p.pid()))
	model.compare(p)
	if os.Geteuid() != 0 {
		t.Skip("suspending a filter needs root")
	}
	if got := startRole(t, true, "apply", strconv.Itoa(p.pid()), file); got != "patched" {
		t.Fatalf("with privilege: %s", got)
	}
	model.fixed = true
	model.compare(p)
}

// poke writes bytes at a link-time address of a file that a process runs and
// returns those that were there.
func poke(t *testing.T, p *program, file string, addr uint64, b []byte) []byte {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var base uint64
		if f := strings.Fields(line); len(f) < 6 || filepath.Base(f[5]) != file || f[2] != "00000000" {
			continue
		} else if _, err := fmt.Sscanf(f[0], "%x-", &base); err != nil {
			t.Fatal(err)
		}
		mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.pid()), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer mem.Close()
		old := make([]byte, len(b))
		if _, err := mem.ReadAt(old, int64(base+addr)); err != nil {
			t.Fatal(err)
		}
		if _, err := mem.WriteAt(b, int64(base+addr)); err != nil {
			t.Fatal(err)
		}
		return old
	}
	t.Fatalf("%s is not mapped", file)
	return nil
}
