//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
)

// fire is a target with a function at each place in a line, and makes packages
// for some of them.
func fire(t testing.TB) (target string, pkg func(places ...int) *pack.Package) {
	t.Helper()
	target = compile(t, "fire", "-pthread", "fire.c")
	payload := compile(t, "fix.o", "-c", "-fPIE", "fire_fix.c")
	return target, func(places ...int) *pack.Package { return firePackage(t, target, payload, "fix", places) }
}

func firePackage(t testing.TB, target, payload, name string, places []int) *pack.Package {
	t.Helper()
	var list []replaced
	for _, k := range places {
		list = append(list, replaced{old: fmt.Sprintf("at_%d", k), new: fmt.Sprintf("at_%d_new", k)})
	}
	return handMade(t, name, target, payload, list...)
}

// upTo lists the numbers below n. The jump at place 60 of a line leaves it.
func upTo(n int) (list []int) {
	for k := range n {
		list = append(list, k)
	}
	return list
}

func int3Options(sync Sync) Options {
	return Options{Switch: SwitchInt3, Sync: sync, Timeout: time.Minute}
}

func revert(s *running, name string, opt Options) func() error {
	return func() error {
		_, err := Revert(s.pid, name, opt)
		return err
	}
}

// Functions at every place are patched and reverted while threads call them all
// the time: each call is old or new, and in the end memory is what it was.
func TestInt3UnderFire(t *testing.T) {
	rounds := 3 // of 120 places each
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		rounds = 100_000 / 120
	}
	target, pkgOf := fire(t)
	pkg := pkgOf(upTo(60)...)
	for _, sync := range []Sync{SyncInterrupt, SyncMembarrier} {
		for _, how := range []string{"", "stacks"} {
			t.Run(string(sync)+how, func(t *testing.T) {
				underFire(t, start(t, target, "3", how), pkg, int3Options(sync), rounds)
			})
		}
	}
}

func underFire(t *testing.T, s *running, pkg *pack.Package, opt Options, rounds int) {
	pages, maps := text(t, s.pid), 0
	_, calls, _ := s.ask()
	for i := range rounds {
		res, err := Apply([]int{s.pid}, pkg, opt)
		must(t, err)
		if res.Switch != SwitchInt3 || res.Sync != opt.Sync || len(res.Notes)+len(res.Forked) > 0 {
			t.Fatalf("%s, %s, notes %q, forked %v", res.Switch, res.Sync, res.Notes, res.Forked)
		}
		journalMatches(t, pkg, res.Processes[0].Images[0])
		if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
			t.Fatalf("round %d: answer %d, %d wrong", i, a, wrong)
		}
		must(t, revert(s, "fix", opt)())
		a, n, wrong := s.ask()
		if a != 2 || wrong != 0 || n <= calls {
			t.Fatalf("round %d: answer %d, %d wrong, %d calls", i, a, wrong, n-calls)
		}
		calls = n
		if now := mappings(t, s.pid); i == 0 {
			maps = now
		} else if now != maps {
			t.Fatalf("round %d: %d mappings, there were %d", i, now, maps)
		}
	}
	if text(t, s.pid) != pages {
		t.Error("executable pages differ after revert")
	}
	t.Logf("%d calls", calls)
}

func mappings(t *testing.T, pid int) int {
	t.Helper()
	return strings.Count(string(readFile(t, fmt.Sprintf("/proc/%d/maps", pid))), "\n")
}

// Bytes that lie in two lines need a stop, in both directions.
func TestInt3RefusesLines(t *testing.T) {
	target, pkgOf := fire(t)
	for k := 59; k < 64; k++ {
		s, pkg := start(t, target), pkgOf(k)
		if k == 59 {
			must(t, apply(s, pkg, int3Options(""))())
			continue
		}
		refused(t, s, refusal.NeedsStop, apply(s, pkg, int3Options("")))
		must(t, apply(s, pkg, Options{})())
		wantCode(t, revert(s, "fix", int3Options(""))(), refusal.NeedsStop)
		must(t, revert(s, "fix", Options{})())
	}
}

