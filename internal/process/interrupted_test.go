//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
)

// killedAt starts a loader that dies at a step of an apply or a revert.
func killedAt(t *testing.T, s *running, pkg *pack.Package, step string, more ...string) {
	t.Helper()
	cmd := loader(t, s, pkg, append(more, "LIVEPATCH_DIE_AT="+step)...)
	out, err := cmd.CombinedOutput()
	if ws, ok := cmd.ProcessState.Sys().(interface{ Signaled() bool }); !ok || !ws.Signaled() {
		t.Fatalf("the loader was to be killed: %v: %s", err, out)
	}
}

// loader is another process that applies or reverts a package.
func loader(t testing.TB, s *running, pkg *pack.Package, env ...string) *exec.Cmd {
	t.Helper()
	b, err := pack.Write(pkg)
	must(t, err)
	path := t.TempDir() + "/fix.lpatch"
	must(t, os.WriteFile(path, b, 0o600))
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "LIVEPATCH_LOADER=1", "LIVEPATCH_PACKAGE="+path, "LIVEPATCH_PID="+strconv.Itoa(s.pid))
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// conditions are the states of all patches of a process, by age.
func conditions(t testing.TB, s *running) []string {
	t.Helper()
	status, err := Status(s.pid)
	must(t, err)
	var have []string
	for i := range status.Patches {
		have = append(have, status.Patches[i].Condition())
	}
	return have
}

func wantCondition(t testing.TB, s *running, want ...string) {
	t.Helper()
	have := conditions(t, s)
	if len(have) != len(want) {
		t.Fatalf("status %q, want %q", have, want)
	}
	for i, w := range want {
		if have[i] != w {
			t.Fatalf("status %q, want %q", have, want)
		}
	}
}

const dieReverting = "LIVEPATCH_DO=revert"

// A loader is killed between two writes of a patch. The target runs a mixture,
// status says so, nothing is put on top or taken away, and another loader
// finishes what was begun or takes it back.
func TestKilledBetweenWrites(t *testing.T) {
	target, pkg := twoFunctions(t)
	for _, tc := range []struct {
		step    string
		applied bool // before, and being reverted
		state   string
		a, b    int
		left    string // done without being told how
	}{
		{"begun:1", false, "interrupted 0 of 2", 2, 3, "reverted"},
		{"written:1", false, "interrupted 1 of 2", 1001, 3, "reverted"},
		{"written:2", false, "interrupted 2 of 2", 1001, 2001, "reverted"},
		{"committed:1", false, "interrupted 2 of 2", 1001, 2001, "applied"},
		{"begun:1", true, "interrupted 0 of 2", 1001, 2001, "applied"},
		{"written:1", true, "interrupted 1 of 2", 1001, 3, "applied"},
		{"written:2", true, "interrupted 2 of 2", 2, 3, "applied"},
		{"committed:1", true, "interrupted 2 of 2", 2, 3, "reverted"},
	} {
		for remedy, name := range []string{"", "finish", "rollback"} {
			t.Run(tc.step+strconv.FormatBool(tc.applied)+name, func(t *testing.T) {
				s := start(t, target)
				pages := text(t, s.pid)
				var more []string
				if tc.applied {
					must(t, apply(s, pkg, Options{})())
					more = []string{dieReverting}
				}
				killedAt(t, s, pkg, tc.step, more...)
				wantCondition(t, s, tc.state)
				if a, b, _ := s.ask(); a != tc.a || b != tc.b {
					t.Fatalf("answers %d, %d", a, b)
				}
				wantCode(t, apply(s, pkg, Options{})(), refusal.Interrupted)
				_, err := Revert(s.pid, "fix", Options{})
				wantCode(t, err, refusal.Interrupted)
				wantCondition(t, s, tc.state)

				left := tc.left
				if remedy != 0 {
					left = map[bool]string{true: "applied", false: "reverted"}[(Remedy(remedy) == Finish) != tc.applied]
				}
				res, err := Repair([]int{s.pid}, Remedy(remedy), Options{DryRun: true})
				must(t, err)
				wantCondition(t, s, tc.state)
				t.Logf("%+v", res)
				_, err = Repair([]int{s.pid}, Remedy(remedy), Options{})
				must(t, err)
				wantCondition(t, s, left)
				again, err := Repair([]int{s.pid}, 0, Options{})
				must(t, err)
				if again.Processes[0].Did != DidNothing {
					t.Errorf("repaired again: %+v", again)
				}
				if left == "applied" {
					_, err = Revert(s.pid, "fix", Options{})
					must(t, err)
				}
				if text(t, s.pid) != pages {
					t.Fatal("executable pages differ after revert")
				}
				if a, b, _ := s.ask(); a != 2 || b != 3 {
					t.Fatalf("answers %d, %d after revert", a, b)
				}
				must(t, apply(s, pkg, Options{})())
				wantCondition(t, s, "applied") // in the same memory
				if a, b, _ := s.ask(); a != 1001 || b != 2001 {
					t.Fatalf("answers %d, %d at last", a, b)
				}
			})
		}
	}
}

