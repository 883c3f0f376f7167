//go:build linux && amd64

package process

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
)

// killedAt starts a loader that dies at a step of an apply or a revert.
func killedAt(t *testing.T, s *running, pkg *pack.Package, step string, more ...string) {
	t.Helper()
	b, err := pack.Write(pkg)
	must(t, err)
	path := t.TempDir() + "/fix.lpatch"
	must(t, os.WriteFile(path, b, 0o600))
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "LIVEPATCH_DIE_AT="+step, "LIVEPATCH_PACKAGE="+path, "LIVEPATCH_PID="+strconv.Itoa(s.pid))
	cmd.Env = append(cmd.Env, more...)
	out, err := cmd.CombinedOutput()
	if ws, ok := cmd.ProcessState.Sys().(interface{ Signaled() bool }); !ok || !ws.Signaled() {
		t.Fatalf("the loader was to be killed: %v: %s", err, out)
	}
}

func wantCondition(t *testing.T, s *running, want ...string) {
	t.Helper()
	list, err := Status(s.pid)
	must(t, err)
	var have []string
	for i := range list {
		have = append(have, list[i].Report().Condition())
	}
	if len(have) != len(want) {
		t.Fatalf("status %q, want %q", have, want)
	}
	for i, w := range want {
		found := false
		for _, h := range have {
			found = found || h == w
		}
		if !found {
			t.Fatalf("status %q lacks %q", have, want[i])
		}
	}
}

// A loader is killed between two writes of a patch. The target runs a mixture,
// status says so, nothing is put on top, and revert takes it back.
func TestKilledBetweenWrites(t *testing.T) {
	target, pkg := twoFunctions(t)
	const revert = "LIVEPATCH_REVERT=1"
	for _, tc := range []struct {
		step    string
		more    []string
		applied bool // before
		state   string
		a, b    int
	}{
		{"mapped:1", nil, false, "preparing", 2, 3},
		{"written:1", nil, false, "interrupted 1 of 2", 1001, 3},
		{"written:2", nil, false, "interrupted 2 of 2", 1001, 2001},
		{"written:1", []string{revert}, true, "interrupted 1 of 2", 1001, 3},
		{"written:2", []string{revert}, true, "interrupted 0 of 2", 2, 3},
	} {
		t.Run(tc.state+strconv.FormatBool(tc.applied), func(t *testing.T) {
			s := start(t, target)
			pages := text(t, s.pid)
			if tc.applied {
				must(t, apply(s, pkg, Options{})())
			}
			killedAt(t, s, pkg, tc.step, tc.more...)
			wantCondition(t, s, tc.state)
			if a, b, _ := s.ask(); a != tc.a || b != tc.b {
				t.Fatalf("answers %d, %d", a, b)
			}
			if tc.state != "preparing" {
				wantCode(t, apply(s, pkg, Options{})(), refusal.AlreadyApplied)
				pkg.Manifest.Name = "other"
				wantCode(t, apply(s, pkg, Options{})(), refusal.FunctionClaimed)
				pkg.Manifest.Name = "fix"
			}
			_, err := Revert(s.pid, "fix", Options{DryRun: true})
			must(t, err)
			wantCondition(t, s, tc.state)
			_, err = Revert(s.pid, "fix", Options{})
			must(t, err)
			wantCondition(t, s, "reverted")
			if text(t, s.pid) != pages {
				t.Fatal("executable pages differ after revert")
			}
			if a, b, _ := s.ask(); a != 2 || b != 3 {
				t.Fatalf("answers %d, %d after revert", a, b)
			}
			_, err = Revert(s.pid, "fix", Options{})
			wantCode(t, err, refusal.NotApplied)
			must(t, apply(s, pkg, Options{})())
			wantCondition(t, s, "reverted", "applied")
			if a, b, _ := s.ask(); a != 1001 || b != 2001 {
				t.Fatalf("answers %d, %d at last", a, b)
			}
		})
	}
}

// A place that was overwritten by somebody else is not written back.
func TestRevertInterruptedAndOverwritten(t *testing.T) {
	target, pkg := twoFunctions(t)
	s := start(t, target)
	killedAt(t, s, pkg, "written:1")
	list, err := Status(s.pid)
	must(t, err)
	p, err := open(s.pid)
	must(t, err)
	defer p.close()
	must(t, p.writeMem([]byte{int3}, list[0].Writes[1].Addr, nil))
	wantCondition(t, s, "interrupted 1 of 2, 1 overwritten")
	pages := text(t, s.pid)
	_, err = Revert(s.pid, "fix", Options{})
	wantCode(t, err, refusal.SiteChanged)
	if text(t, s.pid) != pages || StateOf(err) != Unchanged {
		t.Error("something was written")
	}
	// A write that was cut between two pages is taken back whole.
	w := list[0].Writes[1]
	must(t, p.writeMem(append(append([]byte{}, w.New[:2]...), w.Old[2:]...), w.Addr, nil))
	wantCondition(t, s, "interrupted 2 of 2")
	_, err = Revert(s.pid, "fix", Options{})
	must(t, err)
	if a, b, _ := s.ask(); a != 2 || b != 3 {
		t.Errorf("answers %d, %d", a, b)
	}
}

// A patch that is being prepared by one loader is taken away by another: the
// first one writes nothing.
func TestRetiredMeanwhile(t *testing.T) {
	target, pkg := twoFunctions(t)
	s := start(t, target)
	pages := text(t, s.pid)
	opt := Options{hook: func(at string) {
		if at == "mapped" {
			wantCondition(t, s, "preparing")
			_, err := Revert(s.pid, "fix", Options{})
			must(t, err)
		}
	}}
	_, err := Apply([]int{s.pid}, pkg, opt)
	if err == nil || StateOf(err) != Unchanged || errors.As(err, new(*BusyError)) {
		t.Fatalf("error %v", err)
	}
	t.Log(err)
	if text(t, s.pid) != pages {
		t.Error("executable pages have changed")
	}
	wantCondition(t, s)
	must(t, apply(s, pkg, Options{})())
}