// What the target does about SIGTRAP decides; afterwards it does that again.
func TestInt3AndOwnHandlers(t *testing.T) {
	target, pkgOf := fire(t)
	pkg := pkgOf(upTo(4)...)
	for how, code := range map[string]refusal.Code{"blocked": refusal.SigtrapBlocked, "masked": refusal.SigtrapBlocked, "handler": refusal.SigtrapHandled} {
		s := start(t, target, "1", how)
		refused(t, s, code, apply(s, pkg, int3Options("")))
	}
	opt := int3Options("")
	opt.ChainSigtrap = true
	traps := 0
	s := start(t, target, "1", "handler")
	raise := func() {
		_, err := io.WriteString(s.in, "int3\n")
		must(t, err)
		s.line()
		_, err = io.WriteString(s.in, "traps\n")
		must(t, err)
		s.line()
		if traps++; s.line() != fmt.Sprint(traps) {
			t.Errorf("its handler was not called")
		}
	}
	raise()
	opt.hook = func(at string) {
		if strings.HasPrefix(at, "synchronised") {
			raise()
		}
	}
	for _, opt.Guard = range []bool{false, true} {
		must(t, apply(s, pkg, opt)())
		must(t, revert(s, "fix", opt)())
	}
	raise()
	if _, _, wrong := s.ask(); wrong != 0 || traps < 10 {
		t.Errorf("%d wrong, %d traps", wrong, traps)
	}
	s = start(t, target, "1", "ignore")
	must(t, apply(s, pkg, int3Options(""))())
	must(t, s.cmd.Process.Signal(unix.SIGTRAP))
	if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
		t.Errorf("answer %d, %d wrong", a, wrong)
	}
}

// A trap that is no breakpoint of ours ends the target as it always would.
func TestInt3LeavesDefault(t *testing.T) {
	target, pkgOf := fire(t)
	s := start(t, target, "1")
	opt := int3Options("")
	opt.hook = func(at string) {
		if at == "synchronised 1" {
			must(t, s.cmd.Process.Signal(unix.SIGTRAP))
			awaitEnd(t, s.pid)
		}
	}
	ends(t, "has ended", apply(s, pkgOf(0), opt))
	_ = s.cmd.Wait() // it tells what the state does
	if ws := s.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGTRAP {
		t.Errorf("it ended by %v", ws.Signal())
	}
}

func TestInt3UnderSeccomp(t *testing.T) {
	if why := cannotSuspendSeccomp(); why != "" {
		t.Skipf("a target under seccomp is refused for another reason here: %s", why)
	}
	target, pkg := serverAndFix(t, "strict.c")
	s := start(t, target)
	refused(t, s, refusal.NeedsStop, apply(s, pkg, int3Options("")))
}

// One process after another dies while it is patched.
func TestInt3TargetEnds(t *testing.T) {
	target, pkgOf := fire(t)
	for _, step := range []string{"handler", "begun", "round 1", "synchronised 1", "round 2", "synchronised 2", "round 3", "committed", "drained"} {
		s := start(t, target, "1")
		opt := int3Options("")
		opt.hook = func(at string) {
			if at == step {
				_ = unix.Kill(s.pid, unix.SIGKILL)
				awaitEnd(t, s.pid)
			}
		}
		if _, err := Apply([]int{s.pid}, pkgOf(0, 1), opt); step != "drained" && (err == nil || !strings.Contains(err.Error(), "has ended")) {
			t.Errorf("%s: %v", step, err)
		}
	}
}

