//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// version makes version n of functions of steady.c.
func version(t *testing.T, target string, n int, functions ...string) *pack.Package {
	t.Helper()
	var list []replaced
	for _, f := range functions {
		list = append(list, replaced{old: f, new: f + "_new"})
	}
	fix := compile(t, "fix.o", "-c", "-fPIE", fmt.Sprintf("-DVERSION=%d", n), "steady_fix.c")
	return handMade(t, fmt.Sprintf("fix%d", n), target, fix, list...)
}

// on says that a package builds on another.
func on(t *testing.T, pkg, other *pack.Package) *pack.Package {
	t.Helper()
	sum, err := manifest.Digest(other.Manifest)
	must(t, err)
	pkg.Manifest.Requires = append(pkg.Manifest.Requires, manifest.Requirement{Name: other.Manifest.Name, SHA256: sum[:]})
	return pkg
}

// steady asks steady.c: the versions seen since the last question, by function.
func (r *running) steady() (a, b int) {
	r.t.Helper()
	c := crash{t: r.t.(*testing.T), s: r}
	return c.results()
}

// wantVersions expects that the functions are at versions, and nothing else.
func wantVersions(t *testing.T, s *running, a, b int) {
	t.Helper()
	s.steady()
	if x, y := s.steady(); x != 1<<a || y != 1<<b {
		t.Fatalf("results %b and %b, want versions %d and %d", x, y, a, b)
	}
}

func retarget(s *running, pkg *pack.Package, opt Options) (*Result, error) {
	return Retarget([]int{s.pid}, pkg, opt)
}

// stacks are the versions of both functions, as status tells.
func stacks(t *testing.T, s *running) map[string]string {
	t.Helper()
	status, err := Status(s.pid)
	must(t, err)
	out := map[string]string{}
	for _, r := range status.Patches {
		for _, f := range r.Functions {
			out[f.Name] = strings.Join(f.Versions, " ")
		}
	}
	return out
}

func TestVersions(t *testing.T) {
	target := compile(t, "steady", "-pthread", "steady.c")
	s := start(t, target)
	pages := text(t, s.pid)
	one := version(t, target, 1, "answer", "second")
	two := on(t, version(t, target, 2, "answer"), one)
	three := on(t, version(t, target, 3, "second", "answer"), two)
	other := version(t, target, 4, "second")

	wantCode(t, apply(s, two, Options{})(), refusal.RequirementMissing)
	must(t, apply(s, one, Options{})())
	err := apply(s, other, Options{})()
	wantCode(t, err, refusal.FunctionClaimed)
	if !strings.Contains(err.Error(), "fix1 has replaced second") || !strings.Contains(err.Error(), "fix4 does not") {
		t.Errorf("the conflict does not name both: %v", err)
	}
	res, err := Apply([]int{s.pid}, two, Options{})
	must(t, err)
	if j := res.Processes[0].Images[0].Journal; len(j) != 1 || !isJump(j[0].Old) || !isJump(j[0].New) {
		t.Errorf("the redirect was not used again: %+v", j)
	}
	wantVersions(t, s, 2, 1)
	must(t, apply(s, three, Options{})())
	wantVersions(t, s, 3, 3)
	if have := stacks(t, s); have["answer"] != "fix1 fix2 fix3" || have["second"] != "fix1 fix3" {
		t.Errorf("versions %v", have)
	}
	for _, name := range []string{"fix1", "fix2"} {
		_, err := Revert(s.pid, name, Options{})
		wantCode(t, err, refusal.BuiltUpon)
	}
	_, err = Remove([]int{s.pid}, Removal{To: "fix3"}, Options{})
	wantCode(t, err, refusal.NotApplied)
	_, err = Remove([]int{s.pid}, Removal{To: "fix9"}, Options{})
	wantCode(t, err, refusal.NotApplied)
	_, err = Revert(s.pid, "fix3", Options{})
	must(t, err)
	wantVersions(t, s, 2, 1)
	must(t, apply(s, three, Options{})())
	res, err = Remove([]int{s.pid}, Removal{To: "fix1"}, Options{})
	must(t, err)
	if !slices.Equal(res.Reverted, []string{"fix2", "fix3"}) {
		t.Errorf("reverted %v", res.Reverted)
	}
	wantVersions(t, s, 1, 1)
	must(t, apply(s, two, Options{})())
	res, err = Remove([]int{s.pid}, Removal{All: true}, Options{})
	must(t, err)
	if !slices.Equal(res.Unpatched, []string{"answer", "second"}) {
		t.Errorf("unpatched %v", res.Unpatched)
	}
	wantVersions(t, s, 0, 0)
	if text(t, s.pid) != pages {
		t.Error("executable pages differ")
	}
	_, err = Remove([]int{s.pid}, Removal{All: true}, Options{})
	wantCode(t, err, refusal.NotApplied)
}

