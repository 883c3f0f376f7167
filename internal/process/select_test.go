//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

func TestInUnit(t *testing.T) {
	for _, tc := range []struct {
		text, unit string
		want       bool
	}{
		{"0::/system.slice/nginx.service\n", "nginx.service", true},
		{"0::/system.slice/nginx.service/worker\n", "nginx.service", true},
		{"0::/user.slice/user-0.slice/session-1.scope\n", "nginx.service", false},
		{"0::/system.slice/nginx.service.d\n", "nginx.service", false},
		{"12:pids:/system.slice/nginx.service\n1:name=systemd:/system.slice/nginx.service\n", "nginx.service", true},
		{"12:pids:/nginx.service\n1:name=systemd:/\n0::/\n", "nginx.service", false}, // a controller's group of its own
		{"0::/system.slice/system-serial\\x2dgetty.slice/a:b.service\n", "a:b.service", true},
		{"", "nginx.service", false},
	} {
		if got := inUnit(tc.text, tc.unit); got != tc.want {
			t.Errorf("%q in %s: %v", tc.text, tc.unit, got)
		}
	}
}

// Processes that the selected ones start while they are looked at are found
// while those stand: all are changed, or none.
func TestForkWhilePatching(t *testing.T) {
	target, pkg := twoFunctions(t)
	s := start(t, target)
	other := start(t, target)
	belongs := Running(target)
	for range 3 {
		var started *running
		opt := Options{Belongs: belongs, Timeout: time.Minute, hook: func(at string) {
			if at == "mapped" && started == nil {
				started = start(t, target)
			}
		}}
		res, err := Apply(nil, pkg, opt)
		must(t, err)
		var pids []int
		for _, p := range res.Processes {
			pids = append(pids, p.PID)
		}
		for _, r := range []*running{s, other, started} {
			if !slices.Contains(pids, r.pid) {
				t.Errorf("process %d is not among %v", r.pid, pids)
			}
			wantCondition(t, r, "applied")
		}
		_, err = Remove(nil, Removal{All: true}, Options{Belongs: belongs, Timeout: time.Minute})
		must(t, err)
		testkit.End(t, started.cmd)
	}
}

// One of several processes refuses; none is changed. One fails while it is
// written; all are taken back.
func TestSeveralProcessesOrNone(t *testing.T) {
	target, pkg := twoFunctions(t)
	a, b := start(t, target), start(t, target)
	pids := []int{a.pid, b.pid}
	site := func(s *running) uint64 {
		p, err := open(s.pid)
		must(t, err)
		defer p.close()
		im, err := p.findImage(&pkg.Manifest.Targets[0])
		must(t, err)
		return im.Bias + pkg.Manifest.Targets[0].Writes[1].Address
	}
	pages := [2]string{text(t, a.pid), text(t, b.pid)}
	last := site(b)
	if a.pid > b.pid {
		last = site(a)
	}
	writes := 0
	_, err := Apply(pids, pkg, Options{fault: func(addr uint64) bool { writes++; return writes == 4 && addr == last }})
	if StateOf(err) != RolledBack {
		t.Fatalf("error %v, %s", err, StateOf(err))
	}
	if text(t, a.pid) != pages[0] || text(t, b.pid) != pages[1] {
		t.Error("executable pages differ")
	}
	for _, s := range []*running{a, b} {
		if x, y, _ := s.ask(); x != 2 || y != 3 {
			t.Errorf("answers %d, %d", x, y)
		}
	}
}

// A loader dies between the processes of one change. Repair of one tells of the
// other, and does the same in both.
func TestKilledBetweenProcesses(t *testing.T) {
	target, pkg := twoFunctions(t)
	for _, tc := range []struct {
		step string
		want string
	}{{"begun:1", "reverted"}, {"written:3", "reverted"}, {"committed:1", "applied"}} {
		a, b := start(t, target), start(t, target)
		killedAt(t, a, pkg, tc.step, fmt.Sprintf("LIVEPATCH_PID2=%d", b.pid))
		res, err := Repair([]int{a.pid}, 0, Options{})
		must(t, err)
		if len(res.Others) != 1 || res.Others[0] != b.pid {
			t.Errorf("%s: others %v, not %d", tc.step, res.Others, b.pid)
		}
		wantCondition(t, a, tc.want)
		_, err = Repair([]int{b.pid}, map[string]Remedy{"applied": RollBack, "reverted": Finish}[tc.want], Options{})
		wantCode(t, err, refusal.ChangeDivided)
		_, err = Repair([]int{b.pid}, 0, Options{})
		must(t, err)
		wantCondition(t, b, tc.want)
		for _, s := range []*running{a, b} {
			want := map[string]int{"reverted": 2, "applied": 1001}[conditions(t, s)[0]]
			if x, _, _ := s.ask(); x != want {
				t.Errorf("%s: answer %d of %s", tc.step, x, conditions(t, s)[0])
			}
		}
	}
}

// An executable and a library are patched as one: at any death of the loader
// both are old or both are new after the repair.
func TestTwoImagesOrNone(t *testing.T) {
	lib := compile(t, "libanswer.so", "-shared", "-fPIC", "libanswer.c")
	dir := filepath.Dir(lib)
	user := compile(t, "both", "-L"+dir, "-Wl,-rpath,"+dir, "both.c", "-lanswer")
	pkg := handMade(t, "both", user, compile(t, "fix.o", "-c", "-fPIE", "two_fix.c"), replaced{old: "second", new: "second_new"})
	other := handMade(t, "both", lib, compile(t, "fix.o", "-c", "-fPIC", "imports_fix.c"), replaced{old: "answer", new: "answer_new"})
	target := other.Manifest.Targets[0]
	target.Payload.Member = "payload/1.o"
	pkg.Manifest.Targets = append(pkg.Manifest.Targets, target)
	pkg.Members["payload/1.o"] = other.Members["payload/0.o"]
	for i, step := range []string{"begun:1", "written:1", "written:2", "committed:1"} {
		s := start(t, user)
		pages := text(t, s.pid)
		killedAt(t, s, pkg, step)
		have := conditions(t, s)
		if len(have) != 2 || have[0] != have[1] {
			t.Fatalf("%s: status %q", step, have)
		}
		_, err := Repair([]int{s.pid}, Remedy(1+i%2), Options{})
		must(t, err)
		want := []string{"applied", "reverted"}[i%2]
		wantCondition(t, s, want, want)
		if want == "applied" {
			_, err = Revert(s.pid, "both", Options{})
			must(t, err)
		}
		if text(t, s.pid) != pages {
			t.Errorf("%s: executable pages differ", step)
		}
	}
}