// A write fails: all that was made is taken back while the threads run, the
// memory stays, for they may have come to it, and is used by the next apply.
func TestInt3RollsBack(t *testing.T) {
	target, pkgOf := fire(t)
	pkg := pkgOf(upTo(3)...)
	for fail := 1; fail <= 9; fail++ {
		s := start(t, target, "2")
		pages, n := text(t, s.pid), 0
		opt := int3Options("")
		opt.fault = func(uint64) bool { n++; return n == fail || n == fail+1 } // the second try, too
		_, err := Apply([]int{s.pid}, pkg, opt)
		if !errors.Is(err, errFault) || StateOf(err) != RolledBack {
			t.Fatalf("write %d: error %v, %s", fail, err, StateOf(err))
		}
		if text(t, s.pid) != pages {
			t.Errorf("write %d: executable pages have changed", fail)
		}
		wantCondition(t, s, "reverted")
		if a, _, wrong := s.ask(); a != 2 || wrong != 0 {
			t.Errorf("write %d: answer %d, %d wrong", fail, a, wrong)
		}
		opt.fault = nil
		must(t, apply(s, pkg, opt)())
		wantCondition(t, s, "applied")
		n, opt.fault = 0, func(uint64) bool { n++; return n == fail || n == fail+1 }
		if err := revert(s, "fix", opt)(); !errors.Is(err, errFault) || StateOf(err) != RolledBack {
			t.Fatalf("write %d: error %v, %s", fail, err, StateOf(err))
		}
		wantCondition(t, s, "applied")
		if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
			t.Errorf("write %d: answer %d, %d wrong", fail, a, wrong)
		}
		noHandlers(t, s)
	}
}

// One system call after another fails that a thread makes for a change: that is not
// made, or, if the call was to clear up, it is; another change is made then.
func TestCallsFail(t *testing.T) {
	target, pkgOf := fire(t)
	pkg := pkgOf(upTo(3)...)
	for _, way := range []Switch{SwitchStop, SwitchInt3} {
		for _, reverting := range []bool{false, true} {
			unmade, n := 0, 1
			for ; callFails(t, start(t, target, "1"), pkg, way, reverting, n, &unmade); n++ {
			}
			t.Logf("%s, reverting %v: %d calls, of which %d prevented the change", way, reverting, n-1, unmade)
			if way == SwitchInt3 && unmade == 0 || !reverting && unmade == 0 {
				t.Error("no call had to be made")
			}
		}
	}
}

// callFails reports whether a change makes n calls.
func callFails(t *testing.T, s *running, pkg *pack.Package, way Switch, reverting bool, n int, unmade *int) bool {
	t.Helper()
	do, undo, answer, other := apply, func(s *running, _ *pack.Package, opt Options) func() error { return revert(s, "fix", opt) }, 1001, 2
	plain := Options{Timeout: time.Minute}
	if reverting {
		must(t, apply(s, pkg, plain)())
		do, undo, answer, other = undo, do, other, answer
	}
	pages, calls := text(t, s.pid), 0
	err := do(s, pkg, Options{Switch: way, Timeout: time.Minute, refuse: func(uint64) bool { calls++; return calls == n }})()
	if state := StateOf(err); err != nil {
		if *unmade++; state != Unchanged && state != RolledBack || text(t, s.pid) != pages {
			t.Fatalf("%s, call %d: %v (%s)", way, n, err, state)
		}
		answer, undo = other, do
	}
	if a, _, wrong := s.ask(); a != answer || wrong != 0 {
		t.Fatalf("%s, call %d: error %v; answer %d, %d wrong", way, n, err, a, wrong)
	}
	if _, err := Repair([]int{s.pid}, 0, plain); err != nil { // takes out a handler that had to stay
		t.Fatal(err)
	}
	noHandlers(t, s)
	must(t, undo(s, pkg, plain)())
	if a, _, wrong := s.ask(); a != 1001+2-answer && err == nil || wrong != 0 {
		t.Fatalf("%s, call %d, then another change: answer %d, %d wrong", way, n, a, wrong)
	}
	return calls >= n
}

