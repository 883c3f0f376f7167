//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"
)

// Processes that are chosen by what they run fork and die faster than one of them
// can be patched. They change together: from the end of the change on, none of them
// is told the old answer, and none has more than the one patch.
func TestBreeders(t *testing.T) {
	target, pkg := disturbed(t, "breeder.c")
	opt := Options{Belongs: Running(target), Timeout: time.Minute, MaxPause: time.Minute}
	for _, pause := range []string{"20000", "1000"} {
		t.Run(pause, func(t *testing.T) {
			s := start(t, target, pause, "6")
			for range 3 {
				_, before, _ := s.due(0)
				res, err := Apply(nil, pkg, opt)
				must(t, err)
				_, born, wrong := s.due(1001)
				if wrong != 0 || len(res.Processes) < 2 {
					t.Fatalf("%d processes, %d answers wrong", len(res.Processes), wrong)
				}
				t.Logf("%d processes in %d tries and %v, %d children meanwhile", len(res.Processes), res.Attempts, res.Pause.Total, born-before)
				family(t, opt.Belongs, "applied")
				s.due(0)
				_, err = Remove(nil, Removal{All: true}, opt)
				must(t, err)
				s.due(2)
				family(t, opt.Belongs, "reverted")
			}
			if _, _, wrong := s.due(0); wrong != 0 {
				t.Errorf("%d answers wrong", wrong)
			}
		})
	}
}

// due tells breeder.c which answer is due.
func (r *running) due(answer int) (own, born, wrong int) {
	r.t.Helper()
	_, err := fmt.Fprintln(r.in, answer)
	must(r.t, err)
	_, err = fmt.Sscan(r.line(), &own, &born, &wrong)
	must(r.t, err)
	return own, born, wrong
}

// family looks at every process that belongs to a target, for a while.
func family(t *testing.T, belongs func(int) bool, want string) {
	t.Helper()
	looked := 0
	for range 3 {
		pids, err := Those(belongs)
		must(t, err)
		for _, pid := range pids {
			r, err := Status(pid)
			if err != nil {
				if !belongs(pid) || ended(pid) {
					continue
				}
				t.Fatal(err)
			}
			var have []string
			for _, p := range r.Patches {
				have = append(have, p.Condition())
			}
			if !slices.Equal(have, []string{want}) {
				t.Errorf("process %d: %q, want %s", pid, have, want)
			}
			looked++
		}
	}
	if looked == 0 {
		t.Error("no process was looked at")
	}
}

// A process that starts itself anew all the time is patched if it is chosen by its
// program: the new one is another process.
func TestChosenStartsItself(t *testing.T) {
	target, pkg := disturbed(t, "changing.c")
	s := start(t, target)
	started := 0
	opt := Options{Belongs: Running(target), Timeout: time.Minute, MaxPause: time.Minute, hook: func(at string) {
		if at != "mapped" {
			return
		}
		started++
		_, err := io.WriteString(s.in, "!\n")
		must(t, err)
		if line := s.line(); line != "ready" {
			t.Errorf("it says %q", line)
		}
	}}
	_, err := Apply(nil, pkg, opt)
	must(t, err)
	if a, _, _ := s.ask(); a != 1001 || started != 1 {
		t.Errorf("answer %d after %d starts", a, started)
	}
}