// A loader that is killed before its first write leaves memory that does
// nothing. It can be retired, and is used again.
func TestKilledPreparing(t *testing.T) {
	target, pkg := twoFunctions(t)
	for _, repair := range []bool{false, true} {
		s := start(t, target)
		killedAt(t, s, pkg, "mapped:1")
		wantCondition(t, s, "preparing")
		_, err := Revert(s.pid, "fix", Options{})
		wantCode(t, err, refusal.NotApplied)
		if repair {
			res, err := Repair([]int{s.pid}, 0, Options{})
			must(t, err)
			if len(res.Processes) != 1 || res.Processes[0].Did != DidRetire {
				t.Errorf("repaired %+v", res)
			}
			wantCondition(t, s, "reverted")
		}
		must(t, apply(s, pkg, Options{})())
		wantCondition(t, s, "applied")
		if a, b, _ := s.ask(); a != 1001 || b != 2001 {
			t.Errorf("answers %d, %d", a, b)
		}
	}
}

// A place that was overwritten by somebody else is not written back.
func TestRepairOverwritten(t *testing.T) {
	target, pkg := twoFunctions(t)
	s := start(t, target)
	killedAt(t, s, pkg, "written:1")
	p, err := open(s.pid)
	must(t, err)
	defer p.close()
	w := p.patches.Pending.Places[1]
	must(t, p.writeMem(breakpointCode(), w.Addr, nil))
	wantCondition(t, s, "interrupted 1 of 2, 1 overwritten")
	pages := text(t, s.pid)
	for _, remedy := range []Remedy{Finish, RollBack} {
		_, err = Repair([]int{s.pid}, remedy, Options{})
		wantCode(t, err, refusal.SiteChanged)
		if text(t, s.pid) != pages || StateOf(err) != Unchanged {
			t.Error("something was written")
		}
	}
	// A write that was cut between two pages is taken back whole.
	must(t, p.writeMem(append(append([]byte{}, w.New[:2]...), w.Old[2:]...), w.Addr, nil))
	wantCondition(t, s, "interrupted 2 of 2")
	_, err = Repair([]int{s.pid}, RollBack, Options{})
	must(t, err)
	if a, b, _ := s.ask(); a != 2 || b != 3 {
		t.Errorf("answers %d, %d", a, b)
	}
}

// A repair that cannot be made leaves what it found, to be repaired.
func TestRepairFails(t *testing.T) {
	target, pkg := twoFunctions(t)
	s := start(t, target)
	killedAt(t, s, pkg, "written:1")
	pages := text(t, s.pid)
	for _, remedy := range []Remedy{Finish, RollBack} {
		_, err := Repair([]int{s.pid}, remedy, Options{fault: func(uint64) bool { return true }})
		if !errors.Is(err, errFault) || StateOf(err) != RolledBack {
			t.Fatalf("error %v, %s", err, StateOf(err))
		}
		wantCondition(t, s, "interrupted 1 of 2")
		if text(t, s.pid) != pages {
			t.Error("something was written")
		}
	}
	_, err := Repair([]int{s.pid}, Finish, Options{})
	must(t, err)
	wantCondition(t, s, "applied")
}

// A package is applied by another loader while this one prepares: this one finds
// that out while everything stands, begins anew, and is refused.
func TestAppliedMeanwhile(t *testing.T) {
	target, pkg := twoFunctions(t)
	s := start(t, target)
	n := 0
	opt := Options{hook: func(at string) {
		if n++; at == "mapped" {
			wantCondition(t, s, "preparing")
			out, err := loader(t, s, pkg).CombinedOutput()
			if err != nil {
				t.Errorf("the other loader: %v: %s", err, out)
			}
		}
	}}
	_, err := Apply([]int{s.pid}, pkg, opt)
	wantCode(t, err, refusal.AlreadyApplied)
	wantCondition(t, s, "applied")
	if a, b, _ := s.ask(); a != 1001 || b != 2001 {
		t.Errorf("answers %d, %d", a, b)
	}
}

// While one loader holds the target, another one waits for its turn.
func TestTwoLoaders(t *testing.T) {
	target, pkg := twoFunctions(t)
	s := start(t, target)
	var other *exec.Cmd
	opt := Options{hook: func(at string) {
		if at == "written" && other == nil {
			other = loader(t, s, pkg)
			must(t, other.Start())
			time.Sleep(20 * time.Millisecond) // it finds the target held
		}
	}}
	_, err := Apply([]int{s.pid}, pkg, opt)
	must(t, err)
	if err := other.Wait(); err == nil {
		t.Error("the other loader applied the patch, too")
	}
	wantCondition(t, s, "applied")
}