// serves makes sure that fire.c goes on with its calls and that none is wrong.
func (r *running) serves() {
	r.t.Helper()
	_, before, _ := r.ask()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		a, calls, wrong := r.ask()
		switch {
		case wrong != 0 || a != 2 && a != 1001:
			r.t.Fatalf("answer %d, %d wrong", a, wrong)
		case calls > before:
			return
		case time.Now().After(deadline):
			r.t.Fatal("no call returns any more")
		}
	}
}

func noHandlers(t *testing.T, s *running) {
	t.Helper()
	r, err := Status(s.pid)
	must(t, err)
	if r.Handlers != 0 {
		t.Errorf("%d handlers of breakpoints are left", r.Handlers)
	}
}

// The kernel may reserve writing to ptrace.
func TestInt3ThroughPtrace(t *testing.T) {
	target, pkgOf := fire(t)
	s, pkg := start(t, target, "2"), pkgOf(upTo(8)...)
	pages, opt := text(t, s.pid), int3Options("")
	opt.poke = true
	for range 2 {
		must(t, apply(s, pkg, opt)())
		if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
			t.Fatalf("answer %d, %d wrong", a, wrong)
		}
		must(t, revert(s, "fix", opt)())
	}
	if text(t, s.pid) != pages {
		t.Error("executable pages differ after revert")
	}
}

// One version takes the place of another; small functions are redirected through
// the filler before them.
func TestInt3Retargets(t *testing.T) {
	target := compile(t, "fire", "-pthread", "fire.c")
	first := firePackage(t, target, compile(t, "fix.o", "-c", "-fPIE", "fire_fix.c"), "first", upTo(20))
	second := firePackage(t, target, compile(t, "fix.o", "-c", "-fPIE", "-DADD=2000", "fire_fix.c"), "second", upTo(30))
	s := start(t, target, "2")
	pages := text(t, s.pid)
	must(t, apply(s, first, int3Options(""))())
	for range 3 {
		for i, pkg := range []*pack.Package{second, first} {
			_, err := Retarget([]int{s.pid}, pkg, int3Options(""))
			must(t, err)
			if a, _, wrong := s.ask(); a != 2001-1000*i || wrong != 0 {
				t.Fatalf("answer %d, %d wrong", a, wrong)
			}
		}
	}
	must(t, revert(s, "first", int3Options(""))())
	if text(t, s.pid) != pages {
		t.Error("executable pages differ after revert")
	}
}

// While breakpoints are in place no other loader begins a change or ends this one.
func TestInt3ExcludesOthers(t *testing.T) {
	target, pkgOf := fire(t)
	s, pkg, other := start(t, target, "1"), pkgOf(0, 1), pkgOf(2)
	other.Manifest.Name = "other"
	opt := int3Options("")
	tries := 0
	opt.hook = func(at string) {
		if at != "synchronised 1" && at != "handlers" {
			return
		}
		tries++
		soon := Options{Timeout: 20 * time.Millisecond}
		list := []func() error{func() error { _, err := Repair([]int{s.pid}, Finish, soon); return err }}
		if at != "handlers" {
			list = append(list, apply(s, other, soon), apply(s, other, Options{Timeout: soon.Timeout, Switch: SwitchInt3}))
		}
		for i, do := range list {
			if err := do(); !errors.As(err, new(*BusyError)) {
				t.Errorf("%s: %d: %v", at, i, err)
			}
		}
	}
	must(t, apply(s, pkg, opt)())
	must(t, apply(s, other, Options{})())
	wantCondition(t, s, "applied", "applied")
	if tries != 2 {
		t.Errorf("%d tries", tries)
	}
}