// Threads call all the time while sets of patches take each other's place. Every
// result is that of the set before or after; never of the original, nor of any
// other version.
func TestRetarget(t *testing.T) {
	target := compile(t, "steady", "-pthread", "steady.c")
	s := start(t, target, "8")
	pages := text(t, s.pid)
	sets := []*pack.Package{
		version(t, target, 1, "answer", "second"),
		version(t, target, 2, "second", "answer"),
		handMade(t, "fix3", target, compile(t, "fix.o", "-c", "-fPIE", "-DVERSION=3", "steady_fix.c"),
			replaced{old: "answer", new: "answer_new", strategy: trampoline.Far}, replaced{old: "second", new: "second_new"}),
	}
	if _, err := retarget(s, sets[0], Options{Timeout: time.Minute}); err != nil { // nothing to replace
		t.Fatal(err)
	}
	wantVersions(t, s, 1, 1)
	was := 1
	for range 60 {
		next := 1 + was%3
		res, err := retarget(s, sets[next-1], Options{Timeout: time.Minute})
		must(t, err)
		if len(res.Reverted) != 1 || len(res.Unpatched) != 0 {
			t.Fatalf("result %+v", res)
		}
		a, b := s.steady()
		if allowed := 1<<was | 1<<next; (a|b)&^allowed != 0 {
			t.Fatalf("results %b and %b between versions %d and %d", a, b, was, next)
		}
		was = next
		_, _ = s.steady()
		if a, b := s.steady(); a != 1<<was || b != 1<<was {
			t.Fatalf("results %b and %b at version %d", a, b, was)
		}
	}
	if have := conditions(t, s); len(have) != 3 { // the memory of each is used again
		t.Errorf("%q", have)
	}
	_, err := retarget(s, sets[was-1], Options{})
	wantCode(t, err, refusal.AlreadyApplied)
	// To less than there was: the rest is the original again.
	res, err := retarget(s, version(t, target, 5, "answer"), Options{Timeout: time.Minute})
	must(t, err)
	if !slices.Equal(res.Unpatched, []string{"second"}) {
		t.Errorf("unpatched %v", res.Unpatched)
	}
	wantVersions(t, s, 5, 0)
	_, err = Remove([]int{s.pid}, Removal{All: true}, Options{Timeout: time.Minute})
	must(t, err)
	if text(t, s.pid) != pages {
		t.Error("executable pages differ")
	}
}

// A retarget of several patches that fails in the middle leaves all that there was.
func TestRetargetRollsBack(t *testing.T) {
	target := compile(t, "steady", "-pthread", "steady.c")
	s := start(t, target)
	one := version(t, target, 1, "answer", "second")
	must(t, apply(s, one, Options{})())
	must(t, apply(s, on(t, version(t, target, 2, "answer"), one), Options{})())
	pages := text(t, s.pid)
	n := 0
	_, err := retarget(s, version(t, target, 3, "answer", "second"), Options{fault: func(uint64) bool { n++; return n == 2 }})
	if StateOf(err) != RolledBack {
		t.Fatalf("error %v, %s", err, StateOf(err))
	}
	if text(t, s.pid) != pages {
		t.Error("executable pages differ")
	}
	wantCondition(t, s, "applied", "applied")
	wantVersions(t, s, 2, 1)
}

// Signals come as fast as they can be sent, to all threads, among them those that
// stop and continue the process, while patches come and go.
func TestSignalStorm(t *testing.T) {
	target := compile(t, "steady", "-pthread", "steady.c")
	s := start(t, target, "4")
	done, ended := make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			for _, sig := range []unix.Signal{unix.SIGWINCH, unix.SIGURG, unix.SIGCHLD} { // which programs ignore
				_ = unix.Kill(s.pid, sig)
			}
			if i%50 == 0 {
				_ = unix.Kill(s.pid, unix.SIGSTOP)
				_ = unix.Kill(s.pid, unix.SIGCONT)
			}
		}
	}()
	one, two := version(t, target, 1, "answer", "second"), version(t, target, 2, "answer", "second")
	for range 5 {
		must(t, apply(s, one, Options{Timeout: time.Minute})())
		wantVersions(t, s, 1, 1)
		_, err := retarget(s, two, Options{Timeout: time.Minute})
		must(t, err)
		wantVersions(t, s, 2, 2)
		_, err = Revert(s.pid, "fix2", Options{Timeout: time.Minute})
		must(t, err)
		wantVersions(t, s, 0, 0)
	}
	close(done)
	<-ended
	_ = unix.Kill(s.pid, unix.SIGCONT)
	wantVersions(t, s, 0, 0)
}