// A process that is forked while there are breakpoints has them, and the handler:
// it runs, and can be repaired either way.
func TestInt3Forks(t *testing.T) {
	target, pkgOf := fire(t)
	for _, step := range []string{"round 1", "synchronised 2", "round 3"} {
		for _, remedy := range []Remedy{Finish, RollBack} {
			s := start(t, target, "1")
			child := 0
			opt := int3Options("")
			opt.hook = func(at string) {
				if at == step && child == 0 {
					_, err := io.WriteString(s.in, "fork\n")
					must(t, err)
					_, err = fmt.Sscan(s.line(), &child)
					must(t, err)
					s.line()
				}
			}
			res, err := Apply([]int{s.pid}, pkgOf(upTo(5)...), opt)
			must(t, err)
			t.Cleanup(func() { _ = unix.Kill(child, unix.SIGKILL) })
			if !slices.Equal(res.Forked, []int{child}) {
				t.Fatalf("%s: forked %v, not %d", step, res.Forked, child)
			}
			time.Sleep(20 * time.Millisecond) // it meets the breakpoints
			c := &running{t: t, pid: child}
			if have := conditions(t, c); len(have) != 1 || !strings.HasPrefix(have[0], "changing") {
				t.Fatalf("status %q", have)
			}
			// The loader, which is this process, still lives; for the test it is
			// one that has died.
			forget(t, child)
			_, err = Repair([]int{child}, remedy, Options{Timeout: time.Minute})
			must(t, err)
			wantCondition(t, c, map[Remedy]string{Finish: "applied", RollBack: "reverted"}[remedy])
			noHandlers(t, c)
			if st, err := readStatus(fmt.Sprintf("/proc/%d/status", child)); err != nil || st.state == 'Z' {
				t.Errorf("%s: the child is in state %c, %v", step, st.state, err)
			}
		}
	}
}

// forget makes the records in a process those of another loader.
func forget(t *testing.T, pid int) {
	t.Helper()
	p, err := open(pid)
	must(t, err)
	defer p.close()
	p.disownTraps()
	for _, r := range p.patches.Records {
		r.Owner.PID, r.Owner.Start = 1, 0
		must(t, p.writeVerified(r.Control.Encode(), r.Base+32, nil))
	}
}

// The loader dies at each step. The target runs on, every call old or new, and
// another loader ends the change and takes the handler out.
func TestInt3LoaderDies(t *testing.T) {
	target, pkgOf := fire(t)
	pkg := pkgOf(upTo(3)...)
	loaderDies(t, target, pkg, []string{"handler:1", "handlers:1", "begun:1", "written:1", "round 1:1", "synchronised 1:1", "written:5", "round 2:1",
		"synchronised 2:1", "written:8", "round 3:1", "committed:1", "drained:1"})
}

func loaderDies(t *testing.T, target string, pkg *pack.Package, steps []string, env ...string) {
	for i, step := range steps {
		for _, reverting := range []bool{false, true} {
			t.Run(fmt.Sprint(step, reverting), func(t *testing.T) {
				s := start(t, target, "2")
				pages, maps := text(t, s.pid), 0
				more := append([]string{"LIVEPATCH_SWITCH=int3"}, env...)
				if reverting {
					must(t, apply(s, pkg, Options{Timeout: time.Minute})())
					maps = mappings(t, s.pid)
					more = append(more, dieReverting)
				}
				killedAt(t, s, pkg, step, more...)
				s.serves()
				remedy := Remedy(i % 3)
				res, err := Repair([]int{s.pid}, remedy, Options{Timeout: time.Minute})
				must(t, err)
				if len(res.Notes) > 0 {
					t.Errorf("notes %q", res.Notes)
				}
				noHandlers(t, s)
				if reverting && mappings(t, s.pid) != maps && step != "handler:1" {
					t.Errorf("%d mappings, there were %d", mappings(t, s.pid), maps)
				}
				_, _ = Revert(s.pid, "fix", Options{Timeout: time.Minute})
				if text(t, s.pid) != pages {
					t.Error("executable pages differ after revert")
				}
				must(t, apply(s, pkg, int3Options(""))())
				if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
					t.Errorf("answer %d, %d wrong", a, wrong)
				}
			})
		}
	}
}
